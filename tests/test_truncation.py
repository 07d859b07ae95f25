"""Truncated priors: for a Gaussian in unconstrained space everything is known.

If u ~ N(0, I) in k dimensions and R is a ball of radius r, then |u|^2 is chi-square and its law inside R is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import retrodict as rd
from retrodict.models._record import Calibration, fingerprint
from retrodict.problem import Prior
from retrodict.training._truncated_prior import Ellipsoid, TruncatedPrior, TruncationWarning, _checked_margin


RADIUS, N = 1.7, 20_000


def simulator(key, a, b):
    return {"y": jnp.stack([a, b[0], b[1]]) + 0.1 * jax.random.normal(key, (3,))}


PRIOR = {"a": dist.LogNormal(0.0, 1.0), "b": dist.Normal(jnp.zeros(2), 1.0)}  # u = (log a, b) ~ N(0, I)


@pytest.fixture(scope="module")
def truncated():
    region = Ellipsoid(jnp.zeros(3), jnp.eye(3), RADIUS)
    return TruncatedPrior(Prior(PRIOR), region, 0.0, key=jax.random.key(0))


@pytest.fixture(scope="module")
def draws(truncated):
    found = jax.vmap(truncated.draw)(jax.random.split(jax.random.key(1), N))
    return np.column_stack([np.log(found["a"]), found["b"]])


def test_the_prior_mass_inside_is_that_of_chi_square(truncated):
    # 100,000 uniform points of a density that varies by a factor of 4: standard error .2 %, false-alarm rate below 1e-5
    assert truncated.prior_mass == pytest.approx(stats.chi2(3).cdf(RADIUS**2), rel=0.01)


def test_draws_have_the_law_of_the_truncated_prior(draws):
    radius = np.linalg.norm(draws, axis=1)
    assert radius.max() <= RADIUS * 1.0001

    def distribution(r):
        return stats.chi2(3).cdf(r**2) / stats.chi2(3).cdf(RADIUS**2)

    # 2.5 / sqrt(n): the Kolmogorov-Smirnov statistic exceeds it with probability 7e-6
    assert stats.kstest(radius, distribution).statistic < 2.5 / np.sqrt(N)
    spread = draws.std(axis=0).mean() / np.sqrt(N)
    np.testing.assert_allclose(draws.mean(axis=0), 0.0, atol=5 * spread)


def test_rows_do_not_share_points(draws):
    assert len(np.unique(draws, axis=0)) > 0.999 * N


def test_the_density_is_the_prior_s_over_the_mass(truncated):
    inside = {"a": jnp.asarray(1.3), "b": jnp.asarray([0.2, -0.4])}
    exact = Prior(PRIOR).log_prob(inside) - np.log(stats.chi2(3).cdf(RADIUS**2))
    assert float(truncated.log_prob(inside)) == pytest.approx(float(exact), abs=0.01)
    assert np.isneginf(truncated.log_prob({**inside, "a": jnp.asarray(30.0)}))


def test_an_ellipsoid_is_uniform_and_has_its_volume():
    factor = jnp.asarray([[2.0, 0.0], [0.5, 0.3]])
    ball = Ellipsoid(jnp.asarray([1.0, -1.0]), factor, 1.5)
    assert ball.log_volume == pytest.approx(np.log(np.pi * 1.5**2 * 0.6), rel=1e-5)
    distance = np.asarray(ball.distance(ball.draw(jax.random.key(0), N)))
    # in two dimensions the squared radius is uniform
    assert stats.kstest((distance / 1.5) ** 2, "uniform").statistic < 2.5 / np.sqrt(N)


def test_a_region_far_wider_than_the_prior_is_refused():
    wide = Ellipsoid(jnp.zeros(3), 10.0 * jnp.eye(3), 10.0)
    with pytest.raises(rd.QueryError, match="the prior fills so little of the region"):
        TruncatedPrior(Prior(PRIOR), wide, 0.0, key=jax.random.key(0))


def test_truncate_keeps_the_problem_and_measures_what_it_cuts_off():
    problem = rd.Problem(PRIOR, simulator)
    model = rd.joint(problem.layout, net=rd.nets.ResMLP(8, 1))  # untrained: its posterior is N(0, I) in u
    again = rd.truncate(problem, model, given={"y": np.zeros(3)}, mass=0.95, margin=1.0, key=0)
    assert again.layout.names == problem.layout.names
    assert again.simulator is problem.simulator
    # 5,000 held-out draws and a quantile of 5,000 others: five standard errors
    assert again.prior.cut_off == pytest.approx(0.05, abs=5 * np.sqrt(2 * 0.05 * 0.95 / 5000))
    # and the prior being that posterior, what is kept of it is the mass
    assert again.prior.prior_mass == pytest.approx(0.95, abs=0.03)
    sims = rd.simulate(again, 200, key=1)
    u = np.column_stack([np.log(sims["a"]), sims["b"]])
    assert (np.asarray(again.prior.region.distance(u)) <= again.prior.region.radius * 1.001).all()


def test_a_model_that_was_never_checked_gets_a_margin():
    """A first posterior half as wide as it should be: the region of .999 would hold .9 of a Gaussian; it says so."""
    problem = rd.Problem({"a": dist.Normal(0.0, 2.0)}, lambda key, a: {"y": a})
    model = rd.joint(problem.layout, net=rd.nets.ResMLP(8, 1))  # untrained: its posterior is N(0, 1)
    with pytest.warns(TruncationWarning, match="never checked .* made 2 times as wide"):
        again = rd.truncate(problem, model, given={"y": 0.0}, key=0)
    assert again.prior.margin == 2.0
    assert again.prior.cut_off < 0.01
    end = float(again.prior.region.radius) / 2.0  # the posterior is N(0, 2^2)
    assert 2.0 * stats.norm.sf(end) < 0.005
    with pytest.raises(rd.QueryError, match="`margin` must be 1 or more"):
        rd.truncate(problem, model, given={"y": 0.0}, margin=0.5)


@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_a_check_tells_the_margin(width, model):
    """Gaussian draws `width` times as wide as they should be, in a check of 1,000 simulations."""
    rng = np.random.default_rng(0)
    truth, draws = rng.normal(size=1000), width * rng.normal(size=(1000, 500))
    excess = rd.diagnostics.coverage({"rate": truth}, {"rate": draws}, key=0).excess
    shares = model.parse({"counts": np.zeros(3)}, ["rate", "noise"]).shares
    check = Calibration(fingerprint(model), shares, 1000, 500, 0.05, 0.5, (("sbc", 0.5),), tuple(excess.items()))
    margin = _checked_margin(model.with_calibration(check, None), shares)
    assert 1.0 / width * 0.98 < margin < 1.0 / width * 1.2  # two standard errors wider, and five around them
    assert _checked_margin(model, shares) is None


def test_the_next_round_knows_its_ends(truncated):
    """Variables end where the region does; a positive one over decades stays positive, to be modeled by its log."""
    a, b = truncated.variables
    assert (a.low, a.high) == ((0.0,), (np.inf,))
    np.testing.assert_allclose(b.high, 1.001 * RADIUS, rtol=1e-4)
    np.testing.assert_allclose(b.low, -1.001 * RADIUS, rtol=1e-4)
    problem = rd.Problem(truncated, simulator)
    model = rd.joint(problem.layout, net=rd.nets.ResMLP(8, 1))
    drawn = model.sample(2000, given={"y": np.zeros(3)}, key=0)
    assert np.abs(drawn["b"]).max() <= 1.001 * RADIUS * 1.0001
    outside = model.log_prob({"a": [1.0], "b": [[0.0, 2.0]]}, given={"y": np.zeros(3)})
    assert np.isneginf(outside).all()
