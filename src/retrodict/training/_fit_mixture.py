"""Training a mixture density by maximum likelihood, and choosing a simpler density if it is as good."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

from retrodict._types import Key, Scalar, as_key
from retrodict.models import ConditionalRows, MixtureDensity
from retrodict.training._choice import is_better, rank
from retrodict.training._loop import History, TrainingBudget
from retrodict.training._run import AbstractLoss, train


WHAT = "surrogate"
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 0.01  # faster and freer than for other networks, as widths may change sharply
SIGNIFICANT_ERRORS = 2.0  # standard errors that a gain must exceed to count


class MixtureLoss(AbstractLoss[MixtureDensity]):
    """The mean negative log density of a batch, per number of y.

    Weights are those of the networks and, if noise is additive, a correction of the trend: least squares estimates a
    line through noise with a narrow peak poorly.
    """

    form: MixtureDensity

    @staticmethod
    def parts(model: MixtureDensity) -> Any:
        correction = jnp.zeros_like(model.baseline.trend) if model.sizes.additive else None
        return (model.net, model.curve), correction

    @staticmethod
    def with_parts(model: MixtureDensity, parts: Any) -> MixtureDensity:
        (net, curve), correction = parts
        trend = model.baseline.trend if correction is None else model.baseline.trend + correction
        return dataclasses.replace(model, net=net, curve=curve, baseline=model.baseline._replace(trend=trend))

    def __call__(self, weights: Any, rows: ConditionalRows, key: PRNGKeyArray) -> Scalar:
        del key
        return -jnp.mean(jax.vmap(self.combined(self.form, weights).log_prob)(rows)) / rows.y.shape[1]


def fit_mixture(
    mixture: MixtureDensity,
    rows: ConditionalRows,
    validation: ConditionalRows,
    budget: TrainingBudget,
    *,
    key: Key,
    rate: float = LEARNING_RATE,
    noise: Sequence[Literal["line", "curve"]] = ("line",),
    patience: int | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[MixtureDensity, History]:
    """Trains a mixture density and returns that of the lowest loss on the held-out rows `validation`.

    A simpler density is returned if no less simple one is better on these rows by more than two standard errors of the
    gain (after Breiman et al. 1984, section 3.4.3): the baseline alone, or additive `noise` about a line or a
    curve. A surrogate is evaluated at many sites, which add up what a network overfits. If `noise` is empty, nothing
    simpler is tried. The history is that of the density returned, for the baseline that of the full network. The
    learning `rate` and the weight decay replace those of `budget`; the other arguments are those of `fit`.
    """
    key_noise, key_net = jr.split(as_key(key))
    budget = budget._replace(learning_rate=rate, weight_decay=WEIGHT_DECAY)
    options: dict[str, Any] = {"patience": patience, "progress": progress, "checkpoint": checkpoint}
    starts = {"line": mixture.with_additive_noise, "curve": mixture.with_curve}
    simpler = [
        _train(starts[shape](key=key_noise), f"{WHAT} about a {shape}", rows, validation, budget, key_noise, **options)
        for shape in noise
    ]
    full = _train(mixture, WHAT, rows, validation, budget, key_net, **options)
    if not simpler:
        return full
    candidates = [(mixture.baseline_only(), full[1]), *simpler, full]
    losses = [-density.log_probs(validation) for density, _ in candidates]
    best = min(losses, key=rank)
    return next(
        candidate
        for candidate, loss in zip(candidates, losses, strict=True)
        if not is_better(best, loss, SIGNIFICANT_ERRORS)
    )


def _train(
    mixture: MixtureDensity,
    label: str,
    rows: ConditionalRows,
    validation: ConditionalRows,
    budget: TrainingBudget,
    key: PRNGKeyArray,
    **options: Any,
) -> tuple[MixtureDensity, History]:
    key_train, key_validation = jr.split(key)
    loss = MixtureLoss(MixtureLoss.form_of(mixture))
    return train(mixture, loss, rows, validation, budget, keys=(key_train, key_validation), label=label, **options)
