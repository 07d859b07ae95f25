"""Lotka-Volterra from few scattered observations: four of each kind, then twenty.

One model is trained, on rows of which any part may be missing. It is asked for the rates and for what another
observation at other times would show; so is the true simulator, run at the rates that the model finds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict import plots
from retrodict.models import FlowModel, joint
from retrodict.nets import Simformer
from retrodict.query.tokens import Batch
from retrodict.roles import Missing
from retrodict.simulation._simulate import simulate
from retrodict.training import fit
from retrodict.variables import At
from retrodict_bench.gallery._exhibit import Budget, Exhibit, Shown, held
from retrodict_bench.tasks import lotka_volterra_unstructured as lv


SEEN, KINDS = (4, 20), ("prey", "predators")
ASKED = 6  # times of each kind at which bands are judged
PER_CASE = 100  # draws a case


def thinned(rows: Any, count: int, rng: np.random.Generator) -> dict[str, At]:
    """Simulated rows, of each kind `count` random observations left."""
    found = {}
    for kind in KINDS:
        values = np.asarray(rows[kind], np.float32)
        order = np.argsort(rng.random(values.shape), axis=1)
        found[kind] = At(np.asarray(rows[f"{kind}.at"]), np.where(order < count, values, np.nan))
    return found


def observe(key: Any, times: np.ndarray, rates: Any) -> dict[str, np.ndarray]:
    """A fresh observation `(n, k)` of each kind at the same times in every row, given rates `(n,)`."""
    at, keys = dict.fromkeys(KINDS, jnp.asarray(times, float)), jax.random.split(key, len(rates["alpha"]))
    found = jax.jit(jax.vmap(lambda key, rates: lv.observed(key, at, **rates)))(keys, dict(rates))
    return {kind: np.asarray(found[kind]) for kind in KINDS}


def judge(model: FlowModel, budget: Budget, count: int, seed: int) -> dict[str, float]:
    """How often bands of 90 % hold, and how wide they are, over fresh cases."""
    rows, rng = simulate(lv.problem(), budget.cases, key=seed), np.random.default_rng(seed)
    times = np.sort(rng.uniform(0.0, lv.END, ASKED)).astype(np.float32)
    keys = jax.random.split(jax.random.key(seed))
    truth = observe(keys[0], times, {name: jnp.asarray(rows[name]) for name in lv.PARAMETERS})
    of = {**dict.fromkeys(lv.PARAMETERS), **dict.fromkeys(KINDS, At(times))}
    draws = model.sample(PER_CASE, given=Batch(thinned(rows, count, rng)), of=of, key=seed + 1)
    rates = {name: jnp.asarray(draws[name].reshape(-1)) for name in lv.PARAMETERS}
    rerun = {k: v.reshape(budget.cases, PER_CASE, -1) for k, v in observe(keys[1], times, rates).items()}
    both = {}
    for source, found in (("model", draws), ("simulator", rerun)):
        pairs = [held(truth[kind], found[kind]) for kind in KINDS]
        both[f"90 % bands hold, {source}"], both[f"width, {source}"] = (float(x) for x in np.mean(pairs, axis=0))
    inside = [held(np.asarray(rows[name]), draws[name]) for name in lv.PARAMETERS]
    both["90 % intervals of rates hold"], both["their width"] = (float(x) for x in np.mean(inside, axis=0))
    return both


def show(budget: Budget, seed: int, *, progress: bool) -> Shown:
    """Rates and bands for one observation, and coverage over fresh cases."""
    sims = simulate(lv.problem(), budget.simulations, key=seed)
    start = joint(sims.layout, net=Simformer(depth=4), roles=Missing(absent=0.7), key=seed)
    model, _ = fit(start, sims, key=seed + 1, steps=budget.steps, batch_size=128, failed="given", progress=progress)
    one = simulate(lv.problem(), 1, key=seed + 2)
    truth = {name: np.asarray(one[name])[0] for name in lv.PARAMETERS}
    grid, figures, sets = np.linspace(0.0, lv.END, 61).astype(np.float32), {}, {}
    for count in SEEN:
        batch = thinned(one, count, np.random.default_rng(seed))
        given = {kind: At(at.points[0], at.values[0]) for kind, at in batch.items()}
        sets[f"{count} of each"] = model.sample(budget.draws, given=given, of=lv.PARAMETERS, key=seed + 3)
        few = {name: jnp.asarray(values[:500]) for name, values in sets[f"{count} of each"].items()}
        bands = observe(jax.random.key(seed + 4), grid, few)
        figure = plots.scattered(grid, bands, {k: (at.points, at.values) for k, at in given.items()}, xlabel="time")
        figures[f"bands_{count}"] = figure, f"what another observation would show, given {count} of each kind (dots)"
    figures["rates"] = plots.corner(sets, truth=truth), "the rates; lines: the truth"
    findings = {f"{count} observations of each kind": judge(model, budget, count, seed + 5) for count in SEEN}
    return Shown(figures, findings)


EXHIBIT = Exhibit(
    "Predators and prey, seen now and then",
    "Two populations, each seen at times of its own. Bands are 50 % and 90 % of what the true simulator shows at the "
    "rates that the model finds.",
    Budget(50_000, 3000),
    show,
)
