"""Hierarchies from simulations of one site: an epidemic at fifty sites, and blood flow in eight patients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict import At, Simulations, fit, hierarchical, plots, simulate
from retrodict.models import HierarchicalModel
from retrodict_bench import tasks
from retrodict_bench.gallery._exhibit import Budget, Exhibit, ExhibitResult, coverage_and_width
from retrodict_bench.tasks import blood_flow, seir


TIMES = np.linspace(5.0, 360.0, 25).astype(np.float32)  # of bands that are compared with the truth
DRAWS_PER_CASE = 200  # of the shared parameters, for each of the fresh cases
N_CASES, DRAWS_PER_SITE = 3, 200  # cases whose bands are compared with the truth, site by site


def trained(
    name: str, budget: Budget, seed: int, *, progress: bool
) -> tuple[HierarchicalModel, Simulations, dict[str, Any]]:
    """Trains a model of a task with sites; returns it, fresh cases, and its findings on their shared parameters."""
    task = tasks.get(name)
    sims = simulate(task.problem, budget.simulations, key=seed)
    untrained = hierarchical(sims.layout, n_sites=(1, task.sites), key=seed)
    model, _ = fit(untrained, sims, key=seed + 1, steps=budget.steps, failed="ignore", progress=progress)
    fresh = simulate(task.problem, budget.cases, key=seed + 2, sites=task.sites)
    shared, findings = model.layout.shared, {}
    answers = [
        model.sample(DRAWS_PER_CASE, given=data_of_case(model, fresh, i), of=shared, key=seed + 3 + i)
        for i in range(budget.cases)
    ]
    for v in shared:
        draws, true = np.stack([answer[v] for answer in answers]), np.asarray(fresh[v])
        findings[v] = {
            **_coverage(true, draws),
            "prior sd": float(true.std()),
            "posterior sd": float(draws.std(axis=1).mean()),
        }
    return model, fresh, findings


def _coverage(truth: np.ndarray, draws: np.ndarray) -> dict[str, float]:
    shares = {mass: coverage_and_width(truth, draws, mass)[0] for mass in (0.9, 0.5)}
    return {f"{100 * mass:.0f} % intervals hold": share for mass, share in shares.items()}


def data_of_case(model: HierarchicalModel, fresh: Simulations, i: int) -> dict[str, Any]:
    """Returns the data of all sites of one case, functions at their points."""
    data: dict[str, Any] = {}
    for name in model.layout.data:
        value = np.asarray(fresh[name][i])
        data[name] = At(np.asarray(fresh[f"{name}.at"][i]), value) if model.layout[name].axes else value
    return data


def epidemic(budget: Budget, seed: int, *, progress: bool) -> ExhibitResult:
    """Draws the rates that all sites share, and each site's cases through the year given five counts."""
    model, fresh, findings = trained("seir", budget, seed, progress=progress)
    rng, truth, bands = np.random.default_rng(seed), [], []
    for i in range(N_CASES):
        data, latent = data_of_case(model, fresh, i), {"cases": At(TIMES)}
        draws = model.sample(DRAWS_PER_SITE, given=data, of=latent, key=seed + i)["cases"]
        bands.append(np.moveaxis(draws, 1, 0))  # sites first
        rates = [jnp.asarray(fresh[v][i]) for v in (*seir.SHARED, *seir.OWN)]
        each_site = jax.vmap(seir.means, (None, None, None, None, 0, 0, 0))
        means = np.asarray(each_site(jnp.asarray(TIMES), *rates))
        truth.append(rng.poisson(means) + rng.uniform(size=means.shape))
    findings["cases at times not seen"] = _coverage(np.concatenate(truth), np.concatenate(bands))
    sites = {f"site {s + 1}": s for s in range(4)}
    counts = data_of_case(model, fresh, 0)["cases"]
    series = plots.scattered(
        TIMES,
        {name: bands[0][s] for name, s in sites.items()},
        {name: (counts.points[s], counts.values[s]) for name, s in sites.items()},
        held_out={name: (TIMES, truth[0][s]) for name, s in sites.items()},
        xlabel="day",
    )
    figures = {
        "shared": (corner(model, fresh, budget, seed), "the three rates given 250 counts, and the truth"),
        "cases": (series, "new cases a day at four of the fifty sites: five counts are given, the others held out"),
    }
    return ExhibitResult(figures, findings)


def patients(budget: Budget, seed: int, *, progress: bool) -> ExhibitResult:
    """Draws the shared parameters, and the flow in a patient whose flow was never measured."""
    model, fresh, findings = trained("blood_flow", budget, seed, progress=progress)
    data = data_of_case(model, fresh, 0)
    hidden = {**data, "flow": np.where(np.arange(len(data["flow"]))[:, None] == 0, np.nan, data["flow"])}
    draws = model.sample(budget.draws, given=hidden, of=["flow"], key=seed)["flow"][:, 0]
    phases = np.arange(blood_flow.PHASES) * blood_flow.PERIOD / blood_flow.PHASES
    coverage, _ = coverage_and_width(data["flow"][None, 0], draws[None])
    findings["flow never measured, one patient"] = {"90 % intervals hold": coverage}
    series = plots.scattered(
        phases,
        {"pressure, mmHg": None, "flow, ml/s": draws},
        {"pressure, mmHg": (phases, data["pressure"][0])},
        held_out={"flow, ml/s": (phases, data["flow"][0])},
        xlabel="time in the cycle, s",
    )
    figures = {
        "shared": (
            corner(model, fresh, budget, seed),
            "the shared parameters given the curves of eight patients, and the truth",
        ),
        "flow": (series, "one patient: pressure is given, flow was never measured; hollow dots: the truth"),
    }
    return ExhibitResult(figures, findings)


def corner(model: HierarchicalModel, fresh: Simulations, budget: Budget, seed: int) -> Any:
    """Draws the posterior of the shared parameters of the first case as a figure."""
    shared = model.layout.shared
    draws = model.sample(budget.draws, given=data_of_case(model, fresh, 0), of=shared, key=seed)
    return plots.corner({"retrodict": draws}, truth={v: fresh[v][0] for v in shared})


EPIDEMIC = Exhibit(
    "One disease at fifty sites",
    "Each site has its own season, and all share three rates. Cases were counted on five random days at each site. The "
    "model was trained on simulations of one site.",
    Budget(10_000, 2000, cases=100),
    epidemic,
)
PATIENTS = Exhibit(
    "Blood flow in eight patients",
    "A network of vessels, solved exactly. Patients share stiffness, viscosity and inflow. Vessels and outlets differ "
    "between patients.",
    Budget(10_000, 2000, cases=100),
    patients,
)
