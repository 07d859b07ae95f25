"""Mixture densities: what they say is a density, what they draw follows it, and what they learn is the truth."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from retrodict.models import ConditionalRows, MixtureDensity, Sizes
from retrodict.models._mixture_density import GaussianMixture
from retrodict.training import TrainingBudget, fit_mixture
from retrodict.transforms.scaling import Scaling, network_input_layout
from retrodict.variables import Layout, Variable


LAW = GaussianMixture(jnp.log(jnp.array([0.2, 0.8])), jnp.array([-1.0, 3.0]), jnp.log(jnp.array([0.5, 2.0])))
EXACT = [(0.2, stats.norm(-1.0, 0.5)), (0.8, stats.norm(3.0, 2.0))]


@pytest.mark.parametrize("y", [-40.0, -1.3, 0.0, 2.5, 25.0])
def test_a_law_is_the_sum_of_its_parts(y):
    exact = np.logaddexp.reduce([np.log(share) + part.logpdf(y) for share, part in EXACT])
    assert float(LAW.log_prob(y)) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    "ends", [(-np.inf, -1.5), (-1.5, -0.5), (4.5, 5.5), (5.5, np.inf), (-np.inf, np.inf), (14, 15)]
)
def test_the_probability_of_an_interval_and_its_slope(ends):
    """Far out, too, where a difference of two probabilities near 1 would be nothing."""
    low, high = (np.float32(end) for end in ends)
    exact = np.log(
        sum(share * max(part.cdf(high) - part.cdf(low), part.sf(low) - part.sf(high)) for share, part in EXACT)
    )
    assert float(LAW.log_mass(low, high)) == pytest.approx(exact, rel=2e-4, abs=1e-5)

    def of(law):
        return law.log_mass(low, high)

    assert all(np.isfinite(part).all() for part in jax.grad(of)(LAW))


@pytest.mark.parametrize("middle", [-30.0, -1.3, 0.5, 12.0])
@pytest.mark.parametrize("width", [1e-4, 1e-2, 0.03])
def test_a_narrow_cell_has_its_width_times_the_density(middle, width):
    """A count of a million has a cell far narrower than its spread."""
    low, high = np.float32(middle - width / 2), np.float32(middle + width / 2)
    at = (np.float64(low) + np.float64(high)) / 2
    density = np.logaddexp.reduce([np.log(share) + part.logpdf(at) for share, part in EXACT])
    exact = density + np.log(np.float64(high) - np.float64(low))
    assert float(LAW.log_mass(low, high)) == pytest.approx(exact, abs=0.01)


def rows(known, kind, y, half=0.0):
    known, y = jnp.asarray(known, jnp.float32), jnp.asarray(y, jnp.float32)
    return ConditionalRows(known, jnp.asarray(kind, jnp.int32), y, y - half, y + half)


def untrained(n=4000, key=0):
    """Two kinds of pairs of numbers, and a network that says something."""
    keys = jr.split(jr.key(key), 4)
    known, kind = jr.normal(keys[0], (n, 2)), jr.bernoulli(keys[1], 0.5, (n,))
    y = 3.0 + 0.1 * known + jr.normal(keys[2], (n, 2)) * jnp.where(kind, 5.0, 1.0)[:, None]
    data = rows(known, kind, y)
    mixture = MixtureDensity.blank(Sizes(2, 2, 2, components=3, width=16, depth=2), key=keys[3]).with_baseline(data)
    loud = jax.tree.map(lambda part: part + 0.5 * jr.normal(keys[3], part.shape), mixture.net.layers[-1].weight)
    return eqx.tree_at(lambda m: m.net.layers[-1].weight, mixture, loud), data


@pytest.mark.parametrize("kind", [0, 1])
def test_a_density_of_two_numbers_integrates_to_one(kind):
    mixture, _ = untrained()
    center, width = np.asarray(mixture.baseline.center[kind]), np.asarray(mixture.baseline.width[kind])
    steps = np.linspace(-14.0, 14.0, 701)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    some = rows(np.full((len(grid), 2), 0.3), np.full(len(grid), kind), center + width * grid)
    density = np.exp(np.asarray(jax.jit(jax.vmap(mixture.log_prob))(some), float))
    assert density.sum() * np.prod(width) * (steps[1] - steps[0]) ** 2 == pytest.approx(1.0, abs=2e-3)


def test_draws_follow_the_density():
    """Their mean log density and their covariance are those of a grid; 5 standard errors of 20,000 draws."""
    mixture, _ = untrained()
    n, known, steps = 20_000, np.array([0.3, -1.0], np.float32), np.linspace(-14.0, 14.0, 701)

    def log_prob(y):
        some = rows(np.tile(known, (len(y), 1)), np.ones(len(y)), y)
        return np.asarray(jax.vmap(mixture.log_prob)(some), float)

    y = mixture.sample(np.tile(known, (n, 1)), np.ones(n, np.int32), jr.key(0))
    plain = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    grid = np.asarray(mixture.baseline.center[1]) + np.asarray(mixture.baseline.width[1]) * plain
    drawn, share = log_prob(y), np.exp(log_prob(grid))
    share /= share.sum()
    assert drawn.mean() == pytest.approx(share @ log_prob(grid), abs=5.0 * float(drawn.std()) / n**0.5 + 2e-3)
    mean = share @ grid
    left, off = grid - mean, np.asarray(y, float) - mean
    np.testing.assert_allclose(off.mean(axis=0), 0.0, atol=5.0 * np.sqrt(share @ left**2).max() / n**0.5)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        product = left[:, i] * left[:, j]
        exact = share @ product
        sd = np.sqrt(share @ (product - exact) ** 2)
        assert (off[:, i] * off[:, j]).mean() == pytest.approx(exact, abs=5.0 * sd / n**0.5)


def test_whole_numbers_have_probabilities_that_add_up():
    """Of a law so narrow that densities at whole numbers add up to anything but 1."""
    _, data = untrained()
    first = data._replace(y=data.y[:, :1], low=data.low[:, :1], high=data.high[:, :1])
    sizes = Sizes(2, 2, 1, whole=True, components=3, width=8, depth=1)
    one = MixtureDensity.blank(sizes, key=jr.key(1)).with_baseline(first)
    loud = 0.5 * jr.normal(jr.key(2), one.net.layers[-1].weight.shape)
    one = eqx.tree_at(lambda m: m.net.layers[-1].weight, one, loud)
    one = dataclasses.replace(
        one, baseline=one.baseline._replace(center=one.baseline.center + 0.3, width=0.05 * one.baseline.width)
    )
    values = np.arange(-100, 100)[:, None]
    log_p = jax.vmap(one.log_prob)(rows(np.zeros((200, 2)), np.ones(200), values, half=0.5))
    assert np.exp(np.asarray(log_p)).sum() == pytest.approx(1.0, abs=1e-3)


def test_free_numbers_are_independent():
    """Their density integrates to one, and 20,000 draws have no correlation beyond 5 / sqrt(20,000)."""
    _, data = untrained()
    one = data._replace(kind=jnp.zeros_like(data.kind))
    mixture = MixtureDensity.blank(
        Sizes(1, 2, 2, free=True, components=3, width=16, depth=2), key=jr.key(0)
    ).with_baseline(one)
    loud = 0.5 * jr.normal(jr.key(1), mixture.net.layers[-1].weight.shape)
    mixture = eqx.tree_at(lambda m: m.net.layers[-1].weight, mixture, loud)
    steps = np.linspace(-14.0, 14.0, 701)
    center, width = np.asarray(mixture.baseline.center[0]), np.asarray(mixture.baseline.width[0])
    grid = center + width * np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    some = rows(np.full((len(grid), 2), 0.3), np.zeros(len(grid)), grid)
    density = np.exp(np.asarray(jax.vmap(mixture.log_prob)(some), float))
    assert density.sum() * np.prod(width) * (steps[1] - steps[0]) ** 2 == pytest.approx(1.0, abs=2e-3)
    y = mixture.sample(np.full((20_000, 2), 0.3, np.float32), np.zeros(20_000, np.int32), jr.key(2))
    assert abs(np.corrcoef(y.T)[0, 1]) < 5.0 / 20_000**0.5
    exact = density @ grid / density.sum()
    np.testing.assert_allclose(y.mean(axis=0), exact, atol=0.05 * width.max())


@pytest.mark.slow
def test_it_learns_a_correlation_that_turns_with_what_is_known():
    """y ~ N(0, [[1, r], [r, 1]]), r = tanh x: the log density of held-out rows within .01 a number of the true one."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3.0, 3.0, 12_000)
    r, e = np.tanh(x), rng.normal(size=(12_000, 2))
    y = np.stack([e[:, 0], r * e[:, 0] + np.sqrt(1.0 - r**2) * e[:, 1]], axis=1)
    train, judge = (rows(x[part, None], np.zeros(len(x[part])), y[part]) for part in (slice(2000, None), slice(2000)))
    start = MixtureDensity.blank(Sizes(1, 1, 2, components=2, width=32, depth=2), key=jr.key(0)).with_baseline(train)
    found, history = fit_mixture(start, train, judge, TrainingBudget(1500), key=1, progress=False)
    exact = np.mean([stats.norm.logpdf(e[:2000]).sum(axis=1) - 0.5 * np.log(1.0 - r[:2000] ** 2)])
    learned = np.asarray(jax.vmap(found.log_prob)(judge)).mean()
    assert found.sizes == start.sizes, "neither the frame alone nor additive noise"
    assert history.best == pytest.approx(-learned / 2, abs=1e-3)
    assert -0.001 < (exact - learned) / 2 < 0.01


def test_it_learns_a_count():
    """Poisson(3 + 2 x): the probability of held-out rows within .01 of the true one, which no density says."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, 8000)
    y = rng.poisson(3.0 + 2.0 * x)
    root = np.sqrt(y + 0.375)
    low, high = np.where(y == 0, -np.inf, np.sqrt(np.maximum(y - 0.125, 0.0))), np.sqrt(y + 0.875)
    columns = (jnp.asarray(part[:, None], jnp.float32) for part in (root, low, high))
    every = ConditionalRows(jnp.asarray(x[:, None]), jnp.zeros(8000, jnp.int32), *columns)
    train, judge = (ConditionalRows(*(part[some] for part in every)) for some in (slice(2000, None), slice(2000)))
    sizes = Sizes(1, 1, 1, whole=True, components=2, width=32, depth=2)
    start = MixtureDensity.blank(sizes, key=jr.key(0)).with_baseline(train)
    found, _ = fit_mixture(start, train, judge, TrainingBudget(1000), key=1, progress=False)
    exact = stats.poisson.logpmf(y[:2000], 3.0 + 2.0 * x[:2000]).mean()
    learned = float(jax.vmap(found.log_prob)(judge).mean())
    assert abs(exact - learned) < 0.01


def test_additive_noise_is_learned_where_it_is_the_same_everywhere():
    """One coin for two numbers about a line, sds 1 or .1: held-out rows within .005 a number of the truth."""
    rng, n = np.random.default_rng(0), 8000
    x, coin = rng.normal(size=(n, 2)), rng.random(n) < 0.5
    e = np.where(coin, 1.0, 0.1)[:, None] * rng.normal(size=(n, 2))
    train, judge = (
        rows(x[part], np.zeros(len(x[part])), 3.0 * x[part] + e[part]) for part in (slice(-2000), slice(-2000, None))
    )
    start = MixtureDensity.blank(Sizes(1, 2, 2, components=2, width=16, depth=1), key=jr.key(0)).with_baseline(train)
    found, _ = fit_mixture(start, train, judge, TrainingBudget(1200, 128), key=1, progress=False)
    square = (e[-2000:] ** 2).sum(axis=1)
    parts = [np.log(0.5) - 0.5 * square / s**2 - np.log(2 * np.pi * s**2) for s in (1.0, 0.1)]
    gap = (np.logaddexp(*parts) - np.asarray(jax.vmap(found.log_prob)(judge))) / 2
    assert found.sizes.additive
    assert abs(gap.mean()) < 0.005  # .007 by the line of least squares


def test_additive_noise_about_a_curve_is_learned():
    """|x| and noise of two widths: held-out rows within .02 a number of the truth; .3 by what is about a line."""
    rng, n = np.random.default_rng(0), 4000
    x, coin = rng.normal(size=(n, 1)), rng.random(n) < 0.5
    e = np.where(coin, 0.3, 0.05)[:, None] * rng.normal(size=(n, 2))
    y = np.concatenate([np.abs(x), x], axis=1) + e
    train, judge = (rows(x[part], np.zeros(len(x[part])), y[part]) for part in (slice(-1000), slice(-1000, None)))
    start = MixtureDensity.blank(Sizes(1, 1, 2, components=2, width=32, depth=2), key=jr.key(0)).with_baseline(train)
    found, _ = fit_mixture(
        start, train, judge, TrainingBudget(1500, 128), key=1, noise=["line", "curve"], progress=False
    )
    square = (e[-1000:] ** 2).sum(axis=1)
    parts = [np.log(0.5) - 0.5 * square / s**2 - np.log(2 * np.pi * s**2) for s in (0.3, 0.05)]
    gap = (np.logaddexp(*parts) - np.asarray(jax.vmap(found.log_prob)(judge))) / 2
    assert found.sizes.additive
    assert found.sizes.curve == 32
    assert abs(gap.mean()) < 0.02
    drawn = found.sample(np.full((4000, 1), -1.5, np.float32), np.zeros(4000, np.int32), jr.key(2))
    sd = np.sqrt(0.5 * 0.3**2 + 0.5 * 0.05**2)  # 5 standard errors are .017, and the curve errs by as much
    np.testing.assert_allclose(drawn.mean(axis=0), [1.5, -1.5], atol=0.05)
    np.testing.assert_allclose(drawn.std(axis=0), sd, rtol=0.15)


@pytest.mark.parametrize("kind", ["with_additive_noise", "with_curve"])
def test_additive_noise_has_one_law_everywhere(kind):
    """Whatever a network says: the density of what the line leaves is that of another place."""
    mixture, data = untrained()
    loud = getattr(mixture, kind)(key=jr.key(1))
    nets = [loud.net] if loud.curve is None else [loud.net, loud.curve]
    wild = [jr.normal(jr.key(i), net.layers[-1].weight.shape) for i, net in enumerate(nets)]
    loud = eqx.tree_at(lambda m: [n.layers[-1].weight for n in (m.net, m.curve) if n is not None], loud, wild)
    here, there = (ConditionalRows(*(part[some] for part in data)) for some in (slice(50), slice(50, 100)))
    here, there = (part._replace(kind=jnp.zeros_like(part.kind)) for part in (here, there))
    frame = loud.baseline

    def line(known):
        straight = jnp.insert(known, 0, 1.0, axis=1) @ frame.trend[0]
        bend = 0.0 if loud.curve is None else jax.vmap(loud.curve)(known)[:, : straight.shape[1]]  # of the first kind
        return frame.center[0] + frame.width[0] * (straight + bend)

    moved = rows(there.inputs, there.kind, line(there.inputs) + here.y - line(here.inputs))
    density = [np.asarray(jax.vmap(loud.log_prob)(part)) for part in (here, moved)]
    np.testing.assert_allclose(*density, atol=1e-3)


def test_parameters_in_an_interval_are_told_as_they_are():
    """And positive ones by their logarithm."""
    layout = Layout((Variable("a", (2,), (-1.0, 0.0), (1.0, np.inf)), Variable("x", kind="data")))
    seen = network_input_layout(layout)
    assert seen.names == ["a"]
    u = Scaling.identity(seen).of_rows(np.array([[0.9999, 2.0]], np.float32))
    np.testing.assert_allclose(u, [[0.9999, np.log(2.0)]], rtol=1e-5)


def test_the_frame_is_the_gaussian_that_is_exact_where_all_is_linear():
    """50,000 rows y = A x + L noise: the log density of a row is the exact one within .1, and no network is better."""
    rng, n = np.random.default_rng(0), 50_000
    a, noise = (
        np.array([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]]),
        np.array([[1.0, 0, 0], [2.0, 0.5, 0], [-1.0, 0.3, 0.01]]),
    )
    x = rng.normal(size=(n, 2))
    y = 7.0 + x @ a.T + rng.normal(size=(n, 3)) @ noise.T
    data = rows(x, np.zeros(n), y)
    start = MixtureDensity.blank(Sizes(1, 2, 3, width=16, depth=2), key=jr.key(0)).with_baseline(data)
    few = ConditionalRows(*(part[:1000] for part in data))
    exact = stats.multivariate_normal(np.zeros(3), noise @ noise.T).logpdf(y[:1000] - 7.0 - x[:1000] @ a.T)
    np.testing.assert_allclose(jax.vmap(start.baseline_only().log_prob)(few), exact, atol=0.1)
    found, _ = fit_mixture(start, few, few, TrainingBudget(50), key=1, progress=False)
    assert found.is_baseline_only
