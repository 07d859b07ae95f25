"""Parts of every picture: colors, one style, free-standing figures, checks of numbers, and writing to files."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
from jaxtyping import ArrayLike

from retrodict._errors import DataError, FileError, listed
from retrodict._runtime.atomic_files import write_whole


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
WIDTH = 7.0  # inches: the text width of a page
DPI = 150
STYLE: dict[str, Any] = (
    dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 8.5)
    | dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "legend.title_fontsize"), 7.5)
    | dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6)
    | dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), PENCIL)
    | dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK)
    | dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
)


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Wraps `draw` so that it runs under this module's style, which ends when it returns."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure of a size in inches, without `pyplot`."""
    from matplotlib.figure import Figure as FreeFigure

    return FreeFigure(figsize=(width, height), layout="constrained")


def logarithmic(ax: Axes) -> None:
    """Makes the vertical axis logarithmic, with plain numbers at 1, 2, 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def colors(count: int) -> list[str]:
    """Returns `count` colors of the palette, which repeats after six."""
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def sets_of(draws: Any, picture: str) -> dict[str, Mapping[str, Numbers]]:
    """Returns several sets of draws `{label: {name: draws}}`; one set `{name: draws}` gets the empty label.

    Raises:
        DataError: neither of the two.
    """
    forms = "one set {name: draws} or several {label: {name: draws}}"
    if not isinstance(draws, Mapping):
        raise DataError(f"{picture} needs draws by name, {forms}, got {type(draws).__name__}")
    if not draws:
        raise DataError(f"{picture} needs at least one set of draws, {forms}, got none")
    nested = {isinstance(value, Mapping) for value in draws.values()}
    if len(nested) > 1:
        raise DataError(f"{picture} needs draws by name, {forms}, got a mixture of arrays and mappings")
    return dict(draws) if nested == {True} else {"": draws}


def rows_of(draws: Numbers, label: str) -> np.ndarray:
    """Returns draws `(n, m)` as floats, NaN where they are not finite.

    Raises:
        DataError: another shape, or no draw.
    """
    rows = np.asarray(draws, float)
    if rows.ndim != 2 or not len(rows):
        raise DataError(f"{label} must have the shape (draws, elements) with at least one draw, got {rows.shape}")
    return np.where(np.isfinite(rows), rows, np.nan)


def line_of(values: Numbers, x: np.ndarray, name: str) -> np.ndarray:
    """Returns values `(m,)` over `x` `(m,)` as floats.

    Raises:
        DataError: another shape.
    """
    line = np.asarray(values, float)
    if line.shape != x.shape:
        raise DataError(f"'{name}' has the shape {line.shape}, where one value for each of {len(x)} is needed")
    return line


def same_names(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Raises DataError unless both mappings have the same names."""
    if first.keys() != second.keys():
        raise DataError(f"both must name the same variables, got {listed(first)} and {listed(second)}")


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as PNG (150 dots per inch) or SVG, by the ending of `path`, and returns the path.

    Raises:
        FileError: another ending, or a place that cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".png", ".svg"):
        raise FileError(f"a figure is saved as .png or .svg, not as '{path.name}'")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind[1:], dpi=DPI)
    return write_whole(path, buffer.getvalue())
