"""Tests of uniformity: bands that hold a whole empirical distribution function, and the p-value that belongs to them.

Let S_j be the number of n independent values below the threshold j, z_j the probability that a value is below it, and
z_1 < ... < z_K. Then S_j is binomial. The tail probability at one threshold, and the smallest of all, are

    g_j = 2 min(P(S <= S_j), P(S >= S_j)),    S ~ Binomial(n, z_j);     g = min_j g_j

The p-value is P(g' <= g), where g' is that of values from the null. It is exact and needs no simulation: S_1, S_2, ...
is a Poisson process of rate n with N(1) = n, so the probability of staying inside limits at every threshold is a chain
of convolutions. A band with simultaneous coverage 1 - a holds all counts with g_j above the largest g with
P(g' <= g) <= a.

Sources: Säilynoja, Bürkner and Vehtari 2022, arXiv 2103.10522 (bands); Moscovich and Nadler 2017, arXiv 1503.04363 (the
Poisson process). Several tests are read together by Bonferroni: the lowest p-value times their number.
"""

import functools
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float64, Int64


MAX_THRESHOLDS = 100  # more would cost time and add little, since neighboring counts are almost the same
BISECTIONS = 25  # of an interval whose ends have a ratio of 200: to 2e-7
ROUNDING = 1e-9  # relative; two formulas for the same binomial probability differ by less


class UniformNull:
    """The null distribution of the counts of `n` values below thresholds, for probabilities `z` of being below each."""

    def __init__(self, n: int, z: Iterable[float]) -> None:
        # Imported here and below, so that `import retrodict` does not pay for scipy.
        from scipy.special import bdtr

        self.n, self.z = n, np.asarray(tuple(z), np.float64)
        counts = np.arange(n + 1)
        self._below = bdtr(counts[None].astype(float), n, self.z[:, None])  # P(S <= s)
        self._above = 1.0 - np.pad(self._below, ((0, 0), (1, 0)))[:, :-1]  # P(S >= s)
        self._bands: dict[float, tuple[np.ndarray, np.ndarray]] = {}
        self._tails = 2.0 * np.minimum(self._below, self._above)  # g_j of every count

    def p_value(self, counts: Int64[np.ndarray, " K"]) -> float:
        """Returns the probability of a g at most as small as that of `counts`."""
        smallest = float(self._tails[np.arange(len(self.z)), counts].min())
        # the chain is precise to 1e-12 in 1 - p; for smaller p, Bonferroni's bound over the thresholds is more precise
        return float(np.clip(min(1.0 - self._inside(smallest), len(self.z) * smallest), 0.0, 1.0))

    def band(self, level: float) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
        """Returns the narrowest band that null fractions leave, at any threshold, with probability at most `level`."""
        if level not in self._bands:
            self._bands[level] = self._solve_band(level)
        return self._bands[level]

    def _solve_band(self, level: float) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
        """Returns the band, by bisection of g."""
        low, high = level / (2 * len(self.z)), level  # Bonferroni's bound, and a single threshold
        for _ in range(BISECTIONS):
            middle = np.sqrt(low * high)
            low, high = (middle, high) if 1.0 - self._inside(middle) <= level else (low, middle)
        first, last = self._limits(low)
        return first / self.n, last / self.n

    def _limits(self, g: float) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """Returns the first and the last count of every threshold with g_j above `g`."""
        accepted = self._tails > g * (1.0 + ROUNDING)
        first = accepted.argmax(axis=1)
        last = self.n - accepted[:, ::-1].argmax(axis=1)
        # if no count is accepted (g = 1, for counts in the very middle) the limits exclude each other
        return np.where(accepted.any(axis=1), first, 1), np.where(accepted.any(axis=1), last, 0)

    def _inside(self, g: float) -> float:
        """Returns the probability that the smallest of all g_j is above `g`."""
        first, last = self._limits(g)
        if (last < first).any():
            return 0.0
        chain, offset, previous_z = np.ones(1), 0, 0.0  # chain[i]: the probability of a count of offset + i
        for z, low, high in zip(self.z, first, last, strict=True):
            steps = _poisson(np.arange(high - offset + 1), self.n * (z - previous_z))
            chain = np.convolve(chain, steps)[max(low - offset, 0) : high - offset + 1]
            offset, previous_z = max(low, offset), z
        remaining = self.n - np.arange(offset, offset + len(chain))
        return float(chain @ _poisson(remaining, self.n * (1.0 - previous_z)) / _poisson(np.array([self.n]), self.n)[0])


def _poisson(k: np.ndarray, rate: float) -> Float64[np.ndarray, " k"]:
    """Returns the probabilities of the counts `k` under a Poisson distribution; 0 for negative counts."""
    from scipy.special import gammaln, xlogy

    return np.where(k >= 0, np.exp(xlogy(k, rate) - rate - gammaln(np.maximum(k, 0) + 1.0)), 0.0)


@functools.lru_cache(maxsize=8)
def uniform_null(n: int, z: tuple[float, ...]) -> UniformNull:
    """Returns `UniformNull(n, z)`, which is computed once for the many variables that share it."""
    return UniformNull(n, z)


def thresholds(n_draws: int) -> Int64[np.ndarray, " K"]:
    """Returns the ranks that serve as thresholds: all of 1, ..., L, or `MAX_THRESHOLDS` of them, spread evenly."""
    return np.unique(np.round(np.linspace(1, n_draws, min(n_draws, MAX_THRESHOLDS))).astype(np.int64))


def counts_below(ranks: Int64[np.ndarray, " n"], thresholds: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " K"]:
    """Returns the number of ranks below each threshold."""
    return np.searchsorted(np.sort(ranks), thresholds, side="left")
