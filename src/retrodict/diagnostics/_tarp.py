"""Tests of accuracy with random points (TARP). Is the truth as far from a random point as draws are?

    f_i = the share of draws of simulation i that lie closer to a reference point than theta*_i does
    ECP(c) = the share of simulations with f_i < c            expected coverage of balls about the reference points

For the true posterior f_i is uniform and ECP(c) = c, for every reference point that does not depend on theta*_i. All
variables are tested together, so that a lost correlation can be found, and no log density is needed. Distances are
Euclidean after each element was scaled to [0, 1] by the smallest and largest truth.

The power of the test depends on the points. `Box` (uniform in the box of all true values) is the published choice.
`Others` takes the truth of another simulation. `LastDraw` takes the last draw of the same simulation, so that the balls
follow the posterior.

Source: Lemos, Coogan, Hezaveh and Perreault-Levasseur 2023, arXiv 2302.03026.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.diagnostics._pairs import Named, PairedDraws, generator, matrix, paired, ranks, same_names
from retrodict.diagnostics._uniform import counts_below, thresholds, uniform_null
from retrodict.diagnostics._verdict import Verdict, checked_level


class AbstractReferences(abc.ABC):
    """The source of the reference points, which must not depend on the truth of their own simulation."""

    @abc.abstractmethod
    def points(self, pairs: PairedDraws, rng: np.random.Generator) -> tuple[Float64[np.ndarray, "n d"], PairedDraws]:
        """Returns a point for each simulation, and truth and draws for the test."""


@dataclass(frozen=True)
class Box(AbstractReferences):
    """Points that are uniform between the smallest and the largest truth of every element."""

    def points(self, pairs: PairedDraws, rng: np.random.Generator) -> tuple[Float64[np.ndarray, "n d"], PairedDraws]:
        return rng.uniform(pairs.truth.min(axis=0), pairs.truth.max(axis=0), pairs.truth.shape), pairs


@dataclass(frozen=True)
class Others(AbstractReferences):
    """The truth of some other simulation, which is a draw from the prior."""

    def points(self, pairs: PairedDraws, rng: np.random.Generator) -> tuple[Float64[np.ndarray, "n d"], PairedDraws]:
        order = rng.permutation(pairs.n)  # a random circle, in which each simulation takes the truth of its neighbor
        points = np.empty_like(pairs.truth)
        points[order] = pairs.truth[np.roll(order, 1)]
        return points, pairs


@dataclass(frozen=True)
class LastDraw(AbstractReferences):
    """The last draw of the same simulation, which is not among the draws of the test."""

    def points(self, pairs: PairedDraws, rng: np.random.Generator) -> tuple[Float64[np.ndarray, "n d"], PairedDraws]:
        if pairs.n_draws < 2:
            raise DataError("reference points from draws need at least 2 draws of every simulation, got one")
        return pairs.draws[:, -1], PairedDraws(pairs.labels, pairs.truth, pairs.draws[:, :-1])


class AbstractBand(abc.ABC):
    """The uncertainty of the expected coverage, separately for each credibility."""

    @abc.abstractmethod
    def around(
        self, counts: Int64[np.ndarray, " K"], ranks: Int64[np.ndarray, " n"], thresholds: Int64[np.ndarray, " K"],
        rng: np.random.Generator,
    ) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:  # fmt: skip
        """Returns the low and the high end of the coverage, from the counts of `ranks` below `thresholds`."""


@dataclass(frozen=True)
class Jeffreys(AbstractBand):
    """The central interval of Beta(k + 1/2, n - k + 1/2) for k of n covered, with probability `mass`."""

    mass: float = 0.95

    def around(
        self, counts: Int64[np.ndarray, " K"], ranks: Int64[np.ndarray, " n"], thresholds: Int64[np.ndarray, " K"],
        rng: np.random.Generator,
    ) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:  # fmt: skip
        from scipy.special import betaincinv

        a, b = counts + 0.5, len(ranks) - counts + 0.5
        return betaincinv(a, b, 0.5 - self.mass / 2), betaincinv(a, b, 0.5 + self.mass / 2)


@dataclass(frozen=True)
class Bootstrap(AbstractBand):
    """The central interval over resampled simulations, with probability `mass`."""

    resamples: int = 100
    mass: float = 0.95

    def around(
        self, counts: Int64[np.ndarray, " K"], ranks: Int64[np.ndarray, " n"], thresholds: Int64[np.ndarray, " K"],
        rng: np.random.Generator,
    ) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:  # fmt: skip
        index = rng.integers(0, len(ranks), (self.resamples, len(ranks)))
        curves = np.stack([counts_below(ranks[rows], thresholds) for rows in index]) / len(ranks)
        low, high = np.quantile(curves, [0.5 - self.mass / 2, 0.5 + self.mass / 2], axis=0)
        return low, high


@dataclass(frozen=True, repr=False)
class TARP(Verdict):
    """Expected coverage `ecp` `(K,)` at the credibilities `credibility` `(K,)`.

    `low`, `high` are the band around `ecp`, separate for each credibility. Under the true posterior the whole curve
    stays within `null_low`, `null_high` except with a probability of `level`; `p_value` belongs to that band. `shares`
    are the f_i.
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

    def figures(self) -> dict[str, float | str]:
        deviation = float(np.abs(self.ecp - self.credibility).max())
        return {"simulations": len(self.shares), "largest deviation": deviation}


def tarp(
    truth: Named,
    draws: Named,
    *,
    key: Key,
    references: AbstractReferences | Named | None = None,
    band: AbstractBand | None = None,
    level: float = 0.05,
) -> TARP:
    """Tests all variables together by distances to random points. The p-value is exact.

    Args:
        truth: true values `{name: (n, *shape)}`.
        draws: posterior draws `{name: (n, n_draws, *shape)}`.
        key: of the reference points, of ties and of the bootstrap.
        references: `Box()` (default), `Others()`, `LastDraw()` or points `{name: (n, *shape)}`.
        band: `Jeffreys()` (default) or `Bootstrap()`; the p-value does not depend on it.
        level: the probability that the test fails although the posterior is right.

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
    truth_distances = np.linalg.norm((pairs.truth - points) / unit, axis=-1)
    draw_distances = np.linalg.norm((pairs.draws - points[:, None]) / unit, axis=-1)
    truth_ranks = ranks(truth_distances[:, None], draw_distances[..., None], rng)[:, 0]
    at_ranks = thresholds(pairs.n_draws)
    null = uniform_null(pairs.n, tuple(at_ranks / (pairs.n_draws + 1)))
    counts = counts_below(truth_ranks, at_ranks)
    low, high = (band or Jeffreys()).around(counts, truth_ranks, at_ranks, rng)
    shares = truth_ranks / pairs.n_draws
    return TARP(null.z, counts / pairs.n, low, high, *null.band(level), shares, null.p_value(counts), level)
