"""Lotka-Volterra from a few observations at random times: four of each species, then twenty.

One model is trained on rows with missing values. It predicts the rates and a new observation at other times. The true
simulator, run at the rates that the model draws, predicts the same observation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict import At, Batch, fit, joint, plots, simulate
from retrodict.models import FlowModel
from retrodict.nets import Simformer
from retrodict.roles import Missing
from retrodict_bench.gallery._exhibit import Budget, Exhibit, ExhibitResult, coverage_and_width
from retrodict_bench.tasks import lotka_volterra_unstructured as lv


COUNTS, SPECIES = (4, 20), ("prey", "predators")
N_TIMES = 6  # of each species at which bands are compared with the truth
DRAWS_PER_CASE = 100


def thinned(rows: Any, count: int, rng: np.random.Generator) -> dict[str, At]:
    """Returns simulated rows with `count` random observations of each species; the others become NaN."""
    observed = {}
    for kind in SPECIES:
        values = np.asarray(rows[kind], np.float32)
        order = np.argsort(rng.random(values.shape), axis=1)
        observed[kind] = At(np.asarray(rows[f"{kind}.at"]), np.where(order < count, values, np.nan))
    return observed


def observe(key: Any, times: np.ndarray, rates: Any) -> dict[str, np.ndarray]:
    """Draws a fresh observation `(n, k)` of each species, at the same times in every row, given rates `(n,)`."""
    points, keys = dict.fromkeys(SPECIES, jnp.asarray(times, float)), jax.random.split(key, len(rates["alpha"]))
    values = jax.jit(jax.vmap(lambda key, rates: lv.observed(key, points, **rates)))(keys, dict(rates))
    return {kind: np.asarray(values[kind]) for kind in SPECIES}


def score(model: FlowModel, budget: Budget, count: int, seed: int) -> dict[str, float]:
    """Returns coverage and width of 90 % bands over fresh cases."""
    rows, rng = simulate(lv.problem(), budget.cases, key=seed), np.random.default_rng(seed)
    times = np.sort(rng.uniform(0.0, lv.END, N_TIMES)).astype(np.float32)
    keys = jax.random.split(jax.random.key(seed))
    truth = observe(keys[0], times, {name: jnp.asarray(rows[name]) for name in lv.PARAMETERS})
    latent = {**dict.fromkeys(lv.PARAMETERS), **dict.fromkeys(SPECIES, At(times))}
    draws = model.sample(DRAWS_PER_CASE, given=Batch(thinned(rows, count, rng)), of=latent, key=seed + 1)
    rates = {name: jnp.asarray(draws[name].reshape(-1)) for name in lv.PARAMETERS}
    rerun = {k: v.reshape(budget.cases, DRAWS_PER_CASE, -1) for k, v in observe(keys[1], times, rates).items()}
    findings: dict[str, float] = {}
    for source, bands in (("model", draws), ("simulator", rerun)):
        pairs = [coverage_and_width(truth[kind], bands[kind]) for kind in SPECIES]
        coverage, width = (float(x) for x in np.mean(pairs, axis=0))
        findings |= {f"90 % bands hold, {source}": coverage, f"width, {source}": width}
    pairs = [coverage_and_width(np.asarray(rows[name]), draws[name]) for name in lv.PARAMETERS]
    coverage, width = (float(x) for x in np.mean(pairs, axis=0))
    return {**findings, "90 % intervals of rates hold": coverage, "their width": width}


def show(budget: Budget, seed: int, *, progress: bool) -> ExhibitResult:
    """Draws rates and predictive bands for one observation, and scores coverage on fresh cases."""
    sims = simulate(lv.problem(), budget.simulations, key=seed)
    untrained = joint(sims.layout, net=Simformer(depth=4), roles=Missing(absent=0.7), key=seed)
    model, _ = fit(
        untrained, sims, key=seed + 1, steps=budget.steps, batch_size=128, failed="ignore", progress=progress
    )
    case = simulate(lv.problem(), 1, key=seed + 2)
    truth = {name: np.asarray(case[name])[0] for name in lv.PARAMETERS}
    grid, figures, sets = np.linspace(0.0, lv.END, 61).astype(np.float32), {}, {}
    for count in COUNTS:
        batch = thinned(case, count, np.random.default_rng(seed))
        observed = {kind: At(series.points[0], series.values[0]) for kind, series in batch.items()}
        sets[f"{count} of each"] = model.sample(budget.draws, given=observed, of=lv.PARAMETERS, key=seed + 3)
        rates = {name: jnp.asarray(values[:500]) for name, values in sets[f"{count} of each"].items()}
        bands = observe(jax.random.key(seed + 4), grid, rates)
        dots = {kind: (series.points, series.values) for kind, series in observed.items()}
        figure = plots.scattered(grid, bands, dots, xlabel="time")
        figures[f"bands_{count}"] = figure, f"predicted new observations, given {count} of each kind (dots)"
    figures["rates"] = plots.corner(sets, truth=truth), "the rates; lines: the truth"
    findings = {f"{count} observations of each kind": score(model, budget, count, seed + 5) for count in COUNTS}
    return ExhibitResult(figures, findings)


EXHIBIT = Exhibit(
    "Predators and prey, counted now and then",
    "Two populations, each counted at times of its own. Bands hold 50 % and 90 % of the true simulator's counts at the "
    "rates that the model draws.",
    Budget(50_000, 3000),
    show,
)
