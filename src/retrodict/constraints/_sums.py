"""Weighted sums of values: equal to a number, or between two."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from retrodict._errors import DataError, QueryError
from retrodict._types import Tokens
from retrodict.constraints._base import AbstractConstraint, Units, View, known, positive
from retrodict.guidance import AbstractGuide, Near, Within
from retrodict.query.tokens import as_numbers
from retrodict.variables import Layout


TIGHT = 0.02  # of a functional's spread: how nearly an equality holds, since nothing continuous is ever equal


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
        shape, array = known(layout, name, where), as_numbers(value, f"'{name}' in {where}")
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
        positive(self.sd, "an Equality")

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return _sum_masks(self.coefficients, layout, "an Equality")

    def guide(self, view: View) -> AbstractGuide:
        what = _sum_of(self.coefficients, view)
        sd = TIGHT * jnp.std(jax.vmap(what)(view.pilot), axis=0) if self.sd is None else jnp.asarray([self.sd], float)
        return Near(what, jnp.asarray([self.value], float), sd)
