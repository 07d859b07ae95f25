"""From elements to tokens and back: what every transformer here reads and says.

    token of an element     [W (value, latent?, given?) ; identity]         or their sum
    token of a patch        the same with the values and roles of all of its elements
    tokens of an embedding  what a network made of the whole variable, plus an identity

A *node* is what structure speaks of: an element, a patch, or a whole embedded variable. Nobody sees an absent one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict._errors import DataError, unknown
from retrodict._types import Roles, Tokens
from retrodict.nets._base import AbstractArchitecture, Constant
from retrodict.nets._blocks import Dense
from retrodict.nets._embeddings import Embedded, as_embeddings, check_embedded
from retrodict.nets._identity import AbstractIdentity, Coordinates, Identity, Learned, Places, standardized
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.variables import Layout, Variable, places_of


LEARNED = Learned()
Merge = Literal["concat", "sum"]
Kind = Literal["directed", "undirected", "dense"]


class Prepared(eqx.Module):
    """What does not change along a path: embedded tokens `(s, width)`, who may look at whom `(t + s, t + s)`, and what
    coordinates add to the identities `(t + s, width)`, if there are any."""

    context: Array
    mask: Array
    places: Array | None


@dataclass(frozen=True)
class AbstractTransformer(AbstractArchitecture):
    """Settings that all transformers share.

    Args:
        width: numbers per token; by default as many as the heads have together.
        heads, head_size: attention heads and their numbers.
        widening: the MLP's hidden numbers over `width`.
        identity: how tokens are told apart.
        merge: whether a token is value and identity side by side ("concat") or their sum.
        edges: the mask that declared dependencies make: "directed" (inverted for the roles at hand), "undirected" or
            "dense".
        embed: name to an embedding, or to an equinox module; these variables are read as a whole.
        patches: name to the rows and columns of a patch, for variables of two or three axes (images).
        coordinates: name to the places of a variable's elements, `(*shape, axes)` or `(*shape,)`.
        half: compute matrix products with bfloat16 factors.
    """

    width: int | None = None
    heads: int = 4
    head_size: int = 16
    widening: int = 3
    identity: AbstractIdentity = LEARNED
    merge: Merge = "concat"
    edges: Kind = "directed"
    embed: Any = ()
    patches: Any = ()
    coordinates: Any = ()
    half: bool = False

    def __post_init__(self) -> None:
        for name in ("heads", "head_size", "widening"):
            if getattr(self, name) < 1:
                raise DataError(f"{type(self).__name__} needs a positive `{name}`, got {getattr(self, name)}")
        if self.width is not None and self.width < 2:
            raise DataError(f"{type(self).__name__} needs a `width` of at least 2, got {self.width}")
        object.__setattr__(self, "embed", as_embeddings(self.embed))
        for name in ("patches", "coordinates"):
            object.__setattr__(self, name, _pairs(getattr(self, name)))

    @property
    def across(self) -> int:
        """The numbers per token."""
        return self.width or self.heads * self.head_size


@dataclass(frozen=True)
class _Run:
    """Elements that share their weights: plain ones, or the patches of one variable."""

    elements: slice
    tokens: int
    variable: Variable | None = None
    patch: tuple[int, int] = (1, 1)
    size: int = 1

    def cut(self, x: Any) -> Any:
        """Elements `(n,)` as `(tokens, size)`."""
        if self.variable is None:
            return x[:, None]
        (h, w), (p, q) = self.variable.shape[:2], self.patch
        return x.reshape(h // p, p, w // q, q, -1).transpose(0, 2, 1, 3, 4).reshape(self.tokens, self.size)

    def join(self, x: Array) -> Array:
        """The inverse of `cut`."""
        if self.variable is None:
            return x[:, 0]
        (h, w), (p, q) = self.variable.shape[:2], self.patch
        return x.reshape(h // p, w // q, p, q, -1).transpose(0, 2, 1, 3, 4).ravel()


class Tokenizer(eqx.Module):
    """The tokens of a layout: `prepare` once, `read` values into tokens, `say` predictions out of them."""

    runs: tuple[_Run, ...] = eqx.field(static=True)
    owners: Constant = eqx.field(static=True)  # of every token, its node
    wholes: tuple[slice, ...] = eqx.field(static=True)  # of every embedded variable, its elements in the whole layout
    kept: Constant = eqx.field(static=True)  # elements of the whole layout that are no embedded variable's
    edges: Any = eqx.field(static=True)
    merge: str = eqx.field(static=True)
    enter: tuple[Dense, ...]
    leave: tuple[Dense, ...]
    identity: Identity
    coordinates: Coordinates | None
    known: Constant | None = eqx.field(static=True)  # coordinates of tokens, the same in every row, or NaN
    points: Constant | None = eqx.field(static=True)  # of tokens of functions, where in the layout; or -1
    embedded: Embedded

    def __init__(
        self,
        settings: AbstractTransformer,
        layout: Layout,
        dependencies: Dependencies | None,
        *,
        key: PRNGKeyArray,
    ) -> None:
        keys = iter(jr.split(key, 8))
        width, whole_layout = settings.across, layout
        # where functions lie comes last, and is no token
        layout = layout.without(layout.places)
        _known(settings, layout)
        patches = {name: tuple(size) for name, size in settings.patches}
        nodes = _nodes(layout, settings.embedded, patches)
        self.runs = _runs([v for v in layout.variables if v.name not in settings.embedded], patches)
        self.embedded = Embedded(settings.embed, layout, width=width, key=next(keys))
        self.wholes = tuple(layout.slices[name] for name in settings.embedded)
        self.kept = Constant(layout.tokens_of(layout.without(settings.embedded).names))
        modeled = [n for v in nodes.variables if v.name not in settings.embedded for n in _range(nodes.slices[v.name])]
        counts = self.embedded.tokens
        whole = [nodes.slices[name].start for name, count in counts.items() for _ in range(count)]
        self.owners = Constant(np.asarray(modeled + whole))
        if dependencies is not None:
            dependencies = dependencies.contracted([*settings.embedded, *patches])
        self.edges = None if dependencies is None else dependencies.edges(nodes, settings.edges)
        self.merge = settings.merge
        of_identity = width - width // 2 if settings.merge == "concat" else width
        of_value = width // 2 if settings.merge == "concat" else width
        key_enter, key_leave = jr.split(next(keys))
        self.enter = tuple(Dense(3 * r.size, of_value, key=jr.fold_in(key_enter, i)) for i, r in enumerate(self.runs))
        self.leave = tuple(
            Dense(width, r.size, key=jr.fold_in(key_leave, i), scale=0.0) for i, r in enumerate(self.runs)
        )
        # masks tell which elements make up a part; where everybody sees everybody, only identities could
        shared = dependencies is not None and settings.edges != "dense"
        kinds = dependencies.identity(nodes) if dependencies is not None and shared else np.arange(nodes.size)
        for name in layout.functions:  # its values differ in where they lie, and in nothing else
            kinds[nodes.slices[name]] = kinds[nodes.slices[name].start]
        places = _places(nodes, self.owners.array, kinds, counts)
        self.identity = settings.identity.build(places, of_identity, settings.head_size, key=next(keys))
        known = _coordinates(layout, dict(settings.coordinates), self.owners.array, nodes)
        points = _points(whole_layout, self.owners.array, nodes)
        if known is not None and points is not None and known.shape[1] != points.shape[1]:
            raise DataError(
                f"all coordinates need the same number of axes, got {known.shape[1]} and {points.shape[1]} of functions"
            )
        axes = next((array.shape[1] for array in (known, points) if array is not None), None)
        self.known = None if known is None else Constant(standardized(known))
        self.points = None if points is None else Constant(points)
        self.coordinates = None if axes is None else Coordinates(axes, of_identity, key=next(keys))

    @property
    def modeled(self) -> int:
        """How many tokens are elements or patches, rather than embeddings."""
        return sum(run.tokens for run in self.runs)

    def prepare(self, z: Tokens, roles: Roles) -> Prepared:
        """The embedded tokens, and who may look at whom."""
        latent_or_given = roles[self.kept.array]
        parts = [_summary(run.cut(latent_or_given[run.elements])) for run in self.runs]
        whole = [jnp.max(roles[block]) for block in self.wholes]
        counts = list(self.embedded.tokens.values())
        of_tokens = jnp.concatenate([*parts, *(jnp.full(n, role) for n, role in zip(counts, whole, strict=True))])
        if self.edges is None:
            mask = (of_tokens != ABSENT)[None, :] | jnp.eye(len(of_tokens), dtype=bool)
        else:
            order = self.owners.array
            of_nodes = jnp.zeros(int(order.max()) + 1, roles.dtype).at[order].set(of_tokens)
            mask = self.edges(of_nodes)[order][:, order]
        return Prepared(self.embedded(z, roles), mask, self._places(z))

    def _places(self, z: Tokens) -> Float[Array, "t width"] | None:
        if self.coordinates is None:
            return None
        found = jnp.full((len(self.owners.array), self.coordinates.axes), jnp.nan, z.dtype)
        if self.known is not None:
            found = jnp.asarray(self.known.array, z.dtype)
        if self.points is not None:
            found = jnp.where(self.points.array >= 0, z[self.points.array], found)
        return self.coordinates(found)

    def latent(self, asked: np.ndarray) -> np.ndarray:
        """Which tokens have something to say when `asked` `(d,)` are the latent elements of the whole layout."""
        of = asked[self.kept.array]
        parts = [np.asarray(run.cut(of[run.elements])).any(axis=1) for run in self.runs]
        return np.concatenate([*parts, np.zeros(len(self.owners.array) - self.modeled, bool)])

    def read(self, values: Tokens, roles: Roles, prepared: Prepared) -> Float[Array, "t width"]:
        """Tokens, the embedded ones last."""
        latent, given = roles == LATENT, roles == GIVEN
        parts = []
        for run, dense in zip(self.runs, self.enter, strict=True):
            of = [run.cut(x[run.elements]) for x in (values, latent.astype(values.dtype), given.astype(values.dtype))]
            parts.append(dense(jnp.concatenate(of, axis=-1)))
        value, identity = jnp.concatenate(parts), self.identity()
        if prepared.places is not None:
            identity = identity + prepared.places
        own, others = identity[: self.modeled], identity[self.modeled :]
        tokens = value + own if self.merge == "sum" else jnp.concatenate([value, own], axis=-1)
        if not len(others):
            return tokens
        padded = jnp.pad(others, ((0, 0), (tokens.shape[1] - others.shape[1], 0)))
        return jnp.concatenate([tokens, prepared.context + padded])

    def say(self, h: Float[Array, "t width"]) -> Tokens:
        """Predictions for every element that is not embedded."""
        parts, start = [], 0
        for run, dense in zip(self.runs, self.leave, strict=True):
            parts.append(run.join(dense(h[start : start + run.tokens])))
            start += run.tokens
        return jnp.concatenate(parts)


def _summary(roles: Array) -> Array:
    """One role for all elements of a token: latent where any is, else given where any is."""
    return jnp.where(jnp.any(roles == LATENT, axis=1), LATENT, jnp.max(roles, axis=1))


def _nodes(layout: Layout, embedded: tuple[str, ...], patches: Mapping[str, tuple[int, int]]) -> Layout:
    """The layout with one element per node."""

    def contracted(variable: Variable) -> Variable:
        if variable.name in embedded:
            return Variable(variable.name, (), kind=variable.kind)
        if variable.name in patches:
            (h, w), (p, q) = variable.shape[:2], patches[variable.name]
            return Variable(variable.name, (h // p, w // q), kind=variable.kind)
        return variable

    return Layout(tuple(map(contracted, layout.variables)))


def _runs(variables: list[Variable], patches: Mapping[str, tuple[int, int]]) -> tuple[_Run, ...]:
    runs: list[_Run] = []
    start = 0
    for v in variables:
        block = slice(start, start + v.size)
        start += v.size
        if v.name in patches:
            p, q = patches[v.name]
            count = (v.shape[0] // p) * (v.shape[1] // q)
            runs.append(_Run(block, count, v, (p, q), v.size // count))
        elif runs and runs[-1].variable is None:
            runs[-1] = _Run(slice(runs[-1].elements.start, block.stop), runs[-1].tokens + v.size)
        else:
            runs.append(_Run(block, v.size))
    return tuple(runs)


def _places(nodes: Layout, owners: np.ndarray, kinds: np.ndarray, counts: Mapping[str, int]) -> Places:
    """Where tokens lie; `kinds` numbers the nodes, alike where they share an identity."""
    # the points of a function are in no order
    place = np.concatenate([_grid(v.shape) * (v.axes == 0) for v in nodes.variables])[owners]
    # an embedding's tokens are in order, in one dimension
    within = np.concatenate([np.zeros(len(owners) - sum(counts.values()), int), *map(np.arange, counts.values())])
    place[:, 1] += within
    identity = np.unique(np.stack([kinds[owners], within]), axis=1, return_inverse=True)[1]
    axes = {v.name: len(v.shape) for v in nodes.variables} | {name: int(n > 1) for name, n in counts.items()}
    extent = tuple(axes[nodes.variables[i].name] for i in nodes.owner[owners])
    return Places(identity, nodes.owner[owners], place, extent)


def _grid(shape: tuple[int, ...]) -> np.ndarray:
    """Row and column of every element, `(n, 2)`; the last axis is the column of a variable of one axis."""
    if len(shape) < 2:
        n = math.prod(shape)
        return np.stack([np.zeros(n, int), np.arange(n)], axis=1)
    rows, columns, *_ = np.indices(shape)
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def _coordinates(layout: Layout, known: Mapping[str, Any], owners: np.ndarray, nodes: Layout) -> np.ndarray | None:
    """Coordinates of every token, `(t, axes)`, NaN where there are none."""
    if not known:
        return None
    arrays = {}
    for name, given in known.items():
        array, shape = np.asarray(given, float), layout[name].shape
        array = array[..., None] if array.shape == shape else array
        if array.shape[:-1] != shape or not np.isfinite(array).all():
            raise DataError(
                f"the coordinates of '{name}' must be finite and have the shape {shape} or {(*shape, 'axes')}, "
                f"got {np.shape(given)}"
            )
        arrays[name] = array.reshape(layout[name].size, -1)
    axes = {array.shape[1] for array in arrays.values()}
    if len(axes) > 1:
        raise DataError(f"all coordinates need the same number of axes, got {sorted(axes)}")
    (width,) = axes
    rows = [arrays.get(v.name, np.full((v.size, width), np.nan)) for v in nodes.variables]
    return np.concatenate(rows)[owners]


def _points(layout: Layout, owners: np.ndarray, nodes: Layout) -> np.ndarray | None:
    """Where among the elements of the layout the coordinates of every token lie, `(t, axes)`, -1 where there are none.

    Raises:
        DataError: functions of different numbers of coordinates.
    """
    if not layout.functions:
        return None
    axes = {layout[name].axes for name in layout.functions}
    if len(axes) > 1:
        raise DataError(f"all functions need the same number of coordinates, got {sorted(axes)}")
    (width,) = axes
    found = np.full((nodes.size, width), -1)
    for name in layout.functions:
        found[nodes.slices[name]] = np.arange(layout.size)[layout.slices[places_of(name)]].reshape(-1, width)
    return found[owners]


def _known(settings: AbstractTransformer, layout: Layout) -> None:
    """Raises DataError unless every name and patch fits the layout."""
    patches = dict(settings.patches)
    check_embedded(settings.embedded, layout)
    for field_name, names in (("patches", patches), ("coordinates", dict(settings.coordinates))):
        for name in names:
            if name not in layout.names:
                raise DataError(unknown(f"`{field_name}`", name, layout.names))
    for name, patch in patches.items():
        shape = layout[name].shape
        if name in settings.embedded or name in dict(settings.coordinates):
            raise DataError(f"'{name}' is cut into patches; it cannot be embedded or have coordinates as well")
        if len(shape) not in (2, 3) or len(patch) != 2 or shape[0] % patch[0] or shape[1] % patch[1]:
            raise DataError(
                f"`patches` cuts '{name}' into pieces of {patch}, but it has the shape {shape}; rows and columns must "
                "be multiples of the patch's"
            )


def _pairs(mapping: Any) -> tuple[tuple[str, Any], ...]:
    """A mapping as pairs, so that settings can be compared and hashed."""
    return tuple((name, _frozen(value)) for name, value in dict(mapping).items())


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray | jnp.ndarray):
        value = np.asarray(value).tolist()
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _range(block: slice) -> range:
    return range(block.start, block.stop)
