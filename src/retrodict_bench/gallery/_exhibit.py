"""The exhibit: one demonstration with a budget, which returns figures and numbers."""

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
    """The budget of an exhibit: simulations, training steps, draws an answer, and fresh cases to score it on."""

    simulations: int
    steps: int
    draws: int = 1000
    cases: int = 200


@dataclass(frozen=True)
class ExhibitResult:
    """The result of an exhibit: figures by name, each with a caption, and findings, a row of numbers by name."""

    figures: Mapping[str, tuple[Figure, str]]
    findings: Mapping[str, Mapping[str, float]]
    notes: Sequence[str] = field(default_factory=tuple)


class Show(Protocol):
    """A function that trains a model, asks it, and compares the answers with the truth."""

    def __call__(self, budget: Budget, seed: int, *, progress: bool) -> ExhibitResult: ...


@dataclass(frozen=True)
class Exhibit:
    """A demonstration with its title, lead, budget and function."""

    title: str
    lead: str
    budget: Budget
    show: Show


def coverage_and_width(truth: np.ndarray, draws: np.ndarray, mass: float = 0.9) -> tuple[float, float]:
    """Returns the share of `truth` `(n, ...)` in the central intervals of this mass of `draws` `(n, m, ...)`, and the
    mean width of these intervals."""
    low, high = np.quantile(draws, [(1 - mass) / 2, (1 + mass) / 2], axis=1)
    return float(np.mean((truth >= low) & (truth <= high))), float(np.mean(high - low))
