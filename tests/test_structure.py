"""The trained bars of structure and structured data. All slow: `make test-slow`."""

import time

import numpy as np
import pytest

import retrodict as rd
from retrodict import synthesis
from retrodict.diagnostics import c2st
from retrodict.roles import GIVEN, LATENT
from retrodict.simulate import Simulations
from retrodict.tokens import unflatten


pytestmark = pytest.mark.slow

SIMULATIONS, HELD_OUT = 10_000, 500


def test_slcp_with_its_structure():
    """Four points that are alike and independent given theta: a surrogate of one point makes 300,000 data sets."""
    task = rd.tasks.get("slcp")
    dependencies = rd.Dependencies(**task.structure)
    sims = rd.simulate(task.problem, SIMULATIONS, key=0)
    train = Simulations({name: values[:-HELD_OUT] for name, values in sims.items()}, sims.layout)
    held = {name: values[-HELD_OUT:] for name, values in sims.items()}
    begun = time.perf_counter()
    one, _ = synthesis.surrogate(
        train, dependencies, key=1, net=rd.nets.ResMLP(256, 3), validation=held, steps=15_000, progress=False
    )
    made = synthesis.synthesize(task.problem, one, dependencies, 300_000, key=5)
    model = rd.posterior(sims.layout, net=rd.nets.ResMLP(256, 4), dependencies=dependencies)
    model, _ = rd.fit(model, made, key=2, validation=held, steps=20_000, progress=False)
    seconds = time.perf_counter() - begun
    fresh = rd.simulate(task.problem, 2000, key=78)
    density = model.log_prob({"theta": fresh["theta"]}, given=rd.Batch({"x": fresh["x"]})).mean()
    each = []
    for k in range(1, 11):
        draws = model.sample(10_000, given=task.observation(k), key=k)
        each.append(float(c2st(task.reference(k), draws, jobs=2)))
    print(f"\nC2ST mlp {np.mean(each):.4f}, sd {np.std(each):.4f}, each {np.round(each, 3).tolist()}; {seconds:.0f} s")
    print(f"mean negative log posterior of 2,000 fresh simulations {-density:.3f}")
    assert np.mean(each) <= 0.66
    assert seconds <= 1200.0


QUERIES, DRAWS = 20, 5_000


@pytest.mark.parametrize("name", ["tree", "hmm"])
def test_any_query_of_a_graph(name):
    """Random elements given with probability p ~ U(0, 1), at values that were simulated together."""
    task = rd.tasks.get(name)
    sims = rd.simulate(task.problem, SIMULATIONS, key=0)
    layout = sims.layout
    model, history = rd.fit(rd.joint(layout), sims, key=1, progress=False)
    rng, fresh, each = np.random.default_rng(7), rd.simulate(task.problem, QUERIES, key=99), []
    for query in range(QUERIES):
        roles = np.full(layout.size, GIVEN)
        while not (roles == LATENT).any():
            roles = np.where(rng.random(layout.size) < rng.random(), GIVEN, LATENT)
        latent = roles == LATENT
        row = np.concatenate([np.ravel(fresh[v][query]) for v in layout.names]).astype(np.float32)
        exact = task.conditional(roles, np.where(latent, 0.0, row), DRAWS, query)[:, latent]
        given = unflatten(layout, np.where(latent, np.nan, row), layout.names)
        draws = model.sample(DRAWS, given=given, of=unflatten(layout, latent, layout.names), key=query)
        flat = np.full((DRAWS, layout.size), np.nan)
        for variable, values in draws.items():
            flat[:, layout.slices[variable]] = values.reshape(DRAWS, -1)
        each.append(float(c2st(exact, flat[:, latent], jobs=2)))
    print(f"\n{name}: C2ST mlp {np.mean(each):.4f}, each {np.round(each, 3).tolist()}; {history.seconds:.0f} s")
    assert np.mean(each) <= 0.58
