"""The best posterior of a fixed number of simulations, by ONE rule that looks at held-out simulations alone.

    direct       a posterior, trained on the simulations as they are
    synthetic    a posterior with an affine baseline given the data, trained on data sets without end, which a
                 surrogate of p(data | parameters) generates; where the data fall into factors that are independent
                 given the parameters, the surrogate learns from every factor
    tuned        the same, trained further on the simulations themselves, which know the errors of the surrogate
    weighted     draws of the better of these two, weighted by the surrogate, which knows the errors of the flow

The best candidate depends on the direction in which the simulator is simpler, which nobody knows before. So all are
trained, and the one with the highest density of held-out parameters given their data is chosen, but "direct" only if
it is better by more than two standard errors. A held-out row without a finite density counts as infinitely bad. All
candidates are trained to the end: after 2,000 steps the worse one is too often ahead. The settings of each step are
constants of this file; `RULE` counts the versions of the whole.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from retrodict._errors import DataError
from retrodict._runtime.precision import in_single_precision
from retrodict._runtime.tables import html_table
from retrodict._types import Key, as_key
from retrodict.models import FlowModel, ReferenceData, posterior
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.nets import ResMLP
from retrodict.problem.dependencies import Dependencies
from retrodict.query.tokens import Batch, flatten
from retrodict.simulation.rows import Simulations
from retrodict.training import FailedRuns, History, fit
from retrodict.training import synthetic_data as synthesis
from retrodict.training._choice import best_of, is_better, mean_loss
from retrodict.variables import Layout


RULE = 12
HELD_OUT_SHARE, MIN_HELD_OUT, MAX_HELD_OUT = 0.05, 20, 500  # rows that choose
MAX_FACTOR_SIZE = 16  # numbers in a factor: the last of more are learned after too many others
NET = ResMLP(128, 3)  # twice as wide, proposals cost 2.5 times the time and are worth no more
SURROGATE: dict[str, Any] = {"width": 128, "depth": 3, "components": 4, "steps": 6_000}
STEPS = 8_000  # the weights make up for the rest of the training of a flow
TUNING: dict[str, Any] = {"steps": 1_000, "learning_rate": 1e-4}
STANDARD_ERRORS = 2.0  # by which "direct" must be better
SYNTHETIC_SIMULATIONS = 200_000
PROPOSALS = 64  # for the density of a weighted posterior at every held-out row


@dataclasses.dataclass(frozen=True, repr=False)
class SelectionReport:
    """The selection of a posterior among candidates.

    Attributes:
        chosen: the name of the candidate that was returned.
        losses: the mean negative log posterior density of held-out parameters, by candidate; infinite if there is no
            finite density at one of them.
        histories: the histories of all training runs, by candidate, and that of the surrogate.
        seconds: the wall-clock time of the whole.
    """

    chosen: str
    losses: Mapping[str, float]
    histories: Mapping[str, History]
    seconds: float

    def summary(self) -> str:
        """Returns the candidates, their losses and the choice in a few lines of text, as `print` shows them."""
        rows = "\n".join(f"  {name:<12}{value}" for name, value in self._rows())
        return f"negative log density of held-out parameters, by candidate (lower is better):\n{rows}"

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        losses = ", ".join(f"{name}: {loss:.4f}" for name, loss in self.losses.items())
        return f"SelectionReport(chosen={self.chosen!r}, losses={{{losses}}}, seconds={self.seconds:.0f})"

    def _repr_html_(self) -> str:
        return html_table("Negative log density of held-out parameters, by candidate", self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        marks = {self.chosen: "  (chosen)"}
        rows = [(name, f"{loss:.4f}{marks.get(name, '')}") for name, loss in self.losses.items()]
        return [*rows, ("time", f"{self.seconds:.0f} s")]


@in_single_precision
def learn_posterior(
    sims: Simulations,
    *,
    dependencies: Dependencies | None = None,
    failed: FailedRuns | None = None,
    key: Key,
    progress: bool = True,
) -> tuple[FlowModel | ImportanceSampledPosterior, SelectionReport]:
    """Learns the posterior of all parameters given all data, by the rule of the module's first lines.

    The posterior is a `FlowModel`, or an `ImportanceSampledPosterior` whose `flow` is one. Candidates other than
    "direct" draw from the prior of the problem: they need simulations that know it, and of which no run failed. Their
    data must be numbers, and fall into factors or be `MAX_FACTOR_SIZE` at most.

    Args:
        dependencies: the known structure of the simulator; see `synthesis.factors_of`.
        failed: the treatment of runs that failed, if there are any; see `fit`.

    Raises:
        DataError: too few simulations, or `dependencies` that do not fit them.

    Warns:
        FailedRunsWarning: runs failed, and `failed` was not given.
    """
    start, layout = time.monotonic(), sims.layout
    key_split, key_direct, key_surrogate, key_data, key_synthetic, key_fit, key_tune = jr.split(as_key(key), 7)
    train, held_out = _split(sims, key_split)
    settings: dict[str, Any] = {"validation": held_out, "progress": progress}
    flows: dict[str, FlowModel] = {}
    histories: dict[str, History] = {}
    likelihood, model = None, posterior(layout, net=NET, dependencies=dependencies, key=key_direct)
    possible, structure = _structure(layout, dependencies)
    if possible and sims.problem is not None and not sims.n_failed:
        likelihood, histories["surrogate"] = synthesis.surrogate(
            train, structure, key=key_surrogate, **settings, **SURROGATE
        )
    flows["direct"], histories["direct"] = fit(model, train, key=key_fit, steps=STEPS, failed=failed, **settings)
    if likelihood is not None and sims.problem is not None:
        synthetic = synthesis.synthesize(sims.problem, likelihood, SYNTHETIC_SIMULATIONS, key=key_data)
        model = posterior(layout, net=NET, dependencies=dependencies, conditional_affine=True, key=key_synthetic)
        # too many simulations to overfit: the last weights are the best
        flows["synthetic"], histories["synthetic"] = fit(
            model, synthetic, key=key_fit, steps=STEPS, patience=STEPS, **settings
        )
        flows["tuned"], histories["tuned"] = fit(flows["synthetic"], train, key=key_tune, **TUNING, **settings)
    losses = {name: _losses(flow, held_out) for name, flow in flows.items()}
    models: dict[str, FlowModel | ImportanceSampledPosterior] = dict(flows)
    if likelihood is not None and sims.problem is not None:
        better = best_of(losses, ("synthetic", "tuned"))
        record = dataclasses.replace(flows[better].record, familiar=None)  # which is that of the flow
        weighted = ImportanceSampledPosterior(flows[better], likelihood, sims.problem.prior, record)
        models["weighted"], histories["weighted"] = weighted, histories[better]
        truth, key_weigh = _truth(layout, held_out), jr.fold_in(key_tune, 1)
        losses["weighted"] = -weighted.log_prob_of_truth(*truth, proposals=PROPOSALS, key=key_weigh)
    chosen = _best(losses)
    reference = _reference(models[chosen], train, held_out, key=key_split)
    record = dataclasses.replace(models[chosen].record, familiar=reference)
    models[chosen] = dataclasses.replace(models[chosen], record=record)
    means = {name: mean_loss(loss) for name, loss in losses.items()}
    return models[chosen], SelectionReport(chosen, means, histories, time.monotonic() - start)


def _split(sims: Simulations, key: PRNGKeyArray) -> tuple[Simulations, dict[str, np.ndarray]]:
    """Returns simulations to learn from, and held-out ones that validate and choose."""
    n = sims.kept
    held_out = max(MIN_HELD_OUT, min(MAX_HELD_OUT, round(HELD_OUT_SHARE * n)))
    order = np.asarray(jr.permutation(key, n))

    def part(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(sims[name])[rows] for name in sims}

    return dataclasses.replace(sims, arrays=part(order[held_out:])), part(order[:held_out])


def _structure(layout: Layout, dependencies: Dependencies | None) -> tuple[bool, Dependencies | None]:
    """Returns whether a surrogate can be learned, and the structure of its factors; None if the data are one."""
    if layout.functions or layout.places:
        return False, None
    if dependencies is not None:
        try:
            factors = synthesis.factors_of(layout, dependencies)
        except DataError:
            pass  # the declared structure leaves one factor
        else:
            return factors.free or factors.tokens.shape[1] <= MAX_FACTOR_SIZE, dependencies
    return int((~layout.is_parameter).sum()) <= MAX_FACTOR_SIZE, None


def _losses(model: FlowModel, held_out: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the negative log posterior density of the parameters of every held-out row."""
    values, observed = _truth(model.layout, held_out)
    return -model.without_warnings().log_prob(values, given=observed)


def _truth(layout: Layout, held_out: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Batch]:
    """Returns the parameters and the data of held-out rows."""
    values, observed = ({name: held_out[name] for name in names} for names in (layout.parameters, layout.data))
    return values, Batch(observed)


def _reference(
    model: FlowModel | ImportanceSampledPosterior,
    train: Mapping[str, np.ndarray],
    held_out: Mapping[str, np.ndarray],
    *,
    key: PRNGKeyArray,
) -> ReferenceData:
    """Returns what a model keeps of the simulations: candidates were trained on synthetic ones, too."""

    def tokens(part: Mapping[str, np.ndarray]) -> np.ndarray:
        return flatten(model.layout, part, model.layout.names, where="the simulations")

    rng = np.random.default_rng(np.asarray(jr.key_data(key)))
    return ReferenceData.of(model.coordinates, tokens(train), tokens(held_out), rng)


def _best(losses: Mapping[str, np.ndarray]) -> str:
    """Returns the candidate with the lowest mean loss; "direct" must win by `STANDARD_ERRORS`."""
    candidates = [name for name in losses if name != "direct"]
    if not candidates:
        return "direct"
    best = best_of(losses, candidates)
    return "direct" if is_better(losses["direct"], losses[best], STANDARD_ERRORS) else best
