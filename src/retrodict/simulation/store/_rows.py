"""Rows of a store by name, read when they are asked for: some, all, or those that there are by now.

segments     batch k, and which of its rows      in the order in which they were found
part(a, b)                                       rows a to b of all segments, one chunk of the disk after the other
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from retrodict.variables import Layout


class BatchReader(Protocol):
    """A store, read batch by batch."""

    path: Path
    layout: Layout
    batch: int

    @property
    def codes(self) -> np.ndarray: ...
    def batch_of(self, name: str, k: int) -> np.ndarray: ...
    def kind(self, name: str) -> np.dtype: ...
    def refresh(self) -> object: ...


class Segment(NamedTuple):
    """Rows of a batch: their number, and their places in the batch, None for all."""

    batch: int
    places: np.ndarray | None
    rows: int


class StoredRows(Mapping[str, np.ndarray]):
    """The rows of a store that have a status in question, by name; `select` maps statuses `(rows,)` to booleans.

    A variable is read as a whole when it is asked for by name. While a campaign goes on, `refresh` finds the rows that
    came since and puts them behind the earlier ones.
    """

    def __init__(
        self, store: BatchReader, names: list[str], select: Callable[[np.ndarray], np.ndarray], first: int | None = None
    ) -> None:
        self.store, self.names, self.select, self.first = store, names, select, first
        self.segments: list[Segment] = []
        self.ends = np.zeros(1, int)
        self._is_listed = np.zeros(0, bool)
        self._arrays: dict[str, np.ndarray] = {}
        self._last_batch: dict[str, tuple[int, np.ndarray]] = {}
        self._add_segments()

    @property
    def path(self) -> Path:
        """The directory of the store."""
        return self.store.path

    @property
    def count(self) -> int:
        """The number of rows."""
        return int(self.ends[-1])

    @property
    def block(self) -> int:
        """The number of rows that lie together on the disk."""
        return self.store.batch

    def refresh(self) -> int:
        """Looks for rows that came since, and returns how many there are now."""
        self.store.refresh()
        self._add_segments()
        return self.count

    def part(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """The rows from `start` to `stop`."""
        indices = range(int(np.searchsorted(self.ends, start, "right")) - 1, int(np.searchsorted(self.ends, stop)))
        cuts = [(self.segments[i], max(start - self.ends[i], 0), stop - self.ends[i]) for i in indices]
        return {name: np.concatenate([self._rows(name, *cut) for cut in cuts]) for name in self.names}

    def _rows(self, name: str, segment: Segment, start: int = 0, stop: int | None = None) -> np.ndarray:
        k, content = self._last_batch.get(name, (-1, np.empty(0)))
        if k != segment.batch:  # a block of rows may end within a batch, and the next begin there
            content = self.store.batch_of(name, segment.batch)
            self._last_batch[name] = segment.batch, content
        if segment.places is None:
            return content[: segment.rows][start:stop]
        return content[segment.places[start:stop]]

    def _add_segments(self) -> None:
        """Adds segments for selected rows that are not listed yet."""
        store = self.store
        selected = self.select(store.codes[: self.first])
        self._is_listed = np.pad(self._is_listed, (0, len(selected) - len(self._is_listed)))
        is_new = selected & ~self._is_listed
        for k in np.unique(np.flatnonzero(is_new) // store.batch).tolist():
            mask = is_new[k * store.batch : (k + 1) * store.batch]
            self.segments.append(Segment(k, None if mask.all() else np.flatnonzero(mask), int(mask.sum())))
        self._is_listed |= selected
        self.ends = np.concatenate([[0], np.cumsum([segment.rows for segment in self.segments], dtype=int)])

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(name)
        if name not in self._arrays:
            array = np.empty((self.count, *self.store.layout[name].shape), self.store.kind(name))
            for segment, end in zip(self.segments, self.ends[1:], strict=True):
                array[end - segment.rows : end] = self._rows(name, segment)
            self._arrays[name] = array
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
