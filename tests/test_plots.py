"""Pictures: what is drawn is read back from the figure and compared with the numbers that it should show."""

import subprocess
import sys
import types
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from PIL import Image

from retrodict import plots
from retrodict._errors import DataError, FileError


RNG = np.random.default_rng(0)
YEARS = np.arange(1900, 1908)
OBSERVED = {"hare": 30.0 + 10 * np.sin(YEARS), "lynx": np.where(YEARS == 1902, np.nan, 20.0)}
DRAWS = {name: np.exp(RNG.normal(3.0, 0.3, size=(200, 8))) for name in OBSERVED}
SETS = {"model": {"a": RNG.normal(size=500), "v": RNG.normal(size=(500, 2))}, "mcmc": {"v": RNG.normal(size=(300, 2))}}
HISTORY = {
    "step": np.array([100, 200, 300, 400]),
    "train": np.array([2.0, 1.0, 0.8, 0.7]),
    "validation": np.array([2.1, np.nan, 0.9, 0.95]),
}

FIGURES = {
    "corner": lambda: plots.corner(SETS, truth={"v": [0.0, 1.0], "else": 3.0}),
    "corner of plain draws": lambda: plots.corner(SETS["model"], names=["a", "v[0]"], truth={"a": 0.5}),
    "corner of one element": lambda: plots.corner({"a": SETS["model"]["a"]}),
    "corner of one": lambda: plots.corner({"model": SETS["model"]}, names=["a"]),
    "corner of a constant": lambda: plots.corner({"model": {"a": np.ones(50), "b": SETS["model"]["a"][:50]}}),
    "corner with holes": lambda: plots.corner({"m": {"a": [1.0, np.nan, 2.0, 3.0], "b": [1.0, 2.0, np.inf, 0.0]}}),
    "forecast": lambda: plots.forecast(YEARS, DRAWS, OBSERVED, 1904),
    "forecast, logarithmic": lambda: plots.forecast(YEARS, DRAWS, OBSERVED, 1904, log=True),
    "missing": lambda: plots.missing({"hare": DRAWS["hare"][:, :2]}, {"hare": [1.0, 2.0]}, labels={"hare": ["a", "b"]}),
    "overlay": lambda: plots.overlay(YEARS, {"simulator": DRAWS, "model": DRAWS}, observed=OBSERVED, xlabel="year"),
    "overlay of plain draws": lambda: plots.overlay(YEARS, DRAWS),
    "losses": lambda: plots.losses(HISTORY),
    "scattered": lambda: plots.scattered(YEARS, {"hare": DRAWS["hare"], "lynx": None}, {"lynx": ([1902.5], [3.0])}),
    "traces": lambda: plots.traces(YEARS, {"model": DRAWS["hare"][:5]}, xlabel="year", ylabel="hares"),
}


def line(ax, label):
    (found,) = [each for each in ax.lines if each.get_label() == label]
    return found


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_figure_is_drawn_without_a_warning(draw, tmp_path):
    figure = draw()
    assert isinstance(figure, Figure)
    path = plots.save(figure, tmp_path / "figure.png")
    with Image.open(path) as image:
        assert image.size == tuple(np.round(figure.get_size_inches() * 150).astype(int))
        assert len(image.getcolors(maxcolors=10**6)) > 10  # not a blank sheet
    assert figure.get_size_inches()[0] <= 7.0


def test_neither_pyplot_nor_the_global_style_is_touched():
    # In a process of its own, since other tests may have imported anything.
    code = """
import sys, numpy as np
from retrodict import plots
assert "matplotlib" not in sys.modules, "imported before it was needed"
import matplotlib
before = matplotlib.rcParams.copy()  # dict() would look for a display
figure = plots.corner({"model": {"v": np.random.default_rng(0).normal(size=(50, 2))}})
plots.losses({name: np.arange(1.0, 4.0) for name in ("step", "train", "validation")})
figure.savefig(sys.argv[1], format="png")
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    done = subprocess.run([sys.executable, "-c", code, "/dev/null"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bands_lie_at_the_quantiles():
    rows = np.random.default_rng(2).normal(size=(101, 4)) * [1, 2, 3, 4]
    rows[::2, 1] = np.nan
    ax = Figure().subplots()
    plots.bands(ax, [1, 2, 3, 4], rows, label="model", color=plots.GREEN)
    assert to_hex(line(ax, "model").get_color()) == plots.GREEN.lower()
    np.testing.assert_allclose(line(ax, "model").get_ydata(), np.nanmedian(rows, axis=0))
    for band, mass in zip(ax.collections[:2], (0.9, 0.5), strict=True):
        corners = band.get_paths()[0].vertices
        for x, column in zip([1, 2, 3, 4], rows.T, strict=True):
            ys = corners[corners[:, 0] == x, 1]
            expected = np.nanquantile(column, [(1 - mass) / 2, (1 + mass) / 2])
            np.testing.assert_allclose([ys.min(), ys.max()], expected)


def test_columns_without_draws_are_gaps_and_a_column_alone_is_a_bar():
    rows = np.random.default_rng(3).normal(size=(50, 6))
    rows[:, [1, 3]] = np.nan
    rows[0, 5] = np.inf
    ax = Figure().subplots()
    plots.bands(ax, np.arange(6), rows, label="model")
    np.testing.assert_array_equal(np.isfinite(line(ax, "model").get_ydata()), [1, 0, 1, 0, 1, 1])
    outer, inner = ax.collections[-2:]
    for bars, mass in ((outer, 0.9), (inner, 0.5)):
        ends = np.quantile(rows[:, [0, 2]], [(1 - mass) / 2, (1 + mass) / 2], axis=0)
        np.testing.assert_allclose([segment[:, 0] for segment in bars.get_segments()], [[0, 0], [2, 2]])
        np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], ends.T)


def test_corner_has_its_panels_in_order_and_truth_where_it_is():
    figure = plots.corner({"model": SETS["model"]}, truth={"v": [0.25, 1.5]})
    names = ["a", "v[0]", "v[1]"]
    axes = figure.axes
    assert len(axes) == 6
    assert [ax.get_xlabel() for ax in axes[3:]] == names
    assert [axes[i].get_ylabel() for i in (1, 3)] == names[1:]
    assert [each.get_xdata()[0] for each in axes[2].lines] == [0.25]
    assert {each.get_xdata()[0] for each in axes[4].lines} >= {0.25}
    assert {each.get_ydata()[0] for each in axes[4].lines} >= {1.5}


def test_corner_shows_what_all_sets_share_or_what_is_named():
    labels = {ax.get_xlabel() for ax in plots.corner(SETS).axes} - {""}
    assert labels == {"v[0]", "v[1]"}
    assert len(plots.corner(SETS, names=["v[1]"]).axes) == 1
    figure = plots.corner(SETS, names=["v"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["model", "mcmc"]


def test_plain_draws_are_one_set_without_a_label():
    """A mapping of arrays is one set of draws; a mapping of mappings is several."""
    figure = plots.corner(SETS["model"], truth={"a": 0.5})
    assert [ax.get_xlabel() for ax in figure.axes[3:]] == ["a", "v[0]", "v[1]"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["truth"]
    assert not plots.corner({"a": SETS["model"]["a"]}).legends
    single, labeled = plots.overlay(YEARS, DRAWS, observed=OBSERVED), plots.overlay(YEARS, {"model": DRAWS})
    assert [text.get_text() for text in single.legends[0].get_texts()] == ["observed"]
    for ax, other in zip(single.axes, labeled.axes, strict=True):
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), other.lines[0].get_ydata())


def test_contours_hold_half_and_nine_tenths_of_the_draws():
    rows = np.random.default_rng(4).normal(size=(4000, 2)) @ np.array([[1.0, 0.7], [0.0, 0.5]])
    ax = plots.corner({"model": {"v": rows}}).axes[1]
    paths = ax.collections[-1].get_paths()
    # The histogram's bins and its smoothing blur the levels; seen within .02 over seeds.
    assert [path.contains_points(rows).mean() for path in paths] == pytest.approx([0.9, 0.5], abs=0.03)


def test_histograms_on_the_diagonal_are_densities():
    ax = plots.corner({"model": {"a": np.random.default_rng(5).uniform(2, 4, size=5000)}}).axes[0]
    outline = ax.patches[0].get_xy()
    # 22 noisy bins of some 150 draws each around the density 1/2: 4 sd are .16.
    assert np.median(outline[outline[:, 1] > 0, 1]) == pytest.approx(0.5, abs=0.16)
    assert outline[:, 0].min() == pytest.approx(2, abs=0.05)
    assert outline[:, 0].max() == pytest.approx(4, abs=0.05)


def test_forecast_fills_what_was_given_and_leaves_the_rest_hollow():
    figure = plots.forecast(YEARS, DRAWS, OBSERVED, 1904)
    for ax, (name, values) in zip(figure.axes, OBSERVED.items(), strict=True):
        given, held_out = line(ax, "given"), line(ax, "held out")
        assert ax.get_ylabel() == name
        np.testing.assert_array_equal(given.get_xdata(), YEARS[:5])
        np.testing.assert_array_equal(given.get_ydata(), values[:5])
        np.testing.assert_array_equal(held_out.get_ydata(), values[5:])
        assert to_rgba(held_out.get_markerfacecolor()) == to_rgba("white") != to_rgba(given.get_markerfacecolor())
    assert [ax.get_yscale() for ax in plots.forecast(YEARS, DRAWS, OBSERVED, 1904, log=True).axes] == ["log"] * 2


def test_scattered_points_lie_where_they_were_seen():
    seen, later = ([1901.5, 1903.0], [2.0, 4.0]), ([1906.0], [5.0])
    truth = {"hare": np.full(8, 20.0)}
    figure = plots.scattered(YEARS, DRAWS, {"hare": seen}, truth=truth, held_out={"hare": later})
    hare, lynx = figure.axes
    np.testing.assert_array_equal(line(hare, "given").get_xydata(), np.transpose(seen))
    np.testing.assert_array_equal(line(hare, "held out").get_xydata(), np.transpose(later))
    np.testing.assert_array_equal(line(hare, "true").get_ydata(), truth["hare"])
    assert hare.get_xlim() == lynx.get_xlim()
    with pytest.raises(DataError, match="draws are there of 'hare', 'lynx'"):
        plots.scattered(YEARS, DRAWS, {"hares": seen})
    with pytest.raises(DataError, match="one value for each of 2"):
        plots.scattered(YEARS, DRAWS, {"hare": ([1.0, 2.0], [3.0])})


def test_traces_are_single_draws():
    (ax,) = plots.traces(YEARS, {"model": DRAWS["hare"][:4]}).axes
    np.testing.assert_array_equal([each.get_ydata() for each in ax.lines], DRAWS["hare"][:4])
    with pytest.raises(DataError, match="one column per entry"):
        plots.traces(YEARS[1:], {"model": DRAWS["hare"]})


def test_missing_shows_true_values_over_the_bars():
    truth = {"hare": np.array([1.0, np.nan, 3.0])}
    draws = {"hare": np.random.default_rng(6).normal(size=(400, 3)) + [1, 2, 3]}
    (ax,) = plots.missing(draws, truth, labels={"hare": [1901, 1905, 1909]}).axes
    np.testing.assert_array_equal(line(ax, "true value").get_ydata(), truth["hare"])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1901", "1905", "1909"]
    ends = np.quantile(draws["hare"], [0.05, 0.95], axis=0)
    np.testing.assert_allclose([segment[:, 1] for segment in ax.collections[0].get_segments()], ends.T)


def test_overlay_has_one_panel_per_series_and_one_color_per_source():
    figure = plots.overlay(YEARS, {"simulator": DRAWS, "model": DRAWS}, observed={"lynx": OBSERVED["lynx"]})
    assert [ax.get_ylabel() for ax in figure.axes] == ["hare", "lynx"]
    for ax in figure.axes:
        assert [to_hex(line(ax, name).get_color()) for name in ("simulator", "model")] == ["#0072b2", "#d55e00"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["simulator", "model", "observed"]


def test_losses_skip_what_was_not_measured_and_mark_the_lowest():
    for history in (HISTORY, types.SimpleNamespace(**HISTORY)):
        (ax,) = plots.losses(history).axes
        np.testing.assert_array_equal(line(ax, "validation").get_xdata(), [100, 300, 400])
        lowest = line(ax, "lowest: 0.9 at step 300")
        assert (lowest.get_xdata(), lowest.get_ydata()) == ([300], [0.9])
        assert ax.get_yscale() == "log"
    negative = HISTORY | {"train": -HISTORY["train"]}
    assert plots.losses(negative).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.corner({}), "at least one set of draws"),
        (lambda: plots.corner(SETS, names=["w"]), "names 'w'; all sets have 'v[0]', 'v[1]'"),
        (lambda: plots.corner(SETS, names=["a"]), "names 'a'"),
        (lambda: plots.corner({"m": {"v": np.ones((9, 13))}}), "1 to 12 elements, got 13"),
        (lambda: plots.corner({"m": {"a": np.ones(3)}, "n": {"b": np.ones(3)}}), "got 0 that all sets have"),
        (lambda: plots.corner({"m": {"a": 1.0}}), "'a' is a single number"),
        (lambda: plots.corner(np.ones((9, 2))), "one set {name: draws} or several {label: {name: draws}}, got ndarray"),
        (lambda: plots.corner({"a": np.ones(9), "m": {"a": np.ones(9)}}), "got a mixture of arrays and mappings"),
        (lambda: plots.corner({"a": ["x", "y"]}), "'a' must be an array of numbers (n,) or (n, *shape)"),
        (lambda: plots.corner({"a": np.ones(9), "b": np.ones(8)}), "one number of draws, got {'a': 9, 'b': 8}"),
        (lambda: plots.corner({"m": {"a": np.full(3, np.nan)}}), "'a' has no finite draw"),
        (lambda: plots.bands(Figure().subplots(), YEARS, np.ones((5, 3))), "got the shapes (5, 3) and (8,)"),
        (lambda: plots.bands(Figure().subplots(), YEARS, np.ones((0, 8))), "at least one draw, got (0, 8)"),
        (lambda: plots.forecast(YEARS, {"hare": 1.0}, OBSERVED, 1904), "got 'hare', 'lynx' and 'hare'"),
        (lambda: plots.forecast(YEARS[1:], DRAWS, OBSERVED, 1904), "'hare' has the shape (8,), where one value"),
        (lambda: plots.forecast(YEARS, {}, {}, 1904), "the mapping is empty"),
        (lambda: plots.missing({"a": np.ones((9, 2))}, {"a": [1.0]}), "true values of shape (1,) and draws of shape"),
        (lambda: plots.overlay(YEARS, {}), "at least one set of draws"),
        (lambda: plots.overlay(YEARS, {"m": DRAWS, "s": {}}), "must name the same variables"),
        (lambda: plots.overlay(YEARS, {"m": DRAWS}, observed={"hare": [1.0]}), "'hare' has the shape (1,)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(DataError) as caught:
        draw()
    assert message in str(caught.value)


def test_save_writes_svg_and_refuses_what_it_cannot_write(tmp_path):
    figure = FIGURES["losses"]()
    root = ET.parse(plots.save(figure, str(tmp_path / "figure.SVG"))).getroot()
    assert root.tag.endswith("svg")
    with pytest.raises(FileError, match=r"\.png or \.svg, not as 'figure\.pdf'"):
        plots.save(figure, tmp_path / "figure.pdf")
    with pytest.raises(FileError, match=r"cannot write .*: No such file"):
        plots.save(figure, tmp_path / "nowhere" / "figure.png")


def test_palette_is_known_to_matplotlib_and_has_no_twins():
    assert len({to_hex(color) for color in plots.PALETTE}) == 6
    assert matplotlib.colors.is_color_like(plots.INK)
