"""The training loop: weights, the loss of a batch of rows, and the rows of every step (`_source`).

    AdamW with a linear warm-up and a cosine decay to zero, gradients clipped by their global norm
    theta_ema <- d theta_ema + (1 - d) theta,  d = min(0.999, (1 + step) / (10 + step))

Many steps run in one dispatch, while the rows of the next dispatch are prepared. Every batch is split over all devices.
After each chunk of steps the averaged weights are evaluated on the validation rows. Every row meets the same roles,
times and noise each time (common random numbers), so that two validation losses differ by what the network learned and
not by chance. The averaged weights with the lowest validation loss are returned.

Compiled code depends on the form of a loss and of its rows alone: a second run of the same model with other numbers,
or with another count of rows, compiles nothing.
"""

import time
from collections.abc import Callable, Iterator
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
from retrodict.training._history import History as History
from retrodict.training._source import AbstractSource, Memory, Piece, piece_of, shuffled


CHUNK = 250  # steps between two validations
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1  # needs fewer steps than 1e-4 for the same validation loss
VALIDATION_DRAWS = 8  # of roles, times and noise for every validation row
MAX_VALIDATION_DRAWS = 40_000  # for all rows together: a validation takes no longer than a chunk of steps


class TrainingBudget(NamedTuple):
    """The number of gradient steps, the rows in each, the learning rate and the weight decay."""

    steps: int
    batch_size: int = 512
    learning_rate: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY


# (weights, batch of rows, key) -> loss; equal losses, as equinox modules are, share compiled code
Loss = Callable[[Any, Any, PRNGKeyArray], Scalar]


class Prefetch:
    """An iterator whose next item can be prepared early."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.items = items
        self.ready: list[Any] = []

    def take(self) -> Any:
        """Returns the next item."""
        return self.ready.pop() if self.ready else next(self.items)

    def prepare(self) -> None:
        """Prepares the next item, if there is one."""
        self.ready.extend([item for item in [next(self.items, None)] if item is not None])


class Trainer:
    """A training run: weights, their loss, training rows and validation rows.

    Rows are an array, or a tuple of arrays with one leading axis. Training rows may also be an `AbstractSource`.
    """

    def __init__(self, weights: Any, loss: Loss, train: Any, validation: Any, budget: TrainingBudget) -> None:
        self.initial, self.loss, self.budget = weights, loss, budget
        self.source = train if isinstance(train, AbstractSource) else Memory(train)
        self.batch_size = min(budget.batch_size, self.source.count)
        self.mesh = mesh_for(self.batch_size)
        self.held_out = self._validation_piece(validation)

    def begin(self) -> Any:
        """Returns the state before the first step: weights, their average, the optimizer's state, the steps so far."""
        copy = partial(jax.tree.map, jnp.copy)  # a step takes over the memory of the state that it is given
        carry = (
            copy(self.initial),
            copy(self.initial),
            eqx.filter_jit(_optimizer(self.budget).init)(self.initial),
            jnp.zeros((), int),
        )
        return on_each(carry, self.mesh)

    def advance(self, carry: Any, piece: Piece, key: PRNGKeyArray) -> tuple[Any, Array]:
        """Returns the state after the steps of a piece, and the loss of every step."""
        piece = self._placed(piece)
        return _advance((self.loss, self.budget, piece.rows, piece.indices, on_each(key, self.mesh)), carry)

    def validate(self, weights: Any, key: PRNGKeyArray) -> Array:
        """Returns the validation loss; for equal keys every row meets the same roles, times and noise."""
        return _validation()(self.loss, weights, self.held_out.rows, self.held_out.indices, key)

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
        """Returns the averaged weights with the lowest validation loss, and the history.

        With `fresh` rows, none of which is seen twice, the last weights are returned: nothing can be overfitted, and
        the validation loss of a few rows would choose worse than the schedule.
        """
        steps = self.budget.steps
        patience = steps if fresh else patience or max(steps // 3, CHUNK)
        state = State(self.begin(), self.initial, 0, [], 0.0)
        if checkpoint is not None and (stored := checkpoint.read(state)) is not None:
            state = stored._replace(carry=on_each(stored.carry, self.mesh))
        seconds_before, start, interrupted = state.seconds, time.monotonic(), False
        seed = tuple(np.asarray(jr.key_data(key_train)).tolist())
        pieces = Prefetch(self._pieces(seed, state.done))
        with Progress(what, steps, shown=shown) as progress:
            try:
                while not state.ended:
                    state = self._next(state, pieces, key_train, key_validation, patience, fresh=fresh)
                    state = state._replace(seconds=seconds_before + time.monotonic() - start)
                    progress.at(state.done, f"loss {state.log[-1][1]:.4f}, validation {state.log[-1][2]:.4f}")
                    if checkpoint is not None:
                        checkpoint.write(state)
            except KeyboardInterrupt:
                if not state.log:
                    raise
                interrupted = True
        step, train, validation = (np.asarray(column) for column in zip(*state.log, strict=True))
        reason = "interrupted" if interrupted else state.ended
        best = jax.tree.map(jnp.asarray, jax.device_get(state.best))  # of no device in particular
        return best, History(step, train, validation, state.best_step, state.seconds, reason)

    def _pieces(self, seed: tuple[int, ...], done: int) -> Iterator[Piece]:
        while done < self.budget.steps:
            end = min(done - done % CHUNK + CHUNK, self.budget.steps)
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
        """Returns the state one chunk of steps later; with `fresh` rows its best weights are the last ones."""
        steps, step, carry, losses = self.budget.steps, state.done, state.carry, []
        end = min(step - step % CHUNK + CHUNK, steps)
        while step < end:
            piece = pieces.take()
            carry, piece_losses = self.advance(carry, piece, jr.fold_in(key_train, step))
            pieces.prepare()  # while the device computes
            losses.append(piece_losses)
            step += piece.steps
        validation_loss = float(self.validate(carry[1], key_validation))
        loss = float(np.concatenate([np.asarray(piece_losses) for piece_losses in losses]).mean())
        if not (np.isfinite(loss) and np.isfinite(validation_loss)):
            raise TrainingError(
                f"the training loss is {loss:g} after {step} steps: lower `learning_rate`, "
                "or look for extreme values in the simulations"
            )
        best, best_step = state.best, state.best_step
        if fresh or validation_loss < min((row[2] for row in state.log), default=float("inf")):
            best, best_step = jax.tree.map(jnp.copy, carry[1]), step
        reason = "no progress" if step - best_step >= patience else "finished" if step >= steps else ""
        return State(carry, best, best_step, [*state.log, (step, loss, validation_loss)], state.seconds, reason)

    def _validation_piece(self, rows: Any) -> Piece:
        """Returns batches that hold every validation row `VALIDATION_DRAWS` times, but no more than
        `MAX_VALIDATION_DRAWS` rows in all, in random order: the slices of time meet rows at random too."""
        count = len(jax.tree.leaves(rows)[0])
        draws = min(VALIDATION_DRAWS * count, MAX_VALIDATION_DRAWS)
        batches = max(VALIDATION_DRAWS, -(-draws // self.batch_size))
        indices = shuffled(count, batches * self.batch_size, np.random.default_rng(0))
        return self._placed(piece_of(rows, indices.reshape(batches, self.batch_size)))

    def _placed(self, piece: Piece) -> Piece:
        """Returns a piece whose batches are split over the devices."""
        if piece.indices is None:
            return piece._replace(rows=shared_out(piece.rows, self.mesh, axis=1))
        rows = on_each(jax.tree.map(jnp.asarray, piece.rows), self.mesh)
        return piece._replace(rows=rows, indices=shared_out(piece.indices, self.mesh, axis=1))


# compiled functions ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _optimizer(budget: TrainingBudget) -> Any:
    import optax  # takes half a second to import, and only training needs it

    warm_up = min(500, max(1, budget.steps // 10))
    rate = optax.warmup_cosine_decay_schedule(0.0, budget.learning_rate, warm_up, max(budget.steps, warm_up + 1))
    adamw = optax.adamw(rate, weight_decay=budget.weight_decay)
    # flattened to one vector: a program for each array would take longer to compile
    return optax.flatten(optax.chain(optax.clip_by_global_norm(1.0), adamw))


@eqx.filter_jit(donate="all-except-first")
def _advance(inputs: tuple[Loss, TrainingBudget, Any, Any, PRNGKeyArray], carry: Any) -> tuple[Any, Array]:
    loss_of, budget, rows, indices, key = inputs
    optimizer = _optimizer(budget)

    def step(carry: Any, row: tuple[Any, Array]) -> tuple[Any, Array]:
        (weights, average, state, count), (batch, key) = carry, row
        loss, gradient = jax.value_and_grad(loss_of)(weights, _batch_of(rows, indices, batch), key)
        update, state = optimizer.update(gradient, state, weights)
        weights = jax.tree.map(jnp.add, weights, update)
        decay = jnp.minimum(0.999, (1.0 + count) / (10.0 + count))
        average = jax.tree.map(lambda a, w: decay * a + (1.0 - decay) * w, average, weights)
        return (weights, average, state, count + 1), loss

    batches = rows if indices is None else indices
    return jax.lax.scan(step, carry, (batches, jr.split(key, len(jax.tree.leaves(batches)[0]))))


@lru_cache(maxsize=1)
def _validation() -> Callable[..., Array]:
    return eqx.filter_jit(_mean_loss, **for_few_runs())


def _mean_loss(loss_of: Loss, weights: Any, rows: Any, indices: Any, key: PRNGKeyArray) -> Array:
    def batch_loss(row: tuple[Any, PRNGKeyArray]) -> Array:
        batch, key = row
        return loss_of(weights, _batch_of(rows, indices, batch), key)

    batches = rows if indices is None else indices
    return jnp.mean(jax.lax.map(batch_loss, (batches, jr.split(key, len(jax.tree.leaves(batches)[0])))))


def _batch_of(rows: Any, indices: Any, batch: Any) -> Any:
    """Returns the rows of a batch, which is either these rows or, with `indices`, their numbers."""
    return batch if indices is None else jax.tree.map(lambda array: array[batch], rows)


def rows_loss(loss: Callable[..., Scalar], rows: Any, key: PRNGKeyArray) -> Scalar:
    """Returns the mean of `loss(row, key, u)` over rows, with times u spread evenly over (0, 1)."""
    key_time, key_rows = jr.split(key)
    n = len(jax.tree.leaves(rows)[0])
    # one time from each of n equal slices: the same distribution with less noise
    u = (jnp.arange(n) + jr.uniform(key_time, (n,))) / n
    return jnp.mean(jax.vmap(loss)(rows, jr.split(key_rows, n), u))
