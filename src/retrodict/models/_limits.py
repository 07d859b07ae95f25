"""Limits: the range of every element in simulations, and what their tail lets expect beyond it.

A tail is taken for exponential: of n values the r largest exceed the next one, b, by s in the mean, and

    P(z > limit) = level    at    limit = b + s log(r / (n level))

so that a limit at any level, as many observations at once need it, costs a logarithm. Coordinates fold heavy tails,
which are exponential then; lighter ones make false alarms rarer.

Source: Breiman, Stone and Kooperberg 1990 (exponential tails).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from retrodict.transforms import Scaling
from retrodict.variables import Layout


LEVEL = 1e-3  # false alarms of a question: of plain observations fewer than 1 in 1,000 are called unlike
ALONE = 0.5  # share of the level for elements alone: tails are estimated
MIN_TAIL, MAX_TAIL = 5, 50
FAR = 10.0  # coordinates beyond are far
TOLERANCE = 1e-3  # of limits, in coordinates: rounding
MIN_MARGIN = 0.01  # of the simulated range, beyond which a bounded value is far: its coordinate has no end there


class Tails(NamedTuple):
    """Lower and upper ends of columns `(2, k)`: the range, the limits at a level, and what a factor e of it adds."""

    ends: Float[np.ndarray, "2 k"]
    limits: Float[np.ndarray, "2 k"]
    scales: Float[np.ndarray, "2 k"]


def alone_level(elements: int) -> float:
    """Returns the level of one end of one element."""
    return ALONE * LEVEL / (2 * max(1, elements))


def tails_of_columns(columns: Float[np.ndarray, "n k"], level: float) -> Tails:
    """Returns the ends of columns and the limits beyond which lies a share `level`; NaN is left out."""
    upper, lower = _upper_tail(columns, level), _upper_tail(-columns, level)
    ends, limits = (np.stack([-low, high]) for low, high in zip(lower[:2], upper[:2], strict=True))
    constant = ends[0] == ends[1]
    if constant.sum() > max(1.0, LEVEL * len(columns)):  # many that might be another once in n rows
        limits = np.where(constant, ends + np.array([[-FAR], [FAR]]), limits)
    return Tails(ends, limits, np.stack([lower[2], upper[2]]))


def _upper_tail(columns: Float[np.ndarray, "n k"], level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns of every column the largest value, the limit, and the scale of what lies beyond."""
    n = len(columns)
    r = min(n - 1, max(MIN_TAIL, min(MAX_TAIL, n // 20)))
    values = np.where(np.isfinite(columns), columns, -np.inf)
    top = np.sort(np.partition(values, n - 1 - r, axis=0)[n - 1 - r :], axis=0)
    highest = np.where(np.isfinite(top[-1]), top[-1], 0.0)
    top = np.where(np.isfinite(top), top, highest)
    # the mean of r values is uncertain, and so is the largest of a count, by its step
    scale = (top[1:] - top[0]).mean(axis=0) * (1.0 + 1.5 / r**0.5)
    below = np.where(top < highest, top, -np.inf).max(axis=0)
    step = np.minimum(np.where(np.isfinite(below), highest - below, 0.0), scale)
    limit = np.maximum(highest + step, top[0] + scale * max(0.0, np.log(r / (n * level))))
    # what happened a few times has no tail
    events = (top[1:] > top[0]).sum(axis=0)
    rare = (events > 0) & (events < MIN_TAIL)
    room = 2.0 * MIN_TAIL / np.maximum(events, 1) * (highest - top[0])
    limit = np.where(rare, np.maximum(limit, highest + room), limit)
    return highest, limit + TOLERANCE, scale


def tails_of(layout: Layout, z: Float[np.ndarray, "n d"], limited: Int[np.ndarray, " q"]) -> Tails:
    """Returns the tails of tokens; all points of a function share theirs."""
    level = alone_level(len(limited))
    tails = tails_of_columns(z[:, limited].astype(np.float64), level)
    arrays = [np.array(array) for array in tails]
    for name in (*layout.functions, *layout.places):
        block = layout.slices[name]
        columns = (limited >= block.start) & (limited < block.stop)
        axes = 1 if name in layout.functions else layout[name.removesuffix(".at")].axes
        for axis in range(axes):
            mine = columns & ((limited - block.start) % axes == axis)
            pooled = tails_of_columns(z[:, block][:, axis::axes].reshape(-1, 1).astype(np.float64), level)
            for array, values in zip(arrays, pooled, strict=True):
                array[:, mine] = values
    return Tails(*arrays)


def widened_tails(scaling: Scaling, tails: Tails, limited: Int[np.ndarray, " q"]) -> Tails:
    """Returns tails whose limits leave room at the ends of supports, where coordinates stretch without bound.

    Parameters, and data with two ends, are as far out as `MIN_MARGIN` of their range at least.
    """
    layout = scaling.layout
    low, high = layout.ends
    bounded = (np.isfinite(low) & np.isfinite(high)) | (layout.is_parameter & (np.isfinite(low) | np.isfinite(high)))
    if not bounded[limited].any():
        return tails
    z = np.zeros((2, layout.size))
    z[:, limited] = tails.ends
    units = np.asarray(scaling.inverse(z), np.float64)
    margin = MIN_MARGIN * (units[1] - units[0])
    room = np.asarray(scaling.forward(np.clip([units[0] - margin, units[1] + margin], low, high)))[:, limited]
    wider = np.stack([np.minimum(tails.limits[0], room[0]), np.maximum(tails.limits[1], room[1])])
    return tails._replace(limits=np.where(bounded[limited], wider, tails.limits))
