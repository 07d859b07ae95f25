"""Tasks with sites: simulators against their laws, densities against other people's, references against weights.

Statistical tests have fixed seeds, so that a pass stays a pass; each states how often it would be a false alarm.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import integrate, linalg, stats
from scipy.integrate import solve_ivp

import retrodict as rd
from retrodict_bench import benchmark as bench
from retrodict_bench.tasks import _laws, _sites, blood_flow, eight_schools, h_brownian, h_conjugate, seir
from retrodict_bench.tasks import h_gaussian_linear as hgl
from retrodict_bench.tasks import h_gaussian_linear_uniform as hglu


# name; shared; each site's own; data, and where they are seen; sites
TASKS = [
    ("blood_flow", ["stiffness", "viscosity", "inflow"], ["radius", "left", "right"], ["flow", "pressure"], 8),
    ("eight_schools", ["mu", "tau"], ["theta"], ["sigma", "y"], 8),
    ("h_brownian", ["mu"], ["theta"], ["y", "y.at"], 50),
    ("h_conjugate", ["mu"], ["theta"], ["y"], 50),
    ("h_gaussian_linear", ["sigma"], ["mu"], ["x"], 50),
    ("h_gaussian_linear_uniform", ["sigma"], ["mu"], ["x"], 50),
    ("h_gaussian_mixture", ["loc", "scale"], ["theta"], ["x"], 50),
    ("h_sir", ["gamma"], ["beta"], ["x"], 50),
    ("h_slcp", ["s1", "s2", "rho"], ["m"], ["x"], 50),
    ("h_two_moons", ["loc", "scale"], ["theta"], ["x"], 50),
    ("seir", ["beta0", "alpha", "sigma"], ["A", "T", "phi"], ["cases", "cases.at"], 50),
]
NAMES = [row[0] for row in TASKS]
EXACT = ("h_brownian", "h_conjugate", "h_gaussian_linear", "h_gaussian_linear_uniform")
# compiling a simulation of many sites takes seconds: one of them is for every day
SLOW = [name if name == "h_conjugate" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


# --------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize(
    ("name", "shared", "own", "data", "sites"), [*TASKS[:-1], pytest.param(*TASKS[-1], marks=pytest.mark.slow)]
)
def test_what_a_task_is_made_of(name, shared, own, data, sites):
    task = rd.tasks.get(name)
    layout = task.problem.layout
    assert (task.name, task.sites, layout.plate) == (name, sites, "site")
    assert layout.shared == shared
    assert layout.own == own + data


@pytest.mark.parametrize("name", SLOW)
def test_observations_are_those_of_many_sites(name):
    task = rd.tasks.get(name)
    layout, first = task.problem.layout, rd.tasks.get(name).observation(1)
    assert task.count == (1 if name == "eight_schools" else 10)
    assert set(first) == set(layout.data)
    for k in range(1, task.count + 1):
        seen = task.observation(k)
        whole = task.true_parameters(k) if name != "eight_schools" else {k: v[0] for k, v in task.reference(1).items()}
        for v in layout.variables:
            if v.kind == "place":
                continue
            value = {**seen, **whole}[v.name]
            value = value.values if v.axes else value
            assert value.shape == ((task.sites,) if v.plate else ()) + v.shape
            assert value.dtype == np.float32
        if k == 1:
            assert np.isfinite(jax.jit(task.log_joint)({**seen, **whole}))
    if name not in EXACT:
        return
    for variable, draws in task.reference(10).items():
        assert draws.shape == (10_000, *task.true_parameters(10)[variable].shape)
        # a truth beyond 5.5 sd of its posterior: 51 of them, false alarms below 1e-5 for Gaussian ones
        z = (task.true_parameters(10)[variable] - draws.mean(0)) / draws.std(0)
        assert np.abs(z).max() < 5.5


def test_a_benchmark_of_one_observation_refuses_sites():
    with pytest.raises(rd.DataError, match="'h_slcp' has sites"):
        bench.Evaluation.of("h_slcp", simulations=1000, observations=[1])


def test_without_a_reference_one_is_told_so():
    with pytest.raises(rd.DataError, match="'h_slcp' has no reference posterior"):
        rd.tasks.get("h_slcp").references()
    with pytest.raises(rd.DataError, match="nobody knows the true parameters"):
        rd.tasks.get("eight_schools").true_parameters(1)
    with pytest.raises(rd.DataError, match="a positive error"):
        eight_schools.exact_posterior([1.0, 2.0], [1.0], 0)


# --------------------------------------------------------------------------------------------------------- densities


def truncated(theta, loc, scale, reach):
    return stats.truncnorm((-reach - loc) / scale, (reach - loc) / scale, loc, scale).logpdf(theta).sum()


def values_of(name):
    """Three sites' parameters and data, and the log density of everything by scipy, to be compared with ours."""
    rng = np.random.default_rng(NAMES.index(name))
    normal, z = stats.norm.logpdf, rng.normal(size=3)
    if name == "h_conjugate":
        v = {"mu": 0.7, "theta": 0.7 + 0.3 * z, "y": rng.normal(size=3)}
        score = normal(v["theta"], 0.7, 0.1**0.5).sum() + normal(v["y"], v["theta"], 0.1**0.5).sum()
        return v, normal(0.7) + score
    if name == "h_brownian":
        scale = rng.exponential(size=(3, 5))
        v = {"mu": 0.7, "theta": 0.7 + 0.1 * z, "y": rd.At(scale, rng.normal(size=(3, 5)))}
        score = normal(v["theta"], 0.7, 0.1).sum() + normal(v["y"].values, v["theta"][:, None], scale).sum()
        return v, normal(0.7) + score
    if name.startswith("h_gaussian_linear"):
        uniform, width = name.endswith("uniform"), 0.1 if name.endswith("uniform") else 1.0
        v = {"sigma": 0.7 * width, "mu": z, "x": z + width * rng.normal(size=3)}
        prior = -3 * np.log(20) if uniform else normal(z).sum()
        return v, stats.halfnorm.logpdf(v["sigma"], 0, width) + prior + normal(v["x"], z, v["sigma"]).sum()
    if name == "eight_schools":
        sigma = rng.uniform(9, 18, 3)
        v = {"mu": 3.0, "tau": 4.0, "theta": 3 + 4 * z, "sigma": sigma, "y": 3 + 10 * rng.normal(size=3)}
        score = normal(v["theta"], 3, 4).sum() + normal(v["y"], v["theta"], sigma).sum()
        return v, normal(3, 0, 5) + stats.halfcauchy.logpdf(4, 0, 5) + score
    if name in ("h_gaussian_mixture", "h_two_moons"):
        mixture = name == "h_gaussian_mixture"
        loc, scale, reach = np.array([0.4, -0.9]), np.array([0.5, 1.4]), 10.0 if mixture else 1.0
        theta = rng.uniform(-0.9, 0.9, (3, 2))
        prior = -2 * np.log(2 * reach) + (stats.halfnorm.logpdf(scale).sum() if mixture else -2 * np.log(2.9))
        prior += sum(truncated(t, loc, scale, reach) for t in theta)
        if mixture:
            x = theta + 0.2 * rng.normal(size=(3, 2))
            noise = np.log(sum(0.5 * stats.norm.pdf(x, theta, s).prod(1) for s in (1, 0.1))).sum()
        else:
            r, a = rng.normal(0.1, 0.01, 3), rng.uniform(-1.5, 1.5, 3)
            lean = np.stack([0.25 - abs(theta.sum(1)) / 2**0.5, (theta[:, 1] - theta[:, 0]) / 2**0.5], axis=1)
            x = lean + r[:, None] * np.stack([np.cos(a), np.sin(a)], axis=1)
            noise = (normal(r, 0.1, 0.01) - np.log(np.pi * r)).sum()
        return {"loc": loc, "scale": scale, "theta": theta, "x": x}, prior + noise
    if name == "h_slcp":
        m, cov = rng.uniform(-3, 3, (3, 2)), 1.2**2 * 0.9**2 * np.tanh(0.8)
        law = stats.multivariate_normal([0, 0], [[1.2**4 + 1e-6, cov], [cov, 0.9**4 + 1e-6]])
        x = m[:, None] + rng.normal(size=(3, 4, 2))
        v = {"s1": 1.2, "s2": 0.9, "rho": 0.8, "m": m, "x": x.reshape(3, 8)}
        return v, -2 * np.log(2.9) - 7 * np.log(6) + law.logpdf(x - m[:, None]).sum()
    if name == "h_sir":
        beta, x = np.array([0.3, 0.5, 0.9]), rng.integers(1, 50, (3, 10)).astype(float)
        p = np.exp([_sir(b, 0.12) for b in beta])
        prior = stats.lognorm.logpdf(0.12, 0.2, scale=0.125) + stats.lognorm.logpdf(beta, 0.5, scale=0.4).sum()
        return {"gamma": 0.12, "beta": beta, "x": x}, prior + stats.binom(1000, p).logpmf(x).sum()
    if name == "seir":
        v = {"beta0": 0.8, "alpha": 0.1, "sigma": 0.09, "A": rng.uniform(0.2, 0.5, 3), "T": rng.uniform(300, 400, 3)}
        v |= {"phi": rng.uniform(0, 3, 3), "cases": rd.At(rng.uniform(0, 365, (3, 5)), rng.uniform(50, 200, (3, 5)))}
        prior = -np.log(1.9 * (1 / 7 - 1 / 30) * (1 / 7 - 1 / 21)) - 3 * np.log(0.3 * np.pi)
        prior += stats.gamma.logpdf(v["T"], 365 / 7, scale=7).sum()
        each = [seir_solved(0.8, 0.1, 0.09, *row) for row in zip(v["A"], v["T"], v["phi"], strict=True)]
        mean = [np.interp(t, seir.GRID, 0.1 * e[1]) for t, e in zip(v["cases"].points, each, strict=True)]
        return v, prior + stats.poisson(np.array(mean)).logpmf(np.floor(v["cases"].values)).sum()
    shared = {"stiffness": 1.2, "viscosity": 3.5, "inflow": 8.0}
    own = {"radius": np.exp(0.1 * z), "left": np.exp(0.3 * z), "right": np.exp(-0.3 * z)}
    each = [blood_solved(**shared, **dict(zip(own, row, strict=True))) for row in zip(*own.values(), strict=True)]
    pressure, flow = np.array([e[0] for e in each]) + 1.0, np.array([e[1] for e in each]) - 0.3
    prior = stats.lognorm.logpdf(1.2, 0.3) + stats.lognorm.logpdf([3.5, 8.0], 0.2, scale=[4.0, 7.5]).sum()
    prior += sum(stats.lognorm.logpdf(own[k], s).sum() for k, s in (("radius", 0.1), ("left", 0.3), ("right", 0.3)))
    noise = 36 * (normal(1.0, 0.0, 2.0) + normal(0.3, 0.0, 0.5))
    return {**shared, **own, "pressure": pressure, "flow": flow}, prior + noise


def _sir(beta, gamma):
    """log I/N at day 0, 17, ..., 153, by scipy."""

    def slope(_, w):
        return [-beta * w[0] * w[1], beta * w[0] * w[1] - gamma * w[1]]

    times = 17.0 * np.arange(10)
    found = solve_ivp(slope, (0, 153), [1 - 1e-6, 1e-6], t_eval=times, rtol=1e-9, atol=1e-15, method="DOP853")
    return np.log(found.y[1])


def outside(values, name):
    layout = rd.tasks.get(name).problem.layout
    bounded = next((v for v in layout.variables if v.kind == "parameter" and np.isfinite(v.ends[0]).all()), None)
    return None if bounded is None else {**values, bounded.name: values[bounded.name] * 0 + bounded.ends[0][0] - 0.1}


EQUATIONS = {"blood_flow": 0.1, "h_sir": 0.02, "seir": 0.02}


@pytest.mark.parametrize("name", [*NAMES[:-1], pytest.param("seir", marks=pytest.mark.slow)])
def test_the_joint_density_is_that_of_scipy(name):
    values, truth = values_of(name)
    task = rd.tasks.get(name)
    joint = jax.jit(task.log_joint)
    # float32: terms of up to a few hundred; and two solvers, in blood flow one of them without the higher waves
    np.testing.assert_allclose(joint(values), truth, rtol=2e-5, atol=EQUATIONS.get(name, 2e-3))
    if (beyond := outside(values, name)) is not None:
        assert joint(beyond) == -np.inf


def test_supports_do_not_move_with_what_they_depend_on():
    layout = rd.tasks.get("h_gaussian_mixture").problem.layout
    np.testing.assert_array_equal(layout["theta"].ends, ([-10, -10], [10, 10]))


@pytest.mark.slow
def test_laws_that_are_cut_off_are_drawn_as_they_are():
    own = rd.tasks.get("h_two_moons").problem.prior.distributions["theta"]
    law = own(jnp.array([0.99, 0.0]), jnp.array([0.1, 3.0]))
    draws = np.asarray(law.sample(jax.random.key(0), (2000,)), float)
    assert np.all(np.abs(draws) <= 1)
    assert stats.kstest(draws[:, 0], stats.truncnorm(-19.9, 0.1, 0.99, 0.1).cdf).pvalue > 1e-6  # false alarm's rate
    assert stats.kstest(draws[:, 1], stats.truncnorm(-1 / 3, 1 / 3, 0, 3).cdf).pvalue > 1e-6


# ---------------------------------------------------------------------------------------------- simulators, one site


@pytest.mark.slow
def test_sites_are_seen_with_their_noise():
    # p > 1e-6 for each of 5 tests
    n = 5000
    seen = jax.jit(jax.vmap(lambda k: h_brownian.simulate(k, jnp.float32(0.0), jnp.float32(0.3))["y"]))(keys(n))
    assert stats.kstest(seen.points.ravel(), "expon").pvalue > 1e-6
    assert stats.kstest(((seen.values - 0.3) / seen.points).ravel(), "norm").pvalue > 1e-6
    school = jax.jit(jax.vmap(lambda k: eight_schools.simulate(k, 0.0, 1.0, jnp.float32(2.0))))(keys(n))
    sigma = np.asarray(school["sigma"], float)
    assert stats.kstest(np.log(sigma / 5) / np.log(5), "uniform").pvalue > 1e-6
    assert stats.kstest((school["y"] - 2) / sigma, "norm").pvalue > 1e-6
    assert abs(stats.spearmanr(sigma, np.abs((school["y"] - 2) / sigma))[0]) < 5.5 / np.sqrt(n)


@pytest.mark.slow
def test_cases_are_poisson_counts_with_a_fraction(monkeypatch):
    monkeypatch.setattr(seir, "means", lambda times, *rest: 3.0 + 0 * times)
    found = jax.jit(jax.vmap(lambda k: seir.simulate(k, *jnp.ones(6))["cases"]))(keys(2000))
    cases, times = np.asarray(found.values, float).ravel(), np.asarray(found.points, float)
    # p > 1e-6 thrice
    assert stats.kstest(cases % 1, "uniform").pvalue > 1e-6
    assert stats.kstest(times.ravel() / 365, "uniform").pvalue > 1e-6
    counts = np.bincount(np.floor(cases).astype(int), minlength=10)
    expected = len(cases) * np.append(stats.poisson(3).pmf(np.arange(9)), stats.poisson(3).sf(8))
    counts = np.append(counts[:9], counts[9:].sum())
    assert stats.chisquare(counts, expected).pvalue > 1e-6


# --------------------------------------------------------------------------------------------------------- equations


def seir_solved(beta0, alpha, sigma, A, T, phi, days=seir.GRID):
    m, people = 1 / 50, 1e4

    def slope(t, w):
        s, e, i, r = w
        new = beta0 * (1 + A * np.sin(2 * np.pi * t / T - phi)) * s * i / people
        return [-new + m * (e + i + r), new - (alpha + m) * e, alpha * e - (sigma + m) * i, sigma * i - m * r]

    found = solve_ivp(slope, (-730, 365), [9990, 0, 10, 0], t_eval=days, rtol=1e-6, atol=1e-6, method="DOP853")
    return found.y


@pytest.mark.parametrize("count", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_seir_solves_its_equations_and_loses_nobody(count):
    rng = np.random.default_rng(1)
    low = np.array([0.1, 1 / 30, 1 / 21, 0.2, 250, 0.0])
    high = np.array([2.0, 1 / 7, 1 / 7, 0.5, 480, np.pi])
    rows = np.concatenate([rng.uniform(low, high, (count - 1, 6)), high[None]]).astype(np.float32)
    found = jax.jit(jax.vmap(lambda p: seir.curves(*p)))(rows)
    assert found.shape == (count, 366, 4)
    np.testing.assert_allclose(found.sum(2), 1e4, rtol=1e-5)
    for row, curve in zip(rows.astype(float), found, strict=True):
        truth = seir_solved(*row)
        np.testing.assert_allclose(curve[:, 1] * row[1], truth[1] * row[1], rtol=1e-3, atol=1e-3)


def blood_network(stiffness, viscosity, radius, left, right):
    """The seven states' equations x' = M x + b Q(t): P of the aorta; Q, P and Pc of either iliac."""
    parts = {}
    for name, length, r, modulus in (("aorta", 0.086, 7.58e-3, 5e5), ("iliac", 0.085, 5.49e-3, 7e5)):
        r, h = r * radius, 0.12 * r * radius
        parts[name] = (
            8 * viscosity * 1e-3 * length / (np.pi * r**4),
            1060 * length / (np.pi * r**2),
            3 * length * np.pi * r**3 / (2 * stiffness * modulus * h),
        )
    matrix, source = np.zeros((7, 7)), np.zeros(7)
    source[0] = 1 / parts["aorta"][2]
    resistance, inertance, capacity = parts["iliac"]
    for first, factor in ((1, left), (4, right)):
        q, p, pc = first, first + 1, first + 2
        proximal, distal = 6.8123e7 * viscosity / 4, 3.1013e9 * viscosity / 4 * factor
        matrix[0, q] = -source[0]
        matrix[q, [0, p, q]] = np.array([1, -1, -resistance]) / inertance
        matrix[p, [q, p, pc]] = np.array([1, -1 / proximal, 1 / proximal]) / capacity
        matrix[pc, [p, pc]] = np.array([1 / proximal, -1 / proximal]) / 3.6664e-10
        matrix[pc, pc] -= 1 / (distal * 3.6664e-10)
    return matrix, source, parts["aorta"]


def heart(t):
    """Flow of mean 1, a squared sine in .35 s of 1.1 s."""
    t = np.asarray(t) % 1.1
    return np.where(t < 0.35, np.sin(np.pi * t / 0.35) ** 2, 0.0) * 2 * 1.1 / 0.35


def blood_solved(stiffness, viscosity, inflow, radius, left, right, phases=None):
    """Pressure and flow in the periodic state: a cycle from nothing says where a cycle must begin to end there."""
    matrix, source, (resistance, inertance, _) = blood_network(stiffness, viscosity, radius, left, right)
    t = 1.1 * (np.arange(12) / 12 if phases is None else phases)

    def cycle(start):
        found = solve_ivp(
            lambda t, x: matrix @ x + source * inflow * 1e-6 * heart(t),
            (0, 1.1),
            start,
            t_eval=np.append(t, 1.1),
            method="LSODA",
            jac=lambda t, x: matrix,
            rtol=1e-8,
            atol=1e-12,
            max_step=0.05,
        )
        assert found.success
        return found.y

    begin = np.linalg.solve(np.eye(7) - linalg.expm(1.1 * matrix), cycle(np.zeros(7))[:, -1])
    states = cycle(begin)
    np.testing.assert_allclose(states[:, -1], begin, rtol=1e-4)
    rise = (heart(t + 1e-5) - heart(t - 1e-5)) / 2e-5
    pressure = states[0, :-1] + inflow * 1e-6 * (resistance * heart(t) + inertance * rise)
    return pressure / 133.322, states[1, :-1] * 1e6


BLOOD = ("stiffness", "viscosity", "inflow", "radius", "left", "right")


def test_blood_flows_as_its_equations_say():
    rng, phases = np.random.default_rng(3), np.linspace(0, 1, 40, endpoint=False)
    curves = jax.jit(blood_flow.curves)
    for _ in range(2):
        p = dict(zip(BLOOD, rng.uniform(0.7, 1.4, 6), strict=True))
        p["viscosity"] *= 4
        p["inflow"] *= 7.5
        pressure, flow = curves(jnp.asarray(phases), **{k: jnp.float32(v) for k, v in p.items()})
        truth = blood_solved(**p, phases=phases)
        # the waves beyond the twentieth are left out: inertance times their slope is some tenths of a mmHg, noise is 2
        np.testing.assert_allclose(pressure, truth[0], atol=0.5)
        np.testing.assert_allclose(flow, truth[1], atol=0.05)
        # what goes in comes out, and the mean pressure is the mean flow times what is in its way
        other = curves(jnp.asarray(phases), **{**p, "left": p["right"], "right": p["left"]})[1]
        assert float(flow.mean() + other.mean()) == pytest.approx(p["inflow"], rel=1e-4)
        matrix, source, aorta = blood_network(*(p[k] for k in ("stiffness", "viscosity", "radius", "left", "right")))
        steady = np.linalg.solve(matrix, -source * p["inflow"] * 1e-6)[0] + aorta[0] * p["inflow"] * 1e-6
        assert float(pressure.mean()) == pytest.approx(steady / 133.322, rel=1e-4)


# -------------------------------------------------------------------------------------------------------- references


def test_the_conjugate_posterior_is_that_of_the_joint_gaussian():
    # condition (mu, theta) on y by linear algebra: 5 means and 15 second moments within 5.5 standard errors, 1e-6
    y, n = np.array([0.3, -0.9, 1.4, 0.2]), 20_000
    draws = h_conjugate.posterior({"y": y}, np.random.default_rng(0), n)
    prior = np.ones((5, 5)) + np.diag([0, 0.1, 0.1, 0.1, 0.1])
    gain = prior[:, 1:] @ np.linalg.inv(prior[1:, 1:] + 0.1 * np.eye(4))
    cov = prior - gain @ prior[1:]
    z = np.column_stack([draws["mu"], draws["theta"]]) - gain @ y
    assert np.abs(z.mean(0) / np.sqrt(np.diag(cov) / n)).max() < 5.5
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    assert np.abs((z.T @ z / n - cov) / error).max() < 5.5


def test_the_brownian_posterior_is_that_of_the_joint_gaussian():
    rng, n = np.random.default_rng(1), 20_000
    scale, y = rng.exponential(size=(3, 5)), rng.normal(size=(3, 5))
    draws = h_brownian.posterior({"y": y, "y.at": scale}, rng, n)
    prior = np.ones((4, 4)) + np.diag([0, 0.01, 0.01, 0.01])
    look = np.kron(np.eye(4)[1:], np.ones((5, 1)))  # theta of each of 15 values
    gain = prior @ look.T @ np.linalg.inv(look @ prior @ look.T + np.diag(scale.ravel() ** 2))
    cov = prior - gain @ look @ prior
    z = np.column_stack([draws["mu"], draws["theta"]]) - gain @ y.ravel()
    assert np.abs(z.mean(0) / np.sqrt(np.diag(cov) / n)).max() < 5.5  # 4 and 10 figures, 1e-6
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    assert np.abs((z.T @ z / n - cov) / error).max() < 5.5


@pytest.mark.parametrize("module", [hgl, hglu])
def test_references_agree_with_importance_sampling(module):
    # proposals from the prior of sigma, and mu around x: 4 sites, 5 means and 5 squares by weights against draws
    rng, n, uniform = np.random.default_rng(2), 200_000, module is hglu
    x = np.array([9.97, 3.0, -10.05, -4.0]) if uniform else np.array([0.4, -1.7, 2.2, 0.1])
    draws = module.posterior({"x": x}, rng, 50_000)
    sigma = np.abs(rng.normal(0, module.SCALE, n))
    mu = x + sigma[:, None] * rng.normal(size=(n, 4))
    # the likelihood is the proposal: what is left is the prior of mu
    weight = np.all(np.abs(mu) < 10, axis=1).astype(float) if uniform else stats.norm.pdf(mu).prod(1)
    weight /= weight.sum()
    effective = 1 / (weight**2).sum()
    assert effective > 5000
    for truth, one in zip([draws["sigma"], *draws["mu"].T], [sigma, *mu.T], strict=True):
        center, spread = truth.mean(), truth.std()
        for power in (1, 2):
            a, b = ((truth - center) / spread) ** power, ((one - center) / spread) ** power
            error = np.sqrt(a.var() * (1 / len(a) + 1 / effective))
            assert abs(a.mean() - weight @ b) < 5.5 * error  # 20 figures, false alarms 1e-6


def test_draws_on_a_grid_have_its_density():
    grid = np.linspace(-6, 6, 401)
    draws = _sites.draw_on_grid(np.stack([-0.5 * grid**2, -np.abs(grid) * 3]), grid, np.random.default_rng(0), 20_000)
    assert draws.shape == (20_000, 2)
    assert stats.kstest(draws[:, 0], "norm").pvalue > 1e-6
    assert stats.kstest(draws[:, 1], stats.laplace(scale=1 / 3).cdf).pvalue > 1e-6


def test_laws_that_are_cut_off_keep_their_digits_in_the_tails():
    low, high = np.array([-1.0, 30.0, -31.0]), np.array([2.0, 31.0, -30.0])
    truth = [np.log(stats.norm.cdf(2) - stats.norm.cdf(-1)), stats.norm.logsf(30), stats.norm.logcdf(-30)]
    np.testing.assert_allclose(_laws.log_mass_between(low, high), truth, rtol=1e-12)
    rng = np.random.default_rng(0)
    for mean, sd in ((0.95, 0.1), (1.3, 0.05), (-1.3, 0.05)):
        draws = _laws.draw_truncated_normal(rng, np.array(mean), np.array(sd), -1.0, 1.0, (5000,))
        law = stats.truncnorm((-1 - mean) / sd, (1 - mean) / sd, mean, sd)
        assert stats.kstest(draws, law.cdf).pvalue > 1e-6


@pytest.mark.slow
def test_eight_schools_by_nuts_and_by_a_sum_over_tau():
    # without theta and mu: y_s ~ N(mu, tau^2 + sigma_s^2), mu | tau Gaussian, so that one number is left
    draws, numbers = eight_schools.reference()
    assert all(row["r_hat"] < 1.01 and row["ess"] > 1000 for row in numbers.values())
    y, sigma = np.array(eight_schools.EFFECTS), np.array(eight_schools.ERRORS)
    u = np.linspace(0, np.pi / 2, 20_001)[1:-1]  # tau = 5 tan u, of which the prior is uniform
    tau = 5 * np.tan(u)
    variance = tau[:, None] ** 2 + sigma**2
    precision = 1 / 25 + (1 / variance).sum(1)
    mean = (y / variance).sum(1) / precision
    score = -0.5 * (np.log(variance) + y**2 / variance).sum(1) - 0.5 * np.log(precision) + 0.5 * mean**2 * precision
    weight = np.exp(score - score.max())
    weight /= weight.sum()
    shrink = tau[:, None] ** 2 / variance
    theta = weight @ (shrink * y + (1 - shrink) * mean[:, None])
    ess = min(row["ess"] for row in numbers.values())
    exact = np.array([weight @ mean, *theta])
    found = np.column_stack([draws["mu"][0], draws["theta"][0]])
    # 9 means within 5.5 standard errors, and tau by its distribution's quarters likewise: false alarms below 1e-6
    assert np.abs((found.mean(0) - exact) / (found.std(0) / np.sqrt(ess))).max() < 5.5
    for share in (0.25, 0.5, 0.75):
        quantile = np.interp(share, np.cumsum(weight), tau)
        assert abs(np.mean(draws["tau"][0] < quantile) - share) < 5.5 * np.sqrt(share * (1 - share) / ess)
    assert weight @ mean == pytest.approx(4.4, abs=0.05)  # as printed elsewhere for the same priors


# ------------------------------------------------------------------------- simulation and density tell one story


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_joint_density_leaves_simulations_alone(name):
    # Metropolis with log_joint on the parameters behind simulated data leaves their joint law alone, whatever it is.
    # z of the mean change of bounded functions of every parameter: at most 15 and the density, |z| < 5.5, 1e-6 in all
    task, sites, n = rd.tasks.get(name), 2, 600 if name == "seir" else 5000
    layout, sims = task.problem.layout, rd.simulate(task.problem, n, key=5, sites=sites)
    assert sims.n_failed == 0
    start = {k: jnp.asarray(sims[k]) for k in layout.parameters}
    data = {k: jnp.asarray(v) for k, v in sims.items() if k not in start}
    center = {k: np.median(v) for k, v in start.items()}
    spread = {k: np.subtract(*np.quantile(v, [0.75, 0.25])) for k, v in start.items()}
    density = jax.vmap(lambda p, d: task.log_joint({**p, **d}))

    def move(state, key):
        x, score = state
        key_size, key_step, key_accept = jax.random.split(key, 3)
        size = 10.0 ** jax.random.uniform(key_size, (n,), minval=-3.0, maxval=0.5)
        noise = dict(zip(x, jax.random.split(key_step, len(x)), strict=True))

        def step(k):
            wide = size.reshape(-1, *[1] * (x[k].ndim - 1))
            return x[k] + spread[k] * wide * jax.random.normal(noise[k], x[k].shape)

        new = {k: step(k) for k in x}
        proposed = density(new, data)
        accept = jnp.log(jax.random.uniform(key_accept, (n,))) < proposed - score
        kept = {k: jnp.where(accept.reshape(-1, *[1] * (x[k].ndim - 1)), new[k], x[k]) for k in x}
        return (kept, jnp.where(accept, proposed, score)), None

    begin = (start, density(start, data))
    assert np.isfinite(begin[1]).all()
    end, _ = jax.jit(lambda s: jax.lax.scan(move, s, jax.random.split(jax.random.key(6), 30)))(begin)
    moved = np.mean(np.asarray(begin[1]) != np.asarray(end[1]))
    assert moved > 0.7

    def figures(state):
        z = [(np.asarray(v, float).reshape(n, -1) - center[k]) / spread[k] for k, v in sorted(state[0].items())]
        z = np.concatenate(z, axis=1)
        return np.column_stack([z / (1 + np.abs(z)), 1 / (1 + z**2), np.asarray(state[1], float)])

    change = figures(end) - figures(begin)
    assert np.abs(change.mean(0) / (change.std(0) / np.sqrt(n))).max() < 5.5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shared", "own", "data", "sites"), TASKS)
def test_sites_share_what_they_share_and_nothing_else(name, shared, own, data, sites):
    # the prior of a site's parameters, site by site and given what is shared: uniform ranks within 5.5 standard errors
    task, n = rd.tasks.get(name), 1500
    sims = rd.simulate(task.problem, n, key=7, sites=3)
    prior = task.problem.prior
    for k in own:
        entry = prior.distributions[k]

        def law(row, entry=entry):
            return entry if hasattr(entry, "log_prob") else prior._at(entry, row)

        def uniform(row, k=k, law=law):
            base = law(row)
            while isinstance(base, dist.Independent | dist.ExpandedDistribution):
                base = base.base_dist
            return base.cdf(row[k])

        each = jax.vmap(lambda row, k=k: jax.vmap(lambda v: uniform({**row, k: v}))(row[k]))
        u = np.asarray(jax.jit(each)({j: jnp.asarray(sims[j]) for j in (*shared, k)}), float).reshape(n, 3, -1)
        # 3 sites of up to 2 elements of up to 3 parameters: 18 tests with p > 1e-6, and correlations between sites
        assert min(stats.kstest(u[:, s, j], "uniform").pvalue for s in range(3) for j in range(u.shape[2])) > 1e-6
        for j in range(u.shape[2]):
            assert np.abs(np.corrcoef(u[:, :, j].T) - np.eye(3)).max() < 5.5 / np.sqrt(n)


def test_the_heart_pumps_what_it_should():
    t = np.linspace(0, 1, 2001)
    waves = (np.exp(2j * np.pi * t[:, None] * np.arange(21)) @ blood_flow.pulse()).real
    assert integrate.simpson(waves, x=t) == pytest.approx(1.0, abs=1e-9)
    # of a peak of 6.3; waves that are left out fall with the third power of their number
    assert np.abs(waves - heart(1.1 * t)).max() < 0.03
