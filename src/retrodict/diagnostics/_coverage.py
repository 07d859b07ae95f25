"""Coverage. A region that holds a share c of the posterior holds the truth in a share c of all simulations.

    marginal    the central interval of each element:            c = |2 r / L - 1|,  r the rank of theta* among L draws
    joint       the region of highest density, of all together:  c = the share of draws with a higher log density

c is the size of the smallest region that holds the truth. It is uniform for the true posterior, too often large for a
posterior that is too narrow (regions miss), and too often small for one that is too wide. The joint region is sensitive
to faults that no marginal shows, such as a lost correlation. It needs log densities, up to a constant per simulation,
of the model that drew.

Source: Hermans et al. 2022, arXiv 2110.06581, section 2; the band is that of Säilynoja et al. 2022, arXiv 2103.10522.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.diagnostics._pairs import Named, Numbers, generator, numbers, paired, ranks
from retrodict.diagnostics._uniform import MAX_THRESHOLDS, counts_below, uniform_null
from retrodict.diagnostics._verdict import Verdict, bonferroni, checked_level, lowest


JOINT = "joint"


@dataclass(frozen=True, repr=False)
class Coverage(Verdict):
    """The share of simulations `coverage[label]` `(K,)` whose truth lies in regions of sizes `sizes[label]` `(K,)`.

    Labels are scalar elements and, if log densities were handed in, "joint". Under the true posterior all shares of all
    labels stay within `low[label]`, `high[label]` except with a probability of `level`. `p_values` belong to that band,
    `p_value` to all labels together. `excess` is the mean of coverage minus size, below zero if regions are too small.
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
        """Returns the coverage of regions of one size, by label."""
        sizes, shares = self.sizes, self.coverage  # with the empty region and the whole space as end points
        return {k: float(np.interp(size, [0.0, *sizes[k], 1.0], [0.0, *shares[k], 1.0])) for k in sizes}

    def figures(self) -> dict[str, float | str]:
        label = max(self.excess, key=lambda label: abs(self.excess[label]))
        return {**lowest(self.p_values), "largest excess": f"{self.excess[label]:.2g} ('{label}')"}


class _Curve(NamedTuple):
    """The coverage of regions of increasing sizes, the band around it, and the p-value of the band."""

    sizes: Float64[np.ndarray, " K"]
    coverage: Float64[np.ndarray, " K"]
    low: Float64[np.ndarray, " K"]
    high: Float64[np.ndarray, " K"]
    p_value: float


def coverage(
    truth: Named,
    draws: Named,
    *,
    log_probs: tuple[Numbers, Numbers] | None = None,
    key: Key = 0,
    level: float = 0.05,
) -> Coverage:
    """Tests whether credible regions of every size hold the truth as often as they should.

    Args:
        truth: true values `{name: (n, *shape)}`.
        draws: posterior draws `{name: (n, n_draws, *shape)}`.
        log_probs: log densities `(n,)` of the truth and `(n, k)` of k draws each; adds the joint region.
        key: breaks ties.
        level: the probability that any label fails although the posterior is right.

    Raises:
        DataError: names, shapes or values that do not fit; fewer than ten simulations or two draws.

    Source: Hermans et al. 2022, arXiv 2110.06581.
    """
    level, pairs, rng = checked_level(level), paired(truth, draws), generator(key)
    n_draws = pairs.n_draws
    if n_draws < 2:
        raise DataError("regions need at least two draws for every simulation, got one")
    central = np.abs(2 * ranks(pairs.truth, pairs.draws, rng) - n_draws)
    # of every label the possible values of |2 r - L|, for r = 0, ..., L, and the observed ones
    statistics: dict[str, tuple[np.ndarray, np.ndarray]] = {
        label: (np.abs(2 * np.arange(n_draws + 1) - n_draws), column)
        for label, column in zip(pairs.labels, central.T, strict=True)
    }
    if log_probs is not None:
        at_truth, at_draws = log_densities(*log_probs, n=pairs.n)
        n_higher = ranks(-at_truth[:, None], -at_draws[..., None], rng)[:, 0]
        statistics[JOINT] = (np.arange(at_draws.shape[1] + 1), n_higher)
    curves = {label: _curve(*statistic, level / len(statistics)) for label, statistic in statistics.items()}
    p_values = {label: curve.p_value for label, curve in curves.items()}
    return Coverage(
        sizes={label: curve.sizes for label, curve in curves.items()},
        coverage={label: curve.coverage for label, curve in curves.items()},
        low={label: curve.low for label, curve in curves.items()},
        high={label: curve.high for label, curve in curves.items()},
        excess={label: float((curve.coverage - curve.sizes).mean()) for label, curve in curves.items()},
        p_values=p_values,
        p_value=bonferroni(p_values),
        level=level,
    )


def log_densities(
    truth: Numbers, draws: Numbers, *, n: int
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, "n L"]]:
    """Returns log densities of truth and draws as arrays; minus infinity (outside the support) is allowed.

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
    for values, owner in ((at_truth, "truth"), (at_draws, "draws")):
        if n_bad := int(np.sum(np.isnan(values) | (values == np.inf))):
            raise DataError(f"{n_bad} of the log densities of the {owner} are NaN or plus infinity")
    return at_truth, at_draws


def _curve(possible: Int64[np.ndarray, " r"], observed: Int64[np.ndarray, " n"], level: float) -> _Curve:
    """Returns the coverage curve of a statistic from its equally probable values and its observed values."""
    values, counts = np.unique(possible, return_counts=True)
    n_sizes = min(len(values) - 1, MAX_THRESHOLDS)
    index = np.unique(np.round(np.linspace(1, len(values) - 1, n_sizes)).astype(int))
    sizes = np.cumsum(counts)[index - 1] / len(possible)  # the probability to be below values[index]
    null = uniform_null(len(observed), tuple(sizes))
    n_covered = counts_below(observed, values[index])
    return _Curve(sizes, n_covered / len(observed), *null.band(level), null.p_value(n_covered))
