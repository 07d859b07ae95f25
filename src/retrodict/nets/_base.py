"""Base classes of networks, and of the plain settings from which networks are built.

A model file holds arrays and JSON. Settings therefore consist of plain values and stand in the file under a written
name; `_written_names` maps these names to classes, and a file can name nothing else.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from retrodict._types import Roles, Scalar, Tokens
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import AbstractRoleLaw
from retrodict.variables import Layout, as_lists


class AbstractNet(eqx.Module):
    """A network with its weights, for one example; `vmap` batches it."""

    def prepare(self, z: Tokens, roles: Roles) -> Any:
        """Computes the constants of a path once: the attention mask, the embedded observations.

        `z` holds all scaled elements of the layout, zero where not given; `roles` holds their roles.
        """
        del z, roles

    @abc.abstractmethod
    def __call__(self, values: Tokens, roles: Roles, time: Scalar, prepared: Any) -> Tokens:
        """Predicts `(d,)` from values `(d,)`, zero where absent, roles `(d,)` and a time in (0, 1).

        The `d` elements are those of the variables without an embedding.
        """

    def refusal(self, roles: np.ndarray) -> str | None:
        """The reason why the network cannot answer a query with these roles `(d,)`; `None` if it can."""
        del roles
        return None


class Constant:
    """An array of a network that is not trained.

    Constants with equal numbers are equal, so that code compiled for one is reused for the other.
    """

    def __init__(self, array: np.ndarray) -> None:
        # single precision, so that code compiled in a program of double precision is that of any other
        self.array = array.astype({"b": bool, "i": np.int32}.get(array.dtype.kind, np.float32))
        self._content = (self.array.shape, self.array.tobytes())
        self._hash = hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._content == other._content

    def __hash__(self) -> int:
        return self._hash


class AbstractSettings(abc.ABC):  # noqa: B024 - subclasses have nothing to implement
    """Plain settings that stand in a model file under a written name.

    A user's subclass is written under its class name. `_written_names` names the classes of this package.
    """

    written_name: ClassVar[str] = ""
    by_class_name: ClassVar[dict[str, type["AbstractSettings"]]] = {}

    def __init_subclass__(cls) -> None:
        cls.written_name = cls.__name__
        AbstractSettings.by_class_name[cls.__name__] = cls

    def to_json(self) -> dict[str, Any]:
        """Returns the written name and the settings."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {"name": self.written_name, **{f.name: _to_plain(getattr(self, f.name)) for f in fields}}


class AbstractArchitecture(AbstractSettings):
    """Settings from which `build` makes a network for a layout."""

    embed: Any = ()  # pairs (name, embedding), for the networks that take embeddings
    pointwise: ClassVar[bool] = False  # whether points of functions are independent of each other given all parameters

    @property
    def embedded(self) -> tuple[str, ...]:
        """Names of the variables that the network reads through an embedding; they are never latent."""
        return tuple(name for name, _ in self.embed)

    def pieces(self, name: str) -> int:
        """The number of first axes of an embedded variable along which elements may be missing."""
        return dict(self.embed)[name].pieces

    @abc.abstractmethod
    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        """Builds the network for a layout and a law of roles, with fresh weights.

        Raises:
            DataError: settings that do not fit the layout.
            QueryError: a law of roles that the network cannot be trained under.
        """


def _to_plain(value: Any) -> Any:
    return as_lists(value, lambda item: item.to_json() if isinstance(item, AbstractSettings) else item)
