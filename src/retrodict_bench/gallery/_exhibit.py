"""What an exhibit is: one demonstration with a budget, that returns pictures and what they found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np


if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any


@dataclass(frozen=True)
class Budget:
    """How much an exhibit may spend: simulations, training steps, draws an answer, and fresh cases that judge."""

    simulations: int
    steps: int
    draws: int = 1000
    cases: int = 200


@dataclass(frozen=True)
class Shown:
    """What an exhibit shows: figures by name, each with what is to be seen, and findings, a row of numbers by name."""

    figures: Mapping[str, tuple[Figure, str]]
    findings: Mapping[str, Mapping[str, float]]
    notes: Sequence[str] = field(default_factory=tuple)


class Show(Protocol):
    """Trains, asks, and compares with what is known."""

    def __call__(self, budget: Budget, seed: int, *, progress: bool) -> Shown: ...


@dataclass(frozen=True)
class Exhibit:
    """A demonstration, with what it may spend and what it does."""

    title: str
    lead: str
    budget: Budget
    show: Show


def held(truth: np.ndarray, draws: np.ndarray, mass: float = 0.9) -> tuple[float, float]:
    """The share of `truth` `(n, ...)` inside the central `mass` of `draws` `(n, m, ...)`, and its mean width."""
    low, high = np.quantile(draws, [(1 - mass) / 2, (1 + mass) / 2], axis=1)
    return float(np.mean((truth >= low) & (truth <= high))), float(np.mean(high - low))
