"""Adaptive solvers, by diffrax: steps as short as a tolerance asks, chosen per row.

Under `vmap` every row keeps its own clock and its own step, so that a row's value never depends on its neighbors; a
row that would need more than `max_steps` gives NaN rather than a call that hangs.
"""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, PRNGKeyArray

from retrodict.solvers._base import AbstractSolver, State, Velocity


class AbstractAdaptive(AbstractSolver):
    """A Runge-Kutta pair of diffrax under its step-size controller."""

    rtol: eqx.AbstractVar[float]
    atol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def pair(self) -> Any:
        """The diffrax solver."""

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        import diffrax  # half a second to import, and only this room needs it
        import jax
        import jax.numpy as jnp

        def vector_field(t: Array, y: State, _: None) -> State:
            return velocity(y, t)

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),
            self.pair(),
            t0=start,
            t1=end,
            dt0=None,
            y0=x,
            stepsize_controller=diffrax.PIDController(rtol=self.rtol, atol=self.atol),
            adjoint=diffrax.DirectAdjoint(),
            max_steps=self.max_steps,
            throw=False,
        )
        done = solution.result == diffrax.RESULTS.successful
        return jax.tree.map(lambda leaf: jnp.where(done, leaf[-1], jnp.nan), solution.ys)

    @property
    def evaluations(self) -> None:
        return None


class Dopri5(AbstractAdaptive):
    """Dormand and Prince's pair of orders 5 and 4."""

    rtol: float = eqx.field(static=True, default=1e-5)
    atol: float = eqx.field(static=True, default=1e-5)
    max_steps: int = eqx.field(static=True, default=1024)

    def pair(self) -> Any:
        import diffrax

        return diffrax.Dopri5()


class Tsit5(AbstractAdaptive):
    """Tsitouras' pair of orders 5 and 4."""

    rtol: float = eqx.field(static=True, default=1e-5)
    atol: float = eqx.field(static=True, default=1e-5)
    max_steps: int = eqx.field(static=True, default=1024)

    def pair(self) -> Any:
        import diffrax

        return diffrax.Tsit5()
