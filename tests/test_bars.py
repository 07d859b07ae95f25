"""The trained bars: what the one model reaches on problems with known answers. All slow: `make test-slow`.

Bars are not tests of a null hypothesis: each figure lies well inside its bar, and a change that moves it outside is a
change for the worse.
"""

import time

import numpy as np
import pytest

import retrodict as rd
from conftest import Gaussian
from retrodict.query.tokens import unflatten
from retrodict.roles import GIVEN, LATENT
from retrodict.simulation.rows import Simulations
from retrodict_bench import benchmark as bench
from retrodict_bench import demo
from retrodict_bench.tasks import lynx_hare


pytestmark = pytest.mark.slow

QUESTIONS, DRAWS, SECONDS = 50, 50_000, 180.0
ANY_QUERY = {  # questions without a favorite, and times that look at broad posteriors as hard as at narrow ones
    "net": rd.nets.ResMLP(128, 3),
    "path": rd.paths.flow_matching(power=0.5),
    "roles": rd.roles.random_roles(0.05, 0.05, rd.roles.Partial(whole=0.1, absent=0.8)),
}


def any_query(layout, seed=0):
    """RMS error of conditional means in conditional sds, mean relative Frobenius error of covariances, mean absolute
    error of log densities, and training seconds, over random questions about a Gaussian with absent elements."""
    exact = Gaussian(layout.size, seed)
    rows = exact.draw(DRAWS, seed + 1)
    sims = Simulations(unflatten(layout, rows, layout.names), layout)
    begun = time.perf_counter()
    model, _ = rd.fit(rd.joint(layout, **ANY_QUERY), sims, key=seed, steps=26_000, progress=False)
    seconds = time.perf_counter() - begun
    rng, means, covariances, densities = np.random.default_rng(seed + 2), [], [], []
    for question in range(QUESTIONS):
        roles = np.zeros(layout.size, int)
        while not (roles == LATENT).any():
            roles = rng.integers(0, 3, layout.size)
        latent, given = np.flatnonzero(roles == LATENT), np.flatnonzero(roles == GIVEN)
        truth = exact.draw(1, seed + 100 + question)[0]
        mean, cov = exact.condition(latent, given, truth[given])
        draws, logs, exacts = ask(model, truth, roles, mean, cov, rng)
        means.append((draws.mean(axis=0) - mean) / np.sqrt(np.diag(cov)))
        covariances.append(np.linalg.norm(np.cov(draws.T).reshape(cov.shape) - cov) / np.linalg.norm(cov))
        densities.append(np.abs(logs - exacts))
    rms = np.sqrt(np.mean(np.concatenate(means) ** 2))
    return rms, np.mean(covariances), np.mean(np.concatenate(densities)), seconds


def ask(model, truth, roles, mean, cov, rng):
    """Draws of the latent tokens, and model and exact log densities of points from the exact conditional."""
    from scipy.stats import multivariate_normal

    latent, names = roles == LATENT, model.layout.names
    given = unflatten(model.layout, np.where(roles == GIVEN, truth, np.nan).astype(np.float32), names)
    draws = model.sample(20_000, given=given, of=unflatten(model.layout, latent, names), key=int(rng.integers(1 << 30)))
    points = rng.multivariate_normal(mean, cov, size=50)
    tokens = np.full((50, len(roles)), np.nan, np.float32)
    tokens[:, latent] = points
    logs = model.log_prob(unflatten(model.layout, tokens, names), given=given)
    flat = np.concatenate([draws[name].reshape(20_000, -1) for name in names], axis=1)
    return flat[:, latent], logs, multivariate_normal(mean, cov).logpdf(points)


def test_any_query_of_a_gaussian(gaussian_layout):
    mean, covariance, density, seconds = any_query(gaussian_layout)
    print(f"\nmean {mean:.3f} sd, covariance {covariance:.3f}, log density {density:.3f} nats, {seconds:.0f} s")
    assert mean <= 0.06
    assert covariance <= 0.07
    assert density <= 0.08
    assert seconds <= SECONDS


@pytest.fixture(scope="module")
def two_moons():
    sims = rd.simulate(rd.tasks.get("two_moons").problem, 10_000, key=0)
    return rd.fit(rd.joint(sims.layout), sims, key=1, progress=False)[0]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_density_integrates_to_one(two_moons, k):
    """The midpoint rule on 200 x 200 cells: for crescents of standard deviation .01, one cell, it errs by e^-19."""
    edge = np.linspace(-1.0, 1.0, 201)
    middle = (edge[1:] + edge[:-1]) / 2
    theta = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)
    density = np.exp(two_moons.log_prob({"theta": theta}, given=rd.tasks.get("two_moons").observation(k)))
    total = density.sum() * (middle[1] - middle[0]) ** 2
    print(f"\nobservation {k}: {total:.4f}")
    assert total == pytest.approx(1.0, abs=0.02)


def test_a_million_draws_stay_inside(two_moons):
    draws = two_moons.sample(1_000_000, given=rd.tasks.get("two_moons").observation(1), key=0)["theta"]
    assert draws.shape == (1_000_000, 2)
    assert (np.abs(draws) <= 1.0).all()


BARS = {"two_moons": 0.525, "gaussian_linear": 0.53, "gaussian_mixture": 0.54, "slcp": 0.80}


@pytest.mark.parametrize("task", BARS)
def test_the_benchmark(task):
    """The joint model as it comes; what `learn_posterior` reaches is the table of docs/benchmarks.md.

    Two moons, .532 to .534, and SLCP, .805 to .809, miss bars that one seed of an early version met, SLCP to the digit:
    see docs/ablations.md.
    """
    cell = bench.Evaluation.of(task, simulations=10_000, observations=range(1, 11))
    way = {"flow_matching": rd.paths.flow_matching()}, {"default": bench.SAMPLER}
    row = next(bench.matrix(cell, *way, progress=False))
    print(f"\n{row.to_json()}")
    assert row.c2st_mlp.mean <= BARS[task]
    assert row.train_seconds <= 120.0
    assert row.sample_seconds <= 1.0


@pytest.mark.parametrize("thorough", [False, True], ids=["quick", "thorough"])
def test_the_main_job_against_nuts(thorough, tmp_path):
    """A fresh NUTS run of the same model is the truth; the shipped summary is checked against one elsewhere."""
    summary = demo.run(tmp_path, thorough=thorough, progress=False)
    print("\n" + demo.summary_text(summary, tmp_path))
    exact = lynx_hare.exact_posterior(lynx_hare.questions()["full"], 5)
    far, low, high = (0.2, 0.9, 1.1) if thorough else (0.35, 0.8, 1.2)
    for name in demo.PARAMETERS:
        found, mean, sd = summary["posterior"][name], exact[name].mean(), exact[name].std()
        assert abs(found["mean"] - mean) <= far * sd, name
        assert low <= found["sd"] / sd <= high, name
