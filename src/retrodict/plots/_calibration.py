"""Plots of calibration: a gray band for a calibrated posterior, and a line or histogram for the posterior at hand.

Each picture takes a result of `diagnostics` and computes nothing. A band contains, with probability one minus the
result's level, everything that a calibrated posterior shows in the picture. A line that leaves its band anywhere is a
failure. Failed elements are vermilion.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from retrodict._errors import DataError
from retrodict.diagnostics import LC2ST, SBC, TARP, Coverage, Predictive
from retrodict.plots._style import BLUE, GREEN, INK, PENCIL, PURPLE, SKY, VERMILION, WIDTH, Numbers, new_figure, styled


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any

PANELS_PER_ROW = 4
MAX_PANELS = 24  # more panels cannot be read
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))  # not all readers see colors
PASSED = (BLUE, GREEN, PURPLE, SKY)  # failures are vermilion
MAX_LEGEND_LINES = 8


@styled
def ranks(result: SBC, *, bins: int = 20) -> Figure:
    """Draws one histogram per element, of the ranks of the truth among posterior draws.

    How to read it: ranks of a calibrated posterior are uniform, and the histogram stays within the gray band. A slope
    says that the posterior is shifted, a smile that it is too narrow, a hill that it is too wide.

    Args:
        result: what `diagnostics.sbc` returns.
        bins: bars of a histogram, at most.

    Raises:
        DataError: more than 24 elements.
    """
    from scipy.stats import binom

    n, count = len(result.ranks), max(2, min(bins, result.n_draws + 1, len(result.ranks) // 10))
    edges = np.round(np.linspace(0, result.n_draws + 1, count + 1))  # whole ranks
    shares = np.diff(edges) / (result.n_draws + 1)
    tail = result.level / (2 * count * len(result.labels))  # of each end of each bin of each element, by Bonferroni
    low, high = binom.ppf(tail, n, shares) / shares / n, binom.ppf(1.0 - tail, n, shares) / shares / n
    figure, axes = _panels(list(result.labels))
    for ax, column, label in zip(axes, result.ranks.T, result.labels, strict=True):
        density = np.histogram(column, bins=edges)[0] / shares / n
        ax.stairs(high, edges / edges[-1], baseline=low, fill=True, facecolor=(PENCIL, 0.35), edgecolor="none")
        ax.stairs(density, edges / edges[-1], color=_verdict(result.p_values[label], result), linewidth=1.2)
        ax.axhline(1.0, color=PENCIL, linewidth=0.6)
        ax.set(title=label, xlim=(0, 1), ylim=(0, max(2.0, 1.1 * density.max(), 1.1 * high.max())))
    _outer(figure, axes, "rank of the truth among draws", "density")
    return figure


@styled
def ecdf(result: SBC) -> Figure:
    """Draws the distribution function of the ranks of the truth, less that of uniform ranks, one line per element.

    How to read it: lines of a calibrated posterior stay within the gray band. A line above zero says that low ranks are
    too frequent: the draws are too large. A line above zero on the left and below it on the right says that the
    posterior is too narrow, the reverse that it is too wide. Unlike a histogram, the picture needs no bins.

    Args:
        result: what `diagnostics.sbc` returns.
    """
    figure = new_figure(0.75 * WIDTH, 0.45 * WIDTH)
    ax = figure.add_subplot()
    ax.fill_between(result.z, result.low - result.z, result.high - result.z, facecolor=(PENCIL, 0.35), linewidth=0)
    ax.axhline(0.0, color=PENCIL, linewidth=0.6)
    for i, (label, row) in enumerate(zip(result.labels, result.ecdf, strict=True)):
        failed = _verdict(result.p_values[label], result) == VERMILION
        color, dash = VERMILION if failed else PASSED[i % len(PASSED)], DASHES[i % len(DASHES)]
        ax.plot(result.z, row - result.z, color=color, linestyle=dash, linewidth=1.1, label=label)
    if len(result.labels) <= MAX_LEGEND_LINES:
        figure.legend(loc="outside right upper")
    ax.set(xlim=(0, 1), xlabel="rank of the truth among draws, as a share", ylabel="share of truths below, less rank")
    return figure


@styled
def coverage(result: Coverage) -> Figure:
    """Draws how often credible regions contain the truth, over their credibility, one panel per element.

    A result with log densities has one more panel for the joint region of all elements.

    How to read it: the line of a calibrated posterior is the diagonal, within the gray band. Below the diagonal regions
    are too small: the posterior is overconfident. Above it they are too large.

    Args:
        result: what `diagnostics.coverage` returns.

    Raises:
        DataError: more than 24 panels.
    """
    figure, axes = _panels(list(result.sizes))
    for ax, label in zip(axes, result.sizes, strict=True):
        size = result.sizes[label]
        ax.fill_between(size, result.low[label], result.high[label], facecolor=(PENCIL, 0.35), linewidth=0)
        _diagonal(ax, size, result.coverage[label], _verdict(result.p_values[label], result))
        ax.set(title=label)
    _outer(figure, axes, "credibility", "share of truths inside")
    return figure


@styled
def tarp(result: TARP) -> Figure:
    """Draws the expected coverage of balls around random points, over their credibility, for all elements together.

    How to read it: the line of a calibrated posterior is the diagonal, within the gray band; the colored band is the
    uncertainty of the line. An S around the diagonal says that the posterior is too narrow or too wide, a line on one
    side of it that the posterior is shifted.

    Args:
        result: what `diagnostics.tarp` returns.
    """
    figure = new_figure(0.5 * WIDTH, 0.45 * WIDTH)
    ax = figure.add_subplot()
    ax.fill_between(result.credibility, result.null_low, result.null_high, facecolor=(PENCIL, 0.35), linewidth=0)
    color = BLUE if result.ok else VERMILION
    ax.fill_between(result.credibility, result.low, result.high, facecolor=(color, 0.2), linewidth=0)
    _diagonal(ax, result.credibility, result.ecp, color)
    ax.set(xlabel="credibility", ylabel="expected coverage")
    return figure


@styled
def predictive(result: Predictive, *, bins: int = 30) -> Figure:
    """Draws one histogram per statistic, of data simulated from the posterior, and a line at the observed value.

    How to read it: a line within its histogram says that the model can make data with this value of the statistic. A
    line in a tail, or outside, says that it cannot: vermilion panels failed.

    Args:
        result: what `diagnostics.predictive` returns.
        bins: bars of a histogram.

    Raises:
        DataError: more than 24 statistics.
    """
    figure, axes = _panels(list(result.replicated))
    for ax, (label, values) in zip(axes, result.replicated.items(), strict=True):
        color = _verdict(result.p_values[label], result)
        ax.hist(
            values, bins, density=True, histtype="stepfilled", facecolor=(color, 0.22), edgecolor=color, linewidth=1.1
        )
        ax.axvline(result.observed[label], color=INK, linewidth=1.1, linestyle=(0, (4, 2)))
        ax.set(title=f"{label} (p = {result.p_values[label]:.2g})", yticks=[])
    figure.supxlabel("value of the statistic; dashed: observed", fontsize=8.5)
    figure.supylabel("density", fontsize=8.5)
    return figure


@styled
def lc2st(
    result: LC2ST, x: Numbers, y: Numbers, *, observation: int = 0, names: tuple[str, str] = ("x", "y")
) -> Figure:
    """Draws the posterior draws at one observation as dots, colored by the probability that a classifier gives them.

    How to read it: where dots are orange (above 1/2) the posterior has too much density, where they are purple it has
    too little. Pale dots everywhere say that the classifier cannot tell the posterior from the truth.

    Args:
        result: what `diagnostics.lc2st` returns.
        x, y: two elements of the draws at this observation, `(m,)` each.
        observation: the number of the observation, from 0.
        names: names of the two elements.

    Raises:
        DataError: not one value per draw, or no such observation.
    """
    if not 0 <= observation < len(result.probability):
        raise DataError(f"there are the observations 0 to {len(result.probability) - 1}, got {observation}")
    probability, a, b = result.probability[observation], np.asarray(x, float), np.asarray(y, float)
    if a.shape != probability.shape or b.shape != probability.shape:
        raise DataError(f"one value for each of {len(probability)} draws is needed, got {a.shape} and {b.shape}")
    figure = new_figure(0.6 * WIDTH, 0.5 * WIDTH)
    ax = figure.add_subplot()
    reach = max(0.1, float(np.abs(probability - 0.5).max()))  # noise alone should look pale
    dots = ax.scatter(a, b, c=probability, s=8, cmap="PuOr_r", vmin=0.5 - reach, vmax=0.5 + reach, linewidths=0)
    figure.colorbar(dots, label="density: too little (below 0.5), too much (above)")
    ax.set(xlabel=names[0], ylabel=names[1], title=f"p = {result.p_values[observation]:.2g}")
    return figure


def _panels(labels: list[str]) -> tuple[Figure, list[Axes]]:
    """Makes one panel per label, at most four in a row."""
    if len(labels) > MAX_PANELS:
        raise DataError(f"{len(labels)} panels are too many to read: hand in a result of at most {MAX_PANELS} elements")
    n_columns = min(PANELS_PER_ROW, len(labels))
    n_rows = -(-len(labels) // n_columns)
    figure = new_figure(WIDTH * max(n_columns, 2) / PANELS_PER_ROW, 0.3 + 1.6 * n_rows)
    return figure, [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(len(labels))]


def _outer(figure: Figure, axes: list[Axes], xlabel: str, ylabel: str) -> None:
    for ax in axes:
        ax.label_outer()
    figure.supxlabel(xlabel, fontsize=8.5)
    figure.supylabel(ylabel, fontsize=8.5)


def _diagonal(ax: Axes, x: np.ndarray, y: np.ndarray, color: str) -> None:
    ax.plot([0, 1], [0, 1], color=PENCIL, linewidth=0.6)
    ax.plot(np.r_[0, x, 1], np.r_[0, y, 1], color=color, linewidth=1.3)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def _verdict(p_value: float, result: Any) -> str:
    """Returns blue for a test that passed, vermilion for one that failed, by Bonferroni."""
    return BLUE if p_value * len(result.p_values) > result.level else VERMILION
