"""Bijections between supports and the line: inverses of each other, with the right slope, never outside."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import retrodict as rd
from retrodict.transforms import supports
from retrodict.variables import Variable, bounds_of


ENDS = {
    "real": (-np.inf, np.inf),
    "positive": (0.0, np.inf),
    "above": (2.0, np.inf),
    "below": (-np.inf, 3.0),
    "unit": (0.0, 1.0),
    "interval": (-10.0, 10.0),
}
U = np.linspace(-5 * supports.EDGE, 1 + 5 * supports.EDGE, 25)  # five layers beyond either end


def ends(name):
    low, high = ENDS[name]
    return np.asarray([low]), np.asarray([high])


@pytest.mark.parametrize("name", ENDS)
def test_constrain_and_unconstrain_are_inverses(name, x64):
    u = U[:, None]
    x = supports.constrain(u, *ends(name))
    # distances to the far end are kept to 1e-7 of the interval, which is what single precision can tell
    np.testing.assert_allclose(supports.unconstrain(x, *ends(name)), u, atol=1e-5)


@pytest.mark.parametrize("name", ENDS)
def test_the_slope_is_the_derivative(name, x64):
    slope = jax.vmap(jax.grad(lambda u: supports.constrain(u[None], *ends(name))[0]))(U)
    # the ends of a support are kept in single precision
    np.testing.assert_allclose(supports.log_slope(U[:, None], *ends(name))[:, 0], np.log(np.abs(slope)), atol=1e-6)


@pytest.mark.parametrize("name", ENDS)
def test_no_number_leaves_the_support(name):
    """Not even the extremes of single precision."""
    u = np.concatenate([np.linspace(-300, 300, 20001), [-1e30, 1e30]]).astype(np.float32)[:, None]
    x = np.asarray(supports.constrain(u, *ends(name)))
    low, high = (end.astype(np.float32) for end in ends(name))
    assert supports.contains(x, low, high).all()
    assert np.isfinite(x).all()


@pytest.mark.parametrize("name", ["unit", "interval", "positive"])
def test_values_at_the_very_end_stay_finite(name):
    low, high = ends(name)
    end = np.where(np.isfinite(high), high, low)[None].astype(np.float32)
    for value in (end, low[None].astype(np.float32)):
        assert np.isfinite(supports.unconstrain(value, low, high)).all()


@pytest.mark.parametrize(
    ("support", "expected"),
    [
        (constraints.real, (-np.inf, np.inf)),
        (constraints.positive, (0.0, np.inf)),
        (constraints.less_than(2.0), (-np.inf, 2.0)),
        (constraints.unit_interval, (0.0, 1.0)),
        (dist.Uniform(-1.0, 2.0).expand((2,)).to_event(1).support, (-1.0, 2.0)),
        (dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)).support, (-np.inf, np.inf)),
        (dist.TruncatedNormal(1.0, 0.5, low=0.0).support, (0.0, np.inf)),
        (dist.Uniform(jnp.zeros(2), jnp.asarray([1.0, 2.0])).support, ((0.0, 0.0), (1.0, 2.0))),
    ],
)
def test_supports_are_read_off_numpyro(support, expected):
    assert bounds_of(support, "x") == expected


@pytest.mark.parametrize("support", [constraints.simplex, constraints.nonnegative_integer, constraints.boolean])
def test_what_is_no_interval_is_refused(support):
    with pytest.raises(rd.RetrodictError, match="only the reals, half-lines and intervals"):
        bounds_of(support, "x")


def test_an_empty_support_is_refused():
    with pytest.raises(rd.DataError, match="empty support"):
        Variable("x", low=1.0, high=1.0)


@pytest.mark.parametrize("name", ENDS)
def test_numpy_and_jax_agree_and_numpy_is_in_double_precision(name):
    u = U[:, None]
    x = supports.constrain(u, *ends(name))
    assert isinstance(x, np.ndarray)
    assert x.dtype == np.float64
    single = supports.constrain(jnp.asarray(u, jnp.float32), *ends(name))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, x, rtol=1e-5, atol=1e-6)  # single precision
    # double precision: beyond the ends, where x is known to 1e-16 and u to 1e-16 / S'
    np.testing.assert_allclose(supports.unconstrain(x, *ends(name)), u, atol=1e-10)
    slope = supports.log_slope(jnp.asarray(u, jnp.float32), *ends(name))
    np.testing.assert_allclose(supports.log_slope(u, *ends(name)), slope, atol=1e-4)


def test_an_offset_costs_no_digits_of_a_half_line():
    low, high = np.asarray([1.7e9]), np.asarray([np.inf])
    x = 1.7e9 + np.asarray([[0.001], [1.0], [30.0]])
    np.testing.assert_allclose(supports.constrain(supports.unconstrain(x, low, high), low, high), x, rtol=0, atol=1e-6)


# densities next to the ends -------------------------------------------------------------------------------------------

LAWS = {  # and the powers at both ends
    "uniform": (dist.Uniform(0.0, 1.0), 0.0),
    "arcsine": (dist.Beta(0.5, 0.5), -0.5),
    "hill": (dist.Beta(2.0, 2.0), 1.0),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("high", [1.0, 250.0])
def test_the_power_of_a_density_at_its_ends_is_read_off_the_rows(law, high):
    prior, power = LAWS[law]
    rows = high * np.asarray(prior.sample(jax.random.key(0), (10_000, 1)), np.float64)
    np.testing.assert_array_equal(supports.end_powers(rows, np.asarray([0.0]), np.asarray([high])), [[power, power]])


@pytest.mark.parametrize("law", ["uniform", "arcsine"])
def test_a_density_that_leaks_over_an_end_stays_near_the_truth(law):
    """A learned density in u is .003 too high everywhere, also where the map leaves nothing."""
    prior, power = LAWS[law]
    low, high, powers = np.asarray([0.0]), np.asarray([1.0]), np.asarray([[power, power]])
    distance = 10.0 ** -np.arange(1, 8)[:, None]

    def error(point):
        slope = supports.log_slope(supports.unconstrain(point, low, high), low, high)
        truth = np.asarray(prior.log_prob(point), np.float64)
        return np.exp(np.logaddexp(truth + slope, np.log(0.003)) - slope - truth)

    for x in (distance, 1.0 - distance):
        point, more = supports.density_point(x, low, high, powers)[:2]
        truth = prior.log_prob(jnp.asarray(x)) - prior.log_prob(jnp.asarray(point))
        told = error(point) * np.exp(more - truth)
        # .003 of the slope at the point, .18; single precision keeps distances to 1 to half of 1e-7
        np.testing.assert_allclose(told[:6], 1.0, atol=0.03)
    if law == "uniform":
        assert error(distance).max() > 100.0  # what it would be


def test_points_away_from_intervals_ends_are_left_alone():
    low, high = np.asarray([0.0, 0.0, -np.inf, 0.0]), np.asarray([1.0, np.inf, np.inf, 1.0])
    x = np.asarray([[0.5, 1e-9, 1e-9, 2.0], [0.003, 4.0, -1.0, -1.0]])  # the last lies outside
    point, more = supports.density_point(x, low, high, np.full((4, 2), -0.5))[:2]
    np.testing.assert_array_equal(point, x)
    np.testing.assert_array_equal(more, 0.0)


def test_draws_of_a_log_density_find_its_ends_through_jax():
    """Inside `jit` and `grad`, in single precision, with a gradient that is that of the power."""
    low, high, powers = np.asarray([0.0]), np.asarray([1.0]), np.asarray([[-0.5, 0.0]])
    slope = jax.jit(jax.grad(lambda x: jnp.sum(supports.density_point(x, low, high, powers)[1])))
    np.testing.assert_allclose(slope(jnp.asarray([1e-4])), [-0.5 / 1e-4], rtol=1e-5)
    np.testing.assert_allclose(slope(jnp.asarray([0.9999])), [0.0], atol=1e-6)
