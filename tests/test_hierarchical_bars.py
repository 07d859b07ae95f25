"""The trained bars of hierarchies. All slow: `make test-slow`."""

import subprocess
import sys
import time

import numpy as np
import pytest

import retrodict as rd
from retrodict import diagnostics
from retrodict.tasks import h_conjugate


pytestmark = pytest.mark.slow

BUDGET = 10_000
V = h_conjugate.B + h_conjugate.C


def trained(name, *, steps=4_000, budget=BUDGET, **settings):
    problem = rd.tasks.get(name).problem
    sims = rd.simulate(problem, budget, key=0)
    return problem, sims, rd.fit(rd.hierarchical(sims.layout, **settings), sims, key=1, steps=steps, progress=False)[0]


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
    problem, sims, model = conjugate
    best, test = least_squares(sims), rd.simulate(problem, 20, key=100 + sites, sites=sites)
    rows = []
    for i in range(20):
        y = np.asarray(test["y"][i], float)
        precision = 1.0 / h_conjugate.A + sites / V
        mean, sd = y.sum() / V / precision, precision**-0.5
        draws = model.sample(1000, given={"y": test["y"][i]}, key=i)
        mu, theta = draws["mu"], draws["theta"]
        own_mean, own_sd = (mean + y) / 2, np.sqrt(h_conjugate.B / 2 + sd**2 / 4)
        correlation = np.mean([np.corrcoef(mu, column)[0, 1] for column in theta.T[:20]])
        rows.append(
            [
                (mu.mean() - mean) / sd,
                mu.std() / sd,
                (best(y) - mean) / sd,
                np.sqrt(np.mean(((theta.mean(axis=0) - own_mean) / own_sd) ** 2)),
                np.mean(theta.std(axis=0) / own_sd),
                correlation - sd / 2 / own_sd,
            ]
        )
    off, ratio, floor, own, own_ratio, correlation = np.array(rows).T
    off, floor, own = (np.sqrt(np.mean(column**2)) for column in (off, floor, own))
    print(
        f"\n{sites} sites: mu {off:.3f} sd off (least squares {floor:.3f}), sd ratio {ratio.mean():.3f}; "
        f"theta {own:.3f}, {own_ratio.mean():.3f}; correlation {correlation.mean():+.3f} off"
    )
    if sites <= 200:
        assert off <= 0.1  # of which 1,000 draws are .03
        assert abs(ratio.mean() - 1.0) <= 0.12
        assert own <= 0.1
        assert abs(own_ratio.mean() - 1.0) <= 0.12
        assert abs(correlation.mean()) <= 0.1


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
            "import time, resource, numpy as np, retrodict as rd\n"
            f"model, y = rd.load({str(file)!r}), np.zeros({sites}, np.float32)\n"
            "model.sample(1000, given={'y': y}, key=0)\n"
            "begun = time.perf_counter(); model.sample(1000, given={'y': y}, key=1)\n"
            "print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)\n"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        seconds[sites], memory = map(float, out)
        print(f"\n{sites} sites: {seconds[sites]:.2f} s for 1,000 draws, {memory:.2f} GiB at most")
    assert np.log10(seconds[1000] / seconds[100]) <= 1.2
    assert memory <= 2.0


@pytest.mark.parametrize("name", ["seir", "blood_flow"])
def test_epidemics_and_patients_are_calibrated(name):
    """Fresh observations of 50 sites (8 patients): ranks of what they share are uniform."""
    task = rd.tasks.get(name)
    problem, _, model = trained(name, steps=2_000, counts=(1, task.sites))
    begun, n = time.perf_counter(), 100
    test = rd.simulate(problem, n, key=3, sites=task.sites)
    shared = problem.layout.shared
    parts = [model.sample(200, given=_data(problem.layout, test, i), of=shared, key=i) for i in range(n)]
    draws = {k: np.stack([part[k] for part in parts]) for k in shared}
    truth = {k: np.asarray(test[k]) for k in shared}
    found = diagnostics.coverage(truth, draws, key=0, level=1e-3)
    print(f"\n{name}: {time.perf_counter() - begun:.0f} s; coverage at .5 {found.at(0.5)}, at .9 {found.at(0.9)}")
    for k in shared:
        print(f"{k}: sd of the posterior over that of the prior {draws[k].std(axis=1).mean() / truth[k].std():.2f}")
    assert found.ok, found.p_values


def _data(layout, test, i):
    """The data of the i-th row, functions at their points."""
    found = {}
    for name in layout.data:
        value = np.asarray(test[name][i])
        found[name] = rd.At(np.asarray(test[f"{name}.at"][i]), value) if layout[name].axes else value
    return found


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
    start = rd.hierarchical(sims.layout, counts=(4, 4), flow=rd.nets.ResMLP(192, 3))
    model, _ = rd.fit(start, sims, key=1, steps=15_000, progress=False)
    values = []
    for k in range(1, 4):
        draws = model.sample(10_000, given={"p": task.observation(k)["x"].reshape(4, 2)}, key=k)["theta"]
        values.append(float(diagnostics.c2st(task.reference(k)["theta"], draws)))
    print(f"\nslcp as a plate of four: C2ST {np.mean(values):.3f} ({values})")
    assert np.mean(values) <= 0.85
