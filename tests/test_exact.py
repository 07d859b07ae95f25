"""Every path with every solver, the exact guess in place of a network: only the mathematics can be wrong.

Data are a correlated Gaussian, or a mixture of two; then `E[x1 | x_t]` and `E[x0 | x_t]` are known in closed form.
"""

import dataclasses
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import multivariate_normal
from scipy.stats import norm, qmc

import retrodict as rd
from retrodict import paths
from retrodict.densities import Exact, Hutchinson, HutchPlusPlus, gaussian, pull_back
from retrodict.models import SAMPLER
from retrodict.paths import Denoised, Flow
from retrodict.solvers import SOLVERS
from retrodict.solvers._stochastic import AbstractStochastic


pytestmark = pytest.mark.usefixtures("x64")
N = 4096


class Mixture(eqx.Module):
    """Two Gaussians in three dimensions."""

    weights: jax.Array
    means: jax.Array
    covs: jax.Array

    def parts(self, x, alpha, sigma):
        """Of every component: its probability given `x_t`, and `S^-1 (x_t - alpha m)`, S the covariance of `x_t`."""
        spread = alpha**2 * self.covs + sigma**2 * jnp.eye(3)
        logs = jax.vmap(partial(multivariate_normal.logpdf, x))(alpha * self.means, spread) + jnp.log(self.weights)
        return jax.nn.softmax(logs), jnp.linalg.solve(spread, (x - alpha * self.means)[..., None])[..., 0]

    def guess(self, path, x, t):
        """The exact guess, by way of the path's own prediction, so that its two equations are tested as well."""
        alpha, sigma = path.schedule(t)
        share, pull = self.parts(x, alpha, sigma)
        data = share @ (self.means + alpha * jnp.einsum("kij,kj->ki", self.covs, pull))
        return path.guess(x, path.target(data, share @ (sigma * pull), t), t)

    def log_prob(self, x):
        return jax.nn.logsumexp(
            jax.vmap(partial(multivariate_normal.logpdf, x))(self.means, self.covs) + jnp.log(self.weights)
        )

    def moments(self):
        mean = self.weights @ self.means
        off = self.means - mean
        return mean, jnp.einsum("k,kij->ij", self.weights, self.covs + off[:, :, None] * off[:, None, :])


def covariance(seed):
    factor = np.random.default_rng(seed).normal(size=(3, 3))
    cov = factor @ factor.T + 0.5 * np.eye(3)
    spread = 1 / np.sqrt(np.diag(cov))
    return cov * spread[:, None] * spread


def standardized(weights, means, covs):
    """As the library does with data before a path sees them: mean zero, variances one."""
    mean, cov = Mixture(weights, means, covs).moments()
    sd = jnp.sqrt(jnp.diag(cov))
    return Mixture(weights, (means - mean) / sd, covs / jnp.outer(sd, sd))


def targets():
    weights, apart = jnp.asarray([0.3, 0.7]), jnp.asarray([[1.5, 0.0, -0.4], [-0.7, 0.3, 0.2]])
    one = standardized(weights, jnp.zeros((2, 3)), jnp.stack([covariance(0)] * 2))
    two = standardized(weights, apart, jnp.stack([0.1 * covariance(1), 0.16 * covariance(2)]))
    return {"gaussian": one, "mixture": two}


PATHS = {
    **{name: make() for name, make in paths.METHODS.items()},
    "vp predicting velocity": paths.vp(parameterization=paths.velocity),
    "edm on vp": paths.edm(schedule=paths.VariancePreserving()),
    "edm on ve": paths.edm(schedule=paths.VarianceExploding()),
    "ve predicting data": paths.ve(parameterization=paths.data),
}
# steps that each solver takes, and the relative error that they may leave: the noise of `ve` falls by 11 factors of e,
# and a step of first order gets each of them wrong by half of itself
STEPS = {
    **dict.fromkeys(["Euler", "EulerMaruyama", "SEA"], (600, 0.08)),
    **dict.fromkeys(["StochasticHeun", "ShARK"], (200, 0.03)),
    **dict.fromkeys(["Midpoint", "Heun"], (120, 0.01)),
    **dict.fromkeys(["AdamsBashforth"], (240, 0.01)),
    **dict.fromkeys(["DPMSolver", "RK4", "EDMSampler"], (60, 0.005)),
    **dict.fromkeys(["Dopri5", "Tsit5"], (None, 0.002)),
}


def solver_of(name):
    return SOLVERS[name](rtol=1e-4, atol=1e-4) if STEPS[name][0] is None else SOLVERS[name](STEPS[name][0])


# points of a scrambled Sobol sequence: what does not depend on chance afterwards is integrated to a few parts in 1,000
START = norm.ppf(qmc.Sobol(3, seed=0).random(N))


@eqx.filter_jit
def draw(target, path, solver, key):
    def one(x0, key):
        return solver(Flow(path, partial(target.guess, path)), path.begin(x0), *path.span, key=key)

    return jax.vmap(one)(jnp.asarray(START), jr.split(key, N))


def assert_moments(target, draws, slack, *, random):
    """Mean, covariance and mode weights: a relative slack for the steps, and the sampling error.

    For N independent draws that is five standard errors (false-alarm rate 6e-7 for each of ten numbers; the fourth
    moments of these mixtures are below three times those of a Gaussian), for Sobol points a hundredth.
    """
    mean, cov = target.moments()
    sd = np.sqrt(np.diag(cov))
    first, second, weight = (5 * np.sqrt(v / N) if random else 0.01 for v in (1.0, 3.0, 0.21))
    np.testing.assert_allclose((draws.mean(axis=0) - mean) / sd, 0.0, atol=first + slack)
    scaled = (np.cov(np.asarray(draws).T) - cov) / np.outer(sd, sd)
    np.testing.assert_allclose(scaled, 0.0, atol=second + 2 * slack)
    share = np.asarray(jax.vmap(lambda x: target.parts(x, 1.0, 0.0)[0][0])(draws))
    assert share.mean() == pytest.approx(0.3, abs=weight + slack)


def assert_reaches(target, path, solver, slack):
    random = isinstance(solver, AbstractStochastic) or getattr(solver, "churn", 0.0) > 0.0
    assert_moments(target, draw(target, path, solver, jr.key(0)), slack, random=random)


def pairs():
    """Every target, path and solver; the fast suite keeps the mixture, the straight path and some of the others."""
    for target in ("mixture", "gaussian"):
        for path in paths.METHODS:
            for name in SOLVERS:
                # the two slowest stochastic solvers are in the slow suite; ShARK and SEA stand for them here
                straight = path == "flow_matching" and name not in ("EulerMaruyama", "StochasticHeun")
                fast = target == "mixture" and (straight or name in ("DPMSolver", "EDMSampler"))
                yield pytest.param(target, path, name, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("target", "path", "name"), list(pairs()))
def test_every_path_with_every_solver_reaches_the_target(target, path, name):
    assert_reaches(targets()[target], PATHS[path], solver_of(name), STEPS[name][1])


CHURN = {"all": {"churn": 30.0}, "some": {"churn": 80.0, "churn_min": 0.05, "churn_max": 50.0}}


@pytest.mark.parametrize("churn", CHURN.values(), ids=CHURN)
@pytest.mark.parametrize("path", ["edm", *(pytest.param(p, marks=pytest.mark.slow) for p in ("flow_matching", "vp"))])
def test_churn_leaves_the_marginals(path, churn):
    assert_reaches(targets()["mixture"], PATHS[path], rd.solvers.EDMSampler(60, **churn), 0.02)


def test_churn_of_the_wrong_size_would_be_seen():
    """Noise of 1.2 for 1 widens the mixture beyond the bounds."""
    with pytest.raises(AssertionError):
        assert_reaches(targets()["mixture"], PATHS["edm"], rd.solvers.EDMSampler(60, churn=25.0, noise_scale=1.2), 0.02)


@pytest.mark.parametrize("path", PATHS)
def test_the_default_sampler_follows_any_path_in_20_evaluations(path):
    assert_reaches(targets()["mixture"], PATHS[path], SAMPLER, 0.02)
    assert SAMPLER.evaluations == 20


@pytest.mark.parametrize("path", list(PATHS)[4:])
def test_a_parameterization_is_a_choice_of_its_own(path):
    assert_reaches(targets()["mixture"], PATHS[path], solver_of("DPMSolver"), 0.005)


@pytest.mark.parametrize(
    "diffusion",
    [
        paths.NonSingular(2.0),
        pytest.param(paths.ZeroEnds(3.0), marks=pytest.mark.slow),
        paths.Reverse(0.5),
        pytest.param(paths.Reverse(1.5), marks=pytest.mark.slow),
    ],
    ids=["NonSingular", "ZeroEnds", "less than reverse", "more than reverse"],
)
@pytest.mark.parametrize("path", ["flow_matching", pytest.param("vp", marks=pytest.mark.slow)])
def test_any_noise_level_leaves_the_marginals(path, diffusion):
    # the reverse noise of straight lines is infinite at t = 0: begin a little later
    path = dataclasses.replace(PATHS[path], span=(0.02, PATHS[path].span[1]))
    solver = rd.solvers.ShARK(300, diffusion=diffusion)
    assert_reaches(targets()["mixture"], path, solver, 0.04)  # at t = 0.02 the start is 2 % of the data short


def test_a_score_of_the_wrong_sign_would_be_seen():
    """The trap of METHODS: the drift with `- t u` for `+ t u` in the score is far outside the bounds."""

    target = targets()["gaussian"]

    class Flipped(rd.solvers.EulerMaruyama):
        def __call__(self, velocity, x, start, end, *, key=None):
            def guess(x, t):
                found = velocity.guess(x, t)
                return Denoised(found.data, x + t * (found.data - found.noise))  # x - t u is the noise

            return super().__call__(Flow(velocity.path, guess), x, start, end, key=key)

    with pytest.raises(AssertionError):
        assert_reaches(target, PATHS["flow_matching"], Flipped(200), 0.1)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(dist.Laplace(0.0, 0.7), id="Laplace", marks=pytest.mark.slow),
        pytest.param(dist.Uniform(-1.7, 1.7), id="Uniform", marks=pytest.mark.slow),
        pytest.param(dist.Normal(0.5, 2.0), id="Normal", marks=pytest.mark.slow),
    ],
)
def test_noise_of_another_law(source):
    """One-dimensional Gaussian data: the posterior mean of x1 by quadrature over x0, the rest by the library."""
    path = paths.flow_matching(source=source)
    nodes = jnp.linspace(-12.0, 12.0, 2401)

    def guess(x, t):
        # x0 given x_t: p(x0) N((x_t - sigma x0) / alpha; 0.3, 0.5^2)
        alpha, sigma = path.schedule(t)
        alpha = jnp.maximum(alpha, 1e-3)
        weight = jax.nn.softmax(source.log_prob(nodes) - 0.5 * (((x[0] - sigma * nodes) / alpha - 0.3) / 0.5) ** 2)
        noise = jnp.sum(weight * nodes)[None]
        return Denoised((x - sigma * noise) / alpha, noise)

    flow = Flow(path, guess)
    x0 = source.sample(jr.key(0), (4000,))
    drawn = jax.jit(jax.vmap(lambda e: rd.solvers.RK4(60, paths.Uniform())(flow, path.begin(e[None]), 1e-2, 0.995)[0]))(
        x0
    )
    # 4,000 draws: five standard errors of mean and standard deviation, and .02 for the times left out at the ends
    assert float(drawn.mean()) == pytest.approx(0.3, abs=5 * 0.5 / np.sqrt(4000) + 0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(8000) + 0.02)


WIDE = {  # ends that leave less than 1e-4: nearer to no noise, and further from any data
    "flow_matching": paths.flow_matching(),
    "vp": dataclasses.replace(paths.vp(beta_max=30.0), span=(0.0, 1.0 - 1e-6)),
    "ve": paths.ve(sigma_min=1e-4, sigma_max=1000.0),
    "edm": paths.edm(schedule=paths.Karras(1e-4, 1000.0)),
    "vp predicting velocity": dataclasses.replace(
        paths.vp(beta_max=30.0, parameterization=paths.velocity), span=(0.0, 1.0 - 1e-6)
    ),
}


@pytest.mark.parametrize("target", ["mixture", pytest.param("gaussian", marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", WIDE)
def test_log_prob_is_exact(path, target):
    """With ends wide enough."""
    assert_log_prob(WIDE[path], targets()[target], 1e-4)


SLOW_ENDS = (pytest.param(path, marks=pytest.mark.slow) for path in ("ve", "edm", "vp predicting velocity"))


@pytest.mark.parametrize("path", ["vp", *SLOW_ENDS])
def test_log_prob_at_the_default_ends(path):
    """They add 5e-3 at most: sigma^2 over the smallest variance at the data's end, correlations over sigma^2 at the
    other. Those of flow matching are the wide ones."""
    assert_log_prob(PATHS[path], targets()["mixture"], 5e-3)


def assert_log_prob(path, target, slack):
    rng, both = np.random.default_rng(0), zip(target.means, target.covs, strict=True)
    points = np.concatenate([rng.multivariate_normal(m, c, size=5) for m, c in both])
    np.testing.assert_allclose(log_prob(path, target, points), jax.vmap(target.log_prob)(points), atol=slack)


@eqx.filter_jit
def log_prob(path, target, points):
    flow, solver = Flow(path, partial(target.guess, path)), rd.solvers.Dopri5(rtol=1e-8, atol=1e-8, max_steps=20_000)

    def one(x):
        there, gain = pull_back(flow, x, jnp.eye(3), solver, Exact(), jr.key(0))
        return jnp.sum(path.log_begin(there)) + gain[0]

    return jax.vmap(one)(points)


@pytest.mark.parametrize("name", ["DPMSolver", "EDMSampler"])
@pytest.mark.parametrize(
    "path", [pytest.param("flow_matching", marks=pytest.mark.slow), "vp", pytest.param("edm", marks=pytest.mark.slow)]
)
def test_exponential_and_edm_solvers_are_of_second_order(path, name):
    path, target = PATHS[path], targets()["gaussian"]
    flow, x0 = Flow(path, partial(target.guess, path)), path.begin(jnp.asarray([0.7, -1.2, 0.4]))
    # the first and the last step may be of infinite length in log SNR, so the order is measured between
    early, late = (float(path.schedule.at_ratio(jnp.asarray(r))) for r in (20.0, 0.05))
    start = rd.solvers.RK4(2000, paths.LogSNR())(flow, x0, path.span[0], early)
    flow = Flow(dataclasses.replace(path, span=(early, late)), flow.guess)
    exact = rd.solvers.RK4(4000, paths.LogSNR())(flow, start, early, late)

    def error(steps):
        found = SOLVERS[name](steps, grid=paths.LogSNR())(flow, start, early, late)
        if name == "EDMSampler":  # ends with a step to sigma = 0, which belongs to no grid: compare what it heads for
            exact_end = flow.guess(exact, jnp.asarray(late)).data
            return float(jnp.max(jnp.abs(found - exact_end)))
        return float(jnp.max(jnp.abs(found - exact)))

    # the next term of the error is a few percent of the leading one
    assert np.log2(error(64) / error(128)) == pytest.approx(2.0, abs=0.25)


STRONG = {"EulerMaruyama": 1.0, "StochasticHeun": 1.0, "SEA": 1.0, "ShARK": 1.5}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRONG)
def test_the_strong_order_of_a_stochastic_solver(name):
    """Coarse and fine steps along one and the same Brownian motion (orders: Foster et al., arXiv 2210.17543)."""

    class Same(SOLVERS[name]):
        def brownian(self, shape, key, area, span):
            return diffrax.VirtualBrownianTree(0.0, 1.0, 1e-4, shape, key, diffrax.SpaceTimeLevyArea)

    target, path = targets()["mixture"], paths.flow_matching()
    flow = Flow(path, partial(target.guess, path))

    @partial(jax.jit, static_argnums=0)
    def ends(steps):
        solver = Same(steps, paths.Uniform(), paths.ZeroEnds())

        def one(key):
            return solver(flow, jr.normal(key, (3,)), 0.1, 0.8, key=key)

        return jax.vmap(one)(jr.split(jr.key(0), 200))

    fine = ends(512)
    coarse, finer = (float(jnp.sqrt(jnp.mean((ends(steps) - fine) ** 2))) for steps in (16, 32))
    assert np.log2(coarse / finer) > STRONG[name] - 0.2


@pytest.mark.slow
def test_a_schedule_swapped_after_training_stays_exact():
    """What VP's network says of `x_t` is what any schedule needs at the time of the same sigma / alpha."""
    trained, target = PATHS["vp"], targets()["mixture"]

    class Swapped(eqx.Module):
        def guess(self, path, x, t):
            alpha, sigma = path.schedule(t)
            there = trained.schedule.at_ratio(sigma / alpha)
            up = trained.schedule(there)[0] / alpha
            return target.guess(trained, up * x, there)

    other = paths.ve(sigma_min=0.01, sigma_max=100.0)
    for solver in ("DPMSolver", "ShARK"):  # Heun is next
        draws = draw(Swapped(), other, solver_of(solver), jr.key(1))
        assert_moments(target, draws, STEPS[solver][1], random=solver == "ShARK")
    for grid in (paths.Uniform(), paths.Power(3.0), paths.KarrasRho(), paths.LogSNR()):
        assert_reaches(target, trained, rd.solvers.Heun(100, grid), 0.01)


class Linear(eqx.Module):
    """The flow x' = A x."""

    matrix: jax.Array
    path: paths.Path = dataclasses.field(default_factory=paths.flow_matching)

    def __call__(self, x, t):
        return self.matrix @ x

    def straightened(self):
        return self


@pytest.mark.parametrize(
    "trace", [Hutchinson(8), Hutchinson(8, gaussian), HutchPlusPlus(4, 8)], ids=["signs", "normal", "hutch++"]
)
def test_the_standard_error_of_a_random_trace_covers_the_exact_value(trace):
    """The mean of 8 estimates over its standard error is near Student's t with 7 degrees: |t| < 2.365 in 95 % of rows.

    1,500 rows: 95 % +- 2.2 % is four standard errors (false-alarm rate 6e-5); 2 % more: no estimate is quite normal.
    """
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.normal(size=(30, 30)) / 5 + np.diag(rng.normal(size=30)))
    flow = Linear(matrix)

    def one(key):
        return pull_back(flow, jnp.zeros(30), jnp.eye(30), rd.solvers.Heun(2), trace, key)[1]

    found = jax.jit(jax.vmap(one))(jr.split(jr.key(0), 1500))
    error = found.mean(axis=1) + jnp.trace(matrix)  # log p1 - log p0 is minus the integral of the trace
    covered = np.abs(error) < 2.365 * trace.error(found, 30)
    assert covered.mean() == pytest.approx(0.95, abs=0.042)
    assert abs(float(error.mean())) < 5 * float(error.std()) / np.sqrt(1500)  # unbiased; false-alarm rate 6e-7


def test_hutch_plus_plus_has_the_lower_variance_where_the_range_is_small():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(100, 4))
    matrix = jnp.asarray(factor @ rng.normal(size=(4, 100)) + 0.1 * rng.normal(size=(100, 100)))

    def errors(trace):
        one = lambda key: jnp.mean(trace(lambda e: matrix @ e, 100, key)) - jnp.trace(matrix)  # noqa: E731
        return np.asarray(jax.vmap(one)(jr.split(jr.key(1), 300)))

    # rank 4 of the range taken exactly leaves the small part; both multiply 24 times
    assert errors(HutchPlusPlus(12, 12)).std() < 0.1 * errors(Hutchinson(24)).std()


def test_as_many_probes_as_directions_leave_nothing_to_chance():
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)))
    found = HutchPlusPlus(4, 4)(lambda e: matrix @ e, 6, jr.key(0))
    np.testing.assert_allclose(found, jnp.trace(matrix), rtol=1e-12)
