"""For Gaussian data the best guess is known in closed form, so a path can be tested with no network at all."""

import jax.numpy as jnp
import numpy as np
import pytest

import retrodict as rd
from conftest import exact_guess


MEAN, STD = 1.5, 0.7
PATHS = {"flow_matching": rd.paths.flow_matching(), "power": rd.paths.flow_matching(power=2.0)}
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
    path, noise = PATHS[name], jnp.asarray([-1.0, 0.0, 2.0])

    def slope(x, t):
        return path.velocity(exact_guess(path, x, t, MEAN, STD), t)

    found = rd.solvers.RK4(60)(slope, noise, *path.span)
    # sixty steps of fourth order: the error constant of this smooth field is of order one
    np.testing.assert_allclose(found, MEAN + STD * noise, atol=1e-6)


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
    np.testing.assert_allclose(said, path.target(alpha * x_t / v, sigma * x_t / v, t), rtol=1e-12)


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
    np.testing.assert_allclose(rd.paths.PowerLaw(power)(u) ** (power + 1), u, rtol=1e-12)
