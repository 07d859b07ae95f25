"""Stochastic solvers, by diffrax: they solve an SDE that has the same marginals as the flow.

    dx = [velocity + g(t)^2 / 2 score] dt + g(t) dW,      any g >= 0

The score pulls towards the data, so later steps correct the errors of earlier ones; the price is more steps. The noise
is additive (g depends on t alone): Ito and Stratonovich agree, and schemes for additive noise apply (Foster et al.,
arXiv 2210.17543, for SEA and ShARK).
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
        """Returns the diffrax solver."""

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        import diffrax  # imported here: slow to import, and few calls need it
        import lineax

        if key is None:
            raise QueryError(f"{type(self).__name__} draws noise on its way and needs a key")
        flow = flow_of(velocity, self)
        noise = self.diffusion or flow.path.diffusion
        times = self.times(flow, start, end)

        def drift(t: Array, x: Array, _: None) -> Array:
            return flow.path.drift(flow.guess(x, t), t, noise)

        def noise_scale(t: Array, x: Array, _: None) -> Any:
            # rounding may make sigma -1e-8 at the data
            g = jnp.sqrt(jnp.maximum(noise(t, flow.path.schedule) * flow.path.schedule(t)[1], 0.0))
            return lineax.DiagonalLinearOperator(jnp.broadcast_to(g, x.shape))

        scheme = self.scheme()
        area = getattr(scheme, "minimal_levy_area", diffrax.BrownianIncrement)
        area = diffrax.SpaceTimeLevyArea if issubclass(diffrax.SpaceTimeLevyArea, area) else area
        brownian = self.brownian(jax.ShapeDtypeStruct(x.shape, x.dtype), key, area, (start, end))
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(noise_scale, brownian))
        state = scheme.init(terms, times[0], times[1], x, None)

        def body(carry: tuple[Array, Any], row: tuple[Array, Array]) -> tuple[tuple[Array, Any], None]:
            x, state = carry
            x, _, _, state, _ = scheme.step(terms, *row, x, None, state, made_jump=False)
            return (x, state), None

        return jax.lax.scan(body, (x, state), (times[:-1], times[1:]))[0][0]

    def brownian(self, shape: Any, key: PRNGKeyArray, area: Any, span: tuple[float, float]) -> Any:
        """Returns the Brownian motion. Steps ask for every increment once and in order, as the cheap one requires."""
        import diffrax

        return diffrax.UnsafeBrownianPath(shape=shape, key=key, levy_area=area)

    @property
    def draws_noise(self) -> bool:
        return True

    @property
    def evaluations(self) -> int:
        return self.steps * self.stages

    def refusal(self, path: Path) -> str | None:
        name = type(self).__name__
        if not path.gaussian:
            return (
                f"{name} needs the score, which follows from the denoised noise only if noise is Gaussian, and this "
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
    """The Euler-Maruyama scheme: strong order 1 for additive noise, one evaluation a step."""

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
