"""Local classifier two-sample tests. Is the posterior right at *this* observation?

Train a classifier on simulations, (theta*_i, x_i) with label 0 and (theta_i, x_i), theta_i ~ q(. | x_i), with label 1.
Where q is right no classifier does better than a coin, anywhere; so at an observation x_o

    statistic(x_o) = mean over theta ~ q(. | x_o) of ( d(theta, x_o) - 1/2 )^2,     d the probability of label 1

is near zero, although nobody knows the true posterior of x_o. What "near" is tells the same statistic of classifiers
trained with labels that carry nothing: theta*_i and theta_i change places in a random half of the simulations, which
changes no law if q is right, so that the p-value is exact. (The published null shuffles all labels.) Several
observations share the classifiers; together they are judged by the largest standardized statistic, whose null is that
of the same maximum (Westfall and Young 1993).

The default classifier is a perceptron of the published size, two layers of 10 d units, but not the published training.
Stopping early on a tenth of the rows stops before anything was learned where simulations are few: of 500 simulations
with standard deviations that are .7 of the right ones it caught 1 in 6. A fixed number of passes with a penalty on the
weights caught 6 in 6, at .1 s a training.

d > 1/2 says that q puts too much density at theta, d < 1/2 too little.

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
from retrodict.diagnostics._uniform import Verdict, checked_level


PASSES, ROWS = 40, 40_000  # through the rows at least, and rows to look at where there are fewer than 1,000


@dataclass(frozen=True, repr=False)
class LC2ST(Verdict):
    """`statistic` `(B,)` at each of B observations, and the same of `permutations` classifiers without any signal.

    `p_values` `(B,)` belong to single observations, `p_value` to all of them together. `probability` `(B, m)` is what
    the classifier says of every draw: above 1/2 where the posterior has too much density, below it too little.
    """

    statistic: Float64[np.ndarray, " B"]
    null: Float64[np.ndarray, "permutations B"]
    probability: Float64[np.ndarray, "B m"]
    p_values: Float64[np.ndarray, " B"]
    p_value: float
    level: float


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
    """Tests a posterior at one or more observations, by simulations at others.

    `truth` is `{name: (n, *shape)}`, `draws` is `{name: (n, n_draws, *shape)}` (the first draw of each is used), `data`
    is `{name: (n, *shape)}`; `observed` is `{name: (B, *shape)}` with draws `observed_draws`, `{name: (B, m, *shape)}`.
    `classifier` is any classifier of scikit-learn with probabilities; by default a perceptron. It is trained
    `permutations` + 1 times, each .1 s for 500 simulations.

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
    mean, spread = _units(np.concatenate([np.concatenate([x, part], axis=1) for part in theta]))
    rows = ((rows - mean) / spread).reshape(-1, rows.shape[2])
    seeds = rng.integers(0, 2**31, permutations + 1)

    def judge(swapped: np.ndarray, seed: int) -> np.ndarray:
        first, second = np.where(swapped[:, None], theta[::-1], theta)
        inputs = np.concatenate([np.concatenate([x, part], axis=1) for part in (first, second)])
        order = np.random.default_rng(seed).permutation(len(inputs))  # some optimizers keep a tail for validation
        labels = np.repeat([0, 1], pairs.n)
        trained = _fitted(classifier, ((inputs - mean) / spread)[order], labels[order], int(seed))
        return trained.predict_proba(rows)[:, 1].reshape(at_o.shape[:2])

    probability = judge(np.zeros(pairs.n, bool), seeds[0])
    shuffled = (judge(rng.random(pairs.n) < 0.5, seed) for seed in seeds[1:])
    null = np.stack([((found - 0.5) ** 2).mean(axis=1) for found in shuffled])
    statistic = ((probability - 0.5) ** 2).mean(axis=1)
    p_values = (1 + (null >= statistic).sum(axis=0)) / (1 + permutations)
    return LC2ST(statistic, null, probability, p_values, _together(statistic, null), level)


def _together(statistic: Float64[np.ndarray, " B"], null: Float64[np.ndarray, "permutations B"]) -> float:
    """The p-value of the largest standardized statistic; units are those of all, the one to be judged among them."""
    everyone = np.concatenate([statistic[None], null])
    spread = everyone.std(axis=0)
    largest = ((everyone - everyone.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).max(axis=1)
    return float((largest >= largest[0]).mean())


def _data(n: int, data: Named, observed: Named, observed_draws: Named, truth: Named) -> tuple[np.ndarray, ...]:
    """Data `(n, e)`, observations `(B, e)` and their draws `(B, m, d)`, in one order of names."""
    x, x_o = aligned(data, observed, ("`data`", "`observed`"))
    same_names(truth, observed_draws, ("`truth`", "`observed_draws`"))
    if len(x) != n:
        raise DataError(f"`data` has {len(x)} rows, and there are {n} simulations")
    blocks = [numbers(observed_draws[name], f"'{name}' of `observed_draws`", axes=2) for name in truth]
    if {block.shape[0] for block in blocks} != {len(x_o)} or len({block.shape[1] for block in blocks}) > 1:
        raise DataError(f"`observed_draws` must be (B, m, *shape) with B = {len(x_o)}, got {[b.shape for b in blocks]}")
    flat = [block.reshape(*block.shape[:2], math.prod(block.shape[2:])) for block in blocks]
    return x, x_o, np.concatenate(flat, axis=2)


def _units(rows: Float64[np.ndarray, "n d"]) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, " d"]]:
    spread = rows.std(axis=0)
    return rows.mean(axis=0), np.where(spread > 0, spread, 1.0)


def _fitted(classifier: Any, inputs: Float64[np.ndarray, "n d"], labels: np.ndarray, seed: int) -> Any:
    # Imported here, so that `import retrodict` does not pay for scikit-learn.
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if classifier is not None:
        return clone(classifier).fit(inputs, labels)
    n, d = inputs.shape
    perceptron = MLPClassifier(
        (10 * d, 10 * d), alpha=1.0, learning_rate_init=0.003, max_iter=max(PASSES, ROWS // n), random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is fixed on purpose
        return perceptron.fit(inputs, labels)
