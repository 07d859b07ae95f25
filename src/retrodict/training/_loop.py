"""The loop of training: weights, a loss of a batch of rows, and where rows come from (`_source`).

    AdamW, a linear warm-up and a cosine to zero, gradients clipped by their global norm
    theta_ema <- d theta_ema + (1 - d) theta,  d = min(0.999, (1 + step) / (10 + step))

Many steps run in one dispatch, while the rows of the next are got ready; every batch is shared out over all devices.
After each chunk of steps the averaged weights meet the validation set (of a large one `JUDGED` rows), every row under
the same roles, times and noise each time (common random numbers), so that two validation losses differ by what the
network learned and not by luck. The best averaged weights are what is returned.

What is compiled depends on the form of a loss and of its rows alone: a second run of the same model, with other numbers
or another count of them, compiles nothing.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import TrainingError
from retrodict._runtime.compile_cache import for_few_runs
from retrodict._runtime.devices import mesh_for, on_each, shared_out
from retrodict._runtime.progress import Progress
from retrodict._types import Scalar
from retrodict.training._checkpoint import Checkpoint, State
from retrodict.training._source import AbstractSource, Memory, Piece, piece_of, shuffled


CHUNK = 250  # steps between two looks at the validation set
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1  # validation loss on SLCP: 1.0456 after 8,000 steps, against 1.0474 after 10,000 with 1e-4
VALIDATION_DRAWS = 8  # assignments of roles, times and noise per validation row
JUDGED = 40_000  # of these in all: 8 of each of 37,500 rows took as long as the steps between two looks


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


class TrainingBudget(NamedTuple):
    """How long and how fast to train."""

    steps: int
    batch_size: int = 512
    learning_rate: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY


# weights, a batch of rows, key; equal losses, as equinox modules are, share what is compiled
Loss = Callable[[Any, Any, PRNGKeyArray], Scalar]


class Prefetch:
    """An iterator that can be told to get its next item ready."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.items = items
        self.ready: list[Any] = []

    def take(self) -> Any:
        """The next item."""
        return self.ready.pop() if self.ready else next(self.items)

    def look(self) -> None:
        """Gets the next item ready, if there is one."""
        self.ready.extend([item for item in [next(self.items, None)] if item is not None])


class Trainer:
    """One training run: weights, their loss, rows to learn from and rows that only validate.

    Rows are arrays, or several in a tuple, with one leading axis, or, of those to learn from, a source of such.
    """

    def __init__(self, weights: Any, loss: Loss, train: Any, validation: Any, pace: TrainingBudget) -> None:
        self.initial, self.loss, self.pace = weights, loss, pace
        self.source = train if isinstance(train, AbstractSource) else Memory(train)
        self.batch_size = min(pace.batch_size, self.source.count)
        self.mesh = mesh_for(self.batch_size)
        self.held_out = self._judges(validation)

    def begin(self) -> Any:
        """What the first step starts from: weights, their average, the optimizer's state, steps so far."""
        copy = partial(jax.tree.map, jnp.copy)  # what a step is given is donated to it
        carry = (
            copy(self.initial),
            copy(self.initial),
            eqx.filter_jit(_optimizer(self.pace).init)(self.initial),
            jnp.zeros((), int),
        )
        return on_each(carry, self.mesh)

    def advance(self, carry: Any, piece: Piece, key: PRNGKeyArray) -> tuple[Any, Array]:
        """The carry after the steps of a piece, and their losses."""
        piece = self._placed(piece)
        return _advance((self.loss, self.pace, piece.rows, piece.which, on_each(key, self.mesh)), carry)

    def validate(self, weights: Any, key: PRNGKeyArray) -> Array:
        """The validation loss; for equal keys every row meets the same roles, times and noise."""
        return _validation()(self.loss, weights, self.held_out.rows, self.held_out.which, key)

    def run(
        self,
        key_train: PRNGKeyArray,
        key_validation: PRNGKeyArray,
        *,
        patience: int | None,
        shown: bool,
        what: str = "training",
        fresh: bool = False,
        checkpoint: Checkpoint | None = None,
    ) -> tuple[Any, History]:
        """The best averaged weights, and the history.

        Where no row is seen twice (`fresh`) nothing can be learned by heart: the last weights are returned, as a
        validation set of a few rows would choose worse than the schedule.
        """
        steps = self.pace.steps
        patience = steps if fresh else patience or max(steps // 3, CHUNK)
        state = State(self.begin(), self.initial, 0, [], 0.0)
        if checkpoint is not None and (found := checkpoint.read(state)) is not None:
            state = found._replace(carry=on_each(found.carry, self.mesh))
        before, begun, interrupted = state.seconds, time.monotonic(), False
        seed = tuple(np.asarray(jr.key_data(key_train)).tolist())
        pieces = Prefetch(self._pieces(seed, state.done))
        with Progress(what, steps, shown=shown) as progress:
            try:
                while not state.ended:
                    state = self._next(state, pieces, key_train, key_validation, patience, fresh=fresh)
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
        best = jax.tree.map(jnp.asarray, jax.device_get(state.best))  # of no device in particular
        return best, History(step, train, validation, state.best_step, state.seconds, ended)

    def _pieces(self, seed: tuple[int, ...], done: int) -> Iterator[Piece]:
        while done < self.pace.steps:
            end = min(done - done % CHUNK + CHUNK, self.pace.steps)
            yield from self.source.pieces(seed, done, end, self.batch_size)
            done = end

    def _next(
        self,
        state: State,
        pieces: Prefetch,
        key_train: PRNGKeyArray,
        key_validation: PRNGKeyArray,
        patience: int,
        *,
        fresh: bool,
    ) -> State:
        """The run one chunk later; the best weights are the last ones where rows are `fresh`."""
        steps, done, carry, losses = self.pace.steps, state.done, state.carry, []
        end = min(done - done % CHUNK + CHUNK, steps)
        while done < end:
            piece = pieces.take()
            carry, found = self.advance(carry, piece, jr.fold_in(key_train, done))
            pieces.look()  # the device is at work meanwhile
            losses.append(found)
            done += piece.steps
        held_out = float(self.validate(carry[1], key_validation))
        loss = float(np.concatenate([np.asarray(part) for part in losses]).mean())
        if not (np.isfinite(loss) and np.isfinite(held_out)):
            raise TrainingError(
                f"the training loss is {loss:g} after {done} steps: lower `learning_rate`, "
                "or look for extreme values in the simulations"
            )
        best, best_step = state.best, state.best_step
        if fresh or held_out < min((row[2] for row in state.log), default=float("inf")):
            best, best_step = jax.tree.map(jnp.copy, carry[1]), done
        ended = "no progress" if done - best_step >= patience else "finished" if done >= steps else ""
        return State(carry, best, best_step, [*state.log, (done, loss, held_out)], state.seconds, ended)

    def _judges(self, rows: Any) -> Piece:
        """Batches in which every validation row is at least `VALIDATION_DRAWS` times, but no more than `JUDGED` in all,
        in random order: slices of time meet rows at random too."""
        count = len(jax.tree.leaves(rows)[0])
        batches = max(VALIDATION_DRAWS, -(-min(VALIDATION_DRAWS * count, JUDGED) // self.batch_size))
        which = shuffled(count, batches * self.batch_size, np.random.default_rng(0))
        piece = piece_of(rows, which.reshape(batches, self.batch_size))
        return self._placed(piece)

    def _placed(self, piece: Piece) -> Piece:
        """A piece whose batches are shared out over the devices."""
        if piece.which is None:
            return piece._replace(rows=shared_out(piece.rows, self.mesh, axis=1))
        rows = on_each(jax.tree.map(jnp.asarray, piece.rows), self.mesh)
        return piece._replace(rows=rows, which=shared_out(piece.which, self.mesh, axis=1))


# what is compiled ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _optimizer(pace: TrainingBudget) -> Any:
    import optax  # half a second to import, and only this room needs it

    warm_up = min(500, max(1, pace.steps // 10))
    rate = optax.warmup_cosine_decay_schedule(0.0, pace.learning_rate, warm_up, max(pace.steps, warm_up + 1))
    decay = optax.adamw(rate, weight_decay=pace.weight_decay)
    # as one vector: a program for each array would take longer to compile
    return optax.flatten(optax.chain(optax.clip_by_global_norm(1.0), decay))


@eqx.filter_jit(donate="all-except-first")
def _advance(same: tuple[Loss, TrainingBudget, Any, Any, PRNGKeyArray], carry: Any) -> tuple[Any, Array]:
    loss_of, pace, rows, which, key = same
    optimizer = _optimizer(pace)

    def step(carry: Any, row: tuple[Any, Array]) -> tuple[Any, Array]:
        (weights, average, state, count), (batch, key) = carry, row
        some = batch if which is None else jax.tree.map(lambda part: part[batch], rows)
        loss, slope = jax.value_and_grad(loss_of)(weights, some, key)
        update, state = optimizer.update(slope, state, weights)
        weights = jax.tree.map(jnp.add, weights, update)
        decay = jnp.minimum(0.999, (1.0 + count) / (10.0 + count))
        average = jax.tree.map(lambda a, w: decay * a + (1.0 - decay) * w, average, weights)
        return (weights, average, state, count + 1), loss

    batches = rows if which is None else which
    return jax.lax.scan(step, carry, (batches, jr.split(key, len(jax.tree.leaves(batches)[0]))))


@lru_cache(maxsize=1)
def _validation() -> Callable[..., Array]:
    return eqx.filter_jit(_mean_loss, **for_few_runs())


def _mean_loss(loss_of: Loss, weights: Any, rows: Any, which: Any, key: PRNGKeyArray) -> Array:
    def one(row: tuple[Any, PRNGKeyArray]) -> Array:
        batch, key = row
        return loss_of(weights, batch if which is None else jax.tree.map(lambda part: part[batch], rows), key)

    batches = rows if which is None else which
    return jnp.mean(jax.lax.map(one, (batches, jr.split(key, len(jax.tree.leaves(batches)[0])))))


def rows_loss(loss: Callable[..., Scalar], rows: Any, key: PRNGKeyArray) -> Scalar:
    """The mean of `loss(row, key, u)` over rows, their times u spread evenly."""
    key_time, key_rows = jr.split(key)
    n = len(jax.tree.leaves(rows)[0])
    # one time from each of n equal slices: the same law with less noise
    u = (jnp.arange(n) + jr.uniform(key_time, (n,))) / n
    return jnp.mean(jax.vmap(loss)(rows, jr.split(key_rows, n), u))
