"""The source of the rows of a training run: memory, a stream from something larger, or rows generated on demand.

    source.pieces(seed, done, end, batch)  ->  (steps, rows, indices), ...      rows of the steps `done` to `end`

A piece is the input of one dispatch. It follows from the seed of the run and the step it begins at, so that a run that
goes on from a checkpoint meets the same rows as a run that never stopped.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np


MAX_GATHERED_BYTES = 2**25  # of a piece; up to here its shape does not depend on the number of all rows
ROWS_PER_BLOCK = 4096  # read together where a source has no blocks of its own


class Piece(NamedTuple):
    """Rows of some steps: `(steps, batch, ...)`, or all rows with the indices `(steps, batch)` of those to use."""

    steps: int
    rows: Any
    indices: np.ndarray | None


class AbstractSource(ABC):
    """A source of training rows for a `Trainer`."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of rows."""

    @abstractmethod
    def pieces(self, seed: tuple[int, ...], done: int, end: int, batch: int) -> Iterator[Piece]:
        """Yields the pieces of the steps from `done` to `end`."""


def piece_of(rows: Any, indices: np.ndarray) -> Piece:
    """Returns rows by their indices, gathered where that is cheap: compiled code then serves any number of rows."""
    row_bytes = sum(leaf.nbytes / len(leaf) for leaf in jax.tree.leaves(rows))
    if row_bytes * indices.size > MAX_GATHERED_BYTES:
        return Piece(len(indices), rows, indices.astype(np.int32))
    return Piece(len(indices), jax.tree.map(lambda leaf: np.asarray(leaf)[indices], rows), None)


def shuffled(count: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """Returns `total` indices below `count`, every one once before any twice."""
    return np.concatenate([rng.permutation(count) for _ in range(-(-total // count))])[:total]


@dataclass(frozen=True)
class Memory(AbstractSource):
    """Rows in memory: an array, or a tuple of arrays with one leading axis."""

    rows: Any

    @property
    def count(self) -> int:
        return len(jax.tree.leaves(self.rows)[0])

    def pieces(self, seed: tuple[int, ...], done: int, end: int, batch: int) -> Iterator[Piece]:
        rng = np.random.default_rng((*seed, done))
        yield piece_of(self.rows, shuffled(self.count, (end - done) * batch, rng).reshape(-1, batch))


@dataclass(frozen=True)
class GeneratedRows(AbstractSource):
    """Rows that are generated anew for every few steps: `make(steps done)` gives `at_once` of them."""

    make: Callable[[int], Any]
    at_once: int

    @property
    def count(self) -> int:
        return self.at_once

    def pieces(self, seed: tuple[int, ...], done: int, end: int, batch: int) -> Iterator[Piece]:
        yield from Memory(self.make(done)).pieces(seed, done, end, batch)


@dataclass(frozen=True)
class Stream(AbstractSource):
    """Rows that are read on demand: `read(start, stop)` gives those of a block, `scaled` turns them into inputs.

    Blocks come in random order, every one once before any twice, and the rows of a piece are shuffled. `counted()` is
    the current number of rows, which may grow during training. The first `held_out` rows are never read.
    """

    read: Callable[[int, int], np.ndarray]
    scaled: Callable[[np.ndarray], np.ndarray]
    counted: Callable[[], int]
    row_bytes: int
    held_out: int
    block: int = ROWS_PER_BLOCK

    @property
    def count(self) -> int:
        return self.counted() - self.held_out

    def pieces(self, seed: tuple[int, ...], done: int, end: int, batch: int) -> Iterator[Piece]:
        max_steps = max(1, MAX_GATHERED_BYTES // (self.row_bytes * batch))
        while done < end:
            steps = min(max_steps, end - done)
            yield Piece(steps, self._rows(seed, done, steps, batch).reshape(steps, batch, -1), None)
            done += steps

    def _rows(self, seed: tuple[int, ...], done: int, steps: int, batch: int) -> np.ndarray:
        """Returns the rows of some steps, by their place in a stream that goes around all blocks."""
        block = min(self.block, self.count)
        blocks = self.count // block  # the last rows wait until they fill a block
        begin, end = done * batch, (done + steps) * batch
        numbers, orders = range(begin // block, -(-end // block)), {}
        for turn in {i // blocks for i in numbers}:
            orders[turn] = np.random.default_rng((*seed, turn)).permutation(blocks)
        chunks = []
        for i in numbers:  # a piece may be far smaller than a block
            first = self.held_out + int(orders[i // blocks][i % blocks]) * block
            chunks.append(self.read(first + max(begin - i * block, 0), first + min(end - i * block, block)))
        rows = np.concatenate(chunks)
        return self.scaled(rows[np.random.default_rng((*seed, done, 1)).permutation(len(rows))])
