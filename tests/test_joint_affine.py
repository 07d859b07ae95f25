"""The affine baseline of any question: exact where all is linear and Gaussian, and of narrow answers the place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import retrodict as rd
from retrodict.roles import GIVEN, LATENT
from retrodict.solvers import DPMSolver, Normalized
from retrodict.training import _distill as distillation
from retrodict.training._fit_flow import grouped_loss
from retrodict.transforms import JointAffine
from retrodict.transforms.joint_affine import FOLD, chosen


TINY = rd.nets.ResMLP(8, 1)
QUIET = {"key": 0, "steps": 1, "progress": False}
MIX = np.array([[1.0, 0.0, 0.0, 0.0], [0.8, 0.5, 0.0, 0.0], [0.3, -0.9, 0.4, 0.0], [-0.5, 0.2, 0.7, 0.6]])
SHIFT = np.array([3.0, -1.0, 0.0, 20.0])
QUESTIONS = [[1, 2, 1, 2], [2, 2, 2, 1], [1, 1, 1, 1], [0, 1, 2, 1], [1, 2, 2, 0], [1, 1, 2, 2]]


def rows_of(n, seed=0):
    return SHIFT + np.random.default_rng(seed).normal(size=(n, 4)) @ MIX.T


def named(rows):
    return {"theta": rows[..., :2].astype(np.float32), "x": rows[..., 2:].astype(np.float32)}


LAYOUT = rd.Layout((rd.Variable("theta", (2,)), rd.Variable("x", (2,), kind="data")))


def answer(roles, row, mean, cov):
    """Mean and covariance of the latent elements of a normal law given others, by the textbook."""
    latent, given = (np.flatnonzero(np.array(roles) == role) for role in (LATENT, GIVEN))
    slope = np.linalg.solve(cov[np.ix_(given, given)], cov[np.ix_(given, latent)]).T
    centre = mean[latent] + slope @ (row[given] - mean[given])
    return centre, cov[np.ix_(latent, latent)] - slope @ cov[np.ix_(given, latent)]


def question(roles, row):
    """`given` and `of` of a query."""
    roles = np.array(roles).reshape(2, 2)
    values = np.where(roles == GIVEN, row.reshape(2, 2), np.nan)
    given = {k: v for k, v in zip(("theta", "x"), values, strict=True) if np.isfinite(v).any()}
    return given, {k: r == LATENT for k, r in zip(("theta", "x"), roles, strict=True) if (r == LATENT).any()}


# the map --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", QUESTIONS)
def test_residuals_are_those_of_the_textbook(roles):
    """Squared residuals add up to the Mahalanobis distance, and slopes to half the log determinant, 1e-3 narrow too."""
    squeeze = np.array([1.0, 1.0, 1e-3, 1.0]) if roles[2] == LATENT else np.ones(4)
    mix = MIX.copy()
    mix[2] *= squeeze[2]
    mix[2, 0] += 1.0  # x0 is nearly theta0
    z = np.random.default_rng(0).normal(size=(5000, 4)) @ mix.T
    baseline, row, roles = JointAffine.identity(None, 4).fit(z, robust=False), z[7], np.array(roles)
    centre, cov = answer(roles, row, z.mean(axis=0), np.cov(z.T, bias=True))
    z = jnp.asarray(row, jnp.float32)
    index, residual = baseline.at(z, jnp.asarray(roles == GIVEN), jnp.asarray(roles == LATENT))
    u = residual.forward(z[index])
    off = row[roles == LATENT] - centre
    distance, slope = off @ np.linalg.solve(cov, off), np.linalg.slogdet(cov)[1] / 2
    assert float(jnp.sum(jnp.where(residual.latent, u, 0.0) ** 2)) == pytest.approx(distance, rel=5e-3, abs=1e-3)
    assert float(jnp.sum(residual.log_slope(u))) == pytest.approx(slope, abs=2e-3)
    back = np.asarray(residual.inverse(u))[np.argsort(index)]
    np.testing.assert_allclose(back[roles == LATENT], row[roles == LATENT], atol=1e-4)


@pytest.mark.parametrize("asked", [None, np.array([True, False, True])])
def test_a_line_stays_a_line_up_to_the_ends(asked):
    """An interval, a number that follows it to .001 of its width, and one beside: all residuals are of order one."""
    rng = np.random.default_rng(0)
    y = rng.uniform(-1.7, 1.7, size=(4000, 3))
    y[:, 1] = 0.5 * y[:, 0] - y[:, 2] + 1e-3 * rng.normal(size=4000)
    low = np.array([-1.7, -np.inf, -1.7])
    baseline = JointAffine.identity(asked, 3).between(low, -low)
    z = np.asarray(baseline.ends.bend(jnp.asarray(y, jnp.float32)))
    assert np.abs(z[:, 0]).max() > 1.71  # it is bent
    np.testing.assert_allclose(baseline.straight(z), y, atol=1e-5)
    baseline = baseline.fit(z)
    given, latent = jnp.array([False, True, False]), jnp.array([True, False, True])

    @jax.jit
    @jax.vmap
    def both(row):
        index, residual = baseline.at(row, given, latent)
        u = residual.forward(row[index])
        jacobian = jax.jacobian(residual.inverse)(u)
        slope = jnp.linalg.slogdet(jnp.where(residual.latent[:, None] & residual.latent, jacobian, jnp.eye(len(u))))[1]
        back = jnp.where(residual.latent, residual.inverse(u) - row[index], 0.0)
        return jnp.where(residual.latent, u, 0.0), jnp.abs(back).max(), slope - jnp.sum(residual.log_slope(u))

    u, back, slope = both(jnp.asarray(z[:1000]))
    assert np.abs(u).max() < 2 * FOLD
    assert np.abs(back).max() < 1e-4
    assert np.abs(slope).max() < 1e-2


# the choice -----------------------------------------------------------------------------------------------------------


def choice(z, latent=None):
    latent = np.ones(z.shape[1], bool) if latent is None else latent
    return chosen(JointAffine.identity(None, z.shape[1]), z[500:], z[:500], latent)


def test_normal_rows_and_narrow_ones_have_it_and_others_do_not():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5000, 4)) @ MIX.T
    baseline, normal = choice(z)
    assert normal
    np.testing.assert_allclose(baseline.root @ baseline.root.T, np.cov(z[500:].T, bias=True), atol=1e-4)
    broad = rng.uniform(-1.7, 1.7, size=(5000, 4)) + 0.3 * z
    assert choice(broad) == (None, False)
    curved = np.stack([z[:, 0], z[:, 0] ** 2 / 2 + 0.5 * z[:, 1]], axis=1)
    assert choice(curved) == (None, False)
    narrow = np.concatenate([broad, broad[:, :1] + 0.003 * z[:, :1]], axis=1)
    baseline, normal = choice(narrow)
    assert not normal
    assert float(baseline.root[4, 4]) == pytest.approx(0.003, rel=0.2)
    np.testing.assert_allclose(baseline.root[2], [0, 0, 1, 0, 0], atol=0.1)  # nothing to do with it
    given_only = np.array([False, True, True, True, False])
    assert choice(narrow, given_only) == (None, False)


def test_neither_runaways_nor_atoms_decide():
    rng = np.random.default_rng(0)
    z = rng.uniform(-1.7, 1.7, size=(5000, 2))
    z[:, 1] = z[:, 0] + 0.002 * rng.normal(size=5000)
    z[::1000, 1] = 12.0
    baseline, _ = choice(z)
    assert float(baseline.root[1, 1]) == pytest.approx(0.002, rel=0.2)
    atom = np.stack([z[:, 0], np.where(rng.random(5000) < 0.97, 0.0, rng.normal(size=5000))], axis=1)
    assert choice(atom) == (None, False)
    assert choice(z[:7]) == (None, False)


# a linear Gaussian ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return rows_of(4000)


@pytest.fixture(scope="module")
def model(rows):
    """One step: the network has said next to nothing."""
    return rd.fit(rd.joint(LAYOUT, net=TINY), named(rows), validation_fraction=0.125, **QUIET)[0]


@pytest.fixture(scope="module")
def law(model):
    """Mean and covariance as the model estimated them, in the user's units."""
    scale, shift = (np.asarray(model.scaling.inverse(np.full(4, value)), np.float64) for value in (1.0, 0.0))
    root = (scale - shift)[:, None] * np.asarray(model.baseline.root, np.float64)
    return shift + (scale - shift) * np.asarray(model.baseline.mean, np.float64), root @ root.T


@pytest.mark.parametrize("roles", QUESTIONS)
def test_every_question_is_exact_untrained(model, law, rows, roles):
    row = rows[3]
    given, of = question(roles, row)
    centre, cov = answer(roles, row, *law)
    draws = model.sample(8000, given=given, of=of, key=0)
    latent = np.array(roles) == LATENT
    flat = np.concatenate([draws.get(k, np.full((8000, 2), np.nan)) for k in ("theta", "x")], axis=1)[:, latent]
    white = np.linalg.solve(np.linalg.cholesky(cov), (flat - centre).T)
    np.testing.assert_allclose(white.mean(axis=1), 0.0, atol=5 / np.sqrt(8000))
    np.testing.assert_allclose(np.cov(white), np.eye(latent.sum()), atol=8 / np.sqrt(8000))


def test_densities_are_exact_untrained(model, law, rows):
    for roles, names in (([1, 1, 2, 2], "theta"), ([2, 2, 1, 1], "x")):
        other = "x" if names == "theta" else "theta"
        centre, cov = answer(roles, rows[3], *law)
        values = np.random.default_rng(0).multivariate_normal(centre, cov, size=50)
        density = model.log_prob({names: values}, given={other: named(rows[3])[other]})
        off = np.linalg.solve(np.linalg.cholesky(cov), (values - centre).T)
        true = -0.5 * np.sum(off**2, axis=0) - 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]
        np.testing.assert_allclose(density, true, atol=5e-3)
    everything = model.log_prob(named(rows[:50]))
    off = np.linalg.solve(np.linalg.cholesky(law[1]), (rows[:50] - law[0]).T)
    np.testing.assert_allclose(
        everything, -0.5 * np.sum(off**2, axis=0) - 0.5 * np.linalg.slogdet(2 * np.pi * law[1])[1], atol=1e-2
    )


def test_gradients_are_those_of_the_density(model, law, rows):
    row = rows[3]
    centre, cov = answer([1, 1, 2, 2], row, *law)
    point = centre + [0.2, -0.1]
    gradient = model.grad_log_prob({"theta": point[None]}, given={"x": named(row)["x"]})
    np.testing.assert_allclose(gradient.values["theta"][0], -np.linalg.solve(cov, point - centre), rtol=2e-2, atol=2e-2)

    def density(x):
        return model.log_prob({"theta": point[None]}, given={"x": x.astype(np.float32)})[0]

    x, step = row[2:].astype(np.float32), 0.05
    differences = [(density(x + e) - density(x - e)) / (2 * step) for e in step * np.eye(2)]
    np.testing.assert_allclose(gradient.given["x"][0], differences, rtol=3e-2, atol=5e-2)


def test_the_functions_for_jax_agree(model, rows):
    x = named(rows[3])["x"]
    theta = model.sample(5, given={"x": x}, key=0)["theta"]
    log_density = model.log_density(given={"x": x}, of=["theta"])
    expected = model.log_prob({"theta": theta}, given={"x": x})
    np.testing.assert_allclose(jax.vmap(lambda t: log_density({"theta": t}))(theta), expected, atol=1e-3)
    draws = jax.vmap(model.sampler(given={"x": x}, of=["theta"]))(jax.random.split(jax.random.key(0), 4000))["theta"]
    others = model.sample(4000, given={"x": x}, key=1)["theta"]
    np.testing.assert_allclose(draws.mean(axis=0), others.mean(axis=0), atol=0.1)


def test_files_keep_it(model, rows, tmp_path):
    again = rd.load(rd.save(model, tmp_path / "model"))
    x = named(rows[3])["x"]
    np.testing.assert_array_equal(*(one.sample(5, given={"x": x}, key=0)["theta"] for one in (model, again)))
    undecided = rd.joint(LAYOUT, net=TINY)
    assert rd.load(rd.save(undecided, tmp_path / "undecided")).chooses_baseline
    more = rd.fit(again, named(rows), **QUIET)[0]
    np.testing.assert_array_equal(more.baseline.root, model.baseline.root)


def test_coordinates_are_residuals_of_the_question(model, law, rows):
    given, theta = {"x": named(rows[3])["x"]}, rows[:6, :2].astype(np.float32)
    u = model.to_coordinates({"theta": theta}, given=given)
    centre, cov = answer([1, 1, 2, 2], rows[3], *law)
    white = np.linalg.solve(np.linalg.cholesky(cov), (theta - centre).T).T
    near = np.abs(white).max(axis=1) < FOLD
    np.testing.assert_allclose(u["theta"][near], white[near], atol=1e-2)
    np.testing.assert_allclose(model.from_coordinates(u, given=given)["theta"], theta, atol=1e-3)
    plain = model.to_coordinates({"theta": theta})
    np.testing.assert_allclose(model.from_coordinates(plain)["theta"], theta, atol=1e-4)


# constraints ----------------------------------------------------------------------------------------------------------


def test_constraints_work_through_it(model, law, rows):
    """A soft observation of one element beside a given one is exact; an interval cuts."""
    x = named(rows[3])["x"]
    centre, cov = answer([1, 1, 2, 2], rows[3], *law)
    sd = np.sqrt(cov[0, 0])
    soft = rd.constraints.Soft({"theta": np.array([centre[0] + sd, np.nan])}, sd=sd)
    draws = model.sample(4000, given={"x": x}, guide=[soft], key=0)["theta"]
    np.testing.assert_allclose(
        draws.mean(axis=0), centre + cov[:, 0] / cov[0, 0] * sd / 2, atol=0.08 * np.sqrt(cov[1, 1])
    )
    assert draws[:, 0].std() == pytest.approx(sd / np.sqrt(2), rel=0.08)
    interval = rd.Interval([centre[0], -np.inf], [np.inf, np.inf])
    draws = model.sample(4000, given={"x": x, "theta": interval}, key=0)["theta"][:, 0]
    assert draws.min() >= centre[0] - 1e-4
    assert draws.mean() - centre[0] == pytest.approx(sd * np.sqrt(2 / np.pi), rel=0.08)


def test_a_strength_counts_in_the_weights(model, law, rows):
    """p(theta | x)^2 / p(theta) of two normal laws."""
    x = named(rows[3])["x"]
    (centre, cov), (prior_centre, prior_cov) = answer([1, 1, 2, 2], rows[3], *law), (law[0][:2], law[1][:2, :2])
    precision = 2 * np.linalg.inv(cov) - np.linalg.inv(prior_cov)
    mean = np.linalg.solve(precision, 2 * np.linalg.solve(cov, centre) - np.linalg.solve(prior_cov, prior_centre))
    draws = model.sample(4000, given={"x": x}, strength=2.0, key=0)["theta"]
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.12 * sd.max())
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.12)
    with pytest.raises(rd.QueryError, match="strength needs correct=True"):
        model.sample(5, given={"x": x}, strength=2.0, correct=False, key=0)
    with pytest.raises(rd.QueryError, match="ask this model by `sample`"):
        rd.repaint(model, 5, given={"x": x}, key=0)


# narrow answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [rd.joint, rd.posterior])
def test_a_narrow_answer_in_a_bounded_prior_needs_no_training(make):
    """Noise of .001 of the signal, and no draw outside the prior, also at its end."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(-1.0, 1.0, size=(4000, 2))
    design = np.array([[1.0, 0.5], [-0.3, 1.0]])
    sims = {"theta": theta.astype(np.float32), "x": theta @ design.T + 1e-3 * rng.normal(size=(4000, 2))}
    layout = rd.Layout((rd.Variable("theta", (2,), (-1.0,) * 2, (1.0,) * 2), rd.Variable("x", (2,), kind="data")))
    model = rd.fit(make(layout, net=TINY), sims, **QUIET)[0]
    assert model.baseline is not None
    cov = 1e-6 * np.linalg.inv(design.T @ design)
    sd = np.sqrt(np.diag(cov))
    for truth in ([0.3, -0.6], [0.97, 0.1]):
        draws = model.sample(4000, given={"x": (design @ truth).astype(np.float32)}, key=0)["theta"]
        np.testing.assert_allclose((draws.mean(axis=0) - truth) / sd, 0.0, atol=0.15)
        np.testing.assert_allclose(draws.std(axis=0) / sd, 1.0, atol=0.13)
    edge = model.sample(2000, given={"x": (design @ [0.9995, 0.0]).astype(np.float32)}, key=0)["theta"]
    assert np.abs(edge).max() <= 1.0
    grid = np.linspace(-5, 5, 41)
    points = (
        np.array([0.3, -0.6]) + np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2) @ np.linalg.cholesky(cov).T
    )
    density = np.exp(model.log_prob({"theta": points}, given={"x": design @ [0.3, -0.6]}))
    assert density.sum() * 0.25**2 * np.sqrt(np.linalg.det(cov)) == pytest.approx(1.0, abs=0.03)


# training and solvers -------------------------------------------------------------------------------------------------


def test_rows_of_a_group_share_roles_and_cover_all_times():
    def loss(row, key, u, key_roles):
        return u + 2.0 * (jax.random.uniform(key_roles) > 0.5)

    jitter, groups = [], 4
    for seed in range(40):
        total = float(grouped_loss(loss, jnp.zeros((8 * groups, 1)), jax.random.key(seed)))
        jitter.append(total - 0.5 * round((total - 0.5) / 0.5))  # groups differ by 2 / 4
    np.testing.assert_allclose(jitter, 0.5, atol=0.5 / (8 * groups))
    np.testing.assert_allclose(grouped_loss(lambda row, *_: row[0], jnp.arange(30.0)[:, None], jax.random.key(0)), 14.5)


def test_a_normalized_solver_draws_a_standard_normal_exactly():
    path = rd.paths.flow_matching()
    flow = rd.paths.Flow(path, lambda x, t: path.guess(x, path.predict(jnp.zeros_like, x, t), t))
    noise = jnp.array([0.5, -2.0])
    for steps in (3, 20):
        solver = DPMSolver(steps)
        np.testing.assert_allclose(Normalized(solver)(flow, noise, *path.span), noise, rtol=1e-5)
        assert abs(float(solver(flow, noise, *path.span)[0]) - 0.5) > 1e-4


def test_what_has_no_regression_says_so():
    with pytest.raises(rd.QueryError, match="embeddings or functions"):
        rd.joint(
            LAYOUT,
            net=rd.nets.ResMLP(8, 1, embed={"x": rd.nets.CNN1d((4,), kernel=1, stride=1, tokens=2, features=4)}),
            conditional_affine=True,
        )
    assert not rd.unconditional(LAYOUT, net=TINY).chooses_baseline
    assert not rd.joint(LAYOUT, net=TINY, conditional_affine=False).chooses_baseline
    assert rd.joint(LAYOUT, net=TINY, conditional_affine=True).baseline is not None


@pytest.fixture
def quick_distillation(monkeypatch):
    monkeypatch.setattr(distillation, "TRAINING_PAIRS", 2048)
    monkeypatch.setattr(distillation, "VALIDATION_PAIRS", 512)
    monkeypatch.setattr(distillation, "c2st", lambda one, other: 0.5)


@pytest.mark.usefixtures("quick_distillation")
def test_distilled_models_keep_it(model, law, rows):
    """Hardly trained: the sampler starts from the baseline, and the density learns scaled tokens."""
    settings = {"steps": 20, "observations": 2, "progress": False, "key": 0}
    x = {"x": named(rows[3])["x"]}
    centre, cov = answer([1, 1, 2, 2], rows[3], *law)
    sampler, _ = rd.distill(model, named(rows), given=["x"], net=TINY, evaluations=4, draws=50, **settings)
    off = sampler.sample(4000, given=x, key=1)["theta"].mean(axis=0) - centre
    np.testing.assert_allclose(off, 0.0, atol=0.15 * np.sqrt(cov.diagonal().max()))
    density, _ = rd.distill_density(model, named(rows), given=["x"], width=8, depth=1, components=1, **settings)
    value = density.log_prob({"theta": centre[None]}, given=x)[0]
    assert value == pytest.approx(-0.5 * np.linalg.slogdet(2 * np.pi * cov)[1], abs=0.3)
