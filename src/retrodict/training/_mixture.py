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
    pace: Pace,
    *,
    key: Key,
    patience: int | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[MixtureDensity, History]:
    """The mixture of the lowest negative log density of the rows that judge; other arguments are those of `fit`.

    Its frame alone, if no network is better by more than the standard error of the gain (Breiman et al. 1984, section
    3.4.3: the simplest within one standard error): many sites add up what a network learned by heart.
    """
    weights, form = eqx.partition(mixture.net, eqx.is_inexact_array)
    loss = MixtureLoss(dataclasses.replace(mixture, net=form))
    trainer = Trainer(weights, loss, rows, judged, pace)
    key_train, key_validation = jr.split(as_key(key))
    parts = (mixture, rows, judged, pace, patience, key_train, key_validation)
    kept = None if checkpoint is None else Checkpoint(checkpoint, WHAT, *parts)
    watch: dict[str, Any] = {"patience": patience, "shown": progress, "what": WHAT, "checkpoint": kept}
    best, history = trainer.run(key_train, key_validation, **watch)
    trained, alone = dataclasses.replace(mixture, net=eqx.combine(best, form)), mixture.alone()
    gain = np.asarray(_log_probs(trained, judged) - _log_probs(alone, judged), np.float64)
    error = gain.std() / len(gain) ** 0.5
    return trained if gain.mean() > error else alone, history


@eqx.filter_jit
def _log_probs(mixture: MixtureDensity, rows: Pairs) -> jax.Array:
    return jax.vmap(mixture.log_prob)(rows)
