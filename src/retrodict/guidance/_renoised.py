"""Back and forth: a step towards the data, the same step back by adding noise, and again.

What one step gets wrong the next attempts see. Adding noise is known in closed form, from s back to an earlier t:

    x_t = ratio x_s + sqrt(sigma_t^2 - ratio^2 sigma_s^2) noise,      ratio = alpha_t / alpha_s

Known elements are held by overwriting them with themselves plus the noise of the hour, alpha_t x1 + sigma_t noise, at
every time (RePaint, Lugmayr et al., 2022). A single pass lets the others drift past them; as `repeats` grows, the two
come to agree. It approximates: steps are finite in number, and there is no density and hence no correction. A model
that was trained to be asked conditionally should rather be asked so; this is for one that was not.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict.paths import Path
from retrodict.solvers import AbstractOneStep, AbstractSolver, Midpoint
from retrodict.solvers._base import State, Velocity, flow_of


class Renoised(AbstractSolver):
    """The steps of a one-step solver, each of which is taken `repeats + 1` times with fresh noise in between.

    Args:
        known: which elements are held, and `values` at what.
    """

    solver: AbstractOneStep = Midpoint(steps=32)
    repeats: int = eqx.field(static=True, default=4)
    known: Bool[Array, " d"] | None = None
    values: Float[Array, " d"] | None = None
    follows_velocity: ClassVar[bool] = False

    def __check_init__(self) -> None:
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 0:
            raise QueryError(f"`repeats` must be a whole number, 0 or more, got {self.repeats!r}")
        if (self.known is None) != (self.values is None):
            raise QueryError("`known` says which elements are held and `values` at what: give both or neither")

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        if key is None:
            raise QueryError("Renoised draws noise on its way and needs a key")
        flow = flow_of(velocity, self)
        path, times = flow.path, self.solver.times(flow, start, end)

        def attempt(
            i: Array, carry: tuple[Array, PRNGKeyArray], early: Array, late: Array
        ) -> tuple[Array, PRNGKeyArray]:
            x, key = carry
            key, key_back, key_known = jr.split(key, 3)
            x = jnp.where(i == 0, x, noised(path, x, late, early, key_back))
            x = self.solver.step(flow, self._held(path, x, early, key_known), early, late - early)
            return x, key

        def body(
            carry: tuple[Array, PRNGKeyArray], pair: tuple[Array, Array]
        ) -> tuple[tuple[Array, PRNGKeyArray], None]:
            found = jax.lax.fori_loop(0, self.repeats + 1, lambda i, c: attempt(i, c, *pair), carry)
            return found, None

        x, key = jax.lax.scan(body, (x, key), (times[:-1], times[1:]))[0]
        return self._held(path, x, times[-1], key)

    def _held(self, path: Path, x: Array, t: Array, key: PRNGKeyArray) -> Array:
        if self.known is None or self.values is None:
            return x
        return jnp.where(self.known, path.mix(self.values, path.noise(key, x.shape), t), x)

    @property
    def evaluations(self) -> int:
        return self.solver.evaluations * (self.repeats + 1)

    def refusal(self, path: Path) -> str | None:
        if path.gaussian:
            return None
        return f"Renoised adds Gaussian noise, and this path's is {type(path.source).__name__}; use another solver"


def noised(path: Path, x: Array, s: Array, t: Array, key: PRNGKeyArray) -> Array:
    """`x_t` of an earlier time t, drawn given `x_s`."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = path.schedule(s), path.schedule(t)
    ratio = alpha_t / alpha_s
    added = jnp.sqrt(jnp.maximum(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0))
    return ratio * x + added * path.noise(key, x.shape)
