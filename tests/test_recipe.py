"""The rule that learns a posterior: the best of several ways, told by simulations that neither has learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.training import _learn_posterior as recipe


NOISE = 0.3
SURROGATE = {"width": 16, "depth": 1, "components": 1, "steps": 300}


def problem(noise=NOISE):
    def simulate(key, theta):
        return {"x": theta + noise * jax.random.normal(key, (3,))}

    return rd.Problem({"theta": dist.Normal(jnp.zeros(3), 1.0).to_event(1)}, simulate)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(recipe, "NET", rd.nets.ResMLP(32, 2))
    monkeypatch.setattr(recipe, "STEPS", 400)
    monkeypatch.setattr(recipe, "TUNING", {"steps": 50, "learning_rate": 3e-4})
    monkeypatch.setattr(recipe, "SURROGATE", SURROGATE)
    monkeypatch.setattr(recipe, "MADE", 5000)
    monkeypatch.setattr(recipe, "PROPOSALS", 32)


def test_a_posterior_from_few_simulations(small):
    """theta ~ N(0, 1), x ~ N(theta, .3): 200 simulations tell a line, and a surrogate makes 5,000 of them."""
    structure = rd.Dependencies({f"x[{i}]": [f"theta[{i}]"] for i in range(3)})
    sims = rd.simulate(problem(), 200, key=0)
    model, account = rd.learn_posterior(sims, dependencies=structure, key=1, progress=False)
    assert account.chosen in ("synthetic", "tuned", "weighted")
    assert account.losses["synthetic"] < account.losses["direct"] - 0.05
    assert set(account.histories) == {"direct", "surrogate", "synthetic", "tuned", "weighted"}
    assert account.histories["synthetic"].step[-1] == 400
    x = np.array([0.5, -1.0, 0.2], np.float32)
    theta = model.sample(2000, given={"x": x}, key=2)["theta"]
    slope, sd = 1.0 / (1.0 + NOISE**2), NOISE / np.sqrt(1.0 + NOISE**2)
    # a line from 190 rows is off by .07 sd; the net by a few hundredths more
    np.testing.assert_allclose(theta.mean(axis=0), slope * x, atol=0.4 * sd)
    np.testing.assert_allclose(theta.std(axis=0), sd, rtol=0.3)


@pytest.mark.slow
def test_the_better_way_is_kept(small, monkeypatch):
    """A surrogate that is made to know nothing."""
    sims = rd.simulate(problem(), 400, key=0)

    def ignorant(sims, *_, **how):
        shuffled = {"theta": np.asarray(sims["theta"])[::-1], "x": np.asarray(sims["x"])}
        return learned(rd.rows.Simulations(shuffled, sims.layout), **how)

    learned = recipe.synthesis.surrogate
    monkeypatch.setattr(recipe.synthesis, "surrogate", ignorant)
    model, account = rd.learn_posterior(sims, key=1, progress=False)
    assert account.chosen == "direct"
    assert account.losses["direct"] < account.losses["synthetic"]
    assert model.scaling.affine is None


WAYS = {
    "data that fall into parts": (rd.Dependencies({"x": ["theta"]}), True),
    "all data as one part": (None, True),
    "one part, by what is declared": (rd.Dependencies({"x": ["theta", "x"]}), True),
}


@pytest.mark.parametrize("case", WAYS)
def test_where_a_surrogate_can_be_learned(case):
    dependencies, possible = WAYS[case]
    assert recipe._parts(problem().layout, dependencies)[0] is possible


def test_where_it_cannot():
    long = rd.Problem({"theta": dist.Normal(0.0, 1.0)}, lambda key, theta: {"x": theta + jnp.zeros(40)})
    assert recipe._parts(long.layout, None) == (False, None)
    assert recipe._parts(long.layout, rd.Dependencies({"x": ["theta"]}))[0]
    assert recipe._parts(rd.tasks.get("seir").problem.layout, None) == (False, None)


def test_runs_that_failed_leave_one_way(small):
    def simulate(key, theta):
        return {"x": jnp.where(theta > 0.5, jnp.nan, theta + jax.random.normal(key, (3,)))}

    broken = rd.Problem({"theta": dist.Normal(jnp.zeros(3), 1.0).to_event(1)}, simulate)
    sims = rd.simulate(broken, 300, key=0)
    _, account = rd.learn_posterior(sims, failed="given", key=1, progress=False)  # warnings are errors here
    assert list(account.losses) == ["direct"]


def test_the_direct_way_must_be_better_by_two_standard_errors():
    """A loss of one of 100 rows that is .2 higher: in the mean .002, with a standard error of .002."""
    losses = np.zeros(100)
    one = losses + 0.2 * (np.arange(100) == 3)
    assert recipe._better({"direct": losses, "synthetic": one}) == "synthetic"
    assert recipe._better({"direct": losses, "synthetic": losses + 0.01 + one}) == "direct"
    assert recipe._better({"direct": one, "synthetic": losses}) == "synthetic"
    assert recipe._better({"direct": losses}) == "direct"
    assert recipe._better({"direct": one, "synthetic": losses, "tuned": losses - 0.1}) == "tuned"
    assert recipe._better({"direct": one, "synthetic": losses, "tuned": losses + 0.1}) == "synthetic"
