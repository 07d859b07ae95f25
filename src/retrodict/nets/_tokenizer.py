"""The tokenizer of every transformer: from elements to tokens, and from tokens to predictions.

    token of an element     [W (value, latent?, given?) ; identity]         or their sum
    token of a patch        the same with the values and roles of all its elements
    tokens of an embedding  the output of its network, plus an identity

A *node* is one vertex of the dependency graph: an element, a patch, or a whole embedded variable. The attention mask
hides absent nodes from all tokens.
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
    """The constants of a path, for `t` modeled tokens and `s` embedded ones."""

    context: Array  # (s, width), the embedded tokens
    mask: Array  # (t + s, t + s), the attention mask
    places: Array | None  # (t + s, width), the features of coordinates


@dataclass(frozen=True)
class AbstractTransformer(AbstractArchitecture):
    """Settings of all transformers.

    Args:
        width: numbers per token; default: `heads * head_size`.
        heads, head_size: attention heads, and numbers per head.
        widening: hidden units of the MLP, divided by `width`.
        identity: the vectors that distinguish tokens.
        merge: "concat" concatenates value and identity of a token, "sum" adds them.
        edges: the attention mask from declared dependencies: "directed" (inverted for the roles of the query),
            "undirected" or "dense".
        embed: name of a variable to its embedding, or to an equinox module.
        patches: name of a variable of two or three axes (an image) to the rows and columns of a patch.
        coordinates: name of a variable to the coordinates of its elements, `(*shape, axes)` or `(*shape,)`.
        half: multiply matrices with bfloat16 factors.
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
        """The number of numbers per token."""
        return self.width or self.heads * self.head_size


@dataclass(frozen=True)
class _Run:
    """Consecutive elements with shared weights: single elements, or the patches of one variable."""

    elements: slice
    tokens: int
    variable: Variable | None = None
    patch: tuple[int, int] = (1, 1)
    size: int = 1

    def cut(self, x: Any) -> Any:
        """Reshapes elements `(n,)` to `(tokens, size)`."""
        if self.variable is None:
            return x[:, None]
        (h, w), (p, q) = self.variable.shape[:2], self.patch
        return x.reshape(h // p, p, w // q, q, -1).transpose(0, 2, 1, 3, 4).reshape(self.tokens, self.size)

    def join(self, x: Array) -> Array:
        """Inverts `cut`."""
        if self.variable is None:
            return x[:, 0]
        (h, w), (p, q) = self.variable.shape[:2], self.patch
        return x.reshape(h // p, w // q, p, q, -1).transpose(0, 2, 1, 3, 4).ravel()


class Tokenizer(eqx.Module):
    """The tokens of a layout: `prepare` once, `read` values into tokens, `predict` from transformed tokens."""

    runs: tuple[_Run, ...] = eqx.field(static=True)
    owners: Constant = eqx.field(static=True)  # the node of each token
    embedded_slices: tuple[slice, ...] = eqx.field(static=True)  # elements of each embedded variable
    modeled_elements: Constant = eqx.field(static=True)  # elements of the layout without embedded variables
    edges: Any = eqx.field(static=True)
    merge: str = eqx.field(static=True)
    enter: tuple[Dense, ...]
    leave: tuple[Dense, ...]
    identity: Identity
    coordinates: Coordinates | None
    fixed_coordinates: Constant | None = eqx.field(static=True)  # (t, axes), NaN for tokens without
    points: Constant | None = eqx.field(static=True)  # (t, axes), elements that hold a token's point, or -1
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
        width, full_layout = settings.across, layout
        # the points of functions come last in the layout, and are no tokens
        layout = layout.without(layout.places)
        _check_settings(settings, layout)
        patches = {name: tuple(size) for name, size in settings.patches}
        nodes = _nodes(layout, settings.embedded, patches)
        self.runs = _runs([v for v in layout.variables if v.name not in settings.embedded], patches)
        self.embedded = Embedded(settings.embed, layout, width=width, key=next(keys))
        self.embedded_slices = tuple(layout.slices[name] for name in settings.embedded)
        self.modeled_elements = Constant(layout.tokens_of(layout.without(settings.embedded).names))
        modeled = [n for v in nodes.variables if v.name not in settings.embedded for n in _range(nodes.slices[v.name])]
        counts = self.embedded.tokens
        embedded = [nodes.slices[name].start for name, count in counts.items() for _ in range(count)]
        self.owners = Constant(np.asarray(modeled + embedded))
        if dependencies is not None:
            dependencies = dependencies.contracted([*settings.embedded, *patches])
        self.edges = None if dependencies is None else dependencies.edges(nodes, settings.edges)
        self.merge = settings.merge
        identity_width = width - width // 2 if settings.merge == "concat" else width
        value_width = width // 2 if settings.merge == "concat" else width
        key_enter, key_leave = jr.split(next(keys))
        self.enter = tuple(
            Dense(3 * r.size, value_width, key=jr.fold_in(key_enter, i)) for i, r in enumerate(self.runs)
        )
        self.leave = tuple(
            Dense(width, r.size, key=jr.fold_in(key_leave, i), scale=0.0) for i, r in enumerate(self.runs)
        )
        # exchangeable parts share identities only under a mask, which shows the elements of one part to each other
        shared = dependencies is not None and settings.edges != "dense"
        kinds = dependencies.identity(nodes) if dependencies is not None and shared else np.arange(nodes.size)
        for name in layout.functions:  # the values of a function differ in their points only
            kinds[nodes.slices[name]] = kinds[nodes.slices[name].start]
        places = _places(nodes, self.owners.array, kinds, counts)
        self.identity = settings.identity.build(places, identity_width, settings.head_size, key=next(keys))
        coordinates = _coordinates(layout, dict(settings.coordinates), self.owners.array, nodes)
        points = _points(full_layout, self.owners.array, nodes)
        axes = _common_axes(coordinates, points)
        self.fixed_coordinates = None if coordinates is None else Constant(standardized(coordinates))
        self.points = None if points is None else Constant(points)
        self.coordinates = None if axes is None else Coordinates(axes, identity_width, key=next(keys))

    @property
    def n_modeled(self) -> int:
        """The number of tokens of elements or patches, which come before those of embeddings."""
        return sum(run.tokens for run in self.runs)

    def prepare(self, z: Tokens, roles: Roles) -> Prepared:
        """Computes the embedded tokens, the attention mask and the features of coordinates."""
        modeled_roles = roles[self.modeled_elements.array]
        run_roles = [_token_role(run.cut(modeled_roles[run.elements])) for run in self.runs]
        embedded_roles = [jnp.max(roles[block]) for block in self.embedded_slices]
        counts = self.embedded.tokens.values()
        repeated = [jnp.full(n, role) for n, role in zip(counts, embedded_roles, strict=True)]
        token_roles = jnp.concatenate([*run_roles, *repeated])
        if self.edges is None:
            mask = (token_roles != ABSENT)[None, :] | jnp.eye(len(token_roles), dtype=bool)
        else:
            nodes = self.owners.array
            node_roles = jnp.zeros(int(nodes.max()) + 1, roles.dtype).at[nodes].set(token_roles)
            mask = self.edges(node_roles)[nodes][:, nodes]
        return Prepared(self.embedded(z, roles), mask, self._places(z))

    def _places(self, z: Tokens) -> Float[Array, "t width"] | None:
        if self.coordinates is None:
            return None
        coordinates = jnp.full((len(self.owners.array), self.coordinates.axes), jnp.nan, z.dtype)
        if self.fixed_coordinates is not None:
            coordinates = jnp.asarray(self.fixed_coordinates.array, z.dtype)
        if self.points is not None:
            coordinates = jnp.where(self.points.array >= 0, z[self.points.array], coordinates)
        return self.coordinates(coordinates)

    def latent(self, mask: np.ndarray) -> np.ndarray:
        """Returns a mask of the tokens with a latent element, from a mask `(d,)` of the layout's latent elements."""
        modeled = mask[self.modeled_elements.array]
        tokens = [np.asarray(run.cut(modeled[run.elements])).any(axis=1) for run in self.runs]
        return np.concatenate([*tokens, np.zeros(len(self.owners.array) - self.n_modeled, bool)])

    def read(self, values: Tokens, roles: Roles, prepared: Prepared) -> Float[Array, "t width"]:
        """Makes tokens from values and roles, the embedded tokens last."""
        inputs = (values, (roles == LATENT).astype(values.dtype), (roles == GIVEN).astype(values.dtype))
        projected = []
        for run, dense in zip(self.runs, self.enter, strict=True):
            projected.append(dense(jnp.concatenate([run.cut(x[run.elements]) for x in inputs], axis=-1)))
        value, identity = jnp.concatenate(projected), self.identity()
        if prepared.places is not None:
            identity = identity + prepared.places
        modeled, embedded = identity[: self.n_modeled], identity[self.n_modeled :]
        tokens = value + modeled if self.merge == "sum" else jnp.concatenate([value, modeled], axis=-1)
        if not len(embedded):
            return tokens
        padded = jnp.pad(embedded, ((0, 0), (tokens.shape[1] - embedded.shape[1], 0)))
        return jnp.concatenate([tokens, prepared.context + padded])

    def predict(self, h: Float[Array, "t width"]) -> Tokens:
        """Makes predictions for every modeled element from transformed tokens."""
        predictions, start = [], 0
        for run, dense in zip(self.runs, self.leave, strict=True):
            predictions.append(run.join(dense(h[start : start + run.tokens])))
            start += run.tokens
        return jnp.concatenate(predictions)


def _token_role(roles: Array) -> Array:
    """Returns the role of each token from those of its elements: latent if any is, else given if any is."""
    return jnp.where(jnp.any(roles == LATENT, axis=1), LATENT, jnp.max(roles, axis=1))


def _nodes(layout: Layout, embedded: tuple[str, ...], patches: Mapping[str, tuple[int, int]]) -> Layout:
    """Returns the layout with one element per node."""

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
    """Returns the positions of tokens; nodes of the same number in `kinds` share an identity."""
    # the points of a function have no order
    place = np.concatenate([_grid(v.shape) * (v.axes == 0) for v in nodes.variables])[owners]
    # the tokens of an embedding have an order, in one dimension
    order = np.concatenate([np.zeros(len(owners) - sum(counts.values()), int), *map(np.arange, counts.values())])
    place[:, 1] += order
    identity = np.unique(np.stack([kinds[owners], order]), axis=1, return_inverse=True)[1]
    axes = {v.name: len(v.shape) for v in nodes.variables} | {name: int(n > 1) for name, n in counts.items()}
    extent = tuple(axes[nodes.variables[i].name] for i in nodes.owner[owners])
    return Places(identity, nodes.owner[owners], place, extent)


def _grid(shape: tuple[int, ...]) -> np.ndarray:
    """Returns row and column of every element, `(n, 2)`; a variable of one axis has columns only."""
    if len(shape) < 2:
        n = math.prod(shape)
        return np.stack([np.zeros(n, int), np.arange(n)], axis=1)
    rows, columns, *_ = np.indices(shape)
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def _coordinates(layout: Layout, settings: Mapping[str, Any], owners: np.ndarray, nodes: Layout) -> np.ndarray | None:
    """Returns the coordinates of every token, `(t, axes)`, NaN for tokens without.

    Raises:
        DataError: coordinates of a wrong shape, or of different numbers of axes.
    """
    if not settings:
        return None
    arrays = {}
    for name, coordinates in settings.items():
        array, shape = np.asarray(coordinates, float), layout[name].shape
        array = array[..., None] if array.shape == shape else array
        if array.shape[:-1] != shape or not np.isfinite(array).all():
            raise DataError(
                f"the coordinates of '{name}' must be finite and have the shape {shape} or {(*shape, 'axes')}, "
                f"got {np.shape(coordinates)}"
            )
        arrays[name] = array.reshape(layout[name].size, -1)
    axes = {array.shape[1] for array in arrays.values()}
    if len(axes) > 1:
        raise DataError(f"all coordinates need the same number of axes, got {sorted(axes)}")
    (width,) = axes
    rows = [arrays.get(v.name, np.full((v.size, width), np.nan)) for v in nodes.variables]
    return np.concatenate(rows)[owners]


def _points(layout: Layout, owners: np.ndarray, nodes: Layout) -> np.ndarray | None:
    """Returns the indices of the layout's elements that hold a token's point, `(t, axes)`, -1 for tokens without.

    Raises:
        DataError: functions of different numbers of coordinates.
    """
    if not layout.functions:
        return None
    axes = {layout[name].axes for name in layout.functions}
    if len(axes) > 1:
        raise DataError(f"all functions need the same number of coordinates, got {sorted(axes)}")
    (width,) = axes
    indices = np.full((nodes.size, width), -1)
    for name in layout.functions:
        indices[nodes.slices[name]] = np.arange(layout.size)[layout.slices[places_of(name)]].reshape(-1, width)
    return indices[owners]


def _common_axes(coordinates: np.ndarray | None, points: np.ndarray | None) -> int | None:
    """Returns the number of axes of all coordinates, `None` without any.

    Raises:
        DataError: fixed coordinates and functions of different numbers of axes.
    """
    axes = [array.shape[1] for array in (coordinates, points) if array is not None]
    if len(set(axes)) > 1:
        raise DataError(f"all coordinates need the same number of axes, got {axes[0]} and {axes[1]} of functions")
    return axes[0] if axes else None


def _check_settings(settings: AbstractTransformer, layout: Layout) -> None:
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
    """Turns a mapping into pairs, so that settings can be compared and hashed."""
    return tuple((name, _frozen(value)) for name, value in dict(mapping).items())


def _frozen(value: Any) -> Any:
    if isinstance(value, np.ndarray | jnp.ndarray):
        value = np.asarray(value).tolist()
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _range(block: slice) -> range:
    return range(block.start, block.stop)
