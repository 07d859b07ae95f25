"""SIRD: a contact rate that is an unknown function of time, inferred from counts at random times."""

from typing import Any

import jax
import numpy as np

from retrodict import At, Batch, fit, joint, plots, simulate
from retrodict.nets import Simformer
from retrodict.roles import Missing
from retrodict_bench.gallery._exhibit import Budget, Exhibit, ExhibitResult, coverage_and_width
from retrodict_bench.tasks import sird


TIMES = np.linspace(1.0, 49.0, 12).astype(np.float32)  # of bands that are compared with the truth
DRAWS_PER_CASE = 100


def fresh(cases: int, seed: int) -> tuple[dict[str, Any], dict[str, At]]:
    """Draws parameters, with contact rates on the grid, and observations of so many fresh epidemics."""
    problem, (key_prior, key_data) = sird.problem(), jax.random.split(jax.random.key(seed))
    truth = jax.vmap(problem.prior.draw)(jax.random.split(key_prior, cases))
    data = jax.jit(jax.vmap(problem.run))(jax.random.split(key_data, cases), truth)
    observed = {name: At(np.asarray(data[f"{name}.at"]), np.asarray(data[name])) for name in sird.OBSERVED}
    return {name: np.asarray(value) for name, value in truth.items()}, observed


def show(budget: Budget, seed: int, *, progress: bool) -> ExhibitResult:
    """Draws the contact rate of one epidemic, and scores coverage on fresh ones."""
    sims = simulate(sird.problem(), budget.simulations, key=seed)
    untrained = joint(sims.layout, net=Simformer(depth=4), roles=Missing(absent=0.7), key=seed)
    model, _ = fit(untrained, sims, key=seed + 1, steps=budget.steps, batch_size=96, failed="ignore", progress=progress)
    truth, observed = fresh(budget.cases, seed + 2)
    latent = {"gamma": None, "delta": None, "contact": At(TIMES)}
    draws = model.sample(DRAWS_PER_CASE, given=Batch(observed), of=latent, key=seed + 3)
    curves = np.stack([np.interp(TIMES, sird.GRID, curve) for curve in truth["contact"]])
    findings = {}
    for name, true in (("contact", curves), ("gamma", truth["gamma"]), ("delta", truth["delta"])):
        wide, narrow = (coverage_and_width(true, draws[name], mass) for mass in (0.9, 0.5))
        findings[name] = {
            "90 % bands hold": wide[0],
            "50 % bands hold": narrow[0],
            "width of 90 %": wide[1],
            "prior sd": float(true.std()),
            "posterior sd": float(draws[name].std(axis=1).mean()),
        }
    grid = np.linspace(0.5, 49.5, 50).astype(np.float32)
    first_case = {name: At(values.points[0], values.values[0]) for name, values in observed.items()}
    contact = model.sample(budget.draws, given=first_case, of={"contact": At(grid)}, key=seed + 4)["contact"]
    figure = plots.scattered(
        grid,
        {"contact": contact, **dict.fromkeys(sird.OBSERVED)},
        {name: (values.points, values.values) for name, values in first_case.items()},
        truth={"contact": np.interp(grid, sird.GRID, truth["contact"][0])},
        xlabel="time",
    )
    return ExhibitResult({"contact": (figure, "the contact rate, and the counts (dots); dashed: the truth")}, findings)


EXHIBIT = Exhibit(
    "An epidemic whose contact rate nobody knows",
    "Infected, recovered and dead are counted twenty times each, at random times. The answer is a function of time: "
    "the contact rate.",
    Budget(50_000, 2000, draws=300, cases=100),
    show,
)
