"""Influenza in a boarding school, 1978: a constant contact rate beside NUTS, then one that varies with time.

The first model is a posterior alone. The second also has beta(t), and is asked three things: given all days, given
every third day, and given the first six with a forecast of the rest.
"""

from typing import Any

import numpy as np

from retrodict import plots
from retrodict.models import joint, posterior
from retrodict.nets import Simformer
from retrodict.roles import Missing
from retrodict.simulation._simulate import simulate
from retrodict.training import fit
from retrodict.variables import At
from retrodict_bench.gallery._exhibit import Budget, Exhibit, Shown, held
from retrodict_bench.tasks import influenza


COUNTS = np.asarray(influenza.IN_BED, np.float32)
DAYS = np.arange(1, influenza.DAYS + 1)
TIMES = np.linspace(0.25, influenza.DAYS - 0.25, 28).astype(np.float32)  # of beta(t)
QUESTIONS = {"all days": DAYS > 0, "every third day": DAYS % 3 == 0, "first six days": DAYS <= 6}


def compared(ours: Any, exact: Any) -> dict[str, dict[str, float]]:
    """How far means and sds of our draws are from exact ones, by parameter."""
    return {
        name: {
            "mean": float(ours[name].mean()),
            "sd": float(ours[name].std()),
            "mean, NUTS": float(exact[name].mean()),
            "sd, NUTS": float(exact[name].std()),
            "distance (sd)": float((ours[name].mean() - exact[name].mean()) / exact[name].std()),
            "sd ratio": float(ours[name].std() / exact[name].std()),
        }
        for name in influenza.PARAMETERS
    }


def constant(budget: Budget, seed: int, *, progress: bool) -> Shown:
    """The posterior of the four parameters, beside NUTS."""
    sims = simulate(influenza.problem(), budget.simulations, key=seed)
    model, _ = fit(posterior(sims.layout), sims, key=seed + 1, steps=budget.steps, failed="given", progress=progress)
    ours = model.sample(budget.draws, given={"in_bed": COUNTS}, key=seed + 2)
    exact = influenza.exact_posterior(COUNTS, seed + 3, draws=budget.draws)
    figure = plots.corner({"NUTS": exact, "retrodict": ours})
    return Shown({"posterior": (figure, "the posterior given all 14 counts")}, compared(ours, exact))


def varying(budget: Budget, seed: int, *, progress: bool) -> Shown:
    """The contact rate over time and a forecast, from all days or some."""
    sims = simulate(influenza.varying(), budget.simulations, key=seed)
    start = joint(sims.layout, net=Simformer(depth=4), roles=Missing(absent=0.5, ahead=0.5), key=seed)
    model, _ = fit(start, sims, key=seed + 1, steps=budget.steps, batch_size=128, failed="given", progress=progress)
    figures, findings = {}, {}
    exact = influenza.exact_posterior(COUNTS, seed + 3, varies=True)
    for name, seen in QUESTIONS.items():
        draws = answer(model, seen, budget.draws, seed + 2)
        figures[name.replace(" ", "_")] = picture(draws, seen), f"given {name}: contacts, and boys in bed"
        for p in ("r0", "period"):
            findings[f"{p}, {name}"] = {"mean": float(draws[p].mean()), "sd": float(draws[p].std())}
            if seen.all():
                off = (draws[p].mean() - exact[p].mean()) / exact[p].std()
                known = {"mean, NUTS": float(exact[p].mean()), "sd, NUTS": float(exact[p].std())}
                findings[f"{p}, {name}"] |= {**known, "distance (sd)": float(off)}
        if seen.all():
            findings[f"beta(t), {name}"] = {"largest distance of a median (sd)": _apart(draws["contact"], exact)}
        else:
            share, _ = held(COUNTS[None, ~seen], draws["in_bed"][None, :, ~seen])
            findings[f"days not seen, {name}"] = {"90 % bands hold": share, "days": float((~seen).sum())}
    return Shown(figures, findings)


def _apart(contact: np.ndarray, exact: Any) -> float:
    """The largest distance over time between the medians of beta(t), ours and NUTS's, in NUTS's sds."""
    known = np.stack([np.interp(TIMES, influenza.GRID, curve) for curve in exact["contact"]])
    return float(np.max(np.abs(np.median(contact, axis=0) - np.median(known, axis=0)) / known.std(axis=0)))


def answer(model: Any, seen: np.ndarray, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Parameters, beta(t) on `TIMES` and, where days are missing, the counts of all of them."""
    of = {**dict.fromkeys(influenza.PARAMETERS), "contact": At(TIMES)}
    if not seen.all():
        of["in_bed"] = None
    return model.sample(draws, given={"in_bed": np.where(seen, COUNTS, np.nan)}, of=of, key=seed)


def picture(draws: Any, seen: np.ndarray) -> Any:
    """beta(t) above, and below it what was seen, what was not, and what the model says of it."""
    contact, counts = "beta, per day", "in bed"
    bands = None if seen.all() else np.where(seen, np.nan, draws["in_bed"])
    return plots.scattered(
        {contact: TIMES, counts: DAYS},
        {contact: draws["contact"], counts: bands},
        {counts: (DAYS[seen], COUNTS[seen])},
        held_out={counts: (DAYS[~seen], COUNTS[~seen])},
        xlabel="day",
    )


CONSTANT = Exhibit(
    "Influenza in a boarding school",
    "763 boys, and how many of them lay in bed on each of 14 days of 1978; the contact rate is constant.",
    Budget(100_000, 5000, draws=4000),
    constant,
)
VARYING = Exhibit(
    "Influenza: contacts that change, and a forecast",
    "The same school, but contacts may change from day to day. Given all days, every third, and the first six.",
    Budget(50_000, 2500),
    varying,
)
