"""Wrong input: one table, each case with the exact sentence that a user reads.

Files are in test_saving.py, the command line in test_cli.py.
"""

import re

import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.variables import Layout, Variable


COUNTS = np.ones(3, np.float32)
TEXT = "got text; '3.5' is no number: convert it, such as np.asarray(x, float)"


def ask(**given):
    return lambda m, s: m.sample(3, given=given, key=0)


def fit(**changes):
    def call(model, sims):
        rows = {**{name: sims[name] for name in sims}, **changes}
        return rd.fit(model, {k: v for k, v in rows.items() if v is not None}, key=0, steps=1, progress=False)

    return call


def with_nan(sims):
    counts = sims["counts"].copy()
    counts[:2, 1] = np.nan
    return counts


def never(key, a):
    return {"y": a * np.nan}


QUERY, DATA, ROOT = rd.QueryError, rd.DataError, rd.RetrodictError
NAMES = "'rate', 'noise', 'counts'"
CASES = {
    "a name in given": (
        ask(cuonts=COUNTS), QUERY, f"`given` names 'cuonts'; this model has {NAMES}. Did you mean 'counts'?"),
    "a name far from all": (ask(zz=COUNTS), QUERY, f"`given` names 'zz'; this model has {NAMES}."),
    "a name in of": (
        lambda m, s: m.sample(3, of=["rates"], key=0), QUERY,
        f"`of` names 'rates'; this model has {NAMES}. Did you mean 'rate'?"),
    "nothing in of": (lambda m, s: m.sample(3, of=[], key=0), QUERY, f"`of` is empty; name at least one of {NAMES}"),
    "everything given": (
        ask(rate=1.0, noise=1.0, counts=COUNTS), QUERY,
        "nothing is left to ask: every element of `of` is given; leave something out of `given`"),
    "given is no mapping": (
        lambda m, s: m.sample(3, given=COUNTS, key=0), QUERY, "`given` must map names to values, got ndarray"),
    "a shape in given": (
        ask(counts=np.ones(4)), DATA, "'counts' in `given` must have the shape (3,), got (4,)"),
    "many observations without a Batch": (
        ask(counts=np.ones((5, 3))), DATA,
        "'counts' in `given` must have the shape (3,), got (5, 3); for many observations pass rd.Batch({...})"),
    "a Batch without a batch": (
        lambda m, s: m.sample(3, given=rd.Batch({"counts": COUNTS}), key=0), DATA,
        "'counts' in `given` must have the shape (B, 3), got (3,)"),
    "a Batch of different lengths": (
        lambda m, s: m.sample(3, given=rd.Batch({"counts": np.ones((2, 3)), "rate": np.ones(4)}), key=0), DATA,
        "every variable in a Batch needs the same number of observations, got {'counts': 2, 'rate': 4}"),
    "text for numbers": (ask(counts="abc"), DATA, "'counts' in `given` must be numbers, " + TEXT),
    "an array of text": (
        ask(counts=np.asarray(["a", "b", "c"])), DATA, "'counts' in `given` must be numbers, " + TEXT),
    "complex numbers": (
        ask(counts=1j * COUNTS), DATA,
        "'counts' in `given` must be real numbers, got complex ones; write the real and the imaginary part as "
        "two elements"),
    "rows of other lengths": (
        ask(counts=[[1.0, 2.0], [3.0]]), DATA,
        "'counts' in `given` must be numbers in rows of equal length; a set of any size is written as sites "
        "(rd.Plate), as a function at points (rd.At), or with NaN for what is missing"),
    "an infinite datum": (
        ask(counts=np.asarray([1.0, np.inf, 0.0])), DATA,
        "'counts' in `given` is infinite somewhere; write NaN for what was not observed"),
    "a value below its support": (ask(rate=-1.0), DATA, "'rate' in `given` is -1, outside its support (0, inf)"),
    "a value above its support": (ask(noise=9.0), DATA, "'noise' in `given` is 9, outside its support (0.5, 1.5)"),
    "negative n": (
        lambda m, s: m.sample(-3, key=0), QUERY, "the number of draws must be a positive whole number, got -3"),
    "n is no whole number": (
        lambda m, s: m.sample(2.5, key=0), QUERY, "the number of draws must be a positive whole number, got 2.5"),
    "a density of nothing": (
        lambda m, s: m.log_prob({}), QUERY, "`values` must map at least one name to its values"),
    "a density of an unknown": (
        lambda m, s: m.log_prob({"rat": np.ones(2)}), QUERY,
        f"`values` names 'rat'; this model has {NAMES}. Did you mean 'rate'?"),
    "a density of what is given": (
        lambda m, s: m.log_prob({"rate": np.ones(2)}, given={"rate": 1.0}), QUERY,
        "'rate' has an element that is both asked and given; ask for what is not given"),
    "a density of NaN": (
        lambda m, s: m.log_prob({"rate": np.asarray([1.0, np.nan])}), DATA,
        "`values` has NaN in some rows only; NaN leaves an element out, in every row or in none"),
    "a mask of a wrong shape": (
        lambda m, s: m.sample(3, of={"counts": [True]}, key=0), QUERY,
        "`of` maps 'counts' to the elements that are asked, booleans of the shape (3,), got bool of the shape (1,)"),
    "a density without rows": (
        lambda m, s: m.log_prob({"rate": np.ones((2, 2))}), DATA,
        "'rate' in `values` must have the shape (n,), got (2, 2)"),
    "densities of different lengths": (
        lambda m, s: m.log_prob({"rate": np.ones(2), "noise": np.ones(3)}), DATA,
        "every variable in `values` needs the same number of rows, got {'rate': 2, 'noise': 3}"),
    "densities that do not pair": (
        lambda m, s: m.log_prob({"rate": np.ones(2)}, given=rd.Batch({"counts": np.ones((5, 3))})), DATA,
        "`values` has 2 rows and the Batch 5 observations; they are paired row by row"),
    "no step of a solver": (
        lambda m, s: m.sample(3, solver=rd.solvers.Euler(0), key=0), QUERY,
        "a solver needs at least one step, got steps=0"),
    "a variable is missing in training": (
        fit(counts=None), DATA, "'counts' is missing in the simulations, which have 'rate', 'noise'"),
    "a shape in training": (
        fit(rate=np.ones((500, 2))), DATA, "'rate' in the simulations must have the shape (n,), got (500, 2)"),
    "rows that do not match in training": (
        fit(rate=np.ones(499)), DATA,
        "every variable in the simulations needs the same number of rows, got {'rate': 499, 'noise': 500, "
        "'counts': 500}"),
    "NaN in training": (
        lambda m, s: fit(counts=with_nan(s))(m, s), DATA,
        "2 of 500 simulations are not finite (in counts); take these rows out: `rd.simulate` does so and counts them"),
    "text in training": (
        fit(rate=np.asarray(["a"] * 500)), DATA, "'rate' in the simulations must be numbers, " + TEXT),
    "training on an array": (
        lambda m, s: rd.fit(m, s["rate"], key=0), DATA, "simulations are a mapping from name to array, got ndarray"),
    "too few rows": (
        lambda m, s: rd.fit(m, {k: v[:5] for k, v in s.items()}, key=0), DATA,
        "training needs at least 20 simulations, got 5"),
    "no steps": (
        lambda m, s: rd.fit(m, s, key=0, steps=0), DATA, "`steps` must be a positive whole number, got 0"),
    "a negative decay": (
        lambda m, s: rd.fit(m, s, key=0, weight_decay=-1.0), DATA,
        "`weight_decay` must be zero or positive, got -1.0"),
    "a constant": (
        lambda m, s: rd.fit(rd.joint(s.layout), {**s, "rate": np.ones(500)}, key=0), DATA,
        "'rate' has an element that is the same in all 475 rows, from which nothing can be learned about it; draw it "
        "from a prior, or write it into the simulator"),
    "no simulations": (
        lambda m, s: rd.simulate(rd.Problem({"a": dist.Normal()}, never), 0, key=0), DATA,
        "the number of simulations must be positive, got 0"),
    "a simulator that always fails": (
        lambda m, s: rd.simulate(rd.Problem({"a": dist.Normal()}, never), 9, key=0), ROOT,
        "none of 9 simulations ended with finite data: check the simulator on one draw"),
    "a simulator that returns no mapping": (
        lambda m, s: rd.Problem({"a": dist.Normal()}, lambda key, a: a).layout, ROOT,
        "a simulator returns a mapping from name to array, got an array"),
    "a name for two things": (
        lambda m, s: rd.Problem({"a": dist.Normal()}, lambda key, a: {"a": a}).layout, DATA,
        "'a' would be both a parameter and data: give the data another name"),
    "a prior that is a number": (
        lambda m, s: rd.Problem({"a": 3.0}, never), ROOT,
        "a prior is a numpyro distribution or a function that returns one, got 3.0"),
    "a prior that looks ahead": (
        lambda m, s: rd.Problem({"a": lambda b: dist.Normal(b), "b": dist.Normal()}, never), ROOT,
        "the prior of 'a' depends on 'b', but only nothing comes before it"),
    "a support that moves": (
        lambda m, s: rd.Problem({"b": dist.HalfNormal(), "a": lambda b: dist.Uniform(0.0, b)}, never).layout, ROOT,
        "the support of 'a' moves with 'b'; give it a fixed support (draw a fraction of the interval, and scale it in "
        "the simulator)"),
    "a simplex": (
        lambda m, s: rd.Problem({"a": dist.Dirichlet(np.ones(3))}, never), ROOT,
        "'a' has the support Simplex(); only the reals, half-lines and intervals are modeled: write it as a function "
        "of variables that have one of these"),
    "an empty prior": (lambda m, s: rd.Problem({}, never), DATA, "a problem needs at least one parameter in its prior"),
    "no layout": (
        lambda m, s: rd.joint(s), DATA, "a model is made for a layout, such as `sims.layout`, got Simulations"),
    "a net without width": (
        lambda m, s: rd.nets.ResMLP(0), DATA, "ResMLP needs a positive width and depth, got width=0, depth=3"),
    "an unknown task": (
        lambda m, s: rd.tasks.get("two_mons"), DATA,
        "`tasks.get` names 'two_mons'; retrodict has the tasks "
        + ", ".join(f"'{name}'" for name in rd.tasks.names()) + ". Did you mean 'two_moons'?"),
    "an observation that is not there": (
        lambda m, s: rd.tasks.get("two_moons").observation(11), DATA,
        "the observations of 'two_moons' have the numbers k = 1 to 10, got 11"),
    "two variables of one name": (
        lambda m, s: Layout((Variable("a"), Variable("a"))), DATA,
        "every variable needs a name of its own, got 'a', 'a'"),
    "a prior cut for many": (
        lambda m, s: rd.truncate(None, m, given=rd.Batch({"counts": COUNTS[None]})), QUERY,
        "a prior is truncated for one observation, not for a Batch of them"),
    "a mass of more than one": (
        lambda m, s: rd.truncate(None, m, given={}, mass=1.5), QUERY, "`mass` must lie between 0 and 1, got 1.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_input_gets_one_clear_sentence(case, model, sims):
    call, kind, sentence = CASES[case]
    with pytest.raises(kind, match=f"^{re.escape(sentence)}$"):
        call(model, sims)
