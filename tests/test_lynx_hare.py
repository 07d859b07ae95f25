"""Hares and lynxes: solution, noise, likelihood and exact posterior, each against a truth of its own."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import retrodict as rd
from retrodict_bench.tasks import _nuts, lynx_hare


# The posterior means, standard deviations and standard errors of the means that the Stan case study prints (Carpenter
# 2018, four chains of 1000 draws of another program), in its order and ours.
STAN = {
    "alpha": (0.545, 0.064, 0.002),
    "beta": (0.028, 0.004, 0.0005),
    "gamma": (0.803, 0.092, 0.003),
    "delta": (0.024, 0.004, 0.0005),
    "hare_0": (33.956, 2.856, 0.057),
    "lynx_0": (5.933, 0.535, 0.012),
    "sigma_hare": (0.250, 0.045, 0.001),
    "sigma_lynx": (0.252, 0.044, 0.001),
}


def prior_draws(n, seed):
    return jax.jit(jax.vmap(lynx_hare.problem().prior.draw))(jax.random.split(jax.random.key(seed), n))


def typical():
    return {name: jnp.asarray(row["mean"]) for name, row in lynx_hare.exact()["full"]["parameters"].items()}


def slope(t, w, p):
    return p["alpha"] - p["beta"] * jnp.exp(w[1]), p["delta"] * jnp.exp(w[0]) - p["gamma"]


def solve(p):
    """log h and log l (21, 2), by Dormand and Prince's rule of order 8."""
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Dopri8(),
        t0=0.0,
        t1=20.0,
        dt0=1e-3,
        y0=(jnp.log(p["hare_0"]), jnp.log(p["lynx_0"])),
        args=p,
        saveat=diffrax.SaveAt(ts=jnp.arange(21.0)),
        stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-9),
    )
    return jnp.stack(found.ys, axis=-1)


solve_hundred = jax.jit(jax.vmap(solve))  # compiled once for all tests


def adaptive(parameters):
    """log h and log l (n, 21, 2) in float64, for n a multiple of 100."""
    wide = {name: np.asarray(value, np.float64).reshape(-1, 100) for name, value in parameters.items()}
    hundreds = [{name: value[i] for name, value in wide.items()} for i in range(len(wide["alpha"]))]
    return np.concatenate([np.asarray(solve_hundred(one)) for one in hundreds])


def fixed(parameters):
    return np.stack(jax.jit(jax.vmap(lynx_hare.log_populations))(parameters), axis=-1)


def test_observation():
    task = rd.tasks.get("lynx_hare")
    seen = task.observation(1)
    assert task.count == 1
    assert {name: value.shape for name, value in seen.items()} == {"hare": (21,), "lynx": (21,)}
    assert seen["hare"][3] == np.float32(77.4)  # 1903, the first peak of the hares
    assert np.argmax(seen["lynx"]) == 4  # and 1904, that of the lynxes
    assert (sum(lynx_hare.HARE), sum(lynx_hare.LYNX)) == (pytest.approx(715.7), pytest.approx(423.5))
    assert [lynx_hare.YEARS[i] for i in lynx_hare.MISSING] == [1903, 1907, 1910, 1913, 1916, 1919]
    with pytest.raises(rd.DataError, match="'lynx_hare' have the numbers k = 1, got 2"):
        task.observation(2)
    with pytest.raises(rd.DataError, match="exact_posterior"):
        task.reference(1)
    with pytest.raises(rd.DataError, match="nobody knows the true parameters"):
        task.true_parameters(1)


def test_layout():
    layout = rd.tasks.get("lynx_hare").problem.layout
    assert layout.names == [*lynx_hare.PARAMETERS, "hare", "lynx"]
    assert layout.size == 8 + 42
    assert np.all(layout.ends[0] == 0)
    assert np.all(np.isinf(layout.ends[1]))


def test_prior_is_that_of_the_case_study(x64):
    rate = stats.truncnorm(-2, np.inf, 1.0, 0.5)
    contact = stats.truncnorm(-1, np.inf, 0.05, 0.05)
    start, noise = stats.lognorm(1.0, scale=10.0), stats.lognorm(1.0, scale=np.exp(-1.0))
    laws = dict(zip(lynx_hare.PARAMETERS, (rate, contact, rate, contact, start, start, noise, noise), strict=True))
    draws = prior_draws(4000, 0)
    # Kolmogorov-Smirnov on eight samples, p > 1e-5 each: false alarms 8e-5
    assert all(stats.kstest(np.asarray(draws[name]), law.cdf).pvalue > 1e-5 for name, law in laws.items())
    value = {name: draws[name][0] for name in laws}
    truth = sum(law.logpdf(float(value[name])) for name, law in laws.items())
    assert float(lynx_hare.problem().prior.log_prob(value)) == pytest.approx(truth, abs=1e-5)


def test_solution_agrees_with_an_adaptive_one_where_the_posterior_is(x64):
    # a box of four sd around the mean of the widest of the three posteriors: far larger than any of them
    rows = lynx_hare.exact()["forecast"]["parameters"]
    offset = np.random.default_rng(0).uniform(-4, 4, (len(rows), 500))
    draws = {
        name: jnp.asarray(np.maximum(row["mean"] + row["sd"] * o, 0.1 * row["mean"]), jnp.float32)
        for (name, row), o in zip(rows.items(), offset, strict=True)
    }
    assert np.abs(fixed(draws) - adaptive(draws)).max() < 1e-4


def test_rows_are_solutions_or_failures_all_over_the_prior(x64):
    draws = {name: value.astype(jnp.float32) for name, value in prior_draws(1000, 1).items()}
    # and as stiff as no prior draw: a hundred to ten thousand times as many hares as lynxes can eat
    stiff = {name: jnp.full(200, value, jnp.float32) for name, value in typical().items()}
    stiff["hare_0"] = jnp.asarray(np.geomspace(100, 10_000, 200), jnp.float32)
    draws = {name: jnp.concatenate([draws[name], stiff[name]]) for name in draws}
    found, truth = fixed(draws), adaptive(draws)
    error = np.abs(found - truth).max((1, 2))
    kept = np.isfinite(error)
    assert kept[:1000].mean() > 0.99  # one prior row in 100,000 drifts; ten of a thousand are out of the question
    assert not kept[-50:].any()
    # the error was measured to be up to ten times the drift of V, which is at most 1e-3 in a kept row
    assert error[kept].max() < 0.02
    assert np.median(error[kept]) < 1e-5


def test_v_is_conserved():
    p = prior_draws(1000, 2)
    u, v = (w.astype(float) for w in np.moveaxis(fixed(p), -1, 0))
    p = {name: np.asarray(value, float)[:, None] for name, value in p.items()}
    conserved = p["delta"] * np.exp(u) - p["gamma"] * u + p["beta"] * np.exp(v) - p["alpha"] * v
    drift = np.abs(conserved - conserved[:, :1]).max(axis=1)
    # DRIFT bounds what float32 saw; seen in float64, the rounding of u and v adds 1e-4 at most
    assert np.nanmax(drift) < 1.2 * lynx_hare.DRIFT
    assert np.nanmedian(drift) < 1e-5


def test_counts_that_no_float_can_hold_are_failures():
    # many lynxes that hardly die eat the hares down to e^-100 and below, a positive number that float32 rounds to 0
    task = rd.tasks.get("lynx_hare")
    row = {**typical(), "beta": jnp.asarray(0.1), "gamma": jnp.asarray(0.01), "lynx_0": jnp.asarray(100.0)}
    u, _ = lynx_hare.log_populations(row)
    assert -500 < float(u.min()) < -100
    hare = task.problem.run(jax.random.key(0), row)["hare"]
    assert np.isnan(hare).any()
    assert np.all(np.isnan(hare) | (hare > 0))


def test_simulations_are_positive_and_seldom_fail():
    sims = rd.simulate(rd.tasks.get("lynx_hare").problem, 20_000, key=0)
    assert all(np.all((sims[name] > 0) & np.isfinite(sims[name])) for name in sims)
    # 109 of 100,000 failed: with a rate of .0011, 20,000 rows have 22 failures, and 5 to 50 but for 1e-5
    assert 5 <= sims.n_failed <= 50


def test_noise_is_log_normal_around_the_solution():
    p = {name: jnp.broadcast_to(value, (4000,)) for name, value in typical().items()}
    counts = lynx_hare.pelts(0, p)
    solution = fixed(p)
    z = {
        "hare": (np.log(counts["hare"]) - solution[..., 0]) / p["sigma_hare"][:, None],
        "lynx": (np.log(counts["lynx"]) - solution[..., 1]) / p["sigma_lynx"][:, None],
    }
    # 42 columns against N(0, 1), p > 1e-6 each; 861 correlations below 5.4 standard errors: false alarms 9.8e-5
    columns = np.concatenate([np.asarray(z["hare"], float), np.asarray(z["lynx"], float)], axis=1)
    assert all(stats.kstest(column, "norm").pvalue > 1e-6 for column in columns.T)
    correlation = np.corrcoef(columns.T)[np.triu_indices(42, 1)]
    assert np.abs(correlation).max() < 5.4 / np.sqrt(4000)


def test_log_likelihood_leaves_out_what_was_not_observed(x64):
    seen = {name: np.asarray(value, float) for name, value in rd.tasks.get("lynx_hare").observation(1).items()}
    seen["lynx"] = np.where(np.isin(np.arange(21), lynx_hare.MISSING), np.nan, seen["lynx"])
    draws = {name: value.astype(jnp.float32) for name, value in prior_draws(100, 3).items()}
    data = {name: jnp.asarray(value, jnp.float32) for name, value in seen.items()}
    found = jax.jit(jax.vmap(lambda p: lynx_hare.log_likelihood(**data, **p)))(draws)
    solution = np.exp(adaptive(draws))
    sigma = {name: np.asarray(draws[f"sigma_{name}"])[:, None] for name in seen}
    truth = np.nansum(stats.lognorm.logpdf(seen["hare"], sigma["hare"], scale=solution[..., 0]), axis=1)
    truth += np.nansum(stats.lognorm.logpdf(seen["lynx"], sigma["lynx"], scale=solution[..., 1]), axis=1)
    # float32: a sum of 36 terms, of which some are large where a prior draw fits badly
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-3)


def test_gradient_is_finite_where_counts_are_missing():
    nothing = {name: jnp.full(21, jnp.nan) for name in ("hare", "lynx")}
    p = typical()
    value, slope = jax.jvp(lambda p: lynx_hare.log_likelihood(**nothing, **p), (p,), (p,))
    assert float(value) == float(slope) == 0.0


def test_exact_posterior_is_that_of_the_case_study():
    for name, row in lynx_hare.exact()["full"]["parameters"].items():
        mean, sd, error = STAN[name]
        # six standard errors of their run, and the rounding of their print; ours adds a tenth of that
        assert abs(row["mean"] - mean) < 6 * error + 5e-4
        assert abs(row["sd"] - sd) < 0.1 * sd + 5e-4  # their sd has a standard error of 2 %, and three digits


def test_exact_answers_have_every_question():
    exact = lynx_hare.exact()
    assert list(exact) == ["full", "forecast", "missing"]
    figures = {"mean", "sd", "q05", "q50", "q95", "log_mean", "log_sd"}
    for question in exact.values():
        assert tuple(question["parameters"]) == lynx_hare.PARAMETERS
        assert all(figures | {"r_hat", "ess"} == set(row) for row in question["parameters"].values())
        assert all(row["r_hat"] < 1.01 and row["ess"] > 1000 for row in question["parameters"].values())
    assert set(exact["forecast"]) == {"parameters", "hare", "lynx"}
    assert exact["forecast"]["hare"]["index"] == list(range(11, 21))
    assert set(exact["missing"]) == {"parameters", "lynx"}
    assert tuple(exact["missing"]["lynx"]["index"]) == lynx_hare.MISSING
    assert {len(exact["missing"]["lynx"][name]) for name in figures} == {6}


@pytest.mark.parametrize(
    ("given", "draws", "message"),
    [
        ({"hares": lynx_hare.HARE}, 10, r"names 'hares'.*Did you mean 'hare'\?"),
        ({"hare": lynx_hare.HARE[:20]}, 10, "one count for each of 21 years"),
        ({"lynx": (0.0, *lynx_hare.LYNX[1:])}, 10, "write NaN for what was not observed"),
        ({"lynx": (np.inf, *lynx_hare.LYNX[1:])}, 10, "write NaN for what was not observed"),
        ({"hare": lynx_hare.HARE}, 0, "number of draws must be positive"),
    ],
)
def test_questions_that_make_no_sense(given, draws, message):
    with pytest.raises(rd.DataError, match=message):
        lynx_hare.exact_posterior(given, 0, draws=draws)


def test_data_that_nothing_explains_are_refused():
    with pytest.raises(rd.QueryError, match="no draw of the prior makes these data possible"):
        _nuts._next_step(np.full(9, -np.inf), 1.0)


def test_convergence_tells_chains_that_disagree():
    chains = np.random.default_rng(0).normal(size=(4, 1000))
    apart = chains + np.arange(4)[:, None]
    found = _nuts.convergence({"together": chains, "apart": apart})
    assert found["together"]["r_hat"] < 1.01  # 1 + O(1/4000) for independent draws
    assert 3000 < found["together"]["ess"] < 5000  # 4000 independent draws, and an estimate of that
    assert found["apart"]["r_hat"] > 1.3


@pytest.mark.slow
@pytest.mark.parametrize("question", ["full", "forecast", "missing"])
def test_exact_posterior_can_be_made_again(question):
    draws = lynx_hare.exact_posterior(lynx_hare.questions()[question], 7, draws=4000)
    assert {name: value.shape for name, value in draws.items()} == dict.fromkeys(lynx_hare.PARAMETERS, (4000,))
    for name, row in lynx_hare.exact()[question]["parameters"].items():
        # `exact_posterior` vouches for 1000 independent draws, the table has its ess: |z| < 5, false alarms 8 * 6e-7
        error = row["sd"] * np.sqrt(1 / 1000 + 1 / row["ess"])
        assert abs(draws[name].mean() - row["mean"]) < 5 * error
        assert abs(draws[name].std() / row["sd"] - 1) < 0.15  # an sd of 1000 draws with heavy tails is good to 3 %


@pytest.mark.slow
@pytest.mark.parametrize("question", ["full", "forecast", "missing"])
def test_another_sampler_finds_the_same_posterior_from_the_prior(monkeypatch, question):
    # particles tempered from the whole prior: a second mode that every chain of NUTS had missed would show
    monkeypatch.setattr(_nuts, "MOVES", 50)
    given = {name: jnp.asarray(value) for name, value in lynx_hare.questions()[question].items()}
    prior = lynx_hare.problem().prior
    w = _nuts.tempered(prior, lambda p: lynx_hare.log_likelihood(**given, **p), jax.random.key(5), particles=4000)
    particles = dict(zip(lynx_hare.PARAMETERS, np.exp(np.asarray(w, float)).T, strict=True))
    for name, row in lynx_hare.exact()[question]["parameters"].items():
        # half of 4000 are effective before the last moves, which make more of them, not fewer; as many cousins as that
        # leaves are counted as 1000 independent ones: |z| < 5 of a mean, and 5 times 1/sqrt(2000) of a log sd, doubled
        # for the tails
        assert abs(particles[name].mean() - row["mean"]) < 5 * row["sd"] / np.sqrt(1000)
        assert abs(np.log(particles[name].std() / row["sd"])) < 0.2
