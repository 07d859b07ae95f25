"""Parts that teach each other: the simulations that a surrogate makes have the law of the real ones."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict import synthesis


PARTS, NOISE = 3, 0.5


def problem():
    def simulate(key, level):
        return {"x": level + NOISE * jax.random.normal(key, (PARTS,))}

    return rd.Problem({"level": dist.Normal(0.0, 1.0)}, simulate)


ALIKE = rd.Dependencies({"x": ["level"]}, exchangeable={"x": PARTS})


def test_synthetic_simulations_have_the_law_of_real_ones():
    """x = level + noise: the covariance of (level, x_1, x_2, x_3) is 1 everywhere, 1.25 on the diagonal of x."""
    sims = rd.simulate(problem(), 2000, key=0)
    held = rd.simulate(problem(), 200, key=1)
    model, history = synthesis.surrogate(
        sims, ALIKE, key=2, net=rd.nets.ResMLP(32, 1), validation=held, steps=600, progress=False
    )
    assert history.ended == "finished"
    made = synthesis.synthesize(problem(), model, ALIKE, 5000, key=3)
    assert made.layout == sims.layout
    found = np.cov(np.column_stack([made["level"], made["x"]]).T)
    exact = np.ones((4, 4)) + np.diag([0.0, *[NOISE**2] * PARTS])
    # covariances of 5,000 rows have standard deviations below .025; a net this small errs by as much again
    np.testing.assert_allclose(found, exact, atol=0.15)
    # what parts have in common is the level and nothing else
    noise = made["x"] - made["level"][:, None]
    assert np.abs(np.corrcoef(noise.T)[np.triu_indices(PARTS, 1)]).max() < 0.08


REFUSED = {
    "nothing declared": (rd.Dependencies({"x": ["level"]}), "declared exchangeable are none"),
    "parts that depend on each other": (
        rd.Dependencies({"x": ["level", "x"]}, exchangeable={"x": PARTS}),
        "'x' does not consist of 3 interchangeable parts",
    ),
    "a number of parts": (rd.Dependencies({"x": ["level"]}, exchangeable={"x": 2}), "do not divide into 2 equal parts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_structure_that_does_not_allow_it_is_refused(case):
    dependencies, message = REFUSED[case]
    with pytest.raises(rd.DataError, match=message):
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
