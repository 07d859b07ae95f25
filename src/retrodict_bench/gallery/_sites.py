"""Hierarchies from simulations of one site: an epidemic at fifty sites, and blood flow in eight patients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict import plots
from retrodict.models import hierarchical
from retrodict.simulation._simulate import simulate
from retrodict.simulation.rows import Simulations
from retrodict.training import fit
from retrodict.variables import At
from retrodict_bench import tasks
from retrodict_bench.gallery._exhibit import Budget, Exhibit, Shown, held
from retrodict_bench.tasks import blood_flow, seir


TIMES = np.linspace(5.0, 360.0, 25).astype(np.float32)  # where bands are judged
PER_CASE = 200  # draws of what is shared, for each of the fresh cases
JUDGED, PER_SITE = 3, 200  # cases whose bands are judged, site by site, and draws of each


def trained(name: str, budget: Budget, seed: int, *, progress: bool) -> tuple[Any, Simulations, dict[str, Any]]:
    """A model of a task with sites, fresh cases, and how well it knows what their sites share."""
    task = tasks.get(name)
    sims = simulate(task.problem, budget.simulations, key=seed)
    start = hierarchical(sims.layout, counts=(1, task.sites), key=seed)
    model, _ = fit(start, sims, key=seed + 1, steps=budget.steps, failed="given", progress=progress)
    fresh = simulate(task.problem, budget.cases, key=seed + 2, sites=task.sites)
    shared, findings = model.layout.shared, {}
    parts = [
        model.sample(PER_CASE, given=seen(model, fresh, i), of=shared, key=seed + 3 + i) for i in range(budget.cases)
    ]
    for v in shared:
        draws, true = np.stack([part[v] for part in parts]), np.asarray(fresh[v])
        findings[v] = {
            "90 % intervals hold": held(true, draws)[0],
            "50 % intervals hold": held(true, draws, 0.5)[0],
            "prior sd": float(true.std()),
            "posterior sd": float(draws.std(axis=1).mean()),
        }
    return model, fresh, findings


def seen(model: Any, fresh: Simulations, i: int) -> dict[str, Any]:
    """The data of all sites of one case, functions at their points."""
    found: dict[str, Any] = {}
    for name in model.layout.data:
        value = np.asarray(fresh[name][i])
        found[name] = At(np.asarray(fresh[f"{name}.at"][i]), value) if model.layout[name].axes else value
    return found


def epidemic(budget: Budget, seed: int, *, progress: bool) -> Shown:
    """Rates that all sites share, and each site's cases through the year from five counts."""
    model, fresh, findings = trained("seir", budget, seed, progress=progress)
    rng, truth, bands = np.random.default_rng(seed), [], []
    for i in range(JUDGED):
        draws = model.sample(PER_SITE, given=seen(model, fresh, i), of={"cases": At(TIMES)}, key=seed + i)["cases"]
        bands.append(np.moveaxis(draws, 1, 0))  # sites first
        rates = [jnp.asarray(fresh[v][i]) for v in (*seir.SHARED, *seir.OWN)]
        each_site = jax.vmap(seir.means, (None, None, None, None, 0, 0, 0))
        means = np.asarray(each_site(jnp.asarray(TIMES), *rates))
        truth.append(rng.poisson(means) + rng.uniform(size=means.shape))
    findings["cases at times not seen"] = {
        "90 % intervals hold": held(np.concatenate(truth), np.concatenate(bands))[0],
        "50 % intervals hold": held(np.concatenate(truth), np.concatenate(bands), 0.5)[0],
    }
    sites = {f"site {s + 1}": s for s in range(4)}
    data = seen(model, fresh, 0)["cases"]
    series = plots.scattered(
        TIMES,
        {name: bands[0][s] for name, s in sites.items()},
        {name: (data.points[s], data.values[s]) for name, s in sites.items()},
        held_out={name: (TIMES, truth[0][s]) for name, s in sites.items()},
        xlabel="day",
    )
    figures = {
        "shared": (corner(model, fresh, budget, seed), "the three rates given 250 counts, and the truth"),
        "cases": (series, "new cases a day at four of the fifty sites: five counts are given, the others held out"),
    }
    return Shown(figures, findings)


def patients(budget: Budget, seed: int, *, progress: bool) -> Shown:
    """What patients share, and the flow in one whose flow was never measured."""
    model, fresh, findings = trained("blood_flow", budget, seed, progress=progress)
    data = seen(model, fresh, 0)
    hidden = {**data, "flow": np.where(np.arange(len(data["flow"]))[:, None] == 0, np.nan, data["flow"])}
    draws = model.sample(budget.draws, given=hidden, of=["flow"], key=seed)["flow"][:, 0]
    phases = np.arange(blood_flow.PHASES) * blood_flow.PERIOD / blood_flow.PHASES
    findings["flow never measured, one patient"] = {"90 % intervals hold": held(data["flow"][None, 0], draws[None])[0]}
    series = plots.scattered(
        phases,
        {"pressure, mmHg": None, "flow, ml/s": draws},
        {"pressure, mmHg": (phases, data["pressure"][0])},
        held_out={"flow, ml/s": (phases, data["flow"][0])},
        xlabel="time in the cycle, s",
    )
    figures = {
        "shared": (corner(model, fresh, budget, seed), "what eight patients share given their curves, and the truth"),
        "flow": (series, "one patient: pressure is given, flow was never measured; hollow dots: the truth"),
    }
    return Shown(figures, findings)


def corner(model: Any, fresh: Simulations, budget: Budget, seed: int) -> Any:
    """The posterior of what is shared in the first case."""
    shared = model.layout.shared
    draws = model.sample(budget.draws, given=seen(model, fresh, 0), of=shared, key=seed)
    return plots.corner({"retrodict": draws}, truth={v: fresh[v][0] for v in shared})


EPIDEMIC = Exhibit(
    "One disease at fifty sites",
    "Sites have seasons of their own and share three rates. Each was looked at on five random days. The model was "
    "trained on simulations of one site.",
    Budget(10_000, 2000, cases=100),
    epidemic,
)
PATIENTS = Exhibit(
    "Blood flow in eight patients",
    "A network of vessels, solved exactly. Patients share stiffness, viscosity and inflow, and have vessels and "
    "outlets of their own.",
    Budget(10_000, 2000, cases=100),
    patients,
)
