"""Maximum mean discrepancy. Are two sets of draws as near to each other as to themselves?

    MMD^2 = mean k(p, p') + mean k(q, q') - 2 mean k(p, q),      zero only where P = Q

with k the sum of three Gaussian kernels whose widths are 1/2, 1 and 2 times the median distance of the pooled rows. All
columns are z-scored by the pooled rows. The null is that of permutations: rows are dealt out to the two sets anew.
Since neither the units nor the widths know which row belongs where, the p-value is exact.

Source: Gretton et al. 2012, Journal of Machine Learning Research 13, 723-773.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.diagnostics._pairs import FEWEST, Named, aligned, generator
from retrodict.diagnostics._uniform import Verdict, checked_level


WIDTHS = (0.5, 1.0, 2.0)
LARGEST = 2000  # rows of a set: the matrix of all pairs then takes 128 MB


@dataclass(frozen=True, repr=False)
class MMD(Verdict):
    """`statistic`, the squared discrepancy, and the same after permutations, `null` `(permutations,)`."""

    statistic: float
    null: Float64[np.ndarray, " permutations"]
    p_value: float
    level: float


def mmd(reference: Named, draws: Named, *, key: Key, permutations: int = 499, level: float = 0.05) -> MMD:
    """Tests whether two sets of independent rows, `{name: (n, *shape)}` and `{name: (m, *shape)}`, are of one law.

    All variables are tested together. More than 2,000 rows of a set are thinned at random. To test a posterior that
    depends on data, put the data among the variables: (theta*, x) of some simulations against (a draw, x) of others.

    Raises:
        DataError: names, shapes or values that do not fit; fewer than ten rows of a set.

    Source: Gretton et al. 2012, Journal of Machine Learning Research 13, 723-773.
    """
    level, rng = checked_level(level), generator(key)
    p, q = aligned(reference, draws, ("`reference`", "`draws`"))
    if min(len(p), len(q)) < FEWEST:
        raise DataError(f"a two-sample test needs at least {FEWEST} rows of each set, got {len(p)} and {len(q)}")
    p, q = (rows if len(rows) <= LARGEST else rng.permutation(rows)[:LARGEST] for rows in (p, q))
    kernel = _kernel(np.concatenate([p, q]))
    weights = np.concatenate([np.full(len(p), 1.0 / len(p)), np.full(len(q), -1.0 / len(q))])
    dealt = np.stack([weights, *(rng.permutation(weights) for _ in range(permutations))])
    # dealt @ kernel @ dealt, one row at a time
    statistic, *null = ((dealt @ kernel) * dealt).sum(axis=1)
    beyond = int((np.asarray(null) >= statistic).sum())
    return MMD(float(statistic), np.asarray(null), (1 + beyond) / (1 + permutations), level)


def _kernel(rows: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n n"]:
    spread = rows.std(axis=0)
    z = (rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    squares = (z**2).sum(axis=1)
    square = np.maximum(squares[:, None] + squares - 2.0 * z @ z.T, 0.0)
    np.fill_diagonal(square, 0.0)  # exactly, in spite of rounding
    apart = square[square > 0]
    if not apart.size:
        raise DataError("all rows of both sets are the same: there is nothing to compare")
    # at most a million distances: their median is known well enough, and finding it in all takes longer than the test
    middle = float(np.median(apart[:: 1 + apart.size // 1_000_000]))
    return sum((np.exp(-square / (2.0 * width**2 * middle)) for width in WIDTHS), np.zeros_like(square))
