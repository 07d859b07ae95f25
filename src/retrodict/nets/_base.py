"""What every network promises, and what every setting of a network promises.

An architecture is plain settings, so that a model file is arrays and JSON: every class of settings is known by its
name, and a file can name nothing else.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from retrodict._errors import FileError
from retrodict._types import Roles, Scalar, Tokens
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import AbstractRoleLaw
from retrodict.variables import Layout


class AbstractNet(eqx.Module):
    """A network with its weights, written for one example."""

    def prepare(self, z: Tokens, roles: Roles) -> Any:
        """What stays the same along a whole path, made once: who may look at whom, embedded observations.

        `z` are all scaled elements of the layout, zero where not given, and `roles` theirs.
        """
        del z, roles

    @abc.abstractmethod
    def __call__(self, values: Tokens, roles: Roles, time: Scalar, prepared: Any) -> Tokens:
        """The prediction `(d,)` from values `(d,)`, zero where absent, the roles `(d,)` and a time in (0, 1).

        These `d` elements are those of variables that are not embedded.
        """

    def refusal(self, roles: np.ndarray) -> str | None:
        """Why the network cannot answer a question with these roles `(d,)`; `None` if it can."""
        del roles
        return None


class Constant:
    """Numbers of a network that are not trained; equal where the numbers are, so that compiled code is used again."""

    def __init__(self, array: np.ndarray) -> None:
        whole = array.dtype.kind in "ib"
        self.array = array if whole else array.astype(np.float32)
        self._content = (self.array.shape, self.array.tobytes())
        self._hash = hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._content == other._content

    def __hash__(self) -> int:
        return self._hash


class AbstractSettings(abc.ABC):  # noqa: B024 - what it promises, it also does
    """Plain settings that go into the model file under the name of their class."""

    known: ClassVar[dict[str, type["AbstractSettings"]]] = {}

    def __init_subclass__(cls) -> None:
        AbstractSettings.known[cls.__name__] = cls

    def to_json(self) -> dict[str, Any]:
        """Name and settings."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {"name": type(self).__name__, **{f.name: _plain(getattr(self, f.name)) for f in fields}}


class AbstractArchitecture(AbstractSettings):
    """A network yet to be built."""

    embed: Any = ()  # pairs of name and embedding, for the networks that take some

    @property
    def embedded(self) -> tuple[str, ...]:
        """Variables that the network reads as a whole, through an embedding; they can be given or absent, not asked."""
        return tuple(name for name, _ in self.embed)

    def pieces(self, name: str) -> int:
        """Along how many of its first axes elements of an embedded variable may be missing."""
        return dict(self.embed)[name].pieces

    @abc.abstractmethod
    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        """The network for a layout, trained under a law of roles, with fresh weights.

        Raises:
            DataError: settings that do not fit the layout.
            QueryError: a law of roles that the network cannot be trained under.
        """


def architecture_from_json(found: Mapping[str, Any]) -> AbstractArchitecture:
    """The inverse of `to_json`.

    Raises:
        FileError: the name is none of this version's architectures.
    """
    made = _made(found)
    if not isinstance(made, AbstractArchitecture):
        raise FileError(f"the file names the network '{found['name']}', which is none")
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, AbstractSettings):
        return value.to_json()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_made(v) for v in value)
    if not isinstance(value, Mapping):
        return value
    settings = {key: _made(setting) for key, setting in value.items()}
    name = settings.pop("name")
    if name not in AbstractSettings.known:
        raise FileError(f"the file names the network '{name}', which this version does not know")
    return AbstractSettings.known[name](**settings)
