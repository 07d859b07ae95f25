"""One door for training every kind of model."""

import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.models import FlowModel, HierarchicalModel
from retrodict.simulation._failures import FailedRunsWarning
from retrodict.training._fit_flow import fit_rows
from retrodict.training._fit_hierarchical import fit_plate
from retrodict.training._loop import LEARNING_RATE, WEIGHT_DECAY, History, TrainingBudget


Model = TypeVar("Model", FlowModel, HierarchicalModel)

STEPS = 10_000
STEPS_OF_SITES = 6_000


def fit(
    model: Model,
    sims: Mapping[str, Any],
    *,
    key: Key,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    validation_fraction: float = 0.05,
    validation: Mapping[str, Any] | None = None,
    patience: int | None = None,
    failed: Literal["given", "corrected"] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[Model, History]:
    """Trains on simulations `{name: (n, *shape)}` and returns a new model with its history.

    A model that was trained before keeps its scaling and goes on from its weights. A hierarchical model learns from
    simulations of one site, or, by its method, of many; the history is that of what sites share, and its `before` those
    of the models of one site. Simulations that do not fit in memory, from a store or from files that numpy maps, are
    read as they are needed.

    Args:
        steps: gradient steps; the learning rate falls to zero over them. 10,000 by default, 6,000 of a hierarchical
            model, besides those of its model of one site.
        batch_size: rows in a step, 512 by default; of a hierarchical model sets of sites, 128.
        weight_decay: of AdamW, times the learning rate; more of it where a large network reads few simulations, such as
            1.0 for 10,000 images. Compare validation losses. Mixture densities have their own, and learning rate.
        validation: simulations that only validate; by default a random `validation_fraction` of `sims` is held out.
        failed: what follows from runs that failed, if there are any. "given": nothing, as whoever has finite data knows
            that the real run ended well; "corrected": rows count 1 / p(ok | parameters), as failures are the program's
            fault. None is "given" with a warning. See `rd.failures`.
        checkpoint: a folder; what a run carries is kept there every ten seconds, and the same call goes on from it
            after a kill, bit for bit as if it had never stopped (same machine, same versions). Of a run that ended it
            returns the outcome.
        patience: steps without a better validation loss after which training ends; by default a third of `steps`.

    Raises:
        DataError: a name or shape that the model does not have, numbers that are not finite, or too few rows.
        TrainingError: the loss is not a number.
        FileError: the checkpoint cannot be written or read, or belongs to another run.

    Warns:
        FailedRunsWarning: runs failed, and `failed` does not say what follows.
    """
    of_sites = isinstance(model, HierarchicalModel)
    steps = (STEPS_OF_SITES if of_sites else STEPS) if steps is None else steps
    batch_size = (128 if of_sites else 512) if batch_size is None else batch_size
    _check(steps=steps, batch_size=batch_size)
    if not weight_decay >= 0:
        raise DataError(f"`weight_decay` must be zero or positive, got {weight_decay!r}")
    pace = TrainingBudget(steps, batch_size, learning_rate, weight_decay)
    how: dict[str, Any] = {
        "key": key,
        "validation_fraction": validation_fraction,
        "validation": validation,
        "patience": patience,
        "checkpoint": checkpoint,
        "progress": progress,
    }
    correct = _corrected(sims, failed)
    if isinstance(model, HierarchicalModel):
        if correct:
            raise DataError("failed='corrected' is not offered for hierarchical models: correct a model of one site")
        return fit_plate(model, sims, pace, **how)
    return fit_rows(model, sims, pace, correct=correct, **how)


def _corrected(sims: Any, failed: str | None) -> bool:
    """Whether runs that failed are to be corrected for; nobody is left unaware of them."""
    if failed not in (None, "given", "corrected"):
        raise DataError(f"`failed` is 'given' or 'corrected', got {failed!r}")
    count = getattr(sims, "n_failed", 0)
    if failed is None and count:
        warnings.warn(
            f"{count} of {sims.drawn} runs failed and are left out: say failed='given' (whoever observes finite data "
            "knows that the run ended well) or failed='corrected' (failures are the program's fault); "
            "see rd.failures(sims)",
            FailedRunsWarning,
            stacklevel=3,
        )
    return failed == "corrected" and count > 0


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise DataError(f"`{name}` must be a positive whole number, got {number!r}")
