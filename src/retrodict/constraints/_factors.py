"""Constraints as log factors: soft observations, any function that a user writes, a prior in place of another."""

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
from retrodict.constraints._base import AbstractConstraint, Units, View, shape_of
from retrodict.guidance import AbstractGuide, Near, Tilt
from retrodict.problem import Prior as Distributions
from retrodict.problem import Problem
from retrodict.problem._ends import beyond
from retrodict.problem._prior import Entry
from retrodict.query.tokens import as_numbers
from retrodict.variables import Layout, names_of


class _Selected(eqx.Module):
    """The tokens with the numbers `index`, in the user's units."""

    units: Units
    index: Int[Array, " j"]

    def __call__(self, data: Tokens) -> Float[Array, " j"]:
        return self.units(data)[self.index]


@dataclass(frozen=True)
class Soft(AbstractConstraint):
    """Values that were observed with a normal error `sd` (one number, or by name); NaN elements were not observed."""

    values: Mapping[str, Any]
    sd: Any

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        masks = {}
        for name, value in self.values.items():
            shape, array = shape_of(layout, name, "Soft"), as_numbers(value, f"'{name}' in Soft")
            if array.shape != shape:
                raise DataError(f"'{name}' in Soft must have the shape {shape}, got {array.shape}")
            masks[name] = ~np.isnan(array)
            if not np.all(self._sd(name) > 0):
                raise DataError(f"Soft needs an `sd` above zero for '{name}', got {self._sd(name)}")
        return masks

    def _sd(self, name: str) -> np.ndarray:
        """Returns the sd of a variable."""
        return as_numbers(self.sd[name] if isinstance(self.sd, Mapping) else self.sd, f"`sd` of '{name}' in Soft")

    def guide(self, view: View) -> AbstractGuide:
        layout, observed = view.layout, np.full(view.layout.size, np.nan)
        sd = np.ones(layout.size)
        for name, value in self.values.items():
            block, shape = layout.slices[name], layout[name].shape
            observed[block] = np.asarray(value, float).ravel()
            sd[block] = np.broadcast_to(self._sd(name), shape).ravel()
        index = np.flatnonzero(~np.isnan(observed))
        functional = _Selected(view.units, jnp.asarray(index))
        return Near(functional, jnp.asarray(observed[index], float), jnp.asarray(sd[index], float))


class _Smooth(eqx.Module):
    """The tokens with the numbers `index`, in coordinates from which the map to the user's units is smooth.

    Bounded tokens are in the user's units, others in the model's coordinates.
    """

    units: Units
    index: Int[Array, " j"]

    @property
    def bounded(self) -> np.ndarray:
        """Mask of the tokens with two finite ends."""
        low, high = self.units.layout.ends
        return np.isfinite(low) & np.isfinite(high)

    def __call__(self, data: Tokens) -> Float[Array, " j"]:
        return jnp.where(self.bounded, self.units(data), data)[self.index]

    def inverse(self, u: Float[Array, " j"]) -> Tokens:
        """Returns all tokens in the user's units."""
        tokens = jnp.zeros(self.units.layout.size).at[self.index].set(u)
        selected = jnp.zeros(self.units.layout.size, bool).at[self.index].set(True)
        return jnp.where(selected & self.bounded, tokens, self.units(jnp.where(self.bounded, 0.0, tokens)))


class _Factor(eqx.Module):
    """A log factor of named values as a function of smooth tokens."""

    smooth: _Smooth
    function: Callable[[dict[str, Array]], Scalar] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, u: Float[Array, " j"]) -> Scalar:
        layout, x = self.smooth.units.layout, self.smooth.inverse(u)
        log_factor = self.function({name: x[layout.slices[name]].reshape(layout[name].shape) for name in self.names})
        if jnp.shape(log_factor) != ():
            raise DataError(f"a log factor must return one number, got an array of the shape {jnp.shape(log_factor)}")
        return log_factor


def _tilt(function: Callable[[dict[str, Array]], Scalar], names: tuple[str, ...], view: View) -> Tilt:
    """Returns the guide of a log factor of the variables `names`."""
    index = view.layout.tokens_of(names)
    index = index[np.asarray(view.units.latent)[index]]
    smooth = _Smooth(view.units, jnp.asarray(index))
    return Tilt(smooth, _Factor(smooth, function, names), len(index))


@dataclass(frozen=True)
class LogConstraint(AbstractConstraint):
    """A log factor `function({name: value, ...})` of the variables `of`, written in JAX and differentiable.

    Minus infinity forbids a value. A factor without a gradient does not guide: use an interval or an inequality then.
    """

    function: Callable[[dict[str, Array]], Scalar]
    of: Iterable[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", tuple(names_of(self.of)))

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return {name: np.ones(shape_of(layout, name, "a LogConstraint"), bool) for name in self.of}

    def guide(self, view: View) -> AbstractGuide:
        return _tilt(self.function, tuple(self.of), view)


class ReplacedPrior(AbstractConstraint):
    """A prior in place of the one that the model was trained under; its public name is `Prior`.

    Args:
        new: the new prior of some parameters by name. Each entry is a numpyro distribution, or a function of other
            parameters that returns one. Parameters that are not named keep their prior.
        old: the prior that the model was trained under: a `Problem`, or distributions by name.

    Raises:
        QueryError: `new` has a name that `old` lacks, its support is not inside the old one, or the old prior has no
            named parts.
    """

    def __init__(self, new: Mapping[str, Any], *, old: Problem | Mapping[str, Any]) -> None:
        prior = old.prior if isinstance(old, Problem) else Distributions(old)
        if not isinstance(prior, Distributions):
            raise QueryError(
                f"the old prior is a {type(prior).__name__}, whose parts have no names; "
                "write the ratio as a LogConstraint"
            )
        for name in new:
            if name not in prior.distributions:
                raise QueryError(unknown("the new prior", name, prior.distributions, owner="the old one has"))
        _refuse_wider(prior, new)
        self.new, self.old = dict(new), {name: prior.distributions[name] for name in new}
        parents = {p for entry in (*self.new.values(), *self.old.values()) for p in _parents(entry)}
        self.names = tuple(name for name in prior.distributions if name in parents | set(new))

    def log_ratio(self, values: Mapping[str, Array]) -> Scalar:
        """Returns the log density of the new prior minus that of the old prior."""
        new, old = (sum(_log_prob(e, name, values) for name, e in prior.items()) for prior in (self.new, self.old))
        return jnp.asarray(new - old)

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return {name: np.ones(shape_of(layout, name, "the new prior"), bool) for name in self.names}

    def guide(self, view: View) -> AbstractGuide:
        return _tilt(self.log_ratio, self.names, view)


def _refuse_wider(old: Distributions, new: Mapping[str, Any]) -> None:
    """Refuses a new prior with a support beyond that of the old one, where the model has never seen a simulation.

    Raises:
        QueryError: with both supports.
    """
    for name, entry in new.items():
        low, high = (np.asarray(end, float) for end in old.supports(name)[0])
        for ends in old.supports(name, Entry.read(entry)):
            both = np.stack(np.broadcast_arrays(*map(np.atleast_1d, ends)))
            if beyond(both, low, high).any():
                raise QueryError(
                    f"the new prior of '{name}' has the support ({both[0].min():g}, {both[1].max():g}), and the model "
                    f"knows ({low.min():g}, {high.max():g}) only; truncate the new prior, or train under it"
                )


def _parents(entry: Any) -> list[str]:
    """Returns the names of the parameters that an entry of a prior depends on."""
    return [] if hasattr(entry, "log_prob") else list(inspect.signature(entry).parameters)


def _log_prob(entry: Any, name: str, values: Mapping[str, Array]) -> Scalar:
    """Returns the log density of a parameter under its entry of a prior; minus infinity outside the support."""
    distribution = entry if hasattr(entry, "log_prob") else entry(**{p: values[p] for p in _parents(entry)})
    in_support = jnp.all(distribution.support(values[name]))  # `log_prob` does not check it
    return jnp.sum(jnp.where(in_support, distribution.log_prob(values[name]), -jnp.inf))
