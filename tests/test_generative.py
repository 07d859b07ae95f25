"""The one model class, without and with a little training.

An untrained network says nothing, and then the model is exactly Gaussian in scaled tokens: a closed form for the whole
way from values through supports, scaling, roles, solver and back.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import norm

import retrodict as rd
from retrodict.densities import Hutchinson
from retrodict.models import _flow_answers
from retrodict.solvers import RK4, Dopri5, DPMSolver, EDMSampler, EulerMaruyama, Heun


def token_values(model, values):
    return np.concatenate([np.asarray(values[n]).reshape(len(values[n]), -1) for n in model.layout.names], axis=1)


def test_a_silent_model_draws_the_scaled_gaussian(silent):
    draws = silent.sample(20_000, key=4)
    z = np.asarray(silent.scaling.forward(token_values(silent, draws)))
    # 20,000 draws: means within 5 / sqrt(n), variances within 5 sqrt(2 / n), false-alarm rate 6e-7 for each of 30;
    # the default solver's 20 steps take up to a hundredth off the variance of this linear flow
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=5 / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(z.T), np.eye(5), atol=5 * np.sqrt(2 / 20_000) + 0.01)


@pytest.mark.parametrize("solver", [None, RK4(20), Dopri5(rtol=1e-6, atol=1e-6)], ids=["default", "RK4", "Dopri5"])
def test_a_silent_model_has_the_scaled_gaussian_density(silent, sims, solver):
    values = {name: sims[name][:40] for name in ("rate", "noise")}
    z = silent.scaling.forward(token_values(silent, {**values, "counts": sims["counts"][:40]}))[:, :2]
    slope = silent.scaling.log_slope(silent.scaling.forward(token_values(silent, sims)[:40]))[:, :2]
    exact = np.sum(norm.logpdf(z) - slope, axis=1)
    found = silent.log_prob(values, given={"counts": sims["counts"][0]}, solver=solver)
    # Midpoint(16), second order: a hundredth of a nat; the others are good to single precision of a sum of logs
    np.testing.assert_allclose(found, exact, atol=2e-2 if solver is None else 1e-3)


def test_log_prob_is_minus_infinity_outside(silent):
    found = silent.log_prob({"noise": np.asarray([0.4, 1.0, 1.6]), "rate": np.asarray([1.0, -1.0, 1.0])})
    np.testing.assert_array_equal(np.isinf(found), [True, True, True])
    assert np.isfinite(silent.log_prob({"noise": np.asarray([1.0])})).all()


def test_shapes_and_names(model, sims):
    given = {"counts": sims["counts"][0]}
    draws = model.sample(50, given=given, key=0)
    assert {name: value.shape for name, value in draws.items()} == {"rate": (50,), "noise": (50,)}
    assert list(model.sample(50, given=given, of=["noise"], key=0)) == ["noise"]
    assert model.sample(50, of="counts", key=0)["counts"].shape == (50, 3)
    many = model.sample(50, given=rd.Batch({"counts": sims["counts"][:4]}), key=0)
    assert many["rate"].shape == (4, 50)


def test_nan_means_not_observed(model, sims):
    """NaN where nothing is asked is left out; where it is asked it is drawn, and the rest comes back as given."""
    counts = sims["counts"][0].copy()
    counts[1] = np.nan
    draws = model.sample(50, given={"counts": counts}, of=["rate", "counts"], key=0)
    np.testing.assert_array_equal(draws["counts"][:, [0, 2]], np.broadcast_to(counts[[0, 2]], (50, 2)))
    assert np.isfinite(draws["counts"]).all()
    assert len(np.unique(draws["counts"][:, 1])) == 50
    everything = {"counts": np.full(3, np.nan)}
    blind = model.sample(50, given=everything, of=["rate"], key=0)["rate"]
    np.testing.assert_array_equal(blind, model.sample(50, of=["rate"], key=0)["rate"])


def test_what_is_absent_has_no_influence(model, sims):
    """Neither value nor gradient: the network sees zeros there, whatever lies in memory."""
    roles = jnp.asarray([1, 0, 2, 2, 0])
    z = jnp.asarray([0.3, -1.0, 0.5, 0.1, 2.0])
    slope = jax.jacfwd(lambda z: model.flow(z, roles)(z, jnp.asarray(0.5)))(z)
    np.testing.assert_array_equal(slope[:, [1, 4]], 0.0)
    np.testing.assert_array_equal(slope[1:], 0.0)
    assert (slope[0, [0, 2, 3]] != 0.0).all()  # itself, and what is given


def test_a_row_of_log_prob_does_not_depend_on_its_neighbors(model, sims):
    given = {"counts": sims["counts"][0]}
    values = {name: sims[name][:20] for name in ("rate", "noise")}
    for solver in (None, Dopri5()):
        together = model.log_prob(values, given=given, solver=solver)
        alone = [
            model.log_prob({k: v[i : i + 1] for k, v in values.items()}, given=given, solver=solver)[0] for i in (0, 7)
        ]
        # the same arithmetic in another order of vectors: a few units in the last place of single precision
        np.testing.assert_allclose(together[[0, 7]], alone, atol=2e-5)


def test_paired_rows_equal_one_by_one(model, sims):
    values = {name: sims[name][:5] for name in ("rate", "noise")}
    paired = model.log_prob(values, given=rd.Batch({"counts": sims["counts"][:5]}))
    single = [
        model.log_prob({k: v[i : i + 1] for k, v in values.items()}, given={"counts": sims["counts"][i]})[0]
        for i in range(5)
    ]
    np.testing.assert_allclose(paired, single, atol=2e-5)


def test_a_batch_answers_each_observation(model, sims, monkeypatch):
    """With the same noise, observation b has the draws that it has among copies of itself, also across blocks."""
    monkeypatch.setattr(_flow_answers, "ROWS_PER_BLOCK", 16)
    counts = sims["counts"][:2]
    both, first, second = (
        model.sample(10, given=rd.Batch({"counts": rows}), key=5)["rate"]
        for rows in (counts, counts[[0, 0]], counts[[1, 1]])
    )
    np.testing.assert_array_equal(both, [first[0], second[1]])
    assert (first != second).all()  # what is given tells
    alone = model.sample(20, given={"counts": counts[0]}, key=5)["rate"]
    np.testing.assert_allclose(alone, first.ravel(), rtol=1e-4)  # another program, single precision


def test_some_elements_may_be_asked(model, sims):
    mask = np.array([False, True, False])
    draws = model.sample(50, of={"counts": mask, "rate": None}, key=0)
    np.testing.assert_array_equal(np.isnan(draws["counts"]), np.broadcast_to(~mask, (50, 3)))
    assert np.isfinite(draws["rate"]).all()
    with pytest.raises(rd.QueryError, match="both asked and given"):
        model.sample(5, given={"counts": sims["counts"][0]}, of={"counts": mask}, key=0)


def test_batches_may_miss_different_elements(model, sims):
    counts = sims["counts"][:3].copy()
    counts[0, 1] = counts[2, 0] = np.nan
    draws = model.sample(6, given=rd.Batch({"counts": counts}), of=["rate", "counts"], key=0)
    assert draws["counts"].shape == (3, 6, 3)
    seen = ~np.isnan(counts)
    np.testing.assert_array_equal(draws["counts"][:, 0][seen], counts[seen])


def test_one_seed_one_answer(model, sims):
    ask = {"given": {"counts": sims["counts"][0]}, "solver": Heun(5)}
    first, again, other = (model.sample(50, key=k, **ask)["rate"] for k in (1, jax.random.key(1), 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_draws_never_leave_the_support(model, sims):
    """A hundred thousand of them, from a model that has hardly learned anything."""
    model = model.without_warnings()
    draws = model.sample(100_000, given={"counts": 20.0 * np.ones(3)}, solver=rd.solvers.Midpoint(4), key=0)
    assert (draws["rate"] > 0).all()
    assert ((draws["noise"] >= 0.5) & (draws["noise"] <= 1.5)).all()


@pytest.mark.parametrize(
    ("make", "law"), [(rd.posterior, "Posterior"), (rd.likelihood, "Likelihood"), (rd.unconditional, "Unconditional")]
)
def test_the_other_three_are_the_same_class(make, law, sims):
    model = make(sims.layout)
    assert type(model) is type(rd.joint(sims.layout))
    assert type(model.law).__name__ == law


def test_balanced_weights_are_those_of_oneflow(sims):
    """lambda_theta = d_y / d_theta = 3 / 2 for parameters, 1 for data."""
    np.testing.assert_allclose(rd.joint(sims.layout, balanced=True)._weights(), [1.5, 1.5, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(rd.joint(sims.layout)._weights(), 1.0)


def test_the_loss_looks_at_latent_tokens_only(model, sims):
    """Against the module's own definition, written out once more with numpy for one fixed assignment."""
    uniform = rd.paths.flow_matching(power=0.0)
    fixed = dataclasses.replace(model, law=rd.roles.Query((1, 1, 2, 2, 0)), path=uniform)
    z, key, u = jnp.asarray([0.3, -1.0, 0.5, 0.1, 2.0]), jax.random.key(0), jnp.asarray(0.4)
    x0 = jax.random.normal(jax.random.split(key)[1], (5,))
    z_t = np.asarray([*(0.4 * z[:2] + 0.6 * x0[:2]), 0.5, 0.1, 0.0], np.float32)
    said = fixed.predict(jnp.asarray(z_t), fixed.ready(z, jnp.asarray([1, 1, 2, 2, 0])), u)
    exact = np.mean((np.asarray(said)[:2] - np.asarray(z - x0)[:2]) ** 2)
    np.testing.assert_allclose(fixed.loss(z, key, u), exact, rtol=1e-5)


def scaled_exact(silent, sims, n):
    values = {name: sims[name][:n] for name in sims.layout.names}
    return values, np.asarray(silent.scaling.forward(token_values(silent, values)))


@pytest.mark.parametrize("path", rd.paths.METHODS)
def test_velocity_and_score_of_a_silent_model(path, sims, silent):
    """Standard normal data: x_t ~ N(0, alpha^2 + sigma^2), so both are linear in x_t."""
    model = dataclasses.replace(silent, path=rd.paths.METHODS[path]())
    noisy, t = {"rate": np.asarray([0.3, -1.0]), "noise": np.asarray([2.0, 0.5])}, 0.4
    given = {"counts": sims["counts"][0]}
    (alpha, sigma), (up, down) = model.path.schedule(jnp.asarray(t)), model.path.schedule.slopes(jnp.asarray(t))
    v = alpha**2 + sigma**2
    for name, value in model.score(noisy, t, given=given).items():
        np.testing.assert_allclose(value, -noisy[name] / v, rtol=1e-4)
    for name, value in model.velocity(noisy, t, given=given).items():
        np.testing.assert_allclose(value, (up * alpha + down * sigma) / v * noisy[name], rtol=1e-4, atol=1e-5)


def test_there_is_no_score_without_noise(model):
    with pytest.raises(rd.QueryError, match="at t = 1 no noise is left and so no score"):
        model.score({"rate": np.asarray([0.3])}, 1.0)
    with pytest.raises(rd.QueryError, match=r"`t` must lie between 0 .noise. and 1 .data., got 1.5"):
        model.velocity({"rate": np.asarray([0.3])}, 1.5)


def test_coordinates_and_back(model, sims):
    values = {name: sims[name][:9] for name in sims.layout.names}
    there = model.to_coordinates(values)
    np.testing.assert_allclose(there["rate"], np.asarray(model.scaling.forward(token_values(model, values)))[:, 0])
    for name, value in model.from_coordinates(there).items():
        np.testing.assert_allclose(value, values[name], rtol=2e-5, atol=1e-5)  # single precision, there and back


def test_gradients_of_the_density_are_its_slopes(model, sims):
    """With respect to values and to what is given, against differences; NaN where an element is not observed."""
    counts = sims["counts"][0].copy()
    counts[1] = np.nan
    values = {"rate": np.asarray([0.8, 1.0, 1.2, 0.7]), "noise": np.asarray([0.8, 1.1, 0.9, 1.3])}  # far from any end
    found = model.grad_log_prob(values, given={"counts": counts})
    np.testing.assert_allclose(found.log_prob, model.log_prob(values, given={"counts": counts}), atol=1e-5)
    assert np.isnan(found.given["counts"][:, 1]).all()
    h = 1e-2

    def moved(name, by):
        new = {**values, name: values[name] + by}
        return model.log_prob(new, given={"counts": counts})

    def shifted(by):
        return model.log_prob(values, given={"counts": counts + np.asarray([by, 0, 0], np.float32)})

    # central differences over .01 of smooth functions in single precision: a few parts in a hundred
    near = functools.partial(np.testing.assert_allclose, rtol=0.05, atol=0.02)
    for name in values:
        near(found.values[name], (moved(name, h) - moved(name, -h)) / (2 * h))
    near(found.given["counts"][:, 0], (shifted(h) - shifted(-h)) / (2 * h))


def test_a_random_log_density_agrees_with_the_exact_one(model, sims):
    values = {"counts": sims["counts"][:40], "rate": sims["rate"][:40], "noise": sims["noise"][:40]}
    exact = model.log_prob(values)
    value, error = model.estimate_log_prob(values, trace=Hutchinson(64), key=1)
    assert (error > 0).all()
    # 40 rows at five standard errors of 64 probes (nearly normal): false-alarm rate 1e-5
    assert (np.abs(value - exact) < 5 * error + 1e-4).all()
    value, error = model.estimate_log_prob(values, key=1)  # 8 + 8 probes are more than 5 elements: exact
    np.testing.assert_allclose(value, exact, atol=1e-4)
    np.testing.assert_array_equal(error, 0.0)


@pytest.mark.parametrize("solver", [EulerMaruyama(), DPMSolver(), EDMSampler()], ids=lambda s: type(s).__name__)
def test_a_solver_without_densities_is_refused(model, sims, solver):
    with pytest.raises(rd.QueryError, match=f"{type(solver).__name__} does not follow the velocity alone"):
        model.log_prob({"rate": sims["rate"][:2]}, solver=solver)


def test_a_solver_that_cannot_follow_a_path_says_why(sims):
    laplace = rd.joint(sims.layout, path=rd.paths.flow_matching(source=dist.Laplace(0.0, 0.7)))
    for solver in (EulerMaruyama(), EDMSampler()):
        with pytest.raises(rd.QueryError, match="starts from Laplace; use an ODE solver"):
            laplace.sample(3, solver=solver, key=0)
    assert np.isfinite(laplace.sample(3, key=0)["rate"]).all()
    straight = rd.joint(sims.layout)
    with pytest.raises(rd.QueryError, match="infinite at t = 0, where this path holds no data; use EulerMaruyama"):
        straight.sample(3, solver=EulerMaruyama(diffusion=rd.paths.Reverse()), key=0)


@pytest.mark.slow
def test_noise_of_another_law_has_its_density(sims, silent):
    """A silent model of Laplace noise: the linear flow of straight lines carries x0 to x0, so data are Laplace."""
    source = dist.Laplace(0.0, 0.7)
    model = dataclasses.replace(silent, path=rd.paths.flow_matching(source=source))
    values, z = scaled_exact(silent, sims, 20)
    slope = np.asarray(silent.scaling.log_slope(z)).sum(axis=1)
    exact = np.asarray(source.log_prob(z)).sum(axis=1) - slope
    np.testing.assert_allclose(model.log_prob(values, solver=RK4(40)), exact, atol=1e-3)
    draws = model.sample(20_000, key=0, solver=RK4(20))
    drawn = np.asarray(silent.scaling.forward(token_values(silent, draws)))
    # E|x| of Laplace is its scale, and so is the standard deviation of |x|: five standard errors, and .01 for the steps
    np.testing.assert_allclose(np.abs(drawn).mean(axis=0), 0.7, atol=5 * 0.7 / np.sqrt(20_000) + 0.01)


def test_draws_with_random_solvers_do_not_repeat(model, sims):
    """Every row has noise of its own on the way, and another key gives other noise."""
    given, solver = {"counts": sims["counts"][0]}, EulerMaruyama(20)
    one, two = (model.sample(200, given=given, solver=solver, key=key)["rate"] for key in (0, 1))
    assert len(np.unique(np.concatenate([one, two]))) == 400
    np.testing.assert_array_equal(one, model.sample(200, given=given, solver=solver, key=0)["rate"])


@pytest.fixture(scope="module")
def one_question(sims):
    return rd.fit(rd.posterior(sims.layout, net=rd.nets.ResMLP(16, 1)), sims, key=0, steps=20, progress=False)[0]


def test_a_model_of_one_question_marginalizes_by_drawing_all(one_question, sims):
    """It never learned what to do without one of its parameters: a part of its answer is a part of its draws."""
    given = {"counts": sims["counts"][0]}
    whole = one_question.sample(50, given=given, key=0)
    part = one_question.sample(50, given=given, of=["noise"], key=0)
    assert list(part) == ["noise"]
    np.testing.assert_array_equal(part["noise"], whole["noise"])


def test_a_model_of_one_question_says_what_it_does_not_know(one_question, sims):
    given = {"counts": sims["counts"][0]}
    holes = np.where(np.arange(len(given["counts"])) == 1, np.nan, given["counts"])
    with pytest.raises(rd.QueryError, match="one question, 'rate', 'noise' given 'counts', and knows no other"):
        one_question.sample(5, given={"counts": holes}, key=0)
    for other in ({}, {**given, "rate": 1.0}):
        with pytest.raises(rd.QueryError, match=r"ask a model of `rd\.joint`"):
            one_question.sample(5, given=other, key=0)
    with pytest.raises(rd.QueryError, match="of all that it draws but not of a part"):
        one_question.log_prob({"noise": np.ones(3)}, given=given)
    with pytest.raises(rd.QueryError, match="one question"):
        one_question.sample(5, given=given, strength=2.0, key=0)
    some = rd.joint(sims.layout, net=rd.nets.ResMLP(8, 1), roles=rd.roles.Query((1, 0, *[2] * (sims.layout.size - 2))))
    with pytest.raises(rd.QueryError, match="one question, 'rate' given 'counts'"):
        some.sample(5, given=given, key=0)
    assert some.sample(5, given=given, of=["rate"], key=0)["rate"].shape == (5,)
    with pytest.raises(rd.QueryError, match="given nothing, and knows no other"):
        rd.unconditional(sims.layout, net=rd.nets.ResMLP(8, 1)).sample(5, given=given, key=0)


def test_a_constraint_on_a_part_of_one_question(one_question, sims):
    """The other parameter is drawn, and not shown."""
    given = {"counts": sims["counts"][0], "noise": rd.Interval(0.6, 1.4)}
    found = one_question.sample(50, given=given, of=["noise"], key=0)
    assert list(found) == ["noise"]
    assert ((found["noise"] >= 0.6) & (found["noise"] <= 1.4)).all()
