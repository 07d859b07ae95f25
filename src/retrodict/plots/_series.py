"""Plots of series and functions: bands of draws over time, missing elements, single draws, and losses by step."""

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
    sets_of,
    styled,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any


@styled
def bands(ax: Axes, x: Numbers, draws: Numbers, *, label: str = "", color: str = BLUE) -> None:
    """Adds bands to matplotlib axes: the median of draws `(n, m)` over `x` `(m,)`, and their central 50 % and 90 %.

    It is the one function here that makes no figure, for pictures of your own. Columns without a draw are gaps; a
    column between two gaps is a dot with two bars.

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
    has_draws = np.concatenate([[False], np.isfinite(median), [False]])
    isolated = has_draws[1:-1] & ~has_draws[:-2] & ~has_draws[2:]
    _bars(ax, x[isolated], rows[:, isolated], color)


@styled
def overlay(
    x: Numbers,
    draws: Mapping[str, Numbers] | Mapping[str, Mapping[str, Numbers]],
    *,
    observed: Mapping[str, Numbers] | None = None,
    xlabel: str = "x",
    log: bool = False,
) -> Figure:
    """Draws series as bands, one panel per series; several sources, such as model and simulator, over each other.

    How to read it: the line is the median of the draws, the bands hold their central 50 % and 90 %. With draws from the
    posterior predictive, nine of ten observed dots lie within the outer band if the model fits. Two sources with the
    same bands agree.

    Args:
        x: places along the axis, `(m,)`.
        draws: one source `{series: (n, m)}`, or several sources `{label: {series: (n, m)}}`.
        observed: values `{series: (m,)}`, shown as dots; NaN is left out.
        xlabel: name of the axis.
        log: whether the values have a logarithmic axis.

    Raises:
        DataError: the sources differ in their series, or a series has not one value per entry of `x`.
    """
    sources = sets_of(draws, "an overlay")
    x, first = np.asarray(x, float), next(iter(sources.values()))
    for source in sources.values():
        same_names(first, source)
    figure, panels = _stack(list(first), xlabel, x=x)
    for name, ax in panels.items():
        for (label, series), color in zip(sources.items(), colors(len(sources)), strict=True):
            bands(ax, x, series[name], label=label, color=color)
        if observed and name in observed:
            ax.plot(x, line_of(observed[name], x, name), "o", color=INK, markersize=3.2, zorder=3, label="observed")
        if log:
            logarithmic(ax)
    _legend(figure, panels)
    return figure


@styled
def forecast(
    x: Numbers,
    draws: Mapping[str, Numbers],
    observed: Mapping[str, Numbers],
    split: float | int,
    *,
    xlabel: str = "time",
    log: bool = False,
) -> Figure:
    """Draws series as bands over a time that is given up to `split`, one panel per series.

    How to read it: filled dots were given to the model, hollow dots were held out. To the right of the dashed line,
    nine of ten hollow dots lie within the outer band if the forecast is calibrated.

    Args:
        x: times, `(m,)`.
        draws: draws `{series: (n, m)}`, given the values up to `split`.
        observed: the values themselves, `{series: (m,)}`; NaN is left out.
        split: the last time that was given.
        xlabel: name of the time axis.
        log: whether the values have a logarithmic axis.

    Raises:
        DataError: the series differ in name, or have not one value per time.
    """
    times = np.asarray(x, float)
    same_names(observed, draws)
    lines = {name: line_of(values, times, name) for name, values in observed.items()}
    filled, hollow = (
        {name: (times[mask], line[mask]) for name, line in lines.items()} for mask in (times <= split, times > split)
    )
    figure = scattered(times, draws, filled, held_out=hollow, xlabel=xlabel)
    for ax in figure.axes:
        ax.axvline(split, color=PENCIL, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        if log:
            logarithmic(ax)
    return figure


@styled
def scattered(
    x: Numbers | Mapping[str, Numbers],
    draws: Mapping[str, Numbers | None],
    observed: Mapping[str, tuple[Numbers, Numbers]],
    *,
    truth: Mapping[str, Numbers] | None = None,
    held_out: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    xlabel: str = "time",
) -> Figure:
    """Draws functions as bands over a grid, with observations at scattered points, one panel per function.

    How to read it: filled dots were given to the model. Bands are narrow near dots and wide far from them. The dashed
    true line lies within the outer band over about nine tenths of the axis, and nine of ten hollow, held-out dots lie
    in it (if the draws include the noise of observations).

    Args:
        x: the grid, `(m,)`, or one grid per function.
        draws: draws `{function: (n, m)}`; `None` in place of draws shows the observations alone.
        observed: points and values `{function: ((k,), (k,))}`, shown as filled dots.
        truth: true values `{function: (m,)}` on the grid, shown as a dashed line.
        held_out: points and values that were not given, shown as hollow dots.
        xlabel: name of the axis.

    Raises:
        DataError: no function, a name that `draws` lacks, or values that do not fit their points.
    """
    figure, panels = _stack(list(draws), xlabel, x=None if isinstance(x, Mapping) else np.asarray(x, float))
    lines, hollow = truth or {}, held_out or {}
    for name in {**observed, **hollow, **lines}:
        if name not in panels:
            raise DataError(unknown("the picture", name, panels, owner="draws are there of"))
    for (name, ax), color in zip(panels.items(), colors(len(panels)), strict=True):
        grid = np.asarray(x[name] if isinstance(x, Mapping) else x, float)
        rows = draws[name]
        if rows is not None:
            bands(ax, grid, rows, color=color)
        if name in lines:
            values = line_of(lines[name], grid, name)
            ax.plot(grid, values, color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label="true")
        for label, fill, dots in (("given", INK, observed), ("held out", "white", hollow)):
            if name in dots and np.size(dots[name][0]):
                points = np.asarray(dots[name][0], float)
                values = line_of(dots[name][1], points, name)
                ax.plot(points, values, "o", color=INK, mfc=fill, markersize=3.4, zorder=3, label=label)
    low, high = (f(ax.get_xlim()[i] for ax in panels.values()) for i, f in enumerate((min, max)))
    for ax in panels.values():
        ax.set_xlim(low, high)
    _legend(figure, panels)
    return figure


@styled
def missing(
    draws: Mapping[str, Numbers],
    truth: Mapping[str, Numbers],
    *,
    labels: Mapping[str, Sequence[Any]] | None = None,
    xlabel: str = "missing element",
) -> Figure:
    """Draws missing elements as dots with bars, and their true values as ticks, one panel per variable.

    How to read it: the dot is the median of the draws, the thick bar holds their central 50 %, the thin bar 90 %. Nine
    of ten ticks lie on the thin bars if the model is calibrated.

    Args:
        draws: draws `{name: (n, k)}` of the `k` missing elements.
        truth: true values `{name: (k,)}`, NaN where unknown.
        labels: names of the elements, `{name: k texts}`; default: 1, 2, ...
        xlabel: name of the axis.

    Raises:
        DataError: the names differ, or a variable has not one column of draws per true value.
    """
    same_names(truth, draws)
    figure, panels = _stack(list(truth), xlabel)
    for (name, ax), color in zip(panels.items(), colors(len(panels)), strict=True):
        values, rows = np.asarray(truth[name], float), rows_of(draws[name], f"'{name}'")
        if values.shape != rows.shape[1:]:
            raise DataError(f"'{name}' has true values of shape {values.shape} and draws of shape {rows.shape}")
        place = np.arange(len(values))
        _bars(ax, place, rows, color)
        ax.plot(place, values, "_", label="true value", color=INK, markersize=11, markeredgewidth=1.6, zorder=4)
        ax.set_xticks(place, [str(text) for text in (labels or {}).get(name, place + 1)])
        ax.margins(x=0.5 / max(len(values), 1))
    _legend(figure, panels, "dot: median, bars: 50 % and 90 %")
    return figure


@styled
def traces(x: Numbers, draws: Mapping[str, Numbers], *, xlabel: str = "time", ylabel: str = "value") -> Figure:
    """Draws every draw as a line of its own, one panel per source.

    How to read it: bands hide how a single draw behaves between neighboring places; here one sees oscillations, jumps
    and correlations along the axis. Lines of a model and of the simulator should look alike.

    Args:
        x: places along the axis, `(m,)`.
        draws: a few draws `{source: (n, m)}`.
        xlabel, ylabel: names of the axes.

    Raises:
        DataError: no source, or draws that have not one column per entry of `x`.
    """
    x = np.asarray(x, float)
    figure, panels = _stack(list(draws), xlabel, x=x)
    for (name, ax), color in zip(panels.items(), colors(len(panels)), strict=True):
        rows = rows_of(draws[name], f"'{name}'")
        if rows.shape[1] != len(x):
            raise DataError(f"'{name}' needs one column per entry of x, got the shapes {rows.shape} and {x.shape}")
        ax.plot(x, rows.T, color=color, linewidth=0.6, alpha=0.8)
        ax.set(title=name, ylabel=ylabel)
    return figure


@styled
def losses(history: Any) -> Figure:
    """Draws training and validation loss by step, with the lowest validation loss marked.

    How to read it: training has converged when both lines are flat. If the validation loss rises while the training
    loss still falls, the network overfits; `rd.fit` returns the weights of the marked step.

    Args:
        history: what `rd.fit` returns beside the model, or any object or mapping with `step`, `train` and
            `validation`, each `(k,)`.
    """
    item = history.__getitem__ if isinstance(history, Mapping) else functools.partial(getattr, history)
    step, train, validation = (np.asarray(item(name), float) for name in ("step", "train", "validation"))
    figure = new_figure(0.65 * WIDTH, 2.6)
    ax = figure.subplots()
    for values, label, color in ((train, "training", SKY), (validation, "validation", BLUE)):
        finite = np.isfinite(values)
        ax.plot(step[finite], values[finite], color=color, linewidth=1.3, label=label)
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        text = f"lowest: {validation[best]:.4g} at step {step[best]:.0f}"
        ax.plot(step[best], validation[best], "o", color=BLUE, markersize=4, label=text)
    # The first losses are far larger than the rest; a logarithmic axis shows both, if all losses are positive.
    measured = np.concatenate([train, validation])
    if measured[np.isfinite(measured)].min(initial=np.inf) > 0:
        logarithmic(ax)
    ax.set(xlabel="step", ylabel="loss")
    ax.legend()
    return figure


def _stack(names: Sequence[str], xlabel: str, x: np.ndarray | None = None) -> tuple[Figure, dict[str, Axes]]:
    """Makes one panel per name, one below the other, over a common axis `x` if there is one."""
    if not names:
        raise DataError("there is no series to show: the mapping is empty")
    figure = new_figure(WIDTH, 0.7 + 1.6 * len(names))
    panels = figure.subplots(len(names), 1, squeeze=False, sharex=x is not None)[:, 0]
    for name, ax in zip(names, panels, strict=True):
        ax.set_ylabel(name)
    panels[-1].set_xlabel(xlabel)
    if x is not None and np.all(x == np.round(x)):
        panels[-1].xaxis.get_major_locator().set_params(integer=True)  # years have no fractions
    return figure, dict(zip(names, panels, strict=True))


def _legend(figure: Figure, panels: Mapping[str, Axes], key: str = "line: median, bands: 50 % and 90 %") -> None:
    """Puts one legend above all panels, with the meaning of the bands."""
    pairs = [ax.get_legend_handles_labels() for ax in panels.values()]
    handles = {text: handle for pair in pairs for handle, text in zip(*pair, strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=max(len(handles), 1), title=key)


def _quantiles(rows: np.ndarray) -> np.ndarray:
    """Returns `(5, m)`: ends of the 90 % and the 50 % band around the median; NaN in a column without draws."""
    ends = [0.5 + side * mass / 2 for side in (-1, 1) for mass in MASSES]
    has_draws = np.isfinite(rows).any(axis=0)
    quantiles = np.full((5, rows.shape[1]), np.nan)
    quantiles[:, has_draws] = np.nanquantile(rows[:, has_draws], sorted([*ends, 0.5]), axis=0)
    return quantiles


def _bars(ax: Axes, x: np.ndarray, rows: np.ndarray, color: str) -> None:
    low, inner_low, median, inner_high, high = _quantiles(rows)
    ax.vlines(x, low, high, color=color, linewidth=1.2, alpha=0.6)
    ax.vlines(x, inner_low, inner_high, color=color, linewidth=4.5, alpha=0.6)
    ax.plot(x, median, "o", color=color, markersize=4.5, markeredgecolor="white", markeredgewidth=0.6, zorder=3)
