"""Tests of accuracy with random points. Is the truth as far from a random point as draws are?

    f_i = the share of draws of simulation i that lie closer to a reference point than theta*_i does
    ECP(c) = the share of simulations with f_i < c            expected coverage of balls about the reference points

Where the posterior is right f_i is uniform, whatever point was chosen without looking at theta*_i, and ECP(c) = c. All
variables are looked at together, so that a lost correlation can be seen, and no log density is needed. Distances are
Euclidean after each element was brought to [0, 1] by the least and largest truth.

What the test can see depends on the points. `Box` (uniform in the box of all truths) is the published choice, `Others`
takes the truth of another simulation, `Drawn` the last draw of the same one, so that the balls follow the posterior.

Source: Lemos, Coogan, Hezaveh and Perreault-Levasseur 2023, arXiv 2302.03026.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.diagnostics._pairs import Named, Pairs, generator, matrix, paired, ranks, same_names
from retrodict.diagnostics._uniform import Verdict, below, checked_level, thresholds, uniform


class AbstractReferences(abc.ABC):
    """Where the random points come from; they must not depend on the truth of their own simulation."""

    @abc.abstractmethod
    def points(self, pairs: Pairs, rng: np.random.Generator) -> tuple[Float64[np.ndarray, "n d"], Pairs]:
        """A point for each simulation, and the pairs that are left for the test."""


@dataclass(frozen=True)
class Box(AbstractReferences):
    """Uniform between the least and the largest truth of every element."""

    def points(self, pairs: Pairs, rng: np.random.Generator) -> tuple[Float64[np.ndarray, "n d"], Pairs]:
        return rng.uniform(pairs.truth.min(axis=0), pairs.truth.max(axis=0), pairs.truth.shape), pairs


@dataclass(frozen=True)
class Others(AbstractReferences):
    """The truth of another simulation, which is a draw from the prior."""

    def points(self, pairs: Pairs, rng: np.random.Generator) -> tuple[Float64[np.ndarray, "n d"], Pairs]:
        order = rng.permutation(pairs.n)  # everyone takes the point of the next in one large circle
        found = np.empty_like(pairs.truth)
        found[order] = pairs.truth[np.roll(order, 1)]
        return found, pairs


@dataclass(frozen=True)
class Drawn(AbstractReferences):
    """The last draw of the same simulation, which is then left out of the draws."""

    def points(self, pairs: Pairs, rng: np.random.Generator) -> tuple[Float64[np.ndarray, "n d"], Pairs]:
        if pairs.n_draws < 2:
            raise DataError("reference points that are drawn need at least 2 draws of every simulation")
        return pairs.draws[:, -1], Pairs(pairs.labels, pairs.truth, pairs.draws[:, :-1])


class AbstractBand(abc.ABC):
    """How uncertain the expected coverage is, credibility by credibility."""

    @abc.abstractmethod
    def around(
        self, counts: Int64[np.ndarray, " K"], found: Int64[np.ndarray, " n"], at: Int64[np.ndarray, " K"],
        rng: np.random.Generator,
    ) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:  # fmt: skip
        """Lowest and highest coverage, from the counts of ranks `found` below the thresholds `at`."""


@dataclass(frozen=True)
class Jeffreys(AbstractBand):
    """The central interval of Beta(k + 1/2, n - k + 1/2), k of n being covered."""

    mass: float = 0.95

    def around(
        self, counts: Int64[np.ndarray, " K"], found: Int64[np.ndarray, " n"], at: Int64[np.ndarray, " K"],
        rng: np.random.Generator,
    ) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:  # fmt: skip
        from scipy.special import betaincinv

        a, b = counts + 0.5, len(found) - counts + 0.5
        return betaincinv(a, b, 0.5 - self.mass / 2), betaincinv(a, b, 0.5 + self.mass / 2)


@dataclass(frozen=True)
class Bootstrap(AbstractBand):
    """Quantiles over resampled simulations."""

    resamples: int = 100
    mass: float = 0.95

    def around(
        self, counts: Int64[np.ndarray, " K"], found: Int64[np.ndarray, " n"], at: Int64[np.ndarray, " K"],
        rng: np.random.Generator,
    ) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:  # fmt: skip
        chosen = rng.integers(0, len(found), (self.resamples, len(found)))
        curves = np.stack([below(found[rows], at) for rows in chosen]) / len(found)
        low, high = np.quantile(curves, [0.5 - self.mass / 2, 0.5 + self.mass / 2], axis=0)
        return low, high


@dataclass(frozen=True, repr=False)
class TARP(Verdict):
    """Expected coverage `ecp` `(K,)` at the credibilities `credibility` `(K,)`.

    `low`, `high` are the chosen band around `ecp`, credibility by credibility. `null_low`, `null_high` hold the whole
    curve of a right posterior but for a probability of `level`; `p_value` belongs to them. `shares` are the f_i.
    """

    credibility: Float64[np.ndarray, " K"]
    ecp: Float64[np.ndarray, " K"]
    low: Float64[np.ndarray, " K"]
    high: Float64[np.ndarray, " K"]
    null_low: Float64[np.ndarray, " K"]
    null_high: Float64[np.ndarray, " K"]
    shares: Float64[np.ndarray, " n"]
    p_value: float
    level: float


def tarp(
    truth: Named,
    draws: Named,
    *,
    key: Key,
    references: AbstractReferences | Named | None = None,
    band: AbstractBand | None = None,
    level: float = 0.05,
) -> TARP:
    """Tests all variables together by distances to random points.

    `truth` is `{name: (n, *shape)}`, `draws` is `{name: (n, n_draws, *shape)}`. `references` is `Box()` (default),
    `Others()`, `Drawn()` or points of your own, `{name: (n, *shape)}`; `band` is `Jeffreys()` (default) or
    `Bootstrap()`. The p-value is exact and depends on neither band.

    Raises:
        DataError: names, shapes or values that do not fit; fewer than ten simulations.

    Source: Lemos et al. 2023, arXiv 2302.03026.
    """
    level, pairs, rng = checked_level(level), paired(truth, draws), generator(key)
    if isinstance(references, Mapping):
        same_names(truth, references, ("`truth`", "`references`"))
        points = matrix({name: references[name] for name in truth}, "`references`")
        if points.shape != pairs.truth.shape:
            raise DataError(f"`references` has {points.shape} numbers, and the truth {pairs.truth.shape}")
    else:
        points, pairs = (references or Box()).points(pairs, rng)
    spread = np.ptp(pairs.truth, axis=0)
    unit = np.where(spread > 0, spread, 1.0)
    far = np.linalg.norm((pairs.truth - points) / unit, axis=-1)
    away = np.linalg.norm((pairs.draws - points[:, None]) / unit, axis=-1)
    found = ranks(far[:, None], away[..., None], rng)[:, 0]
    at = thresholds(pairs.n_draws)
    null = uniform(pairs.n, tuple(at / (pairs.n_draws + 1)))
    counts = below(found, at)
    low, high = (band or Jeffreys()).around(counts, found, at, rng)
    shares = found / pairs.n_draws
    return TARP(null.z, counts / pairs.n, low, high, *null.band(level), shares, null.p_value(counts), level)
