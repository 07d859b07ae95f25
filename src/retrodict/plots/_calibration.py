"""Calibration: what a right posterior would show is a gray band, what this one shows a line.

Each picture takes a result of `diagnostics` and computes nothing. Bands hold everything that is drawn over them at
once, but for a probability of the result's level: a line that leaves its band anywhere is a failure.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from retrodict._errors import DataError
from retrodict.diagnostics import LC2ST, SBC, TARP, Coverage
from retrodict.plots._style import BLUE, GREEN, PENCIL, PURPLE, SKY, VERMILION, WIDTH, Numbers, new_figure, styled


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any

Band: TypeAlias = tuple[np.ndarray, np.ndarray]
ACROSS = 4  # panels in a row
MANY = 24  # panels that can still be read
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))  # colors alone are not for everyone
PASSED = (BLUE, GREEN, PURPLE, SKY)  # vermilion is for what failed
LEGEND = 8  # lines that a legend can tell apart


@styled
def ranks(found: SBC, *, bins: int = 20) -> Figure:
    """One histogram of ranks per element, and in gray the band that right ones leave anywhere with the result's level.

    A slope says that the posterior is shifted, a smile that it is too narrow, a hill that it is too wide.

    Raises:
        DataError: more than 24 elements.
    """
    from scipy.stats import binom

    n, count = len(found.ranks), max(2, min(bins, found.n_draws + 1, len(found.ranks) // 10))
    edges = np.round(np.linspace(0, found.n_draws + 1, count + 1))  # whole ranks
    shares = np.diff(edges) / (found.n_draws + 1)
    out = found.level / (2 * count * len(found.labels))  # of each end of each bin of each element, by Bonferroni
    low, high = binom.ppf(out, n, shares) / shares / n, binom.ppf(1.0 - out, n, shares) / shares / n
    figure, axes = _panels(list(found.labels))
    for ax, column, label in zip(axes, found.ranks.T, found.labels, strict=True):
        density = np.histogram(column, bins=edges)[0] / shares / n
        ax.stairs(high, edges / edges[-1], baseline=low, fill=True, facecolor=(PENCIL, 0.35), edgecolor="none")
        ax.stairs(density, edges / edges[-1], color=_verdict(found.p_values[label], found), linewidth=1.2)
        ax.axhline(1.0, color=PENCIL, linewidth=0.6)
        ax.set(title=label, xlim=(0, 1), ylim=(0, max(2.0, 1.1 * density.max(), 1.1 * high.max())))
    _outer(figure, axes, "rank of the truth among draws", "density")
    return figure


@styled
def ecdf(found: SBC) -> Figure:
    """How much larger or smaller than it should be the share of ranks below each rank is, all elements in one band."""
    figure = new_figure(0.75 * WIDTH, 0.45 * WIDTH)
    ax = figure.add_subplot()
    _difference(ax, found.z, (found.low, found.high))
    failed = {label for label, p in found.p_values.items() if _verdict(p, found) == VERMILION}
    _lines(ax, {label: (found.z, row - found.z) for label, row in zip(found.labels, found.ecdf, strict=True)}, failed)
    ax.set(xlim=(0, 1), xlabel="rank of the truth among draws, as a share", ylabel="share of truths below, less that")
    return figure


@styled
def coverage(found: Coverage) -> Figure:
    """One panel per element and one for the joint region: how often regions hold the truth, over what they say.

    Below the diagonal regions are too small (a posterior that is too sure), above it too large.

    Raises:
        DataError: more than 24 labels.
    """
    figure, axes = _panels(list(found.sizes))
    for ax, label in zip(axes, found.sizes, strict=True):
        size = found.sizes[label]
        ax.fill_between(size, found.low[label], found.high[label], facecolor=(PENCIL, 0.35), linewidth=0)
        _diagonal(ax, size, found.coverage[label], _verdict(found.p_values[label], found))
        ax.set(title=label)
    _outer(figure, axes, "credibility", "share of truths inside")
    return figure


@styled
def tarp(found: TARP) -> Figure:
    """Expected coverage over credibility, with its band, over the band of right posteriors."""
    figure = new_figure(0.5 * WIDTH, 0.45 * WIDTH)
    ax = figure.add_subplot()
    ax.fill_between(found.credibility, found.null_low, found.null_high, facecolor=(PENCIL, 0.35), linewidth=0)
    color = BLUE if found.ok else VERMILION
    ax.fill_between(found.credibility, found.low, found.high, facecolor=(color, 0.2), linewidth=0)
    _diagonal(ax, found.credibility, found.ecp, color)
    ax.set(xlabel="credibility", ylabel="expected coverage")
    return figure


@styled
def lc2st(found: LC2ST, x: Numbers, y: Numbers, *, observation: int = 0, names: tuple[str, str] = ("", "")) -> Figure:
    """Draws at one observation in two elements `x`, `y` `(m,)`, colored by what the classifier says of them.

    Orange (above 1/2) where the posterior has too much density, blue where it has too little.

    Raises:
        DataError: not one value per draw, or no such observation.
    """
    if not 0 <= observation < len(found.probability):
        raise DataError(f"there are the observations 0 to {len(found.probability) - 1}, got {observation}")
    probability, a, b = found.probability[observation], np.asarray(x, float), np.asarray(y, float)
    if a.shape != probability.shape or b.shape != probability.shape:
        raise DataError(f"one value for each of {len(probability)} draws is needed, got {a.shape} and {b.shape}")
    figure = new_figure(0.6 * WIDTH, 0.5 * WIDTH)
    ax = figure.add_subplot()
    reach = max(0.1, float(np.abs(probability - 0.5).max()))  # a fit to noise should not look alarming
    dots = ax.scatter(a, b, c=probability, s=8, cmap="PuOr_r", vmin=0.5 - reach, vmax=0.5 + reach, linewidths=0)
    figure.colorbar(dots, label="too little (below .5), too much (above)")
    ax.set(xlabel=names[0], ylabel=names[1], title=f"p = {found.p_values[observation]:.2g}")
    return figure


def _panels(labels: list[str]) -> tuple[Figure, list[Axes]]:
    """One panel per label, at most four in a row."""
    if len(labels) > MANY:
        raise DataError(f"{len(labels)} panels are too many to read: hand in a result of at most {MANY} elements")
    across = min(ACROSS, len(labels))
    down = -(-len(labels) // across)
    figure = new_figure(WIDTH * max(across, 2) / ACROSS, 0.3 + 1.6 * down)
    return figure, [figure.add_subplot(down, across, i + 1) for i in range(len(labels))]


def _outer(figure: Figure, axes: list[Axes], xlabel: str, ylabel: str) -> None:
    for ax in axes:
        ax.label_outer()
    figure.supxlabel(xlabel, fontsize=8.5)
    figure.supylabel(ylabel, fontsize=8.5)


def _difference(ax: Axes, z: np.ndarray, band: Band) -> None:
    ax.fill_between(z, band[0] - z, band[1] - z, facecolor=(PENCIL, 0.35), linewidth=0)
    ax.axhline(0.0, color=PENCIL, linewidth=0.6)


def _lines(ax: Axes, found: dict[str, tuple[np.ndarray, np.ndarray]], failed: set[str]) -> None:
    few = len(found) <= LEGEND
    for i, (label, (x, y)) in enumerate(found.items()):
        color = VERMILION if label in failed else PASSED[i % len(PASSED)]
        ax.plot(x, y, color=color, linestyle=DASHES[i % len(DASHES)], linewidth=1.1, label=label if few else None)
    if few:
        ax.figure.legend(loc="outside right upper")


def _diagonal(ax: Axes, x: np.ndarray, y: np.ndarray, color: str) -> None:
    ax.plot([0, 1], [0, 1], color=PENCIL, linewidth=0.6)
    ax.plot(np.r_[0, x, 1], np.r_[0, y, 1], color=color, linewidth=1.3)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def _verdict(p_value: float, found: Any) -> str:
    """Blue for what passed, vermilion for what did not."""
    return BLUE if p_value * len(found.p_values) > found.level else VERMILION
