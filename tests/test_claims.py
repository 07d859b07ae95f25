"""Claims against facts: what a problem and arrays say of themselves is compared with their first rows."""

import random
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.constraints import Prior as NewPrior
from retrodict.problem import Problem
from retrodict.problem._ends import ends_of
from retrodict.variables import Layout, Variable


T, TR, U = dist.TransformedDistribution, dist.transforms, dist.Uniform
EXP = TR.ExpTransform()
NORMAL = dist.Normal(0.0, 1.0)
POSITIVE = {"y": dist.constraints.positive}


def noisy(key, a):
    return {"y": a + jax.random.normal(key)}


# ends of laws ---------------------------------------------------------------------------------------------------------

LAWS = {
    "uniform": (U(0.0, 1.5), 0.0, 1.5),
    "exp of a uniform": (T(U(0.0, 1.0), EXP), 1.0, np.e),
    "a chain that turns around": (T(U(0.0, 1.0), [EXP, TR.AffineTransform(3.0, -2.0)]), 3 - 2 * np.e, 1.0),
    "a negative power": (T(U(1.0, 4.0), TR.PowerTransform(-0.5)), 0.5, 1.0),
    "a composition": (T(U(0.0, 1.0), TR.ComposeTransform([TR.AffineTransform(0.0, 2.0), EXP])), 1.0, np.e**2),
    "a log": (T(U(0.0, 3.0), EXP.inv), -np.inf, np.log(3.0)),
    "an absolute value": (T(U(-1.0, 3.0), TR.AbsTransform()), 0.0, 3.0),
    "a sigmoid of a uniform": (T(U(-1.0, 1.0), TR.SigmoidTransform()), 1 / (1 + np.e), 1 / (1 + np.exp(-1.0))),
    "a softplus of a half-line": (T(dist.HalfNormal(1.0), TR.SoftplusTransform()), np.log(2.0), np.inf),
    "a scaled beta": (T(dist.Beta(2.0, 3.0), TR.AffineTransform(-1.0, 4.0)), -1.0, 3.0),
    "a shifted exponential": (T(dist.Exponential(1.0), TR.AffineTransform(-1.0, 2.0)), -1.0, np.inf),
    "exp of a truncated normal": (T(dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=1.0), EXP), 1 / np.e, np.e),
    "inside Independent": (T(U(0.0, 1.0).expand([2]).to_event(1), EXP), 1.0, np.e),
    "masked": (T(U(0.0, 1.0), EXP).mask(True), 1.0, np.e),
    "a batch": (U(jnp.zeros(2), jnp.array([1.0, 2.0])).expand([3, 2]).to_event(2), 0.0, [1, 2, 1, 2, 1, 2]),
    "a mixture": (
        dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), T(U(jnp.array([0.0, 2.0]), 3.0), EXP)),
        1.0, np.e**3),
    "lognormal": (dist.LogNormal(0.0, 1.0), 0.0, np.inf),
    "inverse gamma": (dist.InverseGamma(2.0, 1.0), 0.0, np.inf),
    "log-uniform": (dist.LogUniform(0.1, 10.0), 0.1, 10.0),
    "Pareto": (dist.Pareto(2.0, 3.0), 2.0, np.inf),
    "an affine normal": (T(NORMAL, TR.AffineTransform(1.0, 2.0)), -np.inf, np.inf),
}  # fmt: skip


@pytest.mark.parametrize("case", LAWS)
def test_the_ends_of_a_law_are_those_of_its_draws(case):
    law, low, high = LAWS[case]
    shape = law.shape()
    ends = [np.broadcast_to(np.asarray(end, float), (int(np.prod(shape)),)) for end in ends_of(law, "a", shape)]
    np.testing.assert_allclose(ends, np.broadcast_arrays(low, high, ends[0])[:2], rtol=1e-6)
    draws = np.asarray(law.sample(jax.random.key(0), (4000,)), float).reshape(4000, -1)
    assert (draws >= ends[0] - 1e-6 * np.abs(draws)).all()
    assert (draws <= ends[1] + 1e-6 * np.abs(draws)).all()
    if np.isfinite([low, np.max(high)]).all() and "beta" not in case and "truncated" not in case:
        # a uniform leaves no gap at its ends: none of 4,000 draws within 1 % of one has the probability 1e-17
        gap = np.minimum(np.abs(draws.min(axis=0) - ends[0]), np.abs(draws.max(axis=0) - ends[1]))
        assert (gap < 0.05 * (ends[1] - ends[0])).all()


def test_a_problem_has_the_true_ends():
    exp = T(U(0.0, 1.0), EXP)
    problem = Problem(
        {"a": exp, "b": lambda a: T(U(0.0, 1.0), TR.AffineTransform(0.0, 2.0))}, lambda key, a, b: noisy(key, a)
    )
    assert problem.layout["a"].ends[1] == pytest.approx(np.e)
    assert problem.layout["b"].ends == (0.0, 2.0)

    def model():
        with numpyro.plate("site", 3):
            numpyro.sample("a", exp)

    assert Problem(rd.numpyro_prior(model), noisy).layout["a"].ends[1] == pytest.approx(np.e)


def test_a_law_whose_ends_are_hidden_is_named():
    law = T(U(jnp.zeros(2), 1.0).to_event(1), TR.LowerCholeskyAffine(jnp.zeros(2), jnp.eye(2)))
    with pytest.warns(UserWarning, match="'a' is a bounded law behind LowerCholeskyAffine, whose ends"):
        assert ends_of(law, "a", (2,)) == (-np.inf, np.inf)


class Claims(dist.Normal):
    support = dist.constraints.unit_interval


PRIORS = {
    "a constant": (lambda: Problem({"a": dist.Delta(1.0)}, noisy), r"'a' is a constant \(Delta\)"),
    "a constant given others": (
        lambda: Problem({"b": NORMAL, "a": lambda b: dist.Delta(b)}, noisy).layout, r"'a' is a constant \(Delta\)"),
    "a simplex": (lambda: Problem({"a": dist.Dirichlet(jnp.ones(3))}, noisy), "'a' has the support Simplex"),
    "a simplex of numpyro": (
        lambda: rd.numpyro_prior(lambda: numpyro.sample("a", dist.Dirichlet(jnp.ones(3)))),
        "'a' has the support Simplex"),
    "a large offset": (
        lambda: Problem({"a": dist.Normal(1.7e9, 1.0)}, noisy).layout, "'a' is 1.7e.09 in all of 64 draws"),
    "a lost spread": (
        lambda: Problem({"a": dist.Normal(1e7, 2.0)}, noisy).layout, "'a' takes a few values, 1 apart, in all of 64"),
    "a support that moves rarely": (
        lambda: Problem({"b": NORMAL, "a": lambda b: U(0.0, jnp.where(b > 1.0, 2.0, 1.0))}, noisy).layout,
        "moves with 'b'"),
    "draws beyond the claim": (
        lambda: Problem({"a": Claims(0.0, 1.0)}, noisy).layout, "of 64 draws of the prior of 'a' lie outside"),
    "a function that asks": (
        lambda: Problem({"b": NORMAL, "a": lambda b: dist.Normal(1.0 if b > 0 else 0.0)}, noisy).layout, "jax.numpy"),
}  # fmt: skip


@pytest.mark.parametrize("case", PRIORS)
def test_a_prior_is_compared_with_its_claims(case):
    make, sentence = PRIORS[case]
    with pytest.raises(rd.RetrodictError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (U(0.0, 2.0), U(0.0, 1.0)),
        (NORMAL, dist.LogNormal(0.0, 1.0)),
        (lambda b: U(0.0, 1.0 + b**2), U(0.0, 1.0)),
        (U(1.0, 3.0), T(U(0.0, 1.0), EXP)),
    ],
)
def test_a_new_prior_stays_inside_the_old_one(new, old):
    with pytest.raises(rd.QueryError, match="the new prior of 'a' has the support"):
        NewPrior({"a": new}, old={"b": NORMAL, "a": old})
    NewPrior({"a": dist.TruncatedNormal(0.5, 1.0, low=1.0, high=1.5)}, old={"a": dist.LogNormal(0.0, 1.0)})
    NewPrior({"a": old}, old={"a": old})


# simulators -----------------------------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(3)


def inner(a):
    return jax.jit(lambda a: a + np.random.normal(size=3))(a)  # noqa: NPY002


OWN_NOISE = {
    "NumPy's global generator": lambda key, a: {"y": a + np.random.normal()},  # noqa: NPY002
    "a generator without a seed": lambda key, a: {"y": a + np.random.default_rng().normal(size=3)},
    "a generator of the module": lambda key, a: {"y": a + GENERATOR.normal()},
    "Python's generator": lambda key, a: {"y": a + random.gauss(0.0, 1.0)},
    "compiled": jax.jit(lambda key, a: {"y": a + np.random.default_rng().normal(size=3)}),
    "inside a compiled function": lambda key, a: {"y": inner(a)},
    "beside noise of JAX": lambda key, a: {"y": a + jax.random.normal(key) + np.random.normal()},  # noqa: NPY002
}


@pytest.mark.parametrize("case", OWN_NOISE)
def test_noise_that_is_drawn_while_jax_traces_is_refused(case):
    with pytest.raises(rd.RetrodictError, match=r"decorate it with `rd.numpy_simulator`"):
        rd.simulate(Problem({"a": NORMAL}, OWN_NOISE[case]), 10, key=0)


def test_fixed_numbers_of_a_simulator_are_no_noise():
    def simulate(key, a):
        return {"y": a * np.random.default_rng(0).normal(size=3) + jax.random.normal(key, (3,))}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rd.simulate(Problem({"a": NORMAL}, simulate), 10, key=0).kept == 10


@pytest.mark.parametrize(
    "simulator",
    [
        lambda key, a: {"y": a + jax.random.normal(jax.random.key(0))},
        rd.numpy_simulator(lambda rng, a: {"y": a + np.random.default_rng(0).normal()}),
    ],
)
def test_frozen_noise_is_said(simulator):
    with pytest.warns(UserWarning, match="the simulator does not use its (key|generator), so that its data"):
        rd.simulate(Problem({"a": NORMAL}, simulator), 10, key=0)


def scipy_inside(key, a):
    from scipy.integrate import quad

    return {"y": quad(lambda t: np.exp(-t * a), 0.0, 1.0)[0]}


STRANGERS = {
    "float": (lambda key, a: {"y": float(a)}, "decorate it with `rd.numpy_simulator`"),
    "if": (lambda key, a: {"y": a if a > 0 else -a}, "decorate it with `rd.numpy_simulator`"),
    "SciPy": (scipy_inside, "decorate it with `rd.numpy_simulator`"),
    "a generator": (lambda rng, a: {"y": rng.normal(a)}, "decorate it with `rd.numpy_simulator`"),
    "another argument": (lambda key, b: {"y": b}, r"called as f\(key, a\), and this one is f\(key, b\)"),
    "another argument in NumPy": (
        rd.numpy_simulator(lambda rng, b: {"y": b}), r"called as f\(rng, a\), and this one is f\(rng, b\)"),
    "no key": (lambda a: {"y": a}, r"called as f\(key, a\), and this one is f\(a\)"),
    "an array": (lambda key, a: a, "a simulator returns a mapping from name to array, got an array"),
    "nothing": (rd.numpy_simulator(lambda rng, a: None), "a simulator returns a mapping"),
    "None": (lambda key, a: {"y": None}, "'y' of the simulator must be numbers, got NoneType"),
    "text": (lambda key, a: {"y": "a"}, "'y' of the simulator must be numbers, got text"),
    "complex": (lambda key, a: {"y": 1j * a}, "'y' of the simulator must be real numbers"),
    "complex in NumPy": (rd.numpy_simulator(lambda rng, a: {"y": 1j * a}), "'y' of the simulator must be real numbers"),
    "dates": (rd.numpy_simulator(lambda rng, a: {"y": np.datetime64("2020-01-01")}), "seconds since the start"),
    "masked": (
        rd.numpy_simulator(lambda rng, a: {"y": np.ma.masked_array([a, -999.0], [0, 1])}), "is a masked array"),
}  # fmt: skip


@pytest.mark.parametrize("case", STRANGERS)
def test_the_first_run_of_a_stranger_ends_in_a_sentence(case):
    simulator, sentence = STRANGERS[case]
    with pytest.raises(rd.RetrodictError, match=sentence):
        assert Problem({"a": NORMAL}, simulator).layout


# first rows -----------------------------------------------------------------------------------------------------------


def ragged(rng, a):
    return {"y": rng.normal(a, 1.0, size=rng.integers(1, 9))}


def padded(rng, a):
    values = np.full(10, np.nan)
    values[: rng.integers(1, 11)] = a
    return {"y": values}


ROWS = {
    "outside a support": (noisy, POSITIVE, r"rows of 'y' .* lie outside its declared support, > 0, such as -"),
    "zeros of a positive datum": (
        lambda key, a: {"y": jax.nn.relu(a + jax.random.normal(key))}, POSITIVE, "rows of 'y' .* such as 0 "),
    "beyond an interval": (
        noisy, {"y": dist.constraints.interval(-1.0, 1.0)}, r"outside its declared support, in \(-1, 1\)"),
    "sets of any size": (rd.numpy_simulator(ragged), {}, "of the first 32 rows have another shape: .*rd.Plate.*rd.At"),
    "padded sets": (rd.numpy_simulator(padded), {}, "of the first 32 rows of 'y' end with NaN .*rd.Plate.*rd.At"),
    "padded sets in JAX": (
        lambda key, a: {"y": jnp.where(jnp.arange(10) < jax.random.randint(key, (), 1, 11), a, jnp.nan)}, {},
        "of the first 50 rows of 'y' end with NaN"),
    "lost digits": (
        lambda key, a: {"y": 2460000.5 + a + jax.random.normal(key)}, {}, "single precision has steps of 0.25 there"),
    "all digits lost": (
        lambda key, a: {"y": 1.7e9 + a + jax.random.normal(key)}, {}, "'y' is 1.7e.09 in all .* rows, as"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_first_rows_are_compared_with_the_claims(case, tmp_path):
    simulator, supports, sentence = ROWS[case]
    problem = Problem({"a": NORMAL}, simulator, supports=supports)
    with pytest.raises(rd.DataError, match=sentence):
        rd.simulate(problem, 50, key=0)
    with pytest.raises(rd.DataError, match=sentence.partition("of the first ")[0] or "rows"):
        rd.simulate(problem, 50, key=0, store=tmp_path / "s", batch=50, progress=False)
    assert rd.open_store(tmp_path / "s").status["missing"] == 50  # refused before any row was written


def test_plain_rows_are_no_lie():
    """Positive data, data piled at an end, tiny gamma numbers, runs that blow up, constants: nothing is said."""

    def simulate(key, a):
        keys = jax.random.split(key, 4)
        return {
            "positive": jnp.exp(a + jax.random.normal(keys[0])),
            "piled": jnp.clip(a + jax.random.normal(keys[1]), 0.0, 1.0),
            "tiny": jax.random.gamma(keys[2], 0.1),
            "series": jnp.where(a > 0.5, jnp.nan, jnp.arange(4.0) * jax.random.normal(keys[3])),
            "count": 1e6 + jnp.zeros(()),
        }

    positive = dist.constraints.positive
    supports = {"positive": positive, "tiny": positive, "piled": dist.constraints.unit_interval}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sims = rd.simulate(Problem({"a": NORMAL}, simulate, supports=supports), 5000, key=0)
    assert 3000 < sims.kept < 4000


def test_single_elements_without_digits_are_a_warning():
    def simulate(key, a):
        return {"y": jnp.array([1.0, a]) + jnp.array([2e-7, 1.0]) * jax.random.normal(key, (2,))}

    with pytest.warns(UserWarning, match="1 of 2 elements of 'y', such as element 0, is about 1"):
        rd.simulate(Problem({"a": NORMAL}, simulate), 50, key=0)


# arrays for fit -------------------------------------------------------------------------------------------------------


def rows(n=60, **changes):
    rng = np.random.default_rng(0)
    plain = {"a": rng.uniform(size=n), "y": rng.normal(size=n)}
    return {**plain, **changes}


LAYOUT = Layout((Variable("a", (), 0.0, 1.0), Variable("y", kind="data")))

ARRAYS = {
    "a parameter beyond the prior": (
        rows(a=np.linspace(0.0, 1.2, 60)), r"10 of 60 rows of 'a' .* lie outside the ends of the prior, in \(0, 1\)"),
    "single precision with an offset": (
        rows(y=np.float32(2460000.5 + np.random.default_rng(1).normal(size=60))), "steps of 0.25 there"),
    "masked": (rows(y=np.ma.masked_array(np.zeros(60), np.arange(60) > 50)), r"\(9 of 60 are masked\)"),
    "complex": (rows(y=1j * np.ones(60)), "real numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARRAYS)
@pytest.mark.parametrize("argument", ["simulations", "validation"])
def test_arrays_that_do_not_fit_are_refused(case, argument):
    arrays, sentence = ARRAYS[case]
    if argument == "validation" and "offset" in case:
        pytest.skip("held-out rows share the scale of the others")
    model = rd.joint(LAYOUT, net=rd.nets.ResMLP(8, 1))
    sims, validation = (arrays, None) if argument == "simulations" else (rows(), arrays)
    with pytest.raises(rd.DataError, match=sentence):
        rd.fit(model, sims, key=0, steps=2, validation=validation, progress=False)


def test_rounding_at_the_ends_is_no_lie():
    model = rd.joint(LAYOUT, net=rd.nets.ResMLP(8, 1))
    trained, _ = rd.fit(
        model, rows(a=np.linspace(0.0, np.nextafter(np.float32(1.0), 2), 60)), key=0, steps=2, progress=False
    )
    assert trained.record.simulations == 60
    assert set(trained.sample(2, given={"a": 1.0}, key=0)) == set(LAYOUT.names) - {"a"}


def test_repeated_rows_are_said():
    model, half = rd.joint(LAYOUT, net=rd.nets.ResMLP(8, 1)), rows(30)
    twice = {name: np.tile(values, 2) for name, values in half.items()}
    with pytest.warns(UserWarning, match="30 of 60 simulations repeat another one exactly"):
        rd.fit(model, twice, key=0, steps=2, validation_fraction=0.1, progress=False)
