"""Rows of simulations as tokens: all at once from memory, or a few at a time from anything larger.

Simulations larger than `MAX_RESIDENT_BYTES` are streamed: rows of a store, or of arrays that can be sliced without
being read as a whole (a file that numpy maps, an array of Zarr or HDF5).
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from retrodict._errors import DataError
from retrodict.query.tokens import as_numbers, by_position, check_simulations, flatten
from retrodict.simulation._claims import check_tokens, refuse_lost_digits, warn_of_repeats
from retrodict.simulation._failures import Failures
from retrodict.training._source import ROWS_PER_BLOCK, Stream
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


MAX_RESIDENT_BYTES = 2**28  # of tokens in memory; training holds a few copies of them
SCALING_ROWS = 100_000  # of a stream, to fit the scaling of its variables
MAX_VALIDATION_ROWS = 10_000  # of a stream
REFRESH_SECONDS = 10.0  # between two looks for rows that were added
CHECKED_ROWS = 2_000  # whose digits are looked at
MIN_ROWS = 20  # to learn from or to validate on


@dataclass(frozen=True)
class SimulationTable:
    """The rows of `sims`, a mapping, as tokens of a layout."""

    layout: Layout
    sims: Mapping[str, Any]
    count: int
    failures: Failures | None = None

    @classmethod
    def of(cls, layout: Layout, sims: Any, failures: Failures | None = None) -> "SimulationTable":
        """Returns the table of simulations; with `failures` the last column of training rows is their weight.

        Raises:
            DataError: `sims` is no mapping, lacks a variable, or has too few rows.
        """
        sims = check_simulations(sims)
        count = getattr(sims, "kept", None)
        if count is None:
            values = next(iter(sims.values()), ())
            count = len(values) if np.ndim(values) else MIN_ROWS  # a single number is refused with its name later
        if count < MIN_ROWS:
            raise DataError(f"training needs at least {MIN_ROWS} simulations, got {count}")
        return cls(layout, sims, count, failures)

    @property
    def growing(self) -> bool:
        """Whether rows may be added during training."""
        return bool(getattr(self.sims, "growing", False))

    @property
    def streamed(self) -> bool:
        """Whether rows are read a few at a time."""
        return self.growing or 4 * self.layout.size * self.count > MAX_RESIDENT_BYTES

    def tokens(self, start: int = 0, stop: int | None = None) -> Float[np.ndarray, "m d"]:
        """Returns the rows from `start` to `stop`.

        Raises:
            DataError: a name or shape that the layout does not have, or numbers that are not finite or lie outside
                their supports.
        """
        rows: Mapping[str, Any] = self.sims
        if (start, stop) != (0, None):
            stop = self.count if stop is None else stop
            read = getattr(self.sims, "part", None)
            rows = read(start, stop) if read else {k: by_position(v)[start:stop] for k, v in self.sims.items()}
        tokens = _finite(self.layout, flatten(self.layout, rows, self.layout.names, where="the simulations"))
        check_tokens(self.layout, tokens)
        return tokens

    def split(self, rng: np.random.Generator, fraction: float) -> tuple[np.ndarray, np.ndarray, int]:
        """Returns rows to fit the scaling, validation rows, and how many of the first rows the latter are.

        Rows in memory are shuffled first, and the scaling is fitted to all training rows. Rows of a stream come in the
        order in which they were drawn, independent of each other.
        """
        held_out = max(MIN_ROWS // 4, round(fraction * self.count)) if fraction else 0
        if self.streamed:
            held_out = min(held_out, MAX_VALIDATION_ROWS)
            sample = self.sample()
            self._check_sample(sample)
            return sample, self.tokens(0, held_out) if held_out else sample[:0], held_out
        rows = self.tokens()
        self._check_sample(rows)
        order = rng.permutation(len(rows)) if fraction else np.arange(len(rows))
        return rows[order[held_out:]], rows[order[:held_out]], held_out

    def _check_sample(self, tokens: np.ndarray) -> None:
        """Refuses arrays whose numbers single precision cannot tell apart, and warns of repeated rows."""
        read = getattr(self.sims, "part", None)
        names, stop = self.layout.names, min(self.count, CHECKED_ROWS)
        rows = read(0, stop) if read else {name: by_position(self.sims[name])[:stop] for name in names}
        for name in names:
            array = as_numbers(rows[name], f"'{name}' in the simulations")
            refuse_lost_digits(name, array.reshape(len(array), -1))
        warn_of_repeats(self.layout, tokens)

    def sample(self) -> Float[np.ndarray, "m d"]:
        """Returns rows from all over the table."""
        blocks = max(1, min(SCALING_ROWS, self.count) // ROWS_PER_BLOCK)
        starts = np.linspace(0, max(0, self.count - ROWS_PER_BLOCK), blocks).astype(int)
        return np.concatenate([self.tokens(int(a), min(int(a) + ROWS_PER_BLOCK, self.count)) for a in starts])

    def scaled(self, scaling: Scaling, rows: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m e"]:
        """Returns the inputs of a loss: scaled rows, and behind them their weights, if they have any."""
        inputs = scaling.of_rows(rows)
        if self.failures is None:
            return inputs
        weight = self.failures.weights(rows[:, self.layout.is_parameter]).astype(inputs.dtype)
        return np.append(inputs, weight[:, None], axis=1)

    def stream(self, scaling: Scaling, held_out: int) -> Stream:
        """Returns a stream of scaled training rows, without the first `held_out`."""
        store = getattr(self.sims, "arrays", None)
        state = [self.count, time.monotonic()]  # the number of rows, and when it was looked up

        def counted() -> int:
            if self.growing and time.monotonic() - state[1] > REFRESH_SECONDS:
                state[:] = store.refresh(), time.monotonic()  # type: ignore[union-attr]
            return int(state[0])

        return Stream(
            self.tokens,
            partial(self.scaled, scaling),
            counted,
            4 * self.layout.size,
            held_out,
            getattr(store, "block", ROWS_PER_BLOCK),
        )


def _finite(layout: Layout, rows: np.ndarray) -> np.ndarray:
    """Returns the rows, and refuses numbers that are not finite.

    Raises:
        DataError: there are some.
    """
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
