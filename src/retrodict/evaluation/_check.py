"""One family of questions, asked about many held-out simulations, and what the tests say."""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax.random as jr
import numpy as np

from retrodict import diagnostics
from retrodict._errors import QueryError
from retrodict._types import Key, as_key
from retrodict.diagnostics import TARP, Coverage, ExpectedLogProb, coverage, expected_log_prob, sbc, tarp
from retrodict.evaluation._check_rows import of_rows
from retrodict.evaluation._check_sites import of_sites
from retrodict.evaluation._settings import Asked, CheckSettings
from retrodict.models import Calibration, FlowModel, HierarchicalModel, fingerprint
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.solvers import AbstractSolver


M = TypeVar("M", bound=FlowModel | HierarchicalModel | ImportanceSampledPosterior)


@dataclasses.dataclass(frozen=True)
class Check:
    """What the tests say about one family of questions; elements are named as in `theta[0]`.

    `log_prob` is None where densities were not looked at. `p_value` is that of all tests together, by Bonferroni.
    """

    calibration: Calibration
    sbc: diagnostics.SBC
    coverage: Coverage
    tarp: TARP
    log_prob: ExpectedLogProb | None
    seconds: float

    @property
    def p_value(self) -> float:
        return self.calibration.p_value

    @property
    def ok(self) -> bool:
        """Whether all tests passed together, at a rate `calibration.level` of false alarms."""
        return self.calibration.ok

    def tell(self) -> str:
        """The outcome in one line."""
        own = self.calibration
        each = ", ".join(f"{name} {p:.2g}" for name, p in own.p_values)
        outcome = f"{'passed' if self.ok else 'FAILED'}, p = {self.p_value:.2g} at a level of {own.level:g} ({each})"
        return f"{outcome}; {own.simulations} simulations, {own.draws} draws, {self.seconds:.0f} s"

    def __repr__(self) -> str:
        return f"Check({self.tell()})"


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
    Another check of the same family replaces it; further training, or any change of the weights, drops it.

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
    """
    begun = time.monotonic()
    keys = jr.split(as_key(key), 3)
    inquiry = CheckSettings(given, of, observations, draws, densities, solver)
    if isinstance(model, HierarchicalModel):
        asked = of_sites(model, sims, inquiry, keys)
    elif isinstance(model, FlowModel | ImportanceSampledPosterior):
        asked = of_rows(model, sims, inquiry, keys)
    else:
        raise QueryError(f"check takes a model of `rd.joint` and its relatives, not a {type(model).__name__}")
    tests = _tested(asked.truth, asked.drawn, asked.logs, jr.split(keys[2], 4), level)
    calibration = _calibration(model, asked, draws, level, tests)
    seconds = time.monotonic() - begun
    outcome = Check(calibration, tests["sbc"], tests["coverage"], tests["tarp"], tests.get("log_prob"), seconds)
    return dataclasses.replace(model, record=model.record.checked(calibration, asked.familiar)), outcome


def _calibration(model: Any, asked: Asked, draws: int, level: float, tests: Mapping[str, Any]) -> Calibration:
    """What a model keeps of its tests."""
    p_values = {name: test.p_value for name, test in tests.items()}
    return Calibration(
        fingerprint=fingerprint(model),
        shares=asked.shares,
        simulations=len(next(iter(asked.truth.values()))),
        draws=draws,
        level=level,
        p_value=min(1.0, len(p_values) * min(p_values.values())),
        p_values=tuple(p_values.items()),
        excess=tuple(tests["coverage"].excess.items()),
        score=tests["log_prob"].score if "log_prob" in tests else None,
    )


def _tested(truth: Any, drawn: Any, logs: Any, keys: Any, level: float) -> dict[str, Any]:
    """All tests, each at a rate of false alarms that leaves `level` to all of them."""
    dense = logs is not None and all(np.isfinite(part).all() for part in logs)
    own = level / (4 if dense else 3)
    many = max(999, round(4 / own))  # fewer could not fail at this level
    tests: dict[str, Any] = {
        "sbc": sbc(truth, drawn, key=keys[0], level=own),
        "coverage": coverage(truth, drawn, log_probs=logs, key=keys[1], level=own),
        "tarp": tarp(truth, drawn, key=keys[2], level=own),
    }
    return (
        {**tests, "log_prob": expected_log_prob(*logs, key=keys[3], level=own, permutations=many)} if dense else tests
    )
