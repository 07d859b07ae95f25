"""Posteriors that a likelihood weighs, held against closed forms: theta ~ N(0, 1), x ~ N(theta, .5) twice."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict import synthesis
from retrodict._errors import QueryError
from retrodict.models import IntegerElements, Sizes
from retrodict.models._importance import ImportanceSampledPosterior, WeightingWarning
from retrodict.query.tokens import flatten
from retrodict.transforms.scaling import Scaling, network_input_layout


NOISE = 0.5
X = np.array([[0.8, -1.0], [-1.5, 0.1]], np.float32)
SLOPE, SD = 1.0 / (1.0 + NOISE**2), NOISE / np.sqrt(1.0 + NOISE**2)


def simulate(key, theta):
    return {"x": theta + NOISE * jax.random.normal(key, (2,))}


PROBLEM = rd.Problem({"theta": dist.Normal(jnp.zeros(2), 1.0).to_event(1)}, simulate)


def exact(theta, x):
    return np.sum(-0.5 * ((theta - SLOPE * x) / SD) ** 2 - np.log(SD * np.sqrt(2 * np.pi)), axis=-1)


def weighing(problem, n, steps):
    """The likelihood is a straight line, exact but for what n rows leave open; the flow is hardly trained, or not."""
    sims = rd.simulate(problem, n, key=0)
    layout = sims.layout
    start = rd.posterior(layout, net=rd.nets.ResMLP(16, 1), conditional_affine=False, key=1)  # else the flow is right
    how = {"key": 2, "steps": steps, "learning_rate": 3e-3, "progress": False}
    flow = rd.fit(start, sims, **how)[0] if steps else start
    rows, own = flatten(layout, sims, layout.names, where="rows"), layout.is_parameter
    blank = synthesis.FactorizedLikelihood.blank(layout, None, [Sizes(1, int(own.sum()), int((~own).sum()))])
    scaling = Scaling.fit(network_input_layout(layout), rows[:, own])
    whole = IntegerElements.of(rows, blank.factors.tokens.T)
    pairs = synthesis.factor_rows(layout, blank.factors, scaling, whole, rows)
    line = blank.mixtures[0].with_baseline(pairs).baseline_only()
    learned = dataclasses.replace(
        blank, scaling=scaling, mixtures=(line,), shares=jnp.ones(1), integers=IntegerElements(*map(jnp.asarray, whole))
    )
    return ImportanceSampledPosterior(flow, learned, problem.prior)


@pytest.fixture(scope="module")
def weighted():
    return weighing(PROBLEM, 2000, 40)


def test_draws_are_right_where_those_of_the_flow_are_not(weighted):
    """Standard errors of means: .02 sd; a line from 2,000 rows is off by as much, and .15 is five of both."""
    draws = weighted.sample(3000, given={"x": X[0]}, key=4)["theta"]
    off = np.abs(weighted.flow.sample(3000, given={"x": X[0]}, key=4)["theta"].mean(axis=0) - SLOPE * X[0]) / SD
    assert off.max() > 0.3
    np.testing.assert_allclose(draws.mean(axis=0), SLOPE * X[0], atol=0.15 * SD)
    np.testing.assert_allclose(draws.std(axis=0), SD, rtol=0.1)
    assert draws.shape == (3000, 2)


def test_densities_are_normalized(weighted):
    """256 proposals tell log Z to .1; both ways of telling it lie on either side of the truth, in the mean."""
    sims = rd.simulate(PROBLEM, 100, key=5)
    values, given = {"theta": np.asarray(sims["theta"])}, rd.Batch({"x": np.asarray(sims["x"])})
    right = exact(values["theta"], given["x"])
    found = weighted.log_prob(values, given=given)
    np.testing.assert_allclose(found.mean(), right.mean(), atol=0.05)
    assert np.corrcoef(found, right)[0, 1] > 0.98
    few = {"proposals": 4, "key": 0}
    flattering, cautious = (
        weighted.log_prob(values, given=given, **few),
        weighted.log_prob_of_truth(values, given, **few),
    )
    assert flattering.mean() > right.mean() + 0.02
    assert cautious.mean() < right.mean() - 0.02


def test_one_observation_many_values(weighted):
    theta = (SLOPE * X[1] + SD * np.random.default_rng(0).normal(size=(50, 2))).astype(np.float32)
    found = weighted.log_prob({"theta": theta}, given={"x": X[1]}, proposals=2048)
    apart = found - exact(theta, X[1])
    assert apart.std() < 0.15  # of shape
    assert abs(apart.mean()) < 0.15  # of log Z


def test_questions_of_other_shapes(weighted):
    draws = weighted.sample(500, given=rd.Batch({"x": X}), key=6)["theta"]
    assert draws.shape == (2, 500, 2)
    np.testing.assert_allclose(draws.mean(axis=1), SLOPE * X, atol=0.35 * SD)  # 5 standard errors, and copies
    part = weighted.sample(5, given={"x": X[0]}, of={"theta": np.array([True, False])}, key=6)["theta"]
    whole = weighted.sample(5, given={"x": X[0]}, of=["theta"], key=6)["theta"]
    assert np.isnan(part[:, 1]).all()
    np.testing.assert_array_equal(part[:, 0], whole[:, 0])


REFUSED = {
    "nothing given": ({"given": {}}, "trained for one question"),
    "a missing datum": ({"given": {"x": np.array([0.1, np.nan])}}, "trained for one question"),
    "an interval": ({"given": {"x": rd.Interval(0.0, 1.0)}}, "asked of the flow alone"),
    "strength": ({"given": {"x": X[0]}, "strength": 2.0}, "asked of the flow alone"),
    "an adaptive solver": ({"given": {"x": X[0]}, "solver": rd.solvers.Tsit5()}, "fixed steps"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_offered_is_refused(weighted, case):
    how, sentence = REFUSED[case]
    with pytest.raises(QueryError, match=sentence):
        weighted.sample(10, **how, key=0)


def test_outside_the_prior_there_is_nothing():
    """theta > 0: a line knows no end."""
    prior = {"theta": dist.LogNormal(-1.0, 0.5)}
    problem = rd.Problem(prior, lambda key, theta: {"x": theta + jax.random.normal(key)})
    model = weighing(problem, 500, 0)
    found = model.log_prob({"theta": np.array([-0.5, 0.5, 1.5])}, given={"x": 0.3})
    assert (found == -np.inf).tolist() == [True, False, False]
    # on a grid it adds up to one: 4,096 proposals
    grid = (np.arange(200) + 0.5) / 50
    density = np.exp(model.log_prob({"theta": grid}, given={"x": 0.3}, proposals=2048))
    assert density.sum() / 50 == pytest.approx(1.0, abs=0.1)


def test_a_likelihood_that_disagrees_is_told(weighted):
    """Data forty standard deviations away, where the flow never looked."""
    with pytest.warns(WeightingWarning, match="disagree about the observation"):
        weighted.without_warnings().sample(100, given={"x": np.array([20.0, -20.0])}, key=0)
    with (
        pytest.warns(rd.CalibrationWarning, match="unlike the simulations"),
        pytest.warns(WeightingWarning),
    ):
        weighted.sample(100, given={"x": np.array([20.0, -20.0])}, key=0)


def test_draws_say_what_they_are_worth(weighted):
    """As many as they are here, since the proposals are good; the unweighted have nothing to say."""
    drawn = weighted.sample(200, given={"x": X[0]}, key=7)
    assert 100 < drawn.effective_size <= 200
    assert isinstance(drawn, dict)
    many = weighted.sample(200, given=rd.Batch({"x": X[:2]}), key=7)
    assert many.effective_size.shape == (2,)
    assert type(jax.tree.map(np.mean, drawn)) is dict
    assert not hasattr(weighted.flow.sample(20, given={"x": X[0]}, key=7), "effective_size")


@pytest.mark.parametrize("share", [0.01, 0.2, 0.45, 0.55, 1.0])
def test_poor_draws_are_told_below_one_half(share, weighted):
    """Of 1,600 proposals a share of 200 have all of the weight, equal: they are worth that share of 200 draws."""

    def proposals(self, m, observations, solver, key):
        start = 0 if m != 400 else proposals.calls * 400
        proposals.calls += 1
        index = start + np.arange(m)
        log_weights = np.where(index < share * 200, 0.0, -np.inf)
        return np.zeros((1, m, 2)), log_weights[None]

    proposals.calls = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImportanceSampledPosterior, "_proposals", proposals)
        with pytest.warns(WeightingWarning) if share < 0.5 else contextlib.nullcontext() as said:
            drawn = weighted.sample(200, given={"x": X[0]}, key=0)
    assert drawn.effective_size == pytest.approx(share * 200, abs=1)
    if share < 0.5:
        assert f"worth {share:.2g} independent" in str(said[0].message)


def test_a_file_keeps_it(weighted, tmp_path):
    """With its prior, if that is made of numpyro's distributions; otherwise the problem says it again."""
    again = rd.load(rd.save(weighted, tmp_path / "model.safetensors"))
    question = {"given": {"x": X[0]}, "key": 7}
    np.testing.assert_array_equal(again.sample(100, **question)["theta"], weighted.sample(100, **question)["theta"])
    own = rd.Problem({"theta": lambda: dist.Normal(jnp.zeros(2), 1.0).to_event(1)}, simulate)
    other = dataclasses.replace(weighted, prior=own.prior)
    again = rd.load(rd.save(other, tmp_path / "other.safetensors"))
    with pytest.raises(QueryError, match=r"model\.under\(problem\)"):
        again.sample(100, **question)
    found = again.under(own).sample(100, **question)["theta"]
    np.testing.assert_array_equal(found, other.sample(100, **question)["theta"])


def test_it_is_checked_as_any_model(weighted, tmp_path):
    """The flow fails where the weighted posterior passes; what came out belongs to it, also in a file."""
    held = rd.simulate(PROBLEM, 300, key=8)
    how = {"given": ["x"], "observations": 250, "draws": 100, "densities": 0, "key": 9}
    assert not rd.check(weighted.flow, held, **how)[1].ok
    with pytest.warns(WeightingWarning, match="of 250 observations"):  # where the flow hardly looked
        checked, outcome = rd.check(weighted, held, **how)
    assert outcome.p_value > 1e-3
    again = rd.load(rd.save(checked, tmp_path / "model.safetensors"))
    assert len(again.calibration.calibrations) == 1
    with pytest.warns(rd.CalibrationWarning, match="unlike the simulations"), pytest.warns(WeightingWarning):
        again.sample(10, given={"x": np.array([4.0, -4.0])}, key=0)
    assert rd.unlike(again, {"x": np.array([4.0, -4.0])}, key=0).p_value < 0.02


@pytest.mark.slow
def test_it_tells_where_the_posterior_is(weighted):
    narrow = rd.truncate(PROBLEM, weighted, given={"x": X[0]}, margin=1.5, key=0)
    assert (np.abs(rd.simulate(narrow, 200, key=1)["theta"] - SLOPE * X[0]) < 8 * SD).all()
