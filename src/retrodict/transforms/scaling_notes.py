"""Notes on a scaling: what it did to training rows where this is not plain, and what single precision then cannot tell.

Each note is one sentence about one variable; plain variables have none.
"""

import warnings

import numpy as np
from jaxtyping import Bool, Float, Float64

from retrodict._errors import DataError
from retrodict.transforms import supports
from retrodict.transforms.robust_scaling import MIN_ROWS, not_far
from retrodict.transforms.scaling import Scaling


NOTED_DECADES = 3.0  # of positive numbers; fewer are ordinary
NOTED_ATOM = 0.5  # the share of rows with one and the same value
NOTED_MERGED = 0.5  # of distinct values that single precision makes equal to a neighbor
CROWDED_SHARE, CROWDED_SPAN = 0.05, 0.01  # a typical 5 % of the rows within a hundredth of a standard deviation
NEAR_AN_END = 0.02  # of an interval
ISLAND_GAP = 1.0  # standard deviations
CURE = "hand over which group, and the place in it, as two variables"
EXAMPLES = 3
MAX_ROWS = 20_000  # that are looked at


class ScalingWarning(UserWarning):
    """A warning that a variable is no ordinary one, and how it was scaled."""


def check(scaling: Scaling, rows: Float[np.ndarray, "n d"]) -> None:
    """Looks at the rows that a scaling was fitted to.

    Raises:
        DataError: what differs between rows is lost in single precision.

    Warns:
        ScalingWarning: each of `notes`.
    """
    rows = rows[:: max(1, len(rows) // MAX_ROWS)]
    for name, share in merged(scaling, rows).items():
        raise DataError(
            f"{share:.0%} of the distinct values of '{name}' are one number after scaling, in single precision: a few "
            "values, far from the others, decide the width, or clusters are as far apart; take these rows out, or hand "
            "over which cluster and the place in it as two variables"
        )
    for note in notes(scaling, rows):
        warnings.warn(note, ScalingWarning, stacklevel=8)


def notes(scaling: Scaling, rows: Float[np.ndarray, "n d"]) -> list[str]:
    """Returns sentences on the variables of `rows`: decades, values shared by many, clusters, rows far out.

    Call it with the rows that the scaling was fitted to.
    """
    far = rows_far_out(scaling, rows)
    told = []
    z = _scaled(scaling, rows)
    for variable in scaling.layout.variables:
        block = scaling.layout.slices[variable.name]
        x = np.asarray(rows[:, block], np.float64)
        texts = _decades(scaling, x, block) + _within_ends(scaling, x, block) + _atoms(x)
        texts += _crowds(z[:, block]) or _islands(x, z[:, block])
        told += [f"'{variable.name}': {text}" for text in texts]
        if variable.name in far:
            told.append(_far_out(variable.name, x, far[variable.name]))
    return told


def rows_far_out(scaling: Scaling, rows: Float[np.ndarray, "n d"]) -> dict[str, np.ndarray]:
    """Returns the indices of rows that lie far from all others, after the map of their variable, by its name.

    They have no say in center and width. Heavy tails that are folded do not lie far.
    """
    u = np.asarray(supports.unconstrain(np.asarray(rows, np.float64), *scaling.layout.ends))
    robust = scaling.robust
    v = (u - robust.center) / robust.width
    v = np.where(robust.heavy, np.arcsinh(v), v)
    far = np.zeros(v.shape, bool)
    for j in range(v.shape[1]):  # a function has no value where it has no point
        there = np.isfinite(v[:, j])
        if there.sum() >= MIN_ROWS:
            far[there, j] = ~not_far(v[there, j : j + 1])[:, 0]
    indices = {name: np.flatnonzero(far[:, block].any(axis=1)) for name, block in scaling.layout.slices.items()}
    return {name: index for name, index in indices.items() if index.size}


def merged(scaling: Scaling, rows: Float[np.ndarray, "n d"]) -> dict[str, float]:
    """Returns the share of neighboring distinct values that are one number in single precision, by variable.

    Only variables with more than `NOTED_MERGED` are named: what differs there cannot be learned from.
    """
    z = _scaled(scaling, rows).astype(np.float32)
    shares = {}
    for name, block in scaling.layout.slices.items():
        lost = [_merged(np.asarray(rows[:, j], np.float64), z[:, j]) for j in range(block.start, block.stop)]
        shares[name] = max(lost, default=0.0)
    return {name: share for name, share in shares.items() if share > NOTED_MERGED}


def _scaled(scaling: Scaling, rows: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    u = supports.unconstrain(np.asarray(rows, np.float64), *scaling.layout.ends)
    return np.asarray(scaling.robust.forward(u))


def _merged(x: Float64[np.ndarray, " n"], z: np.ndarray) -> float:
    order = np.argsort(x)
    x, z = x[order], z[order]
    distinct: Bool[np.ndarray, " m"] = np.diff(x) > 0
    return float(np.mean(np.diff(z)[distinct] == 0)) if distinct.any() else 0.0


def _decades(scaling: Scaling, x: Float64[np.ndarray, "n k"], block: slice) -> list[str]:
    """Returns a note on a variable that is taken by its log, though it was not declared positive."""
    heavy, center = np.asarray(scaling.robust.heavy[block]), np.asarray(scaling.robust.center[block])
    size = abs(x[:, heavy])
    size = size[size > 0]
    if not size.size or not np.isinf(scaling.layout.ends[0][block]).all():
        return []
    low, high = np.quantile(size, [0.001, 0.999])
    decades = np.log10(high / low)
    # the log begins where the fold does
    if decades < NOTED_DECADES or (abs(center[heavy]) > np.quantile(size, 0.05)).all():
        return []
    least = np.nanmin(x)
    if least < 0 < np.nanmax(x):
        return []  # tails that are folded
    sign = "positive" if least > 0 else "negative" if least < 0 else "not negative"
    cure = "; `supports=` of the Problem can declare it positive" if least > 0 else ""
    return [f"{sign} over {decades:.0f} decades, taken by its log{cure}"]


def _within_ends(scaling: Scaling, x: Float64[np.ndarray, "n k"], block: slice) -> list[str]:
    """Returns a note on an interval most of whose rows lie next to an end, over decades."""
    low, high = (end[block] for end in scaling.layout.ends)
    between = np.isfinite(low) & np.isfinite(high)
    if not between.any():
        return []
    shares = (x[:, between] - low[between]) / (high[between] - low[between])
    least, middle = np.nanquantile(np.minimum(shares, 1.0 - shares), [0.01, 0.5], axis=0)
    decades = np.log10(middle / np.maximum(least, 1e-30))
    spread = (middle < NEAR_AN_END) & (decades > NOTED_DECADES - 1.0)
    if not spread.any():
        return []
    return [
        f"its values span {decades[spread].max():.0f} decades or more next to an end of its support, and those nearest "
        "to it are hardly told apart; take its log for the variable, and write the exponential into the simulator"
    ]


def _islands(x: Float64[np.ndarray, "n k"], z: Float64[np.ndarray, "n k"]) -> list[str]:
    """Returns a note on a small group of rows far from the others, which is narrow beside its distance from them."""
    for j in range(z.shape[1]):
        column = z[np.isfinite(z[:, j]), j]
        order = np.argsort(column)
        groups = np.split(order, np.flatnonzero(np.diff(column[order]) > ISLAND_GAP) + 1)
        for group in groups if len(groups) > 1 else []:
            values = column[group]
            if MIN_ROWS <= len(group) < len(column) / 2 and len(np.unique(values)) > len(group) / 2:
                span = float(np.diff(np.quantile(values, [0.05, 0.95]))[0])
                if span < CROWDED_SPAN:
                    share, near = len(group) / len(column), float(np.median(x[np.isfinite(z[:, j]), j][group]))
                    return [
                        f"{share:.1%} of its values lie apart, near {near:.3g}, within {span:.1g} of its standard "
                        f"deviation, and what differs among them is hardly seen; {CURE}"
                    ]
    return []


def _atoms(x: Float64[np.ndarray, "n k"]) -> list[str]:
    """Returns a note on the value that most rows share, if the others have many values."""
    values, counts = np.unique(x[np.isfinite(x)], return_counts=True)
    if not counts.size or counts.sum() == counts.max() or counts.max() < NOTED_ATOM * counts.sum():
        return []
    share, value = counts.max() / counts.sum(), values[counts.argmax()]
    if len(values) < 0.5 * (counts.sum() - counts.max()):
        return []  # a small count, as most of its kind
    return [f"{share:.0%} of its values are {value:g}; a flow draws values near {value:g} instead of it"]


def _crowds(z: Float64[np.ndarray, "n k"]) -> list[str]:
    """Returns a note on a variable whose rows lie in clusters that are narrow beside the distance between them."""
    step = max(1, int(CROWDED_SHARE * len(z)))
    z = np.sort(z, axis=0)
    if len(z) < MIN_ROWS or np.mean(np.diff(z, axis=0) > 0) < 0.5:
        return []
    span = float(np.nanmedian(z[step:] - z[:-step]))
    if span >= CROWDED_SPAN:
        return []
    return [
        f"half of its values lie in crowds, {CROWDED_SHARE:.0%} of the rows within {span:.1g} of its standard "
        f"deviation, and what differs there is hardly seen; {CURE}"
    ]


def _far_out(name: str, x: Float64[np.ndarray, "n k"], index: np.ndarray) -> str:
    extreme = x[index].reshape(-1)
    extreme = extreme[np.argmax(abs(extreme - np.nanmedian(x)))]
    which = ", ".join(map(str, index[:EXAMPLES])) + (", ..." if len(index) > EXAMPLES else "")
    lie = "lies" if len(index) == 1 else "lie"
    return (
        f"'{name}': {len(index)} of {len(x)} rows {lie} far out, up to {extreme:.3g} ({which}); center and width "
        "leave them out, and where the simulator failed, let it return NaN"
    )
