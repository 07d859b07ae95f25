"""The loop of training: weights, a loss of a batch of rows, and rows, which may be renewed as it goes on.

    AdamW, a linear warm-up and a cosine to zero, gradients clipped by their global norm
    theta_ema <- d theta_ema + (1 - d) theta,  d = min(0.999, (1 + step) / (10 + step))

Whole chunks of steps run in one dispatch with the data on the device. After each chunk the averaged weights meet the
whole validation set, every row under the same roles, times and noise each time (common random numbers), so that two
validation losses differ by what the network learned and not by luck. The best averaged weights are what is returned.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict._errors import TrainingError
from retrodict._types import Scalar
from retrodict.progress import Progress
from retrodict.training._checkpoint import Checkpoint, State


CHUNK = 250  # steps per dispatch
VALIDATION_DRAWS = 8  # assignments of roles, times and noise per validation row


@dataclasses.dataclass(frozen=True)
class History:
    """What happened: losses by step, the step whose weights were kept, and why training ended.

    `ended` is "finished", "no progress" (early stopping) or "interrupted" (Ctrl-C); `before` holds the histories of
    models that were trained first, by name.
    """

    step: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    best_step: int
    seconds: float
    ended: str
    before: Mapping[str, "History"] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> float:
        """The lowest validation loss."""
        return float(self.validation.min())


class Pace(NamedTuple):
    """How long and how fast to train."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float


Loss = Callable[[Any, Any, PRNGKeyArray], Scalar]  # weights, a batch of rows, key


class Trainer:
    """One training run: compiled steps, and the loop over chunks of them.

    Rows are arrays, or several in a tuple, with one leading axis; `loss` is that of a batch of them.
    """

    def __init__(self, weights: Any, loss: Loss, train: Any, validation: Any, pace: Pace) -> None:
        import optax  # half a second to import, and only this room needs it

        steps = pace.steps
        warm_up = min(500, max(1, steps // 10))
        rate = optax.warmup_cosine_decay_schedule(0.0, pace.learning_rate, warm_up, max(steps, warm_up + 1))
        decay = optax.adamw(rate, weight_decay=pace.weight_decay)
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), decay)
        self.initial, self.loss, self.steps = weights, loss, steps
        self.train, self.validation = (jax.tree.map(jnp.asarray, part) for part in (train, validation))
        self.count = len(jax.tree.leaves(self.train)[0])
        self.batch_size = min(pace.batch_size, self.count)
        self.chunk = jax.jit(self._chunk, donate_argnums=0)
        self.validate = jax.jit(self._validate)

    def run(
        self,
        key_train: PRNGKeyArray,
        key_validation: PRNGKeyArray,
        rng: np.random.Generator,
        *,
        patience: int | None,
        shown: bool,
        what: str = "training",
        renew: Callable[[int], Any] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> tuple[Any, History]:
        """The best averaged weights, and the history.

        `renew(steps done)` gives the rows of the next chunk. Where no row is seen twice nothing can be learned by
        heart: the last weights are returned, as a validation set of a few rows would choose worse than the schedule.
        """
        patience = self.steps if renew is not None else patience or max(self.steps // 3, CHUNK)
        copy = partial(jax.tree.map, jnp.copy)  # what a chunk is given is donated to it
        carry = (copy(self.initial), copy(self.initial), self.optimizer.init(self.initial), jnp.zeros((), int))
        state = State(carry, self.initial, 0, [], rng.bit_generator.state, 0.0)
        if checkpoint is not None and (found := checkpoint.read(state)) is not None:
            state, rng.bit_generator.state = found, found.shuffle
        before, begun, interrupted = state.seconds, time.monotonic(), False
        with Progress(what, self.steps, shown=shown) as progress:
            try:
                while not state.ended:
                    if renew is not None and state.done:
                        self.train = renew(state.done)
                    state = self._next(state, key_train, key_validation, rng, patience, fresh=renew is not None)
                    state = state._replace(seconds=before + time.monotonic() - begun)
                    progress.at(state.done, f"loss {state.log[-1][1]:.4f}, validation {state.log[-1][2]:.4f}")
                    if checkpoint is not None:
                        checkpoint.write(state)
            except KeyboardInterrupt:
                if not state.log:
                    raise
                interrupted = True
        step, train, validation = (np.asarray(column) for column in zip(*state.log, strict=True))
        ended = "interrupted" if interrupted else state.ended
        return state.best, History(step, train, validation, state.best_step, state.seconds, ended)

    def _next(
        self,
        state: State,
        key_train: PRNGKeyArray,
        key_validation: PRNGKeyArray,
        rng: np.random.Generator,
        patience: int,
        *,
        fresh: bool,
    ) -> State:
        """The run one chunk later; the best weights are the last ones where rows are `fresh`."""
        length = min(CHUNK, self.steps - state.done)
        which, key = self._batches(rng, length), jr.fold_in(key_train, state.done)
        carry, losses = self.chunk(state.carry, self.train, which, key)
        done, loss = state.done + length, float(losses.mean())
        held_out = float(self.validate(carry[1], self.validation, key_validation))
        if not (np.isfinite(loss) and np.isfinite(held_out)):
            raise TrainingError(
                f"the training loss is {loss:g} after {done} steps: lower `learning_rate`, "
                "or look for extreme values in the simulations"
            )
        best, best_step = state.best, state.best_step
        if fresh or held_out < min((row[2] for row in state.log), default=float("inf")):
            best, best_step = jax.tree.map(jnp.copy, carry[1]), done
        ended = "no progress" if done - best_step >= patience else "finished" if done >= self.steps else ""
        log = [*state.log, (done, loss, held_out)]
        return State(carry, best, best_step, log, rng.bit_generator.state, state.seconds, ended)

    def _batches(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        """`(steps, batch)` indices: every row once before any row twice."""
        n, wanted = self.count, steps * self.batch_size
        shuffles = [rng.permutation(n) for _ in range(-(-wanted // n))]
        return np.concatenate(shuffles)[:wanted].reshape(steps, self.batch_size).astype(np.int32)

    def _chunk(self, carry: Any, rows: Any, which: Int[Array, "s b"], key: PRNGKeyArray) -> tuple[Any, Array]:
        def step(carry: Any, row: tuple[Array, Array]) -> tuple[Any, Array]:
            (weights, average, state, count), (batch, key) = carry, row
            some = jax.tree.map(lambda part: part[batch], rows)
            loss, slope = jax.value_and_grad(self.loss)(weights, some, key)
            update, state = self.optimizer.update(slope, state, weights)
            weights = jax.tree.map(jnp.add, weights, update)
            decay = jnp.minimum(0.999, (1.0 + count) / (10.0 + count))
            average = jax.tree.map(lambda a, w: decay * a + (1.0 - decay) * w, average, weights)
            return (weights, average, state, count + 1), loss

        return jax.lax.scan(step, carry, (which, jr.split(key, len(which))))

    def _validate(self, weights: Any, rows: Any, key: PRNGKeyArray) -> Float[Array, ""]:
        def one(key: PRNGKeyArray) -> Array:
            # the order of rows is random, so that slices of time meet rows at random too
            order = jr.permutation(key, len(jax.tree.leaves(rows)[0]))
            return self.loss(weights, jax.tree.map(lambda part: part[order], rows), key)

        return jnp.mean(jax.lax.map(one, jr.split(key, VALIDATION_DRAWS)))


def rows_loss(loss: Callable[..., Scalar], rows: Any, key: PRNGKeyArray) -> Scalar:
    """The mean of `loss(row, key, u)` over rows, their times u spread evenly."""
    key_time, key_rows = jr.split(key)
    n = len(jax.tree.leaves(rows)[0])
    # one time from each of n equal slices: the same law with less noise
    u = (jnp.arange(n) + jr.uniform(key_time, (n,))) / n
    return jnp.mean(jax.vmap(loss)(rows, jr.split(key_rows, n), u))
