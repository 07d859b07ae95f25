"""Influenza in a boarding school, 1978: a constant contact rate beside NUTS, then one that varies with time.

The first model is a posterior alone. The second also has beta(t), and answers three questions: given all days, given
every third day, and given the first six days with a forecast of the rest.
"""

from typing import Any

import numpy as np

from retrodict import At, fit, joint, plots, posterior, simulate
from retrodict.models import FlowModel
from retrodict.nets import Simformer
from retrodict.roles import Missing
from retrodict_bench.gallery._exhibit import Budget, Exhibit, ExhibitResult, coverage_and_width
from retrodict_bench.tasks import influenza


COUNTS = np.asarray(influenza.IN_BED, np.float32)
DAYS = np.arange(1, influenza.DAYS + 1)
TIMES = np.linspace(0.25, influenza.DAYS - 0.25, 28).astype(np.float32)  # of beta(t)
QUESTIONS = {"all days": DAYS > 0, "every third day": DAYS % 3 == 0, "first six days": DAYS <= 6}


def compared(ours: Any, exact: Any) -> dict[str, dict[str, float]]:
    """Compares means and sds of our draws with exact ones, by parameter."""
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


def constant(budget: Budget, seed: int, *, progress: bool) -> ExhibitResult:
    """Draws the posterior of the four parameters, and compares it with NUTS."""
    sims = simulate(influenza.problem(), budget.simulations, key=seed)
    model, _ = fit(posterior(sims.layout), sims, key=seed + 1, steps=budget.steps, failed="ignore", progress=progress)
    ours = model.sample(budget.draws, given={"in_bed": COUNTS}, key=seed + 2)
    exact = influenza.exact_posterior(COUNTS, seed + 3, draws=budget.draws)
    figure = plots.corner({"NUTS": exact, "retrodict": ours})
    return ExhibitResult({"posterior": (figure, "the posterior given all 14 counts")}, compared(ours, exact))


def varying(budget: Budget, seed: int, *, progress: bool) -> ExhibitResult:
    """Draws the contact rate over time and a forecast, given all days or some of them."""
    sims = simulate(influenza.varying(), budget.simulations, key=seed)
    untrained = joint(sims.layout, net=Simformer(depth=4), roles=Missing(absent=0.5, ahead=0.5), key=seed)
    model, _ = fit(
        untrained, sims, key=seed + 1, steps=budget.steps, batch_size=128, failed="ignore", progress=progress
    )
    figures, findings = {}, {}
    exact = influenza.exact_posterior(COUNTS, seed + 3, varies=True)
    for name, observed in QUESTIONS.items():
        draws = answer(model, observed, budget.draws, seed + 2)
        figures[name.replace(" ", "_")] = picture(draws, observed), f"given {name}: contacts, and boys in bed"
        for p in ("r0", "period"):
            findings[f"{p}, {name}"] = {"mean": float(draws[p].mean()), "sd": float(draws[p].std())}
            if observed.all():
                distance = (draws[p].mean() - exact[p].mean()) / exact[p].std()
                nuts = {"mean, NUTS": float(exact[p].mean()), "sd, NUTS": float(exact[p].std())}
                findings[f"{p}, {name}"] |= {**nuts, "distance (sd)": float(distance)}
        if observed.all():
            distance = _median_distance(draws["contact"], exact)
            findings[f"beta(t), {name}"] = {"largest distance of a median (sd)": distance}
        else:
            coverage, _ = coverage_and_width(COUNTS[None, ~observed], draws["in_bed"][None, :, ~observed])
            findings[f"days not seen, {name}"] = {"90 % bands hold": coverage, "days": float((~observed).sum())}
    return ExhibitResult(figures, findings)


def _median_distance(contact: np.ndarray, exact: Any) -> float:
    """Returns the largest distance over time between our and NUTS's medians of beta(t), in NUTS's sds."""
    curves = np.stack([np.interp(TIMES, influenza.GRID, curve) for curve in exact["contact"]])
    return float(np.max(np.abs(np.median(contact, axis=0) - np.median(curves, axis=0)) / curves.std(axis=0)))


def answer(model: FlowModel, observed: np.ndarray, draws: int, seed: int) -> dict[str, np.ndarray]:
    """Draws parameters, beta(t) on `TIMES` and, if some days are not `observed`, the counts of all days."""
    latent = {**dict.fromkeys(influenza.PARAMETERS), "contact": At(TIMES)}
    if not observed.all():
        latent["in_bed"] = None
    return model.sample(draws, given={"in_bed": np.where(observed, COUNTS, np.nan)}, of=latent, key=seed)


def picture(draws: Any, observed: np.ndarray) -> Any:
    """Draws beta(t) in one panel, and in a second the observed counts, the others and their predictive bands."""
    contact, counts = "beta, per day", "in bed"
    bands = None if observed.all() else np.where(observed, np.nan, draws["in_bed"])
    return plots.scattered(
        {contact: TIMES, counts: DAYS},
        {contact: draws["contact"], counts: bands},
        {counts: (DAYS[observed], COUNTS[observed])},
        held_out={counts: (DAYS[~observed], COUNTS[~observed])},
        xlabel="day",
    )


CONSTANT = Exhibit(
    "Influenza in a boarding school",
    "763 boys, and the number of them in bed on each of 14 days of 1978; the contact rate is constant.",
    Budget(100_000, 5000, draws=4000),
    constant,
)
VARYING = Exhibit(
    "Influenza: contacts that change, and a forecast",
    "The same school, but contacts may change from day to day. Given all days, every third, and the first six.",
    Budget(50_000, 2500),
    varying,
)
