"""For Gaussian data the best guess is known in closed form, so a path can be tested with no network at all."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtri

import retrodict as rd
from conftest import exact_guess


MEAN, STD = 1.5, 0.7
PATHS = {name: make() for name, make in rd.paths.METHODS.items()}
pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("name", PATHS)
def test_a_guess_is_the_inverse_of_a_prediction(name):
    path, t = PATHS[name], jnp.asarray(0.37)
    x_t = jnp.asarray([0.2, -1.0])
    truth = exact_guess(path, x_t, t, MEAN, STD)
    guess = path.guess(x_t, path.target(truth.data, truth.noise, t), t)
    # double precision, a 2x2 system of condition below 10
    np.testing.assert_allclose(guess.data, truth.data, rtol=1e-12)
    np.testing.assert_allclose(guess.noise, truth.noise, rtol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_the_flow_carries_noise_to_the_data_by_the_known_affine_map(name):
    """x_t is N(alpha m, alpha^2 s^2 + sigma^2), and the flow keeps the standardized x_t."""
    path = PATHS[name]
    start = path.begin(jnp.asarray([-1.0, 0.0, 2.0]))
    flow = rd.paths.Flow(path, lambda x, t: exact_guess(path, x, t, MEAN, STD))
    found = rd.solvers.RK4(400)(flow, start, *path.span)
    (a0, s0), (a1, s1) = (path.schedule(jnp.asarray(t)) for t in path.span)
    exact = a1 * MEAN + jnp.sqrt(((a1 * STD) ** 2 + s1**2) / ((a0 * STD) ** 2 + s0**2)) * (start - a0 * MEAN)
    # four hundred steps of fourth order: the error constant of these smooth fields is of order one in log sigma
    np.testing.assert_allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_the_score_is_that_of_the_gaussian_marginal(name):
    path, t, x_t = PATHS[name], jnp.asarray(0.6), jnp.asarray([0.3, 2.0])
    alpha, sigma = path.schedule(t)
    exact = -(x_t - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2)
    np.testing.assert_allclose(path.score(exact_guess(path, x_t, t, MEAN, STD), t), exact, rtol=1e-12)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_a_silent_network_is_exact_for_standard_normal_data(name, t):
    path, x_t, t = PATHS[name], jnp.asarray([0.3, -2.0]), jnp.asarray(t)
    alpha, sigma = path.schedule(t)
    v = alpha**2 + sigma**2
    said = path.predict(jnp.zeros_like, x_t, t)
    # E[x1 | x_t] = alpha x_t / v and E[x0 | x_t] = sigma x_t / v for independent standard normal x1, x0
    np.testing.assert_allclose(said, path.target(alpha * x_t / v, sigma * x_t / v, t), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", PATHS)
def test_what_a_network_learns_has_unit_variance(name):
    """The target F = (target - skip x_t) / out has mean 0, variance 1 and is uncorrelated with x_t, at every time."""
    path, t = PATHS[name], jnp.asarray(0.8)
    basis = jnp.eye(2)  # x1 and x0 as the two coordinates of an orthonormal frame: inner products are covariances
    x_t, target = path.mix(*basis, t), path.target(*basis, t)
    said = path.predict(lambda scaled: jnp.zeros(2), x_t, t)
    out = path.predict(lambda scaled: jnp.ones(2), jnp.zeros(2), t)
    left = (target - said) / out
    np.testing.assert_allclose([left @ left, left @ x_t], [1.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_the_law_of_times_has_its_density(power):
    """Its distribution function is t ** (power + 1)."""
    u = jnp.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(rd.paths.PowerLaw(power)(u, rd.paths.Straight()) ** (power + 1), u, rtol=1e-12)


@pytest.mark.parametrize(
    "times", [rd.paths.LogitNormal(0.3, 0.8), rd.paths.LogNormalRatio(-1.2, 1.2)], ids=["logit", "ratio"]
)
@pytest.mark.parametrize("schedule", [rd.paths.Straight(), rd.paths.Karras()], ids=["straight", "karras"])
def test_the_normal_laws_of_times_have_their_distribution(times, schedule):
    """The normal score of u comes back from the time."""
    u = jnp.linspace(0.02, 0.98, 9)
    t = jnp.stack([times(v, schedule) for v in u])
    alpha, sigma = schedule(t)
    normal = jnp.log(t / (1 - t)) if isinstance(times, rd.paths.LogitNormal) else -jnp.log(sigma / alpha)
    sign = 1 if isinstance(times, rd.paths.LogitNormal) else -1
    # at_ratio halves 52 times
    np.testing.assert_allclose((normal - sign * times.mean) / times.sd, ndtri(u), atol=1e-8)


@pytest.mark.parametrize("method", [rd.paths.vp, rd.paths.ve])
def test_scores_are_trained_where_data_are(method):
    """By default log sigma / alpha ~ N(-.7, 1.6^2), on either schedule."""
    path, u = method(), jnp.linspace(0.02, 0.98, 9)
    alpha, sigma = path.schedule(jnp.stack([path.time_law(v, path.schedule) for v in u]))
    np.testing.assert_allclose((jnp.log(sigma / alpha) + 0.7) / 1.6, -ndtri(u), atol=1e-8)


@pytest.mark.parametrize("name", PATHS)
def test_a_time_is_found_by_its_ratio(name):
    schedule = PATHS[name].schedule
    for t in (0.1, 0.5, 0.9):
        alpha, sigma = schedule(jnp.asarray(t))
        assert float(schedule.at_ratio(sigma / alpha)) == pytest.approx(t, abs=1e-12)


def test_schedules_have_their_published_values():
    """VP: d log alpha / ds = -beta / 2 with s = 1 - t (Song et al., 2021, eq. 33); Karras et al., eq. 5."""
    vp, t = rd.paths.VariancePreserving(0.1, 20.0), jnp.asarray(0.3)
    (alpha, sigma), (up, _) = vp(t), vp.slopes(t)
    assert float(alpha**2 + sigma**2) == pytest.approx(1.0, rel=1e-12)
    assert float(up / alpha) == pytest.approx((0.1 + 0.7 * 19.9) / 2, rel=1e-12)
    levels = [float(rd.paths.Karras()(jnp.asarray(i / 17))[1]) for i in range(18)]
    wanted = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    np.testing.assert_allclose(levels, wanted, rtol=1e-10)
    ve = rd.paths.VarianceExploding(0.01, 50.0)
    assert float(ve(jnp.asarray(0.5))[1]) == pytest.approx((0.01 * 50.0) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_likelihood_weighting_is_the_noise_of_the_reverse_sde(name):
    """g^2 |error in the score|^2, whatever is predicted."""
    path, t = PATHS[name], jnp.asarray(0.4)
    x, error = jnp.asarray(0.7), jnp.asarray(1e-3)
    _, sigma = path.schedule(t)
    g2 = rd.paths.Reverse()(t, path.schedule) * sigma
    there, here = (path.score(path.guess(x, prediction, t), t) for prediction in (0.2 + error, 0.2))
    weight = rd.paths.likelihood(path.schedule, path.parameterization, t)
    assert float(weight * error**2) == pytest.approx(float(g2 * (there - here) ** 2), rel=1e-9)


def test_the_noise_of_vp_s_reverse_sde_is_beta():
    vp, t = rd.paths.VariancePreserving(0.1, 20.0), jnp.asarray(0.3)
    assert float(rd.paths.Reverse()(t, vp) * vp(t)[1]) == pytest.approx(0.1 + 0.7 * 19.9, rel=1e-12)


def test_singh_and_fischer_s_families_on_straight_lines():
    t, line = jnp.asarray(0.3), rd.paths.Straight()
    assert float(rd.paths.NonSingular(2.0)(t, line) * 0.7) == pytest.approx(4 * 0.7)
    assert float(rd.paths.ZeroEnds(2.0)(t, line) * 0.7) == pytest.approx(4 * 0.3 * 0.7)
