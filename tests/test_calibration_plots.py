"""Pictures of calibration: the numbers of a result are read back from the figure, and a failure looks like one."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from retrodict import DataError, plots
from retrodict import diagnostics as checks


RNG = np.random.default_rng(0)
N, L = 200, 40
TRUTH = {"a": RNG.normal(size=N), "v": RNG.normal(size=(N, 2))}
DRAWS = {"a": RNG.normal(size=(N, L)), "v": RNG.normal(size=(N, L, 2)) * [1.0, 0.3]}  # v[1] is too sure of itself
LOGS = RNG.normal(size=N), RNG.normal(size=(N, L))
SBC, TARP = checks.sbc(TRUTH, DRAWS), checks.tarp(TRUTH, DRAWS, key=0)
COVERAGE = checks.coverage(TRUTH, DRAWS, log_probs=LOGS)
LC2ST = checks.LC2ST(np.ones(1), np.ones((9, 1)), np.linspace(0.3, 0.8, 50)[None], np.array([0.02]), 0.02, 0.05)
POINTS = RNG.normal(size=(2, 50))
PREDICTIVE = checks.predictive({"y": np.full(5, 9.0)}, {"y": RNG.normal(size=(400, 5)) + [9, 9, 9, 9, 9]})
FIGURES = {
    "ranks": lambda: plots.ranks(SBC),
    "ecdf": lambda: plots.ecdf(SBC),
    "coverage": lambda: plots.coverage(COVERAGE),
    "tarp": lambda: plots.tarp(TARP),
    "predictive": lambda: plots.predictive(PREDICTIVE),
    "lc2st": lambda: plots.lc2st(LC2ST, *POINTS, names=("a", "b")),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_figure_is_drawn_without_a_warning(draw, tmp_path):
    figure = draw()
    assert isinstance(figure, Figure)
    assert figure.get_size_inches()[0] <= 7.0
    assert "</svg>" in plots.save(figure, tmp_path / "figure.svg").read_text()


def test_bars_of_ranks_are_densities_and_failures_are_vermilion():
    axes = plots.ranks(SBC).axes
    assert [ax.get_title() for ax in axes] == ["a", "v[0]", "v[1]"]
    for ax, column in zip(axes, SBC.ranks.T, strict=True):
        values, edges, _ = ax.patches[1].get_data()
        assert np.sum(values * np.diff(edges)) == pytest.approx(1.0)
        inside = (column >= edges[3] * (L + 1) - 1e-9) & (column < edges[4] * (L + 1) - 1e-9)
        assert values[3] * (edges[4] - edges[3]) == pytest.approx(inside.mean())
    colors = [to_hex(ax.patches[1].get_edgecolor()) for ax in axes]
    assert colors == [plots.BLUE.lower(), plots.BLUE.lower(), plots.VERMILION.lower()]


def test_lines_are_those_of_the_results():
    lines = [line for line in plots.ecdf(SBC).axes[0].lines if len(line.get_xdata()) == len(SBC.z)]
    for line, row in zip(lines, SBC.ecdf, strict=True):
        np.testing.assert_allclose(line.get_ydata(), row - SBC.z)
    assert len({line.get_linestyle() + line.get_color() for line in lines}) == 3
    assert [line.get_color() == plots.VERMILION for line in lines] == [False, False, True]
    axes = plots.coverage(COVERAGE).axes
    assert [ax.get_title() for ax in axes] == ["a", "v[0]", "v[1]", "joint"]
    np.testing.assert_allclose(axes[2].lines[-1].get_ydata()[1:-1], COVERAGE.coverage["v[1]"])
    assert axes[2].lines[-1].get_color() == plots.VERMILION
    np.testing.assert_allclose(plots.tarp(TARP).axes[0].lines[-1].get_ydata()[1:-1], TARP.ecp)


def test_a_statistic_stands_beside_those_of_replicates():
    """Five equal numbers: their mean is usual, and their standard deviation of zero is not."""
    figure = plots.predictive(PREDICTIVE)
    assert [ax.get_title().split(" (")[0] for ax in figure.axes] == list(PREDICTIVE.replicated)
    for ax, (name, values) in zip(figure.axes, PREDICTIVE.replicated.items(), strict=True):
        outline = ax.patches[0].get_xy()
        assert (outline[:, 0].min(), outline[:, 0].max()) == pytest.approx((values.min(), values.max()))
        assert ax.lines[0].get_xdata()[0] == PREDICTIVE.observed[name]
    colors = {ax.get_title().split(" (")[0]: to_hex(ax.patches[0].get_edgecolor()) for ax in figure.axes}
    assert colors["mean of y"] == plots.BLUE.lower()
    assert colors["sd of y"] == plots.VERMILION.lower()


def test_a_map_is_colored_by_the_classifier_about_one_half():
    ax = plots.lc2st(LC2ST, *POINTS).axes[0]
    dots = ax.collections[0]
    np.testing.assert_allclose(dots.get_array(), LC2ST.probability[0])
    assert sum(dots.get_clim()) == pytest.approx(1.0)
    assert ax.get_title() == "p = 0.02"


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(DataError, match="one value for each of 50 draws"):
        plots.lc2st(LC2ST, POINTS[0], POINTS[1][:3])
    with pytest.raises(DataError, match="observations 0 to 0, got 1"):
        plots.lc2st(LC2ST, *POINTS, observation=1)
    many = {"v": RNG.normal(size=(20, 25))}
    with pytest.raises(DataError, match="25 panels are too many"):
        plots.ranks(checks.sbc(many, {"v": RNG.normal(size=(20, 5, 25))}))
