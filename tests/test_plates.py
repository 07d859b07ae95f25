"""Plates: what every site has for itself; simulations of one site or of many under the same shared parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.variables import Layout


def site(key, mu, eta):
    return {"y": eta + 0.5 * jax.random.normal(key)}


PRIOR = {"mu": dist.Normal(0.0, 1.0), "site": rd.Plate("site", {"eta": lambda mu: dist.Normal(mu, 0.5)})}


def written():
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("site", 3):
        numpyro.sample("eta", dist.Normal(mu, 0.5))


@pytest.fixture(params=["mapping", "numpyro"])
def problem(request):
    return rd.Problem(PRIOR if request.param == "mapping" else rd.numpyro_prior(written), site)


def test_the_layout_is_that_of_one_site(problem):
    layout = problem.layout
    assert layout.names == ["mu", "eta", "y"]
    assert (layout.plate, layout.shared, layout.own) == ("site", ["mu"], ["eta", "y"])
    assert all(v.shape == () for v in layout.variables)
    assert Layout.from_json(layout.to_json()) == layout


def test_one_site_or_many_under_the_same_shared_parameters(problem):
    one, many = rd.simulate(problem, 4000, key=0), rd.simulate(problem, 4000, key=0, sites=6)
    assert one["eta"].shape == one["y"].shape == (4000,)
    assert many["mu"].shape == (4000,)
    assert many["eta"].shape == many["y"].shape == (4000, 6)
    spread = many["eta"] - many["mu"][:, None]
    # 5 standard deviations of an empirical standard deviation of 24,000, false-alarm rate 6e-7
    assert np.std(spread) == pytest.approx(0.5, rel=0.023)
    assert np.std(many["y"] - many["eta"]) == pytest.approx(0.5, rel=0.023)
    # sites are independent given what they share: correlations of 4,000 have the sd .016
    assert np.abs(np.corrcoef(spread.T) - np.eye(6)).max() < 0.09
    assert np.std(one["y"]) == pytest.approx(np.sqrt(1.5), rel=0.056)


def test_rows_may_have_different_numbers_of_sites(problem):
    counts = np.array([1, 3, 2])
    sims = rd.simulate(problem, 3, key=0, sites=counts)
    assert (~np.isnan(sims["y"])).sum(axis=1).tolist() == counts.tolist()
    assert (np.isnan(sims["y"]) == np.isnan(sims["eta"])).all()


def test_a_row_of_sites_is_the_same_however_many_rows(problem):
    few, more = rd.simulate(problem, 2, key=1, sites=3), rd.simulate(problem, 5, key=1, sites=3)
    np.testing.assert_array_equal(few["y"], more["y"][:2])


def test_numpy_simulators_have_sites_too():
    plain = rd.Problem(PRIOR, rd.numpy_simulator(lambda rng, mu, eta: {"y": eta + rng.normal(size=2)}))
    sims = rd.simulate(plain, 4, key=0, sites=3)
    assert sims["y"].shape == (4, 3, 2)
    assert len(np.unique(sims["y"] - sims["eta"][..., None])) == 24


def test_the_density_of_a_numpyro_model_is_that_of_the_mapping():
    values = {"mu": jnp.asarray(0.3), "eta": jnp.asarray(-0.2)}
    found = [rd.Problem(prior, site).prior.log_prob(values) for prior in (PRIOR, rd.numpyro_prior(written))]
    exact = dist.Normal(0.0, 1.0).log_prob(0.3) + dist.Normal(0.3, 0.5).log_prob(-0.2)
    np.testing.assert_allclose(found, exact, rtol=1e-5)


def nested():
    with numpyro.plate("a", 2), numpyro.plate("b", 3):
        numpyro.sample("x", dist.Normal())


def observing():
    numpyro.sample("x", dist.Normal(), obs=1.0)


@pytest.mark.parametrize(
    ("prior", "sentence"),
    [
        ({"p": rd.Plate("p", {"q": rd.Plate("q", {"x": dist.Normal()})})}, "plates in plates are not offered yet"),
        ({"p": rd.Plate("p", {"x": dist.Normal()}), "q": rd.Plate("q", {"z": dist.Normal()})}, "has one plate"),
        ({"p": rd.Plate("q", {"x": dist.Normal()})}, "give both the same name"),
        ({"p": rd.Plate("p", {"x": dist.Normal()}), "m": lambda x: dist.Normal(x)}, "cannot depend on 'x'"),
        (written, r"as rd.numpyro_prior\(model\)"),
    ],
)
def test_what_is_no_plate_is_said(prior, sentence):
    with pytest.raises(rd.RetrodictError, match=sentence):
        rd.Problem(prior, site)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nested, "plates in plates are not offered yet"),
        (observing, "observes 'x'"),
        (lambda: None, "has no `numpyro.sample`"),
    ],
)
def test_what_is_no_prior_is_said(model, sentence):
    with pytest.raises(rd.DataError, match=sentence):
        rd.numpyro_prior(model)


def test_sites_may_have_data_alone():
    """Trials that are alike: a plate without parameters."""
    trials = rd.Problem({"mu": dist.Normal(), "site": rd.Plate("site", {})}, lambda key, mu: {"y": mu})
    assert trials.layout.own == ["y"]
    assert rd.simulate(trials, 2, key=0, sites=3)["y"].shape == (2, 3)


def test_sites_without_a_plate_are_refused():
    with pytest.raises(rd.DataError, match="this problem has none"):
        rd.simulate(rd.Problem({"a": dist.Normal()}, lambda key, a: {"y": a}), 3, key=0, sites=2)
    with pytest.raises(rd.DataError, match="at least 1 each"):
        rd.simulate(rd.Problem(PRIOR, site), 3, key=0, sites=np.array([1, 0, 2]))
