"""Adaptive solvers, by diffrax: steps as short as a tolerance asks, chosen per row.

Under `vmap` every row has its own time and its own step, so the value of a row never depends on its neighbors. A row
that would need more than `max_steps` becomes NaN, so that no call hangs.
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
        """Returns the diffrax solver."""

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        import diffrax  # imported here: slow to import, and few calls need it
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
        is_successful = solution.result == diffrax.RESULTS.successful
        return jax.tree.map(lambda leaf: jnp.where(is_successful, leaf[-1], jnp.nan), solution.ys)

    @property
    def evaluations(self) -> None:
        return None


class Dopri5(AbstractAdaptive):
    """The pair of Dormand and Prince, of orders 5 and 4."""

    rtol: float = eqx.field(static=True, default=1e-5)
    atol: float = eqx.field(static=True, default=1e-5)
    max_steps: int = eqx.field(static=True, default=1024)

    def pair(self) -> Any:
        import diffrax

        return diffrax.Dopri5()


class Tsit5(AbstractAdaptive):
    """The pair of Tsitouras, of orders 5 and 4."""

    rtol: float = eqx.field(static=True, default=1e-5)
    atol: float = eqx.field(static=True, default=1e-5)
    max_steps: int = eqx.field(static=True, default=1024)

    def pair(self) -> Any:
        import diffrax

        return diffrax.Tsit5()
