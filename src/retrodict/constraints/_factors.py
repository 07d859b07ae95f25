"""Log factors: soft observations, any function that a user writes, another prior."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from retrodict._errors import DataError, QueryError, unknown
from retrodict._types import Scalar, Tokens
from retrodict.constraints._base import AbstractConstraint, Units, View, known
from retrodict.guidance import AbstractGuide, Near, Tilt
from retrodict.problem import Prior as Distributions
from retrodict.problem import Problem
from retrodict.query.tokens import as_numbers
from retrodict.variables import Layout


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
            shape, array = known(layout, name, "Soft"), as_numbers(value, f"'{name}' in Soft")
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
        return {name: np.ones(known(layout, name, "a LogConstraint"), bool) for name in self.of}

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
        return {name: np.ones(known(layout, name, "the new prior"), bool) for name in self.names}

    def guide(self, view: View) -> AbstractGuide:
        return _factor(self.log_ratio, self.names, view)


def _parents(entry: Any) -> list[str]:
    return [] if hasattr(entry, "log_prob") else list(inspect.signature(entry).parameters)


def _log_prob(entry: Any, name: str, values: Mapping[str, Array]) -> Scalar:
    law = entry if hasattr(entry, "log_prob") else entry(**{p: values[p] for p in _parents(entry)})
    # numpyro does not look whether a value lies in the support
    return jnp.sum(jnp.where(jnp.all(law.support(values[name])), law.log_prob(values[name]), -jnp.inf))
