"""Rows of a store by name, read when they are asked for: some, all, or those that there are by now.

parts     batch k, and which of its rows      in the order in which they were found
part(a, b)                                    rows a to b of all of them, one chunk of the disk after the other
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from retrodict.variables import Layout


class Batches(Protocol):
    """What rows are read from: a store, batch by batch."""

    layout: Layout
    batch: int

    @property
    def codes(self) -> np.ndarray: ...
    def batch_of(self, name: str, k: int) -> np.ndarray: ...
    def kind(self, name: str) -> np.dtype: ...
    def refresh(self) -> object: ...


class Part(NamedTuple):
    """Some rows of a batch: their places in it, None for all."""

    batch: int
    places: np.ndarray | None
    rows: int


class StoredRows(Mapping[str, np.ndarray]):
    """Rows of a store whose status is wanted, by name; `wanted` maps statuses `(rows,)` to booleans.

    A variable is read as a whole when it is asked for by name. While a campaign goes on, `refresh` finds the rows that
    came since and puts them behind the others.
    """

    def __init__(
        self, store: Batches, names: list[str], wanted: Callable[[np.ndarray], np.ndarray], first: int | None = None
    ) -> None:
        self.store, self.names, self.wanted, self.first = store, names, wanted, first
        self.parts: list[Part] = []
        self.ends = np.zeros(1, int)
        self._known = np.zeros(0, bool)
        self._read: dict[str, np.ndarray] = {}
        self._last: dict[str, tuple[int, np.ndarray]] = {}
        self._add()

    @property
    def count(self) -> int:
        """How many rows there are."""
        return int(self.ends[-1])

    @property
    def block(self) -> int:
        """Rows that lie together on the disk."""
        return self.store.batch

    def refresh(self) -> int:
        """Looks for rows that came since, and returns how many there are now."""
        self.store.refresh()
        self._add()
        return self.count

    def part(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """The rows from `start` to `stop`."""
        where = range(int(np.searchsorted(self.ends, start, "right")) - 1, int(np.searchsorted(self.ends, stop)))
        ends = [(max(start - self.ends[i], 0), stop - self.ends[i]) for i in where]
        return {
            name: np.concatenate([self._rows(name, self.parts[i], *own) for i, own in zip(where, ends, strict=True)])
            for name in self.names
        }

    def _rows(self, name: str, part: Part, start: int = 0, stop: int | None = None) -> np.ndarray:
        k, content = self._last.get(name, (-1, np.empty(0)))
        if k != part.batch:  # a block of rows may end within a batch, and the next begin there
            content = self.store.batch_of(name, part.batch)
            self._last[name] = part.batch, content
        return content[: part.rows][start:stop] if part.places is None else content[part.places[start:stop]]

    def _add(self) -> None:
        """Parts for the rows that are wanted and not there yet."""
        store = self.store
        wanted = self.wanted(store.codes[: self.first])
        self._known = np.pad(self._known, (0, len(wanted) - len(self._known)))
        fresh = wanted & ~self._known
        for k in np.unique(np.flatnonzero(fresh) // store.batch).tolist():
            here = fresh[k * store.batch : (k + 1) * store.batch]
            rows = int(here.sum())
            self.parts.append(Part(k, None if here.all() else np.flatnonzero(here), rows))
        self._known |= wanted
        self.ends = np.concatenate([[0], np.cumsum([part.rows for part in self.parts], dtype=int)])

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(name)
        if name not in self._read:
            whole = np.empty((self.count, *self.store.layout[name].shape), self.store.kind(name))
            for part, end in zip(self.parts, self.ends[1:], strict=True):
                whole[end - part.rows : end] = self._rows(name, part)
            self._read[name] = whole
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
