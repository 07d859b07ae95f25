"""Weights: what makes a guided draw right.

A solver that draws nothing on its way is a map x1 = T(x0), whatever its steps get wrong, and its draws have the density

    log q(x1) = log p0(x0) - log |det dT/dx0|

exactly. For a target p(x1) c(x1) every draw gets the weight w = p c / q; self-normalized, weighted averages converge to
those of the target, and

    effective size = (sum w)^2 / sum w^2

tells how many independent draws the weighted ones are worth.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from retrodict._types import Scalar
from retrodict.paths import Flow
from retrodict.solvers import AbstractOneStep, AbstractSolver, AdamsBashforth, DPMSolver, stripped


Vector = Float[Array, " d"]


def refusal(solver: AbstractSolver) -> str | None:
    """Why the density of a solver's draws cannot be had, with the cure; `None` if it can."""
    own = stripped(solver)
    if isinstance(own, AbstractOneStep | AdamsBashforth | DPMSolver):
        return None
    return (
        f"the correction needs the density of what {type(own).__name__} draws, which only solvers of fixed steps and "
        "without noise of their own have: use Euler, Midpoint, Heun, RK4, AdamsBashforth or DPMSolver, or correct=False"
    )


def carried(flow: Flow, solver: AbstractSolver, x: Vector, directions: Float[Array, "k d"]) -> tuple[Vector, Scalar]:
    """Where the solver carries `x` from the path's beginning, and the log density of arriving there.

    `directions` are unit vectors `(k, d)` that span what can move; what does not has no density.
    """

    def arrive(shift: Float[Array, " k"]) -> tuple[Vector, Vector]:
        there = solver(flow, x + shift @ directions, *flow.path.span)
        return directions @ there, there

    stretch, there = jax.jacfwd(arrive, has_aux=True)(jnp.zeros(len(directions), x.dtype))
    begun = jnp.sum(directions @ flow.path.log_begin(x))
    return there, begun - jnp.linalg.slogdet(stretch)[1]


def effective_size(log_weights: Float[np.ndarray, " n"]) -> float:
    """How many equally weighted draws the weighted ones are worth; 0 where all weights are zero."""
    top = np.max(log_weights, initial=-np.inf)
    if not np.isfinite(top):
        return 0.0
    weights = np.exp(np.asarray(log_weights, np.float64) - top)
    return float(weights.sum() ** 2 / np.sum(weights**2))


def resample(log_weights: Float[np.ndarray, " m"], n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` row numbers in random order, each as often as its weight says, up to one (systematic resampling)."""
    weights = np.exp(np.asarray(log_weights, np.float64) - np.max(log_weights))
    marks = (np.arange(n) + rng.random()) / n
    ends = np.cumsum(weights)
    return rng.permutation(np.searchsorted(ends / ends[-1], marks, side="right"))
