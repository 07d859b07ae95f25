"""The accuracy of solvers that a user names: along straight lines, and measured on a flow whose end is known.

A Runge-Kutta scheme with equal steps in time loses its accuracy where a schedule is steep: 20 steps of Heun draw a
Gaussian 31 % too wide on the variance-exploding path, and right along straight lines between the same noise levels. So
schemes of fixed steps are straightened, and the same steps mean the same on every path.

What then remains depends on the number of steps alone. For Gaussian data N(0, s^2) the denoised data are known,

    E[x1 | x_t] = alpha s^2 / v x_t,      E[x0 | x_t] = sigma / v x_t,      v = alpha^2 s^2 + sigma^2

and the flow multiplies noise by a number, s. A scheme multiplies it by another one.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from retrodict._runtime.compile_cache import for_few_runs
from retrodict.paths import Denoised, Flow, Path
from retrodict.solvers._base import AbstractSolver, AbstractStepping
from retrodict.solvers._straightened import Straightened, stripped


SDS = (1.0, 0.3)  # of the data: as wide as the prior, and a third; narrower data are harder
MAX_ERROR = 0.1  # of a standard deviation, relative


def straightened(solver: AbstractSolver, path: Path) -> AbstractSolver:
    """Returns the solver along straight lines, if it takes fixed steps without noise and the lines are bent."""
    return Straightened(solver) if solver.has_density and path.straightened() is not path else solver


def gaussian_error(solver: AbstractSolver, path: Path) -> float:
    """Returns the relative error of the standard deviation of Gaussian data, the largest for `SDS`; zero if unknown.

    It is below zero for draws that are too narrow. Only solvers in fixed steps without noise are measured.
    """
    scheme = stripped(solver)
    if not isinstance(scheme, AbstractStepping) or scheme.draws_noise:
        return 0.0
    path = eqx.tree_at(lambda path: path.source, path, None, is_leaf=lambda x: x is None)
    try:
        return _gaussian_error(solver, path)
    except TypeError:  # parts that cannot be compared, such as arrays
        return 0.0


@functools.lru_cache(maxsize=256)
def _gaussian_error(solver: AbstractSolver, path: Path) -> float:
    def relative_error(s: Array) -> Array:
        def guess(x: Array, t: Array) -> Denoised:
            alpha, sigma = path.schedule(t)
            v = (alpha * s) ** 2 + sigma**2
            return Denoised(alpha * s**2 / v * x, sigma / v * x)

        end = solver(Flow(path, guess), path.begin(jnp.ones(())), *path.span, key=jax.random.key(0))
        return end / s - 1.0

    errors = jax.jit(jax.vmap(relative_error), **for_few_runs())(jnp.asarray(SDS))
    return float(errors[jnp.argmax(jnp.abs(errors))])
