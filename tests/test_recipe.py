"""The rule that learns a posterior: the best of several candidates, by simulations that none has learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.training import _choice as choice
from retrodict.training import _learn_posterior as recipe
from retrodict.training import synthetic_data as synthesis


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
    monkeypatch.setattr(recipe, "SYNTHETIC_SIMULATIONS", 5000)
    monkeypatch.setattr(recipe, "PROPOSALS", 32)


def test_a_posterior_from_few_simulations(small):
    """theta ~ N(0, 1), x ~ N(theta, .3): 200 simulations tell a line, and a surrogate makes 5,000 of them."""
    structure = rd.Dependencies({f"x[{i}]": [f"theta[{i}]"] for i in range(3)})
    sims = rd.simulate(problem(), 200, key=0)
    model, report = rd.learn_posterior(sims, dependencies=structure, key=1, progress=False)
    assert report.chosen in ("synthetic", "tuned", "weighted")
    assert report.losses["synthetic"] < report.losses["direct"] - 0.05
    assert set(report.histories) == {"direct", "surrogate", "synthetic", "tuned", "weighted"}
    assert report.histories["synthetic"].step[-1] == 400
    x = np.array([0.5, -1.0, 0.2], np.float32)
    theta = model.sample(2000, given={"x": x}, key=2)["theta"]
    slope, sd = 1.0 / (1.0 + NOISE**2), NOISE / np.sqrt(1.0 + NOISE**2)
    # a line from 190 rows is off by .07 sd; the net by a few hundredths more
    np.testing.assert_allclose(theta.mean(axis=0), slope * x, atol=0.4 * sd)
    np.testing.assert_allclose(theta.std(axis=0), sd, rtol=0.3)


@pytest.mark.slow
def test_the_better_candidate_is_chosen(small, monkeypatch):
    """A surrogate that is made to know nothing."""
    sims = rd.simulate(problem(), 400, key=0)

    def ignorant(sims, *_, **how):
        shuffled = {"theta": np.asarray(sims["theta"])[::-1], "x": np.asarray(sims["x"])}
        return learned(rd.Simulations(shuffled, sims.layout), **how)

    learned = recipe.synthesis.surrogate
    monkeypatch.setattr(recipe.synthesis, "surrogate", ignorant)
    model, report = rd.learn_posterior(sims, key=1, progress=False)
    assert report.chosen == "direct"
    assert report.losses["direct"] < report.losses["synthetic"]
    assert model.scaling.affine is None


STRUCTURES = {
    "data that fall into parts": (rd.Dependencies({"x": ["theta"]}), True),
    "all data as one part": (None, True),
    "one part, by what is declared": (rd.Dependencies({"x": ["theta", "x"]}), True),
}


@pytest.mark.parametrize("case", STRUCTURES)
def test_where_a_surrogate_can_be_learned(case):
    dependencies, possible = STRUCTURES[case]
    assert recipe._structure(problem().layout, dependencies)[0] is possible


def test_where_it_cannot():
    long = rd.Problem({"theta": dist.Normal(0.0, 1.0)}, lambda key, theta: {"x": theta + jnp.zeros(40)})
    assert recipe._structure(long.layout, None) == (False, None)
    assert recipe._structure(long.layout, rd.Dependencies({"x": ["theta"]}))[0]
    assert recipe._structure(rd.tasks.get("seir").problem.layout, None) == (False, None)


def test_runs_that_failed_leave_one_candidate(small):
    def simulate(key, theta):
        return {"x": jnp.where(theta > 0.5, jnp.nan, theta + jax.random.normal(key, (3,)))}

    broken = rd.Problem({"theta": dist.Normal(jnp.zeros(3), 1.0).to_event(1)}, simulate)
    sims = rd.simulate(broken, 300, key=0)
    _, report = rd.learn_posterior(sims, failed="given", key=1, progress=False)  # warnings are errors here
    assert list(report.losses) == ["direct"]


def test_the_direct_candidate_must_be_better_by_two_standard_errors():
    """A loss of one of 100 rows that is .2 higher: in the mean .002, with a standard error of .002."""
    losses = np.zeros(100)
    one = losses + 0.2 * (np.arange(100) == 3)
    assert recipe._best({"direct": losses, "synthetic": one}) == "synthetic"
    assert recipe._best({"direct": losses, "synthetic": losses + 0.01 + one}) == "direct"
    assert recipe._best({"direct": one, "synthetic": losses}) == "synthetic"
    assert recipe._best({"direct": losses}) == "direct"
    assert recipe._best({"direct": one, "synthetic": losses, "tuned": losses - 0.1}) == "tuned"
    assert recipe._best({"direct": one, "synthetic": losses, "tuned": losses + 0.1}) == "synthetic"


def test_a_report_tells_the_candidates_and_the_choice():
    report = recipe.SelectionReport(
        "tuned", {"direct": 1.5, "synthetic": 1.25, "tuned": 1.0, "weighted": 1.125}, {}, 61
    )
    lines = str(report).splitlines()
    assert len(lines) <= 10
    assert [line.split()[0] for line in lines[1:]] == ["direct", "synthetic", "tuned", "weighted", "time"]
    assert [line for line in lines if "chosen" in line] == ["  tuned       1.0000  (chosen)"]
    assert "\n" not in repr(report)
    assert "1.2500" in report._repr_html_()


LOSSES = np.random.default_rng(0).normal(1.0, 0.1, 500)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["direct", "tuned", "weighted"])
def test_a_candidate_without_a_density_somewhere_does_not_win(broken, name):
    """It would be better by .9 nats, wherever it stands in the list; row 17 of 500 has no finite density."""
    losses = {"direct": LOSSES, "synthetic": LOSSES + 0.01, "tuned": LOSSES + 0.01, "weighted": LOSSES + 0.01}
    losses[name] = np.where(np.arange(500) == 17, broken, LOSSES - 0.9)
    assert recipe._best(losses) != name
    assert recipe._best(dict(reversed(losses.items()))) != name
    assert np.isinf(recipe.mean_loss(losses[name]))
    every = {other: np.where(np.arange(500) == 17, broken, loss) for other, loss in losses.items()}
    assert recipe._best(every) == name  # where all fail at the same row, the others decide


def test_a_simpler_density_without_a_number_is_not_taken():
    full = LOSSES
    broken = np.where(np.arange(500) == 3, np.nan, LOSSES - 1.0)
    assert choice.is_better(full, broken, 2.0)
    assert not choice.is_better(broken, full, 2.0)
    assert not choice.is_better(full, full, 2.0)
    shares = synthesis.stacked(np.stack([-full, -broken]))
    assert np.isfinite(shares).all()
    assert shares.sum() == pytest.approx(1.0)
