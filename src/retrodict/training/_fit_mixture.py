"""Training a mixture density: maximum likelihood."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from retrodict._types import Key, Scalar, as_key
from retrodict.models import MixtureDensity, Pairs
from retrodict.training._loop import History, TrainingBudget
from retrodict.training._run import AbstractLoss, train


WHAT = "surrogate"
# not those of other networks, as widths may be sharp: SLCP is .085 nats a number off by 2e-3 and .1, .057 by these
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 0.01
ERRORS = 2.0  # standard errors by which a gain is one


class MixtureLoss(AbstractLoss[MixtureDensity]):
    """The mean negative log density of a batch, per number of y; weights are those of the network and, where noise is
    additive, what the regression lacks: least squares knows little of a line through noise with a narrow peak."""

    form: MixtureDensity

    @staticmethod
    def parts(model: MixtureDensity) -> Any:
        lack = jnp.zeros_like(model.frame.trend) if model.sizes.additive else None
        return (model.net, model.curve), lack

    @staticmethod
    def with_parts(model: MixtureDensity, parts: Any) -> MixtureDensity:
        (net, curve), lack = parts
        trend = model.frame.trend if lack is None else model.frame.trend + lack
        return dataclasses.replace(model, net=net, curve=curve, frame=model.frame._replace(trend=trend))

    def __call__(self, weights: Any, rows: Pairs, key: PRNGKeyArray) -> Scalar:
        del key
        return -jnp.mean(jax.vmap(self.combined(self.form, weights).log_prob)(rows)) / rows.y.shape[1]


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
        _trained(starts[kind](key=key_noise), f"{WHAT} about a {kind}", rows, judged, pace, key_noise, **how)
        for kind in noise
    ]
    found = _trained(mixture, WHAT, rows, judged, pace, key_net, **how)
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
    key: PRNGKeyArray,
    **how: Any,
) -> tuple[MixtureDensity, History]:
    key_train, key_validation = jr.split(key)
    loss = MixtureLoss(MixtureLoss.form_of(mixture))
    return train(mixture, loss, rows, judged, pace, keys=(key_train, key_validation), label=what, **how)
