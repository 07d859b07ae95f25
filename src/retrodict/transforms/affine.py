"""Affine baselines: linear regression first, so that a network only learns the residual.

    targets = [1, inputs] . coefficients + residual

Least squares finds a linear dependence exactly; a network would learn it to a few hundredths of a standard deviation.
Every model that starts from such a baseline uses `least_squares`, `residual_root` and `predict`, below.

`ConditionalAffine` makes the baseline a change of coordinates, for a model of one question:

    u = robust(L^-1 (z - b - A g))        z: the latent elements;  g: the given elements, which stay as they are

b + A g is the least-squares prediction of z, and L is the lower triangular root of the covariance of its residual. If z
and g are jointly normal, u is standard normal whatever g is, and a flow from noise to u has nothing to learn. The
residual may be wide for some g and narrow for others; `RobustScaling` folds its heavy tails, so that both are of order
one. A posterior may be a hundred times narrower than the prior: the baseline finds its place, and neither the network
nor the steps of a solver have to. A is zero for elements that keep more than `MAX_RESIDUAL_SHARE` of their width: for
these a nonlinear dependence matters more than a linear one.
"""

from functools import partial

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, ArrayLike, Bool, Float, Float64

from retrodict.transforms.robust_scaling import RobustScaling


MAX_RESIDUAL_SHARE = 0.25  # of an element's standard deviation; a line that leaves more made posteriors worse
MIN_RESIDUAL_VARIANCE = 1e-12  # keeps the root finite where latent elements are collinear


def least_squares(
    inputs: ArrayLike, targets: ArrayLike, ridge: ArrayLike | None = None
) -> tuple[Float64[np.ndarray, "q k"], Float64[np.ndarray, "n k"]]:
    """Fits `targets` by `[1, inputs] . coefficients`, q = 1 + p rows of them; returns coefficients and residual.

    `ridge`, a number or one for each of the q rows of coefficients, is added to the diagonal of the Gram matrix.
    Without it the coefficients of smallest norm are returned if inputs are collinear.
    """
    inputs, targets = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
    design = np.concatenate([np.ones((len(inputs), 1)), inputs], axis=1)
    if ridge is None:
        coefficients = np.linalg.lstsq(design, targets, rcond=None)[0]
    else:
        penalty = np.diag(np.broadcast_to(ridge, design.shape[1]))
        coefficients = np.linalg.solve(design.T @ design + penalty, design.T @ targets)
    return coefficients, targets - design @ coefficients


def residual_root(
    residual: Float64[np.ndarray, "n k"], min_variance: float, *, independent: bool = False
) -> Float64[np.ndarray, "k k"]:
    """Returns the lower triangular root of a residual's covariance, of its diagonal alone if `independent`.

    `min_variance` is added to every variance.
    """
    covariance = residual.T @ residual / len(residual) + min_variance * np.eye(residual.shape[1])
    return np.linalg.cholesky(np.diag(np.diag(covariance)) if independent else covariance)


def predict(coefficients: Float[Array, "q k"], inputs: Float[Array, "*n p"]) -> Float[Array, "*n k"]:
    """Returns `[1, inputs] . coefficients`."""
    return jnp.concatenate([jnp.ones((*inputs.shape[:-1], 1)), inputs], axis=-1) @ coefficients


class ConditionalAffine(eqx.Module):
    """Coordinates for rows of all elements in which the latent ones follow the given ones."""

    latent: tuple[bool, ...] = eqx.field(static=True)
    coefficients: Float[Array, "q k"]
    root: Float[Array, "k k"]
    robust: RobustScaling

    @classmethod
    def identity(cls, latent: Bool[np.ndarray, " d"]) -> "ConditionalAffine":
        """The map that changes nothing; `latent` marks the elements that `fit` will transform."""
        k = int(latent.sum())
        coefficients = jnp.zeros((1 + len(latent) - k, k))
        return cls(tuple(latent.tolist()), coefficients, jnp.eye(k), RobustScaling.identity(k))

    def fit(self, rows: Float[np.ndarray, "n d"]) -> "ConditionalAffine":
        """Fits the map to scaled rows; the ridge on slopes weighs as much as one row for each given element."""
        inputs, z = rows[:, ~self._latent], np.asarray(rows[:, self._latent], np.float64)
        mean, sd, q = z.mean(axis=0), z.std(axis=0), inputs.shape[1]
        fitted, residual = least_squares(inputs, z, ridge=np.append(0.0, np.full(q, q)))
        constant = np.concatenate([mean[None], np.zeros((q, len(mean)))])
        useful = residual.std(axis=0) < MAX_RESIDUAL_SHARE * sd
        coefficients, residual = np.where(useful, fitted, constant), np.where(useful, residual, z - mean)
        root = residual_root(residual, MIN_RESIDUAL_VARIANCE)
        robust = RobustScaling.fit(np.linalg.solve(root, residual.T).T)
        single = partial(jnp.asarray, dtype=jnp.float32)
        return ConditionalAffine(self.latent, single(coefficients), single(root), robust)

    def forward(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """Maps scaled rows to these coordinates."""
        z, latent = jnp.asarray(z), self._latent
        residual = z[..., latent] - self._prediction(z)
        columns = residual.reshape(-1, residual.shape[-1]).T
        whitened = solve_triangular(self.root, columns, lower=True).T.reshape(residual.shape)
        return z.at[..., latent].set(self.robust.forward(whitened))

    def inverse(self, u: ArrayLike) -> Float[Array, "*n d"]:
        """Maps rows in these coordinates back to scaled ones."""
        u, latent = jnp.asarray(u), self._latent
        return u.at[..., latent].set(self._prediction(u) + self.robust.inverse(u[..., latent]) @ self.root.T)

    def log_slope(self, u: ArrayLike) -> Float[Array, "*n d"]:
        """Returns numbers whose sum is `log |dz/du|`: one for each latent element, zero for the others."""
        u, latent = jnp.asarray(u), self._latent
        slope = jnp.log(jnp.diag(self.root)) + self.robust.log_slope(u[..., latent])
        return jnp.zeros_like(u).at[..., latent].set(slope)

    @property
    def shares(self) -> Float[Array, " d"]:
        """The share of its width that each latent element keeps for a given answer, at most one; one for the others."""
        return jnp.ones(len(self.latent)).at[self._latent].set(jnp.minimum(jnp.diag(self.root), 1.0))

    @property
    def _latent(self) -> Bool[np.ndarray, " d"]:
        return np.array(self.latent)

    def _prediction(self, rows: Array) -> Array:
        # not `predict`, whose sums round differently: draws of saved models stay as they are
        return self.coefficients[0] + rows[..., ~self._latent] @ self.coefficients[1:]
