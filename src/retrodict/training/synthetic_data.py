"""Synthetic simulations from structure: factors of the data, independent given the parameters, are learned apart.

    p(x | theta) = prod over factors i of p(x_i | theta_i),      theta_i: the parameters that factor i depends on

N simulations of P factors are N P pairs of (theta_i, x_i). A surrogate q(x_i | theta_i, i) learned from them generates
data sets without end, theta ~ prior and x_i ~ q, on which a posterior can be trained for as long as it gains. Factors
that are alike (slcp's four points) are of one type and share a network; others (the days of an epidemic) are told apart
by i. (Likelihood factorization: arXiv 2604.20723, section 3; "synthetic likelihood sets".) Where nothing is declared to
be independent all data are one factor. A surrogate then pays where data given parameters are simpler than parameters
given data, for instance with noise that is the same everywhere.

q is a `MixtureDensity` on the real line, without the supports. The posterior inherits its errors, and real held-out
simulations should validate it, see `validation` of `fit`. The right learning rate differs between simulators: densities
that are sharp in places need a fast one, which diverges where parameters are rare. So q is a mixture of the densities
of several rates, with the shares that maximize the likelihood of held-out simulations (stacking: Smyth and Wolpert
1999, Machine Learning 36, 59).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray

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
NOISE: tuple[Literal["line", "curve"], ...] = ("line", "curve")  # simpler densities, tried at the first rate alone
STACKING_ROUNDS = 100


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
    """Learns the factors of the data given the parameters, from every factor of every simulation.

    The history is that of the mixture with the largest share; its `before` holds those of the others.

    Args:
        dependencies: the declared structure; without it all data are one factor.
        components: Gaussians for each number, given the numbers before it.
        width: the width of the network.
        depth: the depth of the network, in blocks.
        validation: other simulations that only validate; by default a twentieth of `sims`. All factors of a simulation
            are on the same side.
        rates: learning rates, each of which trains one of the mixtures.

    Raises:
        DataError: the declared structure does not divide the data into independent factors of equal size.
    """
    layout = sims.layout
    factors = one_factor(layout) if dependencies is None else factors_of(layout, dependencies)
    key_split, key_net, key_fit = jr.split(as_key(key), 3)
    rows, held_out = _split(sims, validation, key_split)
    scaling, types = (
        Scaling.fit(network_input_layout(layout), rows[:, layout.is_parameter]),
        int(factors.kind.max()) + 1,
    )
    groups = [tokens for kind in range(types) for tokens in factors.tokens[factors.kind == kind].T]
    integers = IntegerElements.of(rows, groups)
    pairs, validation_pairs = (factor_rows(layout, factors, scaling, integers, table) for table in (rows, held_out))
    inputs, numbers = pairs.inputs.shape[1], pairs.y.shape[1]
    sizes = Sizes(
        types, inputs, numbers, factors.free, bool(integers.is_integer.any()),
        components=components, width=width, depth=depth,
    )  # fmt: skip
    mixtures, histories = [], {}
    for i, rate in enumerate(rates):
        start = MixtureDensity.blank(sizes, key=jr.fold_in(key_net, i)).with_baseline(pairs)
        settings: dict[str, Any] = {"rate": rate, "noise": () if i else NOISE, "progress": progress}
        mixture, histories[f"rate {rate:g}"] = fit_mixture(
            start, pairs, validation_pairs, TrainingBudget(steps), key=jr.fold_in(key_fit, i), **settings
        )
        mixtures.append(mixture)
    # the density of a simulation is the product over its factors
    shares = stacked(np.stack([m.log_probs(validation_pairs).reshape(-1, len(held_out)).sum(axis=0) for m in mixtures]))
    history = histories.pop(list(histories)[int(np.argmax(shares))])
    integers = IntegerElements(*(jnp.asarray(array) for array in integers))
    likelihood = FactorizedLikelihood(factors, scaling, tuple(mixtures), jnp.asarray(shares), integers)
    return likelihood, dataclasses.replace(history, before=histories)


def _split(
    sims: Simulations, validation: Mapping[str, Any] | None, key: PRNGKeyArray
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Returns training and validation rows."""
    layout = sims.layout
    rows = flatten(layout, sims, layout.names, where="the simulations")
    if validation is not None:
        return rows, flatten(layout, validation, layout.names, where="`validation`")
    order, count = np.asarray(jr.permutation(key, len(rows))), max(1, len(rows) // 20)
    return rows[order[count:]], rows[order[:count]]


def stacked(log_densities: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " k"]:
    """Returns the shares of k densities that maximize the likelihood of n rows under their mixture, by EM.

    A density that is NaN or infinite at a row counts as zero there.
    """
    log_densities = np.where(np.isfinite(log_densities), log_densities, -1e30)
    relative = np.exp(log_densities - log_densities.max(axis=0))
    shares = np.full(len(relative), 1.0 / len(relative))
    for _ in range(STACKING_ROUNDS):
        weights = shares[:, None] * relative
        shares = (weights / weights.sum(axis=0)).mean(axis=1)
    return shares


def synthesize(problem: Problem, learned: FactorizedLikelihood, n: int, *, key: Key) -> Simulations:
    """Returns `n` simulations with parameters from the prior and data from a likelihood that `surrogate` learned.

    Data that were whole numbers are whole, and within the range of the simulations.
    """
    layout, factors = problem.layout, learned.factors
    key_prior, key_data = jr.split(as_key(key))
    values = {k: np.asarray(v) for k, v in jax.jit(jax.vmap(problem.prior.draw))(jr.split(key_prior, n)).items()}
    parameters = flatten(learned.scaling.layout, values, layout.parameters, where="the prior")
    inputs, types = factor_inputs(layout, factors, learned.scaling.of_rows(parameters))
    inputs, types = inputs.reshape(len(factors.kind), n, -1), types.reshape(-1, n)
    ends = np.round(n * np.cumsum([0.0, *np.asarray(learned.shares, np.float64)])).astype(int)  # rows of each mixture
    draws = []
    for i, mixture in enumerate(learned.mixtures):
        rows = slice(ends[i], ends[i + 1])
        if count := ends[i + 1] - ends[i]:
            flat = inputs[:, rows].reshape(len(types) * count, -1), types[:, rows].ravel()
            draws.append(mixture.sample(*flat, jr.fold_in(key_data, i)).reshape(len(types), count, -1))
    u = np.zeros((n, layout.size), np.float32)
    for tokens, values_of_factor in zip(factors.tokens, np.concatenate(draws, axis=1), strict=True):
        u[:, tokens] = values_of_factor
    rows_in_units = learned.integers.constrain(u, layout.ends)
    return Simulations({**unflatten(layout, rows_in_units, layout.data), **values}, layout)


# earlier names, which scripts may still use
Learned, Parts, parts_of, one_part = FactorizedLikelihood, Factors, factors_of, one_factor
