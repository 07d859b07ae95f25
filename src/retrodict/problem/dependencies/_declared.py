"""Dependencies as a user declares them: by name, by element, as a matrix, or read off a model.

adjacency    [child, parent], True where the child's law mentions the parent
parts        pieces of a variable that may be exchanged without changing its law: slcp's four points, i.i.d. trials
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from retrodict._errors import DataError, listed, unknown
from retrodict.problem import Prior, Problem
from retrodict.problem._ends import base_of
from retrodict.problem.dependencies._masks import Edges, Kind
from retrodict.variables import Layout, names_of


@dataclasses.dataclass(frozen=True, init=False)
class Dependencies:
    """Dependencies between elements, and interchangeable parts of variables.

    Args:
        parents: a child's name to the names of its parents. A name stands for all elements of a variable, `"x"`, or for
            a single element by its position, `"x[3]"`, or by its index in the shape, `"x[0,1]"`. A child that names its
            own variable depends on the earlier elements of it. Variables that are no key depend on nothing.
        exchangeable: a variable's name to its number of interchangeable parts, which are of equal size and in order.
            Each variable is exchangeable on its own; parts that belong together across two variables are not.
        matrix: instead of `parents`, rows of "0" and "1"; see `from_matrix`.
        order: the order of the variables in `matrix`, where it is not the layout's.

    Raises:
        DataError: a number of parts that is not a positive whole number. Names are checked by `adjacency`, which knows
            the layout.
    """

    parents: tuple[tuple[str, tuple[str, ...]], ...]
    exchangeable: tuple[tuple[str, int], ...]
    matrix: tuple[str, ...]
    order: tuple[str, ...]

    def __init__(
        self,
        parents: Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]] = (),
        exchangeable: Mapping[str, int] | Iterable[tuple[str, int]] = (),
        matrix: Sequence[str] = (),
        order: Sequence[str] = (),
    ) -> None:
        for name, parts in dict(exchangeable).items():
            if not isinstance(parts, int) or parts < 1:
                raise DataError(f"`exchangeable` gives '{name}' {parts!r} parts; write a whole number, 1 or more")
        pairs = tuple((child, tuple(names_of(ps))) for child, ps in dict(parents).items())
        object.__setattr__(self, "parents", pairs)
        object.__setattr__(self, "exchangeable", tuple(dict(exchangeable).items()))
        object.__setattr__(self, "matrix", tuple(matrix))
        object.__setattr__(self, "order", tuple(order))

    @classmethod
    def from_matrix(
        cls, adjacency: Any, names: Sequence[str] = (), exchangeable: Mapping[str, int] | None = None
    ) -> "Dependencies":
        """Reads `(d, d)` booleans, `[child, parent]`, in the layout's order of elements or in that of `names`.

        Raises:
            DataError: the matrix is not square, or holds other values than booleans.
        """
        array = np.asarray(adjacency)
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            raise DataError(f"a matrix of dependencies is square, [child, parent], got the shape {array.shape}")
        if not np.isin(array, (0, 1)).all():
            raise DataError("a matrix of dependencies holds booleans: True where the row depends on the column")
        rows = ["".join("1" if entry else "0" for entry in row) for row in array]
        return cls((), exchangeable or {}, rows, names)

    @classmethod
    def from_numpyro(cls, model: Callable[..., Any], *args: Any, **kwargs: Any) -> "Dependencies":
        """Reads the trace of a numpyro model: every site depends on the sites in its distribution's parameters.

        Deterministic sites are passed through. Elements of a site depend on its earlier elements if its distribution is
        multivariate, and not otherwise.

        Raises:
            DataError: the model uses `scan`, within which sites depend on their own earlier elements.
        """
        from numpyro import handlers
        from numpyro.infer.inspect import get_model_relations

        trace = handlers.trace(handlers.seed(model, rng_seed=0)).get_trace(*args, **kwargs)
        if any(site.get("_control_flow_done") for site in trace.values()):
            raise DataError(
                "a numpyro model with `scan` hides which step depends on which; write the elements' parents"
            )
        relations = get_model_relations(model, args, kwargs)["sample_sample"]
        parents: dict[str, list[str]] = {}
        for name, mentioned in relations.items():
            lists = ([u] if trace[u]["type"] == "sample" else parents[u] for u in mentioned)
            parents[name] = list(dict.fromkeys(u for us in lists for u in us))
        sites = {name: site["fn"] for name, site in trace.items() if site["type"] == "sample"}
        return cls({name: [*parents[name], *_if_multivariate(name, fn)] for name, fn in sites.items()})

    @classmethod
    def of(cls, problem: Problem) -> "Dependencies":
        """Reads a problem, in whose prior functions name their parents.

        A simulator is a black box: every data variable depends on every parameter and on all earlier data elements.
        """
        parameters, prior = problem.layout.parameters, problem.prior
        if isinstance(prior, Prior):
            draw = prior.draw(jr.key(0))
            parents = {
                name: [*entry.parents, *_if_multivariate(name, entry.distribution(draw))]
                for name, entry in prior.entries.items()
            }
        else:  # a prior of another class says nothing of its structure either
            parents = {name: parameters[: i + 1] for i, name in enumerate(parameters)}
        data = problem.layout.data
        return cls(parents | {name: [*parameters, *data[: i + 1]] for i, name in enumerate(data)})

    def to_json(self) -> dict[str, Any]:
        """Plain strings and numbers."""
        return {
            "parents": {child: list(parents) for child, parents in self.parents},
            "exchangeable": dict(self.exchangeable),
            "matrix": list(self.matrix),
            "order": list(self.order),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Dependencies":
        """The inverse of `to_json`."""
        return cls(**entry)

    def adjacency(self, layout: Layout) -> Bool[np.ndarray, "d d"]:
        """The matrix `[child, parent]` of the elements of a layout; the diagonal is False.

        Raises:
            DataError: an unknown name or element, a circle, a matrix of another size, or edges that tell apart parts
                that are `exchangeable`.
        """
        edges = self._arranged(layout) if self.matrix else np.zeros((layout.size, layout.size), bool)
        for child, parents in self.parents:
            for parent in parents:
                _connect(edges, layout, child, parent)
        circle = _circle(edges)
        if circle:
            names = " -> ".join(f"'{_label(layout, i)}'" for i in circle)
            raise DataError(f"the dependencies run in a circle, {names}; take one of these edges out")
        for name, parts in self.exchangeable:
            _check_exchangeable(edges, layout, name, _parts(layout, name, parts))
        return edges

    def edges(self, layout: Layout, kind: Kind) -> Edges:
        """The attention edges of a layout as a function of the roles."""
        if kind not in get_args(Kind):
            raise DataError(f"edges are {listed(get_args(Kind))}, got {kind!r}")
        return Edges(kind, self.adjacency(layout))

    def contracted(self, names: Iterable[str]) -> "Dependencies":
        """The dependencies when the variables `names` are seen as a whole, or in patches.

        A dependency of any element of such a variable holds for the variable, and its interchangeable parts are
        dropped.
        """
        contracted = set(names)

        def merged_name(reference: str) -> str:
            variable = reference.split("[")[0]
            return variable if variable in contracted else reference

        merged: dict[str, list[str]] = {}
        for child, parents in self.parents:
            merged.setdefault(merged_name(child), []).extend(map(merged_name, parents))
        pairs = {child: dict.fromkeys(parents) for child, parents in merged.items()}
        parts = [(name, count) for name, count in self.exchangeable if name not in contracted]
        return Dependencies(pairs, parts, self.matrix, self.order)

    def shuffle(self, layout: Layout) -> Callable[[PRNGKeyArray], Int[Array, " d"]]:
        """A function from a key to a permutation `(d,)` of the tokens: `tokens[permutation]` has its parts shuffled."""
        blocks = [_parts(layout, name, parts) for name, parts in self.exchangeable]

        def permutation(key: PRNGKeyArray) -> Int[Array, " d"]:
            order = jnp.arange(layout.size)
            for subkey, block in zip(jr.split(key, len(blocks)), blocks, strict=True) if blocks else ():
                order = order.at[block.ravel()].set(jr.permutation(subkey, block).ravel())
            return order

        return permutation

    def identity(self, layout: Layout) -> Int[np.ndarray, " d"]:
        """Numbers the tokens from 0 so that interchangeable parts share their numbers, `(d,)`."""
        first = np.arange(layout.size)
        for name, parts in self.exchangeable:
            block = _parts(layout, name, parts)
            first[block] = block[0]
        return np.unique(first, return_inverse=True)[1]

    def _arranged(self, layout: Layout) -> np.ndarray:
        """The declared matrix in the layout's order of elements."""
        matrix = np.asarray([[entry == "1" for entry in row] for row in self.matrix])
        if len(matrix) != layout.size:
            raise DataError(
                f"the matrix of dependencies is for {len(matrix)} elements; this layout has {layout.size}, "
                f"those of {listed(layout.names)}"
            )
        matrix &= ~np.eye(len(matrix), dtype=bool)  # whoever wrote it may have marked its diagonal or not
        if not self.order:
            return matrix
        if sorted(self.order) != sorted(layout.names):
            raise DataError(f"the matrix names {listed(self.order)}; this layout has {listed(layout.names)}")
        elements = [np.arange(layout.size)[layout.slices[name]] for name in self.order]
        rows = np.argsort(np.concatenate(elements))  # rows[i]: the row of the matrix for the layout's element i
        return matrix[np.ix_(rows, rows)]


def _if_multivariate(name: str, distribution: Any) -> list[str]:
    """`[name]` if the elements of a draw may depend on each other: the distribution's event itself has a shape."""
    return [name] if getattr(base_of(distribution), "event_shape", ()) else []


def _elements(layout: Layout, reference: str) -> tuple[str, np.ndarray]:
    """The variable and the tokens that a name stands for."""
    indexed = None if reference in layout.names else re.fullmatch(r"(.+)\[([^\]]*)\]", reference)
    name = indexed[1] if indexed else reference
    if name not in layout.names:
        raise DataError(unknown("a dependency", name, layout.names))
    variable, tokens = layout[name], np.arange(layout.size)[layout.slices[name]]
    if not indexed:
        return name, tokens
    index = tuple(int(i) if i.strip().isdecimal() else -1 for i in indexed[2].split(","))
    shape = variable.shape if len(index) > 1 else (variable.size,)
    if len(index) != len(shape) or any(not 0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise DataError(
            f"'{reference}' is no element of '{name}', which has '{name}[0]' to '{name}[{variable.size - 1}]', "
            f"or an index into its shape {variable.shape}"
        )
    return name, tokens[[np.ravel_multi_index(index, shape)]]


def _connect(edges: np.ndarray, layout: Layout, child: str, parent: str) -> None:
    """Adds the edges from a parent to a child, both names of variables or of elements."""
    child_variable, children = _elements(layout, child)
    parent_variable, parents = _elements(layout, parent)
    block = np.ones((len(children), len(parents)), bool)
    if child_variable == parent_variable and parent == parent_variable:
        block = parents < children[:, None]
    elif len(children) > 1:  # if 'x' depends on 'x[0]', all but 'x[0]' itself do, which would be a circle
        block = parents != children[:, None]
    edges[np.ix_(children, parents)] |= block


def _label(layout: Layout, token: int) -> str:
    variable = layout.variables[layout.owner[token]]
    index = np.unravel_index(token - layout.slices[variable.name].start, variable.shape) if variable.shape else ()
    return f"{variable.name}[{','.join(map(str, index))}]" if variable.shape else variable.name


def _circle(edges: np.ndarray) -> list[int]:
    """The tokens along a circle from parent to child, with the first token repeated; empty if there is no circle."""
    remaining = np.ones(len(edges), bool)
    while (roots := remaining & ~edges[:, remaining].any(axis=1)).any():
        remaining &= ~roots
    if not remaining.any():
        return []
    walk = [int(np.argmax(remaining))]  # every remaining token has a remaining parent
    while walk[-1] not in walk[:-1]:
        walk.append(int(np.argmax(edges[walk[-1]] & remaining)))
    return walk[walk.index(walk[-1]) :][::-1]


def _parts(layout: Layout, name: str, parts: int) -> np.ndarray:
    """The tokens of an exchangeable variable, `(parts, size)`."""
    if name not in layout.names:
        raise DataError(unknown("`exchangeable`", name, layout.names))
    if layout[name].size % parts:
        raise DataError(f"'{name}' has {layout[name].size} elements, which do not divide into {parts} equal parts")
    return np.arange(layout.size)[layout.slices[name]].reshape(parts, -1)


def _check_exchangeable(edges: np.ndarray, layout: Layout, name: str, block: np.ndarray) -> None:
    """Raises a DataError unless all parts, the rows of `block`, have the same edges."""
    # exchanges of two neighbors generate all permutations
    for i in range(len(block) - 1):
        swap = np.arange(layout.size)
        swap[block[i]], swap[block[i + 1]] = block[i + 1], block[i]
        swapped = edges[np.ix_(swap, swap)]
        if (swapped != edges).any():
            child, parent = np.argwhere(edges & ~swapped)[0]
            raise DataError(
                f"'{name}' does not consist of {len(block)} interchangeable parts: exchanging parts {i} and {i + 1} "
                f"loses the edge from '{_label(layout, parent)}' to '{_label(layout, child)}'; declare the same edges "
                f"for every part and none from part to part, or leave '{name}' out of `exchangeable`"
            )
