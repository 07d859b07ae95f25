"""Training a mixture density by maximum likelihood, and choosing a simpler density if it is as good."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from retrodict._types import Key, Scalar, as_key
from retrodict.models import ConditionalRows, MixtureDensity
from retrodict.training._checkpoint import Checkpoint
from retrodict.training._loop import History, Trainer, TrainingBudget


WHAT = "surrogate"
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 0.01  # faster and freer than for other networks, as widths may change sharply
SIGNIFICANT_ERRORS = 2.0  # standard errors that a gain must exceed to count


class MixtureLoss(eqx.Module):
    """The mean negative log density of a batch, per number of y.

    Weights are those of the networks and, if noise is additive, a correction of the trend: least squares estimates a
    line through noise with a narrow peak poorly.
    """

    form: MixtureDensity

    def with_weights(self, weights: Any) -> MixtureDensity:
        """Returns the density with these weights."""
        nets, correction = weights
        net, curve = eqx.combine(nets, (self.form.net, self.form.curve))
        baseline = self.form.baseline
        baseline = baseline._replace(trend=baseline.trend + (0.0 if correction is None else correction))
        return dataclasses.replace(self.form, net=net, curve=curve, baseline=baseline)

    def __call__(self, weights: Any, rows: ConditionalRows, key: PRNGKeyArray) -> Scalar:
        del key
        return -jnp.mean(jax.vmap(self.with_weights(weights).log_prob)(rows)) / rows.y.shape[1]


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
        _train(
            starts[shape](key=key_noise), f"{WHAT} about a {shape}", rows, validation, budget, key=key_noise, **options
        )
        for shape in noise
    ]
    full = _train(mixture, WHAT, rows, validation, budget, key=key_net, **options)
    if not simpler:
        return full
    candidates = [(mixture.baseline_only(), full[1]), *simpler, full]
    log_probs = [density.log_probs(validation) for density, _ in candidates]
    gains = [max(log_probs, key=np.mean) - log_prob for log_prob in log_probs]
    bounds = [SIGNIFICANT_ERRORS * gain.std() / len(gain) ** 0.5 for gain in gains]
    return next(
        candidate for candidate, gain, bound in zip(candidates, gains, bounds, strict=True) if gain.mean() <= bound
    )


def _train(
    mixture: MixtureDensity,
    what: str,
    rows: ConditionalRows,
    validation: ConditionalRows,
    budget: TrainingBudget,
    *,
    key: PRNGKeyArray,
    patience: int | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None,
) -> tuple[MixtureDensity, History]:
    nets, form = eqx.partition((mixture.net, mixture.curve), eqx.is_inexact_array)
    loss = MixtureLoss(dataclasses.replace(mixture, net=form[0], curve=form[1]))
    weights = (nets, jnp.zeros_like(mixture.baseline.trend) if mixture.sizes.additive else None)
    trainer = Trainer(weights, loss, rows, validation, budget)
    key_train, key_validation = jr.split(key)
    identity = (mixture, rows, validation, budget, patience, key_train, key_validation)
    file = None if checkpoint is None else Checkpoint(checkpoint, what, *identity)
    options: dict[str, Any] = {"patience": patience, "shown": progress, "what": what, "checkpoint": file}
    best, history = trainer.run(key_train, key_validation, **options)
    return loss.with_weights(best), history
