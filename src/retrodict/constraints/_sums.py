"""Constraints on weighted sums of values: an equality, or one or two inequalities."""

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
from retrodict.constraints._base import AbstractConstraint, Units, View, check_positive, shape_of
from retrodict.guidance import AbstractGuide, Near, Within
from retrodict.query.tokens import as_numbers
from retrodict.variables import Layout


EQUALITY_SD = 0.02  # default sd of an equality, as a share of the sum's own sd: no continuous value is ever equal


class _Sum(eqx.Module):
    """A weighted sum of tokens in the user's units."""

    units: Units
    weights: Tokens

    def __call__(self, data: Tokens) -> Float[Array, " 1"]:
        # an element that is neither drawn nor given may have any value
        return jnp.sum(jnp.where(self.weights == 0.0, 0.0, self.weights * self.units(data)), keepdims=True)


def _sum_of(coefficients: Mapping[str, Any], view: View) -> _Sum:
    """Returns the sum of coefficients times values as a function of tokens."""
    weights = np.zeros(view.layout.size)
    for name, value in coefficients.items():
        weights[view.layout.slices[name]] = np.broadcast_to(np.asarray(value, float), view.layout[name].shape).ravel()
    return _Sum(view.units, jnp.asarray(weights, float))


def _sum_masks(coefficients: Mapping[str, Any], layout: Layout, owner: str) -> dict[str, np.ndarray]:
    """Returns the elements whose coefficients are not zero, by name; `owner` is the constraint in words."""
    if not isinstance(coefficients, Mapping) or not coefficients:
        raise QueryError(f'{owner} needs coefficients by name, such as {{"a": 1.0}}, got {coefficients!r}')
    masks = {}
    for name, value in coefficients.items():
        shape, array = shape_of(layout, name, owner), as_numbers(value, f"'{name}' in {owner}")
        if array.shape not in ((), shape):
            raise DataError(f"'{name}' in {owner} must be one number or have the shape {shape}, got {array.shape}")
        masks[name] = np.broadcast_to(array != 0.0, shape)
    return masks


@dataclass(frozen=True)
class Inequality(AbstractConstraint):
    """The constraint `low <= sum of coefficients times values <= high`; `None` is open. Several make a polytope."""

    coefficients: Mapping[str, Any]
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        low, high = self.ends
        if not low < high:
            raise DataError(f"an Inequality needs low < high, got {self.low} and {self.high}; see also Equality")

    @property
    def ends(self) -> tuple[float, float]:
        """The low and the high end; infinite ones are open."""
        return -np.inf if self.low is None else float(self.low), np.inf if self.high is None else float(self.high)

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return _sum_masks(self.coefficients, layout, "an Inequality")

    def guide(self, view: View) -> AbstractGuide:
        return Within(_sum_of(self.coefficients, view), *(jnp.asarray([end], float) for end in self.ends))


@dataclass(frozen=True)
class Equality(AbstractConstraint):
    """The constraint that the sum of coefficients times values equals `value`, up to a normal error of `sd`.

    `sd` is by default a fiftieth of the sum's standard deviation without this constraint. The answer is then that of an
    exact equality, except that the sum varies by `sd`.
    """

    coefficients: Mapping[str, Any]
    value: float
    sd: float | None = None

    def __post_init__(self) -> None:
        check_positive(self.sd, "an Equality")

    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        return _sum_masks(self.coefficients, layout, "an Equality")

    def guide(self, view: View) -> AbstractGuide:
        functional = _sum_of(self.coefficients, view)
        if self.sd is None:
            sd = EQUALITY_SD * jnp.std(jax.vmap(functional)(view.pilot), axis=0)
        else:
            sd = jnp.asarray([self.sd], float)
        return Near(functional, jnp.asarray([self.value], float), sd)
