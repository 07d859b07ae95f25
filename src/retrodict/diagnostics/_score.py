"""Expected log probability. How much density does a model put on the truth, and as much as it claims?

    score = mean_i log q(theta*_i | x_i)                                 the higher, the better: compare models by it
    gap   = mean_i [ log q(theta*_i | x_i) - mean_j log q(theta_ij | x_i) ],     theta_ij ~ q(. | x_i)

The score is proper: nothing beats the true posterior in expectation. The gap is zero for it, because theta* is then
one more draw; below zero where q is too sure of itself or in the wrong place, above zero where q is too wide. The law
of the gap where all is well is found by letting a random one of the L + 1 values play the truth in every simulation.

Source: Gneiting and Raftery 2007 (proper scores), doi 10.1198/016214506000001437.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.diagnostics._coverage import log_densities
from retrodict.diagnostics._pairs import FEWEST, Numbers, generator
from retrodict.diagnostics._uniform import Verdict, checked_level


@dataclass(frozen=True, repr=False)
class ExpectedLogProb(Verdict):
    """`score` and its `standard_error`, `gap`, and what gaps are where all is well, `null` `(permutations,)`."""

    score: float
    standard_error: float
    gap: float
    null: Float64[np.ndarray, " permutations"]
    p_value: float
    level: float


def expected_log_prob(
    truth: Numbers, draws: Numbers, *, key: Key, permutations: int = 999, level: float = 0.05
) -> ExpectedLogProb:
    """Scores log densities of true values, and tests them against those of the model's own draws.

    `truth` is `(n,)`, the normalized log density of each true value; `draws` is `(n, n_draws)`, that of posterior
    draws of the same simulations.

    Raises:
        DataError: shapes that do not fit, values that are NaN or infinite, fewer than ten simulations.

    Source: Gneiting and Raftery 2007, doi 10.1198/016214506000001437.
    """
    level, shape = checked_level(level), np.shape(draws)
    if len(shape) != 2 or shape[0] < FEWEST or shape[1] < 1:
        raise DataError(f"draws must be (n, n_draws) with at least {FEWEST} simulations, got the shape {shape}")
    at_truth, at_draws = log_densities(truth, draws, n=shape[0])
    if bad := int(np.sum(np.isinf(at_truth)) + np.sum(np.isinf(at_draws))):
        raise DataError(f"{bad} log densities are minus infinity, so that their mean is, too: use `coverage` instead")
    everyone = np.concatenate([at_truth[:, None], at_draws], axis=1)
    n, values = everyone.shape
    # the gap if value j played the truth: (1 + 1 / L) (value j - the mean of all L + 1)
    gaps = (everyone - everyone.mean(axis=1, keepdims=True)) * (values / (values - 1))
    chosen = generator(key).integers(0, values, (permutations, n))
    null = np.mean(gaps[np.arange(n), chosen], axis=1)
    gap = float(gaps[:, 0].mean())
    error = float(at_truth.std(ddof=1) / np.sqrt(n))
    return ExpectedLogProb(float(at_truth.mean()), error, gap, null, two_sided(gap, null), level)


def two_sided(value: float, null: Float64[np.ndarray, " k"]) -> float:
    """Twice the smaller share of null values at or beyond `value`, which itself counts as one of them."""
    beyond = min(int((null >= value).sum()), int((null <= value).sum()))
    return min(1.0, 2.0 * (1 + beyond) / (1 + len(null)))
