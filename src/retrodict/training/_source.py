"""Where the rows of a training run come from: memory, something larger than it, or nowhere before they are needed.

    source.pieces(seed, done, end, batch)  ->  (steps, rows, which), ...        rows of the steps `done` to `end`

A piece is what one dispatch reads. It follows from the run's seed and the step it begins at, so that a run that goes on
from a checkpoint sees the rows that it would have seen.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np


GATHERED = 2**25  # bytes; pieces up to here are gathered, and their shapes do not tell how many rows there are
BLOCK = 4096  # rows that are read together where nothing says how they lie


class Piece(NamedTuple):
    """Rows of some steps: `(steps, batch, ...)`, or all there are with the indices `(steps, batch)` of those that are
    meant."""

    steps: int
    rows: Any
    which: np.ndarray | None


class AbstractSource(ABC):
    """What a `Trainer` learns from."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def pieces(self, seed: tuple[int, ...], done: int, end: int, batch: int) -> Iterator[Piece]:
        """The pieces of the steps from `done` to `end`."""


def piece_of(rows: Any, which: np.ndarray) -> Piece:
    """The rows that are meant, gathered where that is cheap: compiled code then serves any number of rows."""
    held = sum(leaf.nbytes / len(leaf) for leaf in jax.tree.leaves(rows))
    if held * which.size > GATHERED:
        return Piece(len(which), rows, which.astype(np.int32))
    return Piece(len(which), jax.tree.map(lambda leaf: np.asarray(leaf)[which], rows), None)


def shuffled(count: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """`wanted` indices below `count`, every one once before any twice."""
    return np.concatenate([rng.permutation(count) for _ in range(-(-wanted // count))])[:wanted]


@dataclass(frozen=True)
class Memory(AbstractSource):
    """Rows that are there: arrays, or several in a tuple, with one leading axis."""

    rows: Any

    @property
    def count(self) -> int:
        return len(jax.tree.leaves(self.rows)[0])

    def pieces(self, seed: tuple[int, ...], done: int, end: int, batch: int) -> Iterator[Piece]:
        rng = np.random.default_rng((*seed, done))
        yield piece_of(self.rows, shuffled(self.count, (end - done) * batch, rng).reshape(-1, batch))


@dataclass(frozen=True)
class GeneratedRows(AbstractSource):
    """Rows that are made anew for every few steps: `make(steps done)` gives `at_once` of them."""

    make: Callable[[int], Any]
    at_once: int

    @property
    def count(self) -> int:
        return self.at_once

    def pieces(self, seed: tuple[int, ...], done: int, end: int, batch: int) -> Iterator[Piece]:
        yield from Memory(self.make(done)).pieces(seed, done, end, batch)


@dataclass(frozen=True)
class Stream(AbstractSource):
    """Rows that are read as they are needed: `read(start, stop)` gives those of a block, `scaled` what
    a network sees of them.

    Blocks come in random order, every one once before any twice, and the rows of a piece are shuffled. `counted()` is
    how many rows there are now: more of them may come while training goes on. The first `held` are never read.
    """

    read: Callable[[int, int], np.ndarray]
    scaled: Callable[[np.ndarray], np.ndarray]
    counted: Callable[[], int]
    row_bytes: int
    held: int
    block: int = BLOCK

    @property
    def count(self) -> int:
        return self.counted() - self.held

    def pieces(self, seed: tuple[int, ...], done: int, end: int, batch: int) -> Iterator[Piece]:
        most = max(1, GATHERED // (self.row_bytes * batch))
        while done < end:
            length = min(most, end - done)
            yield Piece(length, self._rows(seed, done, length, batch).reshape(length, batch, -1), None)
            done += length

    def _rows(self, seed: tuple[int, ...], done: int, length: int, batch: int) -> np.ndarray:
        """The rows of `length` steps, by their place in a stream that goes around all blocks."""
        block = min(self.block, self.count)
        blocks = self.count // block  # the rest, less than a block, waits until it is one
        begin, end = done * batch, (done + length) * batch
        numbers, orders = range(begin // block, -(-end // block)), {}
        for turn in {i // blocks for i in numbers}:
            orders[turn] = np.random.default_rng((*seed, turn)).permutation(blocks)
        parts = []
        for i in numbers:  # a piece may be far less than a block
            first = self.held + int(orders[i // blocks][i % blocks]) * block
            parts.append(self.read(first + max(begin - i * block, 0), first + min(end - i * block, block)))
        rows = np.concatenate(parts)
        return self.scaled(rows[np.random.default_rng((*seed, done, 1)).permutation(len(rows))])
