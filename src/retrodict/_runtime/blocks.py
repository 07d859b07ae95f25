"""Rows in blocks of one size: memory stays bounded, and one compiled program serves any number of rows."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from retrodict._runtime.progress import Progress


def block_size(rows: int, largest: int) -> int:
    """Returns the number of rows in a block: `largest`, or the next power of two where there are fewer."""
    return min(largest, 1 << (rows - 1).bit_length())


def blocks(rows: int, size: int) -> Iterator[np.ndarray]:
    """Yields the numbers of the rows, `size` of them at a time; the last block may be shorter."""
    for start in range(0, rows, size):
        yield np.arange(start, min(start + size, rows))


def in_blocks(
    compute: Callable[[np.ndarray, int], Any], rows: int, size: int, *, shown: str = "", unit: str = ""
) -> Any:
    """Returns the arrays `(rows, ...)` of `compute(index, k)` for block k, whose rows are `index` `(size,)`.

    The last block is filled up with the first rows again, and what they give is cut off. With `shown` a line of
    progress tells how many rows are done.
    """
    parts = []
    with Progress(shown, rows, shown=bool(shown)) as progress:
        for k, block in enumerate(blocks(rows, size)):
            parts.append(jax.device_get(compute((block[0] + np.arange(size)) % rows, k)))
            progress.at(int(block[-1]) + 1, unit)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:rows], *parts)
