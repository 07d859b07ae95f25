"""Failed runs: seen, described, and corrected for where that is asked for."""

import contextlib
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from unchanged import questions


def simulate(key, rate, other):
    """Fails with probability Phi(2 rate - 1), whatever `other` is; x says nothing about `rate`."""
    key_fail, key_x = jax.random.split(key)
    fails = jax.random.normal(key_fail) < 2.0 * rate - 1.0
    return {"x": jnp.where(fails, jnp.nan, other + 0.1 * jax.random.normal(key_x))}


PROBLEM = rd.Problem({"rate": dist.Normal(0.0, 1.0), "other": dist.Normal(0.0, 1.0)}, simulate)
NET = rd.nets.ResMLP(32, 2)


@pytest.fixture(scope="module")
def sims():
    return rd.simulate(PROBLEM, 4000, key=0)


def test_a_classifier_finds_what_failures_depend_on(sims):
    found = rd.failures(sims)
    assert not found.ok
    assert found.p_value < 1e-10
    assert found.share == sims.n_failed / 4000
    low, middle, high = found.thirds["rate"]
    assert low < 0.02 < middle < 0.3 < high
    assert max(found.thirds["other"]) - min(found.thirds["other"]) < 0.1  # 5 standard deviations of a share of 1,333
    assert "most on rate" in found.summary()
    rates = np.linspace(-1.5, 1.5, 7)
    truth = 1.0 - np.asarray(jax.scipy.stats.norm.cdf(2.0 * rates - 1.0))
    p = found.probability({"rate": rates, "other": np.zeros(7)})
    np.testing.assert_allclose(p, truth, atol=0.12)  # a network's, from 4,000 coin flips; the runs are repeatable


def test_failures_that_depend_on_nothing_pass():
    """At a level of 1e-5."""
    blind = rd.Problem(
        {"rate": dist.Normal(0.0, 1.0)},
        lambda key, rate: {"x": jnp.where(jax.random.uniform(key) < 0.2, jnp.nan, rate + jax.random.normal(key))},
    )
    found = dataclasses.replace(rd.failures(rd.simulate(blind, 2000, key=1)), level=1e-5)
    assert found.ok
    assert "whatever their parameters" in found.summary()


def test_training_says_that_runs_failed(sims):
    few = rd.simulate(PROBLEM, 200, key=3)
    start = rd.joint(PROBLEM.layout, net=NET)
    with pytest.warns(rd.FailedRunsWarning, match=f"{few.n_failed} of 200 runs failed"):
        rd.fit(start, few, key=0, steps=2, progress=False)
    rd.fit(start, few, key=0, steps=2, failed="given", progress=False)
    with pytest.raises(rd.DataError, match="'given' or 'corrected'"):
        rd.fit(start, few, key=0, steps=2, failed="no", progress=False)
    with pytest.raises(rd.DataError, match="at least 10 that did"):
        rd.failures(rd.simulate(rd.tasks.get("two_moons").problem, 50, key=0))


def test_weights_bring_the_prior_back(sims):
    """x says nothing about `rate`, so that its posterior is its prior N(0, 1), corrected, and p(rate | ok) if not.

    p(rate | ok) has mean -.52. Where nearly all runs fail weights end at fifty, and 600 steps are few: .2.
    """
    start, means = rd.posterior(PROBLEM.layout, net=NET), {}
    kept = float(np.mean(sims["rate"]))
    assert kept < -0.45
    for failed in ("given", "corrected"):
        with pytest.warns(rd.FailedRunsWarning) if failed == "corrected" else contextlib.nullcontext() as said:
            model, _ = rd.fit(start, sims, key=0, steps=600, batch_size=256, failed=failed, progress=False)
        means[failed] = float(model.sample(2000, given={"x": 0.0}, key=1)["rate"].mean())
    # in 6.3 % of the prior fewer than one in fifty ends well: 2 rate - 1 > 2.05
    (sentence,) = [str(one.message) for one in said if one.category is rd.FailedRunsWarning]
    assert 2 <= float(re.search(r"cannot bring back (\d+)%", sentence)[1]) <= 11
    assert abs(means["given"] - kept) < 0.15
    assert abs(means["corrected"]) < 0.2


def with_failures(share_of):
    """Simulations of N(0, 1) that fail with a probability that depends on the parameter."""

    def simulate(key, rate):
        return {"x": jnp.where(jax.random.uniform(key) < share_of(rate), jnp.nan, rate)}

    return rd.simulate(rd.Problem({"rate": dist.Normal(0.0, 1.0)}, simulate), 3000, key=5)


HOLES = {
    "none": (lambda rate: 0.5 * jax.scipy.stats.norm.cdf(rate) + 0.05, 0.0),
    "none where nearly all fail": (lambda rate: 0.9 + 0.0 * rate, 0.0),
    "half of the prior": (lambda rate: 1.0 * (rate > 0.0), 0.5),
    "nine tenths": (lambda rate: 1.0 * (rate > -1.2816), 0.9),
}


@pytest.mark.parametrize("case", HOLES)
def test_the_part_of_the_prior_that_cannot_come_back_is_measured(case):
    """Within .05: a share of 3,000 rows has a standard error of .01, and a classifier blurs an edge."""
    share_of, truth = HOLES[case]
    found = rd.failures(with_failures(share_of))
    assert found.unreachable == pytest.approx(truth, abs=0.05)
    assert found.has_hole is (truth > 0.0)
    assert ("hardly any run ends well" in found.summary()) is (truth > 0.0)


def test_probabilities_of_failures_add_up():
    """The sum of the weights of the rows that ended well is the number of runs, where none is capped."""
    for share_of, _ in (HOLES["none"], HOLES["none where nearly all fail"]):
        sims = with_failures(share_of)
        weights = rd.failures(sims).weights(np.asarray(sims["rate"])[:, None])
        assert weights.sum() == pytest.approx(3000, rel=0.2)  # 5 standard deviations of 300 rows that are worth ten


def test_failed_means_the_same_for_every_kind_of_model(sims):
    """A kind that cannot have a meaning refuses it, before training."""
    fit = functools.partial(rd.fit, sims=sims, key=0, steps=2, progress=False)
    for name in ("hierarchical", "distilled_sampler", "distilled_density"):
        with pytest.raises(rd.DataError, match="failed='reweight' is not offered by"):
            fit(rd.load(questions.model_file(name)), failed="reweight")
    weighted = rd.load(questions.model_file("weighted"))
    with pytest.raises(rd.DataError, match="failed='ignore' is not offered by ImportanceSampledPosterior"):
        fit(weighted, failed="ignore")


@pytest.mark.slow
def test_the_report_tells(sims, tmp_path):
    from retrodict.report import posterior_report as referee

    model, _ = rd.fit(rd.joint(PROBLEM.layout, net=NET), sims, key=0, steps=20, failed="given", progress=False)
    rows = rd.simulate(PROBLEM, 300, key=9)
    found = referee.examine(model, rows, {"x": 0.3}, observations=60, draws=60)
    page = referee.write(tmp_path / "r.html", model, found).read_text()
    assert "Runs that failed" in page
    assert "most on rate" in page
