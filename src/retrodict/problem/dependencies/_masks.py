"""Attention masks: the elements that each element may attend to, given the dependencies of a simulator.

A simulator is a directed graph: an element *depends* on its parents. Three kinds of attention edges follow from it:

    dense        every present element may attend to every other
    undirected   a parent and its child, and two parents of a child ("moral"); absent elements integrated out
    directed     the graph inverted for the roles at hand: a latent element attends to those that its conditional needs

The inversion is *elimination* in the moral graph. Take a latent element v after the other, children before parents.
Given its neighbors N(v), v is independent of all remaining elements, so row v of the mask is N(v). Integrating v out
then connects its neighbors ("fill-in"). No order loses information; among the elements whose latent children are
eliminated we take the one with the fewest fill-ins (Webb et al. 2018, arXiv 1712.00287; as edge masks, Gloeckler et al.
2024, arXiv 2404.09636). Absent elements are eliminated first, by the same step, and have no row: information that flows
through them survives as fill-in. An absent element without a present descendant integrates to one: it is removed before
its parents are married. Given elements keep their rows of the graph.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from retrodict._types import Roles
from retrodict.roles import ABSENT, GIVEN, LATENT


Kind = Literal["dense", "undirected", "directed"]
# fill-ins cost d^3 words a row; above this many tokens the fewest neighbors stand in for the fewest fill-ins
MAX_TOKENS_FOR_FILL_INS = 64

Words = UInt32[Array, "d w"]


class Graph(NamedTuple):
    """A directed graph as bits: row i of each array is a set of tokens, 32 to a word."""

    parents: Any
    children: Any
    descendants: Any  # with the token itself

    @classmethod
    def of(cls, adjacency: Bool[np.ndarray, "d d"]) -> "Graph":
        """Packs a matrix `[child, parent]`."""
        reach = np.eye(len(adjacency), dtype=bool) | adjacency.T
        for k in range(len(reach)):
            reach |= reach[:, k, None] & reach[k]
        return cls(_pack(adjacency), _pack(adjacency.T), _pack(reach))


def _pack(sets: Any) -> Any:
    """Packs booleans `(..., d)` into words `(..., w)`, in NumPy or in JAX."""
    lib: Any = np if isinstance(sets, np.ndarray) else jnp
    d = sets.shape[-1]
    padded = lib.pad(sets, [(0, 0)] * (sets.ndim - 1) + [(0, -d % 32)]).reshape(*sets.shape[:-1], -1, 32)
    return (padded.astype(np.uint32) << np.arange(32, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def _unpack(words: Any, d: int) -> Any:
    bits = (words[..., None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    return bits.reshape(*words.shape[:-1], -1)[..., :d].astype(bool)


def _fill_ins(neighbors: Words) -> Int[Array, " d"]:
    """Twice the number of pairs of neighbors that are not neighbors themselves, for every token."""
    d = len(neighbors)
    missing = neighbors[:, None] & ~(neighbors | _pack(np.eye(d, dtype=bool)))
    counts = jax.lax.population_count(missing).astype(jnp.int32).sum(-1)
    return jnp.where(_unpack(neighbors, d), counts, 0).sum(-1)


def _count(neighbors: Words) -> Int[Array, " d"]:
    return jax.lax.population_count(neighbors).astype(jnp.int32).sum(-1)


def _moral(graph: Graph, relevant: Bool[Array, " d"]) -> Words:
    """The neighbors in the moral graph of the relevant tokens: parents, children, parents of a common child."""
    d, words = len(relevant), _pack(relevant)
    common = jnp.any(graph.children[:, None] & graph.children & words, axis=-1) & ~np.eye(d, dtype=bool)
    return jnp.where(relevant[:, None], (graph.parents | graph.children | _pack(common)) & words, 0)


def _eliminate(
    neighbors: Words, children: Words, absent: Bool[Array, " d"], latent: Bool[Array, " d"], cost: Callable[..., Array]
) -> Words:
    """Eliminates the absent tokens and then the latent ones; a row holds the neighbors at the token's elimination.

    `children` are those that are absent or latent and not yet eliminated: a latent token waits for them. The published
    second tie-break (the most parents already eliminated) never decides, since no parent goes before its child; the
    largest index decides.
    """
    d = len(neighbors)
    bits, tokens = jnp.asarray(_pack(np.eye(d, dtype=bool))), np.arange(d)

    def step(_: Any, state: tuple[Words, Words, Array]) -> tuple[Words, Words, Array]:
        neighbors, children, remaining = state
        ready = remaining & ~jnp.any(children, axis=-1)
        rank = jnp.where(ready, cost(neighbors) * d - tokens, jnp.iinfo(jnp.int32).max)
        v = jnp.argmin(jnp.where(remaining & absent, -d, rank))
        tied = _unpack(neighbors[v], d) & remaining[v]  # remaining[v] is False once all are eliminated
        neighbors = jnp.where(tied[:, None], (neighbors | neighbors[v]) & ~(bits | bits[v]), neighbors)
        # the children of an absent token become those of its parents
        heirs = jnp.where(absent[v], children[v], 0)
        is_parent = jnp.any(children & bits[v], axis=-1)
        children = jnp.where(is_parent[:, None], (children | heirs) & ~bits[v], children)
        return neighbors, children, remaining & (tokens != v)

    return jax.lax.fori_loop(0, d, step, (neighbors, children, absent | latent))[0]


def undirected(graph: Graph, roles: Roles) -> Bool[Array, "d d"]:
    """The mask that ties two present tokens unless they are independent given all other present tokens."""
    relevant, absent = _relevant(graph, roles)
    nobody = jnp.zeros_like(absent)
    return _unpack(
        _eliminate(_moral(graph, relevant), jnp.zeros_like(graph.parents), absent, nobody, _count), len(roles)
    )


def directed(graph: Graph, roles: Roles) -> Bool[Array, "d d"]:
    """The mask of the graph inverted for these roles."""
    d, is_given, latent = len(roles), roles == GIVEN, roles == LATENT
    relevant, absent = _relevant(graph, roles)
    cost = _fill_ins if d <= MAX_TOKENS_FOR_FILL_INS else _count
    neighbors = _eliminate(_moral(graph, relevant), graph.children & _pack(absent | latent), absent, latent, cost)
    # with nothing given and nothing to integrate out, the graph itself is the answer
    unchanged = ~jnp.any(is_given | absent)
    return _unpack(jnp.where((is_given | unchanged)[:, None], graph.parents, neighbors), d)


def _relevant(graph: Graph, roles: Roles) -> tuple[Array, Array]:
    """The tokens that are present or have a present descendant, and the absent ones among them."""
    relevant = jnp.any(graph.descendants & _pack(roles != ABSENT), axis=-1)
    return relevant, relevant & (roles == ABSENT)


class Edges:
    """The attention mask as a function of the roles: `edges(roles)[i, j]` is True where token i may attend to token j.

    Every token may attend to itself. An absent token attends to no other, and no other attends to it.
    """

    def __init__(self, kind: Kind, adjacency: Bool[np.ndarray, "d d"]) -> None:
        self.kind: Kind = kind
        self.graph = Graph.of(adjacency)
        # equal content means equal objects, so that a model which was loaded compiles nothing anew
        self._content = (kind, len(adjacency), self.graph.parents.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edges) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    def __call__(self, roles: Roles) -> Bool[Array, "d d"]:
        present = roles != ABSENT
        mask = present[:, None] & present
        if self.kind == "undirected":
            mask &= undirected(self.graph, roles)
        if self.kind == "directed":
            mask &= directed(self.graph, roles)
        return mask | np.eye(len(roles), dtype=bool)
