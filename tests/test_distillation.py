"""Distillation: a sampler ends where the solver of its model does, answers one family of queries, and is tested."""

import dataclasses

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.models import SAMPLER, DistilledDensity, Family, MixtureDensity, Proof, Sizes
from retrodict.models import _distilled as distilled
from retrodict.models._flow_rows import ends_of
from retrodict.roles import GIVEN, LATENT
from retrodict.training import _distill as distillation
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout, Variable


@pytest.fixture(scope="module")
def sims():
    problem = rd.Problem({"mu": dist.Normal(0.0, 2.0)}, lambda key, mu: {"y": mu + 0.5 * jax.random.normal(key, (2,))})
    return rd.simulate(problem, 1000, key=0)


@pytest.fixture(scope="module")
def model(sims):
    return rd.fit(rd.joint(sims.layout, net=rd.nets.ResMLP(16, 1)), sims, key=0, steps=500, progress=False)[0]


@pytest.fixture(scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "TRAINING_PAIRS", 8192)
        patch.setattr(distillation, "VALIDATION_PAIRS", 512)
        patch.setattr(distilled, "ROWS_PER_BLOCK", 512)  # 2,001 points below are four blocks, the last of them padded
        patch.setattr(distillation, "c2st", lambda one, other: 0.51)
        yield


HOW = {"net": rd.nets.ResMLP(32, 2), "steps": 1500, "observations": 3, "draws": 200, "progress": False, "key": 0}


@pytest.fixture(scope="module")
def sampler(model, sims, quick):
    return rd.distill(model, sims, given=["y"], **HOW)[0]


def test_a_sampler_ends_where_its_model_does(model, sims, sampler):
    """The same noise, within .05 standard deviations in the mean over what was not learned from."""
    fresh = rd.simulate(sims.problem, 256, key=1)
    z = model.scaling.of_rows(distillation.held_out_tokens(model, fresh))
    roles = np.tile(np.array(sampler.family.roles), (256, 1))
    ends = [
        np.asarray(ends_of(one.core(), solver, z, roles, jax.random.key(0))[1])[:, 0]
        for one, solver in ((model, SAMPLER), (sampler.model, sampler.solver))
    ]
    assert np.abs(ends[0] - ends[1]).mean() < 0.05
    assert ends[0].std() > 0.5


def test_draws_are_those_of_the_model(model, sampler):
    """5 standard errors of 4,000 draws, and the error of the sampler."""
    for y in ([0.5, 1.0], [-1.0, 0.2]):
        given = {"y": np.array(y, np.float32)}
        pair = [one.sample(4000, given=given, key=k)["mu"] for k, one in enumerate((model, sampler))]
        sd = pair[0].std()
        assert abs(pair[0].mean() - pair[1].mean()) < 5.0 * sd * np.sqrt(2 / 4000) + 0.1 * sd
        assert pair[1].std() == pytest.approx(sd, rel=0.15)


def test_batches_and_files(sampler, tmp_path):
    given = rd.Batch({"y": np.array([[0.5, 1.0], [-1.0, 0.2]], np.float32)})
    draws = sampler.sample(5, given=given, key=0)["mu"]
    assert draws.shape == (2, 5)
    loaded = rd.load(rd.save(sampler, tmp_path / "sampler.safetensors"))
    np.testing.assert_array_equal(loaded.sample(5, given=given, key=0)["mu"], draws)
    assert loaded.proof == sampler.proof == Proof((0.51, 0.51, 0.51), 0.52)
    assert loaded.evaluations == sampler.evaluations == 1


def test_another_question_is_refused(sampler):
    with pytest.raises(rd.QueryError, match="answers 'mu' given 'y', and nothing else; ask the model"):
        sampler.sample(3, given={"mu": 0.3}, of=["y"], key=0)


def test_a_question_about_elements(model, sims, quick):
    """y[1] given mu and y[0]."""
    given = {"mu": np.array(True), "y": np.array([True, False])}
    short = {**HOW, "steps": 2}
    sampler, _ = rd.distill(model, sims, given=given, of=["y"], **short)
    draws = sampler.sample(4, given={"mu": 0.2, "y": np.array([0.1, np.nan])}, key=0)["y"]
    assert np.isfinite(draws[:, 1]).all()


def test_a_sampler_that_did_not_pass_says_so(model, sims, quick, monkeypatch):
    monkeypatch.setattr(distillation, "c2st", lambda one, other: 0.7)
    with pytest.warns(rd.DistillationWarning, match=r"from the model's with an accuracy of 0\.700, the bar is 0\.52"):
        sampler, _ = rd.distill(model, sims, given=["y"], **{**HOW, "steps": 2})
    assert not sampler.proof.ok


def test_the_classifier_sees_both(model, sims, sampler, monkeypatch):
    """Equal observations, and the elements that were asked."""
    seen = []
    monkeypatch.setattr(distillation, "c2st", lambda one, other: seen.append((one, other)) or 0.5)
    task = distillation._DistillationTask.of(model, sims, ["y"], None, SAMPLER, 2)
    tokens, keys = task.tokens, jax.random.split(jax.random.key(0))
    assert distillation._accuracies(task, sampler, 2, 300, keys) == (0.5, 0.5)
    for i, (theirs, its) in enumerate(seen):
        assert theirs["mu"].shape == its["mu"].shape == (300, 1)
        one = model.sample(2000, given={"y": tokens[i, 1:]}, key=3)["mu"]
        for draws in (theirs["mu"], its["mu"]):
            assert abs(draws.mean() - one.mean()) < 0.5 * one.std()


WRONG = {
    "no evaluation": ({"evaluations": 0}, rd.QueryError, "at least one evaluation, got 0"),
    "nothing given": ({"given": []}, rd.QueryError, "`given` names nothing"),
    "too many to judge by": ({"observations": 600}, rd.DataError, "need 1200 simulations"),
    "a solver with noise": ({"solver": rd.solvers.EulerMaruyama()}, rd.QueryError, "draws noise on its way"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case, model, sims):
    changed, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        rd.distill(model, sims, **{"given": ["y"], **HOW, **changed})


NOT_DISTILLED = {
    "functions": lambda: rd.joint(
        Layout((Variable("mu"), Variable("f", (4,), kind="data", axes=1), Variable("f.at", (4,), kind="place"))),
        net=rd.nets.PointMLP(8, 1),
    ),
    "an embedding": lambda: rd.joint(
        Layout((Variable("mu"), Variable("y", (8,), kind="data"))),
        net=rd.nets.ResMLP(8, 1, embed={"y": rd.nets.SetEncoder()}),
    ),
    "sites": lambda: rd.hierarchical(
        Layout((Variable("g"), Variable("y", kind="data", plate="site"))),
        site=rd.nets.ResMLP(8, 1),
        flow=rd.nets.ResMLP(8, 1),
    ),
}


@pytest.mark.parametrize("case", NOT_DISTILLED)
@pytest.mark.parametrize("distill", [rd.distill, rd.distill_density])
def test_models_that_cannot_be_distilled(case, distill):
    with pytest.raises(rd.QueryError, match=r"without functions or embeddings|takes a model of"):
        distill(NOT_DISTILLED[case](), {}, given=["y"], key=0)


@pytest.fixture(scope="module")
def distilled_density(model, sims, quick):
    return rd.distill_density(model, sims, given=["y"], width=16, depth=1, steps=300, progress=False, key=0)[0]


def test_a_density_is_that_of_the_model_and_knows_its_error(model, sims, distilled_density):
    fresh = rd.simulate(sims.problem, 300, key=2)
    values, given = {"mu": np.asarray(fresh["mu"])}, rd.Batch({"y": np.asarray(fresh["y"])})
    gap = model.log_prob(values, given=given) - distilled_density.log_prob(values, given=given)
    assert abs(gap.mean()) < 0.05
    assert distilled_density.kl == pytest.approx(0.0, abs=0.03)
    assert 0.0 < distilled_density.spread < 0.3


def test_a_density_that_is_far_too_wide_says_so(model, sims, quick, monkeypatch):
    """log 10 - .495 nats more than the Gaussian of the same variance, at the same draws; their mean square is
    one, and known to .5 from 300 of them, as this model has heavy tails."""

    def told(stretch):
        def fit(start, *rows, **how):
            mixture = start.baseline_only()
            baseline = mixture.baseline._replace(log_sd=mixture.baseline.log_sd + np.log(stretch))
            return dataclasses.replace(mixture, baseline=baseline), None

        monkeypatch.setattr(distillation, "fit_mixture", fit)
        return rd.distill_density(model, sims, given=["y"], observations=300, key=0)[0].kl

    assert told(10.0) - told(1.0) == pytest.approx(np.log(10.0) - 0.495, abs=0.3)


def test_a_density_integrates_to_one_and_has_gradients(distilled_density):
    grid, y = np.linspace(-8.0, 8.0, 2001), np.array([0.5, 1.0], np.float32)
    density = np.exp(distilled_density.log_prob({"mu": grid}, given={"y": y}))
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-3)
    row = np.array([0.3, *y], np.float32)
    slope = jax.grad(distilled_density.log_density)(row)
    step = np.array([1e-2, 0.0, 0.0], np.float32)
    numeric = (
        float(distilled_density.log_density(row + step)) - float(distilled_density.log_density(row - step))
    ) / 2e-2
    assert float(slope[0]) == pytest.approx(numeric, abs=2e-2)


def test_a_density_in_a_file_and_another_query(distilled_density, tmp_path):
    loaded = rd.load(rd.save(distilled_density, tmp_path / "density.safetensors"))
    values, given = {"mu": np.array([0.1, 0.2])}, {"y": np.zeros(2)}
    np.testing.assert_array_equal(loaded.log_prob(values, given=given), distilled_density.log_prob(values, given=given))
    assert (loaded.kl, loaded.spread) == (distilled_density.kl, distilled_density.spread)
    with pytest.raises(rd.QueryError, match="answers 'mu' given 'y'"):
        distilled_density.log_prob({"y": np.zeros((1, 2))}, given={"mu": 0.0})


def test_no_density_outside_the_support():
    problem = rd.Problem({"a": dist.Uniform(0.0, 1.0)}, lambda key, a: {"x": a + 0.1 * jax.random.normal(key)})
    layout = problem.layout
    sizes = Sizes(1, 1, 1, width=4, depth=1)
    mixture = MixtureDensity.blank(sizes, key=jax.random.key(0))
    family = Family(layout, tuple(np.where(layout.is_parameter, LATENT, GIVEN).tolist()))
    distilled_density = DistilledDensity(family, 0.0, 0.0, Scaling.identity(layout), mixture)
    found = distilled_density.log_prob({"a": np.array([-0.1, 0.5, 1.1])}, given={"x": 0.2})
    assert np.isfinite(found).tolist() == [False, True, False]
