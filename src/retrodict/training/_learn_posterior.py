"""The best posterior that a fixed number of simulations gives, by ONE rule that looks at held-out simulations alone.

    direct       a posterior, trained on the simulations as they are
    synthetic    a posterior in the frame of the data, trained on data sets that a surrogate of p(data | parameters)
                 makes without end; where the data fall into parts that are independent given the parameters, the
                 surrogate learns from every part
    tuned        the same, trained on the simulations themselves for a while: they know what the surrogate gets wrong
    weighted     draws of the better of these two, weighted by the surrogate: that knows what the flow gets wrong

Which of them is better depends on which way the simulator is simpler, and nobody knows before. So all are trained, and
the one under which parameters of held-out simulations are the likelier given their data is kept; not the first, unless
the difference is more than two standard errors. (After a heat of 2,000 steps the worse is too often the better, as what
is better in the end may learn more slowly.) The settings of each step are constants of this file; `RULE` counts the
versions of the whole.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Literal

import jax.random as jr
import numpy as np

from retrodict._errors import DataError
from retrodict._types import Key, as_key
from retrodict.models import FlowModel, posterior
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.nets import ResMLP
from retrodict.problem.dependencies import Dependencies
from retrodict.query.tokens import Batch
from retrodict.simulation.rows import Simulations
from retrodict.training import History, fit
from retrodict.training import synthetic_data as synthesis
from retrodict.variables import Layout


# 1 was the joint model alone, 2 a surrogate without the frame of a linear Gaussian; in 3 the direct way was the joint
# model, and the synthetic one had no frame; 4 and 5 ran heats of 2,000 steps, and the better way to the end; 6 did not
# tune; 7 had surrogates of one learning rate, 8 none about a curve; 9 did not weigh; 10 trained 12,000 steps; 11 had
# networks that are 256 wide
RULE = 12
HELD_OUT, FEWEST, MOST = 0.05, 20, 500  # share of the simulations that judge, and their number
LONGEST = 16  # numbers in one part: where there are more, the last are learned after too many others
# 256 wide, proposals cost 2.5 times the time and are worth no more: their effective share is, of three observations of
# SLCP, .13, .49 and .26, where those of 128 are .28, .26 and .14
NET = ResMLP(128, 3)
SURROGATE: dict[str, Any] = {"width": 128, "depth": 3, "components": 4, "steps": 6_000}
STEPS = 8_000  # a flow that is weighted need not be trained to the end
TUNING: dict[str, Any] = {"steps": 1_000, "learning_rate": 1e-4}
ERRORS = 2.0  # standard errors by which the direct way must be better
MADE = 200_000  # synthetic simulations
PROPOSALS = 64  # that tell the density of a weighted posterior, for every held-out row


@dataclasses.dataclass(frozen=True)
class SelectionReport:
    """How a posterior was chosen: the mean negative log posterior density of held-out parameters by each way, the
    histories of all that was trained, and the seconds of the whole."""

    chosen: str
    losses: Mapping[str, float]
    histories: Mapping[str, History]
    seconds: float


def learn_posterior(
    sims: Simulations,
    *,
    dependencies: Dependencies | None = None,
    failed: Literal["given", "corrected"] | None = None,
    key: Key,
    progress: bool = True,
) -> tuple[FlowModel | ImportanceSampledPosterior, SelectionReport]:
    """The posterior of all parameters given all data, by the rule of the module's first lines.

    It is a `FlowModel`, or a `ImportanceSampledPosterior` whose `flow` is one.

    The second way is open where `sims` know their problem, whose prior it draws from, no run failed, and data are
    numbers that fall into parts or are `LONGEST` at most.

    Args:
        dependencies: what is known about the simulator; see `synthesis.parts_of`.
        failed: what follows from runs that failed, if there are any; as in `fit`.

    Raises:
        DataError: too few simulations, or `dependencies` that do not fit them.

    Warns:
        FailedRunsWarning: runs failed, and `failed` does not say what follows.
    """
    begun, layout = time.monotonic(), sims.layout
    key_split, key_direct, key_surrogate, key_made, key_synthetic, key_fit, key_tune = jr.split(as_key(key), 7)
    key_weigh = jr.fold_in(key_tune, 1)
    train, held = _split(sims, key_split)
    how: dict[str, Any] = {"validation": held, "progress": progress}
    ways = {"direct": (posterior(layout, net=NET, dependencies=dependencies, key=key_direct), train)}
    histories: dict[str, History] = {}
    learned = None
    possible, structure = _parts(layout, dependencies)
    if possible and sims.problem is not None and not sims.n_failed:
        learned, histories["surrogate"] = synthesis.surrogate(train, structure, key=key_surrogate, **how, **SURROGATE)
        made = synthesis.synthesize(sims.problem, learned, MADE, key=key_made)
        start = posterior(layout, net=NET, dependencies=dependencies, framed=True, key=key_synthetic)
        ways["synthetic"] = (start, made)
    flows: dict[str, FlowModel] = {}
    for way, (start, rows) in ways.items():
        # there is no end of synthetic simulations to learn by heart: the last weights are the best
        more: dict[str, Any] = {"steps": STEPS, "patience": STEPS if way == "synthetic" else None, "failed": failed}
        flows[way], histories[way] = fit(start, rows, key=key_fit, **more, **how)
    if "synthetic" in flows:
        flows["tuned"], histories["tuned"] = fit(flows["synthetic"], train, key=key_tune, **TUNING, **how)
    losses = {way: _losses(model, held) for way, model in flows.items()}
    models: dict[str, FlowModel | ImportanceSampledPosterior] = dict(flows)
    if learned is not None and sims.problem is not None:
        better = min(("synthetic", "tuned"), key=lambda way: losses[way].mean())
        weighted = ImportanceSampledPosterior(flows[better], learned, sims.problem.prior, flows[better].record)
        models["weighted"], histories["weighted"] = weighted, histories[better]
        losses["weighted"] = -weighted.log_prob_of_truth(*_asked(layout, held), proposals=PROPOSALS, key=key_weigh)
    chosen = _better(losses)
    means = {way: float(loss.mean()) for way, loss in losses.items()}
    return models[chosen], SelectionReport(chosen, means, histories, time.monotonic() - begun)


def _split(sims: Simulations, key: Any) -> tuple[Simulations, dict[str, np.ndarray]]:
    """Simulations to learn from, and others that judge."""
    n = sims.kept
    held_out = max(FEWEST, min(MOST, round(HELD_OUT * n)))
    order = np.asarray(jr.permutation(key, n))

    def part(which: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(sims[name])[which] for name in sims}

    return dataclasses.replace(sims, arrays=part(order[held_out:])), part(order[:held_out])


def _parts(layout: Layout, dependencies: Dependencies | None) -> tuple[bool, Dependencies | None]:
    """Whether a surrogate can be learned, and the structure that tells its parts; `None` if the data are one."""
    if layout.functions or layout.places:
        return False, None
    if dependencies is not None:
        try:
            parts = synthesis.factors_of(layout, dependencies)
        except DataError:
            pass  # what is declared leaves one part
        else:
            return parts.free or parts.tokens.shape[1] <= LONGEST, dependencies
    return int((~layout.is_parameter).sum()) <= LONGEST, None


def _losses(model: FlowModel, held: Mapping[str, np.ndarray]) -> np.ndarray:
    values, given = _asked(model.layout, held)
    return -model.log_prob(values, given=given)


def _asked(layout: Layout, held: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Batch]:
    values, given = ({name: held[name] for name in names} for names in (layout.parameters, layout.data))
    return values, Batch(given)


def _better(losses: Mapping[str, np.ndarray]) -> str:
    others = [way for way in losses if way != "direct"]
    if not others:
        return "direct"
    best = min(others, key=lambda way: losses[way].mean())
    gain = losses[best] - losses["direct"]
    return "direct" if gain.mean() > ERRORS * gain.std() / len(gain) ** 0.5 else best
