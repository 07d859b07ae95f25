"""Robust scaling of all kinds of columns: finite, invertible, of order one, and its notes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from retrodict.transforms import RobustScaling, Scaling
from retrodict.transforms import scaling_notes as notes_of
from retrodict.variables import Layout, Variable


N = 10_000


def runaways(rng):
    x = rng.normal(3.0, 2.0, N)
    x[[5, 70, 800, 9000]] = [1e30, -1e30, 3e29, 1e30]
    return x


KINDS = {
    "normal": lambda rng: rng.normal(size=N),
    "uniform": lambda rng: rng.random(N),
    "offset": lambda rng: 1.7e9 + rng.normal(size=N),
    "tiny": lambda rng: 1e-12 * rng.normal(size=N),
    "huge": lambda rng: 1e12 * (3.0 + rng.normal(size=N)),
    "runaways": runaways,
    "decades": lambda rng: 10 ** rng.uniform(-3, 6, N),
    "decades of both signs": lambda rng: rng.choice([-1, 1], N) * 10 ** rng.uniform(-3, 6, N),
    "gamma(.1)": lambda rng: rng.gamma(0.1, size=N),
    "cauchy": lambda rng: rng.standard_cauchy(N),
    "student": lambda rng: rng.standard_t(2, N),
    "lognormal": lambda rng: np.exp(rng.normal(size=N)),
    "wide lognormal": lambda rng: np.exp(3.0 * rng.normal(size=N)),
    "zeros": lambda rng: np.where(rng.random(N) < 0.9, 0.0, rng.exponential(5.0, N)),
    "small counts": lambda rng: rng.poisson(0.5, N).astype(float),
    "large counts": lambda rng: rng.poisson(1e6, N).astype(float),
    "two clusters": lambda rng: rng.normal(1000.0 * (rng.random(N) < 0.5)),
    "rare cluster": lambda rng: rng.normal(50.0 * (rng.random(N) < 0.01)),
}


def column(kind, seed=0):
    return KINDS[kind](np.random.default_rng(seed))[:, None]


def score(robust, rows):
    """The log density of rows if z is standard normal."""
    z = robust.forward(rows)
    return float(np.mean(-0.5 * z**2 - robust.log_slope(z)) - 0.5 * np.log(2 * np.pi))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_of_order_one_and_comes_back(kind):
    x = column(kind)
    robust = RobustScaling.fit(x)
    z = robust.forward(x)
    assert np.abs(z).max() <= 12.0 + 1e-6
    assert 0.7 < z.std() < 1.3
    # double precision, of the value and of the width at hand
    np.testing.assert_allclose(robust.inverse(z), x, rtol=1e-11, atol=1e-9 * np.median(abs(x - np.median(x))))
    step = 1e-5
    numeric = np.log(np.diff(robust.inverse(np.concatenate([z - step, z + step], axis=1).T[..., None]), axis=0)[0])
    inside = abs(abs(z[:, 0]) - 8.0) > 2 * step  # the slope has a kink at 8
    with np.errstate(divide="ignore"):
        found = (numeric - np.log(2 * step))[inside]
    if kind != "offset":  # differences of numbers of 1.7e9 tell nothing
        np.testing.assert_allclose(robust.log_slope(z)[inside], found, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_stays_finite(kind):
    x = column(kind)
    robust = RobustScaling.fit(x)
    z = jnp.asarray(robust.forward(x), jnp.float32)
    for transform in (RobustScaling.inverse, RobustScaling.log_slope):
        value = jax.jit(transform)(robust, z)
        assert value.dtype == jnp.float32
        assert np.isfinite(value).all()
    assert np.isfinite(jax.jit(RobustScaling.forward)(robust, jnp.asarray(x, jnp.float32))).all()


def test_runaway_rows_do_not_decide():
    clean, dirty = column("runaways"), column("runaways")
    keep = abs(clean[:, 0]) < 1e3
    expected, robust = RobustScaling.fit(clean[keep]), RobustScaling.fit(dirty)
    inside = np.linspace(-5, 11, 50)[:, None]
    np.testing.assert_allclose(robust.forward(inside), expected.forward(inside), atol=1e-2)  # medians of 4 more rows


def test_an_offset_costs_no_digits():
    x = column("offset")
    z = RobustScaling.fit(x).forward(x)
    np.testing.assert_allclose(z, RobustScaling.fit(x - 1.7e9).forward(x - 1.7e9), atol=1e-6)  # 1.7e9 to 1e-16


@pytest.mark.parametrize(
    ("kind", "least"),
    [("decades", -6.8), ("decades of both signs", -7.6), ("gamma(.1)", 6.0), ("wide lognormal", -2.7)],
)
def test_decades_are_taken_by_their_log(kind, least):
    """Held-out log densities: the exact entropies are 5.8, 6.5, -7.5 and 2.5, and a Gaussian's density is far below."""
    assert score(RobustScaling.fit(column(kind)), column(kind, seed=1)) > least


STRAIGHT = ["normal", "uniform", "offset", "tiny", "huge", "large counts", "two clusters", "zeros"]


@pytest.mark.parametrize("kind", STRAIGHT)
def test_what_is_not_heavy_is_not_bent(kind):
    assert not RobustScaling.fit(column(kind)).heavy[0]


def test_columns_are_fitted_each_by_itself():
    columns = np.concatenate([column(kind) for kind in KINDS], axis=1)
    together = RobustScaling.fit(columns)
    for j, kind in enumerate(KINDS):
        alone = RobustScaling.fit(column(kind))
        for name in ("center", "width", "heavy", "mean", "std", "far"):
            np.testing.assert_allclose(getattr(together, name)[j], getattr(alone, name)[0], rtol=1e-12)


def scaled(x):
    return Scaling(Layout((Variable("x", kind="data"),)), RobustScaling.fit(x))


def noted(kind):
    x = column(kind)
    scaling = scaled(x)
    return notes_of.notes(scaling, x), notes_of.rows_far_out(scaling, x), notes_of.merged(scaling, x)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("decades", "'x': positive over 9 decades, taken by its log"),
        ("runaways", "'x': 4 of 10000 rows lie far out, up to 1e+30"),
        ("zeros", "'x': 90% of its values are 0"),
        ("two clusters", "'x': half of its values lie in crowds"),
    ],
)
def test_what_is_not_plain_is_noted(kind, text):
    (note,), far, _ = noted(kind)
    assert note.startswith(text)
    if kind == "runaways":
        np.testing.assert_array_equal(far["x"], [5, 70, 800, 9000])


NOTED = ("decades", "runaways", "zeros", "gamma(.1)", "wide lognormal", "two clusters")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NOTED])
def test_plain_variables_have_no_notes(kind):
    assert noted(kind) == ([], {}, {})


def test_a_rare_group_far_away_is_noted():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=N) + 1000.0 * (np.arange(N) % 100 == 0))[:, None]
    (note,) = notes_of.notes(scaled(x), x)
    assert note.startswith("'x': 1.0% of its values lie apart, near 1e+03")


def test_decades_next_to_an_end_are_noted():
    rng = np.random.default_rng(0)
    x = 10.0 ** rng.uniform(-6.0, 3.0, N)[:, None]
    layout = Layout((Variable("x", (), 1e-6, 1e3),))
    (note,) = notes_of.notes(Scaling.fit(layout, x), x)
    assert "decades or more next to an end of its support" in note
    for plain in (rng.uniform(0.0, 1e3, N), 1e3 * rng.beta(0.5, 0.5, N), 1e3 * rng.beta(1.0, 5.0, N)):
        assert notes_of.notes(Scaling.fit(layout, plain[:, None]), plain[:, None]) == []


def test_what_single_precision_cannot_tell_is_counted():
    """Two clusters so far apart that each is one number beside the other."""
    rng = np.random.default_rng(0)
    x = rng.normal(1e12 * rng.integers(-1, 2, N))[:, None]
    scaling = scaled(x)
    assert notes_of.merged(scaling, x)["x"] > 0.5


def test_files_without_the_fold_of_rows_far_out_keep_their_map():
    robust = RobustScaling.fit(column("cauchy"))
    old = RobustScaling(robust.center, robust.width, robust.heavy, robust.mean, robust.std)
    z = np.linspace(-7.9, 7.9, 40)[:, None]
    np.testing.assert_allclose(old.inverse(z), robust.inverse(z), rtol=1e-12)
    more = old.extended(3)
    assert more.far is None
    np.testing.assert_array_equal(more.inverse(np.full((1, 4), 2.0))[0, 1:], 2.0)
