"""Draws as a DataTree: what goes in comes out under ArviZ's names, and ArviZ reads it."""

import numpy as np
import pytest

import retrodict as rd


xarray = pytest.importorskip("xarray", reason="xarray is not installed: pip install 'retrodict[arviz]'")
RNG = np.random.default_rng(0)
DRAWS = {"rate": RNG.normal(2.0, 1.0, size=400), "hare": RNG.normal(size=(400, 3))}
YEARS = [1900, 1901, 1902]


def tree():
    return rd.to_datatree(
        DRAWS,
        prior={"rate": RNG.normal(size=50)},
        posterior_predictive={"hare": RNG.normal(size=(100, 3))},
        observed={"hare": np.arange(3.0)},
        dims={"hare": ["year"]},
        coords={"year": YEARS},
    )


def test_groups_axes_and_labels_are_those_of_the_schema():
    found = tree()
    assert set(found.children) == {"posterior", "prior", "posterior_predictive", "observed_data"}
    assert found["posterior"]["hare"].dims == ("chain", "draw", "year")
    assert found["posterior"]["rate"].shape == (1, 400)
    np.testing.assert_array_equal(found["posterior"]["hare"].sel(chain=0, year=1901), DRAWS["hare"][:, 1])
    assert found["prior"].sizes["draw"] == 50
    assert found["observed_data"]["hare"].dims == ("year",)
    assert rd.to_datatree({"v": np.zeros((5, 2))})["posterior"]["v"].dims == ("chain", "draw", "v_dim_0")


@pytest.mark.filterwarnings("ignore")  # ArviZ's own
def test_arviz_summarizes_and_plots_it():
    arviz = pytest.importorskip("arviz", reason="arviz is not installed: pip install 'retrodict[arviz]'")
    found = tree()
    if hasattr(arviz, "InferenceData"):  # before ArviZ 1.0, which reads a DataTree as it is
        found = arviz.InferenceData.from_datatree(found)
    summary = arviz.summary(found, round_to="none")
    assert summary.loc["rate", "mean"] == pytest.approx(DRAWS["rate"].mean())
    assert summary.loc["hare[1901]", "sd"] == pytest.approx(DRAWS["hare"][:, 1].std(ddof=1), rel=1e-2)
    if hasattr(arviz, "plot_posterior"):
        arviz.plot_posterior(found, var_names=["rate"])
    else:
        arviz.plot_dist(found, var_names=["rate"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": {"a": np.zeros(3), "b": np.zeros(4)}}, "one n for all of the group 'posterior'"),
        ({"draws": {"a": 1.0}}, "draws are (n, *shape)"),
        ({"draws": DRAWS, "dims": {"hara": ["year"]}}, "Did you mean 'hare'?"),
        ({"draws": DRAWS, "dims": {"hare": ["year", "site"]}}, "names 2 axes of 'hare', which has 1"),
        (
            {"draws": DRAWS, "dims": {"hare": ["year"]}, "coords": {"year": [1, 2]}},
            "2 labels along 'year', which has 3",
        ),
        ({"draws": DRAWS, "dims": {"hare": ["year"]}, "coords": {"yaer": YEARS}}, "names 'yaer'; the axes are"),
        ({"draws": {**DRAWS, "b": np.zeros((400, 2))}, "dims": {"hare": ["y"], "b": ["y"]}}, "'b' has 2 places, and 3"),
    ],
)
def test_what_does_not_fit_is_one_clear_sentence(arguments, message):
    with pytest.raises(rd.DataError) as caught:
        rd.to_datatree(**arguments)
    assert message in str(caught.value)
