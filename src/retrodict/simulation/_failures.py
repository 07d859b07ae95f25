"""Failures: does the chance that a run ends well depend on its parameters, and what follows if it does.

    rows that ended well are draws of   p(theta, x | ok) = p(theta) p(ok | theta) p(x | theta, ok) / p(ok)

Whoever observed finite data knows that the real run ended well: given the data, the posterior is the right one as it
is. But where a failure is the fault of the program (a solver that diverged, a time limit), the parameters it avoids are
no less likely, and the posterior should be that of p(theta) p(x | theta, ok):

    weight of a row = 1 / p(ok | theta)

p(ok | theta) is a small classifier of the parameters of rows that ended well and of those that did not. A weight of
rows cannot bring back what always fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from retrodict._errors import DataError
from retrodict.diagnostics.summary import labels_of
from retrodict.query.tokens import flatten
from retrodict.variables import Layout


MOST = 50_000  # rows that the classifier learns from
FEWEST = 10  # of either kind
FOLDS = 5
HEAVIEST = 50.0  # weight of a row: where fewer than one in fifty runs ends well, few rows would decide everything


class FailedRunsWarning(UserWarning):
    """Rows that did not end well were left out of training, and nobody said what is to follow from it."""


@dataclass(frozen=True)
class Failures:
    """How failures depend on the parameters.

    Attributes:
        share: of rows that did not end well.
        auc: area under the curve of the classifier's held-out scores: .5 says nothing, 1 everything.
        p_value: of no dependence at all, by rank-sum tests of these scores, fold by fold (Bonferroni).
        thirds: label of an element to the shares of failures in its lowest, middle and highest third.
        level: the rate of false alarms of `ok`.
    """

    share: float
    auc: float
    p_value: float
    thirds: Mapping[str, tuple[float, float, float]]
    layout: Layout = field(repr=False)
    classifier: Any = field(repr=False)
    level: float = 0.01

    @property
    def ok(self) -> bool:
        """Whether failures are no more frequent for some parameters than for others, as far as one can tell."""
        return self.p_value > self.level

    def tell(self) -> str:
        """What was found, in a sentence."""
        if self.ok:
            return f"{self.share:.1%} of runs failed, whatever their parameters (p = {self.p_value:.2g})"
        name, parts = max(self.thirds.items(), key=lambda item: max(item[1]) - min(item[1]))
        low, middle, high = (f"{part:.1%}" for part in parts)
        return (
            f"{self.share:.1%} of runs failed, and which do depends on the parameters (p = {self.p_value:.2g}), "
            f"most on {name}: {low} in its lowest third, {middle} in the middle, {high} in its highest"
        )

    def probability(self, parameters: Mapping[str, Any]) -> Float[np.ndarray, " n"]:
        """p(ok | parameters) of `{name: (n, *shape)}`.

        Raises:
            DataError: a name or shape that the simulations do not have.
        """
        return self.of_tokens(_tokens(self.layout, parameters))

    def of_tokens(self, tokens: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """p(ok | parameters) of tokens of the parameters."""
        return self.classifier.predict_proba(tokens)[:, 1]

    def weights(self, tokens: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """What a row counts in training that corrects for failures, in units of the smallest weight there can be."""
        return np.minimum(1.0 / np.maximum(self.of_tokens(tokens), 1e-9), HEAVIEST)


def failures(sims: Any, *, seed: int = 0) -> Failures:
    """How failures of simulations, as `rd.simulate` returns them, depend on the parameters.

    Raises:
        DataError: fewer than ten rows failed, or fewer than ten did not; or these are no simulations.
    """
    from scipy.stats import mannwhitneyu
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer

    if not hasattr(sims, "n_failed"):
        raise DataError(f"failures are those of `rd.simulate`'s simulations, got {type(sims).__name__}")
    if sims.n_failed < FEWEST or sims.kept < FEWEST:
        raise DataError(
            f"{sims.n_failed} of {sims.drawn} rows failed; to say how that depends on the parameters takes at least "
            f"{FEWEST} that did and {FEWEST} that did not"
        )
    layout, rng = sims.layout, np.random.default_rng(seed)
    parts = []
    for rows in (sims.failed, sims):
        tokens = _tokens(layout, rows)
        parts.append(tokens[rng.permutation(len(tokens))])
    n = min(MOST, sims.drawn)
    least = int(np.clip(round(n * sims.n_failed / sims.drawn), FEWEST, n - FEWEST))  # both thinned alike
    bad, well = parts[0][:least], parts[1][: n - least]
    tokens, labels = np.concatenate([bad, well]), np.repeat([0, 1], [len(bad), len(well)])
    ranks = QuantileTransformer(
        output_distribution="normal", n_quantiles=min(1000, len(tokens) // 2), random_state=seed
    )
    net = MLPClassifier((32, 32), alpha=0.01, early_stopping=True, n_iter_no_change=20, max_iter=500, random_state=seed)
    classifier = make_pipeline(ranks, net)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(classifier, tokens, labels, cv=folds, method="predict_proba")[:, 1]
    found = mannwhitneyu(scores[labels == 1], scores[labels == 0])
    # folds share training rows, so that all scores together are no independent sample; those of one fold are
    p_values = [
        mannwhitneyu(scores[rows][labels[rows] == 1], scores[rows][labels[rows] == 0], alternative="greater").pvalue
        for _, rows in folds.split(tokens, labels)
    ]
    return Failures(
        share=sims.n_failed / sims.drawn,
        auc=float(found.statistic / (len(bad) * len(well))),
        p_value=min(1.0, FOLDS * float(min(p_values))),
        thirds=_thirds(layout, tokens, labels),
        layout=layout,
        classifier=classifier.fit(tokens, labels),
    )


def _thirds(layout: Layout, tokens: np.ndarray, labels: np.ndarray) -> dict[str, tuple[float, float, float]]:
    found, labeled = {}, [label for v in _own(layout).variables for label in labels_of(v.name, v.shape)]
    for name, column in zip(labeled, tokens.T, strict=True):
        third = np.searchsorted(np.quantile(column, [1 / 3, 2 / 3]), column)
        low, middle, high = (float(1.0 - labels[third == i].mean()) if (third == i).any() else 0.0 for i in range(3))
        found[name] = (low, middle, high)
    return found


def _own(layout: Layout) -> Layout:
    """The parameters that are numbers."""
    return Layout(tuple(layout[name] for name in layout.parameters if not layout[name].axes))


def _tokens(layout: Layout, rows: Mapping[str, Any]) -> np.ndarray:
    own = _own(layout)
    return flatten(own, {name: rows[name] for name in own.names if name in rows}, own.names, where="the parameters")
