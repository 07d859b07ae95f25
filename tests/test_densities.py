"""Densities along a flow, against a Gaussian whose flow and density are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import retrodict as rd
from conftest import exact_guess
from retrodict.densities import Exact, divergence, pull_back


MEAN, STD = 1.5, 0.3  # narrower than the noise, so that the divergence does not integrate to zero
pytestmark = pytest.mark.usefixtures("x64")


def test_the_density_of_a_gaussian_is_found():
    path = rd.paths.flow_matching()
    flow = rd.paths.Flow(path, lambda x, t: exact_guess(path, x, t, MEAN, STD))
    x1 = jnp.asarray([1.2, 1.9])
    noise, gain = pull_back(flow, x1, jnp.eye(2), rd.solvers.RK4(100), Exact(), jax.random.key(0))
    # a fourth-order scheme with 100 steps
    np.testing.assert_allclose(noise, (x1 - MEAN) / STD, atol=1e-5)
    exact = float(jnp.sum(norm.logpdf(x1, MEAN, STD)))
    assert float(jnp.sum(norm.logpdf(noise)) + gain[0]) == pytest.approx(exact, abs=1e-5)


def test_the_divergence_is_the_trace_over_the_directions():
    def field(x):
        return jnp.stack([x[0] ** 2 + x[1], jnp.sin(x[1]) * x[0], x[2] * x[0]])

    x = jnp.asarray([0.3, -1.2, 2.0])
    diagonal = np.diag(jax.jacfwd(field)(x))
    assert float(divergence(field, x, jnp.eye(3), Exact(), jax.random.key(0))[1][0]) == pytest.approx(
        diagonal.sum(), rel=1e-12
    )
    some = jnp.eye(3)[jnp.asarray([0, 2])]
    found = divergence(field, x, some, Exact(), jax.random.key(0))[1]
    assert float(found[0]) == pytest.approx(diagonal[0] + diagonal[2], rel=1e-12)
