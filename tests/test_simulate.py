"""Simulations: rows that depend on their own seed alone, failures counted, supports declared."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import retrodict as rd


room = import_module("retrodict.simulation._simulate")  # `rd.simulate` is the function


def test_a_row_does_not_depend_on_how_many_are_drawn(problem, monkeypatch):
    few, many = rd.simulate(problem, 10, key=3), rd.simulate(problem, 40, key=3)
    monkeypatch.setattr(room, "BATCH", 7)
    odd = rd.simulate(problem, 40, key=3)
    for name in few:
        np.testing.assert_array_equal(few[name], many[name][:10])
        np.testing.assert_array_equal(odd[name], many[name])


def test_no_two_rows_are_alike(problem):
    sims = rd.simulate(problem, 2000, key=0)
    assert len(np.unique(sims["counts"], axis=0)) == 2000


def test_failures_are_counted_and_their_parameters_kept():
    def explode(key, a):
        return {"y": jnp.where(a > 1.0, jnp.nan, a + jax.random.normal(key))}

    sims = rd.simulate(rd.Problem({"a": dist.Normal(0.0, 1.0)}, explode), 4000, key=0)
    assert sims.drawn == sims.kept + sims.n_failed == 4000
    assert (sims.failed["a"] > 1.0).all()
    assert (sims["a"] <= 1.0).all()
    # P(a > 1) = .1587; 5 standard deviations of a binomial of 4,000, false-alarm rate 6e-7
    assert abs(sims.n_failed / 4000 - 0.1587) < 5 * np.sqrt(0.1587 * 0.8413 / 4000)
    assert "failed" in repr(sims)


def test_a_numpy_simulator_called_by_hand():
    """With a generator of one's own, or with a key as any simulator."""
    simulator = rd.numpy_simulator(lambda rng, a: {"y": a + rng.normal(size=2)})
    by_hand = simulator(np.random.default_rng(3), a=1.0)["y"]
    np.testing.assert_array_equal(by_hand, 1.0 + np.random.default_rng(3).normal(size=2))
    np.testing.assert_array_equal(simulator(5, a=1.0)["y"], simulator(jax.random.key(5), a=1.0)["y"])


def test_a_row_that_raises_has_failed():
    """In memory as in a store; where none ends well, its own words say why."""

    def refuse(rng, a, most=1.0):
        if a > most:
            raise ValueError("too far")
        return {"y": np.array([a, rng.normal()])}

    sims = rd.simulate(rd.Problem({"a": dist.Normal(0.0, 1.0)}, rd.numpy_simulator(refuse)), 500, key=0)
    assert (sims["a"] <= 1.0).all()
    assert (sims.failed["a"] > 1.0).all()
    assert abs(sims.n_failed / 500 - 0.1587) < 5 * np.sqrt(0.1587 * 0.8413 / 500)
    assert f"{sims.n_failed} failed (ValueError: too far)" in repr(sims)


def test_numpy_simulators_have_a_stream_per_row():
    problem = rd.Problem({"a": dist.Normal(0.0, 1.0)}, rd.numpy_simulator(lambda rng, a: {"y": a + rng.normal(size=2)}))
    sims, again = rd.simulate(problem, 50, key=0), rd.simulate(problem, 20, key=0)
    assert sims["y"].shape == (50, 2)
    assert len(np.unique(sims["y"] - sims["a"][:, None])) == 100
    np.testing.assert_array_equal(sims["y"][:20], again["y"])


def test_a_prior_may_depend_on_earlier_parameters():
    problem = rd.Problem(
        {"m": dist.Normal(0.0, 1.0), "a": lambda m: dist.Normal(m, 0.1)}, lambda key, m, a: {"y": a + 0 * m}
    )
    sims = rd.simulate(problem, 3000, key=0)
    assert np.std(sims["a"] - sims["m"]) == pytest.approx(0.1, rel=0.07)  # 5 sd of a standard deviation of 3,000
    value = {"m": jnp.asarray(0.5), "a": jnp.asarray(0.4)}
    exact = dist.Normal(0.0, 1.0).log_prob(0.5) + dist.Normal(0.5, 0.1).log_prob(0.4)
    assert problem.prior.log_prob(value) == pytest.approx(float(exact), rel=1e-6)


def test_data_have_the_supports_that_are_declared():
    problem = rd.Problem(
        {"a": dist.HalfNormal(1.0)}, lambda key, a: {"y": jnp.exp(a)}, supports={"y": constraints.positive}
    )
    assert (problem.layout["y"].low, problem.layout["y"].high) == (0.0, np.inf)
    assert problem.layout["a"].low == 0.0
    assert (problem.layout.parameters, problem.layout.data) == (["a"], ["y"])
