"""Training: `fit(model, sims)` returns a new model, `model` is unchanged.

    AdamW, a linear warm-up and a cosine to zero, gradients clipped by their global norm
    theta_ema <- d theta_ema + (1 - d) theta,  d = min(0.999, (1 + step) / (10 + step))

Whole chunks of steps run in one dispatch with the data on the device. After each chunk the averaged weights meet the
whole validation set, every row under the same roles, times and noise each time (common random numbers), so that two
validation losses differ by what the network learned and not by luck. The best averaged weights are what is returned.
"""

import dataclasses
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict._errors import DataError, TrainingError
from retrodict._types import Key, as_key
from retrodict.estimators import Generative, Record
from retrodict.progress import Progress
from retrodict.scaling import Scaling
from retrodict.tokens import flatten


STEPS = 10_000
WEIGHT_DECAY = 0.1  # validation loss on SLCP: 1.0456 after 8,000 steps, against 1.0474 after 10,000 with 1e-4
CHUNK = 250  # steps per dispatch
VALIDATION_DRAWS = 8  # assignments of roles, times and noise per validation row
LEAST = 20  # rows below which nothing can be learned or validated


@dataclasses.dataclass(frozen=True)
class History:
    """What happened: losses by step, the step whose weights were kept, and why training ended.

    `ended` is "finished", "no progress" (early stopping) or "interrupted" (Ctrl-C).
    """

    step: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    best_step: int
    seconds: float
    ended: str

    @property
    def best(self) -> float:
        """The lowest validation loss."""
        return float(self.validation.min())


def fit(
    model: Generative,
    sims: Mapping[str, Any],
    *,
    key: Key,
    steps: int = STEPS,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    weight_decay: float = WEIGHT_DECAY,
    validation_fraction: float = 0.05,
    validation: Mapping[str, Any] | None = None,
    patience: int | None = None,
    progress: bool = True,
) -> tuple[Generative, History]:
    """Trains on simulations `{name: (n, *shape)}` and returns a new model with its history.

    A model that was trained before keeps its scaling and goes on from its weights.

    Args:
        steps: gradient steps; the learning rate falls to zero over them.
        weight_decay: of AdamW, times the learning rate; more of it where a large network reads few simulations, such as
            1.0 for 10,000 images. Compare validation losses.
        validation: simulations that only validate; by default a random `validation_fraction` of `sims` is held out.
        patience: steps without a better validation loss after which training ends; by default a third of `steps`.

    Raises:
        DataError: a name or shape that the model does not have, numbers that are not finite, or too few rows.
        TrainingError: the loss is not a number.
    """
    rows = _rows(model, sims)
    _check(steps=steps, batch_size=batch_size)
    if not weight_decay >= 0:
        raise DataError(f"`weight_decay` must be zero or positive, got {weight_decay!r}")
    key_split, key_validation, key_train = jr.split(as_key(key), 3)
    rng = np.random.default_rng(np.asarray(jr.key_data(key_split)))
    if validation is None:
        order, held_out = rng.permutation(len(rows)), max(LEAST // 4, round(validation_fraction * len(rows)))
        train, judge = rows[order[held_out:]], rows[order[:held_out]]
    else:
        train, judge = rows, _rows(model, validation)
    if not model.trained:
        together = (*model.embedded, *model.layout.functions, *model.layout.places)
        model = dataclasses.replace(model, scaling=Scaling.fit(model.layout, train, together))
    train, judge = (np.asarray(model.scaling.forward(part)) for part in (train, judge))
    trainer = _Trainer(model, train, judge, steps, batch_size, learning_rate, weight_decay)
    weights, history = trainer.run(key_train, key_validation, rng, patience or max(steps // 3, CHUNK), shown=progress)
    record = Record(
        simulations=model.record.simulations + len(rows),
        steps=model.record.steps + int(history.step[-1]),
        seconds=model.record.seconds + history.seconds,
        validation_loss=history.best,
    )
    return dataclasses.replace(model, net=eqx.combine(weights, model.net), record=record), history


class _Trainer:
    """One training run: compiled steps, and the loop over chunks of them."""

    def __init__(
        self,
        model: Generative,
        train: np.ndarray,
        validation: np.ndarray,
        steps: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        import optax  # half a second to import, and only this room needs it

        warm_up = min(500, max(1, steps // 10))
        rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warm_up, max(steps, warm_up + 1))
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=weight_decay))
        self.model, self.steps = model, steps
        self.batch_size = min(batch_size, len(train))
        self.train, self.validation = jnp.asarray(train), jnp.asarray(validation)
        self.initial, self.static = eqx.partition(model.net, eqx.is_inexact_array)
        self.chunk = jax.jit(self._chunk, donate_argnums=0)
        self.validate = jax.jit(self._validate)

    def run(
        self,
        key_train: PRNGKeyArray,
        key_validation: PRNGKeyArray,
        rng: np.random.Generator,
        patience: int,
        *,
        shown: bool,
    ) -> tuple[Any, History]:
        """The best averaged weights, and the history."""
        copy = partial(jax.tree.map, jnp.copy)  # what a chunk is given is donated to it
        carry = (copy(self.initial), copy(self.initial), self.optimizer.init(self.initial), jnp.zeros((), int))
        log: list[tuple[int, float, float]] = []
        best, best_step, done, ended = self.initial, 0, 0, "finished"
        lowest, begun = float("inf"), time.monotonic()
        with Progress("training", self.steps, shown=shown) as progress:
            try:
                while done < self.steps:
                    length = min(CHUNK, self.steps - done)
                    which = self._batches(rng, length)
                    carry, losses = self.chunk(carry, self.train, which, jr.fold_in(key_train, done))
                    done += length
                    loss, held_out = (
                        float(losses.mean()),
                        float(self.validate(carry[1], self.validation, key_validation)),
                    )
                    if not (np.isfinite(loss) and np.isfinite(held_out)):
                        raise TrainingError(
                            f"the training loss is {loss:g} after {done} steps: lower `learning_rate`, "
                            "or look for extreme values in the simulations"
                        )
                    log.append((done, loss, held_out))
                    if held_out < lowest:
                        lowest, best_step, best = held_out, done, copy(carry[1])
                    progress.at(done, f"loss {loss:.4f}, validation {held_out:.4f}")
                    if done - best_step >= patience:
                        ended = "no progress"
                        break
            except KeyboardInterrupt:
                if not log:
                    raise
                ended = "interrupted"
        step, train, validation = (np.asarray(column) for column in zip(*log, strict=True))
        return best, History(step, train, validation, best_step, time.monotonic() - begun, ended)

    def _batches(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        """`(steps, batch)` indices: every row once before any row twice."""
        n, wanted = len(self.train), steps * self.batch_size
        shuffles = [rng.permutation(n) for _ in range(-(-wanted // n))]
        return np.concatenate(shuffles)[:wanted].reshape(steps, self.batch_size).astype(np.int32)

    def _loss(self, weights: Any, rows: Float[Array, "b d"], key: PRNGKeyArray) -> Float[Array, ""]:
        model = dataclasses.replace(self.model, net=eqx.combine(weights, self.static))
        key_time, key_rows = jr.split(key)
        # one time from each of b equal slices: the same law with less noise
        u = (jnp.arange(len(rows)) + jr.uniform(key_time, (len(rows),))) / len(rows)
        return jnp.mean(jax.vmap(model.loss)(rows, jr.split(key_rows, len(rows)), u))

    def _chunk(
        self, carry: Any, rows: Float[Array, "n d"], which: Int[Array, "s b"], key: PRNGKeyArray
    ) -> tuple[Any, Float[Array, " s"]]:
        def step(carry: Any, row: tuple[Array, Array]) -> tuple[Any, Array]:
            (weights, average, state, count), (batch, key) = carry, row
            loss, slope = jax.value_and_grad(self._loss)(weights, rows[batch], key)
            update, state = self.optimizer.update(slope, state, weights)
            weights = jax.tree.map(jnp.add, weights, update)
            decay = jnp.minimum(0.999, (1.0 + count) / (10.0 + count))
            average = jax.tree.map(lambda a, w: decay * a + (1.0 - decay) * w, average, weights)
            return (weights, average, state, count + 1), loss

        return jax.lax.scan(step, carry, (which, jr.split(key, len(which))))

    def _validate(self, weights: Any, rows: Float[Array, "n d"], key: PRNGKeyArray) -> Float[Array, ""]:
        def one(key: PRNGKeyArray) -> Array:
            # the order of rows is random, so that slices of time meet rows at random too
            return self._loss(weights, jr.permutation(key, rows), key)

        return jnp.mean(jax.lax.map(one, jr.split(key, VALIDATION_DRAWS)))


def _rows(model: Generative, sims: Mapping[str, Any]) -> np.ndarray:
    if not isinstance(sims, Mapping):
        raise DataError(f"simulations are a mapping from name to array, got {type(sims).__name__}")
    rows = flatten(model.layout, sims, model.layout.names, where="the simulations")
    bad = ~np.isfinite(rows)
    for name in (*model.layout.functions, *model.layout.places):  # NaN where a row has no point
        bad[:, model.layout.slices[name]] &= ~np.isnan(rows[:, model.layout.slices[name]])
    if bad.any():
        names = sorted({model.layout.variables[i].name for i in model.layout.owner[bad.any(axis=0)]})
        raise DataError(
            f"{int(bad.any(axis=1).sum())} of {len(rows)} simulations are not finite (in {', '.join(names)}); "
            "take these rows out: `rd.simulate` does so and counts them"
        )
    if len(rows) < LEAST:
        raise DataError(f"training needs at least {LEAST} simulations, got {len(rows)}")
    return rows


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise DataError(f"`{name}` must be a positive whole number, got {number!r}")
