"""Expected log probability. Does a model give the truth as much density as its own draws?

    score = mean_i log q(theta*_i | x_i)                                 larger is better: compare models by it
    gap   = mean_i [ log q(theta*_i | x_i) - mean_j log q(theta_ij | x_i) ],     theta_ij ~ q(. | x_i)

The score is proper: no q has a larger expectation than the true posterior. The expected gap of the true posterior is
zero, because theta* is then one more draw. A gap below zero shows a q that is too narrow or in the wrong place, a gap
above zero a q that is too wide. For the null distribution of the gap a random one of the L + 1 values plays the truth
in every simulation.

Source: Gneiting and Raftery 2007 (proper scores), doi 10.1198/016214506000001437.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.diagnostics._coverage import log_densities
from retrodict.diagnostics._pairs import MIN_SIMULATIONS, Numbers, generator
from retrodict.diagnostics._verdict import Verdict, checked_level


@dataclass(frozen=True, repr=False)
class ExpectedLogProb(Verdict):
    """The `score` and its `standard_error`, the `gap`, and gaps under the null, `null` `(permutations,)`."""

    score: float
    standard_error: float
    gap: float
    null: Float64[np.ndarray, " permutations"]
    p_value: float
    level: float

    def figures(self) -> dict[str, float | str]:
        return {"score": f"{self.score:.4g} ± {self.standard_error:.2g}", "gap": self.gap}


def expected_log_prob(
    truth: Numbers, draws: Numbers, *, key: Key, permutations: int = 999, level: float = 0.05
) -> ExpectedLogProb:
    """Scores log densities of true values, and tests them against those of the model's own draws.

    Args:
        truth: normalized log densities `(n,)` of the true values.
        draws: log densities `(n, n_draws)` of posterior draws of the same simulations.
        key: of the permutations.
        permutations: values of the gap under the null.
        level: the probability that the test fails although the posterior is right.

    Raises:
        DataError: shapes that do not fit, values that are NaN or infinite, fewer than ten simulations.

    Source: Gneiting and Raftery 2007, doi 10.1198/016214506000001437.
    """
    level, shape = checked_level(level), np.shape(draws)
    if len(shape) != 2 or shape[0] < MIN_SIMULATIONS or shape[1] < 1:
        raise DataError(
            f"draws must be (n, n_draws) with at least {MIN_SIMULATIONS} simulations, got the shape {shape}"
        )
    at_truth, at_draws = log_densities(truth, draws, n=shape[0])
    if n_infinite := int(np.sum(np.isinf(at_truth)) + np.sum(np.isinf(at_draws))):
        raise DataError(
            f"{n_infinite} log densities are minus infinity, so that their mean is, too: use `coverage` instead"
        )
    logs = np.concatenate([at_truth[:, None], at_draws], axis=1)
    n, n_values = logs.shape
    # the gap if value j played the truth: (1 + 1 / L) (value j - the mean of all L + 1)
    gaps = (logs - logs.mean(axis=1, keepdims=True)) * (n_values / (n_values - 1))
    index = generator(key).integers(0, n_values, (permutations, n))
    null = np.mean(gaps[np.arange(n), index], axis=1)
    gap = float(gaps[:, 0].mean())
    error = float(at_truth.std(ddof=1) / np.sqrt(n))
    return ExpectedLogProb(float(at_truth.mean()), error, gap, null, two_sided(gap, null), level)


def two_sided(value: float, null: Float64[np.ndarray, " k"]) -> float:
    """Returns the two-sided p-value: twice the smaller share of null values at or beyond `value`, itself included."""
    tail_count = min(int((null >= value).sum()), int((null <= value).sum()))
    return min(1.0, 2.0 * (1 + tail_count) / (1 + len(null)))
