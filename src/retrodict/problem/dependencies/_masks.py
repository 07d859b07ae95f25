"""Dependencies: who may look at whom.

A simulator is a directed graph: an element *depends* on its parents. Three kinds of attention edges follow from it:

    dense        every present element may look at every other
    undirected   a parent and its child, and two parents of one child ("moral"); absent elements integrated out
    directed     the graph turned round for the roles at hand: a latent element looks at what its conditional needs

Turning round is *elimination* in the moral graph. Take one latent element v after the other, children before parents;
given its neighbors N(v), v is independent of all others that are left, so row v of the mask is N(v); integrating
v out then ties its neighbors together ("fill-in"). Every order gives rows that lose nothing; among the elements whose
latent children are gone, we take the one with the fewest fill-ins (Webb et al. 2018, arXiv 1712.00287; as edge masks,
Gloeckler et al. 2024, arXiv 2404.09636). Absent elements go first, by the same step, and have no row: what flows
through them survives as fill-in. An absent element with no present descendant integrates to one: it leaves before
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
# counting fill-ins costs d^3 words a row; above this many tokens the fewest neighbors stand in for the fewest fill-ins
EXACT = 64

Words = UInt32[Array, "d w"]


class Graph(NamedTuple):
    """A directed graph as bits: row i of each array is a set of tokens, 32 to a word."""

    parents: Any
    children: Any
    descendants: Any  # and the token itself

    @classmethod
    def of(cls, adjacency: Bool[np.ndarray, "d d"]) -> "Graph":
        """From `[child, parent]`."""
        reach = np.eye(len(adjacency), dtype=bool) | adjacency.T
        for k in range(len(reach)):
            reach |= reach[:, k, None] & reach[k]
        return cls(_pack(adjacency), _pack(adjacency.T), _pack(reach))


def _pack(sets: Any) -> Any:
    """Booleans `(..., d)` to words `(..., w)`, in NumPy or in JAX."""
    lib: Any = np if isinstance(sets, np.ndarray) else jnp
    d = sets.shape[-1]
    padded = lib.pad(sets, [(0, 0)] * (sets.ndim - 1) + [(0, -d % 32)]).reshape(*sets.shape[:-1], -1, 32)
    return (padded.astype(np.uint32) << np.arange(32, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def _unpack(words: Any, d: int) -> Any:
    bits = (words[..., None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    return bits.reshape(*words.shape[:-1], -1)[..., :d].astype(bool)


def _fill_ins(near: Words) -> Int[Array, " d"]:
    """Twice the number of pairs of neighbors that are not neighbors themselves, for every token."""
    d = len(near)
    missing = near[:, None] & ~(near | _pack(np.eye(d, dtype=bool)))
    counts = jax.lax.population_count(missing).astype(jnp.int32).sum(-1)
    return jnp.where(_unpack(near, d), counts, 0).sum(-1)


def _neighbors(near: Words) -> Int[Array, " d"]:
    return jax.lax.population_count(near).astype(jnp.int32).sum(-1)


def _moral(graph: Graph, kept: Bool[Array, " d"]) -> Words:
    """Parents and children, and parents of a common child, among the tokens that are kept."""
    d, keep = len(kept), _pack(kept)
    common = jnp.any(graph.children[:, None] & graph.children & keep, axis=-1) & ~np.eye(d, dtype=bool)
    return jnp.where(kept[:, None], (graph.parents | graph.children | _pack(common)) & keep, 0)


def _eliminate(
    near: Words, below: Words, absent: Bool[Array, " d"], latent: Bool[Array, " d"], cost: Callable[[Words], Array]
) -> Words:
    """Takes the absent tokens and then the latent ones out of the graph; each row stays as it was when it left.

    `below` are the children that are absent or latent and have not left: a latent token waits for them. The published
    second tie-break (the most parents already out) never decides, since no parent leaves before its child; what
    remains is the largest index.
    """
    d = len(near)
    bits, tokens = jnp.asarray(_pack(np.eye(d, dtype=bool))), np.arange(d)

    def step(_: Any, state: tuple[Words, Words, Array]) -> tuple[Words, Words, Array]:
        near, below, left = state
        ready = left & ~jnp.any(below, axis=-1)
        rank = jnp.where(ready, cost(near) * d - tokens, jnp.iinfo(jnp.int32).max)
        v = jnp.argmin(jnp.where(left & absent, -d, rank))
        tied = _unpack(near[v], d) & left[v]  # left[v] is False once all are out
        near = jnp.where(tied[:, None], (near | near[v]) & ~(bits | bits[v]), near)
        # the children of an absent token become those of its parents
        heirs = jnp.where(absent[v], below[v], 0)
        below = jnp.where(jnp.any(below & bits[v], axis=-1)[:, None], (below | heirs) & ~bits[v], below)
        return near, below, left & (tokens != v)

    return jax.lax.fori_loop(0, d, step, (near, below, absent | latent))[0]


def undirected(graph: Graph, roles: Roles) -> Bool[Array, "d d"]:
    """Two present tokens are tied unless they are independent given all other present ones."""
    kept, absent = _reach_the_present(graph, roles)
    near = _eliminate(_moral(graph, kept), jnp.zeros_like(graph.parents), absent, jnp.zeros_like(absent), _neighbors)
    return _unpack(near, len(roles))


def directed(graph: Graph, roles: Roles) -> Bool[Array, "d d"]:
    """The graph turned round for these roles."""
    d, given, latent = len(roles), roles == GIVEN, roles == LATENT
    kept, absent = _reach_the_present(graph, roles)
    cost = _fill_ins if d <= EXACT else _neighbors
    near = _eliminate(_moral(graph, kept), graph.children & _pack(absent | latent), absent, latent, cost)
    # with nothing given and nothing to integrate out, the graph itself is the answer
    as_it_is = ~jnp.any(given | absent)
    return _unpack(jnp.where((given | as_it_is)[:, None], graph.parents, near), d)


def _reach_the_present(graph: Graph, roles: Roles) -> tuple[Array, Array]:
    """The tokens with a present descendant (or self), and those of them that are absent."""
    kept = jnp.any(graph.descendants & _pack(roles != ABSENT), axis=-1)
    return kept, kept & (roles == ABSENT)


class Edges:
    """Who may look at whom: `edges(roles)[i, j]` is True where token i may look at token j.

    Every token may look at itself. Nothing looks at an absent token, and it looks at nothing else.
    """

    def __init__(self, kind: Kind, adjacency: Bool[np.ndarray, "d d"]) -> None:
        self.kind: Kind = kind
        self.graph = Graph.of(adjacency)
        # two that say the same are equal, so that a model which was loaded compiles nothing anew
        self._same = (kind, len(adjacency), self.graph.parents.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edges) and self._same == other._same

    def __hash__(self) -> int:
        return hash(self._same)

    def __call__(self, roles: Roles) -> Bool[Array, "d d"]:
        present = roles != ABSENT
        among = present[:, None] & present
        if self.kind == "undirected":
            among &= undirected(self.graph, roles)
        if self.kind == "directed":
            among &= directed(self.graph, roles)
        return among | np.eye(len(roles), dtype=bool)
