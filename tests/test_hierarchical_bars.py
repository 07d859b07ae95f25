"""The trained bars of hierarchies. All slow: `make test-slow`."""

import subprocess
import sys

import numpy as np
import pytest

import retrodict as rd
from retrodict import diagnostics
from retrodict_bench.tasks import h_conjugate


pytestmark = pytest.mark.slow

BUDGET = 10_000
V = h_conjugate.B + h_conjugate.C


def trained(name, *, steps=4_000, budget=BUDGET, **settings):
    problem = rd.tasks.get(name).problem
    sims = rd.simulate(problem, budget, key=0)
    return problem, sims, rd.fit(rd.hierarchical(sims.layout, **settings), sims, key=1, steps=steps, progress=False)[0]


def trained_history(name, *, steps, counts, batch_size):
    problem = rd.tasks.get(name).problem
    sims = rd.simulate(problem, 1000, key=0)
    start = rd.hierarchical(sims.layout, counts=counts)
    return rd.fit(start, sims, key=1, steps=steps, batch_size=batch_size, progress=False)[1]


@pytest.fixture(scope="module")
def conjugate():
    return trained("h_conjugate")


def least_squares(sims):
    """The exact posterior under the regression of these simulations: what nobody who learns from them can beat much."""
    mu, theta, y = (np.asarray(sims[name], float) for name in ("mu", "theta", "y"))
    design = np.stack([np.ones(len(mu)), mu, theta], axis=1)
    start, of_mu, of_theta = line = np.linalg.lstsq(design, y, rcond=None)[0]
    variance = of_theta**2 * h_conjugate.B + np.mean((y - design @ line) ** 2)
    slope = of_mu + of_theta
    return lambda y: slope * (y - start).sum() / variance / (1.0 + len(y) * slope**2 / variance)


@pytest.mark.parametrize("sites", [10, 50, 200, 500])
def test_conjugate_sites_are_exact(conjugate, sites):
    """Root mean square over 100 data sets of what is shared, and over 20 of them of what sites have.

    10,000 rows know the mean of y to .1 posterior sd of 200 sites, so that the bar there is a distance beyond that of
    least squares on the same rows; 500 sites were never seen in training and are reported.
    """
    problem, sims, model = conjugate
    best, test = least_squares(sims), rd.simulate(problem, 100, key=100 + sites, sites=sites)
    shared, own = [], []
    for i in range(100):
        y = np.asarray(test["y"][i], float)
        precision = 1.0 / h_conjugate.A + sites / V
        mean, sd = y.sum() / V / precision, precision**-0.5
        draws = model.sample(1000, given={"y": test["y"][i]}, of=["mu", "theta"][: 2 if i < 20 else 1], key=i)
        mu = draws["mu"]
        shared.append([(mu.mean() - mean) / sd, mu.std() / sd, (best(y) - mean) / sd])
        if i >= 20:
            continue
        theta, own_mean, own_sd = draws["theta"], (mean + y) / 2, np.sqrt(h_conjugate.B / 2 + sd**2 / 4)
        correlation = np.mean([np.corrcoef(mu, column)[0, 1] for column in theta.T[:20]]) - sd / 2 / own_sd
        off = np.sqrt(np.mean(((theta.mean(axis=0) - own_mean) / own_sd) ** 2))
        own.append([off, np.mean(theta.std(axis=0) / own_sd), correlation])
    (off, ratio, floor), (own_off, own_ratio, correlation) = np.array(shared).T, np.array(own).T
    off, floor, own_off = (np.sqrt(np.mean(column**2)) for column in (off, floor, own_off))
    print(
        f"\n{sites} sites: mu {off:.3f} sd off (least squares {floor:.3f}), sd ratio {ratio.mean():.3f}; "
        f"theta {own_off:.3f}, {own_ratio.mean():.3f}; correlation {correlation.mean():+.3f} off"
    )
    if sites <= 200:
        assert off <= (0.1 if sites < 200 else np.hypot(0.1, floor))  # of which 1,000 draws are .03
        assert abs(ratio.mean() - 1.0) <= 0.12
        assert own_off <= 0.1
        assert abs(own_ratio.mean() - 1.0) <= 0.12
        assert abs(correlation.mean()) <= 0.1


def test_a_trained_hierarchy_passes_its_check(conjugate):
    """300 data sets of ten sites, all parameters, at a level of .001; with noise of twice the variance it fails."""
    problem, _, model = conjugate
    test = dict(rd.simulate(problem, 300, key=7, sites=10))
    _, found = rd.check(model, test, given=["y"], draws=200, level=1e-3, key=8)
    print(f"\n{found.summary()}")
    assert found.ok
    assert len(found.sbc.labels) == 11
    noisy = test | {"y": test["y"] + 0.3 * np.random.default_rng(9).normal(size=(300, 10))}
    assert not rd.check(model, noisy, given=["y"], draws=200, level=1e-3, key=8)[1].ok


def test_eight_schools():
    """Real data of different precision, against NUTS."""
    task = rd.tasks.get("eight_schools")
    _, _, model = trained("eight_schools", counts=(4, 16))
    exact, draws = task.reference(1), model.sample(10_000, given=task.observation(1), key=2)
    worst = {}
    for name in ("mu", "tau", "theta"):
        off = (draws[name].mean(axis=0) - exact[name].mean(axis=0)) / exact[name].std(axis=0)
        ratio = draws[name].std(axis=0) / exact[name].std(axis=0)
        print(f"\n{name}: {np.round(off, 2)} sd off, sd ratio {np.round(ratio, 2)}")
        worst[name] = float(np.max(np.abs(off)))
    assert max(worst.values()) <= 0.35, worst


def test_time_and_memory_grow_with_the_sites(conjugate, tmp_path):
    """1,000 draws at 10, 100 and 1,000 sites in a process of their own; the exponent between the last two."""
    _, _, model = conjugate
    file, seconds = rd.save(model, tmp_path / "model.safetensors"), {}
    for sites in (10, 100, 1000):
        code = (
            "import time, numpy as np, retrodict as rd\n"
            f"model, y = rd.load({str(file)!r}), np.zeros({sites}, np.float32)\n"
            "model.sample(1000, given={'y': y}, key=0)\n"
            "begun = time.perf_counter(); model.sample(1000, given={'y': y}, key=1)\n"
            # not getrusage, whose maximum a child takes over from its parent
            "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
            "print(time.perf_counter() - begun, int(peak.split()[1]) / 2**20)\n"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        seconds[sites], memory = map(float, out)
        print(f"\n{sites} sites: {seconds[sites]:.2f} s for 1,000 draws, {memory:.2f} GiB at most")
    assert np.log10(seconds[1000] / seconds[100]) <= 1.2
    assert memory <= 2.0


def test_steps_take_time_as_the_sites():
    """Steps on sets of 10, 100 and 1,000 sites, 32 sets each, with the drawing of synthetic ones; compiled before."""
    seconds = {}
    for sites in (10, 100, 1000):
        history = trained_history("h_conjugate", steps=500, counts=(sites, sites), batch_size=32)
        seconds[sites] = history.seconds / 500
        print(f"\n{sites} sites: {1 / seconds[sites]:.1f} steps a second, compilation in")
    assert np.log10(seconds[1000] / seconds[100]) <= 1.2


def test_four_points_of_slcp_are_a_plate():
    """The i.i.d. trials of slcp as sites without parameters of their own."""
    import jax.numpy as jnp
    import jax.random as jr
    import numpyro.distributions as dist

    def point(key, theta):
        mean, s1, s2, rho = theta[:2], theta[2] ** 2, theta[3] ** 2, jnp.tanh(theta[4])
        e = jr.normal(key, (2,))
        return {"p": mean + jnp.stack([s1 * e[0], s2 * (rho * e[0] + jnp.sqrt(1.0 - rho**2) * e[1])])}

    prior = {"theta": dist.Uniform(-3.0, 3.0).expand((5,)).to_event(1), "site": rd.Plate("site", {})}
    task = rd.tasks.get("slcp")
    problem = rd.Problem(prior, point)
    sims = rd.simulate(problem, 4 * BUDGET, key=0)  # as many points as 10,000 simulations of four
    # chosen by validation loss after 6,000 steps: 1.21, and 1.39 without `near`
    net = rd.nets.PlateTransformer(depth=2, head_size=16, features=64, near=True)
    start = rd.hierarchical(sims.layout, counts=(4, 4), net=net, flow=rd.nets.ResMLP(256, 3))
    model, _ = rd.fit(start, sims, key=1, steps=10_000, batch_size=512, progress=False)
    values = []
    for k in range(1, 4):
        draws = model.sample(10_000, given={"p": task.observation(k)["x"].reshape(4, 2)}, key=k)["theta"]
        values.append(float(diagnostics.c2st(task.reference(k)["theta"], draws)))
    print(f"\nslcp as a plate of four: C2ST {np.mean(values):.3f} ({values})")
    assert np.mean(values) <= 0.85
