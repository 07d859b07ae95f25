"""Importance weights of guided draws.

A solver without noise of its own is a map x1 = T(x0), whatever the errors of its steps. Its draws are proposals with
exactly the log density

    log q(x1) = log p0(x0) - log |det dT/dx0|

For a target p(x1) c(x1) every proposal has the weight w = p c / q. Self-normalized weighted means converge to those of
the target. The effective sample size is the number of independent draws that the weighted proposals are worth:

    effective sample size = (sum w)^2 / sum w^2
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from retrodict._types import Scalar
from retrodict.paths import Flow
from retrodict.solvers import AbstractSolver, stripped


Vector = Float[Array, " d"]


def refusal(solver: AbstractSolver) -> str | None:
    """Returns the reason why draws of a solver have no log density, with the cure; `None` if they have one."""
    scheme = stripped(solver)
    if scheme.has_density:
        return None
    return (
        f"the correction needs the density of draws by {type(scheme).__name__}, and only solvers with fixed steps and "
        "without noise have it: use Euler, Midpoint, Heun, RK4, AdamsBashforth or DPMSolver, or correct=False"
    )


def carried(flow: Flow, solver: AbstractSolver, x: Vector, directions: Float[Array, "k d"]) -> tuple[Vector, Scalar]:
    """Returns the draw that the solver makes of noise `x`, and its log density.

    Args:
        directions: unit vectors `(k, d)` that span the latent elements; the density is that of these.
    """

    def solve(shift: Float[Array, " k"]) -> tuple[Vector, Vector]:
        x1 = solver(flow, x + shift @ directions, *flow.path.span)
        return directions @ x1, x1

    jacobian, x1 = jax.jacfwd(solve, has_aux=True)(jnp.zeros(len(directions), x.dtype))
    log_p0 = jnp.sum(directions @ flow.path.log_begin(x))
    return x1, log_p0 - jnp.linalg.slogdet(jacobian)[1]


def effective_size(log_weights: Float[np.ndarray, " n"]) -> float:
    """Returns the effective sample size of weighted draws; 0 if all weights are zero."""
    largest = np.max(log_weights, initial=-np.inf)
    if not np.isfinite(largest):
        return 0.0
    weights = np.exp(np.asarray(log_weights, np.float64) - largest)
    return float(weights.sum() ** 2 / np.sum(weights**2))


def resample(log_weights: Float[np.ndarray, " m"], n: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `n` row numbers by systematic resampling: row i about n w_i / sum w times, up to one; in random order."""
    weights = np.exp(np.asarray(log_weights, np.float64) - np.max(log_weights))
    quantiles = (np.arange(n) + rng.random()) / n
    cumulative = np.cumsum(weights)
    return rng.permutation(np.searchsorted(cumulative / cumulative[-1], quantiles, side="right"))
