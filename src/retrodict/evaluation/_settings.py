"""Settings of a check, and the truth and draws that it compares."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from retrodict._errors import DataError
from retrodict.diagnostics.summary import labels_of
from retrodict.models import ReferenceData
from retrodict.query import Shares
from retrodict.solvers import AbstractSolver


MIN_SIMULATIONS = 50  # held out
Rows = Mapping[str, np.ndarray]
Given = Iterable[str] | Mapping[str, Any]


class CheckSettings(NamedTuple):
    """A family of queries and how often it is asked; the fields are arguments of `check`."""

    given: Given
    of: Iterable[str] | None
    observations: int
    draws: int
    densities: int
    solver: AbstractSolver | None


class Comparison(NamedTuple):
    """Truth `(n,)` and draws `(n, n_draws)` by element, log densities of both, and what the model's record keeps."""

    truth: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]
    log_probs: tuple[np.ndarray, np.ndarray] | None
    shares: Shares
    reference: ReferenceData | None
    repeated: float = 0.0  # share of the simulations that the model was trained on


def refuse_few(rows: int, not_finite: int) -> None:
    """Refuses simulations that are not finite, or too few.

    Raises:
        DataError: they are.
    """
    if not_finite:
        raise DataError(f"{not_finite} of {rows} simulations are not finite: take these rows out")
    if rows < MIN_SIMULATIONS:
        raise DataError(f"a check needs at least {MIN_SIMULATIONS} held-out simulations, got {rows}")


def by_element(values: Rows, masks: Rows, *, axes: int) -> dict[str, np.ndarray]:
    """Returns one entry per element in `masks`: `{"theta[0]": (n,)}` or, with two axes, `(n, n_draws)`."""
    columns: dict[str, np.ndarray] = {}
    for name, mask in masks.items():
        flat = values[name].reshape(*values[name].shape[:axes], -1)
        labels = np.array(labels_of(name, np.shape(mask)))
        columns |= {labels[i]: flat[..., i] for i in np.flatnonzero(mask)}
    return columns
