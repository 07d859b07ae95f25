"""Hodgkin-Huxley: which neurons fire like this one, and spend little.

Voltage statistics are given, and energy is held in the lowest tenth of what neurons that fire like this one spend. The
posterior is far narrower than the prior, so that a second and a third round simulate where the one before points
(`truncate`). What is drawn is run through the true simulator, which knows nothing of the model: does it obey, does it
still match?
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict import plots
from retrodict.constraints import Interval
from retrodict.models import FlowModel, joint
from retrodict.roles import Missing
from retrodict.simulation._simulate import simulate
from retrodict.training import fit
from retrodict.training._truncated_prior import truncate
from retrodict_bench.gallery._exhibit import Budget, Exhibit, Shown
from retrodict_bench.tasks import hodgkin_huxley as hh


STATISTICS = ("spikes", "rest_mean", "rest_sd", "mean", "variance", "skewness", "kurtosis")
ROUNDS, MASS, LOWEST = 3, 0.999, 0.1
SHOWN = 5  # voltages
LAW = Missing(absent=0.3, ahead=0.2)


def rerun(draws: Any, seed: int) -> dict[str, np.ndarray]:
    """The true simulator at parameters `(n,)`."""
    keys = jax.random.split(jax.random.key(seed), len(draws["c"]))
    parameters = {name: jnp.asarray(draws[name]) for name in hh.PARAMETERS}
    found = jax.jit(jax.vmap(lambda key, p: hh.simulate(key, **p)))(keys, parameters)
    return {name: np.asarray(value) for name, value in found.items()}


def train(budget: Budget, given: Any, seed: int, *, progress: bool) -> FlowModel:
    """A model of all neurons, then of those that fire like this one."""
    problem, model = hh.problem(), None
    for i in range(ROUNDS):
        here = problem if model is None else truncate(problem, model, given=given, mass=MASS, key=seed + 10 + i)
        sims = simulate(here, budget.simulations, key=seed + 20 + i)
        start = joint(sims.layout, roles=LAW, key=seed + 30 + i)
        model, _ = fit(start, sims, key=seed + 40 + i, steps=budget.steps, failed="given", progress=progress)
    assert model is not None
    return model


def show(budget: Budget, seed: int, *, progress: bool) -> Shown:
    """Energy and voltage statistics of true simulations, with and without the bound."""
    task = hh.task()
    seen = task.observation(1)
    given = {name: seen[name] for name in STATISTICS}
    model = train(budget, given, seed, progress=progress)
    of = [*hh.PARAMETERS, "energy"]
    free = model.sample(budget.draws, given=given, of=of, key=seed + 1)
    runs = {"any energy": rerun(free, seed + 2)}
    bound = float(np.nanquantile(runs["any energy"]["energy"], LOWEST))
    found = model.guided(2 * budget.draws, given={**given, "energy": Interval(None, bound)}, of=of, key=seed + 3)
    thrifty = found.resampled(budget.draws, seed + 4)
    runs["lowest tenth"] = rerun(thrifty, seed + 5)
    prior = simulate(task.problem, 2000, key=seed + 6)
    spread = {name: np.nanstd(prior[name]) for name in STATISTICS}
    findings = {}
    for name, run in runs.items():
        errors = {s: float(np.sqrt(np.nanmean((run[s] - seen[s]) ** 2)) / spread[s]) for s in STATISTICS}
        findings[name] = {
            "energy below the bound": float(np.mean(run["energy"] <= bound)),
            "mean energy (uC/cm^2)": float(np.nanmean(run["energy"])),
            **{f"{s}, rms off (prior sd)": error for s, error in errors.items()},
        }
    findings["lowest tenth"]["effective share"] = found.effective_size / (2 * budget.draws)
    sets = {"any energy": free, "lowest tenth": thrifty}
    truth = task.true_parameters(1)
    figures = {
        "parameters": (plots.corner(sets, names=hh.PARAMETERS, truth=truth), "parameters; lines: the truth"),
        "voltages": (
            _voltages(sets, seed + 7),
            "true simulations at drawn parameters, the stimulus on from 50 to 150 ms",
        ),
    }
    return Shown(figures, findings, (f"The bound on energy is {bound:.3g} uC/cm^2.",))


def _voltages(sets: Any, seed: int) -> Any:
    traces = {}
    for name, draws in sets.items():
        few = {p: jnp.asarray(draws[p][:SHOWN]) for p in hh.PARAMETERS}
        keys = jax.random.split(jax.random.key(seed), SHOWN)
        traces[name] = np.asarray(jax.jit(jax.vmap(lambda k, p: hh.dense(k, **p)))(keys, few)["voltage"])[:, ::10]
    return plots.traces(hh.GRID[::10], traces, xlabel="ms", ylabel="mV")


EXHIBIT = Exhibit(
    "A neuron that fires and saves energy",
    "Seven voltage statistics are given, and energy is held in the lowest tenth of what such neurons spend. The draws "
    "are then run through the true simulator.",
    Budget(50_000, 5000, draws=2000),
    show,
)
