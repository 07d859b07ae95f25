"""Robust scaling: maps each element to order one, whatever its width and however heavy its tails.

    v = arcsinh((u - c) / w)  if it is folded;  v = (u - c) / w  otherwise
    y = (v - m) / s                                  zero mean and unit variance over the training rows
    z = sign(y) (K + a log(1 + (|y| - K) / a))       where |y| > K = 8, and y elsewhere

c is the median and w the interquartile range over 1.349. An element is folded if its tails are heavy: the central
99.8 % of the rows are more than twice as wide as for a Gaussian with the same interquartile range. Other centers and
widths are taken if the log density of the rows, were z standard normal, gains `MIN_GAIN` and no part of them loses
much: arcsinh is a line for |u - c| below w and a logarithm above, of either sign, so that c = 0 and a small w take
numbers over many decades by their log.

Rows far out, such as the last values of a solver that blew up, do not decide: m and s leave out what lies further from
the others than 100 times their range, if it is no more than 1 % of the rows, and a is so small that no training row
lies beyond 12. Values that many rows share (zeros, small counts) say nothing about densities: see `_scoring_rows`.

NumPy arrays are mapped in double precision by NumPy, JAX arrays in their precision by JAX.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Float64

from retrodict.transforms.supports import Elements, Numbers, numbers


GAUSSIAN_IQR = 1.349  # in standard deviations
GAUSSIAN_RANGE = 6.18  # the central 99.8 % of a Gaussian, in standard deviations
HEAVY_RANGE_RATIO = 2.0
MIN_GAIN = 0.5  # of the mean log density; folds that gain less bend what a network would see straight
MIN_GAIN_OF_PRIOR = 0.03  # of a parameter on a half-line: its log is skewed, and densities depend on the tail
PARTS, MAX_LOSS = 3, 1.0  # a third of the rows may not lose as much: one of several clusters, far apart
MAX_STANDARDIZED = 12.0  # a count that is 1 once in 10,000 rows would lie at 100
FAR = 8.0  # K
NOT_FAR = 1e30  # `a` of an element without rows far out: z is y
FAR_RANGES, FAR_SHARE = 100.0, 0.005  # rows beyond so many ranges of the others, at most this share at either side
MIN_ROWS = 20  # fewer say nothing about which of them lie far out
SCORING_ROWS = 2000
CONTINUOUS_SHARE = 0.05  # of values that occur once, in an element that is not discrete
WIDTHS = (0.1, 0.3, 1.0)  # of the robust standard deviation, around the median
QUANTILES = (0.001, 0.01, 0.1, 0.5)  # of distances from zero or from an end of the rows
_TINY = 1e-30  # keeps widths within single precision

Rows = Float64[np.ndarray, "n k"]
Each = Any  # `(k,)`: of NumPy, in double precision; of JAX within its transformations


class RobustScaling(eqx.Module):
    """The map of the module's first lines, for `k` elements; without `far` (files of earlier versions) z is y."""

    center: Each
    width: Each
    heavy: Bool[np.ndarray, " k"]
    mean: Each
    std: Each
    far: Each | None = None

    @classmethod
    def identity(cls, k: int) -> "RobustScaling":
        """The map that changes nothing."""
        zero, unit = np.zeros(k), np.ones(k)
        return cls(zero, unit, np.zeros(k, bool), zero, unit, np.full(k, NOT_FAR))

    def extended(self, k: int) -> "RobustScaling":
        """Returns the map with `k` more elements, which it does not change."""
        more = RobustScaling.identity(k)
        more = more if self.far is not None else replace(more, far=None)
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), self, more)

    @classmethod
    def fit(cls, rows: np.ndarray, min_gain: ArrayLike = MIN_GAIN) -> "RobustScaling":
        """Fits the map to rows `(n, k)`; the width of a constant element is its absolute value, or one at zero."""
        u = np.asarray(rows, np.float64)
        some = u[:: max(1, len(u) // SCORING_ROWS)]
        scoring, weights, continuous = _scoring_rows(some)
        candidates = _candidates(u, some)
        chosen: tuple[Any, ...] = next(candidates)
        plain = cls._standardized(some, *chosen)._scores(scoring, weights)
        best_score = plain.sum(axis=0) + min_gain
        for candidate in candidates:
            scores = cls._standardized(some, *candidate)._scores(scoring, weights)
            better = continuous & (scores.sum(axis=0) > best_score) & (scores > plain - MAX_LOSS / PARTS).all(axis=0)
            best_score = np.where(better, scores.sum(axis=0), best_score)
            chosen = tuple(np.where(better, new, old) for new, old in zip(candidate, chosen, strict=True))
        return cls._standardized(u, *chosen)

    @classmethod
    def _standardized(cls, u: Rows, center: Each, width: Each, heavy: Each) -> "RobustScaling":
        v = (u - center) / width
        v = np.arcsinh(v, out=v, where=heavy)
        mean, std = _moments(v)
        farthest = np.maximum(v.max(axis=0) - mean, mean - v.min(axis=0)) / std
        return cls(center, width, heavy, mean, std, _log_width(farthest))

    def _scores(self, rows: Rows, weights: Rows) -> Float64[np.ndarray, "parts k"]:
        """Returns the mean log density of rows but for a constant, if z is standard normal: what each part adds to it.

        The parts are those of the ordered rows: low, middle, high.
        """
        z = self.forward(rows)
        terms = -0.5 * z**2 / len(z) - weights * self.log_slope(z)
        return np.stack([part.sum(axis=0) for part in np.array_split(terms, PARTS)])

    def forward(self, u: Numbers) -> Elements:
        """Maps `(*n, k)` to order one."""
        self, xp, u = self._beside(u)
        v = (u - self.center) / self.width
        y = (xp.where(self.heavy, xp.arcsinh(v), v) - self.mean) / self.std
        if self.far is None:
            return y
        beyond = xp.maximum(abs(y) - FAR, 0.0)
        return xp.sign(y) * (xp.minimum(abs(y), FAR) + self.far * xp.log1p(beyond / self.far))

    def inverse(self, z: Numbers) -> Elements:
        """Inverts `forward`."""
        self, xp, z = self._beside(z)
        v = self._folded(xp, z)
        folded = xp.where(self.heavy, xp.clip(v, -_largest(z), _largest(z)), 0.0)
        return xp.where(self.heavy, xp.sinh(folded), v) * self.width + self.center

    def log_slope(self, z: Numbers) -> Elements:
        """Returns `log |du/dz|` of each element."""
        self, xp, z = self._beside(z)
        v = xp.where(self.heavy, self._folded(xp, z), 0.0)
        slope = xp.logaddexp(v, -v) - np.log(2.0) + xp.log(self.width) + xp.log(self.std)
        return slope if self.far is None else slope + xp.maximum(abs(z) - FAR, 0.0) / self.far

    def _beside(self, x: Numbers) -> tuple["RobustScaling", Any, Any]:
        """Returns the same map in the precision of `x`, NumPy or `jax.numpy`, and `x`; JAX if one of them is of JAX."""
        xp, x = numbers(jnp.asarray(x) if isinstance(self.mean, jax.Array) else x)
        return jax.tree.map(lambda a: a if a.dtype == bool else a.astype(x.dtype), self), xp, x

    def _folded(self, xp: Any, z: Any) -> Any:
        """Returns v, which is folded in turn by arcsinh in some elements."""
        if self.far is not None:
            beyond = xp.minimum(xp.maximum(abs(z) - FAR, 0.0) / self.far, _largest(z))
            z = xp.sign(z) * (xp.minimum(abs(z), FAR) + self.far * xp.expm1(beyond))
        return z * self.std + self.mean


def _largest(z: Any) -> float:
    """Returns a number whose exponential is finite in the precision of z, with room for a width."""
    return 0.9 * float(np.log(np.finfo(z.dtype).max))


def not_far(v: Rows) -> Bool[np.ndarray, "n k"]:
    """Returns which rows do not lie far from the others, see the module's first lines."""
    skipped = max(1, int(FAR_SHARE * len(v)))
    if len(v) < MIN_ROWS:
        return np.ones(v.shape, bool)
    ordered = np.partition(v, (skipped, len(v) - 1 - skipped), axis=0)
    low, high = ordered[skipped], ordered[-1 - skipped]
    margin = np.where(high > low, FAR_RANGES * (high - low), np.inf)
    return (v >= low - margin) & (v <= high + margin)


def _moments(v: Rows) -> tuple[Each, Each]:
    """Returns mean and standard deviation of the rows that do not lie far out; the latter is one at constants."""
    mean, std, near = v.mean(axis=0), v.std(axis=0), not_far(v)
    if not near.all():
        count = near.sum(axis=0)
        inside = np.where(near, v, 0.0)
        mean = np.where(count < len(v), inside.sum(axis=0) / count, mean)
        variance = np.where(near, (v - mean) ** 2, 0.0).sum(axis=0) / count
        std = np.where(count < len(v), np.sqrt(variance), std)
    return mean, np.where(std > 0, std, 1.0)


def _candidates(u: Rows, some: Rows) -> Iterator[tuple[Each, Each, Bool[np.ndarray, " k"]]]:
    """Yields centers, widths, and whether to fold; the first is plain. `some` are some of the rows."""
    plain = np.zeros(u.shape[1], bool)
    quarter, center, three_quarters = np.quantile(u, [0.25, 0.5, 0.75], axis=0)
    width = (three_quarters - quarter) / GAUSSIAN_IQR
    # more than half of the rows alike (a count that is mostly zero): fall back on the plain standard deviation
    constant = u.max(axis=0) == u.min(axis=0)
    width = np.where(width > 0, width, _moments(u)[1])
    width = np.where(constant, np.where(center == 0, 1.0, abs(center)), width)
    low, high = np.nanquantile(np.where(not_far(u), u, np.nan), [0.001, 0.999], axis=0)
    yield center, width, (high - low) / width > HEAVY_RANGE_RATIO * GAUSSIAN_RANGE
    yield center, width, plain
    for share in WIDTHS:
        yield center, share * width, ~plain
    for origin in (np.zeros_like(center), some.min(axis=0), some.max(axis=0)):
        distances = abs(some - origin)
        distances = np.where(distances > 0, distances, np.nan)
        distances[0] = np.where(np.isnan(distances).all(axis=0), 1.0, distances[0])
        for narrow in np.nanquantile(distances, QUANTILES, axis=0):
            yield origin, np.maximum(narrow, _TINY), ~plain


def _scoring_rows(some: Rows) -> tuple[Rows, Rows, Bool[np.ndarray, " k"]]:
    """Returns rows, each column in an order of its own, with weights that sum to one in each column.

    Values that occur more than once (atoms) have no weight: a density there has no height. The last array says in which
    columns enough others are left to choose by.
    """
    rows = np.sort(some, axis=0)
    alike, edge = np.diff(rows, axis=0) == 0, np.zeros((1, rows.shape[1]), bool)
    once = ~(np.concatenate([edge, alike]) | np.concatenate([alike, edge]))
    count = once.sum(axis=0)
    return rows, once / np.maximum(count, 1), count >= np.maximum(MIN_ROWS, CONTINUOUS_SHARE * len(rows))


def _log_width(farthest: Each) -> Each:
    """Returns `a`, by which a row `farthest` from zero lies at `MAX_STANDARDIZED`; it grows with a, so bisection."""
    beyond, room = np.maximum(farthest - FAR, 1e-300), MAX_STANDARDIZED - FAR
    low, high = np.full(farthest.shape, -300.0), np.full(farthest.shape, 300.0)  # log a
    for _ in range(60):  # halves 600 to 5e-16
        middle = 0.5 * (low + high)
        a = np.exp(middle)
        too_far = a * np.log1p(beyond / a) > room
        low, high = np.where(too_far, low, middle), np.where(too_far, middle, high)
    return np.where(farthest > MAX_STANDARDIZED, np.exp(low), NOT_FAR)
