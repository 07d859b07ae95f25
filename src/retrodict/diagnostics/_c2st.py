"""Classifier two-sample tests: can a classifier tell two sets of draws apart?

Take n rows of a reference P (label 0) and n rows of draws Q (label 1), and let a classifier predict the label of rows
that it was not trained on. Its accuracy estimates, from below,

    (1 + TV(P, Q)) / 2        TV the total variation distance;  .5: P = Q,  1: no overlap

which is exactly the accuracy of the Bayes classifier. For N(0, I) against N(mu, I) it is Phi(|mu| / 2).

A better classifier makes a stricter test, so accuracies of different classifiers are on different scales, and a result
names its classifier. There are two: the multilayer perceptron of the sbibm benchmark (Lueckmann et al. 2021), strict,
and a random forest, more lenient and faster. Even the strict accuracy is a lower bound. Sometimes the optimizer of
scikit-learn stops too early, so repeat a value near .5 with another seed.

If P = Q the N = 2 n held-out predictions are coin flips. They are not independent, because the folds share training
rows: the standard deviation of the accuracy is about 1.3 times the binomial one, .5 / sqrt(N).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64

from retrodict._errors import DataError, listed, unknown
from retrodict.diagnostics._pairs import Numbers, numbers
from retrodict.diagnostics._scales import robust_scores, warn_of_outliers
from retrodict.diagnostics._verdict import Verdict, checked_level
from retrodict.diagnostics.summary import labels_of


Draws: TypeAlias = Numbers | Mapping[str, Numbers]
Classifier: TypeAlias = Literal["mlp", "forest"]
NULL_SD_FACTOR = 1.3  # the sd of the accuracy over the binomial one, see above
_FOLDS = 5
_MIN_ROWS = 10  # of a set: every fold then trains on both labels, for every order of the rows


@dataclass(frozen=True, repr=False)
class C2ST(Verdict):
    """The cross-validated accuracy of one classifier: the mean over folds, and each fold; `float(result)` is the mean.

    `rows` is the number of rows of both sets together. The null of two equal sets is normal with mean .5 and 1.3 times
    the binomial standard deviation: a measurement, not a theorem. `level` is the rate of false alarms of `ok`.
    """

    accuracy: float
    folds: tuple[float, ...]
    classifier: Classifier
    rows: int
    level: float = 0.05

    @property
    def p_value(self) -> float:  # type: ignore[override]  # computed here, a field elsewhere
        """The probability of at least this accuracy if the two sets have the same law."""
        null_sd = NULL_SD_FACTOR * 0.5 / math.sqrt(self.rows)
        return 0.5 * math.erfc((self.accuracy - 0.5) / null_sd / math.sqrt(2.0))

    def figures(self) -> dict[str, float | str]:
        return {"accuracy": self.accuracy, "classifier": self.classifier, "rows": self.rows}

    def __float__(self) -> float:
        return self.accuracy


def c2st(
    reference: Draws, draws: Draws, *, seed: int = 1, jobs: int = 1, level: float = 0.05, robust: bool = False
) -> C2ST:
    """Tests strictly, as in sbibm: the 5-fold accuracy of a perceptron with two layers of 10 d ReLU units.

    Both sets are z-scored by the mean and standard deviation of the reference. A few far rows can decide these; then
    there is a warning, and `robust=True` scores such columns without them. The test takes seconds for 1,000 rows of
    each set, and minutes for 10,000.

    Args:
        reference: array `(n, d)`, or arrays `(n, *shape)` by name.
        draws: the same number of rows, with the same columns or names.
        seed: of the folds and of the classifier.
        jobs: folds that train at the same time, each in a process of its own.
        level: the rate of false alarms.
        robust: center and sd of a column that few rows decide are those of the others; scores end at 10 sds.

    Raises:
        DataError: unequal rows, columns or names, fewer than ten rows, a value that is not finite, or a column of the
            reference that is constant.

    Warns:
        OutlierWarning: a few rows of the reference make its standard deviation more than three times as large.

    Source: Lueckmann et al. 2021, arXiv 2101.04653, and the `c2st` of its package sbibm.
    """
    # Imported here, so that `import retrodict` does not pay for scikit-learn.
    from sklearn.neural_network import MLPClassifier

    if not robust:
        _warn_of_outliers(reference)
    rows = _z_scored(reference, draws, robust=robust)
    width = 10 * rows.shape[1]
    # No early stopping on held-out rows: sbibm trains until the loss is flat.
    perceptron = MLPClassifier(
        activation="relu",
        hidden_layer_sizes=(width, width),
        max_iter=10_000,
        solver="adam",
        early_stopping=False,
        random_state=seed,
    )
    return _cross_validated(perceptron, rows, "mlp", seed, jobs, level)


def c2st_forest(reference: Draws, draws: Draws, *, seed: int = 1, jobs: int = 1, level: float = 0.05) -> C2ST:
    """Tests leniently and fast: the accuracy of a random forest of 100 trees on the folds of `c2st`.

    Arguments, result and errors are those of `c2st`, but a forest does not depend on scales. Accuracies are lower, and
    cannot be compared with those of `c2st`.
    """
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(random_state=seed)
    return _cross_validated(forest, _z_scored(reference, draws), "forest", seed, jobs, level)


def _cross_validated(
    classifier: Any, rows: Float32[np.ndarray, "_ d"], name: Classifier, seed: int, jobs: int, level: float
) -> C2ST:
    """Returns the accuracy on held-out folds; the first half of `rows` is the reference."""
    from sklearn.model_selection import KFold, cross_val_score

    labels = np.repeat([0, 1], len(rows) // 2)
    folds = KFold(n_splits=_FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_score(classifier, rows, labels, cv=folds, scoring="accuracy", n_jobs=jobs)
    return C2ST(float(scores.mean()), tuple(float(score) for score in scores), name, len(rows), checked_level(level))


def _warn_of_outliers(reference: Draws) -> None:
    named = reference if isinstance(reference, Mapping) else {"column": reference}
    blocks = {name: _flat(values, f"'{name}' of the reference") for name, values in named.items()}
    for name, block in blocks.items():
        if np.isfinite(block).all() and len(block) >= _MIN_ROWS:
            labels = labels_of(name, np.shape(named[name])[1:])
            warn_of_outliers(block, labels, "the reference", "drop these rows from both sets, or say robust=True")


def _z_scored(reference: Draws, draws: Draws, *, robust: bool = False) -> Float32[np.ndarray, "_ d"]:
    """Returns the rows of the reference, then those of the draws, z-scored by the reference."""
    p, q = _matrices(reference, draws)
    if len(p) != len(q):
        raise DataError(
            f"the reference has {len(p)} rows and the draws have {len(q)}: take equally many, else chance is not .5"
        )
    if len(p) < _MIN_ROWS:
        raise DataError(f"a classifier needs at least {_MIN_ROWS} rows of each set, got {len(p)}")
    if p.shape[1] != q.shape[1] or not p.shape[1]:
        raise DataError(f"the reference has {p.shape[1]} columns and the draws have {q.shape[1]}: they must be alike")
    for owner, values in (("reference", p), ("draws", q)):
        if n_bad := int(np.sum(~np.isfinite(values).all(axis=1))):
            raise DataError(
                f"{n_bad} of the {len(values)} rows of the {owner} are not finite: drop or repair them first"
            )
    mean, sd = p.mean(axis=0), p.std(axis=0, ddof=1)
    # A constant that is no binary fraction, such as .1, has a standard deviation of rounding errors, not 0.
    constant = np.flatnonzero(sd <= 1e-14 * np.abs(p).max(axis=0))
    if constant.size:
        raise DataError(f"column {constant[0]} of the reference is constant and cannot be z-scored: leave it out")
    # Scored in double precision, so that a large offset costs no digits; classified in single precision, as in sbibm.
    with np.errstate(over="ignore"):
        scores = np.concatenate([p - mean, q - mean]) / sd
        rows = (robust_scores(np.concatenate([p, q]), p) if robust else scores).astype(np.float32)
    if not np.isfinite(rows).all():
        raise DataError("a draw lies more than 1e38 standard deviations from the reference: no classifier is needed")
    return rows


def _matrices(reference: Draws, draws: Draws) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "m e"]]:
    """Returns both sets as matrices with one row per draw, columns in the order of names in the reference."""
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


def _joined(blocks: Mapping[str, Float64[np.ndarray, "_ _"]], owner: str) -> Float64[np.ndarray, "n d"]:
    """Returns the blocks of all variables side by side."""
    if not blocks:
        raise DataError("the reference names no variable: there is nothing to compare")
    counts = {name: len(block) for name, block in blocks.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the variables of the {owner} have different numbers of rows: {counts}")
    return np.concatenate(list(blocks.values()), axis=1)


def _flat(values: Numbers, label: str) -> Float64[np.ndarray, "n d"]:
    """Returns an array `(n, *shape)` as `(n, d)`; rows that are not finite are counted and refused later."""
    array = numbers(values, label, axes=1, finite=False)
    return array.reshape(len(array), math.prod(array.shape[1:]))
