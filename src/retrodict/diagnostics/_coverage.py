"""Coverage. A region that holds a share c of the posterior holds the truth in a share c of all simulations.

    marginal    the central interval of each element:            c = |2 r / L - 1|,  r the rank of theta* among L draws
    joint       the region of highest density, of all together:  c = the share of draws where the log density is higher

c is the size of the smallest region that holds the truth: uniform where the posterior is right; too often large where
it is too narrow (regions miss), too often small where it is too wide. The joint one sees what no marginal shows, such
as a correlation that was lost, and needs log densities, up to a constant per simulation, of the model that drew.

Source: Hermans et al. 2022, arXiv 2110.06581, section 2; the band is that of Säilynoja et al. 2022, arXiv 2103.10522.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.diagnostics._pairs import Named, Numbers, generator, numbers, paired, ranks
from retrodict.diagnostics._uniform import THRESHOLDS, Verdict, below, checked_level, least, uniform


JOINT = "joint"


@dataclass(frozen=True, repr=False)
class Coverage(Verdict):
    """The share of simulations `coverage[label]` `(K,)` whose truth lies in regions of sizes `sizes[label]` `(K,)`.

    Labels are scalar elements and, where log densities were handed in, "joint". All shares of all labels stay within
    `low[label]`, `high[label]` but for a probability of `level`; `p_values` belong to that band, `p_value` to all
    labels together. `excess` is the mean of coverage less size: below zero where regions are too small.
    """

    sizes: dict[str, Float64[np.ndarray, " K"]]
    coverage: dict[str, Float64[np.ndarray, " K"]]
    low: dict[str, Float64[np.ndarray, " K"]]
    high: dict[str, Float64[np.ndarray, " K"]]
    excess: dict[str, float]
    p_values: dict[str, float]
    p_value: float
    level: float

    def at(self, size: float) -> dict[str, float]:
        """The coverage of regions of one size, by label."""
        sizes, shares = self.sizes, self.coverage  # beside them, the empty region and the whole space
        return {k: float(np.interp(size, [0.0, *sizes[k], 1.0], [0.0, *shares[k], 1.0])) for k in sizes}


def coverage(
    truth: Named,
    draws: Named,
    *,
    log_probs: tuple[Numbers, Numbers] | None = None,
    key: Key = 0,
    level: float = 0.05,
) -> Coverage:
    """Tests whether credible regions of every size hold the truth as often as they say.

    `truth` is `{name: (n, *shape)}`, `draws` is `{name: (n, n_draws, *shape)}`. `log_probs`, log densities `(n,)` of
    the truth and `(n, k)` of k draws each, adds the joint region of highest density. `key` breaks ties, `level` is the
    probability that anything fails although all is well.

    Raises:
        DataError: names, shapes or values that do not fit; fewer than ten simulations.

    Source: Hermans et al. 2022, arXiv 2110.06581.
    """
    level, pairs, rng = checked_level(level), paired(truth, draws), generator(key)
    n_draws = pairs.n_draws
    if n_draws < 2:
        raise DataError("regions need at least two draws for every simulation, got one")
    central = np.abs(2 * ranks(pairs.truth, pairs.draws, rng) - n_draws)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {
        # what |2 r - L| can be, r = 0, ..., L, and what it was
        label: (np.abs(2 * np.arange(n_draws + 1) - n_draws), column)
        for label, column in zip(pairs.labels, central.T, strict=True)
    }
    if log_probs is not None:
        at_truth, at_draws = log_densities(*log_probs, n=pairs.n)
        above = ranks(-at_truth[:, None], -at_draws[..., None], rng)[:, 0]
        found[JOINT] = (np.arange(at_draws.shape[1] + 1), above)
    rows = {label: _covered(every, seen, level / len(found)) for label, (every, seen) in found.items()}

    def column(which: int) -> dict[str, np.ndarray]:
        return {label: row[which] for label, row in rows.items()}

    p_values = {label: row[4] for label, row in rows.items()}
    excess = {label: float((row[1] - row[0]).mean()) for label, row in rows.items()}
    return Coverage(column(0), column(1), column(2), column(3), excess, p_values, least(p_values), level)


def log_densities(
    truth: Numbers, draws: Numbers, *, n: int
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, "n L"]]:
    """Log densities of truth and draws; minus infinity (outside the support) is allowed.

    Raises:
        DataError: the shapes do not fit, or a value is NaN or plus infinity.
    """
    at_truth = numbers(truth, "the log densities of the truth", finite=False)
    at_draws = numbers(draws, "the log densities of the draws", finite=False)
    if at_truth.shape != (n,) or at_draws.ndim != 2 or len(at_draws) != n or not at_draws.size:
        raise DataError(
            f"log densities must have the shapes ({n},) (truth) and ({n}, k) (k draws each), "
            f"got {at_truth.shape} and {at_draws.shape}"
        )
    for values, what in ((at_truth, "truth"), (at_draws, "draws")):
        if bad := int(np.sum(np.isnan(values) | (values == np.inf))):
            raise DataError(f"{bad} of the log densities of the {what} are NaN or plus infinity")
    return at_truth, at_draws


def _covered(every: Int64[np.ndarray, " r"], seen: Int64[np.ndarray, " n"], level: float) -> tuple:
    """Sizes, coverage, band and p-value; `every` lists equally probable values and `seen` those that were found."""
    values, counts = np.unique(every, return_counts=True)
    chosen = np.unique(np.round(np.linspace(1, len(values) - 1, min(len(values) - 1, THRESHOLDS))).astype(int))
    sizes = np.cumsum(counts)[chosen - 1] / len(every)  # how probable it is to be below values[chosen]
    null = uniform(len(seen), tuple(sizes))
    inside = below(seen, values[chosen])
    low, high = null.band(level)
    return sizes, inside / len(seen), low, high, null.p_value(inside)
