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
