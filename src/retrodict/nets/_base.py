"""What every network promises."""

import abc
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import PRNGKeyArray

from retrodict._errors import FileError
from retrodict._types import Roles, Scalar, Tokens
from retrodict.variables import Layout


class AbstractNet(eqx.Module):
    """A network with its weights."""

    @abc.abstractmethod
    def __call__(self, values: Tokens, roles: Roles, time: Scalar) -> Tokens:
        """The prediction `(d,)` from values `(d,)`, zero where absent, the roles `(d,)` and a time in (0, 1)."""


class AbstractArchitecture(abc.ABC):
    """A network yet to be built: plain settings, which go into the model file."""

    known: ClassVar[dict[str, type["AbstractArchitecture"]]] = {}

    def __init_subclass__(cls) -> None:
        AbstractArchitecture.known[cls.__name__] = cls

    @abc.abstractmethod
    def build(self, layout: Layout, *, key: PRNGKeyArray) -> AbstractNet:
        """The network for a layout, with fresh weights."""

    def to_json(self) -> dict[str, Any]:
        """Name and settings."""
        return {"name": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


def architecture_from_json(found: Mapping[str, Any]) -> AbstractArchitecture:
    """The inverse of `to_json`.

    Raises:
        FileError: the name is none of this version's architectures.
    """
    settings = dict(found)
    name = settings.pop("name")
    if name not in AbstractArchitecture.known:
        raise FileError(f"the file names the network '{name}', which this version does not know")
    return AbstractArchitecture.known[name](**settings)
