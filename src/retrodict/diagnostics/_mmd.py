"""Maximum mean discrepancy. Are two sets of draws as near to each other as to themselves?

    MMD^2 = mean k(p, p') + mean k(q, q') - 2 mean k(p, q),      zero only if P = Q

with k the sum of three Gaussian kernels whose widths are 1/2, 1 and 2 times the median distance of the pooled rows. All
columns are z-scored by the pooled rows, without outliers that would decide their scale. The null distribution comes
from permutations of the rows over the two sets. Neither the units nor the widths depend on which row belongs to which
set, so the p-value is exact.

Source: Gretton et al. 2012, Journal of Machine Learning Research 13, 723-773.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.diagnostics._pairs import MIN_SIMULATIONS, Named, aligned, generator
from retrodict.diagnostics._scales import robust_scores
from retrodict.diagnostics._verdict import Verdict, checked_level


KERNEL_WIDTHS = (0.5, 1.0, 2.0)  # in median distances
MAX_ROWS = 2000  # of a set: the matrix of all pairs then takes 128 MB
MAX_DISTANCES = 1_000_000  # for the median: the median of all would take longer than the test


@dataclass(frozen=True, repr=False)
class MMD(Verdict):
    """The squared discrepancy `statistic`, and its values after permutations, `null` `(permutations,)`."""

    statistic: float
    null: Float64[np.ndarray, " permutations"]
    p_value: float
    level: float

    def figures(self) -> dict[str, float | str]:
        return {"squared discrepancy": self.statistic, "permutations": len(self.null)}


def mmd(reference: Named, draws: Named, *, key: Key, permutations: int = 499, level: float = 0.05) -> MMD:
    """Tests whether two sets of independent rows, `{name: (n, *shape)}` and `{name: (m, *shape)}`, have the same law.

    All variables are tested together. Of more than 2,000 rows of a set 2,000 are drawn at random. To test a posterior
    that depends on data, put the data among the variables: (theta*, x) of some simulations against (a draw, x) of other
    ones.

    Raises:
        DataError: names, shapes or values that do not fit; fewer than ten rows of a set.

    Source: Gretton et al. 2012, Journal of Machine Learning Research 13, 723-773.
    """
    level, rng = checked_level(level), generator(key)
    p, q = aligned(reference, draws, ("`reference`", "`draws`"))
    if min(len(p), len(q)) < MIN_SIMULATIONS:
        raise DataError(
            f"a two-sample test needs at least {MIN_SIMULATIONS} rows of each set, got {len(p)} and {len(q)}"
        )
    p, q = (rows if len(rows) <= MAX_ROWS else rng.permutation(rows)[:MAX_ROWS] for rows in (p, q))
    kernel = _kernel(np.concatenate([p, q]))
    weights = np.concatenate([np.full(len(p), 1.0 / len(p)), np.full(len(q), -1.0 / len(q))])
    weights = np.stack([weights, *(rng.permutation(weights) for _ in range(permutations))])
    # w @ kernel @ w of every row w
    statistic, *null = ((weights @ kernel) * weights).sum(axis=1)
    tail_count = int((np.asarray(null) >= statistic).sum())
    return MMD(float(statistic), np.asarray(null), (1 + tail_count) / (1 + permutations), level)


def _kernel(rows: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n n"]:
    """Returns the kernel of all pairs of rows."""
    z = robust_scores(rows)
    norms = (z**2).sum(axis=1)
    distances = np.maximum(norms[:, None] + norms - 2.0 * z @ z.T, 0.0)  # squared
    np.fill_diagonal(distances, 0.0)  # exactly, in spite of rounding
    positive = distances[distances > 0]
    if not positive.size:
        raise DataError("all rows of both sets are the same: there is nothing to compare")
    median = float(np.median(positive[:: 1 + positive.size // MAX_DISTANCES]))
    return sum((np.exp(-distances / (2.0 * width**2 * median)) for width in KERNEL_WIDTHS), np.zeros_like(distances))
