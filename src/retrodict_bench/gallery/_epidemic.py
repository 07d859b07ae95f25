"""SIRD: a contact rate that is an unknown function of time, recovered from scattered counts."""

from typing import Any

import jax
import numpy as np

from retrodict import plots
from retrodict.models import joint
from retrodict.nets import Simformer
from retrodict.query.tokens import Batch
from retrodict.roles import Missing
from retrodict.simulation._simulate import simulate
from retrodict.training import fit
from retrodict.variables import At
from retrodict_bench.gallery._exhibit import Budget, Exhibit, Shown, held
from retrodict_bench.tasks import sird


TIMES = np.linspace(1.0, 49.0, 12).astype(np.float32)  # where bands are judged
PER_CASE = 100


def fresh(cases: int, seed: int) -> tuple[dict[str, Any], dict[str, At]]:
    """Rates and contact rates on the grid, and what was seen of them."""
    problem, (key_prior, key_data) = sird.problem(), jax.random.split(jax.random.key(seed))
    truth = jax.vmap(problem.prior.draw)(jax.random.split(key_prior, cases))
    data = jax.jit(jax.vmap(problem.run))(jax.random.split(key_data, cases), truth)
    seen = {name: At(np.asarray(data[f"{name}.at"]), np.asarray(data[name])) for name in sird.SEEN}
    return {name: np.asarray(value) for name, value in truth.items()}, seen


def show(budget: Budget, seed: int, *, progress: bool) -> Shown:
    """The contact rate of one epidemic, and coverage over fresh ones."""
    sims = simulate(sird.problem(), budget.simulations, key=seed)
    start = joint(sims.layout, net=Simformer(depth=4), roles=Missing(absent=0.7), key=seed)
    model, _ = fit(start, sims, key=seed + 1, steps=budget.steps, batch_size=96, failed="given", progress=progress)
    truth, seen = fresh(budget.cases, seed + 2)
    of = {"gamma": None, "delta": None, "contact": At(TIMES)}
    draws = model.sample(PER_CASE, given=Batch(seen), of=of, key=seed + 3)
    curves = np.stack([np.interp(TIMES, sird.GRID, curve) for curve in truth["contact"]])
    findings = {}
    for name, true in (("contact", curves), ("gamma", truth["gamma"]), ("delta", truth["delta"])):
        wide, narrow = held(true, draws[name]), held(true, draws[name], 0.5)
        findings[name] = {
            "90 % bands hold": wide[0],
            "50 % bands hold": narrow[0],
            "width of 90 %": wide[1],
            "prior sd": float(true.std()),
            "posterior sd": float(draws[name].std(axis=1).mean()),
        }
    grid = np.linspace(0.5, 49.5, 50).astype(np.float32)
    given = {name: At(at.points[0], at.values[0]) for name, at in seen.items()}
    found = model.sample(budget.draws, given=given, of={"contact": At(grid)}, key=seed + 4)["contact"]
    figure = plots.scattered(
        grid,
        {"contact": found, **dict.fromkeys(sird.SEEN)},
        {name: (at.points, at.values) for name, at in given.items()},
        truth={"contact": np.interp(grid, sird.GRID, truth["contact"][0])},
        xlabel="time",
    )
    return Shown({"contact": (figure, "the contact rate, and what was seen (dots); dashed: the truth")}, findings)


EXHIBIT = Exhibit(
    "An epidemic whose contact rate nobody knows",
    "Infected, recovered and dead are counted twenty times each, at random times. Asked is a function: contacts at any "
    "time.",
    Budget(50_000, 2000, draws=300, cases=100),
    show,
)
