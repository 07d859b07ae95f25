"""Corner plots: sets of draws, every element against every other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodict._errors import DataError, unknown
from retrodict.diagnostics.summary import columns
from retrodict.plots._style import INK, MASSES, WIDTH, Numbers, colors, new_figure, sets_of, styled


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any

MAX_CORNER_ELEMENTS = 12  # more panels cannot be read


@styled
def corner(
    draws: Mapping[str, Numbers] | Mapping[str, Mapping[str, Numbers]],
    *,
    names: Sequence[str] | None = None,
    truth: Mapping[str, Numbers] | None = None,
) -> Figure:
    """Draws a histogram of each element and, below the diagonal, contours of each pair of elements.

    How to read it: the inner contour holds 50 % of the draws and the outer one 90 %. A tilted contour is a correlation,
    two islands are two modes. Dashed lines are the truth; for a calibrated posterior they lie within the outer contour
    nine times out of ten. Several sets of draws lie over each other: equal posteriors have equal contours.

    Args:
        draws: one set of draws `{name: (n,) or (n, *shape)}`, as `model.sample` returns, or several sets
            `{label: {name: draws}}`. Arrays are shown element by element, as `theta[0]`.
        names: the variables or elements to show; default: those in all sets.
        truth: values by name, shown as lines. Names that are not shown are ignored.

    Raises:
        DataError: no draws, a name that a set lacks, or more than 12 elements.
    """
    sets = {label: _elements(values) for label, values in sets_of(draws, "a corner").items()}
    keys = _shared_elements(sets, names)
    lines = _elements({name: np.asarray(value)[None] for name, value in (truth or {}).items()})
    d = len(keys)
    size = min(WIDTH, 1.6 + 1.35 * d)
    figure = new_figure(size, size if d > 1 else 0.8 * size)
    grid = figure.add_gridspec(d, d)
    for i, j in zip(*np.tril_indices(d), strict=True):
        ax = figure.add_subplot(grid[int(i), int(j)])
        for (label, values), color in zip(sets.items(), colors(len(sets)), strict=True):
            if i == j:
                _histogram(ax, values[keys[i]], label, color)
            else:
                _contours(ax, values[keys[j]], values[keys[i]], color)
        _set_limits(ax, keys[j], keys[i], sets, lines)
        ax.label_outer()
    handles, texts = figure.axes[0].get_legend_handles_labels()
    if d > 1:
        figure.legend(handles, texts, loc="upper right", title="contours: 50 % and 90 %", alignment="left")
    elif handles:
        figure.legend(handles, texts, loc="outside upper center", ncols=len(texts))
    return figure


def _elements(values: Mapping[str, Numbers]) -> dict[str, np.ndarray]:
    """Splits arrays `(n, *shape)` into columns `(n,)` by element: `rate`, `theta[0]`, `field[1,2]`.

    Raises:
        DataError: an array of another kind, or of another number of draws.
    """
    arrays = {}
    for name, draws in values.items():
        try:
            arrays[name] = np.asarray(draws, float)
        except (TypeError, ValueError) as error:
            raise DataError(f"'{name}' must be an array of numbers (n,) or (n, *shape): {error}") from error
        if not arrays[name].ndim:
            raise DataError(f"'{name}' is a single number, where draws of the shape (n,) or (n, *shape) are needed")
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the variables of a set need one number of draws, got {counts}")
    return {key: np.where(np.isfinite(column), column, np.nan) for key, column in columns(arrays).items()}


def _shared_elements(sets: Mapping[str, Mapping[str, np.ndarray]], names: Sequence[str] | None) -> list[str]:
    """Returns the elements to show, which every set has."""
    shared = [key for key in next(iter(sets.values())) if all(key in values for values in sets.values())]
    keys = []
    for name in shared if names is None else names:
        elements = [key for key in shared if key == name or key.startswith(f"{name}[")]
        if not elements:
            raise DataError(unknown("the corner", name, shared, owner="all sets have"))
        keys += elements
    for key in keys:
        if not all(np.isfinite(values[key]).any() for values in sets.values()):
            raise DataError(f"'{key}' has no finite draw in one of the sets: there is nothing to show")
    if not 0 < len(keys) <= MAX_CORNER_ELEMENTS:
        raise DataError(
            f"a corner shows 1 to {MAX_CORNER_ELEMENTS} elements, got {len(keys)} that all sets have: choose by names="
        )
    return keys


def _set_limits(
    ax: Axes, column: str, row: str, sets: Mapping[str, Mapping[str, np.ndarray]], lines: Mapping[str, np.ndarray]
) -> None:
    """Sets limits that contain 99 % of each set and the truth, and draws the truth as lines."""
    from matplotlib.ticker import MaxNLocator

    for key, axis in ((column, "x"), *([(row, "y")] if row != column else [])):
        ends = np.concatenate([np.nanquantile(s[key], [0.005, 0.995]) for s in sets.values()] + [lines.get(key, [])])
        pad = 0.08 * (np.nanmax(ends) - np.nanmin(ends)) or 0.5
        ax.set(**{f"{axis}lim": (np.nanmin(ends) - pad, np.nanmax(ends) + pad), f"{axis}label": key})
        getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        for value in lines.get(key, []):
            line = ax.axvline if axis == "x" else ax.axhline
            line(value, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), label="truth")
    if row == column:
        ax.set(yticks=[])
        ax.spines["left"].set_visible(False)


def _histogram(ax: Axes, values: np.ndarray, label: str, color: str) -> None:
    values = values[np.isfinite(values)]
    bins = int(np.clip(2 * len(values) ** (1 / 3), 10, 60))
    ends = np.quantile(values, [0.001, 0.999], method="inverted_cdf")
    style = {"bins": bins, "range": ends, "density": True, "histtype": "stepfilled"}
    ax.hist(values, **style, facecolor=(color, 0.22), edgecolor=color, linewidth=1.1, label=label or None)


def _contours(ax: Axes, x: np.ndarray, y: np.ndarray, color: str) -> None:
    """Draws the two regions of highest density that hold 90 % and 50 % of the draws."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    bins = int(np.clip(len(x) ** 0.5 / 1.6, 12, 60))
    ends = [np.quantile(v, [0.001, 0.999], method="inverted_cdf") for v in (x, y)]
    ends = [(low, high) if low < high else (low - 0.5, high + 0.5) for low, high in ends]
    counts, xs, ys = np.histogram2d(x, y, bins=bins, range=ends)
    counts = np.pad(counts, 2)  # a rim of zeros closes the contours
    for axis in (0, 1):  # a little smoothing over neighbors, (1, 2, 1) / 4
        counts = (2 * counts + np.roll(counts, 1, axis) + np.roll(counts, -1, axis)) / 4
    ranked = np.sort(counts.ravel())[::-1]
    share = np.cumsum(ranked) / ranked.sum()
    levels = sorted({ranked[np.searchsorted(share, mass)] for mass in MASSES} - {ranked[0]})
    step = [edges[1] - edges[0] for edges in (xs, ys)]
    centers = [edges[0] + h * (np.arange(bins + 4) - 1.5) for edges, h in zip((xs, ys), step, strict=True)]
    if levels:
        ax.contourf(*centers, counts.T, [*levels, ranked[0]], colors=[(color, 0.2), (color, 0.4)][-len(levels) :])
        ax.contour(*centers, counts.T, levels, colors=color, linewidths=0.9)
