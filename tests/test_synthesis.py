"""Parts that teach each other: the simulations that a surrogate makes have the law of the real ones."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import retrodict as rd
from retrodict import synthesis
from retrodict.models import IntegerElements, MixtureDensity


PARTS, NOISE = 3, 0.5


def problem():
    def simulate(key, level):
        return {"x": level + NOISE * jax.random.normal(key, (PARTS,))}

    return rd.Problem({"level": dist.Normal(0.0, 1.0)}, simulate)


ALIKE = rd.Dependencies({"x": ["level"]}, exchangeable={"x": PARTS})


@pytest.mark.slow
def test_synthetic_simulations_have_the_law_of_real_ones():
    """x = level + noise: the covariance of (level, x_1, x_2, x_3) is 1 everywhere, 1.25 on the diagonal of x."""
    sims = rd.simulate(problem(), 2000, key=0)
    held = rd.simulate(problem(), 200, key=1)
    model, _ = synthesis.surrogate(sims, ALIKE, key=2, width=32, depth=2, validation=held, steps=600, progress=False)
    made = synthesis.synthesize(problem(), model, 5000, key=3)
    assert made.layout == sims.layout
    found = np.cov(np.column_stack([made["level"], made["x"]]).T)
    exact = np.ones((4, 4)) + np.diag([0.0, *[NOISE**2] * PARTS])
    # covariances of 5,000 rows have standard deviations below .025; a net this small errs by as much again
    np.testing.assert_allclose(found, exact, atol=0.15)
    # what parts have in common is the level and nothing else
    noise = made["x"] - made["level"][:, None]
    assert np.abs(np.corrcoef(noise.T)[np.triu_indices(PARTS, 1)]).max() < 0.08


def unlike(key, theta):
    """A line with little noise, a parabola, and a count: of one parameter each."""
    a, b, c = jax.random.normal(key, (3,))
    line, bend, count = 2.0 * theta[0] + 0.1 * a, theta[1] ** 2 + 0.5 * b, jnp.round(5.0 + 2.0 * theta[0] + c)
    return {"x": jnp.stack([line, bend]), "count": count}


UNLIKE = rd.Dependencies({"x[0]": ["theta[0]"], "x[1]": ["theta[1]"], "count": ["theta[0]"]})


@pytest.mark.slow
def test_parts_that_differ_keep_their_own_laws():
    """Means and standard deviations given the parameters, of 5,000 rows each: the bars are those of a small net."""
    prior = {"theta": dist.Uniform(-1.0, 1.0).expand([3]).to_event(1)}
    problem = rd.Problem(prior, unlike, supports={"count": constraints.positive})
    # of 2,000, 100 are held out, and these do not tell the parabola from a line by two standard errors
    sims = rd.simulate(problem, 6000, key=0)
    found = synthesis.factors_of(sims.layout, UNLIKE)
    assert found.tokens.tolist() == [[3], [4], [5]]
    assert len(set(found.kind)) == 3
    assert found.parameters.tolist() == [0, 1]  # nothing depends on the third
    assert found.parents.tolist() == [[True, False], [True, False], [False, True]]  # the count, the line, the parabola
    learned, _ = synthesis.surrogate(sims, UNLIKE, key=2, width=32, depth=2, steps=1500, progress=False)
    made = synthesis.synthesize(problem, learned, 5000, key=3)
    theta, (line, bend), count = made["theta"], made["x"].T, made["count"]
    assert (count == np.round(count)).all()
    assert count.min() >= np.min(sims["count"])
    left = np.stack([line - 2.0 * theta[:, 0], bend - theta[:, 1] ** 2, count - 5.0 - 2.0 * theta[:, 0]])
    # the regression knows a line to .1 / sqrt(6,000)
    assert abs(left[0].mean()) < 0.01
    np.testing.assert_allclose(left.std(axis=1), [0.1, 0.5, (1.0 + 1.0 / 12.0) ** 0.5], rtol=0.15)
    high = np.abs(theta[:, 1]) > 0.7  # there a line through the parabola would be .3 too low
    assert abs(left[1][high].mean()) < 0.1
    # independent given the parameters: of 5,000 rows correlations beyond .08 come once in 10^7
    assert np.abs(np.corrcoef(left)[np.triu_indices(3, 1)]).max() < 0.08


def test_counts_of_parts_that_are_alike_are_looked_at_alike():
    """One of them was never zero, and another never as high: they share a network, and so a scale."""
    rows = np.array([[0.5, 3, 0, 0.5], [0.7, 9, 4, 1.0], [0.2, 5, 7, 2.0]])
    whole = IntegerElements.of(rows, [np.array([1, 2]), np.array([3])])
    assert whole.is_integer.tolist() == [False, True, True, False]
    assert whole.smallest[1:3].tolist() == [0, 0]
    assert whole.largest[1:3].tolist() == [9, 9]
    np.testing.assert_allclose(whole.to_integers(whole.to_roots(rows)), rows)
    assert (np.diff(whole.to_roots(rows + np.array([-0.5, 0.0, 0.5])[:, None, None]), axis=0)[:, :, 1:3] > 0).all()


@pytest.mark.slow
def test_a_count_that_follows_from_a_count():
    """Mostly zero, and what comes after tells zero from one: drawn counts are seen as rows have them."""

    def simulate(key, rate):
        few, noise = jax.random.split(key)
        n = jax.random.poisson(few, jnp.exp(0.3 * rate - 1.5)).astype(float)
        return {"x": jnp.stack([n, jnp.round(3.0 + 4.0 * (n > 0) + jax.random.normal(noise))])}

    problem = rd.Problem({"rate": dist.Normal(0.0, 1.0)}, simulate)
    sims, fresh = (rd.simulate(problem, n, key=n) for n in (4000, 5000))
    learned, _ = synthesis.surrogate(sims, key=2, width=32, depth=2, steps=600, progress=False)
    made, true = np.asarray(synthesis.synthesize(problem, learned, 5000, key=3)["x"]), np.asarray(fresh["x"])
    assert (made == np.round(made)).all()
    # of 1,000 rows above zero a mean has the sd .03, of 4,000 at zero .02; the net as much again
    for zero in (True, False):
        means = [rows[(rows[:, 0] == 0) == zero, 1].mean() for rows in (made, true)]
        assert abs(means[0] - means[1]) < 0.3
    assert abs((made[:, 0] == 0).mean() - (true[:, 0] == 0).mean()) < 0.04


def test_without_structure_all_data_are_one_part():
    """Of a sum and a difference of two normal numbers, and a positive one: their dependence given the parameter."""

    def simulate(key, level):
        a, b, c = jax.random.normal(key, (3,))
        return {"x": jnp.stack([level + a, level + 0.8 * a + 0.6 * b]), "size": jnp.exp(0.5 * level + 0.2 * c)}

    problem = rd.Problem({"level": dist.Normal(0.0, 1.0)}, simulate, supports={"size": constraints.positive})
    sims = rd.simulate(problem, 2000, key=0)
    learned, _ = synthesis.surrogate(sims, key=2, width=32, depth=2, steps=600, progress=False)
    assert learned.factors.tokens.tolist() == [[1, 2, 3]]
    made = synthesis.synthesize(problem, learned, 5000, key=3)
    level, (x, y), size = made["level"], made["x"].T, made["size"]
    assert (size > 0).all()
    left = np.stack([x - level, y - level, (np.log(size) - 0.5 * level) / 0.2])
    exact = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    # sd of a covariance of 5,000 rows: .02 at most; the regression on 2,000 rows and the net add .03
    np.testing.assert_allclose(np.cov(left), exact, atol=0.15)


def test_the_shares_of_mixtures_are_those_that_make_rows_the_likeliest():
    """Three rows in ten are of one law, the others of a second, and none of a third: 5 standard errors of a share."""
    rng, n = np.random.default_rng(0), 20_000
    x = np.where(rng.random(n) < 0.3, rng.normal(size=n), 4.0 + rng.normal(size=n))
    logs = np.stack([stats.norm.logpdf(x), stats.norm.logpdf(x, 4.0), stats.norm.logpdf(x, -20.0)])
    np.testing.assert_allclose(synthesis.stacked(logs), [0.3, 0.7, 0.0], atol=5 * np.sqrt(0.25 / n))


def test_every_mixture_makes_its_share(monkeypatch):
    """Of two that repeat what they are told, and where they are: two in five from the first, in all parts at once."""
    sims = rd.simulate(problem(), 200, key=0)
    learned, _ = synthesis.surrogate(sims, ALIKE, key=2, width=8, depth=1, steps=2, progress=False)
    said = iter((0.0, 100.0))
    monkeypatch.setattr(MixtureDensity, "sample", lambda self, inputs, kind, key: inputs + np.float32(next(said)))
    learned = dataclasses.replace(learned, shares=(0.4, 0.6))
    made = synthesis.synthesize(problem(), learned, 10, key=0)
    told = learned.scaling.of_rows(np.asarray(made["level"], np.float32)[:, None])
    exact = told + np.where(np.arange(10) < 4, 0.0, 100.0)[:, None]
    np.testing.assert_allclose(made["x"], np.broadcast_to(exact, (10, PARTS)), atol=1e-3)


def test_unlike_numbers_of_the_same_parents_are_read_together():
    together = synthesis.factors_of(problem().layout, rd.Dependencies({"x": ["level"]}))
    assert together.free
    assert together.tokens.tolist() == [[1, 2, 3]]
    apart = synthesis.factors_of(problem().layout, ALIKE)
    assert not apart.free
    assert apart.tokens.tolist() == [[1], [2], [3]]


REFUSED = {
    "nothing independent": (rd.Dependencies({"x": ["level", "x"]}), "by the declared structure 'x' hang together"),
    "parts of unequal size": (rd.Dependencies({"x": ["level"], "x[1]": ["x[0]"]}), "these have [1, 2] elements"),
    "parameters after data": (rd.Dependencies({"level": ["x[0]"]}), "a parameter is declared to depend on data"),
    "parts that depend on each other": (
        rd.Dependencies({"x": ["level", "x"]}, exchangeable={"x": PARTS}),
        "'x' does not consist of 3 interchangeable parts",
    ),
    "a number of parts": (rd.Dependencies({"x": ["level"]}, exchangeable={"x": 2}), "do not divide into 2 equal parts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_structure_that_does_not_allow_it_is_refused(case):
    dependencies, message = REFUSED[case]
    with pytest.raises(rd.DataError, match=re.escape(message)):
        synthesis.surrogate(rd.simulate(problem(), 50, key=0), dependencies, key=0)


@pytest.mark.slow
def test_validation_is_on_other_simulations(sims):
    """With a validation set of another law, the best loss is that of this law: worse by its shift."""
    far = {name: np.asarray(values) for name, values in sims.items()}
    far["counts"] = far["counts"] + 30.0
    model = rd.likelihood(sims.layout, net=rd.nets.ResMLP(8, 1))
    own = rd.fit(model, sims, key=0, steps=20, progress=False)[1].best
    other = rd.fit(model, sims, key=0, steps=20, validation=far, progress=False)[1].best
    assert other > own + 1.0
