"""The exact conditionals of the tasks: every question, held against another way to answer it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import retrodict as rd
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict_bench.tasks._gaussian_tree import GaussianTree, Reading
from test_tasks import LIMIT, MOONS, metropolis, slcp_covariance, two_moons_noise, white, z_of_change


# P(sup of the Brownian bridge > 2.8) is 3.1e-7: some 270 comparisons by Kolmogorov-Smirnov give a false alarm of 8e-5.
# The seeds are fixed, so that a pass stays a pass.
BRIDGE = 2.8
TASKS = {"hmm": 20, "slcp": 13, "tree": 7, "two_moons": 4}


def bridge(draws, truth, effective=None):
    """The Kolmogorov-Smirnov distance of two samples in units of its standard scale."""
    n, m = len(draws), effective or len(truth)
    return stats.ks_2samp(draws, truth).statistic * np.sqrt(n * m / (n + m))


def roles_of(d, given, absent=()):
    roles = np.full(d, LATENT)
    roles[list(given)], roles[list(absent)] = GIVEN, ABSENT
    return roles


def posterior_roles(task):
    theta = task.problem.layout["theta"].shape[0]
    return roles_of(TASKS[task.name], range(theta, TASKS[task.name]))


def linear_chain():
    """A tree of six nodes with straight readings, so that all is Gaussian."""
    readings = tuple(
        Reading(node, lambda t: 0.7 * t, scale) for node, scale in ((0, 0.5), (2, 0.2), (4, 0.3), (4, 1.0))
    )
    return GaussianTree((-1, 0, 0, 1, 2, 2), (1.0, 0.5, 0.8, 0.3, 1.2, 0.4), readings)


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        ((), ()),
        ((6, 7, 8, 9), ()),
        ((2, 6, 9), (1, 7)),
        ((0, 8), (2,)),
        ((4, 5, 6), (0, 3)),
        ((0, 1, 2, 3, 4, 5), (8,)),
    ],
)
def test_a_linear_tree_has_the_closed_form_of_gaussians(given, absent):
    tree, n = linear_chain(), 20_000
    node, scale = np.array([r.node for r in tree.readings]), np.array([r.scale for r in tree.readings])
    factor = np.concatenate([tree.factor, 0.7 * tree.factor[node]])
    cov = factor @ factor.T + np.diag(np.concatenate([np.zeros(6), scale**2]))
    values = np.random.default_rng(1).multivariate_normal(np.zeros(10), cov)
    draws = tree.conditional(roles_of(10, given, absent), values, n, 3).astype(float)
    latent = [i for i in range(10) if i not in given and i not in absent]
    assert np.isnan(draws[:, list(absent)]).all()
    np.testing.assert_array_equal(draws[:, list(given)], np.tile(values[list(given)].astype(np.float32), (n, 1)))
    known, cross = list(given), cov[np.ix_(given, latent)]
    gain = np.linalg.solve(cov[np.ix_(known, known)], cross).T
    mean, left = gain @ values[known], cov[np.ix_(latent, latent)] - gain @ cross
    # whitened, all means are 0 and all products 0 or 1: at most 10 + 55 figures in six cases below 5.5 standard errors
    z = np.linalg.solve(np.linalg.cholesky(left), (draws[:, latent] - mean).T).T
    assert np.abs(z.mean(0)).max() < 5.5 / np.sqrt(n)
    assert np.abs(z.T @ z / n - np.eye(len(latent))).max() < 5.5 * np.sqrt(2 / n)
    assert max(stats.kstest(column, "norm").statistic for column in z.T) < BRIDGE / np.sqrt(n)


@pytest.mark.parametrize("name", ["tree", "hmm"])
def test_metropolis_leaves_the_posteriors_of_trees_alone(name):
    task = rd.tasks.get(name)
    x, prior = jnp.asarray(task.observation(3)["x"]), task.problem.prior
    roles = posterior_roles(task)
    draws = task.conditional(roles, np.append(np.zeros(len(roles) - len(x)), x), 4000, 5)
    theta = jnp.asarray(draws[:, : len(roles) - len(x)])

    def log_posterior(theta):
        return task.log_likelihood(theta, x) + prior.log_prob({"theta": theta})

    begin, end = metropolis(log_posterior, theta, key=jax.random.key(1))
    assert np.mean(np.any(begin[0] != end[0], axis=1)) > 0.9
    assert np.abs(z_of_change(begin, end)).max() < LIMIT


# given, then latent tokens that are compared with the prior's draws, weighted by the density of what is given
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("tree", (3, 4, 5, 6)),
        ("tree", (3, 6)),
        ("tree", (1, 5)),
        ("tree", (0, 4)),
        ("hmm", (3, 15, 19)),
        ("hmm", (10, 11, 12)),
        ("hmm", (0, 9, 14)),
    ],
)
def test_trees_agree_with_weighted_draws_of_the_prior(name, given):
    task, rng = rd.tasks.get(name), np.random.default_rng(4)
    d = TASKS[name]
    split = 3 if name == "tree" else 10
    parents = (-1, 0, 0) if name == "tree" else tuple(range(-1, 9))
    step = 1.0 if name == "tree" else 0.5
    truth = np.concatenate([task.true_parameters(1)["theta"], task.observation(1)["x"]]).astype(float)
    n = 200_000
    tokens, log_weight = np.zeros((n, d)), np.zeros(n)
    for i in range(d):
        if i < split:
            mean = tokens[:, parents[i]] if parents[i] >= 0 else np.zeros(n)
            sd = step
        elif name == "hmm":
            mean, sd = tokens[:, i - 10] ** 2, 0.5
        else:
            two, three = tokens[:, 1], tokens[:, 2]
            mean = (np.sin(two) ** 2, 0.1 * two**2, 0.1 * three**2, np.cos(three) ** 2)[i - 3]
            sd = (0.2, 0.2, 0.6, 0.1)[i - 3]
        if i in given:
            tokens[:, i] = truth[i]
            log_weight -= 0.5 * ((truth[i] - mean) / sd) ** 2
        else:
            tokens[:, i] = mean + sd * rng.standard_normal(n)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    effective = 1 / (weight**2).sum()
    assert effective > 2000
    picked = tokens[rng.choice(n, 50_000, p=weight)]
    draws = task.conditional(roles_of(d, given), truth, 10_000, 6)
    for i in set(range(d)) - set(given):
        # picked anew, the weighted draws err by their weights and by the picking
        assert bridge(draws[:, i], picked[:, i], 1 / (1 / effective + 1 / 50_000)) < BRIDGE, i


@pytest.mark.parametrize(("name", "k"), [("two_moons", 2), ("two_moons", 5), ("slcp", 1), ("slcp", 3)])
def test_whole_data_give_the_reference_posterior(name, k):
    task = rd.tasks.get(name)
    x, reference = task.observation(k)["x"], task.reference(k)["theta"]
    d = reference.shape[1]
    draws = task.conditional(posterior_roles(task), np.append(np.zeros(d), x), 10_000, k)[:, :d]
    # sums and differences see how the elements belong together
    for a, b in ((draws, reference), (np.diff(draws), np.diff(reference)), (np.abs(draws), np.abs(reference))):
        assert max(bridge(a[:, i], b[:, i]) for i in range(a.shape[1])) < BRIDGE


PATTERNS = [[i for i in range(4) if code >> i & 1] for code in range(15)]


@pytest.fixture(scope="module")
def moons():
    sims = rd.simulate(rd.tasks.get("two_moons").problem, 100, key=9)
    return np.concatenate([sims["theta"], sims["x"]], axis=1)


@pytest.mark.parametrize("given", PATTERNS)
def test_every_conditional_of_two_moons_leaves_the_joint_alone(moons, given):
    # (given, latent drawn anew) has the law of (given, latent): the noise and theta have theirs, in 15 questions
    task, n, rows, roles = rd.tasks.get("two_moons"), len(moons), moons, roles_of(4, given)
    new = np.concatenate([task.conditional(roles, row, 1, k) for k, row in enumerate(rows)]).astype(float)
    assert np.all((new == rows)[:, given])
    assert not np.any((new == rows)[:, [i for i in range(4) if i not in given]])
    for column, law in zip(two_moons_noise(new[:, :2], new[:, 2:]), MOONS, strict=True):
        assert stats.kstest(column, law).statistic * np.sqrt(n) < BRIDGE
    for column in new[:, :2].T:
        assert stats.kstest(column, stats.uniform(-1, 2).cdf).statistic * np.sqrt(n) < BRIDGE
    # both moons, which the distances above hardly tell apart: a fair coin by symmetry; 15 times 4e-7
    assert abs(np.sign(new[:, :2].sum(axis=1)).mean()) * np.sqrt(n) < 5.1


def test_three_numbers_of_two_moons_leave_a_line():
    # theta_0, x_0 and x_1 given: the density in theta_1 by the package's own formula and the trapezoid rule
    task, value = rd.tasks.get("two_moons"), np.array([0.2, 0.35, -0.07, 0.15])
    draws = task.conditional(roles_of(4, (0, 2, 3)), value, 20_000, 1)[:, 1]
    line = jnp.linspace(-1, 1, 200_001)
    theta = jnp.stack([jnp.full_like(line, value[0]), line], axis=1)
    density = np.exp(jax.vmap(lambda t: task.log_likelihood(t, jnp.asarray(value[2:])))(theta))
    cdf = np.cumsum(density.astype(float)) / density.sum(dtype=float)
    distance = stats.kstest(draws, lambda t: np.interp(t, np.asarray(line, float), cdf)).statistic
    assert distance * np.sqrt(len(draws)) < BRIDGE


# slcp: theta_0 .. theta_4 are the tokens 0 .. 4, four points the tokens 5 .. 12
@pytest.mark.parametrize("given", [(5,), (5, 8), (2, 3, 5, 6, 9), (0, 1, 5, 6, 8)])
def test_slcp_agrees_with_weighted_draws_of_the_prior(given):
    task, rng, n = rd.tasks.get("slcp"), np.random.default_rng(7), 500_000
    truth = np.array([0.7, -1.1, 1.3, 0.9, 0.6, 2.0, -1.5, 0.1, -0.4, 1.2, -2.0, 0.4, -1.0])
    theta = rng.uniform(-3, 3, (n, 5))
    known = [i for i in given if i < 5]
    theta[:, known] = truth[known]
    s, rho = theta[:, 2:4] ** 2, np.tanh(theta[:, 4])
    log_weight, x = np.zeros(n), np.full((n, 8), np.nan)
    for point in range(4):
        # the two numbers one after the other, the second given the first; a given one weighs, a latent one is drawn
        order = (0, 1) if 5 + 2 * point in given else (1, 0)
        a, b = order
        mean, sd = theta[:, a], np.sqrt(s[:, a] ** 2 + 1e-6)
        for turn, i in enumerate(order):
            token = 5 + 2 * point + i
            if turn == 1:
                offset = (x[:, 2 * point + a] - theta[:, a]) / sd
                slope = rho * s[:, 0] * s[:, 1] / sd
                mean, sd = theta[:, b] + slope * offset, np.sqrt(np.maximum(s[:, b] ** 2 + 1e-6 - slope**2, 1e-9))
            if token in given:
                x[:, 2 * point + i] = truth[token]
                log_weight += -0.5 * ((truth[token] - mean) / sd) ** 2 - np.log(sd)
            else:
                x[:, 2 * point + i] = mean + sd * rng.standard_normal(n)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    effective = 1 / (weight**2).sum()
    assert effective > 2000
    picked = np.concatenate([theta, x], axis=1)[rng.choice(n, 50_000, p=weight)]
    draws = task.conditional(roles_of(13, given), truth, 10_000, 8)
    for i in set(range(13)) - set(given):
        assert bridge(draws[:, i], picked[:, i], 1 / (1 / effective + 1 / 50_000)) < BRIDGE, i


def test_slcp_finds_the_funnel_of_a_single_point():
    # one whole point: given the last three of theta, which keep their prior, the means have the law of the point's
    # noise around it, cut to the box; weighted draws of the prior would miss the funnel
    task, rng, n = rd.tasks.get("slcp"), np.random.default_rng(8), 100_000
    theta, point = rng.uniform(-3, 3, (n, 5)), np.array([2.0, -1.5])
    noise = np.linalg.cholesky(slcp_covariance(theta)) @ rng.standard_normal((n, 2, 1))
    theta[:, :2] = point + noise[..., 0]
    truth = theta[np.abs(theta[:, :2]).max(1) < 3]
    draws = task.conditional(roles_of(13, (5, 6)), np.append(np.zeros(5), np.append(point, np.zeros(6))), 10_000, 4)
    for i in range(5):
        assert bridge(draws[:, i], truth[:, i]) < BRIDGE
        assert bridge(np.abs(draws[:, i]), np.abs(truth[:, i])) < BRIDGE
    distance = [np.log(np.abs(rows[:, 0] - point[0])) for rows in (draws[draws[:, 0] != point[0]], truth)]
    assert bridge(*distance) < BRIDGE


def test_latent_numbers_of_slcp_follow_from_theta():
    task = rd.tasks.get("slcp")
    theta = np.array([0.7, -1.1, 0.4, 0.9, -0.6])
    draws = task.conditional(roles_of(13, range(5)), np.append(theta, np.zeros(8)), 10_000, 2).astype(float)
    z = white(draws[:, :5], draws[:, 5:])
    assert max(stats.kstest(column, "norm").statistic for column in z.T) * 100 < BRIDGE


@pytest.mark.parametrize(("name", "d"), TASKS.items())
def test_questions_that_nobody_can_answer(name, d):
    ask = rd.tasks.get(name).conditional
    with pytest.raises(rd.DataError, match=rf"this task has {d} tokens"):
        ask(np.ones(d - 1), np.zeros(d - 1), 5, 0)
    with pytest.raises(rd.DataError, match=r"roles are 0 \(absent\), 1 \(latent\) or 2 \(given\)"):
        ask(np.full(d, 3), np.zeros(d), 5, 0)
    with pytest.raises(rd.DataError, match="not finite"):
        ask(np.full(d, GIVEN), np.full(d, np.nan), 5, 0)
    with pytest.raises(rd.DataError, match="number of draws must be positive"):
        ask(np.full(d, LATENT), np.zeros(d), 0, 0)


def test_values_that_contradict_one_another():
    with pytest.raises(rd.DataError, match="next to impossible"):
        rd.tasks.get("two_moons").conditional(roles_of(4, (2, 3)), [0, 0, 5.0, 0], 5, 0)
    with pytest.raises(rd.DataError, match="next to impossible"):
        rd.tasks.get("two_moons").conditional(roles_of(4, (0, 1, 2)), [0, 0, 5.0, 0], 5, 0)
    with pytest.raises(rd.DataError, match="more than a hundred from"):
        rd.tasks.get("hmm").conditional(roles_of(20, (3,)), np.full(20, 1e4), 5, 0)


def test_one_key_one_answer():
    for name, d in TASKS.items():
        ask = rd.tasks.get(name).conditional
        roles, values = roles_of(d, (d - 1,), (0,)), np.full(d, 0.2)
        first, again, other = (ask(roles, values, 50, key) for key in (1, jax.random.key(1), 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert first.shape == (50, d)
        assert np.isnan(first[:, 0]).all()
        assert np.isfinite(first[:, 1:]).all()
