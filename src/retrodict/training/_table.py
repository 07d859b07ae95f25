"""Rows of simulations as tokens, wherever they lie: all at once from memory, a few at a time from what is larger.

What is larger than `RESIDENT` is streamed: rows of a store, or of arrays that are sliced without being read as a whole
(a file that numpy maps, an array of Zarr or HDF5).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from retrodict._errors import DataError
from retrodict.query.tokens import flatten
from retrodict.simulation._failures import Failures
from retrodict.training._source import BLOCK, Stream
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


RESIDENT = 2**28  # bytes of tokens; training holds a few copies of what it reads as a whole
SAMPLE = 100_000  # rows of a stream that tell the scale of its variables
JUDGES = 10_000  # rows of a stream that validate, at most
AGAIN = 10.0  # seconds between two looks for rows that came since
LEAST = 20  # rows below which nothing can be learned or validated


@dataclass(frozen=True)
class Table:
    """The rows of `sims`, a mapping, as tokens of a layout."""

    layout: Layout
    sims: Mapping[str, Any]
    count: int
    failures: Failures | None = None

    @classmethod
    def of(cls, layout: Layout, sims: Any, failures: Failures | None = None) -> "Table":
        """The table of simulations; with `failures` their last column in training is the weight of a row.

        Raises:
            DataError: they are no mapping, lack a variable, or are too few.
        """
        if not isinstance(sims, Mapping):
            raise DataError(f"simulations are a mapping from name to array, got {type(sims).__name__}")
        count = getattr(sims, "kept", None)
        if count is None:
            first = next(iter(sims.values()), ())
            count = len(first) if np.ndim(first) else LEAST  # a single number is refused with its name later
        if count < LEAST:
            raise DataError(f"training needs at least {LEAST} simulations, got {count}")
        return cls(layout, sims, count, failures)

    @property
    def growing(self) -> bool:
        """Whether there may be more rows later."""
        return bool(getattr(self.sims, "growing", False))

    @property
    def streamed(self) -> bool:
        """Whether rows are read a few at a time."""
        return self.growing or 4 * self.layout.size * self.count > RESIDENT

    def tokens(self, start: int = 0, stop: int | None = None) -> Float[np.ndarray, "m d"]:
        """The rows from `start` to `stop`.

        Raises:
            DataError: a name or shape that the layout does not have, or numbers that are not finite.
        """
        rows: Mapping[str, Any] = self.sims
        if (start, stop) != (0, None):
            stop = self.count if stop is None else stop
            part = getattr(self.sims, "part", None)
            rows = part(start, stop) if part else {k: np.asarray(v[start:stop]) for k, v in self.sims.items()}
        return finite(self.layout, flatten(self.layout, rows, self.layout.names, where="the simulations"))

    def split(self, rng: np.random.Generator, fraction: float) -> tuple[np.ndarray, np.ndarray, int]:
        """Rows that tell the scale, rows that validate, and how many of the first rows the latter are.

        What is not streamed is read, and shuffled before; the rows that tell the scale are those to learn from. Rows of
        a stream come as they were drawn, independent of each other.
        """
        held_out = max(LEAST // 4, round(fraction * self.count)) if fraction else 0
        if self.streamed:
            held_out = min(held_out, JUDGES)
            sample = self.sample()
            return sample, self.tokens(0, held_out) if held_out else sample[:0], held_out
        rows = self.tokens()
        order = rng.permutation(len(rows)) if fraction else np.arange(len(rows))
        return rows[order[held_out:]], rows[order[:held_out]], held_out

    def sample(self) -> Float[np.ndarray, "m d"]:
        """Rows from all over the table."""
        blocks = max(1, min(SAMPLE, self.count) // BLOCK)
        firsts = np.linspace(0, max(0, self.count - BLOCK), blocks).astype(int)
        return np.concatenate([self.tokens(int(a), min(int(a) + BLOCK, self.count)) for a in firsts])

    def seen(self, scaling: Scaling, rows: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m e"]:
        """What training sees of rows: scaled, and behind them their weights, if they have any."""
        found = scaling.of_rows(rows)
        if self.failures is None:
            return found
        weight = self.failures.weights(rows[:, self.layout.is_parameter]).astype(found.dtype)
        return np.append(found, weight[:, None], axis=1)

    def stream(self, scaling: Scaling, held: int) -> Stream:
        """Scaled rows for training, but for the first `held`."""
        rows = getattr(self.sims, "arrays", None)
        known = [self.count, time.monotonic()]

        def counted() -> int:
            if self.growing and time.monotonic() - known[1] > AGAIN:
                known[:] = rows.refresh(), time.monotonic()  # type: ignore[union-attr]
            return int(known[0])

        return Stream(
            self.tokens,
            partial(self.seen, scaling),
            counted,
            4 * self.layout.size,
            held,
            getattr(rows, "block", BLOCK),
        )


def finite(layout: Layout, rows: np.ndarray) -> np.ndarray:
    """The rows, unless there are numbers in them that are not finite."""
    bad = ~np.isfinite(rows)
    for name in (*layout.functions, *layout.places):  # NaN where a row has no point
        bad[:, layout.slices[name]] &= ~np.isnan(rows[:, layout.slices[name]])
    if bad.any():
        names = sorted({layout.variables[i].name for i in layout.owner[bad.any(axis=0)]})
        raise DataError(
            f"{int(bad.any(axis=1).sum())} of {len(rows)} simulations are not finite (in {', '.join(names)}); "
            "take these rows out: `rd.simulate` does so and counts them"
        )
    return rows
