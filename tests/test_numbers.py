"""One door for numbers: what comes from users and simulators is held without loss, or refused in a sentence."""

import datetime

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

import retrodict as rd
from retrodict._types import as_key
from retrodict.problem import Problem
from retrodict.query.tokens import as_numbers, flatten
from retrodict.simulation._simulate import simulate_at
from retrodict.variables import Layout, Variable


LAYOUT = Layout((Variable("a"), Variable("y", (2,), kind="data")))

HELD = {
    "single": (np.float32(0.1), np.float32, np.float32(0.1)),
    "double": (0.1, np.float64, 0.1),
    "half": (np.float16(0.5), np.float32, 0.5),
    "brain floats": (jnp.ones(2, jnp.bfloat16), np.float32, [1.0, 1.0]),
    "booleans": ([True, False], np.float32, [1.0, 0.0]),
    "small integers": (np.array([2**24, -(2**24)]), np.float32, [2**24, -(2**24)]),
    "large integers": (np.array([2**24 + 1]), np.float64, [2**24 + 1]),
    "seconds since 1970": (np.array([1_700_000_001]), np.float64, [1_700_000_001]),
    "a large number": (1e51, np.float64, 1e51),
    "a column of pandas": (pd.Series([0.1, 0.2], index=[7, 3]), np.float64, [0.1, 0.2]),
    "integers of pandas with missing ones": (pd.Series([1, None], dtype="Int64"), np.float64, [1.0, np.nan]),
    "an array of xarray": (xr.DataArray([0.1, 0.2]), np.float64, [0.1, 0.2]),
    "masked": (np.ma.masked_array([1, -999], [0, 1]), np.float32, [1.0, np.nan]),
    "a list of masked arrays": ([np.ma.masked_array([0.1, -999.0], [0, 1])], np.float64, [[0.1, np.nan]]),
    "a mask of nothing": (np.ma.masked_array([0.1]), np.float64, [0.1]),
}


@pytest.mark.parametrize("case", HELD)
def test_numbers_are_held_in_the_precision_they_need(case):
    value, kind, expected = HELD[case]
    array = as_numbers(value, "x")
    assert array.dtype == kind
    assert not isinstance(array, np.ma.MaskedArray)
    np.testing.assert_array_equal(array, expected)


REFUSED = {
    "complex": (1j * np.ones(2), "two elements"),
    "complex without an imaginary part": (np.complex64(1.0), "two elements"),
    "dates": (np.array(["2020-01-01"], "datetime64[s]"), "seconds since the start"),
    "durations": (np.timedelta64(3, "s"), "seconds since the start"),
    "dates of Python": ([datetime.datetime(2020, 1, 1)], "seconds since the start"),
    "dates of pandas": (pd.Series(pd.date_range("2020", periods=2, tz="UTC")), "seconds since the start"),
    "text": ("3.5", "no number"),
    "texts": (["3.5"], "no number"),
    "texts of pandas": (pd.Series(["1", "2"]), "no number"),
    "a gap": ([1.0, None], "write NaN"),
    "nothing": (None, "write NaN"),
    "ragged": ([[1.0], [1.0, 2.0]], "rd.Plate"),
    "ragged objects": (np.array([np.ones(1), np.ones(2)], dtype=object), "rd.Plate"),
    "objects": ([10**30], "np.asarray"),
    "records": (np.zeros(2, [("u", float)]), "fields u"),
    "a set": ({1.0}, "got set"),
    "a key": (jax.random.key(0), "numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_number_is_refused_with_the_cure(case):
    value, cure = REFUSED[case]
    with pytest.raises(rd.DataError, match=rf"^x must be .*{cure}"):
        as_numbers(value, "x")


def test_masked_simulations_are_refused():
    rows = {"a": np.zeros(3), "y": np.ma.masked_array(np.zeros((3, 2)), [[0, 0], [0, 1], [0, 0]])}
    with pytest.raises(rd.DataError, match=r"'y' in the simulations is a masked array .*\(1 of 6 are masked\)"):
        flatten(LAYOUT, rows, LAYOUT.names, where="the simulations")


def test_tokens_are_double_where_a_column_is():
    single = {"a": np.zeros(3, np.float32), "y": np.zeros((3, 2), np.float32)}
    assert flatten(LAYOUT, single, LAYOUT.names, where="x").dtype == np.float32
    tokens = flatten(LAYOUT, {**single, "a": np.full(3, 2460000.123)}, LAYOUT.names, where="x")
    assert tokens.dtype == np.float64
    assert (tokens[:, 0] == 2460000.123).all()


def numpy_problem():
    def simulate(rng, a):
        assert a.dtype == np.float64
        return {"t": 1.7e9 + a + 0.01 * rng.normal(), "k": 2**24 + 1 + rng.poisson(3.0), "n": rng.poisson(3.0)}

    return Problem({"a": dist.Normal(0.0, 1.0)}, rd.numpy_simulator(simulate))


def test_numpy_simulators_keep_double_precision_in_memory_and_in_stores(tmp_path):
    problem = numpy_problem()
    memory = rd.simulate(problem, 40, key=0)
    store = rd.simulate(problem, 40, key=0, store=tmp_path / "s", progress=False)
    workers = rd.simulate(problem, 40, key=0, store=tmp_path / "w", executor=1, progress=False)
    for name in problem.layout.names:
        np.testing.assert_array_equal(memory[name], store[name])
        np.testing.assert_array_equal(memory[name], workers[name])
    assert {name: memory[name].dtype.name for name in memory} == {
        "a": "float32", "t": "float64", "k": "float64", "n": "float32",
    }  # fmt: skip
    # the noise has an sd of .01, and single precision steps of 128
    assert 0.005 < (memory["t"] - 1.7e9 - memory["a"]).std() < 0.02
    assert len(np.unique(memory["k"])) > 3


def test_whole_numbers_of_jax_are_not_rounded():
    problem = Problem(
        {"a": dist.Normal(0.0, 1.0)},
        lambda key, a: {"t": 1_700_000_000 + jnp.round(10 * a).astype(int), "n": jax.random.poisson(key, 3.0)},
    )
    sims = rd.simulate(problem, 30, key=0)
    assert (sims["t"].dtype, sims["n"].dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(sims["t"] - 1_700_000_000, np.round(10 * sims["a"]))


def test_tables_are_simulations_and_questions():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=60)}, index=range(100, 160))
    table["y"] = table.a + rng.normal(size=60)
    layout = Layout((Variable("a"), Variable("y", kind="data")))
    untrained = rd.joint(layout, net=rd.nets.ResMLP(8, 1))
    model, _ = rd.fit(untrained, table, key=0, steps=2, progress=False)
    sets = xr.Dataset({name: ("row", table[name].to_numpy()) for name in table})
    same, _ = rd.fit(untrained, sets, key=0, steps=2, progress=False)
    given = {"y": float(table.y.iloc[1])}
    first = model.sample(3, given=given, key=0)["a"]
    np.testing.assert_array_equal(first, same.sample(3, given=given, key=0)["a"])
    np.testing.assert_array_equal(first, model.sample(3, given=table.iloc[1][["y"]], key=0)["a"])
    batch = model.sample(3, given=rd.Batch({"y": table.y}), key=0)["a"]
    np.testing.assert_array_equal(batch, model.sample(3, given=rd.Batch({"y": table.y.to_numpy()}), key=0)["a"])
    density = model.log_prob(table[["a"]], given={"y": 0.3})
    np.testing.assert_array_equal(density, model.log_prob({"a": table.a.to_numpy()}, given={"y": 0.3}))
    rows = simulate_at(
        Problem({"a": dist.Normal()}, lambda key, a: {"y": a + jax.random.normal(key)}), table[["a"]], key=0
    )
    np.testing.assert_array_equal(rows["a"], table.a.astype(np.float32))


def test_a_masked_observation_is_not_observed():
    model = rd.joint(LAYOUT, net=rd.nets.ResMLP(8, 1))
    masked = model.sample(3, given={"y": np.ma.masked_array([0.5, -999.0], [0, 1])}, of=["a"], key=0)
    plain = model.sample(3, given={"y": np.array([0.5, np.nan])}, of=["a"], key=0)
    np.testing.assert_array_equal(masked["a"], plain["a"])


NUMBERS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**64, 2**64 + 2**32, 2**96, -1, -(2**32), -(2**33)]


def test_all_bits_of_a_key_count():
    words = [tuple(np.asarray(jax.random.key_data(as_key(number))).tolist()) for number in NUMBERS]
    assert len(set(words)) == len(NUMBERS)
    assert words[:4] == [(0, number) for number in NUMBERS[:4]]  # as in jax.random
    for three in (np.int64(3), np.uint8(3), np.array(3), jnp.asarray(3)):
        assert as_key(three) == as_key(3)
    assert as_key(as_key(5)) == as_key(5)
    assert (as_key(jax.random.PRNGKey(5)) == jax.random.PRNGKey(5)).all()


@pytest.mark.parametrize("key", [True, 1.0, np.float32(1.0), "1", None, np.ones(2, int)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(rd.DataError, match="a key is a whole number"):
        as_key(key)


def test_draws_of_all_blocks_differ():
    """Draws of 24 bits collide now and then: of 20,000 normal numbers some 24 pairs, far from the 3,616 that a block
    repeated from another has."""
    model = rd.joint(LAYOUT, net=rd.nets.ResMLP(8, 1))
    draws = model.sample(20_000, given={"y": np.zeros(2)}, key=0)["a"]
    assert len(np.unique(draws)) > 20_000 - 100
    assert abs(np.corrcoef(draws[:8192], draws[8192:16_384])[0, 1]) < 5 / np.sqrt(8192)
