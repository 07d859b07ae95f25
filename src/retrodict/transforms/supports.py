"""Supports: bijections between an interval and the whole real line, one per element.

A density on an interval (low, high) is modeled on the line, through x = constrain(u), so that no draw can fall outside:

    low    high   x = constrain(u)
    -inf   inf    u
    a      inf    a + exp(u)
    -inf   b      b - exp(-u)
    a      b      a + (b - a) S(u),    S(u) = e softplus(u / e) - e softplus((u - 1) / e),    e = EDGE

S is the identity except in a layer of width e at either end. A logistic or normal-quantile map would stretch the ends
of the interval without bound: a posterior of the same width in x everywhere in a uniform prior would be wide or narrow
in u, and the network would have to learn that distortion.

The price is paid by densities: S' vanishes exponentially beyond the ends in u, and what a learned density leaks there,
divided by S', grows without bound. Within `NEAR_END` of an end `density_point` extends the density from there, by the
power of the distance that the training rows follow at this end: 0 for a uniform prior, -1/2 for an arcsine law.

NumPy arrays are mapped in double precision by NumPy, JAX arrays in their precision by JAX.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64


EDGE = 0.01  # of the interval's width; twice or half of it gives nearly the same held-out losses
NEAR_END = 0.002  # of the interval's width; a tenth of it lets densities double, ten times flattens narrow posteriors
ENDS_SHARE, MIN_ROWS = 0.05, 20  # where the power is fitted, and from how many rows
MAX_LOG_DISTANCE = 80.0  # from an end: a distance of 6e34
MAX_OFFSET = 1000.0  # widths from zero, beyond which single precision is too coarse for an interval
_TINY = float(np.finfo(np.float32).tiny)

Numbers = Any  # an array of NumPy or of JAX, or what becomes one of NumPy
Elements = Any  # the same kind of array, `(*n, d)`


def constrain(u: Numbers, low: np.ndarray, high: np.ndarray) -> Elements:
    """Maps the real line `(*n, d)` into the supports `(low, high)`, each `(d,)`, ends included in finite precision."""
    xp, u = numbers(u)
    start, end, kinds = _ends(u.dtype, low, high)
    share = EDGE * (xp.logaddexp(u / EDGE, 0.0) - xp.logaddexp((u - 1.0) / EDGE, 0.0))
    inside = xp.clip(start + (end - start) * share, start, end)
    up, down = (xp.exp(xp.minimum(v, MAX_LOG_DISTANCE)) for v in (u, -u))
    # in single precision exp(-200) is 0 and exp(200) infinite; a positive variable must be neither
    inf = np.asarray(np.inf, start.dtype)
    upward = xp.maximum(start + up, np.maximum(np.nextafter(start, inf), start + start.dtype.type(_TINY)))
    downward = xp.minimum(end - down, np.minimum(np.nextafter(end, -inf), end - end.dtype.type(_TINY)))
    return _by_kind(xp, kinds, inside, upward, downward, u)


def unconstrain(x: Numbers, low: np.ndarray, high: np.ndarray) -> Elements:
    """Inverts `constrain`; values at or beyond an end of an interval are replaced by the nearest value inside."""
    xp, x = numbers(x)
    start, end, kinds = _ends(x.dtype, low, high)
    width = abs(end - start)
    # distances to both ends, each exact near its end, and no smaller than single precision can resolve
    above_start = xp.maximum((x - start) / width, _TINY**0.5)
    below_end = xp.maximum((end - x) / width, 1e-7)
    inside = EDGE * (_log_expm1(xp, above_start / EDGE) - xp.log(-xp.expm1(-below_end / EDGE)))
    upward = xp.log(xp.maximum(x - start, _TINY))
    downward = -xp.log(xp.maximum(end - x, _TINY))
    return _by_kind(xp, kinds, inside, upward, downward, x)


def log_slope(u: Numbers, low: np.ndarray, high: np.ndarray) -> Elements:
    """Returns `log |dx/du|` of `constrain` per element, `(*n, d)`."""
    xp, u = numbers(u)
    start, end, kinds = _ends(np.float64, low, high)  # next to a large offset the width is lost in single precision
    # S'(u) = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)),  a = u/e, b = (u-1)/e
    inside = -xp.logaddexp(-u / EDGE, 0.0) - xp.logaddexp((u - 1.0) / EDGE, 0.0)
    # an interval has a positive width; a half-line has no use for one
    inside = inside + (np.log(abs(end - start)) + np.log(-np.expm1(-1.0 / EDGE))).astype(u.dtype)
    return _by_kind(xp, kinds, inside, u, -u, xp.zeros_like(u))


class DensityPoint(NamedTuple):
    """A place at which to evaluate the density of each element, and what to add to its log, with the slope of that.

    The density next to an end depends on `x` by what is added alone: `moved` marks such elements.
    """

    point: Elements
    log_ratio: Elements
    slope: Elements
    moved: Elements


def density_point(
    x: Numbers, low: np.ndarray, high: np.ndarray, powers: Numbers = None, near: Numbers = NEAR_END
) -> DensityPoint:
    """Returns where to evaluate the density of each element; without `powers` `(d, 2)` they are zero."""
    xp, x = numbers(x)
    start, end, (below, above) = _ends(x.dtype, low, high)
    width = abs(end - start)
    from_start, from_end = (x - start) / width, (end - x) / width
    upper = from_end < from_start
    distance = xp.where(upper, from_end, from_start)
    moved = (below & above) & (distance >= 0) & (distance < near)
    inside = xp.where(upper, end - near * width, start + near * width)
    power = 0.0 if powers is None else xp.where(upper, powers[..., 1], powers[..., 0])
    distance = xp.where(moved, xp.maximum(distance, xp.where(upper, 1e-7, _TINY**0.5)), near)
    slope = power / (distance * width) * xp.where(upper, -1.0, 1.0)
    return DensityPoint(xp.where(moved, inside, x), power * xp.log(distance / near), slope, moved)


def end_powers(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> Float64[np.ndarray, "d 2"]:
    """Fits the powers of the distance that the density of rows `(n, d)` follows at the two ends of each interval.

    A multiple of 1/2, zero first, is taken where the rows allow it (three standard errors): most priors have one. The
    density of the distance r below R is a r^(a - 1) / R^a, and a = k / sum log(R / r) over the k rows there.
    """
    powers = np.zeros((len(low), 2))
    for j in np.flatnonzero(np.isfinite(low) & np.isfinite(high)):
        x = rows[:, j].astype(np.float64)
        for side, distance in enumerate((x - low[j], high[j] - x)):
            close = distance[distance < ENDS_SHARE * (high[j] - low[j])] / (high[j] - low[j])
            if len(close) >= MIN_ROWS:
                a = len(close) / np.log(ENDS_SHARE / np.maximum(close, 1e-7)).sum()
                error = 3.0 * a / np.sqrt(len(close))
                plain = (1.0, max(0.5, np.round(2.0 * a) / 2.0))
                powers[j, side] = next((p for p in plain if abs(p - a) < error), a) - 1.0
    return powers


def single_precision(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Rounds values to single precision, none of them onto the finite end of a half-line, which `contains` excludes."""
    start, end, (below, above) = _ends(np.float32, low, high)
    x, inf = np.asarray(x, np.float32), np.float32(np.inf)
    x = np.where(below & ~above & (x <= start), np.nextafter(start, inf), x)
    return np.where(above & ~below & (x >= end), np.nextafter(end, -inf), x)


def contains(x: Numbers, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns a mask `(*n, d)` of elements in their support; a half-line excludes its finite end, an interval none.

    Values that were rounded to single precision count as inside where they equal an end that was rounded as they are.
    """
    xp: Any = jnp if isinstance(x, jax.core.Tracer) else np  # also inside JAX
    x = xp.asarray(x)
    start, end, _ = _ends(np.float64, low, high)
    coarse = np.maximum(abs(start), abs(end)) > MAX_OFFSET * abs(end - start)
    rounded = (np.asarray(end, np.float32) for end in (low, high))
    return _between(xp, x, low, high) | (_between(xp, x.astype(np.float32), *rounded) & ~coarse)


def _between(xp: Any, x: Any, low: np.ndarray, high: np.ndarray) -> Any:
    above_low = xp.where(np.isfinite(low) & ~np.isfinite(high), x > low, x >= low)
    below_high = xp.where(np.isfinite(high) & ~np.isfinite(low), x < high, x <= high)
    return above_low & below_high


def numbers(x: Numbers) -> tuple[Any, Any]:
    """Returns NumPy and `x` in double precision, or `jax.numpy` and `x` as it is if it is an array of JAX."""
    if isinstance(x, jax.Array):
        return jnp, x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)
    return np, np.asarray(x, np.float64)


def _log_expm1(xp: Any, y: Any) -> Any:
    """Returns `log(exp(y) - 1)` without overflow."""
    return y + xp.log(-xp.expm1(-y))


def _ends(precision: Any, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[Any, Any]]:
    """Returns finite ends, with 0 and 1 for others, and which ends are finite."""
    below, above = np.isfinite(low), np.isfinite(high)
    start, end = np.where(below, low, 0.0), np.where(above, high, 1.0)
    return start.astype(precision), end.astype(precision), (below, above)


def _by_kind(xp: Any, kinds: tuple[Any, Any], inside: Any, upward: Any, downward: Any, real: Any) -> Any:
    below, above = kinds
    return xp.where(below & above, inside, xp.where(below, upward, xp.where(above, downward, real)))
