"""Hodgkin-Huxley: neurons that fire like the observed one, and spend little energy.

Voltage statistics are given, and energy is constrained to the lowest tenth of the energies that neurons with these
statistics spend. The posterior is far narrower than the prior, so a second and a third round simulate from a prior
truncated to the posterior of the round before (`truncate`). The true simulator is then run at the drawn parameters: its
energies and statistics show whether the draws obey the bound and match the observation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict import Interval, fit, joint, plots, simulate, truncate
from retrodict.models import FlowModel
from retrodict.roles import Missing
from retrodict_bench.gallery._exhibit import Budget, Exhibit, ExhibitResult
from retrodict_bench.tasks import hodgkin_huxley as hh


STATISTICS = ("spikes", "rest_mean", "rest_sd", "mean", "variance", "skewness", "kurtosis")
ROUNDS, MASS, LOWEST = 3, 0.999, 0.1
N_TRACES = 5  # of the voltage in the figure
LAW = Missing(absent=0.3, ahead=0.2)


def rerun(draws: Any, seed: int) -> dict[str, np.ndarray]:
    """Runs the true simulator at parameters `(n,)`."""
    keys = jax.random.split(jax.random.key(seed), len(draws["c"]))
    parameters = {name: jnp.asarray(draws[name]) for name in hh.PARAMETERS}
    statistics = jax.jit(jax.vmap(lambda key, p: hh.simulate(key, **p)))(keys, parameters)
    return {name: np.asarray(value) for name, value in statistics.items()}


def train(budget: Budget, given: Any, seed: int, *, progress: bool) -> FlowModel:
    """Trains a model on neurons of the whole prior, then on those of priors truncated to the posterior."""
    problem, model = hh.problem(), None
    truncated = problem
    for i in range(ROUNDS):
        if model is not None:  # its widths are compared with simulations below
            truncated = truncate(problem, model, given=given, mass=MASS, margin=1.0, key=seed + 10 + i)
        sims = simulate(truncated, budget.simulations, key=seed + 20 + i)
        untrained = joint(sims.layout, roles=LAW, key=seed + 30 + i)
        model, _ = fit(untrained, sims, key=seed + 40 + i, steps=budget.steps, failed="ignore", progress=progress)
    assert model is not None
    return model


def show(budget: Budget, seed: int, *, progress: bool) -> ExhibitResult:
    """Compares energy and voltage statistics of true simulations, with and without the bound."""
    task = hh.task()
    observation = task.observation(1)
    statistics = {name: observation[name] for name in STATISTICS}
    model = train(budget, statistics, seed, progress=progress)
    latent = [*hh.PARAMETERS, "energy"]
    free = model.sample(budget.draws, given=statistics, of=latent, key=seed + 1)
    runs = {"any energy": rerun(free, seed + 2)}
    bound = float(np.nanquantile(runs["any energy"]["energy"], LOWEST))
    bounded = {**statistics, "energy": Interval(None, bound)}
    weighted = model.guided(2 * budget.draws, given=bounded, of=latent, key=seed + 3)
    thrifty = weighted.resampled(budget.draws, seed + 4)
    runs["lowest tenth"] = rerun(thrifty, seed + 5)
    prior = simulate(task.problem, 2000, key=seed + 6)
    spread = {name: np.nanstd(prior[name]) for name in STATISTICS}
    findings = {}
    for name, run in runs.items():
        errors = {s: float(np.sqrt(np.nanmean((run[s] - observation[s]) ** 2)) / spread[s]) for s in STATISTICS}
        findings[name] = {
            "energy below the bound": float(np.mean(run["energy"] <= bound)),
            "mean energy (uC/cm^2)": float(np.nanmean(run["energy"])),
            **{f"{s}, rms off (prior sd)": error for s, error in errors.items()},
        }
    findings["lowest tenth"]["effective share"] = weighted.effective_size / (2 * budget.draws)
    sets = {"any energy": free, "lowest tenth": thrifty}
    truth = task.true_parameters(1)
    figures = {
        "parameters": (plots.corner(sets, names=hh.PARAMETERS, truth=truth), "parameters; lines: the truth"),
        "voltages": (
            _voltages(sets, seed + 7),
            "true simulations at drawn parameters, the stimulus on from 50 to 150 ms",
        ),
    }
    return ExhibitResult(figures, findings, (f"The bound on energy is {bound:.3g} uC/cm^2.",))


def _voltages(sets: Any, seed: int) -> Any:
    traces = {}
    for name, draws in sets.items():
        parameters = {p: jnp.asarray(draws[p][:N_TRACES]) for p in hh.PARAMETERS}
        keys = jax.random.split(jax.random.key(seed), N_TRACES)
        voltage = jax.jit(jax.vmap(lambda k, p: hh.dense(k, **p)))(keys, parameters)["voltage"]
        traces[name] = np.asarray(voltage)[:, ::10]
    return plots.traces(hh.GRID[::10], traces, xlabel="ms", ylabel="mV")


EXHIBIT = Exhibit(
    "A neuron that fires and saves energy",
    "Seven voltage statistics are given, and energy is constrained to the lowest tenth for such neurons. The true "
    "simulator is then run at the draws.",
    Budget(50_000, 5000, draws=2000),
    show,
)
