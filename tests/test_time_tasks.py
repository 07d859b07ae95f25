"""Tasks in time: their equations against scipy's adaptive solvers, their noise and their priors against their laws.

Statistical tests have fixed seeds, so that a pass stays a pass; each states how often it would be a false alarm.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import retrodict as rd
from retrodict.problem import Prior
from retrodict_bench.tasks import _functions, influenza, sird
from retrodict_bench.tasks import hodgkin_huxley as hh
from retrodict_bench.tasks import lotka_volterra_unstructured as lv


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def single(values):
    return {name: jnp.float32(value) for name, value in values.items()}


def solved(slope, start, grid, **options):
    options = {"rtol": 1e-9, "atol": 1e-12, "method": "DOP853", **options}
    found = solve_ivp(slope, (grid[0], grid[-1]), start, t_eval=grid, **options)
    assert found.success
    return found.y


SEVEN = jax.random.key(7)


# ------------------------------------------------------------------------------------------------ functions of time


def test_a_function_is_read_on_its_grid_between_its_points_and_nowhere_else():
    grid = np.array([0.0, 1.0, 3.0])
    times = jnp.array([0.0, 0.5, 1.0, 2.5, 3.0, -0.1, 3.1])
    found = _functions.interpolate(times, grid, jnp.array([1.0, 3.0, -1.0]))
    np.testing.assert_allclose(found, [1.0, 2.0, 3.0, 0.0, -1.0, np.nan, np.nan], rtol=1e-6)


def test_random_times_are_uniform_and_in_order():
    times = np.asarray(jax.vmap(lambda k: _functions.random_times(k, 20, lv.GRID))(keys(500)))
    assert np.all(np.diff(times, axis=1) >= 0)
    assert times.max() <= lv.GRID[-1]
    assert stats.kstest(times.ravel() / 15, "uniform").pvalue > 1e-6  # the false alarm's rate


def kernel(t, amplitude, length):
    return amplitude**2 * np.exp(-0.5 * (np.subtract.outer(t, t) / length) ** 2)


@pytest.mark.parametrize("module", [sird, influenza])
def test_a_gaussian_process_has_its_kernel(module):
    grid, how = module.GRID, {"amplitude": module.AMPLITUDE, "length": module.LENGTH}
    factor = _functions.cholesky(tuple(grid.tolist()), *how.values())
    assert factor is _functions.cholesky(tuple(grid.tolist()), *how.values())  # computed once
    truth = kernel(grid, **how)
    np.testing.assert_allclose(factor @ factor.T, truth + 1e-5 * np.eye(len(grid)), atol=1e-12)
    n = 4000
    draws = np.random.default_rng(0).normal(size=(n, len(grid))) @ factor.T
    draws = draws[:, ::8]
    truth = truth[::8, ::8]
    # at most 13 means and 91 second moments, each below 5.5 standard errors, skewed a little: false alarms below 1e-5
    assert np.abs(draws.mean(0) / np.sqrt(np.diag(truth) / n)).max() < 5.5
    error = np.sqrt((np.outer(np.diag(truth), np.diag(truth)) + truth**2) / n)
    assert np.abs((draws.T @ draws / n - truth) / error).max() < 5.5


# -------------------------------------------------------------------------------- Lotka-Volterra, without a structure

RATES = [(2.0, 2.0, 2.0, 2.0), (2.9, 1.1, 2.9, 1.1), (1.2, 2.8, 1.3, 2.7), (2.9, 1.1, 1.1, 2.9)]
lv_curves = jax.jit(lv.curves)


@pytest.mark.parametrize("rates", RATES)
def test_populations_solve_their_equations(rates):
    alpha, beta, gamma, delta = rates

    def slope(t, w):
        return [alpha * w[0] - beta * w[0] * w[1], delta * w[0] * w[1] - gamma * w[1]]

    found = lv_curves(*(jnp.float32(rate) for rate in rates))
    # float32, and four steps of .025; of 60 draws the worst was 1.2e-4 off, a thousandth of the noise
    for name, truth in zip(("prey", "predators"), solved(slope, [1.0, 0.5], lv.GRID), strict=True):
        np.testing.assert_allclose(found[name], truth, atol=3e-4)


def test_populations_are_seen_with_their_noise_at_any_times():
    rates = single(dict(zip(lv.PARAMETERS, RATES[1], strict=True)))
    rng = np.random.default_rng(1)
    times = {name: jnp.asarray(rng.uniform(0, 15, 3000), jnp.float32) for name in ("prey", "predators")}
    found = jax.jit(lambda times: lv.observed(SEVEN, times, **rates))(times)
    truth = lv_curves(*rates.values())
    z = {name: (found[name] - np.interp(times[name], lv.GRID, truth[name])) / lv.NOISE for name in found}
    for name in z:
        assert stats.kstest(z[name], "norm").pvalue > 1e-6
    assert abs(np.corrcoef(z["prey"], z["predators"])[0, 1]) < 5.5 / np.sqrt(3000)  # 4e-8


# ------------------------------------------------------------------------------------------------------------- SIRD

contact_of, sird_curves = jax.jit(sird.contact_prior().law.sample), jax.jit(sird.curves)


@pytest.mark.parametrize("seed", range(4))
def test_an_epidemic_solves_its_equations_and_loses_nobody(seed):
    rng = np.random.default_rng(seed)
    gamma, delta, first = rng.uniform(0, 0.5), rng.uniform(0, 0.5), rng.uniform(0, 0.2)
    contact = contact_of(jax.random.key(seed))
    beta = np.asarray(contact, float)
    assert np.all((beta > 0) & (beta < 1))

    def slope(t, w):
        infections = np.interp(t, sird.GRID, beta) * w[0] * w[1]
        return [-infections, infections - (gamma + delta) * w[1], gamma * w[1], delta * w[1]]

    found = sird_curves(contact, jnp.float32(first), jnp.float32(gamma), jnp.float32(delta))
    # no longer step than the grid's, or the solver would step over a kink of beta
    truth = solved(slope, [1.0, first, 0.0, 0.0], sird.GRID, max_step=0.5)
    for name, curve in zip(("susceptible", *sird.OBSERVED), truth, strict=True):
        np.testing.assert_allclose(found[name], curve, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(sum(found.values()), 1 + first, rtol=1e-5)


def test_epidemics_are_seen_with_log_normal_noise(monkeypatch):
    monkeypatch.setattr(sird, "draw_start", lambda key: jnp.float32(0.1))
    contact, gamma, delta = contact_of(jax.random.key(0)), jnp.float32(0.1), jnp.float32(0.05)
    rng = np.random.default_rng(2)
    times = {name: jnp.asarray(rng.uniform(0, 50, 3000), jnp.float32).at[0].set(0.0) for name in sird.OBSERVED}
    found = jax.jit(lambda times: sird.observed(SEVEN, times, contact, gamma, delta))(times)
    truth = sird_curves(contact, jnp.float32(0.1), gamma, delta)
    z = [np.log(found[k] / (np.interp(times[k], sird.GRID, truth[k]) + 1e-8)) / sird.NOISE for k in sird.OBSERVED]
    for one in z:
        assert stats.kstest(one, "norm").pvalue > 1e-6
    assert np.abs(np.corrcoef(z) - np.eye(3)).max() < 5.5 / np.sqrt(3000)  # thrice 4e-8
    np.testing.assert_allclose(found["dead"][0], 1e-8, rtol=0.3)  # none have died at first, and a logarithm needs some


def test_the_first_infected_are_independent_of_the_noise():
    # 50 counts at time 0 tell I(0) but for .7 %; a key used twice would tie the first noises to it
    n, times = 2000, {"infected": jnp.zeros(50)}
    contact, rate = contact_of(jax.random.key(0)), jnp.float32(0.2)
    found = jax.jit(jax.vmap(lambda k: sird.observed(k, times, contact, rate, rate)))(keys(n))
    logs = np.log(np.asarray(found["infected"], float))
    start = np.exp(logs.mean(1))
    assert stats.kstest(start / 0.2, "uniform").pvalue > 1e-6
    noise = logs[:, :10] - logs.mean(1, keepdims=True)
    both = [np.corrcoef(stats.rankdata(start), column)[0, 1] for column in noise.T]
    assert np.abs(both).max() < 5.5 / np.sqrt(n)  # ten times 4e-8
    drawn = np.asarray(jax.vmap(lambda k: contact_of(k)[0])(keys(n)), float)
    # beta(0) is below the logistic of a quantile as often as f(0) is below the quantile
    assert stats.kstest(np.log(drawn / (1 - drawn)), stats.norm(scale=2.5).cdf).pvalue > 1e-6


# -------------------------------------------------------------------------------------------------- Hodgkin-Huxley

FIRING = {"c": 1.0, "g_na": 100.0, "g_k": 20.0, "g_l": 0.2, "e_na": 53.0, "e_k": -90.0, "e_l": -70.0}
QUIET = {"c": 1.7, "g_na": 92.0, "g_k": 28.0, "g_l": 0.43, "e_na": 40.0, "e_k": -66.0, "e_l": -89.0}


def hh_rates(v):
    """alpha and beta of m, h and n in the form in which the Simformer's task is written down."""
    w = v + 65.0

    def ef(x):
        return 1 - x / 2 if abs(x) < 1e-4 else x / (np.exp(x) - 1)

    m = 0.32 * ef(-0.25 * (w - 13)) / 0.25, 0.28 * ef(0.2 * (w - 40)) / 0.2
    h = 0.128 * np.exp(-(w - 17) / 18), 4 / (1 + np.exp(-(w - 40) / 5))
    n = 0.032 * ef(-0.2 * (w - 15)) / 0.2, 0.5 * np.exp(-(w - 10) / 40)
    return m, h, n


def currents(v, gates, p):
    """Sodium, then all that flows through the membrane."""
    m, h, n = gates
    sodium = p["g_na"] * m**3 * h * (v - p["e_na"])
    return sodium, sodium + p["g_k"] * n**4 * (v - p["e_k"]) + p["g_l"] * (v - p["e_l"])


def neuron(p, current, grid):
    """Voltage and sodium charge at the times of the grid, by an adaptive solver that stops where the current jumps."""

    def slope(t, y, applied):
        sodium, membrane = currents(y[0], y[1:4], p)
        relaxing = [a * (1 - g) - b * g for g, (a, b) in zip(y[1:4], hh_rates(y[0]), strict=True)]
        return [(applied - membrane) / p["c"], *relaxing, -sodium / 1000]

    pieces = [np.array([-65.0, *(a / (a + b) for a, b in hh_rates(-65.0)), 0.0])[:, None]]
    for low, high, applied in ((0.0, 50.0, 0.0), (50.0, 150.0, current), (150.0, 200.0, 0.0)):
        times = grid[(grid > low - 1e-9) & (grid < high + 1e-9)]
        options = {"args": (applied,), "method": "LSODA", "atol": 1e-9}
        pieces.append(solved(slope, pieces[-1][:, -1], times, **options)[:, 1:])
    both = np.concatenate(pieces, axis=1)
    return both[0], both[4]


hh_simulate = jax.jit(lambda key, p: hh.simulate(key, **p))  # compiled once for all tests
hh_dense = jax.jit(lambda key, p, current, noise: hh.dense(key, current=current, noise=noise, **p))


@pytest.fixture(scope="module")
def without_noise():
    """A function from parameters to the dense neuron without its noise."""
    return lambda p, current=4.0: {k: np.asarray(x, float) for k, x in hh_dense(SEVEN, single(p), current, 0.0).items()}


def spike_times(v, grid=hh.GRID):
    return grid[1:][(v[:-1] < -10) & (v[1:] >= -10)]


def test_rates_have_no_holes():
    v = np.concatenate(
        [np.linspace(-110, 75, 400), *(-65 + w + np.array([-0.1, -1e-3, 0.0, 1e-3, 0.1]) for w in (13, 15, 40))]
    )
    found = hh.rates(jnp.asarray(v, jnp.float32))
    truth = np.array([hh_rates(one) for one in np.asarray(v, np.float32).astype(float)])
    np.testing.assert_allclose(np.moveaxis(np.asarray(found), -1, 0), truth, rtol=2e-4)  # exp(x) - 1, in float32


def test_a_neuron_solves_its_equations(without_noise):
    found, (v, charge) = without_noise(QUIET), neuron(QUIET, 4.0, hh.GRID)
    np.testing.assert_allclose(found["voltage"], v, atol=2e-3)
    np.testing.assert_allclose(found["energy"], charge, rtol=0.02, atol=1e-7)
    found, (v, charge) = without_noise(FIRING), neuron(FIRING, 4.0, hh.GRID)
    np.testing.assert_allclose(found["voltage"][:1300], v[:1300], atol=0.02)  # the errors grow from spike to spike
    times, truth = spike_times(found["voltage"]), spike_times(v)
    assert len(times) == len(truth) == 11
    np.testing.assert_allclose(times, truth, atol=0.25)  # six steps; a spike lasts twenty and comes every 200
    np.testing.assert_allclose(found["energy"][-1], charge[-1], rtol=0.03)


def test_half_the_step_leaves_a_quarter_of_the_error(without_noise, monkeypatch, x64):
    def error(times):
        with monkeypatch.context() as patch:
            patch.setattr(hh, "DT", hh.DT / times)
            for name in ("BEFORE", "DURING", "AFTER"):
                patch.setattr(hh, name, times * getattr(hh, name))
            p = {name: jnp.float64(value) for name, value in FIRING.items()}
            found = jax.jit(lambda p: hh.dense(jax.random.key(0), noise=0.0, **p))(p)["voltage"]
        return np.abs(np.asarray(found)[::times] - truth)[:1400].max()  # until the first spike, and a little longer

    truth = neuron(FIRING, 4.0, hh.GRID)[0]
    assert np.abs(np.diff(truth[:1400])).max() > 1.0  # which is in there
    ratio = error(2) / error(4)
    assert 3.5 < ratio < 4.5


def test_a_neuron_without_a_current_rests(without_noise):
    def flow(v):
        return currents(v, [a / (a + b) for a, b in hh_rates(v)], FIRING)[1]

    v = without_noise(FIRING, 0.0)["voltage"]
    assert np.ptp(v[2500:]) < 0.01
    assert v[-1] == pytest.approx(brentq(flow, -90.0, -60.0), abs=0.01)


def test_a_neuron_fires_while_it_is_stimulated_and_pays_for_it(without_noise):
    found = without_noise(FIRING)
    times = spike_times(found["voltage"])
    assert len(times) > 5
    assert times.min() > 50.0
    assert times.max() <= 150.0
    spent = found["energy"]
    assert spent[0] == 0.0
    assert np.all(np.diff(spent) >= 0)  # sodium flows inwards, and the account is never credited
    before, during, after = np.diff(spent[[0, 1250, 3750, 5000]])
    assert during > 1000 * before
    assert during > 10 * after  # the last spike is not over when the stimulus is
    assert before + during + after == pytest.approx(spent[-1])
    # C times the height of a spike, about .1 uC/cm^2, is the least that one costs (Attwell & Laughlin 2001), and
    # sodium that flows in while potassium flows out makes it a few times as much
    assert 1 < during / len(times) / (1e-3 * np.ptp(found["voltage"]) * FIRING["c"]) < 8
    assert pytest.approx(50_000 / (3 * 6.02214076e23 * 1.602176634e-19)) == hh.PRICE  # kJ a mole, three ions an ATP


def test_noise_has_the_law_of_a_leaky_membrane():
    # with the leak alone, V - E_L is Ornstein and Uhlenbeck's process with the rate g_L / C
    n, rate = 4000, 0.3
    p = single({"c": 1.0, "g_na": 0.0, "g_k": 0.0, "g_l": rate, "e_na": 50.0, "e_k": -80.0, "e_l": hh.V_0})
    steps = 100

    def run(key):
        state = hh.at_rest()
        z = jax.random.normal(key, (steps,))
        return jax.lax.scan(lambda s, z: hh.step(s, z, 0.0, hh.NOISE, p), state, z)[1][0]

    v = np.asarray(jax.jit(jax.vmap(run))(keys(n)), float)[:, [0, 24, 99]] - hh.V_0
    t = np.array([1, 25, 100]) * hh.DT
    variance = hh.NOISE**2 * (1 - np.exp(-2 * rate * t)) / (2 * rate)
    # three variances and a correlation within 5.5 standard errors: false alarms below 1e-6; float32 at -65 rounds by
    # 4e-6 a step, 1 % of the first step's .01 at most a hundred times over, and independent of it
    assert np.abs(v.var(0) / variance - 1).max() < 5.5 * np.sqrt(2 / n) + 0.01
    kept = np.exp(-rate * (t[2] - t[1])) * np.sqrt(variance[1] / variance[2])
    assert abs(np.corrcoef(v[:, 1], v[:, 2])[0, 1] - kept) < 5.5 / np.sqrt(n)


def test_the_eight_numbers_are_those_of_the_trace():
    found = hh_simulate(SEVEN, single(FIRING))
    trace = {k: np.asarray(x, float) for k, x in hh_dense(SEVEN, single(FIRING), hh.CURRENT, hh.NOISE).items()}
    rest, stimulated = trace["voltage"][1:1251], trace["voltage"][1251:3751]
    truth = {
        "spikes": len(spike_times(trace["voltage"])),
        "rest_mean": rest.mean(),
        "rest_sd": rest.std(),
        "mean": stimulated.mean(),
        "variance": stimulated.var(),
        "skewness": stats.skew(stimulated),
        "kurtosis": stats.kurtosis(stimulated, fisher=False),
        "energy": trace["energy"][-1],
    }
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    # noise is there: another key, another trace
    other = hh_simulate(jax.random.key(4), single(FIRING))
    assert float(other["rest_sd"]) != float(found["rest_sd"])


def test_moments_of_a_nearly_constant_voltage_survive_single_precision():
    v = -70 + 0.05 * np.random.default_rng(0).gamma(2.0, size=2500).astype(np.float32)
    found = hh.merged(jax.vmap(hh.moments)(jnp.asarray(v.reshape(-1, hh.BLOCK))))
    exact = np.asarray(v, float)
    d = exact - exact.mean()
    np.testing.assert_allclose(found.squares, np.sum(d**2), rtol=1e-4)
    np.testing.assert_allclose(found.cubes, np.sum(d**3), rtol=1e-3)
    np.testing.assert_allclose(found.fourths, np.sum(d**4), rtol=1e-3)


def test_hodgkin_huxley_is_a_task():
    task = hh.task()
    assert (task.name, task.count, task.log_likelihood) == ("hodgkin_huxley", 10, None)
    assert [v.name for v in task.problem.prior.variables] == list(hh.PARAMETERS)
    for name, ends in zip(hh.PARAMETERS, hh.RANGES, strict=True):
        np.testing.assert_allclose(task.problem.layout[name].ends, ([ends[0]], [ends[1]]), rtol=1e-6)
        assert all(ends[0] < task.true_parameters(k)[name] < ends[1] for k in range(1, 11))
    assert all(np.isfinite(list(task.observation(k).values())).all() for k in range(1, 11))
    with pytest.raises(rd.DataError, match="integral over 5000 nuisances"):
        task.reference(1)


# -------------------------------------------------------------------------------------------------------- influenza

ILL = {"r0": 3.5, "period": 1.9, "initial": 0.6, "overdispersion": 0.1}
# posterior means and standard deviations by NUTS: `influenza.task().reference(1)`, 10,000 draws
POSTERIOR = {
    "r0": (3.535, 0.367),
    "period": (1.906, 0.146),
    "initial": (0.621, 0.298),
    "overdispersion": (0.114, 0.069),
}


def school(p, contact=None):
    """S, I and R at the points of the grid, by an adaptive solver."""
    beta = np.full(len(influenza.GRID), p["r0"] / p["period"]) if contact is None else contact

    def slope(t, w):
        infections, gone = np.interp(t, influenza.GRID, beta) * w[0] * w[1] / 763, w[1] / p["period"]
        return [-infections, infections - gone, gone]

    return solved(slope, [763 - p["initial"], p["initial"], 0.0], influenza.GRID, max_step=0.25)


@pytest.mark.parametrize("varies", [False, True])
def test_a_school_solves_its_equations_and_loses_no_boy(varies):
    p = single(ILL)
    r0, period = p["r0"], p["period"]
    draw = influenza.contact_law(r0, period).sample(jax.random.key(1))
    contact = draw if varies else influenza.constant_contact(r0, period)
    found = jax.jit(influenza.curves)(contact, period, p["initial"])
    for name, truth in zip(
        ("susceptible", "infected", "recovered"), school(ILL, np.asarray(contact, float)), strict=True
    ):
        np.testing.assert_allclose(found[name], truth, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(sum(found.values()), 763, rtol=1e-5)
    days = influenza.means(found["infected"])
    assert days.shape == (14,)
    np.testing.assert_allclose(days, np.interp(np.arange(1, 15), influenza.GRID, found["infected"]), rtol=1e-6)


def test_a_varying_contact_rate_has_its_law_and_its_waves():
    """The law against the covariance it is written with; what NUTS leaves of it is all but 1e-4 of the variance."""
    truth = kernel(influenza.GRID, amplitude=influenza.AMPLITUDE, length=influenza.LENGTH)
    law = influenza.contact_law(jnp.float32(3.0), jnp.float32(2.0))
    np.testing.assert_allclose(law.base_dist.covariance_matrix, truth + 1e-5 * np.eye(57), atol=1e-5)
    np.testing.assert_allclose(law.base_dist.loc, np.log(1.5), rtol=1e-6)
    waves = influenza._waves()
    assert len(waves) < 12
    np.testing.assert_allclose(waves.T @ waves, truth, atol=2e-3)
    assert np.trace(waves.T @ waves) == pytest.approx(np.trace(truth), rel=2e-4)
    assert influenza.varying().layout.names == [*influenza.PARAMETERS, "contact", "in_bed", "contact.at"]


def test_the_observation_is_what_history_made():
    seen = influenza.task().observation(1)["in_bed"]
    assert seen.tolist() == [3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4]
    assert seen.sum() == 1559  # boy-days; 512 boys fell ill, three days each
    with pytest.raises(rd.DataError, match="nobody knows the true parameters"):
        influenza.task().true_parameters(1)


count_runs = jax.jit(jax.vmap(lambda key, p: influenza.simulate(key, **p)["in_bed"]))  # compiled once for two tests


def test_counts_are_negative_binomial():
    n, a = 4000, ILL["overdispersion"]
    draws = np.asarray(count_runs(keys(n), {name: jnp.full(n, value, jnp.float32) for name, value in ILL.items()}))
    for day, mean in enumerate(school(ILL)[1][4::4]):
        law = stats.nbinom(1 / a, 1 / (1 + a * mean))
        edges = np.unique(law.ppf(np.linspace(0.05, 0.95, 15)))  # a count is in a cell's when it is at most its edge
        seen = np.bincount(np.searchsorted(edges, draws[:, day]), minlength=len(edges) + 1)
        expected = n * np.diff([0.0, *law.cdf(edges), 1.0])
        assert stats.chisquare(seen, expected).pvalue > 1e-6  # once in 70,000 for the 14 of them
    days = np.corrcoef(draws.T)[np.triu_indices(14, 1)]
    assert np.abs(days).max() < 6.5 / np.sqrt(n)  # 91 of them: 1e-8


def test_counts_are_counts():
    draws = np.asarray(count_runs(keys(4000, 1), {name: x[:4000] for name, x in prior_draws(influenza).items()}))
    assert draws.shape == (4000, 14)
    assert np.all((draws >= 0) & (draws == np.round(draws)))  # and finite
    assert np.mean(draws > influenza.BOYS) < 0.01
    assert influenza.problem().layout.names == [*influenza.PARAMETERS, "in_bed"]


def test_the_likelihood_is_that_of_a_negative_binomial_around_the_solution():
    seen = np.asarray(influenza.IN_BED, np.float32)
    hidden = np.where(np.isin(np.arange(14), (2, 9)), np.nan, seen)
    run = jax.jit(lambda x, p: influenza.log_likelihood(in_bed=x, **p))
    for changes in ({}, {"overdispersion": 0.01}, {"r0": 1.2, "period": 1.0}, {"initial": 5.0, "overdispersion": 1.0}):
        p = {**ILL, **changes}
        a, mean = p["overdispersion"], np.maximum(school(p)[1][4::4], 1e-6)
        terms = stats.nbinom(1 / a, 1 / (1 + a * mean)).logpmf(seen)
        found = run(jnp.asarray(seen), single(p)), run(jnp.asarray(hidden), single(p))
        np.testing.assert_allclose(found, (terms.sum(), np.delete(terms, (2, 9)).sum()), rtol=1e-4, atol=2e-2)


def test_the_posterior_is_that_of_importance_sampling():
    """The stored moments, which NUTS gave and the slow test makes again, against weights on a Student's t."""
    rng, n = np.random.default_rng(0), 20_000
    mean, sd = np.array([1.257, 0.643, -0.577, -2.334]), np.array([0.103, 0.077, 0.45, 0.584])
    both = np.eye(4)
    both[0, 1:], both[1, 2:] = (0.83, -0.66, -0.15), (-0.21, -0.11)
    both[2, 3] = 0.21
    shape = 1.3 * np.outer(sd, sd) * (both + both.T - np.eye(4))
    t = stats.multivariate_t(mean, shape, df=6, seed=rng)
    w = t.rvs(n)
    prior, given = Prior(influenza.prior()), jnp.asarray(influenza.IN_BED, float)

    def score(w):
        values = dict(zip(influenza.PARAMETERS, jnp.exp(w), strict=True))
        return influenza.log_likelihood(in_bed=given, **values) + prior.log_prob(values) + jnp.sum(w)

    log_weight = np.asarray(jax.jit(jax.vmap(score))(jnp.asarray(w, jnp.float32)), float) - t.logpdf(w)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    effective = 1 / np.sum(weight**2)
    assert effective > 0.3 * n
    for value, (center, spread) in zip(np.exp(w).T, POSTERIOR.values(), strict=True):
        # 5.5 standard errors of both, NUTS with 4,000 independent draws at least: 4e-8 for each of four
        assert abs(weight @ value - center) < 5.5 * spread * np.sqrt(1 / effective + 1 / 4000)
        assert np.sqrt(weight @ (value - center) ** 2) == pytest.approx(spread, rel=0.12)


@pytest.mark.slow
def test_the_reference_is_the_posterior():
    draws = influenza.task().reference(1)
    for name, (mean, sd) in POSTERIOR.items():
        assert draws[name].shape == (10_000,)
        assert abs(draws[name].mean() - mean) < 5.5 * sd * np.sqrt(2 / 4000)
        assert draws[name].std() == pytest.approx(sd, rel=0.12)


def test_a_wrong_question_is_answered_at_the_door():
    with pytest.raises(rd.DataError, match="one count for each of 14 days"):
        influenza.exact_posterior(influenza.IN_BED[:5], 0)
    with pytest.raises(rd.DataError, match="no counts"):
        influenza.exact_posterior([-1.0] * 14, 0)
    with pytest.raises(rd.DataError, match="must be positive, got 0"):
        influenza.exact_posterior(influenza.IN_BED, 0, draws=0)


# ------------------------------------------------------------------------------------------------------ all of them

MEANS = {
    lv: dict.fromkeys(lv.PARAMETERS, 2.0),
    sird: {"gamma": 0.25, "delta": 0.25},
    hh: {name: sum(ends) / 2 for name, ends in zip(hh.PARAMETERS, hh.RANGES, strict=True)},
    influenza: {
        "r0": 3 * np.exp(0.125),
        "period": 2 * np.exp(0.125),
        "initial": np.exp(0.5),
        "overdispersion": 0.2,
    },
}


@functools.cache
def prior_draws(module):
    prior = module.problem().prior if module is hh else Prior(module.prior())
    return jax.jit(jax.vmap(prior.draw))(keys(20_000, seed=1))


@pytest.mark.parametrize("module", MEANS)
def test_priors_have_their_means(module):
    draws = prior_draws(module)
    assert set(draws) == set(MEANS[module])
    for name, mean in MEANS[module].items():
        x = np.asarray(draws[name], float)
        assert abs(x.mean() - mean) < 5.5 * x.std() / np.sqrt(
            len(x)
        )  # 4e-8 each, a little more where the law is skewed
    if module is lv:
        assert all(np.min(x) >= 1 and np.max(x) <= 3 for x in draws.values())


def at_school(key, **p):
    """One draw of the problem with a contact rate that varies, counts and all."""
    key_contact, key_data = jax.random.split(key)
    contact = influenza.contact_law(p["r0"], p["period"]).sample(key_contact)
    infected = influenza.curves(contact, p["period"], p["initial"])["infected"]
    return {"contact": contact, "infected": infected, **influenza.simulate(key_data, **p, contact=contact)}


def test_a_school_is_finite_on_the_grid(monkeypatch):
    # counts are drawn in two tests of their own, and take three seconds to compile
    monkeypatch.setattr(influenza, "count", lambda key, mean, overdispersion: mean)
    values = {name: value[:200] for name, value in prior_draws(influenza).items()}
    found = jax.jit(jax.vmap(lambda k, p: at_school(k, **p)))(keys(200, seed=3), values)
    assert {name: x.shape[1:] for name, x in found.items()} == {"contact": (57,), "infected": (57,), "in_bed": (14,)}
    assert all(np.isfinite(x).all() for x in found.values())


@pytest.mark.parametrize(("module", "functions"), [(lv, {"prey", "predators"}), (sird, {"contact", *sird.OBSERVED})])
def test_a_task_of_functions_is_seen_at_times_of_its_own(module, functions):
    task = module.task()
    layout = task.problem.layout
    assert set(layout.functions) == functions
    sims = rd.simulate(task.problem, 100, key=0)
    assert sims.n_failed == 0
    for name in functions:
        times = sims[f"{name}.at"]
        assert times.shape == sims[name].shape == (100, 20)
        assert times.min() >= 0
        assert times.max() <= module.GRID[-1]
        assert len(np.unique(times)) > 1900  # nobody shares them
    seen = task.observation(2)
    assert set(seen) == set(layout.data) - set(layout.places)
    assert all(isinstance(found, rd.At) and found.values.shape == (20,) for found in seen.values())
    assert set(task.true_parameters(2)) == set(layout.parameters)


def test_the_likelihood_of_populations_is_normal_around_the_curves():
    task = lv.task()
    truth, seen = task.true_parameters(3), task.observation(3)
    found = float(lv.log_likelihood(**seen, **truth))
    curves = lv_curves(*(truth[name] for name in lv.PARAMETERS))
    terms = [
        stats.norm.logpdf(seen[k].values, np.interp(seen[k].points, lv.GRID, curves[k]), lv.NOISE)
        for k in ("prey", "predators")
    ]
    assert found == pytest.approx(np.sum(terms), rel=1e-4)
    fewer = {k: rd.At(at.points, np.where(np.arange(20) < 5, at.values, np.nan)) for k, at in seen.items()}
    assert float(lv.log_likelihood(**fewer, **truth)) == pytest.approx(np.sum([t[:5] for t in terms]), rel=1e-4)
    rates = {name: jnp.asarray(rate, float) for name, rate in truth.items()}
    slopes = jax.grad(lambda rates: lv.log_likelihood(**fewer, **rates))(rates)  # what was not seen has no slope
    assert all(np.isfinite(slope) and slope != 0 for slope in slopes.values())


def test_neurons_are_finite():
    sims = rd.simulate(hh.problem(), 200, key=0)
    assert (sims.kept, sims.n_failed) == (200, 0)
    assert np.all(sims["energy"] > 0)
    assert np.all(sims["kurtosis"] >= sims["skewness"] ** 2 + 0.99)  # Pearson's inequality
    assert 0.2 < np.mean(sims["spikes"] > 0) < 0.9
