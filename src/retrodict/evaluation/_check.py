"""The check of a family of queries: it is asked about many held-out simulations, and the answers are tested."""

import dataclasses
import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax.random as jr
import numpy as np
from jaxtyping import Array

from retrodict import diagnostics
from retrodict._runtime.precision import in_single_precision
from retrodict._runtime.tables import html_table
from retrodict._types import Key, as_key
from retrodict.diagnostics import TARP, Coverage, ExpectedLogProb, coverage, expected_log_prob, sbc, tarp
from retrodict.evaluation._check_rows import compare_rows
from retrodict.evaluation._check_sites import compare_sites
from retrodict.evaluation._settings import CheckSettings, Comparison
from retrodict.models import AbstractModel, Calibration, CalibrationWarning, fingerprint, model_for
from retrodict.solvers import AbstractSolver


MANY_REPEATED = 0.3  # share of the simulations of a check that were trained on
M = TypeVar("M", bound=AbstractModel)


@dataclasses.dataclass(frozen=True)
class Check:
    """The outcome of a check of one family of queries; elements are named as in `theta[0]`.

    `log_prob` is None where densities were not looked at. `p_value` is that of all tests together, by Bonferroni.
    `failed_before` are checks of the same family that failed, and that this one is too weak to replace.
    """

    calibration: Calibration
    sbc: diagnostics.SBC
    coverage: Coverage
    tarp: TARP
    log_prob: ExpectedLogProb | None
    seconds: float
    failed_before: tuple[Calibration, ...] = ()

    @property
    def p_value(self) -> float:
        return self.calibration.p_value

    @property
    def ok(self) -> bool:
        """Whether all tests passed together, at a rate `calibration.level` of false alarms."""
        return self.calibration.ok

    def summary(self) -> str:
        """Returns the outcome in one line."""
        calibration = self.calibration
        tests = ", ".join(f"{name} {p:.2g}" for name, p in calibration.p_values)
        verdict = (
            f"{'passed' if self.ok else 'FAILED'}, p = {self.p_value:.2g} at a level of {calibration.level:g} ({tests})"
        )
        asked = f"{verdict}; {calibration.simulations} simulations, {calibration.draws} draws, {self.seconds:.0f} s"
        return f"{asked}; {self._earlier}" if self.failed_before else asked

    @property
    def _earlier(self) -> str:
        last = self.failed_before[-1]
        return (
            f"an earlier check FAILED (p = {last.p_value:.2g}, {last.simulations} simulations, {last.draws} draws) and "
            "stays in the record: only one that is as strong can replace it"
        )

    tell = summary  # the name of earlier versions

    def _rows(self) -> list[tuple[str, str]]:
        calibration = self.calibration
        rows = [
            ("query", calibration.question),
            ("outcome", f"{'passed' if self.ok else 'FAILED'}, p = {self.p_value:.2g}"),
        ]
        rows += [("before", self._earlier)] if self.failed_before else []
        rows += [(name, f"p = {p:.2g}") for name, p in calibration.p_values]
        return [
            *rows,
            ("asked", f"{calibration.simulations} simulations, {calibration.draws} draws, {self.seconds:.0f} s"),
        ]

    def __repr__(self) -> str:
        return "\n".join([f"Check({self.summary()})", *(f"  {name:9} {value}" for name, value in self._rows()[:1])])

    def _repr_html_(self) -> str:
        return html_table("Check", self._rows())


@in_single_precision
def check(
    model: M,
    sims: Mapping[str, Any],
    *,
    given: Iterable[str] | Mapping[str, Any],
    of: Iterable[str] | None = None,
    observations: int = 300,
    draws: int = 500,
    densities: int = 25,
    solver: AbstractSolver | None = None,
    level: float = 0.05,
    key: Key,
) -> tuple[M, Check]:
    """Checks the answers to one family of questions on simulations that the model was not trained on.

    Returns the model with the outcome in its record, which `rd.save` keeps and `model.sample` heeds, and the outcome.
    Another check of the same family replaces it, one that failed only if it has as many simulations, draws and tests;
    further training, or any change of the weights, drops it.

    Args:
        sims: held-out simulations `{name: (n, *shape)}`, at least 50; for a hierarchical model of many sites,
            `rd.simulate(problem, 300, sites=20, key=...)`, with sites in `given` and `of` as they have them.
        given: names of what is known; or a mapping from name to booleans `shape`, the elements that are.
        of: names of what is asked; by default all that `given` does not name. A function is given, and asked, at the
            points of each simulation.
        observations: how many of the simulations are asked about.
        draws: for each of them.
        densities: draws of each whose log density is computed, for joint regions and the expected log probability; 0
            for none. Left out where more than 64 elements are asked, and of sites.
        level: the probability that any test fails although the model is right.

    Raises:
        DataError: simulations of the wrong names or shapes, or too few, or a function is asked of which some
            simulations have fewer points.
        QueryError: a question that this model cannot answer.

    Warns:
        CalibrationWarning: many of `sims` are rows that the model was trained on.
    """
    begun = time.monotonic()
    keys = jr.split(as_key(key), 3)
    settings = CheckSettings(given, of, observations, draws, densities, solver)
    model_for("check", model)
    compare = compare_sites if model.of_sites else compare_rows
    comparison = compare(model, sims, settings, keys)
    _warn_of_repeated(comparison.repeated)
    tests = _tested(comparison, jr.split(keys[2], 4), level)
    calibration = _calibration(model, comparison, draws, level, tests)
    seconds = time.monotonic() - begun
    checked = model.with_calibration(calibration, comparison.reference)
    family = [entry for entry in checked.record.calibrations if entry.shares == calibration.shares]
    outcome = Check(
        calibration, tests["sbc"], tests["coverage"], tests["tarp"], tests.get("log_prob"), seconds, tuple(family[:-1])
    )
    return checked, outcome


def _warn_of_repeated(share: float) -> None:
    """Warns of simulations that the model was trained on."""
    if share >= MANY_REPEATED:
        warnings.warn(
            f"about {share:.0%} of these simulations are rows that the model was trained on, so that the check passes "
            "too easily: hand in new ones, rd.simulate(problem, 600, key=...) with another key",
            CalibrationWarning,
            stacklevel=3,
        )


def _calibration(
    model: AbstractModel, comparison: Comparison, draws: int, level: float, tests: Mapping[str, Any]
) -> Calibration:
    """Returns what a model keeps of its tests."""
    p_values = {name: test.p_value for name, test in tests.items()}
    return Calibration(
        fingerprint=fingerprint(model),
        shares=comparison.shares,
        simulations=len(next(iter(comparison.truth.values()))),
        draws=draws,
        level=level,
        p_value=min(1.0, len(p_values) * min(p_values.values())),
        p_values=tuple(p_values.items()),
        excess=tuple(tests["coverage"].excess.items()),
        score=tests["log_prob"].score if "log_prob" in tests else None,
    )


def _tested(comparison: Comparison, keys: Array, level: float) -> dict[str, Any]:
    """Returns all tests, each at a rate of false alarms that leaves `level` to all of them."""
    truth, draws, log_probs = comparison.truth, comparison.draws, comparison.log_probs
    dense = log_probs is not None and all(np.isfinite(values).all() for values in log_probs)
    test_level = level / (4 if dense else 3)
    permutations = max(999, round(4 / test_level))  # fewer could not fail at this level
    tests: dict[str, Any] = {
        "sbc": sbc(truth, draws, key=keys[0], level=test_level),
        "coverage": coverage(truth, draws, log_probs=log_probs, key=keys[1], level=test_level),
        "tarp": tarp(truth, draws, key=keys[2], level=test_level),
    }
    if dense and log_probs is not None:
        tests["log_prob"] = expected_log_prob(*log_probs, key=keys[3], level=test_level, permutations=permutations)
    return tests
