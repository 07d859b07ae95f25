"""Simulation-based calibration. If theta* and L posterior draws are exchangeable, the rank of theta* is uniform.

Draw theta* from the prior, x from the simulator, and L draws from the posterior of x. Then theta* is like one more
draw, and its rank is any of 0, ..., L with the same probability. A histogram of the ranks of many simulations shows

    a slope                    if the posterior is shifted
    a smile                    if it is too narrow            (the truth is too often outside)
    a hill                     if it is too wide

Only marginals are tested. To test a quantity of several variables, hand it in as one more name (Modrák et al. 2023), or
use `tarp` and the joint part of `coverage`.

Source: Talts et al. 2018, arXiv 1804.06788; bands: Säilynoja et al. 2022, arXiv 2103.10522.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from retrodict._types import Key
from retrodict.diagnostics._pairs import Named, generator, paired, ranks
from retrodict.diagnostics._uniform import counts_below, thresholds, uniform_null
from retrodict.diagnostics._verdict import Verdict, bonferroni, checked_level, lowest


MAX_BINS = 20
MIN_RANKS_PER_BIN = 10  # expected ones, so that the statistic follows the law of chi-square


@dataclass(frozen=True, repr=False)
class SBC(Verdict):
    """Ranks `(n, d)` of the d elements in `labels`, and the test of their uniformity.

    `ecdf` `(d, K)` holds the fractions of ranks below `rank / (n_draws + 1) = z` `(K,)`. Under the true posterior all
    fractions of all elements stay within `low`, `high` `(K,)` except with a probability of `level`. `p_values` belong
    to that band, one per element, and `p_value` to all of them together. `chi_square` and `chi_square_p` are statistic
    and p-value of a histogram of the ranks.
    """

    labels: tuple[str, ...]
    ranks: Int64[np.ndarray, "n d"]
    n_draws: int
    z: Float64[np.ndarray, " K"]
    ecdf: Float64[np.ndarray, "d K"]
    low: Float64[np.ndarray, " K"]
    high: Float64[np.ndarray, " K"]
    p_values: dict[str, float]
    p_value: float
    chi_square: dict[str, float]
    chi_square_p: dict[str, float]
    level: float

    def figures(self) -> dict[str, float | str]:
        return {"simulations": len(self.ranks), "draws": self.n_draws, **lowest(self.p_values)}


def sbc(truth: Named, draws: Named, *, key: Key = 0, level: float = 0.05) -> SBC:
    """Tests whether true values rank among posterior draws like one more draw.

    Args:
        truth: true values `{name: (n, *shape)}`.
        draws: independent posterior draws `{name: (n, n_draws, *shape)}`.
        key: breaks ties.
        level: the probability that any element of any variable fails although the posterior is right.

    Raises:
        DataError: names, shapes or values that do not fit; fewer than ten simulations.

    Source: Talts et al. 2018, arXiv 1804.06788; Säilynoja et al. 2022, arXiv 2103.10522.
    """
    level, pairs = checked_level(level), paired(truth, draws)
    all_ranks = ranks(pairs.truth, pairs.draws, generator(key))
    at_ranks = thresholds(pairs.n_draws)
    null = uniform_null(pairs.n, tuple(at_ranks / (pairs.n_draws + 1)))
    counts = np.stack([counts_below(column, at_ranks) for column in all_ranks.T])
    by_label = dict(zip(pairs.labels, all_ranks.T, strict=True))
    p_values = {label: null.p_value(row) for label, row in zip(pairs.labels, counts, strict=True)}
    histograms = {label: _chi_square(column, pairs.n_draws) for label, column in by_label.items()}
    low, high = null.band(level / len(pairs.labels))
    return SBC(
        labels=pairs.labels,
        ranks=all_ranks,
        n_draws=pairs.n_draws,
        z=null.z,
        ecdf=counts / pairs.n,
        low=low,
        high=high,
        p_values=p_values,
        p_value=bonferroni(p_values),
        chi_square={label: statistic for label, (statistic, _) in histograms.items()},
        chi_square_p={label: p for label, (_, p) in histograms.items()},
        level=level,
    )


def _chi_square(ranks: Int64[np.ndarray, " n"], n_draws: int) -> tuple[float, float]:
    """Returns Pearson's statistic of a histogram of ranks, and its p-value."""
    from scipy.special import chdtrc

    n_bins = max(2, min(MAX_BINS, n_draws + 1, len(ranks) // MIN_RANKS_PER_BIN))
    bins = np.array_split(np.arange(n_draws + 1), n_bins)
    expected = len(ranks) * np.array([len(ranks_of_bin) for ranks_of_bin in bins]) / (n_draws + 1)
    observed = np.histogram(ranks, bins=[*(ranks_of_bin[0] for ranks_of_bin in bins), n_draws + 1])[0]
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return statistic, float(chdtrc(n_bins - 1, statistic))
