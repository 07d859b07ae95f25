"""Classifier two-sample tests: can a classifier tell two sets of draws apart?

Lay n rows of a reference P (label 0) and n rows of draws Q (label 1) together, and let a classifier guess the label of
rows that it was not trained on. Its accuracy estimates, from below,

    (1 + TV(P, Q)) / 2        TV the total variation distance;  .5: cannot be told apart,  1: no overlap

because the Bayes classifier has exactly that accuracy. For N(0, I) against N(mu, I) it is Phi(|mu| / 2).

How good the classifier is sets how strict the test is, so figures of different classifiers are on different scales,
and a result says which one it is. Two are offered: the multilayer perceptron of the sbibm benchmark (Lueckmann et al.
2021), strict, and a random forest, more lenient and faster. Even the strict one is a lower bound: now and then
scikit-learn's optimizer stops early and flatters, so repeat a value near .5 with another seed before believing it.

Where P = Q the N = 2 n held-out guesses are coin flips, but not independent ones, as the folds share training rows:
over 80 repeats (n = 100, d = 1) the accuracy has 1.3 times the binomial standard deviation .5 / sqrt(N), and a mean
of .475 (perceptron) or .505 (forest).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64

from retrodict._errors import DataError, listed, unknown
from retrodict.diagnostics._pairs import Numbers, numbers
from retrodict.diagnostics._uniform import checked_level


Draws: TypeAlias = Numbers | Mapping[str, Numbers]
Classifier: TypeAlias = Literal["mlp", "forest"]
WIDER = 1.3  # than coin flips, see above
_FOLDS = 5
_FEWEST = 10  # rows of a set: every fold then trains on both labels, wherever the shuffle puts them


@dataclass(frozen=True)
class C2ST:
    """The cross-validated accuracy of one classifier, as their mean and per fold; `float(result)` is the mean.

    `rows` are those of both sets together. The null of two equal sets is normal with mean .5 and 1.3 times the binomial
    standard deviation, which was measured (see above) and is no theorem; `level` is the rate of false alarms of `ok`.
    """

    accuracy: float
    folds: tuple[float, ...]
    classifier: Classifier
    rows: int
    level: float = 0.05

    @property
    def p_value(self) -> float:
        """The probability of at least this accuracy, were the two sets of one law."""
        return 0.5 * math.erfc((self.accuracy - 0.5) / (WIDER * 0.5 / math.sqrt(self.rows)) / math.sqrt(2.0))

    @property
    def ok(self) -> bool:
        """Whether the classifier cannot tell the sets apart."""
        return self.p_value > self.level

    def __float__(self) -> float:
        return self.accuracy


def c2st(reference: Draws, draws: Draws, *, seed: int = 1, jobs: int = 1, level: float = 0.05) -> C2ST:
    """The strict test, as sbibm defines it: the 5-fold accuracy of a perceptron with two layers of 10 d ReLU units.

    `reference` and `draws` are arrays `(n, d)`, or mappings name -> `(n, *shape)` with the same names, of equally many
    rows; both are z-scored by the mean and standard deviation of the reference. `jobs` is the number of folds that
    train at once, each in its own process. Minutes for 10,000 rows a side, seconds for 1,000.

    Raises:
        DataError: unequal rows, columns or names, fewer than ten rows, a value that is not finite, or a column of the
            reference that is constant.

    Source: Lueckmann et al. 2021, arXiv 2101.04653, and the `c2st` of its package sbibm.
    """
    # Imported here, so that `import retrodict` does not pay for scikit-learn.
    from sklearn.neural_network import MLPClassifier

    rows = _z_scored(reference, draws)
    width = 10 * rows.shape[1]
    # No early stopping on a held-out part (scikit-learn's default as well): sbibm trains until the loss is flat.
    perceptron = MLPClassifier(
        activation="relu",
        hidden_layer_sizes=(width, width),
        max_iter=10_000,
        solver="adam",
        early_stopping=False,
        random_state=seed,
    )
    return _judged(perceptron, rows, "mlp", seed, jobs, level)


def c2st_forest(reference: Draws, draws: Draws, *, seed: int = 1, jobs: int = 1, level: float = 0.05) -> C2ST:
    """The lenient, fast test: the accuracy of a random forest of 100 trees on the same folds as `c2st`.

    Arguments, result and errors are those of `c2st`; the figures are lower and not on one scale with it.
    """
    from sklearn.ensemble import RandomForestClassifier

    return _judged(RandomForestClassifier(random_state=seed), _z_scored(reference, draws), "forest", seed, jobs, level)


def _judged(
    classifier: Any, rows: Float32[np.ndarray, "_ d"], name: Classifier, seed: int, jobs: int, level: float
) -> C2ST:
    from sklearn.model_selection import KFold, cross_val_score

    labels = np.repeat([0, 1], len(rows) // 2)
    folds = KFold(n_splits=_FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_score(classifier, rows, labels, cv=folds, scoring="accuracy", n_jobs=jobs)
    return C2ST(float(scores.mean()), tuple(float(score) for score in scores), name, len(rows), checked_level(level))


def _z_scored(reference: Draws, draws: Draws) -> Float32[np.ndarray, "_ d"]:
    """The reference above the draws, in units of the reference's standard deviation from its mean."""
    p, q = _matrices(reference, draws)
    if len(p) != len(q):
        raise DataError(
            f"the reference has {len(p)} rows and the draws have {len(q)}: take equally many, else chance is not .5"
        )
    if len(p) < _FEWEST:
        raise DataError(f"a classifier needs at least {_FEWEST} rows of each set, got {len(p)}")
    if p.shape[1] != q.shape[1] or not p.shape[1]:
        raise DataError(f"the reference has {p.shape[1]} columns and the draws have {q.shape[1]}: they must be alike")
    for what, part in (("reference", p), ("draws", q)):
        if bad := int(np.sum(~np.isfinite(part).all(axis=1))):
            raise DataError(f"{bad} of the {len(part)} rows of the {what} are not finite: drop or repair them first")
    mean, sd = p.mean(axis=0), p.std(axis=0, ddof=1)
    # A constant that is no binary fraction, such as .1, has a standard deviation of a few roundings, not of 0.
    constant = np.flatnonzero(sd <= 1e-14 * np.abs(p).max(axis=0))
    if constant.size:
        raise DataError(f"column {constant[0]} of the reference is constant and cannot be z-scored: leave it out")
    # Scored in double precision, so that a large offset costs no digits; judged in single, as sbibm does.
    with np.errstate(over="ignore"):
        rows: np.ndarray = (np.concatenate([p - mean, q - mean]) / sd).astype(np.float32)
    if not np.isfinite(rows).all():
        raise DataError("a draw lies more than 1e38 standard deviations from the reference: no classifier is needed")
    return rows


def _matrices(reference: Draws, draws: Draws) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "m e"]]:
    """Both sets with one row per draw, columns in the reference's order of names."""
    if not isinstance(reference, Mapping) and not isinstance(draws, Mapping):
        return _flat(reference, "the reference"), _flat(draws, "the set of draws")
    if not isinstance(reference, Mapping) or not isinstance(draws, Mapping):
        raise DataError("give both sets as arrays or both as mappings from name to array, not one of each")
    for name in draws:
        if name not in reference:
            raise DataError(unknown("the set of draws", name, reference, owner="the reference has"))
    if absent := [name for name in reference if name not in draws]:
        raise DataError(f"the reference has {listed(absent)}, which the draws lack: compare the same variables")
    p = {name: _flat(reference[name], f"'{name}' of the reference") for name in reference}
    q = {name: _flat(draws[name], f"'{name}' of the draws") for name in reference}
    for name in reference:
        if p[name].shape[1] != q[name].shape[1]:
            sizes = f"{p[name].shape[1]} elements in the reference and {q[name].shape[1]} in the draws"
            raise DataError(f"'{name}' has {sizes}: they must be alike")
    return _joined(p, "reference"), _joined(q, "draws")


def _joined(parts: Mapping[str, Float64[np.ndarray, "_ _"]], what: str) -> Float64[np.ndarray, "n d"]:
    if not parts:
        raise DataError("the reference names no variable: there is nothing to compare")
    counts = {name: len(part) for name, part in parts.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the variables of the {what} have different numbers of rows: {counts}")
    return np.concatenate(list(parts.values()), axis=1)


def _flat(values: Numbers, what: str) -> Float64[np.ndarray, "n d"]:
    """`(n, *shape)` as `(n, d)`; rows that are not finite are refused later, and counted."""
    array = numbers(values, what, axes=1, finite=False)
    return array.reshape(len(array), math.prod(array.shape[1:]))
