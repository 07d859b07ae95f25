"""Training a mixture density: maximum likelihood."""

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
from retrodict.models import MixtureDensity, Pairs
from retrodict.training._checkpoint import Checkpoint
from retrodict.training._loop import History, Trainer, TrainingBudget


WHAT = "surrogate"
# not those of other networks, as widths may be sharp: SLCP is .085 nats a number off by 2e-3 and .1, .057 by these
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 0.01
ERRORS = 2.0  # standard errors by which a gain is one


class MixtureLoss(eqx.Module):
    """The mean negative log density of a batch, per number of y; weights are those of the network and, where noise is
    additive, what the regression lacks: least squares knows little of a line through noise with a narrow peak."""

    form: MixtureDensity

    def learned(self, weights: Any) -> MixtureDensity:
        """The mixture of such weights."""
        nets, lack = weights
        trend = self.form.frame.trend + (0.0 if lack is None else lack)
        net, curve = eqx.combine(nets, (self.form.net, self.form.curve))
        return dataclasses.replace(self.form, net=net, curve=curve, frame=self.form.frame._replace(trend=trend))

    def __call__(self, weights: Any, rows: Pairs, key: PRNGKeyArray) -> Scalar:
        del key
        return -jnp.mean(jax.vmap(self.learned(weights).log_prob)(rows)) / rows.y.shape[1]


def fit_mixture(
    mixture: MixtureDensity,
    rows: Pairs,
    judged: Pairs,
    pace: TrainingBudget,
    *,
    key: Key,
    rate: float = LEARNING_RATE,
    noise: Sequence[Literal["line", "curve"]] = ("line",),
    patience: int | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[MixtureDensity, History]:
    """The mixture of the lowest negative log density of the rows that judge; other arguments are those of `fit`.

    Or a simpler one, its frame alone or additive `noise` about a line or a curve, if nothing less simple is better by
    more than two standard errors of the gain (after Breiman et al. 1984, section 3.4.3), as many sites add up what a
    network learned by heart; where no `noise` is tried, nothing simpler is. The history is that of the one that is
    kept, or of the network that did not gain. The learning `rate` and the weight decay are not those of `pace`.
    """
    key_noise, key_net = jr.split(as_key(key))
    pace = pace._replace(learning_rate=rate, weight_decay=WEIGHT_DECAY)
    how: dict[str, Any] = {"patience": patience, "progress": progress, "checkpoint": checkpoint}
    starts = {"line": mixture.of_noise, "curve": mixture.about_a_curve}
    simpler = [
        _trained(starts[kind](key=key_noise), f"{WHAT} about a {kind}", rows, judged, pace, key=key_noise, **how)
        for kind in noise
    ]
    found = _trained(mixture, WHAT, rows, judged, pace, key=key_net, **how)
    if not simpler:
        return found
    ways = [(mixture.alone(), found[1]), *simpler, found]
    densities = [way.log_probs(judged) for way, _ in ways]
    gains = [max(densities, key=np.mean) - density for density in densities]
    errors = [ERRORS * gain.std() / len(gain) ** 0.5 for gain in gains]
    return next(way for way, gain, error in zip(ways, gains, errors, strict=True) if gain.mean() <= error)


def _trained(
    mixture: MixtureDensity,
    what: str,
    rows: Pairs,
    judged: Pairs,
    pace: TrainingBudget,
    *,
    key: PRNGKeyArray,
    patience: int | None,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None,
) -> tuple[MixtureDensity, History]:
    nets, form = eqx.partition((mixture.net, mixture.curve), eqx.is_inexact_array)
    loss = MixtureLoss(dataclasses.replace(mixture, net=form[0], curve=form[1]))
    weights = (nets, jnp.zeros_like(mixture.frame.trend) if mixture.sizes.additive else None)
    trainer = Trainer(weights, loss, rows, judged, pace)
    key_train, key_validation = jr.split(key)
    parts = (mixture, rows, judged, pace, patience, key_train, key_validation)
    kept = None if checkpoint is None else Checkpoint(checkpoint, what, *parts)
    watch: dict[str, Any] = {"patience": patience, "shown": progress, "what": what, "checkpoint": kept}
    best, history = trainer.run(key_train, key_validation, **watch)
    return loss.learned(best), history
