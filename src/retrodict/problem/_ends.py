"""The true ends of a prior's law, which may be narrower than the support that numpyro claims.

numpyro claims for a transformed law the codomain of its last transform: the exp of a uniform is "positive". The ends of
the law are those of its base, pushed through the transforms one after the other:

    Uniform(0, 1), exp, 3 - 2 x      (0, 1)  ->  (1, e)  ->  (3 - 2 e, 1)
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from retrodict._errors import RetrodictError
from retrodict.variables import Bound, bounds_of


GRID = np.linspace(-30.0, 30.0, 121)  # on the real line, to see whether a transform leaves its ends between
TOLERANCE = 1e-5  # relative; a claim that agrees with the ends so far is exact
TRIAL_DRAWS = 64  # of the prior, which are compared with what its distributions claim
ROUNDING = 1e-6  # of single precision, relative
MIN_STEPS = 32.0  # of the precision of a number within a standard deviation: rounding is .01 of it
TRACER_ERRORS = (  # of Python that wants numbers where JAX has none yet
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
WRAPPERS = ("Independent", "ExpandedDistribution", "MaskedDistribution")


class Ends(NamedTuple):
    """The lower and the upper ends of a law; `unknown` names a transform that hides them."""

    low: np.ndarray
    high: np.ndarray
    unknown: str = ""


def base_of(distribution: Any) -> Any:
    """The distribution inside numpyro's `Independent`, `ExpandedDistribution` and `MaskedDistribution`."""
    while hasattr(distribution, "base_dist") and type(distribution).__name__ in WRAPPERS:
        distribution = distribution.base_dist
    return distribution


def claimed_ends(distribution: Any, name: str) -> tuple[Bound, Bound]:
    """The ends of the support that a distribution claims.

    Raises:
        RetrodictError: it is a constant, or its support is no interval of the reals (a simplex, integers, ...).
    """
    if type(base_of(distribution)).__name__ == "Delta":
        raise RetrodictError(
            f"'{name}' is a constant (Delta); write it into the simulator, a prior has what is unknown"
        )
    return bounds_of(distribution.support, name)


def ends_of(distribution: Any, name: str, shape: tuple[int, ...] | None = None) -> tuple[Bound, Bound]:
    """The true ends (low, high) of a distribution, each a number or one number per element, flat, of a value `shape`.

    Raises:
        RetrodictError: the distribution is a constant, or its support is no interval of the reals (a simplex, ...).

    Warns:
        UserWarning: the law is bounded, and its ends cannot be worked out.
    """
    claim, law = claimed_ends(distribution, name), _pushed(distribution, name)
    if law.unknown:
        warnings.warn(
            f"'{name}' is a bounded law behind {law.unknown}, whose ends cannot be worked out, so that draws of a "
            "model may leave it; draw the base in the prior, and transform it in the simulator",
            stacklevel=2,
        )
        return _shaped(claim[0], shape), _shaped(claim[1], shape)
    low, high = (np.asarray(end, float) for end in (law.low, law.high))
    return _shaped(_nearer(claim[0], low, np.maximum), shape), _shaped(_nearer(claim[1], high, np.minimum), shape)


def _nearer(claim: Bound, end: np.ndarray, narrower: Any) -> Any:
    """The claim, or the end where that is narrower by more than rounding."""
    claimed = np.asarray(claim, float)
    if claimed.size != end.size and claimed.ndim and end.ndim:  # a claim per component of a mixture
        return end
    claimed = claimed.reshape(end.shape) if claimed.ndim and end.ndim else claimed
    with np.errstate(invalid="ignore"):
        near = np.abs(end - claimed) <= TOLERANCE * (1.0 + np.abs(end))
    exact = near | (end == claimed) | (narrower(end, claimed) == claimed)
    return claim if exact.all() else np.where(exact, claimed, end)


def _shaped(end: Any, shape: tuple[int, ...] | None) -> Bound:
    """An end as a `Variable` has it; ends of batches are repeated along the axes of the shape."""
    array = np.asarray(end, float)
    if array.ndim == 0:
        return float(array)
    if shape is not None and array.size != np.prod(shape, dtype=int):
        array = np.broadcast_to(array, shape)
    return tuple(array.ravel().tolist())


def _pushed(distribution: Any, name: str) -> Ends:
    """The ends of a law with the shape of its batches and events, or of one number."""
    law = base_of(distribution)
    if law is not distribution:
        ends = _pushed(law, name)
        low, high = (np.broadcast_to(e, distribution.shape()) if np.ndim(e) else e for e in ends[:2])
        return Ends(low, high, ends.unknown)
    if type(law).__name__ == "MixtureSameFamily":  # components lie along the last axis of the batch
        ends, axis = _pushed(law.component_distribution, name), -1 - len(law.event_shape)
        low, high = (np.broadcast_to(end, law.component_distribution.shape()) for end in ends[:2])
        return Ends(low.min(axis=axis), high.max(axis=axis), ends.unknown)
    if type(law).__name__ == "MixtureGeneral":
        parts = [_pushed(part, name) for part in law.component_distributions]
        lows, highs = ([getattr(part, side) for part in parts] for side in ("low", "high"))
        low, high = np.min(np.broadcast_arrays(*lows), axis=0), np.max(np.broadcast_arrays(*highs), axis=0)
        return Ends(low, high, next((p.unknown for p in parts if p.unknown), ""))
    if not (hasattr(law, "transforms") and hasattr(law, "base_dist")):
        low, high = (_reshaped(end, law) for end in bounds_of(law.support, name))
        return Ends(low, high)
    ends = _pushed(law.base_dist, name)
    for transform in _elementary(law.transforms):
        if ends.unknown:
            break
        ends = _image(transform, ends)
    return ends


def _reshaped(end: Bound, law: Any) -> np.ndarray:
    """An end per element in the shape of a law, or one number."""
    array, shape = np.asarray(end, float), law.shape()
    return array.reshape(shape) if array.ndim and array.size == np.prod(shape, dtype=int) else array


def _elementary(transforms: Any) -> Iterator[Any]:
    """The transforms inside compositions and `IndependentTransform`."""
    for transform in transforms:
        if hasattr(transform, "parts"):
            yield from _elementary(transform.parts)
        elif hasattr(transform, "base_transform"):
            yield from _elementary([transform.base_transform])
        else:
            yield transform


def _image(transform: Any, ends: Ends) -> Ends:
    """The ends of the values of a transform between two ends."""
    low, high = ends.low, ends.high
    kind = type(transform).__name__
    if kind == "AbsTransform":
        inside = (low < 0) & (high > 0)
        nearest = np.minimum(np.abs(low), np.abs(high))
        return Ends(np.where(inside, 0.0, nearest), np.maximum(np.abs(low), np.abs(high)))
    if kind in ("PermuteTransform", "ReshapeTransform") and np.ndim(low) + np.ndim(high):
        low, high = np.broadcast_arrays(low, high)
        return Ends(np.asarray(transform(low)), np.asarray(transform(high)))
    is_bounded = bool(np.isfinite(low).any() or np.isfinite(high).any())
    if transform.domain.event_dim or transform.codomain.event_dim:  # it mixes elements: reals stay reals
        return Ends(low, high, kind if is_bounded else "")
    values = _values(transform, np.stack(np.broadcast_arrays(low, high)))
    grid = _values(transform, _between(low, high))
    lowest, highest = values.min(axis=0), values.max(axis=0)
    slack = TOLERANCE * (1.0 + np.abs(grid))
    is_monotone = np.all((grid >= lowest - slack) & (grid <= highest + slack)) and not np.isnan(values).any()
    return Ends(lowest, highest) if is_monotone else Ends(low, high, kind if is_bounded else "")


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """A context in which JAX computes in double precision."""
    with jax.enable_x64(new_val=True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Values between two ends, `(grid, *shape)`."""
    t = GRID.reshape(-1, *[1] * max(np.ndim(low), np.ndim(high)))
    below, above = np.isfinite(low), np.isfinite(high)
    start, end = np.where(below, low, 0.0), np.where(above, high, 1.0)
    inside = start + (end - start) / (1.0 + np.exp(-t))
    return np.where(below & above, inside, np.where(below, start + np.exp(t), np.where(above, end - np.exp(-t), t)))


def _values(transform: Any, x: np.ndarray) -> np.ndarray:
    with double_precision():
        return np.asarray(transform(jax.numpy.asarray(x, float)), float)


def check_draws(name: str, draws: np.ndarray, ends: tuple[Bound, Bound], *, constant: bool = False) -> None:
    """Compares draws `(n, *shape)` of a parameter with the ends of its law; `constant` elements may be.

    Raises:
        RetrodictError: draws lie outside, an element never changes, or single precision cannot tell draws apart.
    """
    flat = draws.reshape(len(draws), -1).astype(float)
    low, high = (np.broadcast_to(np.asarray(end, float), flat.shape[1]) for end in ends)
    outside = beyond(flat, low, high)
    if outside.any():
        raise RetrodictError(
            f"{int(outside.any(axis=1).sum())} of {len(flat)} draws of the prior of '{name}' lie outside the support "
            f"that its distribution claims, such as {flat[outside][0]:.6g}; mend the `support` of the distribution"
        )
    steps = np.spacing(np.abs(draws).max(axis=0)).ravel().astype(float)
    lost = (flat.std(axis=0) < MIN_STEPS * steps) & ~(constant & (np.ptp(flat, axis=0) == 0))
    if lost.any():
        i = int(np.argmax(lost))
        is_constant = np.ptp(flat[:, i]) == 0
        what = f"is {flat[0, i]:.9g} in all" if is_constant else f"takes a few values, {steps[i]:.3g} apart, in all"
        raise RetrodictError(
            f"'{name}' {what} of {len(flat)} draws of its prior ({draws.dtype}); write a constant into the simulator, "
            "and of a parameter with a large offset draw the difference and add the offset there"
        )


def beyond(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether elements of rows `(n, d)` lie outside ends `(d,)` by more than the rounding of single precision."""
    scale = np.maximum(*(np.abs(np.where(np.isfinite(end), end, 0.0)) for end in (low, high)))
    return (rows < low - ROUNDING * scale) | (rows > high + ROUNDING * scale)
