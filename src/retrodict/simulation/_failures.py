"""Failures: whether the chance that a run ends well depends on its parameters, and the weights that correct for it.

    rows that ended well are draws of   p(theta, x | ok) = p(theta) p(ok | theta) p(x | theta, ok) / p(ok)

Whoever observed finite data knows that the real run ended well: the posterior given the data is then right without any
correction (`failed="ignore"` in `fit`, formerly "given"). But where a failure is the fault of the program (a solver
that diverged, a time limit), the parameters it avoids are no less likely, and the posterior should be that of
p(theta) p(x | theta, ok) (`failed="reweight"`, formerly "corrected"):

    weight of a row = 1 / p(ok | theta)

p(ok | theta) is a small classifier of the parameters of rows that ended well and of rows that failed. It takes a fixed
number of steps: stopped by its accuracy, which hardly moves where one kind of row is rare, it had not learned yet. Its
held-out scores are then made probabilities by a logistic regression on their log odds (Platt 1999). Weights cannot
bring back parameters that always fail. The share of the prior where fewer than one in `MAX_WEIGHT` runs ends well is
estimated, and training with these weights tells it.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from retrodict._errors import DataError, listed
from retrodict.diagnostics.summary import labels_of
from retrodict.query.tokens import flatten
from retrodict.variables import Layout


MAX_ROWS = 50_000  # that the classifier learns from
MIN_ROWS_PER_KIND = 10  # of rows that failed and of rows that did not
FOLDS = 5
BATCH, UPDATES, MIN_PASSES, MAX_PASSES = 200, 3_000, 15, 300  # of the classifier; passes over its rows
MAX_WEIGHT = 50.0  # where fewer than one in fifty runs ends well, few rows would decide everything
MAX_UNREACHABLE = 0.01  # share of the prior that may be lost before training says so


class FailedRunsWarning(UserWarning):
    """Failed rows were left out of training without a word on it, or leave a hole that weights cannot fill.

    Pass `failed="ignore"` or `failed="reweight"` ("given" and "corrected" in earlier versions).
    """


@dataclass(frozen=True)
class Failures:
    """The dependence of failures on the parameters.

    Attributes:
        share: the share of rows that did not end well.
        auc: area under the ROC curve of the classifier's held-out scores: .5 without any dependence, 1 if the
            parameters decide.
        p_value: of no dependence at all, by rank-sum tests of these scores, fold by fold (Bonferroni).
        thirds: label of an element to the shares of failures in its lowest, middle and highest third.
        unreachable: the share of the prior in which fewer than one in fifty runs ends well, so that no weights can
            bring it back.
        level: the rate of false alarms of `ok`.
    """

    share: float
    auc: float
    p_value: float
    thirds: Mapping[str, tuple[float, float, float]]
    unreachable: float
    layout: Layout = field(repr=False)
    classifier: "_Classifier" = field(repr=False)
    level: float = 0.01

    @property
    def ok(self) -> bool:
        """Whether the test finds no dependence of failures on the parameters."""
        return self.p_value > self.level

    def summary(self) -> str:
        """Returns the result in a sentence."""
        if self.ok:
            return f"{self.share:.1%} of runs failed, whatever their parameters (p = {self.p_value:.2g})"
        name, shares = max(self.thirds.items(), key=lambda item: max(item[1]) - min(item[1]))
        low, middle, high = (f"{share:.1%}" for share in shares)
        hole = f"; in {self.unreachable:.1%} of the prior hardly any run ends well" if self.has_hole else ""
        return (
            f"{self.share:.1%} of runs failed, and which do depends on the parameters (p = {self.p_value:.2g}), "
            f"most on {name}: {low} in its lowest third, {middle} in the middle, {high} in its highest{hole}"
        )

    @property
    def has_hole(self) -> bool:
        """Whether so much of the prior is lost that weights cannot make up for the failures."""
        return self.unreachable > MAX_UNREACHABLE

    tell = summary  # the name of earlier versions

    def probability(self, parameters: Mapping[str, Any]) -> Float[np.ndarray, " n"]:
        """p(ok | parameters) of `{name: (n, *shape)}`.

        Raises:
            DataError: a name or shape that the simulations do not have.
        """
        return self.of_tokens(_tokens(self.layout, parameters))

    def of_tokens(self, tokens: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """p(ok | parameters) of tokens of the parameters."""
        return self.classifier(tokens)

    def weights(self, tokens: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """The weights 1 / p(ok | parameters) of rows in training, `MAX_WEIGHT` at most."""
        return np.minimum(1.0 / np.maximum(self.of_tokens(tokens), 1e-9), MAX_WEIGHT)


def failures(sims: Any, *, seed: int = 0) -> Failures:
    """Tests whether failures depend on the parameters, by a classifier of rows that failed and rows that did not.

    Training then ignores them, `fit(..., failed="ignore")` (or "given"), or corrects for the dependence with weights,
    `failed="reweight"` (or "corrected").

    Args:
        sims: simulations as `rd.simulate` returns them.

    Raises:
        DataError: fewer than ten rows failed, or fewer than ten did not; or `sims` are no simulations.
    """
    from scipy.stats import mannwhitneyu

    if not hasattr(sims, "n_failed"):
        raise DataError(f"failures are those of `rd.simulate`'s simulations, got {type(sims).__name__}")
    if sims.n_failed < MIN_ROWS_PER_KIND or sims.kept < MIN_ROWS_PER_KIND:
        raise DataError(
            f"{sims.n_failed} of {sims.drawn} rows failed; to say how that depends on the parameters takes at least "
            f"{MIN_ROWS_PER_KIND} that did and {MIN_ROWS_PER_KIND} that did not"
        )
    layout, rng = sims.layout, np.random.default_rng(seed)
    failed, well = (rng.permutation(_tokens(layout, rows)) for rows in (sims.failed, sims))
    n = min(MAX_ROWS, sims.drawn)  # both kinds are thinned alike
    n_failed = int(np.clip(round(n * sims.n_failed / sims.drawn), MIN_ROWS_PER_KIND, n - MIN_ROWS_PER_KIND))
    failed, well = failed[:n_failed], well[: n - n_failed]
    tokens, labels = np.concatenate([failed, well]), np.repeat([0, 1], [len(failed), len(well)])
    classifier, scores, folds = _classifier(tokens, labels, seed)
    ranking = mannwhitneyu(scores[labels == 1], scores[labels == 0])
    # folds share training rows, so that all scores together are no independent sample; those of a fold are
    p_values = [
        mannwhitneyu(scores[rows][labels[rows] == 1], scores[rows][labels[rows] == 0], alternative="greater").pvalue
        for rows in folds
    ]
    return Failures(
        share=sims.n_failed / sims.drawn,
        auc=float(ranking.statistic / (len(failed) * len(well))),
        p_value=min(1.0, FOLDS * float(min(p_values))),
        thirds=_thirds(layout, tokens, labels),
        unreachable=float(np.mean(classifier(tokens) < 1.0 / MAX_WEIGHT)),
        layout=layout,
        classifier=classifier,
    )


def weights_of_failures(sims: Any) -> Failures:
    """Returns the failures whose `weights` correct for them, and warns if they cannot.

    Raises:
        DataError: as `failures`.

    Warns:
        FailedRunsWarning: in some part of the prior hardly any run ends well.
    """
    result = failures(sims)
    if result.has_hole:
        warnings.warn(
            f"failed='reweight' cannot bring back {result.unreachable:.0%} of the prior of "
            f"{listed(result.layout.parameters)}, where fewer than one in {MAX_WEIGHT:.0f} runs ends well: the "
            "posterior is that of the rest; repair the simulator there, or leave this part out of the prior",
            FailedRunsWarning,
            stacklevel=6,
        )
    return result


@dataclass(frozen=True)
class _Classifier:
    """A classifier of rows, and the logistic regression of its log odds that makes probabilities of them."""

    pipeline: Any
    calibration: Any

    def __call__(self, tokens: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        return self.calibration.predict_proba(_log_odds(self.pipeline.predict_proba(tokens)[:, 1]))[:, 1]


def _classifier(tokens: np.ndarray, labels: np.ndarray, seed: int) -> tuple[_Classifier, np.ndarray, list[np.ndarray]]:
    """Returns the classifier of all rows, the held-out score of every row, and the rows of every fold."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer

    ranks = QuantileTransformer(
        output_distribution="normal", n_quantiles=min(1000, len(tokens) // 2), random_state=seed
    )
    passes = int(np.clip(UPDATES * BATCH / len(tokens), MIN_PASSES, MAX_PASSES))
    pipeline = make_pipeline(ranks, MLPClassifier((32, 32), alpha=0.01, max_iter=passes, random_state=seed))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is what is wanted
        scores = cross_val_predict(pipeline, tokens, labels, cv=folds, method="predict_proba")[:, 1]
        pipeline.fit(tokens, labels)
    calibration = LogisticRegression(C=1e6).fit(_log_odds(scores), labels)
    return _Classifier(pipeline, calibration), scores, [rows for _, rows in folds.split(tokens, labels)]


def _log_odds(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 1"]:
    """Returns log odds as a column."""
    p = np.clip(p, 1e-6, 1.0 - 1e-6)
    return np.log(p / (1.0 - p))[:, None]


def _thirds(layout: Layout, tokens: np.ndarray, labels: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """The shares of failures in the lowest, middle and highest third of every element."""
    names = [label for v in _parameters(layout).variables for label in labels_of(v.name, v.shape)]
    shares = {}
    for name, column in zip(names, tokens.T, strict=True):
        third = np.searchsorted(np.quantile(column, [1 / 3, 2 / 3]), column)
        low, middle, high = (float(1.0 - labels[third == i].mean()) if (third == i).any() else 0.0 for i in range(3))
        shares[name] = (low, middle, high)
    return shares


def _parameters(layout: Layout) -> Layout:
    """The parameters that are no functions."""
    return Layout(tuple(layout[name] for name in layout.parameters if not layout[name].axes))


def _tokens(layout: Layout, rows: Mapping[str, Any]) -> np.ndarray:
    """The tokens of the parameters `(n, p)`."""
    parameters = _parameters(layout)
    values = {name: rows[name] for name in parameters.names if name in rows}
    return flatten(parameters, values, parameters.names, where="the parameters")
