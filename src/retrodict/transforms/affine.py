"""Frames: coordinates that follow what is given.

    u = tame(L^-1 (z - b - A g))            of what is asked, z; what is given, g, stays as it is

b + A g is the line of least squares, and L the lower triangular root of the covariance of what it leaves. Where z and g
are jointly normal u is standard normal whatever g, and a flow from noise to u has nothing to learn. What a line leaves
may be wide now and narrow then; its tails are tamed, so that both are of order one. Of a posterior that is a
hundred times narrower than the prior, the line may have found the place already; neither the network nor the steps of a
solver must tell it. Where a line leaves more than `NARROW` of the width, A is zero: then what bends is worth more
than what is straight.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, ArrayLike, Bool, Float

from retrodict.transforms.robust_scaling import RobustScaling


NARROW = 0.25  # SIR, where lines leave .40 and .75: C2ST .530 without, .543 with; the Gaussian mixture, .12: .516, .508


class ConditionalAffine(eqx.Module):
    """The map of the module's first lines, of rows of all elements: `asked` ones are latent, all others given."""

    asked: tuple[bool, ...] = eqx.field(static=True)
    line: Float[Array, "q k"]  # on one and what is given
    root: Float[Array, "k k"]
    tails: RobustScaling

    @classmethod
    def blank(cls, asked: Bool[np.ndarray, " d"]) -> "ConditionalAffine":
        """The one that changes nothing."""
        k = int(asked.sum())
        return cls(tuple(asked.tolist()), jnp.zeros((1 + len(asked) - k, k)), jnp.eye(k), RobustScaling.identity(k))

    def fit(self, rows: Float[np.ndarray, "n d"]) -> "ConditionalAffine":
        """The frame of scaled rows; slopes are shrunk as if by one row without any for each element that is given."""
        asked = self._asked
        given, z = np.asarray(rows[:, ~asked], np.float64), np.asarray(rows[:, asked], np.float64)
        middle, center = given.mean(axis=0), z.mean(axis=0)
        given, z, q = given - middle, z - center, given.shape[1]
        slopes = np.linalg.solve(given.T @ given + q * np.eye(q), given.T @ z) if q else np.zeros((0, z.shape[1]))
        slopes = np.where((z - given @ slopes).std(axis=0) < NARROW * z.std(axis=0), slopes, 0.0)
        left = z - given @ slopes
        root = np.linalg.cholesky(left.T @ left / len(left) + 1e-12 * np.eye(z.shape[1]))
        line = np.concatenate([(center - middle @ slopes)[None], slopes])
        tails = RobustScaling.fit(np.linalg.solve(root, left.T).T)
        return ConditionalAffine(self.asked, jnp.asarray(line, jnp.float32), jnp.asarray(root, jnp.float32), tails)

    def enter(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """Scaled rows in this frame."""
        z, asked = jnp.asarray(z), self._asked
        left = z[..., asked] - self._on_line(z)
        flat = left.reshape(-1, left.shape[-1]).T
        return z.at[..., asked].set(
            self.tails.tame(solve_triangular(self.root, flat, lower=True).T.reshape(left.shape))
        )

    def leave(self, u: ArrayLike) -> Float[Array, "*n d"]:
        """The inverse of `enter`."""
        u, asked = jnp.asarray(u), self._asked
        return u.at[..., asked].set(self._on_line(u) + self.tails.free(u[..., asked]) @ self.root.T)

    def log_slope(self, u: ArrayLike) -> Float[Array, "*n d"]:
        """Numbers that add up to log |dz/du| over what is asked, zero elsewhere."""
        u, asked = jnp.asarray(u), self._asked
        own = jnp.log(jnp.diag(self.root)) + self.tails.log_slope(u[..., asked])
        return jnp.zeros_like(u).at[..., asked].set(own)

    @property
    def _asked(self) -> Bool[np.ndarray, " d"]:
        return np.array(self.asked)

    def _on_line(self, rows: Array) -> Array:
        return self.line[0] + rows[..., ~self._asked] @ self.line[1:]
