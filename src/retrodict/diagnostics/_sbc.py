"""Simulation-based calibration. If theta* and L posterior draws are exchangeable, theta* has a uniform rank on 0..L.

Draw theta* from the prior, x from the simulator, L draws from the posterior of x: theta* is then one more draw, and
its rank among them is any of 0, ..., L with the same probability. What a histogram of ranks over many simulations says:

    a slope                    the posterior is shifted
    a smile                    it is too narrow            (the truth is too often outside)
    a hill                     it is too wide

Source: Talts et al. 2018, arXiv 1804.06788; bands: Säilynoja et al. 2022, arXiv 2103.10522. Only marginals are seen: a
quantity of several variables is checked by handing it in as one more name (Modrák et al. 2023), or by `tarp` and the
joint part of `coverage`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from retrodict._types import Key
from retrodict.diagnostics._pairs import Named, generator, paired, ranks
from retrodict.diagnostics._uniform import Verdict, below, checked_level, least, thresholds, uniform


BINS = 20
EXPECTED = 10  # ranks per bin at least, for the law of chi-square to hold


@dataclass(frozen=True, repr=False)
class SBC(Verdict):
    """Ranks `(n, d)` of the d elements in `labels`, and whether they are uniform.

    `ecdf` `(d, K)` holds the fractions of ranks below `rank / (n_draws + 1) = z` `(K,)`; all fractions of all elements
    stay within `low`, `high` `(K,)` but for a probability of `level`. `p_values` belong to that band, one per
    element, and `p_value` to all of them together; `chi_square` and `chi_square_p` are those of a histogram.
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


def sbc(truth: Named, draws: Named, *, key: Key = 0, level: float = 0.05) -> SBC:
    """Tests whether true values rank among posterior draws like one more draw.

    `truth` is `{name: (n, *shape)}`, `draws` is `{name: (n, n_draws, *shape)}`; draws must be independent. `key`
    breaks ties. `level` is the probability that any element of any variable fails although all is well.

    Raises:
        DataError: names, shapes or values that do not fit; fewer than ten simulations.

    Source: Talts et al. 2018, arXiv 1804.06788; Säilynoja et al. 2022, arXiv 2103.10522.
    """
    level, pairs = checked_level(level), paired(truth, draws)
    found = ranks(pairs.truth, pairs.draws, generator(key))
    at = thresholds(pairs.n_draws)
    null = uniform(pairs.n, tuple(at / (pairs.n_draws + 1)))
    counts = np.stack([below(column, at) for column in found.T])
    p_values = {label: null.p_value(row) for label, row in zip(pairs.labels, counts, strict=True)}
    squares = {label: _chi_square(column, pairs.n_draws) for label, column in zip(pairs.labels, found.T, strict=True)}
    low, high = null.band(level / len(pairs.labels))
    return SBC(
        pairs.labels, found, pairs.n_draws, null.z, counts / pairs.n, low, high, p_values, least(p_values),
        {label: square for label, (square, _) in squares.items()}, {label: p for label, (_, p) in squares.items()},
        level,
    )  # fmt: skip


def _chi_square(found: Int64[np.ndarray, " n"], n_draws: int) -> tuple[float, float]:
    """Pearson's statistic of a histogram of ranks, and its p-value."""
    from scipy.special import chdtrc

    bins = max(2, min(BINS, n_draws + 1, len(found) // EXPECTED))
    parts = np.array_split(np.arange(n_draws + 1), bins)
    expected = len(found) * np.array([len(part) for part in parts]) / (n_draws + 1)
    seen = np.histogram(found, bins=[*(part[0] for part in parts), n_draws + 1])[0]
    square = float(((seen - expected) ** 2 / expected).sum())
    return square, float(chdtrc(bins - 1, square))
