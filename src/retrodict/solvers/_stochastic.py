"""Stochastic solvers: the SDE that has the same marginals as the flow, by diffrax.

    dx = [velocity + g(t)^2 / 2 score] dt + g(t) dW,      any g >= 0

What one step gets wrong the next ones correct, since the score pulls towards where the data are; the price is more
steps. The noise is additive (g depends on t alone), so that Ito and Stratonovich agree and schemes made for additive
noise apply (Foster et al., arXiv 2210.17543, for SEA and ShARK).
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict.paths import AbstractDiffusion, AbstractGrid, Path, Reverse
from retrodict.solvers._base import AbstractStepping, State, Velocity, flow_of


class AbstractStochastic(AbstractStepping):
    """A scheme of diffrax for additive noise on a fixed grid."""

    diffusion: eqx.AbstractVar[AbstractDiffusion | None]
    stages: eqx.AbstractClassVar[int]
    follows_velocity: ClassVar[bool] = False

    @abc.abstractmethod
    def scheme(self) -> Any:
        """The diffrax solver."""

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        import diffrax  # half a second to import, and only this room needs it
        import lineax

        if key is None:
            raise QueryError(f"{type(self).__name__} draws noise on its way and needs a key")
        flow = flow_of(velocity, self)
        noise = self.diffusion or flow.path.diffusion
        times = self.times(flow, start, end)

        def drift(t: Array, x: Array, _: None) -> Array:
            return flow.path.drift(flow.guess(x, t), t, noise)

        def spread(t: Array, x: Array, _: None) -> Any:
            # rounding may leave a sigma of -1e-8 at the data
            g = jnp.sqrt(jnp.maximum(noise(t, flow.path.schedule) * flow.path.schedule(t)[1], 0.0))
            return lineax.DiagonalLinearOperator(jnp.broadcast_to(g, x.shape))

        scheme = self.scheme()
        area = getattr(scheme, "minimal_levy_area", diffrax.BrownianIncrement)
        area = diffrax.SpaceTimeLevyArea if issubclass(diffrax.SpaceTimeLevyArea, area) else area
        brownian = self.brownian(jax.ShapeDtypeStruct(x.shape, x.dtype), key, area, (start, end))
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(spread, brownian))
        state = scheme.init(terms, times[0], times[1], x, None)

        def body(carry: tuple[Array, Any], pair: tuple[Array, Array]) -> tuple[tuple[Array, Any], None]:
            x, state = carry
            x, _, _, state, _ = scheme.step(terms, *pair, x, None, state, made_jump=False)
            return (x, state), None

        return jax.lax.scan(body, (x, state), (times[:-1], times[1:]))[0][0]

    def brownian(self, shape: Any, key: PRNGKeyArray, area: Any, span: tuple[float, float]) -> Any:
        """The Brownian motion: every increment is asked for once and in order, so that the cheap one is a true one."""
        import diffrax

        return diffrax.UnsafeBrownianPath(shape=shape, key=key, levy_area=area)

    @property
    def evaluations(self) -> int:
        return self.steps * self.stages

    def refusal(self, path: Path) -> str | None:
        name = type(self).__name__
        if not path.gaussian:
            return (
                f"{name} needs the score, which follows from the network's guess for Gaussian noise only, and this "
                f"path starts from {type(path.source).__name__}; use an ODE solver, such as AdamsBashforth()"
            )
        alpha, _ = path.schedule(jnp.asarray(path.span[0]))
        if isinstance(self.diffusion or path.diffusion, Reverse) and float(alpha) == 0.0:
            return (
                f"{name} with the noise of the reverse SDE is infinite at t = {path.span[0]:g}, where this path holds "
                f"no data; use {name}(diffusion=paths.NonSingular()) or paths.ZeroEnds()"
            )
        return None


class EulerMaruyama(AbstractStochastic):
    """Strong order 1 for additive noise, one evaluation a step."""

    steps: int = eqx.field(static=True, default=100)
    grid: AbstractGrid | None = None
    diffusion: AbstractDiffusion | None = None
    stages: ClassVar[int] = 1

    def scheme(self) -> Any:
        import diffrax

        return diffrax.Euler()


class StochasticHeun(AbstractStochastic):
    """Heun's scheme with the same noise in both stages, two evaluations a step."""

    steps: int = eqx.field(static=True, default=50)
    grid: AbstractGrid | None = None
    diffusion: AbstractDiffusion | None = None
    stages: ClassVar[int] = 2

    def scheme(self) -> Any:
        import diffrax

        return diffrax.Heun()


class SEA(AbstractStochastic):
    """The shifted Euler scheme for additive noise, one evaluation a step (Foster et al., eq. 5.8)."""

    steps: int = eqx.field(static=True, default=100)
    grid: AbstractGrid | None = None
    diffusion: AbstractDiffusion | None = None
    stages: ClassVar[int] = 1

    def scheme(self) -> Any:
        import diffrax

        return diffrax.SEA()


class ShARK(AbstractStochastic):
    """The shifted Runge-Kutta scheme of strong order 1.5, two evaluations a step (Foster et al., eq. 6.1)."""

    steps: int = eqx.field(static=True, default=50)
    grid: AbstractGrid | None = None
    diffusion: AbstractDiffusion | None = None
    stages: ClassVar[int] = 2

    def scheme(self) -> Any:
        import diffrax

        return diffrax.ShARK()
