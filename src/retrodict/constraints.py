"""What else must hold of an answer, in the user's names and units.

    Interval(.5, 1.)                            in `given`: this variable lies between two ends (either may be None)
    Inequality({"a": 1., "b": [1., 2.]}, high=3.)      low <= sum of coefficients times values <= high
    Equality({"a": 1., "b": [1., 2.]}, 3.)      the same sum is 3, up to a fiftieth of its spread
    Soft({"x": values}, sd=.1)                  values seen with a normal error
    LogConstraint(f, of=["a"])                  any differentiable log factor, f({"a": ...}) -> number
    Prior({"a": dist.Normal(1, .3)}, old=problem)      another prior than the one the model was trained under

A polytope is several inequalities. Here names and units become a guide (`retrodict.guidance`) of tokens in the model's
coordinates; scaling is monotone per element, so that an interval stays one.
"""

import abc
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from retrodict._errors import DataError, QueryError, unknown
from retrodict._types import Scalar, Tokens
from retrodict.guidance import AbstractGuide, Linear, Near, Tilt, Within
from retrodict.problem import Prior as Distributions
from retrodict.problem import Problem
from retrodict.scaling import Scaling
from retrodict.tokens import as_numbers
from retrodict.variables import Layout


TIGHT = 0.02  # of a functional's spread: how nearly an equality holds, since nothing continuous is ever equal


class Units(eqx.Module):
    """All tokens in the user's units, from the latent ones in the model's coordinates."""

    scaling: Scaling
    z: Tokens
    latent: Bool[Array, " d"]

    @property
    def layout(self) -> Layout:
        return self.scaling.layout

    def full(self, data: Tokens) -> Tokens:
        """Latent tokens as in `data`, the others as they are given."""
        return jnp.where(self.latent, data, self.z)

    def __call__(self, data: Tokens) -> Tokens:
        return self.scaling.inverse(self.full(data))


@dataclass(frozen=True)
class View:
    """What a constraint needs to know of a question: its units, and draws of the answer without any constraint."""

    units: Units
    pilot: Float[Array, "n d"]

    @property
    def layout(self) -> Layout:
        return self.units.layout


class AbstractConstraint(abc.ABC):
    """Something that must hold; the elements it speaks of are drawn unless they are given."""

    @abc.abstractmethod
    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        """Which elements it speaks of: booleans `shape` by name.

        Raises:
            QueryError: a name that the model does not have.
            DataError: values of the wrong shape or type.
        """

    @abc.abstractmethod
    def guide(self, view: View) -> AbstractGuide:
        """The same in tokens."""


# intervals ------------------------------------------------------------------------------------------------------------


class Interval:
    """A value in `given` that is known to lie between two ends, numbers or arrays with one end per element.

    `None` and infinite ends are open. Elements with equal ends are given, those without ends are not observed.

    Raises:
        DataError: an end that is no number, or a low end above the high one.
    """

    def __init__(self, low: Any = None, high: Any = None) -> None:
        ends = zip((low, high), (-np.inf, np.inf), ("low", "high"), strict=True)
        self.low, self.high = (
            np.nan_to_num(
                as_numbers(open_ if end is None else end, f"`{name}` of an Interval"),
                nan=open_,
                posinf=np.inf,
                neginf=-np.inf,
            )
            for end, open_, name in ends
        )
        try:
            above = np.any(self.low > self.high)
        except ValueError:
            raise DataError(
                f"the ends of an Interval have the shapes {self.low.shape} and {self.high.shape}, which do not match"
            ) from None
        if above:
            raise DataError(f"an Interval needs low <= high, got low={self.low} and high={self.high}; swap them")

    def __repr__(self) -> str:
        return f"Interval({self.low}, {self.high})"

    def ends(self, shape: tuple[int, ...], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Both ends for a variable of this shape."""
        try:
            return np.broadcast_to(self.low, shape), np.broadcast_to(self.high, shape)
        except ValueError:
            raise DataError(
                f"the Interval of '{name}' has ends of the shapes {self.low.shape} and {self.high.shape}; "
                f"they must be numbers or have the shape {shape}"
            ) from None


@dataclass(frozen=True)
class Between(AbstractConstraint):
    """Variables by name in their intervals: what `Interval`s in `given` become."""

    intervals: Mapping[str, Interval]

    def given(self, layout: Layout) -> dict[str, np.ndarray]:
        """Elements with equal ends, NaN elsewhere; without the variables that have none."""
        found = {}
        for name, interval in self.intervals.items():
            low, high = interval.ends(_known(layout, name, "`given`"), name)
            if (low == high).any():
                found[name] = np.where(low == high, low, np.nan)
        return found

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        found = {}
        for name, interval in self.intervals.items():
            low, high = interval.ends(_known(layout, name, "`given`"), name)
            found[name] = (low < high) & (np.isfinite(low) | np.isfinite(high))
            first, last = (end.reshape(low.shape) for end in layout[name].ends)
            if np.any(found[name] & ((high <= first) | (low >= last))):
                raise DataError(f"{interval!r} of '{name}' lies outside its support, ({first.min():g}, {last.max():g})")
        return found

    def guide(self, view: View) -> AbstractGuide:
        layout, masks = view.layout, self.masks(view.layout)
        low, high, asked = np.full(layout.size, -np.inf), np.full(layout.size, np.inf), np.zeros(layout.size, bool)
        for name, interval in self.intervals.items():
            block = layout.slices[name]
            low[block], high[block] = (end.ravel() for end in interval.ends(layout[name].shape, name))
            asked[block] = masks[name].ravel()
        middle = view.units.scaling.inverse(jnp.zeros(layout.size))  # stands in where there is no end to scale
        inside = [np.isfinite(end) & (end > layout.ends[0]) & (end < layout.ends[1]) for end in (low, high)]
        ends = [
            jnp.where(ok, view.units.scaling.forward(jnp.where(ok, end, middle)), open_)[asked]
            for end, ok, open_ in zip((low, high), inside, (-jnp.inf, jnp.inf), strict=True)
        ]
        return Within(Linear(jnp.eye(layout.size)[asked]), *ends)


# sums -----------------------------------------------------------------------------------------------------------------


class _Sum(eqx.Module):
    """A weighted sum of tokens in the user's units."""

    units: Units
    weights: Tokens

    def __call__(self, data: Tokens) -> Float[Array, " 1"]:
        # an element that is neither drawn nor given may hold anything
        return jnp.sum(jnp.where(self.weights == 0.0, 0.0, self.weights * self.units(data)), keepdims=True)


def _sum_of(coefficients: Mapping[str, Any], view: View) -> _Sum:
    weights = np.zeros(view.layout.size)
    for name, value in coefficients.items():
        weights[view.layout.slices[name]] = np.broadcast_to(np.asarray(value, float), view.layout[name].shape).ravel()
    return _Sum(view.units, jnp.asarray(weights, float))


def _sum_masks(coefficients: Mapping[str, Any], layout: Layout, where: str) -> dict[str, np.ndarray]:
    if not isinstance(coefficients, Mapping) or not coefficients:
        raise QueryError(f'{where} needs coefficients by name, such as {{"a": 1.0}}, got {coefficients!r}')
    found = {}
    for name, value in coefficients.items():
        shape, array = _known(layout, name, where), as_numbers(value, f"'{name}' in {where}")
        if array.shape not in ((), shape):
            raise DataError(f"'{name}' in {where} must be one number or have the shape {shape}, got {array.shape}")
        found[name] = np.broadcast_to(array != 0.0, shape)
    return found


@dataclass(frozen=True)
class Inequality(AbstractConstraint):
    """`low <=` the sum of coefficients times values `<= high`; `None` is open. A polytope is several of them."""

    coefficients: Mapping[str, Any]
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        low, high = self.ends
        if not low < high:
            raise DataError(f"an Inequality needs low < high, got {self.low} and {self.high}; see also Equality")

    @property
    def ends(self) -> tuple[float, float]:
        return -np.inf if self.low is None else float(self.low), np.inf if self.high is None else float(self.high)

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return _sum_masks(self.coefficients, layout, "an Inequality")

    def guide(self, view: View) -> AbstractGuide:
        return Within(_sum_of(self.coefficients, view), *(jnp.asarray([end], float) for end in self.ends))


@dataclass(frozen=True)
class Equality(AbstractConstraint):
    """The sum of coefficients times values is `value`, up to a normal error of `sd`.

    `sd` is by default a fiftieth of the sum's standard deviation without this constraint: the answer is then that
    of an exact equality but for a width of that size across it.
    """

    coefficients: Mapping[str, Any]
    value: float
    sd: float | None = None

    def __post_init__(self) -> None:
        _positive(self.sd, "an Equality")

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return _sum_masks(self.coefficients, layout, "an Equality")

    def guide(self, view: View) -> AbstractGuide:
        what = _sum_of(self.coefficients, view)
        sd = TIGHT * jnp.std(jax.vmap(what)(view.pilot), axis=0) if self.sd is None else jnp.asarray([self.sd], float)
        return Near(what, jnp.asarray([self.value], float), sd)


# observations ---------------------------------------------------------------------------------------------------------


class _Some(eqx.Module):
    """Some tokens in the user's units."""

    units: Units
    which: Int[Array, " j"]

    def __call__(self, data: Tokens) -> Float[Array, " j"]:
        return self.units(data)[self.which]


@dataclass(frozen=True)
class Soft(AbstractConstraint):
    """Values that were seen with a normal error `sd` (one number, or by name); NaN elements were not seen."""

    values: Mapping[str, Any]
    sd: Any

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        found = {}
        for name, value in self.values.items():
            shape, array = _known(layout, name, "Soft"), as_numbers(value, f"'{name}' in Soft")
            if array.shape != shape:
                raise DataError(f"'{name}' in Soft must have the shape {shape}, got {array.shape}")
            found[name] = ~np.isnan(array)
            if not np.all(self._sd(name) > 0):
                raise DataError(f"Soft needs an `sd` above zero for '{name}', got {self._sd(name)}")
        return found

    def _sd(self, name: str) -> np.ndarray:
        return as_numbers(self.sd[name] if isinstance(self.sd, Mapping) else self.sd, f"`sd` of '{name}' in Soft")

    def guide(self, view: View) -> AbstractGuide:
        layout, seen = view.layout, np.full(view.layout.size, np.nan)
        sd = np.ones(layout.size)
        for name, value in self.values.items():
            block, shape = layout.slices[name], layout[name].shape
            seen[block] = np.asarray(value, float).ravel()
            sd[block] = np.broadcast_to(self._sd(name), shape).ravel()
        which = np.flatnonzero(~np.isnan(seen))
        return Near(
            _Some(view.units, jnp.asarray(which)), jnp.asarray(seen[which], float), jnp.asarray(sd[which], float)
        )


# factors --------------------------------------------------------------------------------------------------------------


class _Smooth(eqx.Module):
    """Some tokens in coordinates whose way to the user's units has no kink: bounded ones in these units themselves."""

    units: Units
    which: Int[Array, " j"]

    @property
    def bounded(self) -> np.ndarray:
        low, high = self.units.layout.ends
        return np.isfinite(low) & np.isfinite(high)

    def __call__(self, data: Tokens) -> Float[Array, " j"]:
        return jnp.where(self.bounded, self.units(data), data)[self.which]

    def inverse(self, u: Float[Array, " j"]) -> Tokens:
        """All tokens in the user's units."""
        found = jnp.zeros(self.units.layout.size).at[self.which].set(u)
        chosen = jnp.zeros(self.units.layout.size, bool).at[self.which].set(True)
        return jnp.where(chosen & self.bounded, found, self.units(jnp.where(self.bounded, 0.0, found)))


class _Factor(eqx.Module):
    """A function of named values as one of some smooth tokens."""

    smooth: _Smooth
    function: Callable[[dict[str, Array]], Scalar] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, u: Float[Array, " j"]) -> Scalar:
        layout, x = self.smooth.units.layout, self.smooth.inverse(u)
        found = self.function({name: x[layout.slices[name]].reshape(layout[name].shape) for name in self.names})
        if jnp.shape(found) != ():
            raise DataError(f"a log factor must return one number, got an array of the shape {jnp.shape(found)}")
        return found


def _factor(function: Callable[[dict[str, Array]], Scalar], names: tuple[str, ...], view: View) -> Tilt:
    which = view.layout.tokens_of(names)
    which = which[np.asarray(view.units.latent)[which]]
    smooth = _Smooth(view.units, jnp.asarray(which))
    return Tilt(smooth, _Factor(smooth, function, names), len(which))


@dataclass(frozen=True)
class LogConstraint(AbstractConstraint):
    """A log factor `function({name: value, ...})` of the variables `of`, written in JAX and differentiable.

    Minus infinity forbids; where the gradient does not say where to go, an interval or inequality serves better.
    """

    function: Callable[[dict[str, Array]], Scalar]
    of: Iterable[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", (self.of,) if isinstance(self.of, str) else tuple(self.of))

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return {name: np.ones(_known(layout, name, "a LogConstraint"), bool) for name in self.of}

    def guide(self, view: View) -> AbstractGuide:
        return _factor(self.function, tuple(self.of), view)


class Prior(AbstractConstraint):
    """Another prior: parameters by name, each a numpyro distribution or a function of others that returns one.

    Args:
        old: what the model was trained under, a `Problem` or its prior by name; those not named in `new` stay.

    Raises:
        QueryError: a name that the old prior does not have.
    """

    def __init__(self, new: Mapping[str, Any], *, old: Problem | Mapping[str, Any]) -> None:
        before = old.prior if isinstance(old, Problem) else Distributions(old)
        if not isinstance(before, Distributions):
            raise QueryError(
                f"the old prior is a {type(before).__name__}, whose parts have no names; "
                "write the ratio as a LogConstraint"
            )
        for name in new:
            if name not in before.distributions:
                raise QueryError(unknown("the new prior", name, before.distributions, owner="the old one has"))
        self.new, self.old = dict(new), {name: before.distributions[name] for name in new}
        parents = {p for entry in (*self.new.values(), *self.old.values()) for p in _parents(entry)}
        self.names = tuple(name for name in before.distributions if name in parents | set(new))

    def log_ratio(self, values: Mapping[str, Array]) -> Scalar:
        """Log density of the new over the old prior."""
        new, old = (sum(_log_prob(e, name, values) for name, e in part.items()) for part in (self.new, self.old))
        return jnp.asarray(new - old)

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return {name: np.ones(_known(layout, name, "the new prior"), bool) for name in self.names}

    def guide(self, view: View) -> AbstractGuide:
        return _factor(self.log_ratio, self.names, view)


def _parents(entry: Any) -> list[str]:
    return [] if hasattr(entry, "log_prob") else list(inspect.signature(entry).parameters)


def _log_prob(entry: Any, name: str, values: Mapping[str, Array]) -> Scalar:
    law = entry if hasattr(entry, "log_prob") else entry(**{p: values[p] for p in _parents(entry)})
    # numpyro does not look whether a value lies in the support
    return jnp.sum(jnp.where(jnp.all(law.support(values[name])), law.log_prob(values[name]), -jnp.inf))


def _known(layout: Layout, name: str, where: str) -> tuple[int, ...]:
    if name not in layout.names:
        raise QueryError(unknown(where, name, layout.names))
    return layout[name].shape


def _positive(sd: float | None, where: str) -> None:
    if sd is not None and not sd > 0:
        raise DataError(f"{where} needs an `sd` above zero, got {sd}")
