"""docs/extending.md, run as it stands: every part on the page against a known answer."""

import ast
import contextlib
import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import multivariate_normal, norm
from scipy import stats

import retrodict as rd
from conftest import blocks, exact_guess
from retrodict.cli import run
from retrodict.densities import Exact, pull_back
from retrodict.models._model import KINDS


PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
LIMITS = {"Cosine": 6, "v": 10, "Beta": 10, "Ralston": 10, "Linear": 10, "LinearNet": 10, "QuantileEmbedding": 10}
LIMITS |= {"conjugate": 16, "Shift": 6, "shift": 5, "GaussianModel": 40, "restricted": 5, "fit_gaussian": 12}
LONGEST_KIND = 120  # lines of a file that defines a kind of model
MEAN, STD = 1.5, 0.7


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """All that the page defines; its files go to a folder of their own."""
    names = {"__name__": "extending"}
    with contextlib.chdir(tmp_path_factory.mktemp("extending")):
        for block in blocks(PAGE):
            exec(compile(block, PAGE, "exec"), names)
    return SimpleNamespace(**names)


@pytest.mark.parametrize("name", LIMITS)
def test_an_example_is_short(name):
    """Every line counts but empty ones, documentation included."""
    found = [
        [line for line in block.splitlines()[node.lineno - 1 : node.end_lineno] if line.strip()]
        for block in blocks(PAGE)
        for node in ast.parse(block).body
        if getattr(node, "name", None) == name
    ]
    assert len(found) == 1
    assert len(found[0]) <= LIMITS[name]


def exact_flow(path):
    """The flow of Gaussian data, the exact guess taken through the path's own parameterization and back."""

    def guess(x, t):
        truth = exact_guess(path, x, t, MEAN, STD)
        return path.guess(x, path.target(truth.data, truth.noise, t), t)

    return rd.paths.Flow(path, guess)


# schedule and parameterization ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_the_schedule_is_the_cosine_one(page):
    t = jnp.linspace(0.0, 1.0, 11)
    (alpha, sigma), slopes = jax.vmap(page.Cosine())(t), jax.vmap(page.Cosine().slopes)(t)
    np.testing.assert_allclose([alpha, sigma], [np.sin(np.pi * t / 2), np.cos(np.pi * t / 2)], atol=1e-15)
    np.testing.assert_allclose(slopes, [np.pi / 2 * sigma, -np.pi / 2 * alpha], atol=1e-15)
    assert float(sigma[-1]) == 0.0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("predicted", ["velocity", "v", "remaining"])
def test_noise_becomes_data_by_the_known_affine_map(page, predicted):
    """At t the flow has carried x0 to alpha m + sqrt(alpha^2 s^2 + sigma^2) x0."""
    own = {"velocity": rd.paths.velocity, "v": page.v, "remaining": page.remaining}[predicted]
    path = dataclasses.replace(page.short, parameterization=own)
    noise = jnp.asarray([-1.0, 0.0, 2.0])
    found = rd.solvers.RK4(80)(exact_flow(path), noise, *path.span)
    alpha, sigma = path.schedule(path.span[1])
    # eighty steps of fourth order: the error constant of this smooth field is of order one
    np.testing.assert_allclose(found, alpha * MEAN + jnp.hypot(alpha * STD, sigma) * noise, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_v_is_that_of_salimans_and_ho(page, t):
    """Their formulas for alpha^2 + sigma^2 = 1; on the cosine schedule the velocity is -pi / 2 v."""
    path, x, v, t = page.path, jnp.asarray([0.3, -2.0]), jnp.asarray([1.0, 0.4]), jnp.asarray(t)
    alpha, sigma = path.schedule(t)
    guess = path.guess(x, v, t)
    np.testing.assert_allclose(guess.data, alpha * x - sigma * v, rtol=1e-12)
    np.testing.assert_allclose(guess.noise, sigma * x + alpha * v, rtol=1e-12)
    np.testing.assert_allclose(path.velocity(guess, t), -np.pi / 2 * v, rtol=1e-12)


def test_the_page_tells_where_to_stop(page):
    (cure,) = (block.strip() for block in blocks(PAGE, "text"))
    with pytest.raises(rd.QueryError, match=rf"at t = 1 .*{re.escape(cure)}"):
        dataclasses.replace(page.short, span=(0.0, 1.0))
    with pytest.raises(rd.QueryError, match=r"at t = 0 .* later, such as at 1e-3"):
        dataclasses.replace(page.path, parameterization=rd.paths.noise)
    with pytest.raises(rd.QueryError, match=r"at t = 1 .* earlier, such as at 0.999"):
        dataclasses.replace(page.path, parameterization=rd.paths.data)
    with pytest.raises(rd.QueryError, match=r"at t = 1 .* earlier, such as at 0.999"):
        dataclasses.replace(rd.paths.vp(), parameterization=rd.paths.velocity, span=(0.0, 1.0))


# training -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("a", "b"), [(3.0, 2.0), (2.0, 5.0), (1.0, 1.5)])
def test_the_law_of_times_has_its_distribution_function(page, a, b):
    u = jnp.linspace(0.001, 0.999, 400)
    times = jax.vmap(dataclasses.replace(page.path, time_law=page.Beta(a, b)).time)(u)
    # a line between two entries of the table, h = 1 / 1024 apart, errs by h^2 / 8 of the density's slope, at most 30;
    # next to an end with 1 - F = (1 - t)^1.5 by 0.15 h^1.5: both are 5e-6 at most
    np.testing.assert_allclose(stats.beta.cdf(times, a, b), u, atol=6e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("t", [0.2, 0.6, 0.95])
@pytest.mark.parametrize(
    ("predicts", "published"),
    [
        (rd.paths.data, lambda snr: min(snr, 5.0)),
        (rd.paths.noise, lambda snr: min(snr, 5.0) / snr),
        ("v", lambda snr: min(snr, 5.0) / (snr + 1.0)),
    ],
    ids=["data", "noise", "v"],
)
def test_the_weighting_is_min_snr(page, predicts, published, t):
    """The three forms that Hang et al. (2023) give for variance-preserving schedules."""
    predicts = page.v if predicts == "v" else predicts
    path = dataclasses.replace(rd.paths.vp(), parameterization=predicts, weighting=page.min_snr)
    alpha, sigma = path.schedule(t)
    assert float(path.weight(jnp.asarray(t))) == pytest.approx(published(float((alpha / sigma) ** 2)), rel=1e-10)
    assert page.weighted.weighting is page.min_snr


# solvers --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_solver_is_of_second_order_both_ways(page, end):
    """dx/dt = cos(t) x has the solution x0 exp(sin t)."""

    def error(steps):
        found = page.Ralston(steps)(lambda x, t: jnp.cos(t) * x, jnp.ones(()), 1.0 - end, end)
        return abs(float(found) - np.exp(np.sin(end) - np.sin(1.0 - end)))

    assert np.log2(error(40) / error(80)) == pytest.approx(2.0, abs=0.1)


@pytest.mark.usefixtures("x64")
def test_the_solver_is_ralston_s(page):
    """Of all second-order schemes of two stages only this one integrates t^2 exactly."""
    found = page.Ralston(3)(lambda x, t: 3.0 * t**2 + 0.0 * x, jnp.zeros(()), 0.0, 2.0)
    assert float(found) == pytest.approx(8.0, rel=1e-12)
    assert page.Ralston(3).evaluations == 6


@pytest.mark.usefixtures("x64")
def test_the_density_rides_along(page):
    x1 = jnp.asarray([1.2, 2.9])
    noise, gain = pull_back(exact_flow(page.path), x1, jnp.eye(2), page.Ralston(400), Exact(), jax.random.key(0))
    # second order with 400 steps, all of them shorter than 1 / 200
    np.testing.assert_allclose(noise, (x1 - MEAN) / STD, atol=1e-4)
    assert float(jnp.sum(norm.logpdf(noise)) + gain[0]) == pytest.approx(
        float(jnp.sum(norm.logpdf(x1, MEAN, STD))), abs=1e-4
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_noise_level_leaves_the_marginals_as_they_are(page, t):
    """A linear drift m + A x with noise g moves mean and variance by m' = m + A mean, V' = 2 A V + g^2."""
    path, level, t = page.path, page.Exchange(0.7), jnp.asarray(t)

    def mean(t):
        return path.schedule(t)[0] * MEAN

    def variance(t):
        alpha, sigma = path.schedule(t)
        return (alpha * STD) ** 2 + sigma**2

    def drift(x):
        return path.drift(exact_flow(path).guess(x, t), t, level)

    g2 = 1.4 * path.schedule(t)[1] ** 2
    np.testing.assert_allclose(drift(mean(t)), jax.grad(mean)(t), rtol=1e-10)
    np.testing.assert_allclose(2 * jax.grad(drift)(0.0) * variance(t) + g2, jax.grad(variance)(t), rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_a_stochastic_solver_walks_with_it(page):
    """4,000 walks end within 4.5 standard errors of the known mean and variance: a false alarm in 70,000, twice."""
    flow = exact_flow(dataclasses.replace(page.path, diffusion=page.Exchange(2.0)))
    found = rd.solvers.StochasticHeun(100)(
        flow, jax.random.normal(jax.random.key(0), (4_000,)), 0.0, 1.0, key=jax.random.key(1)
    )
    assert float(found.mean()) == pytest.approx(MEAN, abs=4.5 * STD / np.sqrt(4_000))
    assert float(found.var()) == pytest.approx(STD**2, rel=4.5 * np.sqrt(2 / 4_000))


# a guess wrapped by hand ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_a_measurement_gives_the_exact_posterior_of_gaussian_data(page):
    """Noise is carried to m + S^(1/2) x0 with the m and S of the posterior, and its density is the posterior's."""
    mean, cov, y, tau = jnp.asarray([1.0, -0.5]), jnp.asarray([[1.0, 0.6], [0.6, 0.8]]), 1.2, 0.4
    gain = cov[:, 1] / (cov[1, 1] + tau**2)
    after, left = mean + gain * (y - mean[1]), cov - jnp.outer(gain, cov[1])

    def guess(x, t):
        alpha, sigma = page.path.schedule(t)
        shared = jnp.linalg.solve(alpha**2 * cov + sigma**2 * jnp.eye(2), x - alpha * mean)
        return rd.paths.Denoised(mean + alpha * cov @ shared, sigma * shared)

    flow = page.measured(rd.paths.Flow(page.path, guess), 1, y, tau, cov)
    noise = jnp.asarray([-1.0, 0.7])
    found = rd.solvers.RK4(80)(flow, noise, 0.0, 1.0)
    values, vectors = jnp.linalg.eigh(left)
    np.testing.assert_allclose(found, after + vectors * jnp.sqrt(values) @ vectors.T @ noise, atol=1e-6)  # as above

    back, change = pull_back(flow, found, jnp.eye(2), rd.solvers.RK4(80), Exact(), jax.random.key(0))
    exact = multivariate_normal.logpdf(found, after, left)
    assert float(jnp.sum(norm.logpdf(back)) + change[0]) == pytest.approx(float(exact), abs=1e-5)


# the model of the page ------------------------------------------------------------------------------------------------


def line(given, noise, design):
    """Mean and covariance of coefficients, N(0, 1) each, given `design @ coefficients + N(0, noise^2)`."""
    design, precision = np.asarray(design, float), 1.0 / np.asarray(noise, float) ** 2
    cov = np.linalg.inv(np.eye(design.shape[1]) + (design.T * precision) @ design)
    return cov @ (design.T * precision) @ given, cov


SEEN, DESIGN = [1.1, 1.9, 3.2], [[1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize("kind", ["draws", "walked", "combined"])
def test_a_small_model_with_parts_of_ones_own_finds_the_posterior(page, kind):
    mean, cov = line(SEEN, [0.5] * 3, DESIGN)
    if kind == "combined":
        mean, cov = line([*SEEN, 0.5], [0.5] * 3 + [0.2], [*DESIGN, [0, 1]])
        rows = np.asarray(page.combined)[:, :2]
    else:
        rows = np.stack([getattr(page, kind)[name] for name in ("level", "slope")], axis=1)
    sd = np.sqrt(np.diag(cov))
    # 16 hidden units and 1,000 steps are not exact; the prior is off by several of these standard deviations
    np.testing.assert_allclose((rows.mean(axis=0) - mean) / sd, 0.0, atol=0.3)
    np.testing.assert_allclose(np.cov(rows.T) / np.outer(sd, sd), cov / np.outer(sd, sd), atol=0.3)


def test_its_densities_are_those_of_the_posterior(page):
    truth = stats.multivariate_normal(*line(SEEN, [0.5] * 3, DESIGN))
    drawn = np.stack([page.draws["level"], page.draws["slope"]], axis=1)
    # the divergence of Kullback and Leibler: variances 20 % too small cost 0.02; one standard error is 0.01
    assert np.mean(page.log_density - truth.logpdf(drawn)) == pytest.approx(0.0, abs=0.1)
    rows = truth.rvs(len(drawn), random_state=0).astype(np.float32)
    values = {"level": rows[:, 0], "slope": rows[:, 1]}
    found = page.model.log_prob(values, given=page.observed, solver=page.Ralston(24))
    # a density integrates to one: the ratios vary by about 0.2, a standard error of 0.005; the rest is for the solver
    assert np.mean(np.exp(found - truth.logpdf(rows))) == pytest.approx(1.0, abs=0.04)


# a task and a diagnostic ----------------------------------------------------------------------------------------------


def test_the_task_has_the_exact_posterior(page):
    """5 standard errors of 2,000 draws."""
    for k in range(1, 6):
        y, draws = page.task.observation(k)["y"], page.task.reference(k)["level"]
        mean, cov = line(y, [0.5] * 3, np.ones((3, 1)))
        sd = np.sqrt(cov[0, 0])
        assert abs(draws.mean() - mean[0]) < 5 * sd / np.sqrt(2000)
        assert draws.std() == pytest.approx(sd, rel=5 / np.sqrt(4000))
    assert page.task.problem.layout.names == ["level", "y"]
    assert not page.test.ok


def test_the_diagnostic_is_honest_and_catches_a_shift(page):
    """Of 400 right sets as many fail as are stated, within 5 standard deviations of a share; shifted ones do."""
    rng = np.random.default_rng(0)
    truth, draws = rng.normal(size=(400, 100)), rng.normal(size=(400, 100, 50))
    failed = np.mean([not page.shift(*both).ok for both in zip(truth, draws, strict=True)])
    assert abs(failed - 0.05) < 5 * np.sqrt(0.05 * 0.95 / 400)
    found = page.shift(truth[0], draws[0] + 0.7)
    assert not found.ok
    assert found.share < 0.4
    assert repr(found).startswith("Shift(FAILED, p = ")


# a kind of model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kind(page, tmp_path_factory):
    """The file of the page that defines the kind, and a model of it."""
    (block,) = (block for block in blocks(PAGE) if "class GaussianModel" in block)
    file = tmp_path_factory.mktemp("kind") / "gaussian.py"
    file.write_text(block.lstrip("\n"))
    return SimpleNamespace(file=file, lines=block.lstrip("\n").count("\n"), model=page.gaussian)


def test_a_kind_of_model_is_one_short_file(kind):
    assert kind.lines <= LONGEST_KIND


def test_its_draws_are_those_of_the_posterior(page):
    """A linear Gaussian problem: what regression says is exact but for 10,000 simulations, and then 2,000 draws."""
    mean, cov = line(SEEN, [0.5] * 3, DESIGN)
    rows, sd = np.stack([page.posterior[name] for name in ("level", "slope")], axis=1), np.sqrt(np.diag(cov))
    # of the mean: 4.5 standard errors of 2,000 draws are .10 sd; regression on 10,000 rows leaves .02 at this datum
    np.testing.assert_allclose((rows.mean(axis=0) - mean) / sd, 0.0, atol=0.12)
    # of variances: 4.5 standard errors are .14
    np.testing.assert_allclose(np.cov(rows.T) / np.outer(sd, sd), cov / np.outer(sd, sd), atol=0.16)


@pytest.mark.parametrize("given", [{"y": SEEN}, {"y": [1.1, np.nan, 3.2]}, {"y": SEEN, "slope": 0.7}, {}])
def test_its_densities_are_exact_given_anything(page, given):
    """Against the normal law of everything with its own mean and covariance, conditioned by index sets."""
    mean, cov = np.asarray(page.gaussian.mean, float), np.asarray(page.gaussian.covariance, float)
    values = np.full(5, np.nan)
    for name, value in given.items():
        values[page.gaussian.layout.slices[name]] = value
    known, asked = np.flatnonzero(np.isfinite(values)), [i for i in range(2) if not np.isfinite(values[i])]
    gain = cov[np.ix_(asked, known)] @ np.linalg.inv(cov[np.ix_(known, known)])
    center = mean[asked] + gain @ (values[known] - mean[known])
    left = cov[np.ix_(asked, asked)] - gain @ cov[np.ix_(known, asked)]
    rows = np.random.default_rng(0).normal(size=(7, len(asked)))
    names = [("level", "slope")[i] for i in asked]
    found = page.gaussian.log_prob({name: rows[:, i] for i, name in enumerate(names)}, given=given)
    exact = stats.multivariate_normal(center, left).logpdf(rows)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)  # rows are single-precision numbers


def test_the_kind_does_all_that_others_do(page, kind):
    assert page.check.ok
    assert page.likeness.ok
    strange = {"y": np.array([1.0, 5.0, 1.0])}
    assert rd.unlike(page.gaussian, strange, page.held_out, key=0).worst == "y[1]"
    for name, draws in page.gaussian.sample(9, given=page.observed, key=0).items():
        np.testing.assert_array_equal(page.loaded.sample(9, given=page.observed, key=0)[name], draws)
    assert page.findings.ok
    assert page.findings.predictive is not None
    assert page.gaussian.predictive(page.posterior, key=1)["y"].shape == (2_000, 3)
    batch = rd.Batch({"y": np.array([SEEN, [0.0, np.nan, 1.0]])})
    assert page.gaussian.sample(5, given=batch, key=0)["slope"].shape == (2, 5)
    part = page.gaussian.without_warnings().sample(5, given={"level": 0.3}, of={"y": [True, False, True]}, key=0)["y"]
    assert np.isnan(part[:, 1]).all()
    assert np.isfinite(part[:, [0, 2]]).all()
    with pytest.raises(rd.QueryError, match="takes no constraints"):
        page.gaussian.sample(5, given={"level": rd.Interval(0.0, 1.0)}, key=0)


def test_the_command_line_draws_from_the_kind(page, kind, capsys, tmp_path, monkeypatch):
    """In a process that has not met the kind: `--import` is what brings it."""
    file = rd.save(page.gaussian, tmp_path / "gaussian.safetensors")
    monkeypatch.delitem(KINDS, "GaussianModel")
    ask = ["sample", str(file), "--given", '{"y": [1.1, 1.9, 3.2]}', "--json"]
    assert run(ask) == 2
    assert "--import" in capsys.readouterr().err
    assert run(["--import", str(kind.file), *ask]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    mean, cov = line(SEEN, [0.5] * 3, DESIGN)
    # 4.5 standard errors of the 1,000 draws that are the default are .14 sd, and .02 as above
    assert summary["slope"]["mean"] == pytest.approx(mean[1], abs=0.17 * np.sqrt(cov[1, 1]))


# saving ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("schedule", "Cosine"),
        ("parameterization", "v"),
        ("time_law", "Beta"),
        ("weighting", "min_snr"),
        ("diffusion", "Exchange"),
    ],
)
def test_a_part_of_ones_own_is_never_written(page, part, name, tmp_path):
    own = getattr(page, name)
    path = dataclasses.replace(rd.paths.flow_matching(), **{part: own() if isinstance(own, type) else own})
    with pytest.raises(rd.FileError, match="not one of retrodict's own"):
        rd.save(rd.joint(page.sims.layout, path=path), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_what_only_training_needs_can_be_replaced(page, tmp_path):
    ask = {"given": page.observed, "solver": page.Ralston(8), "key": 0}
    plain = rd.paths.PowerLaw()
    own = dataclasses.replace(page.quick, path=dataclasses.replace(page.quick.path, time_law=page.Beta()))
    ours = dataclasses.replace(own, path=dataclasses.replace(own.path, time_law=plain))
    again = rd.load(rd.save(ours, tmp_path / "m"))
    for name, draws in own.sample(9, **ask).items():
        np.testing.assert_array_equal(again.sample(9, **ask)[name], draws)


def test_equinox_brings_the_numbers_back(page):
    ask = {"given": page.observed, "solver": page.Ralston(8), "key": 0}
    for name, draws in page.model.sample(9, **ask).items():
        np.testing.assert_array_equal(page.again.sample(9, **ask)[name], draws)


def test_a_network_of_ones_own_is_saved_and_loaded(page, tmp_path):
    """Linear in what it is told: the prediction of a sum of values is the sum of the predictions."""
    model = page.straight_line
    loaded = rd.load(rd.save(model, tmp_path / "model.safetensors"))
    roles, zero = jnp.asarray([1, 1, 2, 2, 2]), jnp.zeros(5)

    def said(values):
        return loaded.net(values, roles, jnp.asarray(0.5), None)

    first, second = jnp.arange(5.0), jnp.asarray([1.0, -1.0, 0.5, 0.0, 2.0])
    np.testing.assert_allclose(
        said(first + second) - said(zero), said(first) + said(second) - 2 * said(zero), atol=1e-5
    )
    np.testing.assert_array_equal(said(first), model.net(first, roles, jnp.asarray(0.5), None))


def test_an_embedding_of_ones_own_reads_the_variable(page, tmp_path):
    """Quantiles do not know the order of the data, so neither does the model."""
    model = rd.load(rd.save(page.by_quantiles, tmp_path / "model.safetensors"))
    y, roles = np.asarray([0.3, -1.0, 2.0]), jnp.asarray([1, 1, 2, 2, 2])
    first, second = (model.net.prepare(jnp.asarray([0.0, 0.0, *v]), roles) for v in (y, y[::-1]))
    np.testing.assert_allclose(first, second, atol=1e-6)
    other = model.net.prepare(jnp.asarray([0.0, 0.0, 0.3, -1.0, 2.5]), roles)
    assert np.abs(first - other).max() > 1e-3
