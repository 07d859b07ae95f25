"""The protocol of constraints, and the view of a query that a constraint gets."""

import abc
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from retrodict._errors import DataError, QueryError, unknown
from retrodict._types import Tokens
from retrodict.guidance import AbstractGuide
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


class Units(eqx.Module):
    """A map from latent tokens in the model's coordinates to all tokens in the user's units.

    Attributes:
        z: all tokens in the model's coordinates; those that are not latent stay at these values.
        latent: mask of the latent tokens.
    """

    scaling: Scaling
    z: Tokens
    latent: Bool[Array, " d"]

    @property
    def layout(self) -> Layout:
        return self.scaling.layout

    def full(self, data: Tokens) -> Tokens:
        """Returns `data` for latent tokens, and `z` for the others."""
        return jnp.where(self.latent, data, self.z)

    def __call__(self, data: Tokens) -> Tokens:
        return self.scaling.inverse(self.full(data))


@dataclass(frozen=True)
class View:
    """The view of a query that a constraint needs: units, and pilot draws `(n, d)` without any constraint."""

    units: Units
    pilot: Float[Array, "n d"]

    @property
    def layout(self) -> Layout:
        return self.units.layout


class AbstractConstraint(abc.ABC):
    """A constraint on the values of some elements. These elements are drawn unless they are given."""

    @abc.abstractmethod
    def masks(self, layout: Layout) -> dict[str, np.ndarray]:
        """Returns the elements under the constraint: booleans of the shape of each variable, by name.

        Raises:
            QueryError: a name that the model does not have.
            DataError: values of the wrong shape or type.
        """

    @abc.abstractmethod
    def guide(self, view: View) -> AbstractGuide:
        """Returns the constraint as a guide: a function of tokens."""


def shape_of(layout: Layout, name: str, owner: str) -> tuple[int, ...]:
    """Returns the shape of a variable.

    Raises:
        QueryError: `owner`, a constraint in words, has a name that the layout lacks.
    """
    if name not in layout.names:
        raise QueryError(unknown(owner, name, layout.names))
    return layout[name].shape


def check_positive(sd: float | None, owner: str) -> None:
    """Checks that an `sd` is above zero, or None.

    Raises:
        DataError: it is not.
    """
    if sd is not None and not sd > 0:
        raise DataError(f"{owner} needs an `sd` above zero, got {sd}")
