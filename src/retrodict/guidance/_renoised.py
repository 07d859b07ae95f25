"""Back and forth: a step towards the data, the same step back by adding noise, and again.

Repeated attempts correct the errors of a step. Adding noise is known in closed form, from s back to an earlier t:

    x_t = ratio x_s + sqrt(sigma_t^2 - ratio^2 sigma_s^2) noise,      ratio = alpha_t / alpha_s

Known elements x1 are fixed by overwriting them with alpha_t x1 + sigma_t noise at every time (RePaint, Lugmayr et al.,
2022). In a single pass the free elements do not adapt to them; as `repeats` grows, the two come to agree. The method is
approximate, because the number of steps is finite, and its draws have no density and so no log weights. It is for
models that were trained without conditioning. Other models answer a conditional query better directly.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict._types import is_count
from retrodict.paths import Path
from retrodict.solvers import AbstractOneStep, AbstractSolver, Midpoint
from retrodict.solvers._base import State, Velocity, flow_of


class Renoised(AbstractSolver):
    """A one-step solver each of whose steps is taken `repeats + 1` times, with fresh noise in between.

    Attributes:
        known: mask `(d,)` of the elements that are fixed.
        values: the values `(d,)` of the fixed elements.
    """

    solver: AbstractOneStep = Midpoint(steps=32)
    repeats: int = eqx.field(static=True, default=4)
    known: Bool[Array, " d"] | None = None
    values: Float[Array, " d"] | None = None
    follows_velocity: ClassVar[bool] = False

    def __check_init__(self) -> None:
        if not is_count(self.repeats, 0, kinds=int):
            raise QueryError(f"`repeats` must be a whole number, 0 or more, got {self.repeats!r}")
        if (self.known is None) != (self.values is None):
            raise QueryError(
                "`known` masks the elements that are fixed and `values` has their values: give both or neither"
            )

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
            x = self.solver.step(flow, self._with_known(path, x, early, key_known), early, late - early)
            return x, key

        def body(
            carry: tuple[Array, PRNGKeyArray], row: tuple[Array, Array]
        ) -> tuple[tuple[Array, PRNGKeyArray], None]:
            return jax.lax.fori_loop(0, self.repeats + 1, lambda i, carry: attempt(i, carry, *row), carry), None

        x, key = jax.lax.scan(body, (x, key), (times[:-1], times[1:]))[0]
        return self._with_known(path, x, times[-1], key)

    def _with_known(self, path: Path, x: Array, t: Array, key: PRNGKeyArray) -> Array:
        """Returns `x` with the known elements overwritten by their values plus the noise of time `t`."""
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
    """Draws `x_t` at an earlier time t, given `x = x_s`."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = path.schedule(s), path.schedule(t)
    ratio = alpha_t / alpha_s
    added_sd = jnp.sqrt(jnp.maximum(sigma_t**2 - (ratio * sigma_s) ** 2, 0.0))
    return ratio * x + added_sd * path.noise(key, x.shape)
