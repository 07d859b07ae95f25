"""More simulations from structure: parts that are independent given the parameters are learned one by one.

    p(x | theta) = prod over parts i of p(x_i | theta_i),      theta_i: the parameters that part i depends on

N simulations of P parts are N P pairs of (theta_i, part). A surrogate q(part | theta_i, i) learned from them makes data
sets without end, theta ~ prior and x_i ~ q, on which a posterior can be trained for as long as it gains. Parts that are
alike (slcp's four points) are one kind and teach each other; others (the days of an epidemic) are told apart by i.
(Likelihood factorization: arXiv 2604.20723, section 3; "synthetic likelihood sets".) Where nothing is declared to be
independent all data are one part: then a surrogate pays where data given parameters are simpler than parameters given
data, as noise that is the same everywhere is.

q is a `MixtureDensity` on the real line, off the supports. What it gets wrong, the posterior inherits; held-out real
simulations should judge it, see `validation` of `fit`. Which learning rate is right differs from simulator to simulator
(laws that are sharp here and there want a fast one, by which others diverge where parameters are rare), so that q is a
mixture of what several rates learn, with the shares that make held-out simulations the likeliest (stacking: Smyth and
Wolpert 1999, Machine Learning 36, 59).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from retrodict._errors import DataError, listed
from retrodict._types import Key, as_key
from retrodict.dependencies import Dependencies
from retrodict.estimators import MixtureDensity, Pairs, Sizes, Whole, told
from retrodict.problem import Problem
from retrodict.rows import Simulations
from retrodict.scaling import Scaling
from retrodict.tokens import flatten, unflatten
from retrodict.training import History, Pace, fit_mixture
from retrodict.variables import Layout


RATES = (5e-3, 2e-3)
ROUNDS = 100  # of stacking
AT_ONCE = 16_384  # rows whose density is looked at together
SMALLEST = 1e-30  # share


class Parts(NamedTuple):
    """What data fall into: tokens of every part, its kind, the parameters that any part depends on, and which of them
    each does; `free` if the numbers of a part are independent, too."""

    tokens: Int[np.ndarray, "parts k"]
    kind: Int[np.ndarray, " parts"]
    parameters: Int[np.ndarray, " p"]
    parents: Bool[np.ndarray, "parts p"]
    free: bool = False


class Learned(eqx.Module):
    """Surrogates of one part, given parameters, the share of each, and the scaling of parameters."""

    parts: Parts
    scaling: Scaling
    mixtures: tuple[MixtureDensity, ...]
    shares: Float[Array, " k"]
    whole: Whole

    @classmethod
    def blank(cls, layout: Layout, dependencies: Dependencies | None, sizes: Sequence[Sizes]) -> "Learned":
        """One of the right shapes that knows nothing, with a mixture of each of the sizes."""
        parts = one_part(layout) if dependencies is None else parts_of(layout, dependencies)
        mixtures = tuple(MixtureDensity.blank(one, key=jr.key(0)) for one in sizes)
        nothing = jnp.zeros(layout.size)
        whole = Whole(jnp.zeros(layout.size, bool), nothing, nothing)
        return cls(parts, Scaling.identity(told(layout)), mixtures, jnp.zeros(len(mixtures)), whole)

    def log_prob(self, layout: Layout, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Log density of the data of every row given its parameters, of data as `Whole.line` sees them."""
        found = [self._log_prob(layout, rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)]
        return np.concatenate(found)

    def _log_prob(self, layout: Layout, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        n = len(rows)
        size = min(AT_ONCE, 1 << (n - 1).bit_length())  # few shapes are compiled
        pairs = _pairs(layout, self.parts, self.scaling, self.whole, rows[np.arange(size) % n])
        each = np.stack([mixture.log_probs(pairs).reshape(-1, size).sum(axis=0) for mixture in self.mixtures])
        shares = np.log(np.maximum(np.asarray(self.shares, np.float64), SMALLEST))
        return np.logaddexp.reduce(each + shares[:, None], axis=0)[:n]


def surrogate(
    sims: Simulations,
    dependencies: Dependencies | None = None,
    *,
    key: Key,
    components: int = 4,
    width: int = 128,
    depth: int = 3,
    validation: Mapping[str, Any] | None = None,
    steps: int = 4_000,
    rates: Sequence[float] = RATES,
    progress: bool = True,
) -> tuple[Learned, History]:
    """Learns one part of the data given the parameters, from every part of every simulation.

    The history is that of the mixture with the largest share; those of the others are its `before`.

    Args:
        dependencies: what tells the parts; without them all data are one.
        components: Gaussians of a number given those before.
        width: of the network.
        depth: of the network, in blocks.
        validation: other simulations that only validate; by default a twentieth of `sims`. Parts of one simulation do
            not stand on both sides.
        rates: of learning, each of which trains one of the mixtures.

    Raises:
        DataError: the declared structure does not make the data independent parts of equal size given the parameters.
    """
    layout = sims.layout
    parts = one_part(layout) if dependencies is None else parts_of(layout, dependencies)
    rows = flatten(layout, sims, layout.names, where="the simulations")
    key_split, key_net, key_fit = jr.split(as_key(key), 3)
    if validation is None:
        order, count = np.asarray(jr.permutation(key_split, len(rows))), max(1, len(rows) // 20)
        held, rows = rows[order[:count]], rows[order[count:]]
    else:
        held = flatten(layout, validation, layout.names, where="`validation`")
    scaling, kinds = Scaling.fit(told(layout), rows[:, layout.is_parameter]), int(parts.kind.max()) + 1
    whole = Whole.of(rows, [t for kind in range(kinds) for t in parts.tokens[parts.kind == kind].T])
    train, judge = (_pairs(layout, parts, scaling, whole, some) for some in (rows, held))
    known, numbers, whole_ones = train.known.shape[1], train.y.shape[1], bool(whole.which.any())
    sizes = Sizes(kinds, known, numbers, parts.free, whole_ones, components=components, width=width, depth=depth)
    mixtures, histories = [], {}
    for i, rate in enumerate(rates):
        start = MixtureDensity.blank(sizes, key=jr.fold_in(key_net, i)).beside(train)
        how: dict[str, Any] = {"rate": rate, "noise": () if i else ("line", "curve"), "progress": progress}
        found = fit_mixture(start, train, judge, Pace(steps), key=jr.fold_in(key_fit, i), **how)
        mixtures.append(found[0])
        histories[f"rate {rate:g}"] = found[1]
    # of whole simulations, of which every part has a row
    shares = stacked(np.stack([one.log_probs(judge).reshape(-1, len(held)).sum(axis=0) for one in mixtures]))
    largest = histories.pop(list(histories)[int(np.argmax(shares))])
    counted = Whole(*(jnp.asarray(part) for part in whole))
    learned = Learned(parts, scaling, tuple(mixtures), jnp.asarray(shares), counted)
    return learned, dataclasses.replace(largest, before=histories)


def stacked(log_densities: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " k"]:
    """The shares of k densities whose mixture makes n rows the likeliest, by expectation and maximization."""
    relative = np.exp(log_densities - log_densities.max(axis=0))
    shares = np.full(len(relative), 1.0 / len(relative))
    for _ in range(ROUNDS):
        each = shares[:, None] * relative
        shares = (each / each.sum(axis=0)).mean(axis=1)
    return shares


def synthesize(problem: Problem, learned: Learned, n: int, *, key: Key) -> Simulations:
    """`n` simulations whose parameters come from the prior and whose parts come from what `surrogate` learned.

    Data that were whole numbers stay so, within what was seen.
    """
    layout, parts = problem.layout, learned.parts
    key_prior, key_parts = jr.split(as_key(key))
    values = {k: np.asarray(v) for k, v in jax.jit(jax.vmap(problem.prior.draw))(jr.split(key_prior, n)).items()}
    known = learned.scaling.of_rows(flatten(learned.scaling.layout, values, layout.parameters, where="the prior"))
    given, kind = _given(layout, parts, known)
    given, kind = given.reshape(len(parts.kind), n, -1), kind.reshape(-1, n)
    shares, each = np.asarray(learned.shares, np.float64), []
    ends = np.round(n * np.cumsum([0.0, *shares])).astype(int)  # of what each mixture makes
    for i, mixture in enumerate(learned.mixtures):
        made = slice(ends[i], ends[i + 1])
        if count := ends[i + 1] - ends[i]:
            some = given[:, made].reshape(len(kind) * count, -1), kind[:, made].ravel()
            each.append(mixture.sample(*some, jr.fold_in(key_parts, i)).reshape(len(kind), count, -1))
    drawn = np.concatenate(each, axis=1)
    u = np.zeros((n, layout.size), np.float32)
    for tokens, part in zip(parts.tokens, drawn, strict=True):
        u[:, tokens] = part
    rows = learned.whole.units(u, layout.ends)
    return Simulations({**unflatten(layout, rows, layout.data), **values}, layout)


def one_part(layout: Layout) -> Parts:
    """All data as one part, which depends on all parameters."""
    _refuse_functions(layout)
    own = layout.is_parameter
    parameters = np.flatnonzero(own)
    return Parts(np.flatnonzero(~own)[None], np.zeros(1, int), parameters, np.ones((1, len(parameters)), bool))


def parts_of(layout: Layout, dependencies: Dependencies) -> Parts:
    """The parts that are independent given the parameters, by the edges between data.

    Raises:
        DataError: there is one part only, they are of different sizes, or data are functions.
    """
    from scipy.sparse.csgraph import connected_components

    _refuse_functions(layout)
    edges, own = dependencies.adjacency(layout), layout.is_parameter
    if edges[np.ix_(own, ~own)].any():
        raise DataError("parts are independent given the parameters, and a parameter is declared to depend on data")
    data = np.flatnonzero(~own)
    alike = dependencies.identity(layout)[data]
    count, owner = connected_components(edges[np.ix_(data, data)], directed=False)
    # in the order of their first elements
    groups = sorted((data[owner == i] for i in range(count)), key=lambda group: int(group[0]))
    if count < 2:
        raise DataError(
            f"parts can be learned one by one where data are independent given the parameters; by the declared "
            f"structure {listed(layout.data)} hang together"
        )
    if len({len(group) for group in groups}) > 1:
        sizes = sorted({len(group) for group in groups})
        raise DataError(f"parts can be learned one by one where they are of equal size; these have {sizes} elements")
    tokens = np.stack(groups)
    place = np.full(layout.size, -1)
    place[data] = alike
    kind = np.unique(place[tokens], axis=0, return_inverse=True)[1].reshape(-1)
    parents = np.stack([edges[group].any(axis=0) for group in groups])
    parameters = np.flatnonzero(own & parents.any(axis=0))
    parents = parents[:, parameters]
    if tokens.shape[1] == 1 and len(set(kind)) == len(kind) and (parents == parents[0]).all():
        # numbers that are all unlike and depend on the same: what one network reads of these serves them all
        return Parts(tokens.reshape(1, -1), np.zeros(1, int), parameters, parents[:1], free=True)
    return Parts(tokens, kind, parameters, parents)


def _refuse_functions(layout: Layout) -> None:
    if layout.functions:
        raise DataError(f"parts of functions are not learned one by one, and {listed(layout.functions)} is one")


def _given(layout: Layout, parts: Parts, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is known of every part, part by part: the scaled parameters that it depends on, others at zero; its kind."""
    place = np.cumsum(layout.is_parameter)[parts.parameters] - 1
    seen = np.concatenate([np.where(parents, known[:, place], 0.0) for parents in parts.parents])
    return seen.astype(np.float32), np.repeat(parts.kind.astype(np.int32), len(known))


def _pairs(layout: Layout, parts: Parts, scaling: Scaling, whole: Whole, rows: np.ndarray) -> Pairs:
    """Every part of every row, on the real line, beside what is known of it."""
    known, kind = _given(layout, parts, scaling.of_rows(rows[:, layout.is_parameter]))
    y, below, above = (
        jnp.asarray(np.concatenate([values[:, tokens] for tokens in parts.tokens]), jnp.float32)
        for values in whole.line(rows, layout.ends)
    )
    return Pairs(jnp.asarray(known), jnp.asarray(kind), y, below, above)
