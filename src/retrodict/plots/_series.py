"""Series and curves: bands over years, what was missing, one source over another, losses."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodict._errors import DataError, unknown
from retrodict.plots._style import (
    BLUE,
    INK,
    MASSES,
    PENCIL,
    SKY,
    WIDTH,
    Numbers,
    colors,
    line_of,
    logarithmic,
    new_figure,
    rows_of,
    same_names,
    styled,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any


@styled
def bands(ax: Axes, x: Numbers, draws: Numbers, *, label: str = "", color: str = BLUE) -> None:
    """The median of draws `(n, m)` as a line over `x` `(m,)`, and their central 50 % and 90 % as two bands.

    Columns without a draw are gaps; a column between two gaps is a dot with two bars.

    Raises:
        DataError: the draws have not one column per entry of `x`.
    """
    x, rows = np.asarray(x, float), rows_of(draws, "the draws")
    if x.ndim != 1 or rows.shape[1] != len(x):
        raise DataError(f"the draws need one column per entry of x, got the shapes {rows.shape} and {x.shape}")
    low, inner_low, median, inner_high, high = _quantiles(rows)
    ax.fill_between(x, low, high, facecolor=(color, 0.18), edgecolor=(color, 0.5), linewidth=0.4)
    ax.fill_between(x, inner_low, inner_high, facecolor=(color, 0.32), linewidth=0)
    ax.plot(x, median, color=color, linewidth=1.3, label=label, solid_capstyle="round")
    there = np.concatenate([[False], np.isfinite(median), [False]])
    alone = there[1:-1] & ~there[:-2] & ~there[2:]
    _bars(ax, x[alone], rows[:, alone], color)


@styled
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
    same_names(observed, draws)
    lines, given = {name: line_of(values, years, name) for name, values in observed.items()}, years <= split
    seen, later = ({name: (years[which], line[which]) for name, line in lines.items()} for which in (given, ~given))
    figure = scattered(years, draws, seen, held_out=later, xlabel=xlabel)
    for ax in figure.axes:
        ax.axvline(split, color=PENCIL, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        if log:
            logarithmic(ax)
    return figure


@styled
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
    same_names(truth, draws)
    figure, panels = _stack(list(truth), xlabel)
    for (name, ax), color in zip(panels.items(), colors(len(panels)), strict=True):
        true, rows = np.asarray(truth[name], float), rows_of(draws[name], f"'{name}'")
        if true.shape != rows.shape[1:]:
            raise DataError(f"'{name}' has true values of shape {true.shape} and draws of shape {rows.shape}")
        place = np.arange(len(true))
        _bars(ax, place, rows, color)
        ax.plot(place, true, "_", label="true value", color=INK, markersize=11, markeredgewidth=1.6, zorder=4)
        ax.set_xticks(place, [str(text) for text in (labels or {}).get(name, place + 1)])
        ax.margins(x=0.5 / max(len(true), 1))
    _legend(figure, panels, "dot: median, bars: 50 % and 90 %")
    return figure


@styled
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
        same_names(first, other)
    figure, panels = _stack(list(first), xlabel, x=x)
    for name, ax in panels.items():
        for (source, values), color in zip(series.items(), colors(len(series)), strict=True):
            bands(ax, x, values[name], label=source, color=color)
        if observed and name in observed:
            ax.plot(x, line_of(observed[name], x, name), "o", color=INK, markersize=3.2, zorder=3, label="observed")
        if log:
            logarithmic(ax)
    _legend(figure, panels)
    return figure


@styled
def scattered(
    x: Numbers | Mapping[str, Numbers],
    draws: Mapping[str, Numbers | None],
    seen: Mapping[str, tuple[Numbers, Numbers]],
    *,
    truth: Mapping[str, Numbers] | None = None,
    held_out: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    xlabel: str = "time",
) -> Figure:
    """Functions that were seen at points of their own: one panel per function, draws as bands, observations as dots.

    `x` is `(m,)`, or one such array per function; `draws` maps a function to `(n, m)` draws, or to `None` where only
    what was seen is shown; `seen` and `held_out` (hollow) map functions to points and values `(k,)` each, and `truth`
    to `(m,)` values, a dashed line.

    Raises:
        DataError: no function, a name that `draws` lacks, or values that do not fit their points.
    """
    figure, panels = _stack(list(draws), xlabel, x=None if isinstance(x, Mapping) else np.asarray(x, float))
    for name in {**seen, **(held_out or {}), **(truth or {})}:
        if name not in panels:
            raise DataError(unknown("the picture", name, panels, owner="draws are there of"))
    for (name, ax), color in zip(panels.items(), colors(len(panels)), strict=True):
        where = np.asarray(x[name] if isinstance(x, Mapping) else x, float)
        rows = draws[name]
        if rows is not None:
            bands(ax, where, rows, color=color)
        if name in (truth or {}):
            line = line_of((truth or {})[name], where, name)
            ax.plot(where, line, color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label="true")
        for label, fill, found in (("given", INK, seen), ("held out", "white", held_out or {})):
            if name in found and np.size(found[name][0]):
                points = np.asarray(found[name][0], float)
                values = line_of(found[name][1], points, name)
                ax.plot(points, values, "o", color=INK, mfc=fill, markersize=3.4, zorder=3, label=label)
    low, high = (f(ax.get_xlim()[i] for ax in panels.values()) for i, f in enumerate((min, max)))
    for ax in panels.values():
        ax.set_xlim(low, high)
    _legend(figure, panels)
    return figure


@styled
def traces(x: Numbers, series: Mapping[str, Numbers], *, xlabel: str = "time", ylabel: str = "") -> Figure:
    """Single draws `(n, m)` over `x` `(m,)`, each a line; one panel per source.

    Raises:
        DataError: no source, or draws that have not one column per entry of `x`.
    """
    x = np.asarray(x, float)
    figure, panels = _stack(list(series), xlabel, x=x)
    for (name, ax), color in zip(panels.items(), colors(len(panels)), strict=True):
        rows = rows_of(series[name], f"'{name}'")
        if rows.shape[1] != len(x):
            raise DataError(f"'{name}' needs one column per entry of x, got the shapes {rows.shape} and {x.shape}")
        ax.plot(x, rows.T, color=color, linewidth=0.6, alpha=0.8)
        ax.set(title=name, ylabel=ylabel)
    return figure


@styled
def losses(history: Any) -> Figure:
    """Training and validation loss by step, the lowest validation loss marked.

    `history` has `step`, `train` and `validation`, each `(k,)`, as attributes or as keys.
    """
    part = history.__getitem__ if isinstance(history, Mapping) else functools.partial(getattr, history)
    step, train, validation = (np.asarray(part(name), float) for name in ("step", "train", "validation"))
    figure = new_figure(0.65 * WIDTH, 2.6)
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
        logarithmic(ax)
    ax.set(xlabel="step", ylabel="loss")
    ax.legend()
    return figure


def _stack(names: Sequence[str], xlabel: str, x: np.ndarray | None = None) -> tuple[Figure, dict[str, Axes]]:
    """One panel per name, one below the other, over a common axis if there is one; whole years get no fractions."""
    if not names:
        raise DataError("there is no series to show: the mapping is empty")
    figure = new_figure(WIDTH, 0.7 + 1.6 * len(names))
    panels = figure.subplots(len(names), 1, squeeze=False, sharex=x is not None)[:, 0]
    for name, ax in zip(names, panels, strict=True):
        ax.set_ylabel(name)
    panels[-1].set_xlabel(xlabel)
    if x is not None and np.all(x == np.round(x)):
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure, dict(zip(names, panels, strict=True))


def _legend(figure: Figure, panels: Mapping[str, Axes], key: str = "line: median, bands: 50 % and 90 %") -> None:
    """One legend above all panels, which says what the bands mean."""
    found = [ax.get_legend_handles_labels() for ax in panels.values()]
    handles = {text: handle for pair in found for handle, text in zip(*pair, strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), title=key)


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
