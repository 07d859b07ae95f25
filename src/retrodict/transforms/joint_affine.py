"""Affine baselines of all questions: least squares of what is latent on what is given, from one joint covariance.

Let y be scaled tokens with mean m and covariance S S^T. A question puts them in the order given (G), latent (L),
absent. QR of the rows of S in this order gives their lower triangular root T, with T T^T = S S^T. Then

    y = m + T w,   w = T^-1 (y - m),   p = y - diag(T) w

where p_j is the least-squares prediction of y_j from all elements before it, and T_jj the sd of its residual. If y is
normal, w is standard normal, whatever is given: a flow from noise to w_L has nothing to learn. If a question narrows
its answer a thousand times, neither the network nor the steps of a solver have to find the place. QR finds a residual
of r times the width with a relative error of eps / r in precision eps; with the covariance itself it would be
eps / r^2.

Scaled tokens z of intervals are bent near the ends (`supports`), and a line through y is none through z. So y is z
without its bend, z = bend(y), and the flow leads to

    u_j = fold((z_j - bend(p_j)) / (bend'(p_j) T_jj))

which is w_j off the ends. Draws never leave an interval, as those of z do not. What lies beyond `FOLD` sds is folded by
its log: where the line does not hold, u stays of order one.

The baseline mixes elements, and is taken only where it helps (`chosen`): where rows look jointly normal, or where all
other elements determine one narrowly. Such an element is *coupled*, together with those it depends on; the others keep
their y.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float

from retrodict._runtime.blocks import in_blocks
from retrodict._types import Tokens
from retrodict.transforms import supports


MIN_RESIDUAL_VARIANCE = 1e-10  # single precision says no more about numbers of order one
MIN_RESIDUAL_SD = MIN_RESIDUAL_VARIANCE**0.5
FOLD, MAX_FOLDED = 4.0, 20.0  # normal residuals stay as they are
NARROW_SHARE = 0.05  # of an element's sd that all other elements leave: below, it is coupled
PARTIAL_CORRELATION = 0.02  # of an element with a coupled one, from which it is coupled, too; besides 4 / sqrt(rows)
T_DEGREES, BULK_STEPS, BULK_ROWS = 2.0, 20, 2000
NORMAL_MAD = 0.6745  # the median distance from the middle of a standard normal
MIN_ROWS_PER_ELEMENT = 4  # to fit a covariance
MIN_NORMAL_ROWS = 500  # from which rows may be called normal
NORMAL_TOLERANCE = 0.4  # of the skewness and half the excess kurtosis of a normal element
DEPENDENCE_TOLERANCE = 0.25  # of correlations between products of residuals that are independent if z is normal
MAX_PRODUCTS_ELEMENTS = 32  # of which all products are looked at, and else squares alone
ROWS_PER_BLOCK = 8192
MAX_FEATURE_NUMBERS = 10_000_000


class Ends(eqx.Module):
    """The ends of intervals in scaled tokens, between which z is straight in the user's units; infinite for others."""

    low: Tokens
    high: Tokens

    def unbend(self, z: Array) -> Array:
        """Returns y, which stays between the ends."""
        return self._mapped(supports.constrain, z)

    def bend(self, y: Array) -> Array:
        """Returns z."""
        return self._mapped(supports.unconstrain, y)

    def tangent(self, p: Array, sd: Array) -> tuple[Array, Array]:
        """Returns z and dz/dy at a prediction, or one sd from the end beside it."""
        margin = jnp.minimum(sd, 0.25 * (self.high - self.low))
        p = jnp.clip(p, self.low + margin, self.high - margin)
        return jax.jvp(self.bend, (p,), (jnp.ones_like(p),))

    def at(self, index: Any) -> "Ends":
        """Returns those of some elements."""
        return Ends(self.low[index], self.high[index])

    def _mapped(self, transform: Callable[..., Any], x: Array) -> Array:
        straight = jnp.isfinite(self.low)
        low, width = jnp.where(straight, self.low, 0.0), jnp.where(straight, self.high - self.low, 1.0)
        unit = jnp.where(straight, (x - low) / width, 0.5)
        zero = np.zeros(jnp.shape(x)[-1:], np.float32)
        return jnp.where(straight, low + width * transform(unit, zero, zero + 1.0), x)


@eqx.filter_jit
def _unbent(ends: Ends, z: Array) -> Array:
    return ends.unbend(z)


class Residual(eqx.Module):
    """The map between latent tokens z of one question and their standardized residual u, in the question's order."""

    latent: Bool[Array, " k"]
    center: Float[Array, " k"]  # predictions by what is given alone
    root: Float[Array, "k k"]
    ends: Ends

    def forward(self, z: Float[Array, " k"]) -> Float[Array, " k"]:
        """Maps latent tokens to residuals."""
        y = jnp.where(self.latent, self.ends.unbend(z), self.center)
        w = solve_triangular(self.root, y - self.center, lower=True)
        sd = jnp.diagonal(self.root)
        middle, slope = self.ends.tangent(y - sd * w, sd)
        v = (z - middle) / (slope * sd)
        return jnp.clip(v, -FOLD, FOLD) + jnp.sign(v) * jnp.log1p(_beyond(v))

    def inverse(self, u: Float[Array, " k"]) -> Float[Array, " k"]:
        """Maps residuals to latent tokens."""
        return self._from(u)[0]

    def log_slope(self, u: Float[Array, " k"]) -> Float[Array, " k"]:
        """Returns numbers whose sum is `log |dz/du|`, zero for tokens that are not latent."""
        return jnp.where(self.latent, jnp.log(self._from(u)[1]) + _beyond(u), 0.0)

    def _from(self, u: Float[Array, " k"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Returns z and dz/dv, one element after the other, v being u without its fold."""
        far = jnp.sign(u) * jnp.expm1(jnp.minimum(_beyond(u), MAX_FOLDED))
        v, places = jnp.clip(u, -FOLD, FOLD) + far, jnp.arange(len(u))

        def step(w: Array, row: tuple[Any, ...]) -> tuple[Array, tuple[Array, Array]]:
            place, v, center, weights, latent, ends = row
            sd, p = weights[place], center + weights @ w
            middle, slope = ends.tangent(p[None], sd[None])
            z = middle + slope * sd * v
            w = jnp.where((places == place) & latent, (ends.unbend(z)[0] - p) / sd, w)
            return w, (z[0], (slope * sd)[0])

        rows = (places, v, self.center, self.root, self.latent, Ends(self.ends.low[:, None], self.ends.high[:, None]))
        return jax.lax.scan(step, jnp.zeros_like(u), rows)[1]


def _beyond(v: Array) -> Array:
    return jnp.maximum(jnp.abs(v) - FOLD, 0.0)


class JointAffine(eqx.Module):
    """The mean and a root of the covariance of scaled tokens; `at` makes the baseline of any question of them.

    Attributes:
        order: for a model of one question, first the given and then the latent elements; `root` has the rows of the
            latter alone, coefficients of what is given beside the root of the residual.
    """

    mean: Tokens
    root: Float[Array, "k d"]
    ends: Ends
    order: tuple[int, ...] | None = eqx.field(static=True, default=None)

    @classmethod
    def identity(cls, latent: Bool[np.ndarray, " d"] | None, d: int) -> "JointAffine":
        """The baseline that changes nothing; `latent` are the elements asked by a model of one question."""
        order = None if latent is None else tuple(np.argsort(latent, kind="stable").tolist())
        root, infinite = jnp.eye(d), jnp.full(d, jnp.inf)
        return cls(jnp.zeros(d), root if latent is None else root[d - latent.sum() :], Ends(-infinite, infinite), order)

    def between(self, low: np.ndarray, high: np.ndarray) -> "JointAffine":
        """Returns the baseline of tokens that are bent at these ends."""
        return dataclasses.replace(self, ends=Ends(jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)))

    def fit(
        self, z: Float[np.ndarray, "n d"], coupled: Bool[np.ndarray, " d"] | None = None, *, robust: bool = True
    ) -> "JointAffine":
        """Returns the baseline with mean and covariance of the coupled elements (of all, for None) of scaled rows.

        `robust` ones are those of the bulk of the rows.
        """
        y, d = self.straight(z), z.shape[1]
        order = np.arange(d) if self.order is None else np.array(self.order)
        places = order if coupled is None else order[coupled[order]]
        rows = np.flatnonzero(np.isin(order, places))  # of the root
        mean, root = np.zeros(d), np.eye(d)
        mean[places], root[np.ix_(rows, rows)] = (_bulk if robust else _moments)(y[:, places])
        if self.order is not None:
            given = d - len(self.root)
            coefficients = np.linalg.solve(root[:given, :given].T, root[given:, :given].T).T
            root = np.concatenate([coefficients, root[given:, given:]], axis=1)
        return dataclasses.replace(self, mean=jnp.asarray(mean, jnp.float32), root=jnp.asarray(root, jnp.float32))

    @property
    def shares(self) -> Float[np.ndarray, " d"]:
        """The shares of their sds that elements keep where all others are given."""
        root = np.asarray(self.root, np.float64)
        k = len(root)
        residual = root[:, -k:]
        shares, order = np.ones(len(self.mean)), np.arange(k) if self.order is None else np.array(self.order[-k:])
        covariance = residual @ residual.T + MIN_RESIDUAL_VARIANCE * np.eye(k)
        shares[order] = 1.0 / np.sqrt(np.diag(np.linalg.inv(covariance)))
        return np.minimum(shares, 1.0)

    def straight(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Returns scaled rows without their bends."""
        rows = np.asarray(z, np.float32)
        return np.asarray(
            in_blocks(lambda index, _: _unbent(self.ends, rows[index]), len(z), ROWS_PER_BLOCK), np.float64
        )

    def at(self, z: Tokens, given: Bool[Array, " d"], latent: Bool[Array, " d"]) -> tuple[Any, Residual]:
        """Returns the map for a question, and the numbers of the tokens that it maps.

        From the masks of the question's tokens and the given ones of `z`.
        """
        offset = jnp.where(given, self.ends.unbend(z) - self.mean, 0.0)
        if self.order is not None:
            k = len(self.root)
            inputs, index = np.array(self.order[:-k], int), np.array(self.order[-k:])
            center = self.mean[index] + self.root[:, :-k] @ offset[inputs]
            return index, Residual(latent[index], center, self.root[:, -k:], self.ends.at(index))
        order = jnp.argsort(jnp.where(given, 0, jnp.where(latent, 1, 2)), stable=True)
        given, latent, eye = given[order], latent[order], jnp.eye(len(order), dtype=self.root.dtype)
        t = jnp.linalg.qr(self.root[order].T, mode="r").T
        t = t * jnp.where(jnp.diagonal(t) < 0, -1.0, 1.0)  # positive slopes, on every machine
        t = t + jnp.diag(jnp.maximum(MIN_RESIDUAL_SD - jnp.diagonal(t), 0.0))  # of equal elements rounding is left
        w = solve_triangular(jnp.where(given[:, None], t, eye), offset[order], lower=True)
        center = self.mean[order] + jnp.where(latent, t @ w, 0.0)
        root = jnp.where(latent[:, None] & latent, t, eye)
        return order, Residual(latent, center, root, self.ends.at(order))


def chosen(
    baseline: JointAffine,
    train: Float[np.ndarray, "n d"],
    held_out: Float[np.ndarray, "m d"],
    latent: Bool[np.ndarray, " d"],
) -> tuple[JointAffine | None, bool]:
    """Returns the fit of a baseline that rows prefer, None if it is that of no element; and whether they look normal.

    Args:
        baseline: the baseline before it is fitted.
        train: scaled rows to fit it to.
        held_out: scaled rows on which residuals are measured.
        latent: the elements that some question asks for.
    """
    n, d = train.shape
    if n < MIN_ROWS_PER_ELEMENT * d:
        return None, False
    y, rows = baseline.straight(train), baseline.straight(held_out if len(held_out) else train)
    if _normal(y, latent):
        return baseline.fit(train, robust=False), True
    mean, root = _bulk(y[:: max(1, n // max(BULK_ROWS, 20 * d))])
    precision = np.linalg.inv(root @ root.T)
    residual = (rows - mean) @ precision / np.diag(precision)
    width, residual_width = (np.quantile(np.abs(v), 0.9, axis=0) for v in (rows - np.median(rows, axis=0), residual))
    narrow = latent & (residual_width < NARROW_SHARE * width)  # never where most rows are alike
    if not narrow.any():
        return None, False
    partial = np.abs(precision) / np.sqrt(np.outer(np.diag(precision), np.diag(precision)))
    tied = (partial > max(PARTIAL_CORRELATION, 4.0 / np.sqrt(n)))[narrow].any(axis=0)
    return baseline.fit(train, narrow | tied), False


def _moments(z: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of rows and the lower triangular root of their covariance, without squaring anything."""
    z = np.asarray(z, np.float64)
    weights = np.ones(len(z)) if weights is None else weights
    mean = np.average(z, axis=0, weights=weights)
    rows = (z - mean) * np.sqrt(weights / len(z))[:, None]
    return mean, _lower(np.concatenate([rows.T, np.sqrt(MIN_RESIDUAL_VARIANCE) * np.eye(z.shape[1])], axis=1))


def _bulk(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and root of the bulk of rows: by weights of a t law, then by the width along each principal axis.

    Near the end of a support, rows leave a line that is straight elsewhere; they must not widen it.
    """
    z = np.asarray(z, np.float64)
    mean, root = _moments(z)
    for _ in range(BULK_STEPS):
        distance = np.sum(np.linalg.solve(root, (z - mean).T) ** 2, axis=0)
        mean, root = _moments(z, (T_DEGREES + z.shape[1]) / (T_DEGREES + distance))
    axes, widths, _ = np.linalg.svd(root)
    along = (z - mean) @ axes / widths
    middle = np.median(np.abs(along - np.median(along, axis=0)), axis=0) / NORMAL_MAD
    return mean, _lower(axes * widths * np.maximum(np.minimum(middle, along.std(axis=0)), np.finfo(np.float32).eps))


def _lower(root: np.ndarray) -> np.ndarray:
    """Returns the lower triangular root, with a positive diagonal, of the covariance that has a root `(d, k)`."""
    lower = np.asarray(np.linalg.qr(root.T, mode="r")).T
    return lower * np.where(np.diag(lower) < 0, -1.0, 1.0)


def _normal(z: np.ndarray, latent: np.ndarray) -> bool:
    """Returns whether latent elements look normal with a linear mean and a constant covariance given the others.

    Third and fourth moments of residuals, which the fit of the first two does not see.
    """
    order = np.argsort(latent, kind="stable")  # what is never latent comes first
    is_latent, d = latent[order], z.shape[1]
    products = np.triu_indices(d) if d <= MAX_PRODUCTS_ELEMENTS else (np.arange(d), np.arange(d))
    rows = z[: max(MIN_NORMAL_ROWS, MAX_FEATURE_NUMBERS // len(products[0]))][:, order]
    if len(rows) < MIN_NORMAL_ROWS:
        return False
    mean, root = _moments(rows)
    w = np.linalg.solve(root, (rows - mean).T).T
    # mixtures of many elements look normal: if all are latent, so must be every element by itself
    for v in (w[:, is_latent], standardized(rows) if is_latent.all() else w[:, :0]):
        skewness, kurtosis = np.mean(v**3, axis=0), np.mean(v**4, axis=0) - 3.0
        if max(np.abs(skewness).max(initial=0.0), np.abs(kurtosis).max(initial=0.0) / 2.0) > NORMAL_TOLERANCE:
            return False
    first, second = products
    features = np.concatenate([w, w[:, first] * w[:, second]], axis=1)
    features = standardized(features)
    asked = np.concatenate([is_latent, is_latent[first] & is_latent[second]])
    correlation = features[:, asked].T @ features / len(rows)
    correlation[np.arange(asked.sum()), np.flatnonzero(asked)] = 0.0
    return bool(np.abs(correlation).max() < DEPENDENCE_TOLERANCE)


def standardized(v: np.ndarray) -> np.ndarray:
    """Returns columns with mean zero and sd one; a constant column becomes zero."""
    sd = v.std(axis=0)
    return (v - v.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
