"""`fit`, for every kind of model: it resolves the arguments, and `fit_kind` dispatches by the kind.

A kind of model registers how it is trained:

    @retrodict.training.fit_kind.register
    def _(model: MyModel, sims, settings):
        budget = settings.budget(steps=5_000, batch_size=256)       # the defaults of this kind
        ...
        return trained, history
"""

import dataclasses
import functools
import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import equinox as eqx

from retrodict._errors import DataError, QueryError
from retrodict._runtime.precision import in_single_precision
from retrodict._types import Key, is_count
from retrodict.models import DistilledDensity, DistilledSampler, FlowModel, HierarchicalModel
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.simulation._failures import FailedRunsWarning
from retrodict.training._fit_flow import fit_rows
from retrodict.training._fit_hierarchical import fit_plate
from retrodict.training._loop import LEARNING_RATE, WEIGHT_DECAY, History, TrainingBudget
from retrodict.training._run import extended


Model = TypeVar("Model", bound=eqx.Module)
FailedRuns = Literal["ignore", "reweight", "given", "corrected"]  # the last two are earlier words

STEPS = 10_000
HIERARCHICAL_STEPS = 6_000
EARLIER_WORDS = {"given": "ignore", "corrected": "reweight"}


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """The arguments of a call of `fit`, apart from the model and the simulations.

    Attributes:
        steps: gradient steps; None is the default of a kind of model.
        batch_size: rows in a step; None is the default of a kind of model.
        reweight: rows are to count 1 / p(ok | parameters), as runs failed.

    Other attributes are those of `fit`.
    """

    key: Key
    steps: int | None
    batch_size: int | None
    learning_rate: float
    weight_decay: float
    validation_fraction: float
    validation: Mapping[str, Any] | None
    patience: int | None
    reweight: bool
    checkpoint: str | os.PathLike[str] | None
    progress: bool

    def budget(self, *, steps: int, batch_size: int) -> TrainingBudget:
        """Returns the training budget, with the defaults of a kind of model.

        Raises:
            DataError: numbers that are no budget.
        """
        numbers = {
            "steps": steps if self.steps is None else self.steps,
            "batch_size": batch_size if self.batch_size is None else self.batch_size,
        }
        for name, number in numbers.items():
            if not is_count(number):
                raise DataError(f"`{name}` must be a positive whole number, got {number!r}")
        if not self.weight_decay >= 0:
            raise DataError(f"`weight_decay` must be zero or positive, got {self.weight_decay!r}")
        return TrainingBudget(numbers["steps"], numbers["batch_size"], self.learning_rate, self.weight_decay)

    @property
    def run(self) -> dict[str, Any]:
        """The keyword arguments that every kind of training shares."""
        names = ("key", "validation_fraction", "validation", "patience", "checkpoint", "progress")
        return {name: getattr(self, name) for name in names}


@in_single_precision
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
    failed: FailedRuns | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[Model, History]:
    """Trains a model on simulations `{name: (n, *shape)}` and returns a new model with its history.

    A trained model keeps its scaling and goes on from its weights. A hierarchical model learns from simulations of one
    site or, by its method, of many; `history.before` then has those of its models of one site. Of an
    `ImportanceSampledPosterior` the flow is trained. Simulations larger than memory (a store, files that numpy maps)
    are read as they are needed.

    Args:
        steps: gradient steps, over which the learning rate falls to zero: 10,000 by default, 6,000 for a hierarchical
            model and as many for its models of one site.
        batch_size: rows in a step, 512 by default; for a hierarchical model sets of sites, 128.
        weight_decay: of AdamW, times the learning rate; a large network with few simulations needs more, such as 1.0
            for 10,000 images. Mixture densities have their own, and their own learning rate.
        validation: simulations that only validate; by default a random `validation_fraction` of `sims`.
        patience: steps without a better validation loss after which training ends; by default a third of `steps`.
        failed: "ignore" runs that failed, as finite data tell that the real run ended well, or "reweight" rows by
            1 / p(ok | parameters), as failures are the program's fault. None ignores them with a warning.
        checkpoint: a folder for the state of the run, written every ten seconds. The same call goes on from it after a
            kill, bit for bit (on the same machine with the same versions), and returns the outcome of a finished run.

    Raises:
        QueryError: a model that is not trained on simulations.
        DataError: a name or shape that the model does not have, numbers that are not finite, or too few rows.
        TrainingError: the loss is not a number.
        FileError: the checkpoint cannot be written or read, or belongs to another run.

    Warns:
        FailedRunsWarning: runs failed, and `failed` was not given; or weights cannot bring back a part of the prior, as
            hardly any run ends well there.
    """
    reweight = _reweighted(model, sims, failed)
    settings = FitSettings(
        key, steps, batch_size, learning_rate, weight_decay, validation_fraction, validation, patience, reweight,
        checkpoint, progress,
    )  # fmt: skip
    return fit_kind(model, sims, settings)


@functools.singledispatch
def fit_kind(model: object, sims: Mapping[str, Any], settings: FitSettings) -> tuple[Any, History]:
    """Trains one kind of model, with the arguments of `fit`; register kinds by `fit_kind.register`.

    Raises:
        QueryError: the kind is not registered.
    """
    raise QueryError(f"fit takes a model such as rd.joint(sims.layout), got {type(model).__name__}")


@functools.singledispatch
def failed_runs(model: object) -> tuple[str, ...]:
    """Returns the words for `failed` that a kind of model can take; a kind that reads `settings.reweight` registers."""
    del model
    return ("ignore",)


@failed_runs.register
def _of_flow(model: FlowModel) -> tuple[str, ...]:
    del model
    return ("ignore", "reweight")


@failed_runs.register
def _of_importance(model: ImportanceSampledPosterior) -> tuple[str, ...]:
    """Weights draws by the prior, in which no parameter is less likely because runs failed there."""
    del model
    return ("reweight",)


@fit_kind.register
def _fit_flow(model: FlowModel, sims: Mapping[str, Any], settings: FitSettings) -> tuple[FlowModel, History]:
    budget = settings.budget(steps=STEPS, batch_size=512)
    return fit_rows(model, sims, budget, reweight=settings.reweight, **settings.run)


@fit_kind.register
def _fit_hierarchical(
    model: HierarchicalModel, sims: Mapping[str, Any], settings: FitSettings
) -> tuple[HierarchicalModel, History]:
    budget = settings.budget(steps=HIERARCHICAL_STEPS, batch_size=128)
    return fit_plate(model, sims, budget, **settings.run)


@fit_kind.register
def _fit_importance(
    model: ImportanceSampledPosterior, sims: Mapping[str, Any], settings: FitSettings
) -> tuple[ImportanceSampledPosterior, History]:
    """Trains the flow that proposes; likelihood and prior stay as they are."""
    flow, history = fit_kind(model.flow, sims, settings)
    simulations = flow.record.simulations - model.flow.record.simulations
    record = extended(model.record, simulations, history)
    return dataclasses.replace(model, flow=flow, record=record), history


@fit_kind.register(DistilledSampler)
@fit_kind.register(DistilledDensity)
def _refuse_distilled(model: object, sims: Mapping[str, Any], settings: FitSettings) -> tuple[Any, History]:
    raise QueryError(
        f"a {type(model).__name__} is distilled, not trained on simulations: train its model with rd.fit and distill "
        "again"
    )


def _reweighted(model: object, sims: Any, failed: str | None) -> bool:
    """Returns whether failed runs are to be corrected for, and warns of failed runs that nobody mentions.

    Raises:
        DataError: another word, or one whose meaning this kind of model cannot have.
    """
    word = EARLIER_WORDS.get(failed, failed) if isinstance(failed, str) else failed
    if word not in (None, "ignore", "reweight"):
        raise DataError(f"`failed` is 'ignore' or 'reweight' (earlier 'given' or 'corrected'), got {failed!r}")
    count = getattr(sims, "n_failed", 0)
    if word is None and count:
        warnings.warn(
            f"{count} of {sims.drawn} runs failed and are left out: say failed='ignore' (finite data tell that the "
            "real run ended well) or failed='reweight' (failures are the program's fault), which were 'given' and "
            "'corrected' before; see rd.failures(sims)",
            FailedRunsWarning,
            stacklevel=3,
        )
    if count and (word or "ignore") not in failed_runs(model):
        cure = "fit a model of one site, such as `rd.joint`" if word == "reweight" else "say failed='reweight'"
        raise DataError(f"failed={word or 'ignore'!r} is not offered by {type(model).__name__}: {cure}")
    return word == "reweight" and count > 0
