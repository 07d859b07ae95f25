"""Training a mixture density: maximum likelihood."""

import dataclasses
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from retrodict._types import Key, Scalar, as_key
from retrodict.estimators import MixtureDensity, Pairs
from retrodict.training._checkpoint import Checkpoint
from retrodict.training._loop import History, Pace, Trainer


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
    pace: Pace,
    *,
    key: Key,
    rate: float = LEARNING_RATE,
    simpler: bool = True,
    curves: bool = False,
    patience: int | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[MixtureDensity, History]:
    """The mixture of the lowest negative log density of the rows that judge; other arguments are those of `fit`.

    Where `simpler` ones may win: its frame alone, or one of additive noise (with `curves` also about one), if nothing
    less simple is better by more than two standard errors of the gain (after Breiman et al. 1984, section 3.4.3), as
    many sites add up what a network learned by heart. The history is that of the one that is kept, or of the network
    that did not gain. The learning `rate` and the weight decay are not those of `pace`.
    """
    key_noise, key_net = jr.split(as_key(key))
    pace = pace._replace(learning_rate=rate, weight_decay=WEIGHT_DECAY)
    how: dict[str, Any] = {"patience": patience, "progress": progress, "checkpoint": checkpoint}
    if not simpler:
        return _trained(mixture, WHAT, rows, judged, pace, key=key_net, **how)
    noise = [_trained(mixture.of_noise(key=key_noise), f"{WHAT} of noise", rows, judged, pace, key=key_noise, **how)]
    if curves:
        start = mixture.about_a_curve(key=key_noise)
        noise.append(_trained(start, f"{WHAT} about a curve", rows, judged, pace, key=key_noise, **how))
    found = _trained(mixture, WHAT, rows, judged, pace, key=key_net, **how)
    ways = [(mixture.alone(), found[1]), *noise, found]
    densities = [np.asarray(_log_probs(way, judged), np.float64) for way, _ in ways]
    gains = [max(densities, key=np.mean) - density for density in densities]
    errors = [ERRORS * gain.std() / len(gain) ** 0.5 for gain in gains]
    return next(way for way, gain, error in zip(ways, gains, errors, strict=True) if gain.mean() <= error)


def _trained(
    mixture: MixtureDensity,
    what: str,
    rows: Pairs,
    judged: Pairs,
    pace: Pace,
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


@eqx.filter_jit
def _log_probs(mixture: MixtureDensity, rows: Pairs) -> jax.Array:
    return jax.vmap(mixture.log_prob)(rows)
