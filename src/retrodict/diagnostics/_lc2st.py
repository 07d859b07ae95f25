"""Local classifier two-sample tests. Is the posterior right at *this* observation?

Train a classifier on simulations, (theta*_i, x_i) with label 0 and (theta_i, x_i), theta_i ~ q(. | x_i), with label 1.
If q is the true posterior, no classifier does better than a coin anywhere. At an observation x_o the statistic

    statistic(x_o) = mean over theta ~ q(. | x_o) of ( d(theta, x_o) - 1/2 )^2,     d the probability of label 1

is then near zero, and no draws from the true posterior of x_o are needed. The null distribution of the statistic comes
from classifiers trained with labels without information: theta*_i and theta_i change places in a random half of the
simulations. If q is right this changes no law, so the p-value is exact. (The published null shuffles all labels.)
Several observations share the classifiers. The test of all together takes the largest standardized statistic, and the
null distribution of that maximum (Westfall and Young 1993).

The default classifier is a perceptron of the published size, two layers of 10 d units. It trains for a fixed number of
passes with a penalty on the weights: the published early stopping learns too little from few simulations.

d > 1/2 shows that q has too much density at theta, d < 1/2 too little.

Source: Linhart, Gramfort and Rodrigues 2023, arXiv 2306.03580.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.diagnostics._pairs import Named, aligned, generator, numbers, paired, same_names
from retrodict.diagnostics._scales import robust_scores
from retrodict.diagnostics._verdict import Verdict, checked_level


MIN_PASSES = 40  # through the rows
MIN_ROWS_SEEN = 40_000  # all passes together: more than `MIN_PASSES` passes for fewer than 1,000 rows


@dataclass(frozen=True, repr=False)
class LC2ST(Verdict):
    """The `statistic` `(B,)` at each of B observations, and its `null` from `permutations` classifiers without signal.

    `p_values` `(B,)` belong to single observations, `p_value` to all of them together. `probability` `(B, m)` is the
    probability of label 1 for every draw: above 1/2 if the posterior has too much density there, below if too little.
    """

    statistic: Float64[np.ndarray, " B"]
    null: Float64[np.ndarray, "permutations B"]
    probability: Float64[np.ndarray, "B m"]
    p_values: Float64[np.ndarray, " B"]
    p_value: float
    level: float

    def figures(self) -> dict[str, float | str]:
        index = int(self.p_values.argmin())
        lowest = f"{self.p_values[index]:.2g} (observation {index})"
        return {"permutations": len(self.null), f"lowest of {len(self.p_values)} p-values": lowest}


def lc2st(
    truth: Named,
    draws: Named,
    data: Named,
    observed: Named,
    observed_draws: Named,
    *,
    key: Key,
    classifier: Any = None,
    permutations: int = 100,
    level: float = 0.05,
) -> LC2ST:
    """Tests a posterior at one or more observations, by simulations of other data.

    Args:
        truth: true values `{name: (n, *shape)}` of the simulations.
        draws: posterior draws `{name: (n, n_draws, *shape)}`, of which the first of each simulation is used.
        data: data `{name: (n, *shape)}` of the simulations.
        observed: observations `{name: (B, *shape)}`.
        observed_draws: posterior draws `{name: (B, m, *shape)}` of the observations.
        key: of the permutations and of the classifiers.
        classifier: any classifier of scikit-learn with probabilities, by default a perceptron.
        permutations: classifiers for the null; `permutations` + 1 are trained.
        level: the probability that any observation fails although the posterior is right.

    Raises:
        DataError: names, shapes or values that do not fit; fewer than ten simulations.

    Source: Linhart et al. 2023, arXiv 2306.03580.
    """
    level, rng, pairs = checked_level(level), generator(key), paired(truth, draws)
    x, x_o, at_o = _data(pairs.n, data, observed, observed_draws, truth)
    if at_o.shape[2] != pairs.truth.shape[1]:
        raise DataError(f"`observed_draws` has {at_o.shape[2]} elements a draw, and the truth {pairs.truth.shape[1]}")
    rows = np.concatenate([np.repeat(x_o[:, None], at_o.shape[1], axis=1), at_o], axis=2)
    theta = np.stack([pairs.truth, pairs.draws[:, 0]])
    pooled = np.concatenate([np.concatenate([x, values], axis=1) for values in theta])
    rows = robust_scores(rows.reshape(-1, rows.shape[2]), pooled)
    seeds = rng.integers(0, 2**31, permutations + 1)

    def classify(is_swapped: np.ndarray, seed: int) -> np.ndarray:
        first, second = np.where(is_swapped[:, None], theta[::-1], theta)
        inputs = np.concatenate([np.concatenate([x, values], axis=1) for values in (first, second)])
        order = np.random.default_rng(seed).permutation(len(inputs))  # some optimizers validate on the last rows
        labels = np.repeat([0, 1], pairs.n)
        trained = _fitted(classifier, robust_scores(inputs, pooled)[order], labels[order], int(seed))
        return trained.predict_proba(rows)[:, 1].reshape(at_o.shape[:2])

    probability = classify(np.zeros(pairs.n, bool), seeds[0])
    shuffled = (classify(rng.random(pairs.n) < 0.5, seed) for seed in seeds[1:])
    null = np.stack([((probabilities - 0.5) ** 2).mean(axis=1) for probabilities in shuffled])
    statistic = ((probability - 0.5) ** 2).mean(axis=1)
    p_values = (1 + (null >= statistic).sum(axis=0)) / (1 + permutations)
    return LC2ST(statistic, null, probability, p_values, _joint_p_value(statistic, null), level)


def _joint_p_value(statistic: Float64[np.ndarray, " B"], null: Float64[np.ndarray, "permutations B"]) -> float:
    """Returns the p-value of the largest standardized statistic; the observed one counts in mean and sd, too."""
    statistics = np.concatenate([statistic[None], null])
    mean, sd = _mean_and_sd(statistics)
    largest = ((statistics - mean) / sd).max(axis=1)
    return float((largest >= largest[0]).mean())


def _data(n: int, data: Named, observed: Named, observed_draws: Named, truth: Named) -> tuple[np.ndarray, ...]:
    """Returns data `(n, e)`, observations `(B, e)` and their draws `(B, m, d)`, in one order of names."""
    x, x_o = aligned(data, observed, ("`data`", "`observed`"))
    same_names(truth, observed_draws, ("`truth`", "`observed_draws`"))
    if len(x) != n:
        raise DataError(f"`data` has {len(x)} rows, and there are {n} simulations")
    blocks = [numbers(observed_draws[name], f"'{name}' of `observed_draws`", axes=2) for name in truth]
    if {block.shape[0] for block in blocks} != {len(x_o)} or len({block.shape[1] for block in blocks}) > 1:
        raise DataError(f"`observed_draws` must be (B, m, *shape) with B = {len(x_o)}, got {[b.shape for b in blocks]}")
    flat = [block.reshape(*block.shape[:2], math.prod(block.shape[2:])) for block in blocks]
    return x, x_o, np.concatenate(flat, axis=2)


def _mean_and_sd(rows: Float64[np.ndarray, "n d"]) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, " d"]]:
    """Returns mean and sd of every column; 1 in place of an sd of 0."""
    spread = rows.std(axis=0)
    return rows.mean(axis=0), np.where(spread > 0, spread, 1.0)


def _fitted(classifier: Any, inputs: Float64[np.ndarray, "n d"], labels: np.ndarray, seed: int) -> Any:
    """Returns a trained copy of the classifier, by default of a perceptron."""
    # Imported here, so that `import retrodict` does not pay for scikit-learn.
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if classifier is not None:
        return clone(classifier).fit(inputs, labels)
    n, d = inputs.shape
    passes = max(MIN_PASSES, MIN_ROWS_SEEN // n)
    perceptron = MLPClassifier(
        (10 * d, 10 * d), alpha=1.0, learning_rate_init=0.003, max_iter=passes, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is fixed on purpose
        return perceptron.fit(inputs, labels)
