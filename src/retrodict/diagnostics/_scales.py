"""Scales of columns, and a few far rows that would decide them.

The standard deviation of a column is decided by its outliers: one of 10,000 rows at 1e4 makes it 100, and two normals
two standard deviations apart become one point each. A few rows, one in 500, *dominate* a column if it has less than a
third of its standard deviation without them.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64


ROWS_PER_OUTLIER = 500  # one row of so many may be an outlier, and at least one
MAX_RATIO = 3.0  # of the sd to that of the other rows; 1.6 for Student's t with two degrees of freedom
MAX_SCORE = 10.0  # a robust score ends here


class OutlierWarning(UserWarning):
    """A warning that a few far rows decide the scale of a variable, so that a test hardly sees the others."""


def without_outliers(rows: Float64[np.ndarray, "n d"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns center and sd `(d,)` of every column without the few rows that are farthest from its median."""
    few = max(1, len(rows) // ROWS_PER_OUTLIER)
    distance = np.abs(rows - np.median(rows, axis=0))
    nearest = np.argsort(distance, axis=0, kind="stable")[: len(rows) - few]
    others = np.take_along_axis(rows, nearest, axis=0)
    return others.mean(axis=0), others.std(axis=0)


def dominated(rows: Float64[np.ndarray, "n d"]) -> np.ndarray:
    """Returns the columns `(d,)` whose sd a few rows decide."""
    return rows.std(axis=0) > MAX_RATIO * without_outliers(rows)[1]


def warn_of_outliers(rows: Float64[np.ndarray, "n d"], labels: Sequence[str], owner: str, cure: str) -> None:
    """Warns of columns whose sd a few rows decide, and names the worst of them."""
    columns = np.flatnonzero(dominated(rows))
    if not len(columns):
        return
    center, sd = (each[columns] for each in without_outliers(rows))
    off = np.abs(rows[:, columns] - center).max(axis=0)
    ratio = rows[:, columns].std(axis=0) / np.maximum(sd, 1e-300)
    worst = int(np.argmax(ratio))
    more = f" (and {len(columns) - 1} other columns)" if len(columns) > 1 else ""
    warnings.warn(
        f"{labels[columns[worst]]} of {owner} has values up to {off[worst]:.2g} from the center of the others, whose "
        f"sd is {sd[worst]:.2g}{more}: scaled by the sd of all, the test hardly sees the others; {cure}",
        OutlierWarning,
        stacklevel=4,
    )


def robust_scores(
    rows: Float64[np.ndarray, "n d"], like: Float64[np.ndarray, "m d"] | None = None
) -> Float64[np.ndarray, "n d"]:
    """Returns z-scores by mean and sd of `like`, by default the rows; robust and cut off where a few rows dominate."""
    like = rows if like is None else like
    few = dominated(like)
    center, sd = (
        np.where(few, robust, plain)
        for robust, plain in zip(without_outliers(like), (like.mean(axis=0), like.std(axis=0)), strict=True)
    )
    scores = (rows - center) / np.where(sd > 0, sd, 1.0)
    return np.where(few, np.clip(scores, -MAX_SCORE, MAX_SCORE), scores)
