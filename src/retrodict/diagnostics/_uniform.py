"""Is it uniform? Bands that hold a whole empirical distribution function at once, and the p-value that belongs to them.

Of n independent values let S_j be the number below the threshold j, which each is with the probability z_j,
z_1 < ... < z_K. Then S_j is binomial, and how far out it lies at one threshold is

    g_j = 2 min(P(S <= S_j), P(S >= S_j)),    S ~ Binomial(n, z_j);     g = min_j g_j     the farthest of all

The p-value of the whole is P(g' <= g) for g' of values that are as they should be. It is exact, and found without
simulating: S_1, S_2, ... is a Poisson process of rate n with N(1) = n, so that the probability of staying inside
limits at every threshold is a chain of convolutions. A band with simultaneous coverage 1 - a holds all counts with
g_j above the largest g with P(g' <= g) <= a.

Source: Säilynoja, Bürkner and Vehtari 2022, arXiv 2103.10522 (bands); Moscovich and Nadler 2017, arXiv 1503.04363 (the
Poisson process). Several tests are read together by Bonferroni: the least p-value times their number.
"""

import functools
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float64, Int64

from retrodict._errors import DataError


THRESHOLDS = 100  # at most: more would cost time and add little, neighboring counts being almost the same
BISECTIONS = 25  # of an interval of ratio 200: to 2e-7
ROUNDING = 1e-9  # relative; two ways to the same binomial probability differ by less


class Uniform:
    """What `n` values should look like at thresholds that each is below with the probabilities `z`."""

    def __init__(self, n: int, z: Iterable[float]) -> None:
        # Imported here and below, so that `import retrodict` does not pay for scipy.
        from scipy.special import bdtr

        self.n, self.z = n, np.asarray(tuple(z), np.float64)
        counts = np.arange(n + 1)
        self._below = bdtr(counts[None].astype(float), n, self.z[:, None])  # P(S <= s)
        self._above = 1.0 - np.pad(self._below, ((0, 0), (1, 0)))[:, :-1]  # P(S >= s)
        self._bands: dict[float, tuple[np.ndarray, np.ndarray]] = {}
        self._extent = 2.0 * np.minimum(self._below, self._above)  # g_j of every count

    def p_value(self, counts: Int64[np.ndarray, " K"]) -> float:
        """How probable counts at least as far out are, at the threshold where they are farthest out."""
        farthest = float(self._extent[np.arange(len(self.z)), counts].min())
        # the chain knows 1 - p to 1e-12; where p is less, Bonferroni's bound over the thresholds is the better figure
        return float(np.clip(min(1.0 - self._inside(farthest), len(self.z) * farthest), 0.0, 1.0))

    def band(self, level: float) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
        """The narrowest band that right fractions leave, anywhere, with a probability of at most `level`."""
        if level not in self._bands:
            self._bands[level] = self._found(level)
        return self._bands[level]

    def _found(self, level: float) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
        low, high = level / (2 * len(self.z)), level  # Bonferroni's bound, and a single threshold
        for _ in range(BISECTIONS):
            middle = np.sqrt(low * high)
            low, high = (middle, high) if 1.0 - self._inside(middle) <= level else (low, middle)
        first, last = self._limits(low)
        return first / self.n, last / self.n

    def _limits(self, extent: float) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """The first and the last count of every threshold with g_j above `extent`."""
        kept = self._extent > extent * (1.0 + ROUNDING)
        first = kept.argmax(axis=1)
        last = self.n - kept[:, ::-1].argmax(axis=1)
        # where nothing is kept (an extent of 1, counts in the very middle) the chain has nowhere to go
        return np.where(kept.any(axis=1), first, 1), np.where(kept.any(axis=1), last, 0)

    def _inside(self, extent: float) -> float:
        """The probability that g is above `extent`."""
        first, last = self._limits(extent)
        if (last < first).any():
            return 0.0
        chain, begun, at = np.ones(1), 0, 0.0
        for z, low, high in zip(self.z, first, last, strict=True):
            steps = _poisson(np.arange(high - begun + 1), self.n * (z - at))
            chain = np.convolve(chain, steps)[max(low - begun, 0) : high - begun + 1]
            begun, at = max(low, begun), z
        left = self.n - np.arange(begun, begun + len(chain))
        return float(chain @ _poisson(left, self.n * (1.0 - at)) / _poisson(np.array([self.n]), self.n)[0])


def _poisson(k: np.ndarray, rate: float) -> Float64[np.ndarray, " k"]:
    from scipy.special import gammaln, xlogy

    return np.where(k >= 0, np.exp(xlogy(k, rate) - rate - gammaln(np.maximum(k, 0) + 1.0)), 0.0)


@functools.lru_cache(maxsize=8)
def uniform(n: int, z: tuple[float, ...]) -> Uniform:
    """`Uniform`, made once for the many variables that share it."""
    return Uniform(n, z)


class Verdict:
    """What every test ends with: a p-value of everything together, and the rate of false alarms that it is held to."""

    p_value: float
    level: float

    @property
    def ok(self) -> bool:
        """Whether everything passes together, at a rate `level` of false alarms."""
        return self.p_value > self.level

    def __repr__(self) -> str:
        outcome = "passed" if self.ok else "FAILED"  # and not hundreds of numbers
        return f"{type(self).__name__}({outcome}, p = {self.p_value:.2g} at a level of {self.level:g})"


def thresholds(n_draws: int) -> Int64[np.ndarray, " K"]:
    """Which of the ranks 1, ..., L of L draws to look below: all of them, or `THRESHOLDS` spread evenly."""
    return np.unique(np.round(np.linspace(1, n_draws, min(n_draws, THRESHOLDS))).astype(np.int64))


def below(ranks: Int64[np.ndarray, " n"], at: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " K"]:
    """How many ranks are below each threshold."""
    return np.searchsorted(np.sort(ranks), at, side="left")


def least(p_values: Mapping[str, float]) -> float:
    """The p-value of several tests together, by Bonferroni."""
    return min(1.0, len(p_values) * min(p_values.values()))


def checked_level(level: float) -> float:
    """A false-alarm rate.

    Raises:
        DataError: it is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise DataError(f"`level`, the rate of false alarms, must be between 0 and 1, got {level}")
    return float(level)
