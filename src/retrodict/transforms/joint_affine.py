"""Affine baselines of all questions: least squares of what is latent on what is given, from one joint covariance.

Let z be scaled tokens with mean m and covariance S S^T. A question puts them in the order given (G), latent (L), absent.
QR of the rows of S in this order makes them lower triangular: T, with T T^T = S S^T. Then

    z_G = m_G + T_GG w            w = T_GG^-1 (z_G - m_G)
    z_L = m_L + T_LG w + T_LL u   m_L + T_LG w is the least-squares prediction, T_LL the root of its residual covariance

and a flow from noise to u replaces one from noise to z_L. If z is normal, u is standard normal whatever is given: no
question leaves anything to learn. If a question narrows its answer a thousand times, neither the network nor the steps
of a solver have to find the place: only the shape of u is left to them. QR finds a residual sd of r times the width with
a relative error of eps / r in precision eps; the covariance itself would lose eps / r^2.

The baseline is a change of coordinates that mixes elements, so that it is taken only where it helps (`chosen`): where
the rows look jointly normal, or where all others determine an element narrowly. Such an element is *coupled*, together
with those it depends on; an element that is not keeps its z.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float

from retrodict._types import Tokens


MIN_RESIDUAL_VARIANCE = 1e-10  # single precision says no more about numbers of order one
NARROW_SHARE = 0.1  # of an element's sd that all other elements leave: below, it is coupled
PARTIAL_CORRELATION = 0.02  # of an element with a coupled one, from which it is coupled, too; besides 4 / sqrt(rows)
MIN_ROWS_PER_ELEMENT = 4  # to fit a covariance
MIN_NORMAL_ROWS = 500  # from which rows may be called normal
NORMAL_TOLERANCE = 0.4  # of the skewness and half the excess kurtosis of a normal element
DEPENDENCE_TOLERANCE = 0.25  # of correlations between products of residuals that are independent if z is normal
MAX_PRODUCTS_ELEMENTS = 32  # of which all products are looked at, and else squares alone
MAX_FEATURE_NUMBERS = 10_000_000


class Residual(eqx.Module):
    """The map between latent tokens z of one question and their standardized residual u: `z = center + root u`."""

    center: Tokens
    root: Float[Array, "d d"]

    def forward(self, z: Tokens) -> Tokens:
        """Maps scaled tokens to residuals."""
        return self.whiten(z - self.center)

    def whiten(self, difference: Tokens) -> Tokens:
        """Maps a difference of scaled tokens to one of residuals."""
        return solve_triangular(self.root, difference, lower=True)

    def inverse(self, u: Tokens) -> Tokens:
        """Maps residuals to scaled tokens."""
        return self.center + self.root @ u

    @property
    def log_slope(self) -> Tokens:
        """Numbers whose sum is `log |dz/du|`, zero for tokens that are not latent."""
        return jnp.log(jnp.diagonal(self.root))


class JointAffine(eqx.Module):
    """The mean and a root of the covariance of scaled tokens; `at` makes the baseline of any question of them.

    Attributes:
        order: for a model of one question, the order in which the rows of `root` are lower triangular.
    """

    mean: Tokens
    root: Float[Array, "d d"]
    order: tuple[int, ...] | None = eqx.field(static=True, default=None)

    @classmethod
    def identity(cls, latent: Bool[np.ndarray, " d"] | None, d: int) -> "JointAffine":
        """The baseline that changes nothing; `latent` are the elements asked by a model of one question."""
        order = None if latent is None else tuple(np.argsort(latent, kind="stable").tolist())
        return cls(jnp.zeros(d), jnp.eye(d), order)

    def fit(self, z: Float[np.ndarray, "n d"], coupled: Bool[np.ndarray, " d"] | None = None) -> "JointAffine":
        """Returns the baseline with mean and covariance of the coupled elements (of all, for None) of scaled rows."""
        d = z.shape[1]
        order = np.arange(d) if self.order is None else np.array(self.order)
        places = order if coupled is None else order[coupled[order]]
        rows = np.flatnonzero(np.isin(order, places))  # of the root
        mean, root = np.zeros(d), np.eye(d)
        mean[places], root[np.ix_(rows, rows)] = _moments(z[:, places])
        return JointAffine(jnp.asarray(mean, jnp.float32), jnp.asarray(root, jnp.float32), self.order)

    def at(self, z: Tokens, given: Bool[Array, " d"], latent: Bool[Array, " d"]) -> Residual:
        """Returns the map for a question, from the masks of its tokens and the given ones of `z`."""
        if self.order is None:
            order = jnp.argsort(jnp.where(given, 0, jnp.where(latent, 1, 2)), stable=True)
            t = jnp.linalg.qr(self.root[order].T, mode="r").T
            t = t * jnp.where(jnp.diagonal(t) < 0, -1.0, 1.0)  # positive slopes, on every machine
        else:
            order, t = jnp.array(self.order), self.root
        back, eye = jnp.argsort(order), jnp.eye(len(order), dtype=self.root.dtype)
        offset = jnp.where(given, z - self.mean, 0.0)[order]
        w = solve_triangular(jnp.where(given[order][:, None], t, eye), offset, lower=True)
        center = jnp.where(latent, self.mean + (t @ w)[back], jnp.where(given, z, 0.0))
        both = latent[order][:, None] & latent[order]
        return Residual(center, jnp.where(both, t, eye)[back][:, back])


def chosen(
    baseline: JointAffine,
    train: Float[np.ndarray, "n d"],
    held_out: Float[np.ndarray, "m d"],
    latent: Bool[np.ndarray, " d"],
) -> JointAffine | None:
    """Returns the fit of a baseline that rows prefer; None if it is that of no element.

    Args:
        baseline: the baseline before it is fitted.
        train: scaled rows to fit it to.
        held_out: scaled rows on which residuals are measured.
        latent: the elements that some question asks for.
    """
    n, d = train.shape
    if n < MIN_ROWS_PER_ELEMENT * d:
        return None
    mean, root = _moments(train)
    if _normal(train, latent):
        return baseline.fit(train)
    precision = np.linalg.inv(root @ root.T)
    rows = held_out if len(held_out) else train
    residual = (rows - mean) @ precision / np.diag(precision)
    share = np.sqrt(np.mean(residual**2, axis=0) / np.maximum(rows.var(axis=0), MIN_RESIDUAL_VARIANCE))
    narrow = latent & (share < NARROW_SHARE)
    if not narrow.any():
        return None
    partial = np.abs(precision) / np.sqrt(np.outer(np.diag(precision), np.diag(precision)))
    tied = (partial > max(PARTIAL_CORRELATION, 4.0 / np.sqrt(n)))[narrow].any(axis=0)
    return baseline.fit(train, narrow | tied)


def _moments(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of rows and the lower triangular root of their covariance, without squaring anything."""
    z = np.asarray(z, np.float64)
    mean, d = z.mean(axis=0), z.shape[1]
    rows = np.concatenate([(z - mean) / np.sqrt(len(z)), np.sqrt(MIN_RESIDUAL_VARIANCE) * np.eye(d)])
    root = np.linalg.qr(rows, mode="r").T
    return mean, root * np.where(np.diag(root) < 0, -1.0, 1.0)


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
