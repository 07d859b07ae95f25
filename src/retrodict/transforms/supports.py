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
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float


EDGE = 0.01  # of the interval's width; twice or half of it gives nearly the same held-out losses
MAX_LOG_DISTANCE = 80.0  # from an end: a distance of 6e34
MAX_OFFSET = 1000.0  # widths from zero, beyond which single precision is too coarse for an interval
_TINY = np.finfo(np.float32).tiny

Elements = Float[Array, "*n d"]


def constrain(u: ArrayLike, low: np.ndarray, high: np.ndarray) -> Elements:
    """Maps the real line `(*n, d)` into the supports `(low, high)`, each `(d,)`, ends included in finite precision."""
    u, xp = _array(u)
    below, above = np.isfinite(low), np.isfinite(high)
    start, end = _finite(low, 0.0), _finite(high, 1.0)
    inside = start + (end - start) * EDGE * (xp.logaddexp(u / EDGE, 0.0) - xp.logaddexp((u - 1.0) / EDGE, 0.0))
    inside = xp.clip(inside, start, end)
    up, down = (xp.exp(xp.minimum(v, MAX_LOG_DISTANCE)) for v in (u, -u))
    # in single precision exp(-200) is 0 and exp(200) infinite; a positive variable must be neither
    upward = xp.maximum(start + up, np.maximum(np.nextafter(start, np.float32(np.inf)), start + _TINY))
    downward = xp.minimum(end - down, np.minimum(np.nextafter(end, np.float32(-np.inf)), end - _TINY))
    return xp.where(below & above, inside, xp.where(below, upward, xp.where(above, downward, u)))


def unconstrain(x: ArrayLike, low: np.ndarray, high: np.ndarray) -> Elements:
    """Inverts `constrain`; values at or beyond an end of an interval are replaced by the nearest value inside."""
    x, xp = _array(x)
    below, above = np.isfinite(low), np.isfinite(high)
    start, end = _finite(low, 0.0), _finite(high, 1.0)
    width = end - start
    # distances to both ends, each exact near its end, and no smaller than single precision can resolve
    above_start = xp.maximum((x - start) / width, _TINY**0.5)
    below_end = xp.maximum((end - x) / width, 1e-7)
    inside = EDGE * (_log_expm1(above_start / EDGE) - xp.log(-xp.expm1(-below_end / EDGE)))
    upward = xp.log(xp.maximum(x - start, _TINY))
    downward = -xp.log(xp.maximum(end - x, _TINY))
    return xp.where(below & above, inside, xp.where(below, upward, xp.where(above, downward, x)))


def log_slope(u: ArrayLike, low: np.ndarray, high: np.ndarray) -> Elements:
    """Returns `log |dx/du|` of `constrain` per element, `(*n, d)`."""
    u, xp = _array(u)
    below, above = np.isfinite(low), np.isfinite(high)
    width = _finite(high, 1.0) - _finite(low, 0.0)
    # S'(u) = sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)),  a = u/e, b = (u-1)/e
    inside = xp.log(width) + -xp.logaddexp(-u / EDGE, 0.0) - xp.logaddexp((u - 1.0) / EDGE, 0.0)
    inside = inside + np.log(-np.expm1(-1.0 / EDGE))
    return xp.where(below & above, inside, xp.where(below, u, xp.where(above, -u, 0.0)))


def contains(x: ArrayLike, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns a mask `(*n, d)` of elements in their support; a half-line excludes its finite end, an interval none.

    Values that were rounded to single precision count as inside where they equal an end that was rounded as they are.
    """
    xp: Any = jnp if isinstance(x, jax.core.Tracer) else np  # also inside JAX
    x = xp.asarray(x)
    with np.errstate(invalid="ignore"):
        coarse = np.maximum(abs(_finite(low, 0.0)), abs(_finite(high, 0.0))) > MAX_OFFSET * (high - low)
    return _between(xp, x, low, high) | (_between(xp, x.astype(np.float32), *map(np.float32, (low, high))) & ~coarse)


def _between(xp: Any, x: Any, low: Any, high: Any) -> Any:
    above_low = xp.where(np.isfinite(low) & ~np.isfinite(high), x > low, x >= low)
    below_high = xp.where(np.isfinite(high) & ~np.isfinite(low), x < high, x <= high)
    return above_low & below_high


def _array(x: Any) -> Any:
    if isinstance(x, jax.Array | jax.core.Tracer):
        return x, jnp
    return np.asarray(x, np.float64), np


def _log_expm1(y: Array) -> Array:
    """Returns `log(exp(y) - 1)` without overflow."""
    xp = _array(y)[1]
    return y + xp.log(-xp.expm1(-y))


def _finite(end: np.ndarray, default: float) -> np.ndarray:
    return np.where(np.isfinite(end), end, default)
