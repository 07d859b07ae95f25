"""The report for a referee: one page that says what was asked, what came out, and why one may believe it.

    problem, data checks, failed runs, training, posterior, predictive checks, calibration, cost and seeds, how to cite

Every picture comes with words that say what it means and whether it passed. Checks are run here, and stand in the order
in which doubts arise; what they say is said first, in the lead.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np

from retrodict import diagnostics, plots, report
from retrodict._errors import QueryError, listed
from retrodict._types import as_key
from retrodict.diagnostics import Predictive
from retrodict.diagnostics.summary import columns, summarize
from retrodict.evaluation import Check, check
from retrodict.evaluation.misspecification import Unlike, unlike
from retrodict.models import AbstractModel, model_for
from retrodict.query import Batch
from retrodict.simulation._failures import MIN_ROWS_PER_KIND, Failures, failures


DRAWS, REPLICATES = 2000, 400
PACKAGES = ("retrodict", "jax", "equinox", "numpy", "scikit-learn", "matplotlib")
CITE = (
    ("simulation-based calibration", "Talts et al. 2018, arXiv 1804.06788"),
    ("bands of ranks", "Säilynoja, Bürkner and Vehtari 2022, arXiv 2103.10522"),
    ("coverage", "Hermans et al. 2022, arXiv 2110.06581"),
    ("tests of accuracy with random points", "Lemos et al. 2023, arXiv 2302.03026"),
    ("posterior predictive checks", "Gelman, Meng and Stern 1996, Statistica Sinica 6, 733-807"),
    ("p-values by rank", "Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World"),
    ("one model of all questions", "Nautiyal et al. 2026, arXiv 2601.22951; Gloeckler et al. 2024, arXiv 2404.09636"),
    ("flow matching", "Lipman et al. 2023, arXiv 2210.02747"),
)


@dataclass(frozen=True)
class Findings:
    """Everything that a report says; `predictive` is None for a model that cannot make data."""

    draws: dict[str, np.ndarray] = field(repr=False)
    likeness: Unlike
    predictive: Predictive | None
    check: Check
    seconds: float
    seed: int
    failures: Failures | None = None

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return self.check.ok and self.likeness.ok and (self.predictive is None or self.predictive.ok)

    def to_json(self) -> dict[str, Any]:
        """The verdicts, for machines."""
        return {
            "ok": self.ok,
            "calibration": dict(self.check.calibration.p_values),
            "unlike": self.likeness.p_values,
            "predictive": None if self.predictive is None else self.predictive.p_values,
            "summary": summarize(self.draws),
            "seconds": self.seconds,
        }


def examine(
    model: AbstractModel,
    sims: Mapping[str, Any],
    observation: Mapping[str, Any],
    *,
    seed: int = 0,
    **settings: Any,
) -> Findings:
    """Asks a model for the posterior of an observation and checks it in every way; `settings` go to `check`.

    Raises:
        DataError: simulations or an observation of a wrong name, shape or type.
        QueryError: a question that this model cannot answer.
    """
    _refuse(model)
    begun = time.monotonic()
    keys = jr.split(as_key(seed), 5)
    # what was not observed is not given to the simulations either
    observed = {name: np.isfinite(np.asarray(value, float)) for name, value in observation.items()}
    _, checked = check(model, sims, given=observed, key=keys[0], **settings)
    likeness = unlike(model, observation, sims, key=keys[1])
    draws = model.without_warnings().sample(DRAWS, given=observation, key=keys[2])
    predictive_check = _predicted(model, draws, observation, keys[3])
    testable = MIN_ROWS_PER_KIND <= getattr(sims, "n_failed", 0) <= getattr(sims, "drawn", 0) - MIN_ROWS_PER_KIND
    failure_test = failures(sims, seed=seed) if testable else None
    return Findings(draws, likeness, predictive_check, checked, time.monotonic() - begun, seed, failure_test)


def _refuse(model: AbstractModel) -> None:
    """Refuses, before anything is computed, a model that a report cannot be about."""
    model_for("a report", model)
    if model.of_sites:
        raise QueryError("a report is not offered for models of many sites; rd.check is, and `model.site` of one site")
    if model.layout.functions:
        raise QueryError(
            f"a report is not offered for models with functions ({listed(model.layout.functions)}); rd.check is"
        )
    if not model.has_draws:
        raise QueryError(f"a report needs draws, which a {type(model).__name__} has none of; report on its model")


def write(path: str | Path, model: AbstractModel, findings: Findings, *, title: str = "") -> Path:
    """Writes the page and returns its path.

    Raises:
        FileError: a place that cannot be written.
    """
    sections = [
        report.Section("The problem", _problem(model)),
        report.Section("The data: could the simulator have made them?", _data(findings.likeness)),
        *([report.Section("Runs that failed", _failed(findings.failures))] if findings.failures else []),
        report.Section("Training", _training(model)),
        report.Section("The posterior", _posterior(findings.draws)),
        report.Section("Predictive checks", _predictive(findings.predictive)),
        report.Section("Calibration", _calibration(findings.check)),
        report.Section("Cost, seeds and versions", _cost(model, findings)),
        report.Section("How to cite", [report.Table(["method", "source"], CITE)]),
    ]
    verdicts = [
        ["calibration on held-out simulations", _passed(findings.check.ok), findings.check.p_value],
        ["data like the simulations", _passed(findings.likeness.ok), findings.likeness.p_value],
    ]
    if findings.predictive is not None:
        verdicts.append(["predictive checks", _passed(findings.predictive.ok), findings.predictive.p_value])
    lead = f"Asked: {findings.check.calibration.question}. " + (
        "All checks passed." if findings.ok else "Not all checks passed: read why before you rely on the posterior."
    )
    table = report.Table(["check", "outcome", "p-value"], verdicts)
    return report.write_report(path, title or "What the data say", sections, lead=lead, key_figures=table)


def _predicted(
    model: AbstractModel,
    draws: Mapping[str, np.ndarray],
    observation: Mapping[str, Any],
    key: Any,
) -> Predictive | None:
    """Data that the model makes of posterior draws, beside the observation."""
    parameter = model.layout.is_parameter
    parameters = [name for name in model.layout.parameters if name in draws]
    complete = len(parameters) == len(model.layout.parameters)
    learned = model.learned_to_predict(~parameter, parameter)
    if not learned or set(observation) & set(model.embedded) or not complete:
        return None
    batch = Batch({name: draws[name][:REPLICATES] for name in parameters})
    replicates = model.without_warnings().sample(1, given=batch, of=list(observation), key=key)
    observed = {name: np.asarray(value, float) for name, value in observation.items()}
    return diagnostics.predictive(observed, {name: value[:, 0] for name, value in replicates.items()})


def _problem(model: AbstractModel) -> list[report.Block]:
    rows = []
    for v in model.layout.variables:
        low, high = (np.unique(end) for end in v.ends)
        ends = f"{low[0]:g} to {high[-1]:g}" if len(low) == len(high) == 1 else "differs by element"
        rows.append([v.name, v.kind, " by ".join(map(str, v.shape)) or "one number", ends.replace("inf", "∞")])
    text = "These variables were simulated together, and one model of all of them was trained."
    return [report.Text(text), report.Table(["variable", "kind", "shape", "support"], rows)]


def _data(likeness: Unlike) -> list[report.Block]:
    words = (
        f"In one line: {likeness.summary()}.\n\nThe observation was compared with held-out simulations. Its p-values "
        "are ranks: were it made by the simulator, a value of at most p would come with the probability p."
    )
    names = {
        "neighbors": "all data, distance to the nearest simulations",
        "datum": "the most surprising datum",
        "together": "all data, predicted from each other",
    }
    blocks: list[report.Block] = [report.Text(words)]
    blocks.append(report.Table(["seen from", "p-value"], [[names[k], p] for k, p in likeness.p_values.items()]))
    if likeness.surprise:
        rows = [[name, surprise, likeness.datum_p[name]] for name, surprise in list(likeness.surprise.items())[:10]]
        caption = "The data that fit worst, each predicted from all the others: distances in standard deviations."
        blocks.append(report.Table(["datum", "distance", "p-value"], rows, caption))
    return blocks


def _training(model: AbstractModel) -> list[report.Block]:
    record = model.record
    rows: list[list[Any]] = [
        ["simulations", record.simulations],
        ["gradient steps", record.steps],
        ["seconds", record.seconds],
        ["validation loss", record.validation_loss],
        *([name, text] for name, text in model.description.items()),
    ]
    return [report.Table(["", "value"], rows)]


def _failed(failures: Failures) -> list[report.Block]:
    rows = [[name, *(f"{100 * share:.1f} %" for share in parts)] for name, parts in failures.thirds.items()]
    columns = ["parameter", "lowest third", "middle", "highest third"]
    meaning = (
        "Failures do not depend on the parameters, and nothing follows from them."
        if failures.ok
        else "The model has learned from runs that ended well. For data that are finite its posterior is right if a "
        "real run could fail in the same way. If failures are the fault of the program, the posterior avoids "
        "parameters that are no less likely: train with failed='reweight'."
    )
    text = f"{failures.summary()}. A classifier tells the two apart with an area under its curve of {failures.auc:.2f}."
    return [report.Text(f"{text}\n\n{meaning}"), report.Table(columns, rows, "Share of runs that failed.")]


def _posterior(draws: Mapping[str, np.ndarray]) -> list[report.Block]:
    summary = summarize(draws)
    rows: list[list[Any]] = [[name, *row.values()] for name, row in summary.items()]
    table = report.Table(["element", "mean", "sd", "5 %", "50 %", "95 %"], rows, f"{DRAWS} draws.")
    labels = list(columns(draws))[: plots.MOST]
    picture = report.Drawing(
        plots.corner({"posterior": draws}, names=labels),
        "Histograms of each element and, below the diagonal, regions that hold 50 % and 90 % of the draws.",
        f"Posterior of {', '.join(labels)}: "
        + "; ".join(f"{name} has mean {summary[name]['mean']:.3g} and sd {summary[name]['sd']:.2g}" for name in labels),
    )
    return [picture, table]


def _predictive(outcome: Predictive | None) -> list[report.Block]:
    if outcome is None:
        words = "None: this model was not trained to make data from parameters."
        return [report.Text(words)]
    words = (
        "The model made new data from draws of the posterior. A statistic of the observation that lies far out among "
        f"those of the new data would mean that the model cannot make what was seen. "
        f"{_passed(outcome.ok).capitalize()}: all together p = {outcome.p_value:.2g}."
    )
    rows: list[list[Any]] = [
        [name, outcome.observed[name], float(replicates.mean()), float(replicates.std()), outcome.p_values[name]]
        for name, replicates in outcome.replicated.items()
    ]
    return [report.Text(words), report.Table(["statistic", "observed", "mean of new data", "sd", "p-value"], rows)]


def _calibration(result: Check) -> list[report.Block]:
    calibration = result.calibration
    begin = (
        f"The same question was asked about {calibration.simulations} simulations that the model was not trained on, "
        f"with {calibration.draws} draws each. Gray bands hold all that a right posterior would show, but for a "
        f"probability of at most {calibration.level / len(calibration.p_values):.1%} in each picture; failed tests are "
        "vermilion."
    )
    blocks: list[report.Block] = [report.Text(begin)]
    for name, test, figure, meaning in _pictures(result):
        words = f"{meaning} {_passed(test.ok).capitalize()} (p = {test.p_value:.2g})."
        blocks.append(report.Drawing(figure, words, f"{name}: {_passed(test.ok)}, p = {test.p_value:.2g}. {meaning}"))
    if result.log_prob is not None:
        score = result.log_prob
        blocks.append(
            report.Text(
                f"The mean log density of the truth is {score.score:.3f} ± {score.standard_error:.3f}, which is "
                f"{score.gap:+.3f} from what the model expects of its own draws: below zero it is too sure of itself. "
                f"{_passed(score.ok).capitalize()} (p = {score.p_value:.2g})."
            )
        )
    return blocks


def _pictures(result: Check) -> list[tuple[str, Any, Any, str]]:
    tests: list[tuple[str, Any, Any, str]] = []
    if len(result.sbc.labels) <= plots.MANY:
        meaning = (
            "Where the truth ranks among draws: flat if the posterior is right, a slope if it is shifted, a smile if "
            "it is too narrow, a hill if it is too wide."
        )
        tests.append(("Ranks", result.sbc, plots.ranks(result.sbc), meaning))
    meaning = "The same ranks, added up: the lines stay in the band if the posterior is right."
    tests.append(("Ranks, added up", result.sbc, plots.ecdf(result.sbc), meaning))
    if len(result.coverage.sizes) <= plots.MANY:
        meaning = (
            "How often credible regions hold the truth: on the diagonal if the posterior is right, below it if it is "
            "too sure of itself, above it if it is too cautious."
        )
        tests.append(("Coverage", result.coverage, plots.coverage(result.coverage), meaning))
    meaning = "How often balls about random points hold the truth, all variables together: on the diagonal if right."
    tests.append(("Random points", result.tarp, plots.tarp(result.tarp), meaning))
    return tests


def _cost(model: AbstractModel, findings: Findings) -> list[report.Block]:
    rows: Sequence[Sequence[Any]] = [
        ["training, seconds", f"{model.record.seconds:.0f}"],
        ["this report, seconds", f"{findings.seconds:.0f}"],
        ["seed of this report", str(findings.seed)],
        *([name, version(name)] for name in PACKAGES),
    ]
    return [report.Table(["", "value"], rows)]


def _passed(ok: bool) -> str:  # noqa: FBT001 - an outcome, not a setting
    return "passed" if ok else "failed"
