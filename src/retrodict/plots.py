"""Pictures: results in, matplotlib figures out.

Nothing is computed here but counts and quantiles, and every picture says "how sure" in two masses, 50 % and 90 %:

    band, bar       from the quantile (1 - q) / 2 of the draws to the quantile (1 + q) / 2,   q = .5, .9
    contour         the level of a 2-D histogram above which a share q of the draws lies

A figure is a free-standing `matplotlib.figure.Figure`: `pyplot` and its global state are never touched, so nothing pops
up, nothing leaks and no display is needed; show it in a notebook, `save` it, or hand it to a report. Colors are those
of Okabe and Ito, which color-blind readers can tell apart. NaN means "not there" and is left out.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
from jaxtyping import ArrayLike

from retrodict._errors import DataError, FileError, listed, unknown


# matplotlib is imported where it is used, so that `import retrodict` does not pay for it.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # names that a run-time type checker can resolve

Numbers: TypeAlias = ArrayLike | Sequence[Any]
P = ParamSpec("P")
R = TypeVar("R")

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, INK, PENCIL = "#E69F00", "#56B4E9", "#222222", "#8a8a8a"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MASSES = (0.5, 0.9)
_WIDTH = 7.0  # inches: the text width of a page
_DPI = 150
_MOST = 12  # elements of a corner that can still be read
_STYLE: dict[str, Any] = (
    dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 8.5)
    | dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "legend.title_fontsize"), 7.5)
    | dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6)
    | dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), PENCIL)
    | dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK)
    | dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
)


def _styled(draw: Callable[P, R]) -> Callable[P, R]:
    """`draw` under this module's style, which is gone when it returns."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def corner(
    samples: Mapping[str, Mapping[str, Numbers]],
    *,
    names: Sequence[str] | None = None,
    truth: Mapping[str, Numbers] | None = None,
) -> Figure:
    """Several sets of draws over each other: histograms on the diagonal, 50 % and 90 % contours below it.

    `samples` maps a label to a mapping from name to draws `(n,)` or `(n, *shape)`, the latter shown element by element
    as `theta[0]`. `names` chooses variables or elements (default: those that all sets have); `truth` maps names to
    values, shown as lines; what it has beyond the names shown is ignored.

    Raises:
        DataError: no draws, a name that a set lacks, or more than 12 elements.
    """
    if not samples:
        raise DataError("a corner needs at least one set of draws, {label: {name: draws}}")
    sets = {label: _elements(values) for label, values in samples.items()}
    keys = _chosen(sets, names)
    lines = _elements({name: np.asarray(value)[None] for name, value in (truth or {}).items()})
    d = len(keys)
    size = min(_WIDTH, 1.6 + 1.35 * d)
    figure = _figure(size, size if d > 1 else 0.8 * size)
    grid = figure.add_gridspec(d, d)
    for i, j in zip(*np.tril_indices(d), strict=True):
        ax = figure.add_subplot(grid[int(i), int(j)])
        for (label, values), color in zip(sets.items(), _colors(len(sets)), strict=True):
            if i == j:
                _histogram(ax, values[keys[i]], label, color)
            else:
                _contours(ax, values[keys[j]], values[keys[i]], color)
        _frame(ax, keys[j], keys[i], sets, lines)
        ax.label_outer()
    handles, texts = figure.axes[0].get_legend_handles_labels()
    if d > 1:
        figure.legend(handles, texts, loc="upper right", title="contours: 50 % and 90 %", alignment="left")
    else:
        figure.legend(handles, texts, loc="outside upper center", ncols=len(texts))
    return figure


@_styled
def bands(ax: Axes, x: Numbers, draws: Numbers, *, label: str = "", color: str = BLUE) -> None:
    """The median of draws `(n, m)` as a line over `x` `(m,)`, and their central 50 % and 90 % as two bands.

    Columns without a draw are gaps; a column between two gaps is a dot with two bars.

    Raises:
        DataError: the draws have not one column per entry of `x`.
    """
    x, rows = np.asarray(x, float), _rows(draws, "the draws")
    if x.ndim != 1 or rows.shape[1] != len(x):
        raise DataError(f"the draws need one column per entry of x, got the shapes {rows.shape} and {x.shape}")
    low, inner_low, median, inner_high, high = _quantiles(rows)
    ax.fill_between(x, low, high, facecolor=(color, 0.18), edgecolor=(color, 0.5), linewidth=0.4)
    ax.fill_between(x, inner_low, inner_high, facecolor=(color, 0.32), linewidth=0)
    ax.plot(x, median, color=color, linewidth=1.3, label=label, solid_capstyle="round")
    there = np.concatenate([[False], np.isfinite(median), [False]])
    alone = there[1:-1] & ~there[:-2] & ~there[2:]
    _bars(ax, x[alone], rows[:, alone], color)


@_styled
def forecast(
    years: Numbers,
    observed: Mapping[str, Numbers],
    draws: Mapping[str, Numbers],
    split: float | int,
    *,
    xlabel: str = "year",
    log: bool = False,
) -> Figure:
    """One panel per series: what was given (filled dots), what was held out (hollow dots) and what the model drew.

    `years` is `(m,)`, `observed` maps a series to `(m,)`, `draws` the same series to `(n, m)`; `split` is the last year
    that was given. `log` puts the values on a logarithmic axis.

    Raises:
        DataError: the series differ in name, or do not have one value per year.
    """
    years = np.asarray(years, float)
    _same(observed, draws)
    figure, panels = _stack(list(observed), xlabel, x=years)
    given = years <= split
    for (name, ax), color in zip(panels.items(), _colors(len(panels)), strict=True):
        seen = _line(observed[name], years, name)
        bands(ax, years, draws[name], color=color)
        ax.plot(years[given], seen[given], "o", color=INK, markersize=3.2, zorder=3, label="given")
        ax.plot(years[~given], seen[~given], "o", color=INK, markersize=3.6, mfc="white", zorder=3, label="held out")
        ax.axvline(split, color=PENCIL, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        if log:
            _logarithmic(ax)
    _legend(figure, panels)
    return figure


@_styled
def missing(
    truth: Mapping[str, Numbers],
    draws: Mapping[str, Numbers],
    *,
    labels: Mapping[str, Sequence[Any]] | None = None,
    xlabel: str = "missing element",
) -> Figure:
    """One panel per variable: what the model says of its missing elements (dot and bars), and the true values (ticks).

    `truth` maps a name to `(k,)` values, `draws` the same names to `(n, k)`; `labels` names the `k` elements.

    Raises:
        DataError: the names differ, or a variable has not one column of draws per true value.
    """
    _same(truth, draws)
    figure, panels = _stack(list(truth), xlabel)
    for (name, ax), color in zip(panels.items(), _colors(len(panels)), strict=True):
        true, rows = np.asarray(truth[name], float), _rows(draws[name], f"'{name}'")
        if true.shape != rows.shape[1:]:
            raise DataError(f"'{name}' has true values of shape {true.shape} and draws of shape {rows.shape}")
        place = np.arange(len(true))
        _bars(ax, place, rows, color)
        ax.plot(place, true, "_", label="true value", color=INK, markersize=11, markeredgewidth=1.6, zorder=4)
        ax.set_xticks(place, [str(text) for text in (labels or {}).get(name, place + 1)])
        ax.margins(x=0.5 / max(len(true), 1))
    _legend(figure, panels, "dot: median, bars: 50 % and 90 %")
    return figure


@_styled
def overlay(
    x: Numbers,
    series: Mapping[str, Mapping[str, Numbers]],
    *,
    observed: Mapping[str, Numbers] | None = None,
    xlabel: str = "",
    log: bool = False,
) -> Figure:
    """Draws of the same series from several sources, such as model and simulator, as bands over each other.

    `x` is `(m,)`; `series` maps a source to a mapping from a series to draws `(n, m)`, one panel per series; `observed`
    maps a series to `(m,)` values, shown as dots.

    Raises:
        DataError: the sources differ in their series, or a series has not one value per entry of `x`.
    """
    if not series:
        raise DataError("an overlay needs at least one source, {source: {series: draws}}")
    x, first = np.asarray(x, float), next(iter(series.values()))
    for other in series.values():
        _same(first, other)
    figure, panels = _stack(list(first), xlabel, x=x)
    for name, ax in panels.items():
        for (source, values), color in zip(series.items(), _colors(len(series)), strict=True):
            bands(ax, x, values[name], label=source, color=color)
        if observed and name in observed:
            ax.plot(x, _line(observed[name], x, name), "o", color=INK, markersize=3.2, zorder=3, label="observed")
        if log:
            _logarithmic(ax)
    _legend(figure, panels)
    return figure


@_styled
def losses(history: Any) -> Figure:
    """Training and validation loss by step, the lowest validation loss marked.

    `history` has `step`, `train` and `validation`, each `(k,)`, as attributes or as keys.
    """
    part = history.__getitem__ if isinstance(history, Mapping) else functools.partial(getattr, history)
    step, train, validation = (np.asarray(part(name), float) for name in ("step", "train", "validation"))
    figure = _figure(0.65 * _WIDTH, 2.6)
    ax = figure.subplots()
    for values, label, color in ((train, "training", SKY), (validation, "validation", BLUE)):
        there = np.isfinite(values)
        ax.plot(step[there], values[there], color=color, linewidth=1.3, label=label)
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        text = f"lowest: {validation[best]:.4g} at step {step[best]:.0f}"
        ax.plot(step[best], validation[best], "o", color=BLUE, markersize=4, label=text)
    # The first steps dwarf the rest; only positive losses can be put on a logarithmic axis to show both.
    known = np.concatenate([train, validation])
    if known[np.isfinite(known)].min(initial=np.inf) > 0:
        _logarithmic(ax)
    ax.set(xlabel="step", ylabel="loss")
    ax.legend()
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as PNG (150 dots per inch) or SVG, by the ending of `path`.

    Raises:
        FileError: another ending, or a place that cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".png", ".svg"):
        raise FileError(f"a figure is saved as .png or .svg, not as '{path.name}'")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind[1:], dpi=_DPI)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise FileError(f"'{path}' cannot be written: {error.strerror}") from error
    return path


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as FreeFigure

    return FreeFigure(figsize=(width, height), layout="constrained")


def _stack(names: Sequence[str], xlabel: str, x: np.ndarray | None = None) -> tuple[Figure, dict[str, Axes]]:
    """One panel per name, one below the other, over a common axis if there is one; whole years get no fractions."""
    if not names:
        raise DataError("there is no series to show: the mapping is empty")
    figure = _figure(_WIDTH, 0.7 + 1.6 * len(names))
    panels = figure.subplots(len(names), 1, squeeze=False, sharex=x is not None)[:, 0]
    for name, ax in zip(names, panels, strict=True):
        ax.set_ylabel(name)
    panels[-1].set_xlabel(xlabel)
    if x is not None and np.all(x == np.round(x)):
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure, dict(zip(names, panels, strict=True))


def _logarithmic(ax: Axes) -> None:
    """A logarithmic axis of values with plain numbers at 1, 2, 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, panels: Mapping[str, Axes], key: str = "line: median, bands: 50 % and 90 %") -> None:
    """One legend above all panels, which says what the bands mean."""
    found = [ax.get_legend_handles_labels() for ax in panels.values()]
    handles = {text: handle for pair in found for handle, text in zip(*pair, strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), title=key)


def _colors(count: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _rows(draws: Numbers, what: str) -> np.ndarray:
    rows = np.asarray(draws, float)
    if rows.ndim != 2 or not len(rows):
        raise DataError(f"{what} must have the shape (draws, elements) with at least one draw, got {rows.shape}")
    return np.where(np.isfinite(rows), rows, np.nan)


def _line(values: Numbers, x: np.ndarray, name: str) -> np.ndarray:
    line = np.asarray(values, float)
    if line.shape != x.shape:
        raise DataError(f"'{name}' has the shape {line.shape}, where one value for each of {len(x)} is needed")
    return line


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    if one.keys() != other.keys():
        raise DataError(f"both must name the same variables, got {listed(one)} and {listed(other)}")


def _quantiles(rows: np.ndarray) -> np.ndarray:
    """`(5, m)`: the ends of the 90 % and the 50 % band around the median; NaN in a column without draws."""
    ends = [0.5 + side * mass / 2 for side in (-1, 1) for mass in MASSES]
    full = np.isfinite(rows).any(axis=0)
    quantiles = np.full((5, rows.shape[1]), np.nan)
    quantiles[:, full] = np.nanquantile(rows[:, full], sorted([*ends, 0.5]), axis=0)
    return quantiles


def _bars(ax: Axes, x: np.ndarray, rows: np.ndarray, color: str) -> None:
    low, inner_low, median, inner_high, high = _quantiles(rows)
    ax.vlines(x, low, high, color=color, linewidth=1.2, alpha=0.6)
    ax.vlines(x, inner_low, inner_high, color=color, linewidth=4.5, alpha=0.6)
    ax.plot(x, median, "o", color=color, markersize=4.5, markeredgecolor="white", markeredgewidth=0.6, zorder=3)


def _elements(values: Mapping[str, Numbers]) -> dict[str, np.ndarray]:
    """`(n, *shape)` arrays taken apart: `rate`, `theta[0]`, `field[1,2]`, each `(n,)`."""
    columns = {}
    for name, draws in values.items():
        array = np.asarray(draws, float)
        if not array.ndim:
            raise DataError(f"'{name}' is a single number, where draws of the shape (n,) or (n, *shape) are needed")
        for index in np.ndindex(array.shape[1:]):
            key = f"{name}[{','.join(map(str, index))}]" if index else name
            column = array[(slice(None), *index)]
            columns[key] = np.where(np.isfinite(column), column, np.nan)
    return columns


def _chosen(sets: Mapping[str, Mapping[str, np.ndarray]], names: Sequence[str] | None) -> list[str]:
    """The elements to show, each of which every set has."""
    shared = [key for key in next(iter(sets.values())) if all(key in values for values in sets.values())]
    keys = []
    for name in shared if names is None else names:
        found = [key for key in shared if key == name or key.startswith(f"{name}[")]
        if not found:
            raise DataError(unknown("the corner", name, shared, owner="all sets have"))
        keys += found
    for key in keys:
        if not all(np.isfinite(values[key]).any() for values in sets.values()):
            raise DataError(f"'{key}' has no finite draw in one of the sets: there is nothing to show")
    if not 0 < len(keys) <= _MOST:
        raise DataError(f"a corner shows 1 to {_MOST} elements, got {len(keys)} that all sets have: choose by names=")
    return keys


def _frame(
    ax: Axes, column: str, row: str, sets: Mapping[str, Mapping[str, np.ndarray]], lines: Mapping[str, np.ndarray]
) -> None:
    """Limits that hold 99 % of each set and the truth; few ticks; the truth as lines."""
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
    ax.hist(values, **style, facecolor=(color, 0.22), edgecolor=color, linewidth=1.1, label=label)


def _contours(ax: Axes, x: np.ndarray, y: np.ndarray, color: str) -> None:
    """The two regions of highest density that hold 90 % and 50 % of the draws."""
    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    bins = int(np.clip(len(x) ** 0.5 / 1.6, 12, 60))
    ends = [np.quantile(v, [0.001, 0.999], method="inverted_cdf") for v in (x, y)]
    ends = [(low, high) if low < high else (low - 0.5, high + 0.5) for low, high in ends]
    counts, xs, ys = np.histogram2d(x, y, bins=bins, range=ends)
    counts = np.pad(counts, 2)  # a rim of nothing, so that contours close
    for axis in (0, 1):  # a touch of smoothing over neighbors, (1, 2, 1) / 4
        counts = (2 * counts + np.roll(counts, 1, axis) + np.roll(counts, -1, axis)) / 4
    ranked = np.sort(counts.ravel())[::-1]
    share = np.cumsum(ranked) / ranked.sum()
    levels = sorted({ranked[np.searchsorted(share, mass)] for mass in MASSES} - {ranked[0]})
    step = [edges[1] - edges[0] for edges in (xs, ys)]
    centers = [edges[0] + h * (np.arange(bins + 4) - 1.5) for edges, h in zip((xs, ys), step, strict=True)]
    if levels:
        ax.contourf(*centers, counts.T, [*levels, ranked[0]], colors=[(color, 0.2), (color, 0.4)][-len(levels) :])
        ax.contour(*centers, counts.T, levels, colors=color, linewidths=0.9)
