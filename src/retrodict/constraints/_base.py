"""What every constraint promises, and what it is told of a question."""

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


def known(layout: Layout, name: str, where: str) -> tuple[int, ...]:
    if name not in layout.names:
        raise QueryError(unknown(where, name, layout.names))
    return layout[name].shape


def positive(sd: float | None, where: str) -> None:
    if sd is not None and not sd > 0:
        raise DataError(f"{where} needs an `sd` above zero, got {sd}")
