"""The benchmark tasks: simulator, likelihood and stored posterior tell one story, and it is the published one."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp

import retrodict as rd
from retrodict_bench.tasks import _sbibm, bernoulli_glm, lotka_volterra, sir, slcp_distractors


# task, elements of theta, elements of x, low and high end of the prior
TASKS = [
    ("bernoulli_glm", 10, 10, -np.inf, np.inf),
    ("bernoulli_glm_raw", 10, 100, -np.inf, np.inf),
    ("gaussian_linear", 10, 10, -np.inf, np.inf),
    ("gaussian_linear_uniform", 10, 10, -1.0, 1.0),
    ("gaussian_mixture", 2, 2, -10.0, 10.0),
    ("hmm", 10, 10, -np.inf, np.inf),
    ("lotka_volterra", 4, 20, 0.0, np.inf),
    ("sir", 2, 10, 0.0, np.inf),
    ("slcp", 5, 8, -3.0, 3.0),
    ("slcp_distractors", 5, 100, -3.0, 3.0),
    ("tree", 3, 4, -np.inf, np.inf),
    ("two_moons", 2, 2, -1.0, 1.0),
]
NAMES = [row[0] for row in TASKS]

CHEAP = ("gaussian_linear", "gaussian_linear_uniform", "gaussian_mixture", "slcp", "two_moons")
SMOOTH = ("bernoulli_glm", "lotka_volterra", "sir")  # near-Gaussian posteriors, in the logs where theta is positive

# The Metropolis tests compare 63 figures with 0 by |z| < 5, which false alarms exceed with probability 5.7e-7 each and
# 3.6e-5 together; the seeds are fixed, so that a pass stays a pass. A scale that is 10 % wrong makes |z| about 6.
LIMIT = 5.0


def metropolis(log_density, start, *, key, steps=60):
    """Random-walk Metropolis on every row of `start` (n, d), with steps of all sizes from .001 to 10.

    It leaves exp(log_density(row)) alone, whatever it is: rows that were drawn from it are drawn from it still.
    """
    density = jax.vmap(log_density)

    def move(state, key):
        x, score = state
        key_size, key_step, key_accept = jax.random.split(key, 3)
        size = 10.0 ** jax.random.uniform(key_size, (len(x), 1), minval=-3.0, maxval=1.0)
        proposal = x + size * jax.random.normal(key_step, x.shape)
        new = density(proposal)
        accept = jnp.log(jax.random.uniform(key_accept, (len(x),))) < new - score
        return (jnp.where(accept[:, None], proposal, x), jnp.where(accept, new, score)), None

    begin = (start, density(start))
    end, _ = jax.jit(lambda state: jax.lax.scan(move, state, jax.random.split(key, steps)))(begin)
    return begin, end


def z_of_change(begin, end):
    """z of the mean change of every element, of its square and of the log density."""
    change = [
        np.column_stack([np.asarray(x, float), np.asarray(x, float) ** 2, np.asarray(score, float)])
        for x, score in (begin, end)
    ]
    difference = change[1] - change[0]
    return difference.mean(0) / (difference.std(0) / np.sqrt(len(difference)))


def mixture_cdf(r):
    """P(|noise| < r) of the plane Gaussians of scales 1 and .1, one coin for both elements."""
    return 1 - (np.exp(-(r**2) / 2) + np.exp(-50 * r**2)) / 2


def two_moons_noise(theta, x):
    """Length and angle of x - m(theta)."""
    p = x - np.stack([0.25 - np.abs(theta.sum(1)) / np.sqrt(2), (theta[:, 1] - theta[:, 0]) / np.sqrt(2)], axis=1)
    return np.hypot(*p.T), np.arctan2(p[:, 1], p[:, 0])


def slcp_covariance(theta):
    s_1, s_2, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, np.tanh(theta[:, 4])
    return np.array([[s_1**2, rho * s_1 * s_2], [rho * s_1 * s_2, s_2**2]]).transpose(2, 0, 1) + 1e-6 * np.eye(2)


def white(theta, x):
    """The four points of slcp, centered and whitened, (n, 8)."""
    offset = x.reshape(-1, 4, 2) - theta[:, None, :2]
    return np.linalg.solve(np.linalg.cholesky(slcp_covariance(theta))[:, None], offset[..., None]).reshape(-1, 8)


MOONS = (stats.norm(0.1, 0.01).cdf, stats.uniform(-np.pi / 2, np.pi).cdf)

# what the noise is, figured by another road than the package's, and the law that each of its columns has
NOISE = [
    ("gaussian_linear", lambda theta, x: ((x - theta) / np.sqrt(0.1)).T, [stats.norm.cdf] * 10),
    ("gaussian_linear_uniform", lambda theta, x: ((x - theta) / np.sqrt(0.1)).T, [stats.norm.cdf] * 10),
    ("gaussian_mixture", lambda theta, x: [np.linalg.norm(x - theta, axis=1)], [mixture_cdf]),
    ("slcp", lambda theta, x: white(theta, x).T, [stats.norm.cdf] * 8),
    ("two_moons", two_moons_noise, MOONS),
]


@pytest.mark.parametrize(("name", "noise", "laws"), NOISE)
def test_the_simulator_draws_from_its_law(name, noise, laws):
    sims = rd.simulate(rd.tasks.get(name).problem, 10_000, key=0)
    assert sims.n_failed == 0
    columns = noise(sims["theta"].astype(float), sims["x"].astype(float))
    # 31 columns with p > 1e-6 each, and 119 correlations below 5.5 standard errors: false alarms 4e-5
    assert all(stats.kstest(column, law).pvalue > 1e-6 for column, law in zip(columns, laws, strict=True))
    if len(laws) > 1:
        correlation = np.corrcoef(columns)[np.triu_indices(len(laws), 1)]
        assert np.abs(correlation).max() < 5.5 / np.sqrt(10_000)


@pytest.mark.parametrize(("name", "low", "high"), [(row[0], row[3], row[4]) for row in TASKS if row[0] in CHEAP])
def test_the_reference_draws_from_the_posterior(name, low, high):
    task = rd.tasks.get(name)
    x = jnp.asarray(task.observation(1)["x"])

    def log_posterior(theta):
        score = task.log_likelihood(theta, x) + task.problem.prior.log_prob({"theta": theta})
        return jnp.where(jnp.all((theta > low) & (theta < high)), score, -jnp.inf)

    begin, end = metropolis(log_posterior, jnp.asarray(task.reference(1)["theta"]), key=jax.random.key(1))
    assert np.isfinite(begin[1]).all()
    assert np.mean(np.any(begin[0] != end[0], axis=1)) > 0.95
    assert np.abs(z_of_change(begin, end)).max() < LIMIT


@pytest.mark.parametrize("name", SMOOTH)
def test_the_reference_agrees_with_importance_sampling(name):
    # draws of a Gaussian a little wider than the reference, weighted with prior and likelihood; 16 means and 16 squares
    task, rng, n = rd.tasks.get(name), np.random.default_rng(2), 4000
    positive = name != "bernoulli_glm"
    reference = np.asarray(task.reference(1)["theta"], float)
    known = np.log(reference) if positive else reference
    mean, cov = known.mean(0), 1.2 * np.cov(known.T)
    w = rng.multivariate_normal(mean, cov, n)
    theta, x = jnp.asarray(np.exp(w) if positive else w), jnp.asarray(task.observation(1)["x"])

    def log_posterior(theta):
        stretch = jnp.sum(jnp.log(theta)) if positive else 0.0
        return task.log_likelihood(theta, x) + task.problem.prior.log_prob({"theta": theta}) + stretch

    log_weight = np.asarray(jax.jit(jax.vmap(log_posterior))(theta), float)
    log_weight -= stats.multivariate_normal(mean, cov).logpdf(w)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    effective = 1 / (weight**2).sum()
    assert effective > 0.3 * n
    z = (w - mean) / known.std(0)
    for power in (1, 2):
        truth = ((known - mean) / known.std(0)) ** power
        error = np.sqrt((truth**2).mean(0) * (1 / effective + 1 / len(truth)))
        assert np.abs(weight @ z**power - truth.mean(0)).max() < LIMIT * error.max()


@pytest.mark.parametrize(("name", "theta_size", "x_size", "low", "high"), TASKS)
def test_contract(name, theta_size, x_size, low, high):
    task = rd.tasks.get(name)
    assert task.name == name
    assert task.count == 10
    assert task.problem.layout.names == ["theta", "x"]
    theta = task.problem.layout["theta"]
    assert theta.shape == (theta_size,)
    np.testing.assert_array_equal(theta.ends, ([low] * theta_size, [high] * theta_size))
    assert task.problem.layout["x"].shape == (x_size,)
    log_likelihood = jax.jit(task.log_likelihood)
    for k in range(1, 11):
        x, truth, draws = task.observation(k)["x"], task.true_parameters(k)["theta"], task.reference(k)["theta"]
        assert (x.shape, truth.shape, draws.shape) == ((x_size,), (theta_size,), (10_000, theta_size))
        assert x.dtype == truth.dtype == draws.dtype == np.float32
        assert np.all((truth > low) & (truth < high))
        assert np.all((draws > low) & (draws < high))
        assert np.isfinite(log_likelihood(jnp.asarray(truth), jnp.asarray(x)))
    assert rd.Dependencies(**task.structure).adjacency(task.problem.layout)[theta_size:, :theta_size].any(1).all()
    assert not np.array_equal(task.observation(1)["x"], task.observation(2)["x"])
    with pytest.raises(ValueError, match="read-only"):
        task.observation(1)["x"][0] = 0.0


def test_gaussian_linear_has_its_closed_form():
    # theta | x ~ N(x/2, .05 I): 100 means and 100 variances, |z| < 5.5 has a false-alarm rate of 200 * 3.8e-8 < 1e-5
    task = rd.tasks.get("gaussian_linear")
    for k in range(1, 11):
        draws = np.asarray(task.reference(k)["theta"], float)
        z_mean = (draws.mean(0) - task.observation(k)["x"] / 2) / np.sqrt(0.05 / len(draws))
        z_variance = (draws.var(0) / 0.05 - 1) / np.sqrt(2 / len(draws))
        assert np.abs(z_mean).max() < 5.5
        assert np.abs(z_variance).max() < 5.5


def test_gaussian_mixture_has_its_closed_form():
    # far from the ends of the prior, P(|theta - x| < r) is the mean of 1 - exp(-r^2 / 2s^2) over s = 1 and s = .1;
    # Kolmogorov-Smirnov, p > 1e-6 for each of three observations, resolves .026; a box that ends 2.8 away costs .002
    task = rd.tasks.get("gaussian_mixture")
    inner = [k for k in range(1, 11) if np.abs(task.observation(k)["x"]).max() < 7.2]
    assert len(inner) == 3
    for k in inner:
        r = np.linalg.norm(task.reference(k)["theta"].astype(float) - task.observation(k)["x"], axis=1)
        assert stats.kstest(r, mixture_cdf).pvalue > 1e-6


def test_two_moons_has_its_closed_form():
    # theta to (m, the sign of theta_0 + theta_1) keeps volume, so that the posterior of p = x - m is the law of the
    # noise, r ~ N(.1, .01) and a ~ U(-pi/2, pi/2), with both signs alike, where neither the fold at m_0 = .25 nor the
    # ends of the prior cut anything off; Kolmogorov-Smirnov, p > 1e-6 for twice ten observations at most
    task, whole = rd.tasks.get("two_moons"), 0
    for k in range(1, 11):
        x, theta = task.observation(k)["x"].astype(float), task.reference(k)["theta"].astype(float)
        if x[0] > 0.25 or np.abs(theta).max() > 0.98:
            continue
        whole += 1
        for column, law in zip(two_moons_noise(theta, x), MOONS, strict=True):
            assert stats.kstest(column, law).pvalue > 1e-6
        assert abs(np.mean(theta.sum(1) > 0) - 0.5) < 5 * 0.5 / np.sqrt(len(theta))
    assert whole == 8


def test_gaussian_linear_uniform_has_its_closed_form():
    # theta_i | x is N(x_i, .1) cut to (-1, 1); p > 1e-6 for each of 100 columns is a false-alarm rate of 1e-4
    task = rd.tasks.get("gaussian_linear_uniform")
    for k in range(1, 11):
        for x, draws in zip(task.observation(k)["x"], task.reference(k)["theta"].T, strict=True):
            law = stats.truncnorm((-1 - x) / np.sqrt(0.1), (1 - x) / np.sqrt(0.1), x, np.sqrt(0.1))
            assert stats.kstest(draws, law.cdf).pvalue > 1e-6


def solved(rates, start, times):
    """u and v of u' = a - b e^v, v' = c e^u - d."""

    def equations(_, w, a, b, c, d):
        return a - b * np.exp(w[1]), c * np.exp(w[0]) - d

    span = (0, times[-1] + 1e-9)
    found = solve_ivp(equations, span, start, method="DOP853", rtol=1e-9, atol=1e-9, t_eval=times, args=rates)
    assert found.success
    return found.y


def test_lotka_volterra_solves_its_equations():
    # the parameters behind the observations, and draws of the prior; seen: at most 1.5e-4 in 60 draws, noise is .1
    truths = rd.tasks.get("lotka_volterra").truths()["theta"]
    spread = np.random.default_rng(1).normal([-0.125, -3, -0.125, -3], 0.5, (10, 4))
    theta = np.concatenate([truths, np.exp(spread).astype(np.float32)])
    found = jax.jit(jax.vmap(lotka_volterra.log_medians))(theta)
    for (a, b, c, d), row in zip(theta.astype(float), found, strict=True):
        truth = solved((a, b, d, c), [np.log(30), 0], 2.1 * np.arange(10))
        np.testing.assert_allclose(row, np.clip(truth.ravel(), np.log(1e-10), np.log(1e4)), atol=2e-3)
    # and sbibm's own data have our noise around it: 200 figures
    z = (np.log(rd.tasks.get("lotka_volterra").observations()["x"]) - found[:10]) / 0.1
    assert stats.kstest(np.ravel(z), "norm").pvalue > 1e-4


def test_sir_solves_its_equations():
    # seen: at most 5e-5 in 60 draws of the prior
    truths = rd.tasks.get("sir").truths()["theta"]
    spread = np.random.default_rng(2).normal(np.log([0.4, 0.125]), [0.5, 0.2], (10, 2))
    theta = np.concatenate([truths, np.exp(spread).astype(np.float32), np.float32([[3.0, 0.1]])])
    found = jax.jit(jax.vmap(sir.log_infected))(theta)
    for (b, g), row in zip(theta.astype(float), found, strict=True):
        start = [np.log1p(-1e-6), -np.log(1e6)]
        truth = solved((0.0, b, b, g), start, 17.0 * np.arange(10))[1]
        np.testing.assert_allclose(row, truth, atol=5e-4)
    # sbibm's own counts, made uniform by their binomial law with a throw between its steps: 100 figures
    law, x = stats.binom(1000, np.exp(np.asarray(found[:10], float))), rd.tasks.get("sir").observations()["x"]
    uniform = law.cdf(x) - np.random.default_rng(3).uniform(size=x.shape) * law.pmf(x)
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("name", ["lotka_volterra", "sir"])
def test_the_noise_around_the_equations(name):
    task, n = rd.tasks.get(name), 2000
    sims = rd.simulate(task.problem, n, key=5)
    assert sims.n_failed == 0
    x = sims["x"].astype(float)
    if name == "sir":
        law = stats.binom(1000, np.exp(np.asarray(jax.jit(jax.vmap(sir.log_infected))(sims["theta"]), float)))
        u = law.cdf(x) - np.random.default_rng(3).uniform(size=x.shape) * law.pmf(x)
        score, theta = law.logpmf(x).sum(1), sims["theta"]
    else:
        medians = np.asarray(jax.jit(jax.vmap(lotka_volterra.log_medians))(sims["theta"]), float)
        u = stats.norm.cdf((np.log(x) - medians) / 0.1)
        score, theta = stats.lognorm.logpdf(x, 0.1, scale=np.exp(medians)).sum(1), sims["theta"]
    # 30 columns with p > 1e-6 each
    assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-6
    found = jax.jit(jax.vmap(task.log_likelihood))(theta, sims["x"])
    # float32: gammaln(1000) is 6e3, rounded to 5e-4; and an error of 1e-7 in log x is 1e-6 of a z
    np.testing.assert_allclose(found, score, rtol=1e-3, atol=5e-2)


def test_bernoulli_glm_hears_what_sbibm_heard():
    design, raw = bernoulli_glm.design(), rd.tasks.get("bernoulli_glm_raw")
    np.testing.assert_allclose(
        raw.observations()["x"] @ design, rd.tasks.get("bernoulli_glm").observations()["x"], atol=1e-4
    )
    np.testing.assert_array_equal(raw.reference(2)["theta"], rd.tasks.get("bernoulli_glm").reference(2)["theta"])
    sims = rd.simulate(raw.problem, 10_000, key=6)
    # 100 mean residuals, and with the design 10 more, below 5.5 standard errors
    p = 1 / (1 + np.exp(-sims["theta"].astype(float) @ design.T))
    for residual, variance in ((sims["x"] - p, p * (1 - p)), ((sims["x"] - p) @ design, (p * (1 - p)) @ design**2)):
        assert (np.abs(residual.mean(0)) < 5.5 * np.sqrt(variance.mean(0) / len(p))).all()
    # the prior: what whitens it is chi^2, for our draws as for the parameters behind sbibm's observations
    square = np.einsum("ni,ij,nj->n", sims["theta"], bernoulli_glm.precision(), sims["theta"])
    assert stats.kstest(square, stats.chi2(10).cdf).pvalue > 1e-6
    truths = raw.truths()["theta"]
    square = np.einsum("ni,ij,nj->n", truths, bernoulli_glm.precision(), truths)
    assert stats.kstest(square, stats.chi2(10).cdf).pvalue > 1e-4


def test_slcp_hides_among_distractors():
    task, plain, where = rd.tasks.get("slcp_distractors"), rd.tasks.get("slcp"), slcp_distractors.informative()
    np.testing.assert_array_equal(task.observations()["x"][:, where], plain.observations()["x"])
    np.testing.assert_array_equal(task.reference(4)["theta"], plain.reference(4)["theta"])
    sims = rd.simulate(task.problem, 2000, key=7)
    columns = white(sims["theta"].astype(float), sims["x"][:, where].astype(float)).T
    assert min(stats.kstest(column, "norm").pvalue for column in columns) > 1e-6
    # the first twelve distractors, whitened by the component that fits best, have |z|^2 / 12 ~ F(12, 2): Student's t
    # with two degrees of freedom and one length; the later ones are lost in the condition numbers of L
    rest = _sbibm.small("order", slcp_distractors.FILE)[8:20].astype(int)
    loc, scale = _sbibm.small("loc", slcp_distractors.FILE)[:, :12], slcp_distractors._scales()[:, :12, :12]
    for x, least in ((sims["x"], 1e-6), (task.observations()["x"], 1e-4)):
        offset = x[:, None, rest].astype(float) - loc
        z = np.stack([np.linalg.solve(scale[c].astype(float), offset[:, c].T).T for c in range(20)])
        square = (z**2).mean(-1)
        near = square.min(0)
        # far out, another component may fit by chance, and better: the inner four fifths are told apart
        inner = near < stats.f(12, 2).ppf(0.8)
        law = stats.uniform(0, 1).cdf if inner.all() else lambda u: np.clip(u / 0.8, 0, 1)
        assert stats.kstest(stats.f(12, 2).cdf(near[inner]), law).pvalue > least
        if len(x) > 100:
            assert np.abs(np.bincount(square.argmin(0)[inner], minlength=20) / inner.sum() - 0.05).max() < 0.03


@pytest.mark.parametrize(("name", "center", "reach"), [("two_moons", 0.0, 1.0), ("gaussian_mixture", 2.0, 8.0)])
def test_densities_integrate_to_one(name, center, reach):
    # a sum over cells is exact to rounding where the density is smooth; the two ends of the arc of two moons, .3 long,
    # are not, and each may lose or gain half a cell of 1e-3: 1 % bounds both
    theta, axis = jnp.array([0.3, -0.5]) + center, jnp.linspace(-reach, reach, 2001)
    first, second = jnp.meshgrid(axis, axis)
    x = jnp.stack([first.ravel(), second.ravel()], axis=1) + center
    task = rd.tasks.get(name)
    total = jnp.exp(jax.jit(jax.vmap(lambda one: task.log_likelihood(theta, one)))(x)).sum() * (axis[1] - axis[0]) ** 2
    assert float(total) == pytest.approx(1.0, abs=0.01 if name == "two_moons" else 1e-3)


def test_slcp_has_the_density_of_four_points_of_one_gaussian():
    sims = rd.simulate(rd.tasks.get("slcp").problem, 100, key=3)
    theta, x = sims["theta"].astype(float), sims["x"].astype(float)
    log_det = np.linalg.slogdet(slcp_covariance(theta))[1]
    truth = -0.5 * np.sum(white(theta, x) ** 2, axis=1) - 2 * log_det - 4 * np.log(2 * np.pi)
    found = jax.jit(jax.vmap(rd.tasks.get("slcp").log_likelihood))(sims["theta"], sims["x"])
    # x is stored in float32: near a scale of 1e-3 its rounding by 1e-7 is 1e-4 of a z, which enters squared
    np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-2)


def test_unknown_names_are_told_apart():
    in_time = {"hodgkin_huxley", "influenza", "lotka_volterra_unstructured", "sird"}
    plain = {"gravitational_waves", "lynx_hare", "reaction_diffusion", "strong_lensing", "vilar"}
    with_sites = {name for name in rd.tasks.names() if name.startswith("h_")} | {"blood_flow", "eight_schools", "seir"}
    others = plain | in_time | with_sites
    assert rd.tasks.names() == sorted(rd.tasks.names())
    assert set(rd.tasks.names()) - others == set(NAMES)
    with pytest.raises(rd.DataError, match=r"names 'two_moon'.*Did you mean 'two_moons'\?"):
        rd.tasks.get("two_moon")


@pytest.mark.parametrize("k", [0, 11, -1])
def test_numbers_out_of_range(k):
    task = rd.tasks.get("two_moons")
    for ask in (task.observation, task.true_parameters, task.reference):
        with pytest.raises(rd.DataError, match="'two_moons' have the numbers k = 1 to 10"):
            ask(k)


def test_references_are_found_where_the_environment_says(monkeypatch, tmp_path):
    file = _sbibm.reference_file("slcp")
    assert file.parts[-3:] == ("data", "sbibm", "slcp.npz")
    monkeypatch.setenv("RETRODICT_DATA", str(file.parents[1]))
    assert _sbibm.reference_file("slcp") == file
    monkeypatch.setenv("RETRODICT_DATA", str(tmp_path))
    with pytest.raises(rd.FileError, match=r"'slcp' is not here: RETRODICT_DATA is .* holds no sbibm/slcp.npz"):
        rd.tasks.get("slcp").reference(1)


def test_references_are_missed_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv("RETRODICT_DATA", raising=False)
    monkeypatch.setattr(_sbibm, "__file__", str(tmp_path / "retrodict" / "tasks" / "_sbibm.py"))
    with pytest.raises(rd.FileError, match="set RETRODICT_DATA to the folder `data` of a checkout"):
        rd.tasks.get("slcp").reference(1)
    assert rd.tasks.get("slcp").observation(1)["x"].shape == (8,)  # these need no checkout


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_references_say_so(monkeypatch, tmp_path, damage):
    monkeypatch.setenv("RETRODICT_DATA", str(tmp_path))
    file = tmp_path / "sbibm" / "slcp.npz"
    file.parent.mkdir()
    np.savez(file, **{"reference" if damage == "cut" else "samples": np.zeros((10, 50, 5), np.float32)})
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(rd.FileError, match="should hold an array `reference`"):
        rd.tasks.get("slcp").reference(1)


def test_importing_the_tasks_imports_no_distributions():
    code = "import sys, retrodict_bench.tasks; print([m for m in ('numpyro', 'scipy.stats') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
