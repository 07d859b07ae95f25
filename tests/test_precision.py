"""Numbers whose offset dwarfs their spread, and programs that run JAX in double precision."""

import jax
import numpy as np
import pytest

import retrodict as rd
from retrodict.models._doubts import _site_rows
from retrodict.query import parse_sites


OFFSET, NOISE = 1.7e9, 0.0125
OBSERVED = OFFSET + np.array([0.3, 0.31])
MEAN, SD = OBSERVED.mean(), NOISE / 2**0.5


def rows(n=4000, *, offset=OFFSET):
    rng = np.random.default_rng(0)
    t = offset + rng.uniform(0.0, 1.0, n)
    return {"t": t, "y": t[:, None] + rng.normal(0.0, NOISE, (n, 2))}


def layout(low=-np.inf, high=np.inf):
    return rd.Layout((rd.Variable("t", (), low, high), rd.Variable("y", (2,), kind="data")))


@pytest.fixture(scope="module", params=["unbounded", "bounded"])
def model(request):
    ends = (OFFSET, OFFSET + 1.0) if request.param == "bounded" else (-np.inf, np.inf)
    model = rd.posterior(layout(*ends), net=rd.nets.ResMLP(32, 2), conditional_affine=True)
    return rd.fit(model, rows(), steps=1000, key=0, progress=False)[0]


@pytest.mark.filterwarnings("ignore::retrodict.CalibrationWarning")
def test_an_offset_costs_no_digits(model):
    draws = model.sample(2000, given={"y": OBSERVED}, key=1)["t"]
    assert draws.dtype == np.float64
    assert len(np.unique(draws)) > 0.95 * len(draws)  # double precision has 37,000 numbers in one sd here
    assert abs(draws.mean() - MEAN) < 0.3 * SD
    assert 0.8 < draws.std() / SD < 1.25
    at = {"t": MEAN + SD * np.array([-1.0, 0.0, 1.0])}
    expected = -0.5 * np.array([1.0, 0.0, 1.0]) - np.log(SD * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(model.log_prob(at, given={"y": OBSERVED}), expected, atol=0.3)
    slope = model.grad_log_prob(at, given={"y": OBSERVED}).values["t"]
    np.testing.assert_allclose(slope * SD, [1.0, 0.0, -1.0], atol=0.3)


def test_small_variables_stay_in_single_precision():
    shifted = rows(offset=0.0)
    plain = rd.fit(rd.posterior(layout()), shifted, steps=20, key=0, progress=False)[0]
    draws = plain.without_warnings().sample(10, given={"y": OBSERVED - OFFSET}, key=1)["t"]
    assert draws.dtype == np.float32


def test_gradients_follow_the_density(model):
    at = np.array([MEAN - 0.5 * SD, MEAN + 0.4 * SD])
    step = 1e-2 * SD

    def log_prob(t):
        return model.log_prob({"t": t}, given={"y": OBSERVED}).astype(np.float64)

    differences = (log_prob(at + step) - log_prob(at - step)) / (2 * step)
    slope = model.grad_log_prob({"t": at}, given={"y": OBSERVED}).values["t"]
    np.testing.assert_allclose(slope * SD, differences * SD, atol=0.05)


@pytest.mark.filterwarnings("ignore::retrodict.CalibrationWarning")
def test_a_check_keeps_the_digits(model):
    """In single precision times of 1.7e9 are 128 apart, and every rank would be the first or the last."""
    rng = np.random.default_rng(1)
    t = OFFSET + rng.uniform(0.0, 1.0, 100)
    held_out = {"t": t, "y": t[:, None] + rng.normal(0.0, NOISE, (100, 2))}
    assert rd.check(model, held_out, given=["y"], draws=49, densities=0, key=0)[1].p_value > 1e-4


def test_sites_keep_the_digits():
    variables = (rd.Variable("t"), rd.Variable("y", kind="data", plate="site"))
    (query,) = parse_sites(rd.Layout(variables), {"y": OBSERVED}).sites
    _, values, _ = _site_rows(query)
    np.testing.assert_array_equal(values[:, 1], OBSERVED)


def test_a_model_answers_the_same_where_jax_is_in_double_precision():
    sims = rows(600, offset=0.0)
    plain = rd.joint(layout(0.0, 1.0), net=rd.nets.ResMLP(16, 1))
    given = {"y": np.array([0.3, 0.31])}

    def answers():
        model = rd.fit(plain, sims, steps=50, key=0, progress=False)[0].without_warnings()
        density, values = model.log_density(given=given), {"t": np.array([0.25, 0.5])}
        return {
            "draws": model.sample(20, given=given, key=1)["t"],
            "guided": model.sample(20, given={"t": rd.Interval(0.2, 0.4)}, of=["t", "y"], key=1)["t"],
            "log_prob": model.log_prob(values, given=given),
            "gradient": model.grad_log_prob(values, given=given).values["t"],
            "estimate": model.estimate_log_prob(values, given=given, key=0).value,
            "velocity": model.velocity(values, 0.5, given=given)["t"],
            "in JAX": jax.vmap(density)(values),
            "slope in JAX": jax.jit(jax.vmap(jax.grad(density)))(values)["t"],
            "sampler": model.sampler(given=given)(jax.random.key(0))["t"],
            "check": rd.check(model, rows(60, offset=0.0), given=["y"], draws=19, key=0)[1].p_value,
        }

    single = answers()
    with jax.enable_x64(True):
        double = answers()
    for name, value in single.items():
        np.testing.assert_allclose(double[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
