"""What a check asks, and what it gets: truth and draws by element."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from retrodict._errors import DataError, QueryError, unknown
from retrodict.diagnostics.summary import labels_of
from retrodict.models import Record, ReferenceData
from retrodict.query.family import Shares
from retrodict.solvers import AbstractSolver


FEWEST = 50  # held-out simulations
NOTHING = "`given` names nothing; a check is of answers to what was observed, such as given=['y']"
Rows = Mapping[str, np.ndarray]
Given = Iterable[str] | Mapping[str, Any]


class CheckSettings(NamedTuple):
    """A family of questions and how often it is asked; the fields are arguments of `check`."""

    given: Given
    of: Iterable[str] | None
    observations: int
    draws: int
    densities: int
    solver: AbstractSolver | None


class Asked(NamedTuple):
    """Truth `(n,)` and draws `(n, n_draws)` by element, log densities of both, and what the model's record keeps."""

    truth: dict[str, np.ndarray]
    drawn: dict[str, np.ndarray]
    logs: tuple[np.ndarray, np.ndarray] | None
    shares: Shares
    familiar: ReferenceData | None


def masks_of(given: Given, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Which elements are given of the variables that `given` names, which have `shapes`."""
    if isinstance(given, str):
        raise QueryError(f"`given` must be a list of names or a mapping from name to booleans, got '{given}'")
    masks = {}
    for name in given:
        if name not in shapes:
            raise QueryError(unknown("`given`", name, shapes))
        mask = np.asarray(given[name]) if isinstance(given, Mapping) else np.ones(shapes[name], bool)
        if mask.dtype != bool or mask.shape != shapes[name]:
            raise DataError(f"'{name}' in `given` must be booleans of the shape {shapes[name]}")
        masks[name] = mask
    return masks


def enough(rows: int, bad: int) -> None:
    """Refuses simulations that are not finite, or too few.

    Raises:
        DataError: so it is.
    """
    if bad:
        raise DataError(f"{bad} of {rows} simulations are not finite: take these rows out")
    if rows < FEWEST:
        raise DataError(f"a check needs at least {FEWEST} held-out simulations, got {rows}")


def silent(model: Any) -> Any:
    """The model with nothing in its record but solvers, so that it does not warn."""
    return dataclasses.replace(model, record=Record(solvers=model.record.solvers))


def elements_of(values: Rows, latent: Rows, *, axes: int) -> dict[str, np.ndarray]:
    """What was asked, one entry per scalar element: `{"theta[0]": (n,)}` or, with two axes, `(n, n_draws)`."""
    found: dict[str, np.ndarray] = {}
    for name, mask in latent.items():
        columns = values[name].reshape(*values[name].shape[:axes], -1)
        labels = np.array(labels_of(name, np.shape(mask)))
        found |= {labels[i]: columns[..., i] for i in np.flatnonzero(mask)}
    return found
