"""Scaling: an inverse, a slope, and tails that must not wreck it."""

import jax
import numpy as np
import pytest

import retrodict as rd
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout, Variable


LAYOUT = Layout(
    (Variable("p", low=0.0), Variable("q", (2,), -3.0, 3.0), Variable("y", kind="data"), Variable("w", kind="data"))
)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    n = 5000
    columns = [np.exp(rng.normal(2.0, 0.3, n)), rng.uniform(-3, 3, n), rng.uniform(-3, 3, n)]
    return np.stack([*columns, rng.normal(100.0, 5.0, n), rng.standard_cauchy(n)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def scaling(rows):
    return Scaling.fit(LAYOUT, rows)


def test_there_and_back(scaling, rows):
    z = scaling.forward(rows)
    # single precision, amplified where a wide tail is folded: relative to the spread of each column
    np.testing.assert_allclose(scaling.inverse(z), rows, rtol=2e-4, atol=2e-4)


def test_scaled_columns_have_mean_zero_and_unit_variance(scaling, rows):
    z = np.asarray(scaling.forward(rows))
    # exact but for single precision: they are the very rows that were fitted
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=1e-4)


def test_heavy_tails_are_folded_and_light_ones_are_not(scaling, rows):
    assert scaling.robust.heavy.tolist() == [False, False, False, False, True]
    z = np.asarray(scaling.forward(rows))
    # a Cauchy standardized as it is would put half of its rows within .01 of zero
    assert np.quantile(np.abs(z[:, 4]), 0.5) > 0.3
    assert np.abs(z).max() < 12


def test_the_slope_is_the_derivative(scaling, rows):
    z = np.asarray(scaling.forward(rows[:50]))
    diagonal = jax.vmap(lambda row: np.log(1.0) + jax.numpy.log(jax.numpy.diag(jax.jacfwd(scaling.inverse)(row))))(z)
    np.testing.assert_allclose(scaling.log_slope(z), diagonal, atol=2e-4)  # logs of single-precision numbers


def test_a_constant_parameter_is_refused(rows):
    flat = rows.copy()
    flat[:, 0] = 0.5
    with pytest.raises(rd.DataError, match="'p' has an element that is the same in all 5000 rows"):
        Scaling.fit(LAYOUT, flat)


@pytest.mark.parametrize("value", [0.0, 7.0, -2e-6])
def test_constant_data_are_taken_with_a_warning(rows, value):
    flat = rows.copy()
    flat[:, 3] = value
    with pytest.warns(UserWarning, match="'y' has 1 of . elements that are the same in all 5000 rows"):
        scaling = Scaling.fit(LAYOUT, flat)
    z = np.asarray(scaling.forward(flat))
    np.testing.assert_allclose(z[:, 3], 0.0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(scaling.inverse(z))[:, 3], np.float32(value), rtol=1e-5)
    # what was never seen is far from what was, but not beyond all numbers
    flat[:, 3] = value + 1.0 if value == 0 else 2.0 * value
    np.testing.assert_allclose(np.abs(np.asarray(scaling.forward(flat))[:, 3]), 1.0, rtol=1e-5)


def test_a_count_that_is_mostly_zero_is_no_constant(rows):
    sparse = rows.copy()
    sparse[:, 3] = np.arange(len(rows)) % 5 == 0
    assert np.isfinite(Scaling.fit(LAYOUT, sparse).forward(sparse)).all()


def test_a_count_that_is_hardly_ever_more_than_zero_is_not_far_from_it(rows):
    rare = rows.copy()
    rare[:, 3] = np.arange(len(rows)) == 7
    z = np.asarray(Scaling.fit(LAYOUT, rare).forward(rare))[:, 3]
    assert z[7] == pytest.approx(12.0, rel=1e-3)
    assert np.abs(np.delete(z, 7)).max() < 0.1


def test_rows_are_scaled_alike_however_they_are_cut(monkeypatch):
    layout = Layout((Variable("a", (3,), 0.0, 1.0), Variable("b", (2,))))
    rows = np.random.default_rng(0).uniform(0.1, 0.9, (50, 5)).astype(np.float32)
    fitted = Scaling.fit(layout, rows)
    whole = np.asarray(fitted.forward(rows))
    for numbers in (2**21, 35, 1):  # all at once, seven rows, one
        monkeypatch.setattr("retrodict.transforms.scaling.MAX_NUMBERS_PER_BLOCK", numbers)
        np.testing.assert_allclose(fitted.of_rows(rows), whole, atol=1e-6)
