"""Tasks with many data: their equations against closed forms, scipy's adaptive solvers and exact simulation.

Statistical tests have fixed seeds, so that a pass stays a pass; each states how often it would be a false alarm.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp

import retrodict as rd
from retrodict_bench.tasks import reaction_diffusion as rdiff
from retrodict_bench.tasks import vilar


TASKS = [(rdiff, "reaction_diffusion", "field", (200, 101)), (vilar, "vilar", "counts", (200, 3))]


@pytest.mark.parametrize(("module", "name", "data", "shape"), TASKS)
def test_contract(module, name, data, shape):
    task = module.task()
    assert task is rd.tasks.get(name)
    assert (task.name, task.count) == (name, 10)
    assert task.problem.layout.names == [*module.RANGES, data]
    assert task.problem.layout[data].shape == shape
    for parameter, (low, high) in module.RANGES.items():
        np.testing.assert_allclose(task.problem.layout[parameter].ends, ([low], [high]), rtol=1e-6)
        assert all(low < task.true_parameters(k)[parameter] < high for k in range(1, 11))
    seen = [task.observation(k)[data] for k in range(1, 11)]
    assert {(x.shape, x.dtype) for x in seen} == {(shape, np.dtype(np.float32))}
    assert np.isfinite(seen).all()
    assert len({x.tobytes() for x in seen}) == 10
    with pytest.raises(rd.DataError, match=f"'{name}' has no reference posterior"):
        task.reference(1)


@pytest.mark.parametrize(("module", "name", "data", "shape"), TASKS)
def test_all_of_the_prior_is_finite_and_a_key_is_a_row(module, name, data, shape):
    problem, keys = module.problem(), jax.random.split(jax.random.key(0), 64)
    rates = jax.vmap(problem.prior.draw)(keys)
    rates = {k: x.at[1:3].set(x[0]) for k, x in rates.items()}  # of which row 1 has the key, too
    found = np.asarray(jax.jit(jax.vmap(problem.run))(keys[jnp.array([0, 0, *range(2, 64)])], rates)[data])
    assert found.shape == (64, *shape)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0.1


# ------------------------------------------------------------------------------------------- reaction and diffusion

CORNERS = [(0.02, 2.0, 1.5, 0.1), (0.06, 2.0, 0.5, 1.0), (0.06, 0.5, 1.5, 1.0)]
curves = jax.jit(rdiff.curves, static_argnames=("finer", "steps"))


def test_without_growth_a_cosine_decays_as_it_should():
    # cos(k x) keeps its form between mirrors: a walk of s places shrinks it by 1 - s w^2 / 2 + ..., w = k dx
    places = np.arange(201)
    for s in (0.4, 0.8, 1.2):
        for mode in (1, 4, 16):
            w = np.pi * mode / 200
            u = jnp.asarray(np.cos(w * places), jnp.float32)
            found = np.asarray(rdiff.spread(u, jnp.float32(s)), float)
            np.testing.assert_allclose(found, np.exp(-s * w**2 / 2) * np.cos(w * places), atol=1e-6 + 0.1 * w**6)
            assert abs(0.1 * w**6) < 0.05 * (1 - np.exp(-s * w**2 / 2))  # which is little of what decays


def test_without_growth_a_bump_spreads_as_it_should():
    diffusion, dose = 0.05, 0.7
    found = np.asarray(curves(diffusion, 0.0, 1.0, dose), float)
    variance = rdiff.WIDTH**2 + 2 * diffusion * rdiff.T[:, None]
    truth = dose * rdiff.WIDTH / np.sqrt(variance) * np.exp(-(rdiff.X**2) / (2 * variance))
    assert variance.max() < 1.3  # the far wall is 8 sds away
    np.testing.assert_allclose(found, truth, atol=2e-5)


def test_without_growth_nobody_is_lost():
    u, s = jax.random.uniform(jax.random.key(0), (50, 201)), jnp.linspace(0.35, 1.3, 50)
    inside = np.r_[0.5, np.ones(199), 0.5]  # a mirror's place belongs half to the world behind it
    found = jax.vmap(rdiff.spread)(u, s)
    np.testing.assert_allclose(np.asarray(found, float) @ inside, np.asarray(u, float) @ inside, rtol=1e-6)
    assert float(found.min()) > 0
    assert np.all(np.asarray(found).var(1) < np.asarray(u).var(1))


def test_without_diffusion_growth_is_logistic():
    r, K, h, t = 1.3, 0.8, np.array([1e-30, 1e-3, 0.4, 0.8, 1.5]), 3.0
    truth = K * h * np.exp(r * t) / (K + h * (np.exp(r * t) - 1))
    u = jnp.asarray(h, jnp.float32)
    np.testing.assert_allclose(rdiff.grown(u, r, K, t), truth, rtol=2e-6)
    twice = rdiff.grown(rdiff.grown(u, r, K, t / 2), r, K, t / 2)
    np.testing.assert_allclose(twice, truth, rtol=2e-6)
    np.testing.assert_allclose(rdiff.grown(jnp.array([0.0, K]), r, K, t), [0.0, K], rtol=1e-6)


def test_a_full_line_stays_full(monkeypatch):
    monkeypatch.setattr(rdiff, "WIDTH", 1e9)
    found = jax.jit(lambda *p: rdiff.curves(*p))(0.04, 1.7, 0.9, 0.9)
    np.testing.assert_allclose(found, 0.9, rtol=1e-4)
    empty = jax.jit(lambda *p: rdiff.curves(*p))(0.04, 1.7, 0.9, 0.0)
    assert float(jnp.abs(empty).max()) == 0.0


@pytest.mark.parametrize("corner", CORNERS)
def test_the_grid_is_fine_enough(corner):
    finer = np.asarray(curves(*corner, finer=8, steps=32), float)
    error = np.abs(np.asarray(curves(*corner), float) - finer).max()
    assert error < 2e-4  # a thousandth of the noise; 20 draws of the prior were within 7e-5, and these are corners
    assert finer.max() > 0.4  # of a field that is there


def test_a_field_solves_its_equation():
    """The method of lines on four times as many places, by LSODA."""
    D, r, K, h = 0.03, 1.5, 1.2, 0.3
    n = 401
    dx = rdiff.LENGTH / (n - 1)
    x = np.linspace(0, rdiff.LENGTH, n)

    def slope(t, u):
        w = np.pad(u, 1, mode="reflect")
        return D * (w[:-2] - 2 * u + w[2:]) / dx**2 + r * u * (1 - u / K)

    times = rdiff.T[19::20]
    options = {"method": "LSODA", "lband": 1, "uband": 1, "rtol": 1e-7, "atol": 1e-10}
    truth = solve_ivp(slope, (0, 10), h * np.exp(-0.5 * (x / rdiff.WIDTH) ** 2), t_eval=times, **options).y.T[:, ::4]
    # three points a place err by D u'''' dx^2 / 12, and the front's place by their sum over time: 1e-3 of a front
    np.testing.assert_allclose(np.asarray(curves(D, r, K, h), float)[19::20], truth, atol=3e-3)


def test_a_front_runs_as_fast_as_fisher_says(monkeypatch):
    monkeypatch.setattr(rdiff, "WIDTH", 0.1)  # a wide dose has a tail that runs ahead for longer than we look
    D, r = 0.02, 2.0
    found = np.asarray(jax.jit(lambda *p: rdiff.curves(*p))(D, r, 1.0, 1.0), float)
    early, late = (np.interp(0.5, row[::-1], rdiff.X[::-1]) for row in (found[99], found[199]))
    # 2 sqrt(r D) is approached from below, by 3 / (4 r t) of it (Bramson 1983), 5 % here, and terms of higher order
    assert 0.92 < (late - early) / (5 * 2 * np.sqrt(r * D)) < 0.98


def test_noise_and_likelihood_agree():
    rates = {name: jnp.float32(np.mean(ends)) for name, ends in rdiff.RANGES.items()}
    clean = np.asarray(curves(**rates), float)
    field = np.asarray(jax.jit(rdiff.simulate)(jax.random.key(3), **rates)["field"], float)
    z = (field - clean) / rdiff.NOISE
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-6  # the false alarm's rate
    # neighbors in time and place: three correlations of 20,000 numbers within 5.5 standard errors, 4e-8 each
    for shifted in (z[1:] * z[:-1], z[:, 1:] * z[:, :-1]):
        assert abs(shifted.mean()) < 5.5 / np.sqrt(shifted.size)
    log_likelihood = jax.jit(lambda field: rdiff.log_likelihood(field=field, **rates))
    truth = stats.norm.logpdf(field, clean, rdiff.NOISE)
    assert float(log_likelihood(field)) == pytest.approx(truth.sum(), rel=1e-5)
    half = np.where(np.arange(101) % 2, field, np.nan)
    assert float(log_likelihood(half)) == pytest.approx(truth[:, 1::2].sum(), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ Vilar

# 16 reactions, written down once more: what each changes of a, r, m_a, m_r, A, R, C
CHANGES = np.array(
    [
        [1, 0, 0, 0, -1, 0, 0], [-1, 0, 0, 0, 1, 0, 0], [0, 1, 0, 0, -1, 0, 0], [0, -1, 0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0], [0, 0, -1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, -1, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, -1, 0, 0], [0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, -1, 0],
        [0, 0, 0, 0, -1, -1, 1], [0, 0, 0, 0, 0, 1, -1],
    ],
    float,
)  # fmt: skip


def rates_of(y, p):
    a, r, ma, mr, A, R, C = y
    return np.stack(
        [
            p["gamma_A"] * A * (1 - a), p["theta_A"] * a, p["gamma_R"] * A * (1 - r), p["theta_R"] * r,
            p["alpha_A"] * (1 - a), p["alpha_A_bound"] * a, p["delta_MA"] * ma,
            p["alpha_R"] * (1 - r), p["alpha_R_bound"] * r, p["delta_MR"] * mr,
            p["beta_A"] * ma, p["delta_A"] * A, p["beta_R"] * mr, p["delta_R"] * R,
            p["gamma_C"] * A * R, p["delta_A"] * C,
        ]
    )  # fmt: skip


def ode(p, times, start=(0,) * 7):
    """A, R and C by the rates alone."""
    options = {"t_eval": times, "method": "LSODA", "rtol": 1e-8, "atol": 1e-8}
    found = solve_ivp(lambda t, y: CHANGES.T @ rates_of(y, p), (0, times[-1]), start, **options)
    assert found.success
    return found.y


def exact(n, times, start, seed):
    """Cells (n, times, 7) by Gillespie's direct method, standard rates."""
    rng, p = np.random.default_rng(seed), vilar.STANDARD
    y, t, k = np.tile(np.asarray(start, float), (n, 1)), np.zeros(n), np.zeros(n, int)
    found, who, ends = np.zeros((n, len(times), 7)), np.arange(n), np.append(times, np.inf)
    while len(who):
        total = np.cumsum(rates_of(y.T, p), axis=0)
        then = t + rng.exponential(size=len(who)) / total[-1]
        while (passed := then > ends[k]).any():
            found[who[passed], k[passed]] = y[passed]
            k[passed] += 1
        y = y + CHANGES[np.sum(total < rng.random(len(who)) * total[-1], axis=0)]
        t, left = then, k < len(times)
        y, t, k, who = y[left], t[left], k[left], who[left]
    return found


standard = {name: jnp.float32(rate) for name, rate in vilar.STANDARD.items()}
by_rates = jax.jit(lambda p: jnp.stack(vilar.run(None, p)))
by_rates_finely = jax.jit(lambda p: jnp.stack(vilar.run(None, p, times=60, steps=200)))


def test_the_clock_runs_once_in_25_hours():
    R = np.asarray(by_rates(standard), float)[3]
    peaks = vilar.T[1:-1][(R[1:-1] > R[:-2]) & (R[1:-1] >= R[2:]) & (R[1:-1] > 1000)]
    assert len(peaks) == 4
    np.testing.assert_allclose(np.diff(peaks), 25, atol=1)


def test_many_cells_follow_the_rates():
    found, truth = np.asarray(by_rates(standard), float), ode(vilar.STANDARD, vilar.T)[2:]
    # of the height of a pulse, whose place in time is off by a hundredth of an hour after 100 hours
    heights = np.array([600, 60, 1700, 1900, 2100])
    assert (np.abs(found - truth).max(1) < 0.03 * heights).all()
    fine = np.asarray(by_rates_finely(standard), float)
    coarse, better = (np.abs(x - truth[:, :60]).max(1) / heights for x in (found[:, :60], fine))
    # a quarter of the step is a sixteenth of the error, but for rounding
    assert better.max() < 0.12 * coarse.max()


@pytest.mark.parametrize("seed", range(3))
def test_other_cells_do_too(seed):
    rng = np.random.default_rng(seed)
    p = {name: rng.uniform(0.75 * low + 0.25 * high, high) for name, (low, high) in vilar.RANGES.items()}
    found = np.asarray(by_rates({k: jnp.float32(x) for k, x in p.items()}), float)[2:]
    truth = ode(p, vilar.T)[4:]
    assert (np.abs(found - truth).mean(1) < 0.01 * truth.max(1)).all()


def many(n, times, start, key):
    """Cells (n, times, 5) of the task from a state at hand, half an hour apart."""
    a, r, *molecules = (jnp.full((), x, float) for x in start)
    begin = vilar.CellState(vilar.Cell(*molecules), a, r, molecules[2])
    found = jax.jit(jax.vmap(lambda k: vilar.run(k, standard, times=times, start=begin)))(jax.random.split(key, n))
    return np.stack(found, axis=-1)


def test_a_cell_is_as_noisy_as_its_exact_simulation():
    # the first pulse, from nothing: 400 exact cells beside 1,500, at 1, 2 and 3 hours
    found = many(1500, 6, (0,) * 7, jax.random.key(1))[:, 1::2]
    truth = exact(400, [1.0, 2.0, 3.0], (0,) * 7, seed=2)[..., 2:]
    error = truth.std(0) * np.sqrt(1 / 400 + 1 / 1500)
    # 15 means and as many sds, each within 5 standard errors (6e-7 for Gaussians, 2e-5 for all) and a bias of .1 sd:
    # numbers are near 1 in places, where Langevin's law is not that of molecules
    assert (np.abs(found.mean(0) - truth.mean(0)) < 5 * error + 0.1 * truth.std(0)).all()
    large = truth.mean(0) > 10
    ratio = (found.std(0) / truth.std(0))[large]
    assert large.sum() > 8
    # the sd of n draws errs by 1 / sqrt(2 n), and a half more where tails are heavier than a Gaussian's
    assert np.abs(np.log(ratio)).max() < 5 * 1.5 * np.sqrt(0.5 / 400 + 0.5 / 1500)


def test_a_cell_waits_as_long_for_its_next_pulse_as_its_exact_simulation():
    # from a trough, where single molecules of A decide; hours until R, which falls at first, has risen again
    start = (0, 0, 5, 0, 0, 150, 260)
    times = np.arange(0.5, 14.1, 0.5)
    found, truth = many(500, len(times), start, jax.random.key(3))[..., 3], exact(120, times, start, seed=4)[..., 5]
    waits = [np.where((R > 400).any(1), times[np.argmax(R > 400, axis=1)], 99.0) for R in (found, truth)]
    assert stats.ks_2samp(*waits).pvalue > 1e-5  # the false alarm's rate
    assert 3 < np.median(waits[0]) < 14
    assert np.std(waits[1][waits[1] < 99]) > 1  # it is chance that decides


def test_a_gene_has_the_law_of_two_states():
    # from free and from bound, by dt: share + (start - share) exp(-rate dt)
    u = jax.random.uniform(jax.random.key(0), (20_000,))
    for bound in (0.0, 1.0):
        found = float(jnp.mean(vilar.gene(jnp.float32(bound), jnp.float32(30.0), 1.0, 50.0, 0.01, u)))
        truth = 30 / 80 + (bound - 30 / 80) * np.exp(-0.8)
        assert abs(found - truth) < 5.5 * np.sqrt(truth * (1 - truth) / 20_000)  # twice 4e-8


def test_what_is_seen_is_a_cell_of_its_own():
    run = jax.jit(vilar.simulate)
    one, two = (np.asarray(run(jax.random.key(k), **standard)["counts"], float) for k in (0, 1))
    assert one.min() == 0.0
    assert (np.abs(one - two).max(0) > 100).all()  # clocks of two cells part
    assert (one.max(0) > 1000).all()
