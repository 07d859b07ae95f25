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
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from retrodict._types import Key, as_key
from retrodict.models import MixtureDensity, Sizes
from retrodict.models._factorized_likelihood import (
    FactorizedLikelihood,
    Factors,
    factor_inputs,
    factor_rows,
    factors_of,
    one_factor,
)
from retrodict.models._integer_elements import IntegerElements
from retrodict.problem import Problem
from retrodict.problem.dependencies import Dependencies
from retrodict.query.tokens import flatten, unflatten
from retrodict.simulation.rows import Simulations
from retrodict.training import History, TrainingBudget, fit_mixture
from retrodict.transforms.scaling import Scaling, network_input_layout


RATES = (5e-3, 2e-3)
ROUNDS = 100  # of stacking


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
) -> tuple[FactorizedLikelihood, History]:
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
    parts = one_factor(layout) if dependencies is None else factors_of(layout, dependencies)
    rows = flatten(layout, sims, layout.names, where="the simulations")
    key_split, key_net, key_fit = jr.split(as_key(key), 3)
    if validation is None:
        order, count = np.asarray(jr.permutation(key_split, len(rows))), max(1, len(rows) // 20)
        held, rows = rows[order[:count]], rows[order[count:]]
    else:
        held = flatten(layout, validation, layout.names, where="`validation`")
    scaling, kinds = Scaling.fit(network_input_layout(layout), rows[:, layout.is_parameter]), int(parts.kind.max()) + 1
    whole = IntegerElements.of(rows, [t for kind in range(kinds) for t in parts.tokens[parts.kind == kind].T])
    train, judge = (factor_rows(layout, parts, scaling, whole, some) for some in (rows, held))
    known, numbers, whole_ones = train.inputs.shape[1], train.y.shape[1], bool(whole.is_integer.any())
    sizes = Sizes(kinds, known, numbers, parts.free, whole_ones, components=components, width=width, depth=depth)
    mixtures, histories = [], {}
    for i, rate in enumerate(rates):
        start = MixtureDensity.blank(sizes, key=jr.fold_in(key_net, i)).with_baseline(train)
        how: dict[str, Any] = {"rate": rate, "noise": () if i else ("line", "curve"), "progress": progress}
        found = fit_mixture(start, train, judge, TrainingBudget(steps), key=jr.fold_in(key_fit, i), **how)
        mixtures.append(found[0])
        histories[f"rate {rate:g}"] = found[1]
    # of whole simulations, of which every part has a row
    shares = stacked(np.stack([one.log_probs(judge).reshape(-1, len(held)).sum(axis=0) for one in mixtures]))
    largest = histories.pop(list(histories)[int(np.argmax(shares))])
    counted = IntegerElements(*(jnp.asarray(part) for part in whole))
    learned = FactorizedLikelihood(parts, scaling, tuple(mixtures), jnp.asarray(shares), counted)
    return learned, dataclasses.replace(largest, before=histories)


def stacked(log_densities: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " k"]:
    """The shares of k densities whose mixture makes n rows the likeliest, by expectation and maximization."""
    relative = np.exp(log_densities - log_densities.max(axis=0))
    shares = np.full(len(relative), 1.0 / len(relative))
    for _ in range(ROUNDS):
        each = shares[:, None] * relative
        shares = (each / each.sum(axis=0)).mean(axis=1)
    return shares


def synthesize(problem: Problem, learned: FactorizedLikelihood, n: int, *, key: Key) -> Simulations:
    """`n` simulations whose parameters come from the prior and whose parts come from what `surrogate` learned.

    Data that were whole numbers stay so, within what was seen.
    """
    layout, parts = problem.layout, learned.factors
    key_prior, key_parts = jr.split(as_key(key))
    values = {k: np.asarray(v) for k, v in jax.jit(jax.vmap(problem.prior.draw))(jr.split(key_prior, n)).items()}
    known = learned.scaling.of_rows(flatten(learned.scaling.layout, values, layout.parameters, where="the prior"))
    given, kind = factor_inputs(layout, parts, known)
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
    rows = learned.integers.constrain(u, layout.ends)
    return Simulations({**unflatten(layout, rows, layout.data), **values}, layout)


# names of schema-2 days, which scripts may still use
Learned, Parts, parts_of, one_part = FactorizedLikelihood, Factors, factors_of, one_factor
