"""The scaffold of every training run: weights out of a model, through the training loop, and back into the model.

parts = loss.parts(model)                   the networks whose numbers are trained, a tree
loss(weights, rows, key)                    the loss of a batch, as a function of these numbers
model = loss.combined(model, weights)       the model with other numbers in these networks
"""

import abc
import os
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import equinox as eqx
from jaxtyping import PRNGKeyArray

from retrodict._types import Scalar
from retrodict.models import Record, ReferenceData
from retrodict.training._checkpoint import Checkpoint
from retrodict.training._loop import History, Trainer, TrainingBudget


Model = TypeVar("Model")


class AbstractLoss(eqx.Module, Generic[Model]):
    """The loss of a batch of rows as a function of the weights of a model.

    A loss holds the form of its model, which has no weights: equal forms share compiled code.
    """

    @staticmethod
    @abc.abstractmethod
    def parts(model: Model) -> Any:
        """Returns the networks of a model whose numbers are trained, as a tree."""

    @staticmethod
    @abc.abstractmethod
    def with_parts(model: Model, parts: Any) -> Model:
        """Returns the model with other networks in the places of `parts`."""

    @abc.abstractmethod
    def __call__(self, weights: Any, rows: Any, key: PRNGKeyArray) -> Scalar:
        """Returns the loss of a batch of rows."""

    @classmethod
    def weights_of(cls, model: Model) -> Any:
        """Returns the numbers that are trained."""
        return eqx.filter(cls.parts(model), eqx.is_inexact_array)

    @classmethod
    def form_of(cls, model: Model) -> Model:
        """Returns the model without the numbers that are trained."""
        return cls.with_parts(model, eqx.filter(cls.parts(model), eqx.is_inexact_array, inverse=True))

    @classmethod
    def combined(cls, model: Model, weights: Any) -> Model:
        """Returns a model, or its form, with other numbers in its networks."""
        return cls.with_parts(model, eqx.combine(weights, cls.parts(model)))


def train(
    model: Model,
    loss: AbstractLoss[Model],
    rows: Any,
    validation: Any,
    budget: TrainingBudget,
    *,
    keys: tuple[PRNGKeyArray, PRNGKeyArray],
    patience: int | None,
    progress: bool,
    label: str,
    checkpoint: str | os.PathLike[str] | None = None,
    name: str | None = None,
    identity: Any = None,
    fresh: bool = False,
) -> tuple[Model, History]:
    """Returns the model with the weights of the lowest validation loss, and the history of the run.

    Args:
        loss: the loss of this model.
        rows: training rows, or an `AbstractSource` of them.
        validation: validation rows.
        keys: of training and of validation.
        label: the text beside the progress bar.
        checkpoint: the folder of a checkpoint, if there is to be one.
        name: the name of the checkpoint in its folder, by default `label`.
        identity: stands for `rows` in the hash of the checkpoint, where they are no arrays.
        fresh: no row is seen twice; see `Trainer.run`.
    """
    file = None
    if checkpoint is not None:
        parts = (model, rows if identity is None else identity, validation, budget, patience, *keys)
        file = Checkpoint(checkpoint, name or label, *parts)
    trainer = Trainer(loss.weights_of(model), loss, rows, validation, budget)
    weights, history = trainer.run(*keys, patience=patience, shown=progress, what=label, fresh=fresh, checkpoint=file)
    return loss.combined(model, weights), history


def extended(
    record: Record,
    simulations: int,
    history: History,
    before: Iterable[History] = (),
    reference: ReferenceData | None = None,
) -> Record:
    """Returns the record of a model after one more run and the runs before it.

    Calibrations and solvers belong to the weights before, and are left out; reference data are those of the new run.
    """
    return Record(
        simulations=record.simulations + simulations,
        steps=record.steps + int(history.step[-1]),
        seconds=record.seconds + history.seconds + sum(run.seconds for run in before if run is not history),
        validation_loss=history.best,
        familiar=reference,
    )
