"""Training a mixture density: maximum likelihood."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

from retrodict._types import Key, Scalar, as_key
from retrodict.estimators import MixtureDensity, Pairs
from retrodict.training._loop import History, Pace, Trainer


PACE = (512, 2e-3, 0.1)  # rows in a step, learning rate, weight decay: those of `fit`


class MixtureLoss(eqx.Module):
    """The mean negative log density of a batch, per number of y."""

    form: MixtureDensity

    def __call__(self, weights: Any, rows: Pairs, key: PRNGKeyArray) -> Scalar:
        del key
        mixture = dataclasses.replace(self.form, net=eqx.combine(weights, self.form.net))
        return -jnp.mean(jax.vmap(mixture.log_prob)(rows)) / rows.y.shape[1]


def fit_mixture(
    mixture: MixtureDensity,
    rows: Pairs,
    judged: Pairs,
    *,
    key: Key,
    steps: int,
    progress: bool = True,
) -> tuple[MixtureDensity, History]:
    """The mixture of the lowest negative log density of the rows that judge."""
    weights, form = eqx.partition(mixture.net, eqx.is_inexact_array)
    loss = MixtureLoss(dataclasses.replace(mixture, net=form))
    pace = Pace(steps, *PACE)
    trainer = Trainer(weights, loss, rows, judged, pace)
    key_train, key_validation = jr.split(as_key(key))
    best, history = trainer.run(key_train, key_validation, patience=None, shown=progress, what="surrogate")
    return dataclasses.replace(mixture, net=eqx.combine(best, form)), history
