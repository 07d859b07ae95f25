"""Affine baselines: where all is linear and Gaussian they are the answer; elsewhere they change coordinates alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.training import _distill as distillation
from retrodict.transforms.affine import ConditionalAffine, least_squares, predict, residual_root


NOISE = 0.05
ASKED = np.array([True, False, True, False, False])


@pytest.fixture(scope="module")
def rows():
    """What is asked is a line in what is given, and noise a tenth as wide."""
    rng = np.random.default_rng(1)
    given = rng.normal(size=(20_000, 3)) @ rng.normal(size=(3, 3)) + [-2.0, 0.0, 3.0]
    asked = given @ rng.normal(size=(3, 2)) + 0.1 * rng.normal(size=(20_000, 2)) @ rng.normal(size=(2, 2)) + [1.0, 0.5]
    return np.stack([asked[:, 0], given[:, 0], asked[:, 1], given[:, 1], given[:, 2]], axis=1)


def test_least_squares_finds_a_line_and_its_residual():
    """Against the normal equations; a residual is orthogonal to all that it was fitted to."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(200, 3)), rng.normal(size=(200, 2))
    design = np.insert(inputs, 0, 1.0, axis=1)
    for ridge in (None, 5.0, np.array([0.0, 1.0, 2.0, 3.0])):
        coefficients, residual = least_squares(inputs, targets, ridge)
        penalty = np.diag(np.zeros(4) if ridge is None else np.broadcast_to(ridge, 4))
        np.testing.assert_allclose(design.T @ residual, penalty @ coefficients, atol=1e-10)
        np.testing.assert_allclose(predict(jnp.asarray(coefficients), inputs), targets - residual, atol=1e-5)
    doubled, _ = least_squares(np.concatenate([inputs, inputs], axis=1), targets)
    np.testing.assert_allclose(doubled[1:4], doubled[4:], atol=1e-10)  # of collinear ones, the smallest
    root = residual_root(residual, 0.1)
    np.testing.assert_allclose(root @ root.T, residual.T @ residual / 200 + 0.1 * np.eye(2), atol=1e-12)
    np.testing.assert_allclose(residual_root(residual, 0.1, independent=True), np.diag(np.sqrt(np.diag(root @ root.T))))


@pytest.fixture(scope="module")
def frame(rows):
    return ConditionalAffine.identity(ASKED).fit(rows[:10_000])


def test_what_is_left_is_standard_normal_whatever_is_given(frame, rows):
    """5 standard errors of 10,000 rows that were not fitted, and of the 10,000 that were."""
    u = np.asarray(frame.forward(rows[10_000:].astype(np.float32)))
    np.testing.assert_array_equal(u[:, ~ASKED], rows[10_000:, ~ASKED].astype(np.float32))
    left, given = u[:, ASKED], rows[10_000:, ~ASKED]
    off = 5.0 * np.sqrt(2 / 10_000)
    np.testing.assert_allclose(left.mean(axis=0), 0.0, atol=off)
    np.testing.assert_allclose(np.cov(left.T), np.eye(2), atol=np.sqrt(2.0) * off)
    np.testing.assert_allclose(np.corrcoef(left.T, given.T)[:2, 2:], 0.0, atol=off)


def test_the_way_back_and_its_slope(frame, rows):
    z = rows[:50].astype(np.float32)
    np.testing.assert_allclose(frame.inverse(frame.forward(z)), z, atol=1e-4)
    row = jnp.asarray(z[0])
    whole, slope = jnp.linalg.slogdet(jax.jacobian(frame.inverse)(row))[1], np.asarray(frame.log_slope(row))
    assert slope.sum() == pytest.approx(float(whole), abs=1e-4)
    assert not slope[~ASKED].any()


def test_what_is_wide_now_and_narrow_then_is_tamed():
    """A line, and noise that is a hundredth as wide in half of the rows: within 3 of zero, and there and back."""
    rng = np.random.default_rng(0)
    given, narrow = rng.normal(size=20_000), rng.random(20_000) < 0.5
    asked = given + 0.1 * rng.normal(size=20_000) * np.where(narrow, 0.01, 1.0)
    rows = np.stack([asked, given], axis=1).astype(np.float32)
    fitted = ConditionalAffine.identity(np.array([True, False])).fit(rows)
    u = np.asarray(fitted.forward(rows))
    assert bool(fitted.robust.heavy[0])
    assert u[narrow, 0].std() > 0.05  # .014 untamed
    np.testing.assert_allclose(fitted.inverse(u), rows, atol=1e-5)
    row = jnp.asarray(u[0])
    slope = jnp.linalg.slogdet(jax.jacobian(fitted.inverse)(row))[1]
    assert float(jnp.sum(fitted.log_slope(row))) == pytest.approx(float(slope), abs=1e-4)


def test_a_line_that_leaves_too_much_is_none():
    """One element of two follows what is given to a tenth, the other to a half."""
    rng = np.random.default_rng(0)
    given = rng.normal(size=5000)
    asked = [given + noise * rng.normal(size=5000) for noise in (0.1, 0.5)]
    fitted = ConditionalAffine.identity(np.array([True, True, False])).fit(np.stack([*asked, given], axis=1))
    assert float(fitted.coefficients[1, 0]) == pytest.approx(1.0, abs=0.02)
    assert float(fitted.coefficients[1, 1]) == 0.0


@pytest.fixture(scope="module")
def sims():
    """Two parameters that the data know twenty times better than the prior, and correlated."""

    def simulate(key, theta):
        noise = NOISE * jax.random.normal(key, (2,))
        return {"x": jnp.stack([theta[0] + theta[1], theta[0] - 0.5 * theta[1]]) + noise}

    return rd.simulate(rd.Problem({"theta": dist.Normal(jnp.zeros(2), 1.0).to_event(1)}, simulate), 4000, key=0)


@pytest.fixture(scope="module")
def model(sims):
    """One step: the network has said next to nothing."""
    net = rd.nets.ResMLP(16, 1)
    return rd.fit(rd.posterior(sims.layout, net=net, framed=True), sims, key=0, steps=1, progress=False)[0]


X = np.array([0.7, -0.4], np.float32)


def exact():
    design = np.array([[1.0, 1.0], [1.0, -0.5]])
    cov = np.linalg.inv(np.eye(2) + design.T @ design / NOISE**2)
    return cov @ design.T @ X / NOISE**2, cov


def test_a_linear_gaussian_needs_no_training(model):
    """5 standard errors of 10,000 draws and of a line through 3,800 rows."""
    mean, cov = exact()
    draws = model.sample(10_000, given={"x": X}, key=1)["theta"]
    sd = np.sqrt(np.diag(cov))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.15 * sd.max())
    np.testing.assert_allclose(np.cov(draws.T), cov, atol=0.1 * cov.diagonal().max())
    density = model.log_prob({"theta": draws[:200]}, given={"x": X})
    left = draws[:200] - mean
    true = -0.5 * np.einsum("ni,ij,nj->n", left, np.linalg.inv(cov), left) - 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]
    np.testing.assert_allclose(density, true, atol=0.6)  # four nats down
    assert abs((density - true).mean()) < 0.05


def test_without_a_frame_it_does(sims):
    plain = rd.fit(
        rd.posterior(sims.layout, net=rd.nets.ResMLP(16, 1), framed=False), sims, key=0, steps=1, progress=False
    )[0]
    assert plain.sample(2000, given={"x": X}, key=1)["theta"].std() > 0.5


def test_densities_integrate_to_one_where_a_support_ends():
    """A scale, seen through noise: the frame lives behind the bend of the support."""

    def simulate(key, s):
        return {"x": s * jnp.exp(0.1 * jax.random.normal(key))}

    sims = rd.simulate(rd.Problem({"s": dist.LogNormal(0.0, 1.0)}, simulate), 1000, key=0)
    untrained = rd.posterior(sims.layout, net=rd.nets.ResMLP(16, 1), framed=True)
    model = rd.fit(untrained, sims, key=0, steps=100, progress=False)[0]
    grid = np.linspace(1e-3, 6.0, 3000)
    density = np.exp(model.log_prob({"s": grid}, given={"x": np.exp(0.3)}))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=0.04)  # the integrator errs by .03 nats


def test_coordinates_need_all_that_is_given(model):
    values = {"theta": exact()[0][None], "x": X[None]}
    back = model.from_coordinates(model.to_coordinates(values))
    np.testing.assert_allclose(back["theta"], values["theta"], atol=1e-4)
    for walk in (model.to_coordinates, model.from_coordinates):
        with pytest.raises(rd.QueryError, match="follow what is given; `values` lacks 'x'"):
            walk({"theta": values["theta"]})


def test_a_file_keeps_it(model, tmp_path):
    rd.save(model, tmp_path / "model")
    again = rd.load(tmp_path / "model")
    np.testing.assert_array_equal(*(one.sample(5, given={"x": X}, key=0)["theta"] for one in (model, again)))


def test_it_goes_on_in_its_frame(model, sims):
    """Training more leaves the coordinates as they are."""
    more = rd.fit(model, sims, key=1, steps=1, progress=False)[0]
    np.testing.assert_array_equal(more.scaling.affine.coefficients, model.scaling.affine.coefficients)


def test_what_is_interchangeable_is_shuffled_before_the_frame_sees_it(sims, model, monkeypatch):
    """With a line that treats the two data unlike: the same loss as of a row that came in the other order."""
    structure = rd.Dependencies({"x": ["theta"]}, exchangeable={"x": 2})
    model = dataclasses.replace(model, dependencies=structure)
    swap = np.array([0, 1, 3, 2])
    z = jnp.array([0.3, -0.2, 0.5, 0.1])
    for order, row in ((swap, z), (np.arange(4), z[swap])):
        monkeypatch.setattr(rd.Dependencies, "shuffle", lambda self, layout, order=order: lambda key: order)
        loss = float(model.loss(model.scaling.affine.forward(row), jax.random.key(0), jnp.array(0.3)))
        first = loss if order is swap else first
    assert loss == pytest.approx(first, rel=1e-5)


def test_a_likelihood_has_one_too(sims):
    model = rd.likelihood(sims.layout, net=rd.nets.ResMLP(16, 1), framed=True)
    model = rd.fit(model, sims, key=0, steps=1, progress=False)[0]
    draws = model.sample(4000, given={"theta": [0.5, 0.2]}, key=0)["x"]
    np.testing.assert_allclose(draws.mean(axis=0), [0.7, 0.4], atol=0.3 * NOISE)
    np.testing.assert_allclose(draws.std(axis=0), NOISE, rtol=0.1)


def test_what_is_refused(model, sims):
    with pytest.raises(rd.QueryError, match="conditional_affine=True mixes"):
        model.sample(3, given={"x": X, "theta": rd.Interval([0.0, 0.0], [1.0, 1.0])}, key=0)
    with pytest.raises(rd.DataError, match="all variables of its layout together"):
        model.scaling.only(sims.layout.without(["x"]))


def test_a_student_of_a_framed_posterior_takes_two_steps(model, sims, tmp_path, monkeypatch):
    """Hardly trained: two steps leave half of the width, and the frame knows the place."""
    monkeypatch.setattr(distillation, "TRAINING_PAIRS", 1024)
    monkeypatch.setattr(distillation, "VALIDATION_PAIRS", 256)
    monkeypatch.setattr(distillation, "c2st", lambda one, other: 0.5)
    how = {"net": rd.nets.ResMLP(8, 1), "steps": 2, "observations": 2, "draws": 50, "progress": False, "key": 0}
    student, _ = rd.distill(model, sims, given=["x"], evaluations=2, **how)
    again = rd.load(rd.save(student, tmp_path / "student"))
    assert student.evaluations == student.solver.evaluations == again.solver.evaluations == 2
    draws, loaded = (one.sample(4000, given={"x": X}, key=1)["theta"] for one in (student, again))
    np.testing.assert_array_equal(draws, loaded)
    mean, cov = exact()
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.15 * np.sqrt(cov.diagonal().max()))


def test_a_head_of_a_framed_model_keeps_it(model, sims, tmp_path, monkeypatch):
    """Densities of a linear Gaussian in its frame, which the file must hold."""
    monkeypatch.setattr(distillation, "TRAINING_PAIRS", 2048)
    monkeypatch.setattr(distillation, "VALIDATION_PAIRS", 512)
    how = {"width": 8, "depth": 1, "components": 1, "steps": 20, "observations": 20, "progress": False, "key": 0}
    head, _ = rd.distill_density(model, sims, given=["x"], **how)
    again = rd.load(rd.save(head, tmp_path / "head"))
    theta = exact()[0][None].astype(np.float32)
    found = [one.log_prob({"theta": theta}, given={"x": X})[0] for one in (head, again)]
    assert found[0] == found[1]
    assert found[0] == pytest.approx(-0.5 * np.linalg.slogdet(2 * np.pi * exact()[1])[1], abs=0.3)
