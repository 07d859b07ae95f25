"""Calibration that is kept with a model, warnings at the moment of asking, and data that do not fit."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import binom

import retrodict as rd
from conftest import LAYOUT, normals
from retrodict.evaluation import misspecification as likeness
from retrodict.models import ReferenceData, nearest_neighbor_distance
from retrodict.query import distance
from retrodict.variables import Layout, Variable


SMALL = {"observations": 60, "draws": 20, "densities": 4}  # the same everywhere: compiled once
QUICK = {**SMALL, "densities": 0}


@pytest.fixture(scope="module")
def checked(normal):
    return rd.check(normal, normals(200, 1), given=["x"], key=2, **SMALL)


def warned(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in found if one.category is rd.CalibrationWarning]


OBSERVED = {"x": np.array([0.1, -0.3, 0.6, 0.2])}


def test_a_right_model_passes_and_carries_the_outcome(normal, checked):
    model, outcome = checked
    assert outcome.ok
    assert not normal.record.calibrations  # values, not states
    (own,) = model.calibration.calibrations
    assert own == outcome.calibration
    assert own.shares == (("a", 0.0, 1.0), ("b", 0.0, 1.0), ("x", 1.0, 0.0))
    assert own.question == "a, b given x"
    assert own.simulations == 60
    assert own.draws == 20
    assert dict(own.p_values) == {
        "sbc": outcome.sbc.p_value,
        "coverage": outcome.coverage.p_value,
        "tarp": outcome.tarp.p_value,
        "log_prob": outcome.log_prob.p_value,
    }
    assert outcome.sbc.labels == ("a", "b[0]", "b[1]")
    assert set(outcome.coverage.sizes) == {"a", "b[0]", "b[1]", "joint"}
    # minus the entropy of three standard normals; log q has a variance of 3 / 2: 4 standard errors of 60
    assert own.score == pytest.approx(-1.5 * (1 + np.log(2 * np.pi)), abs=4 * np.sqrt(1.5 / 60))
    assert warned(lambda: model.sample(5, given=OBSERVED, key=0)) == []


@pytest.mark.slow
def test_an_outcome_is_told_in_a_line(checked):
    """As it is printed: thousands of ranks tell nobody anything."""
    found = checked[1]
    assert len(repr(found.sbc)) + len(repr(found.tarp)) < 200
    assert len(repr(checked[0].record)) < 2000  # 200 rows of what data look like are 3,200 bytes
    assert repr(found).startswith(f"Check(passed, p = {found.p_value:.2g} at a level of 0.05 (sbc")
    assert len(repr(found)) < 200


def test_the_verdict_is_bonferronis(checked):
    _, outcome = checked
    p_values = dict(outcome.calibration.p_values)
    assert len(p_values) == 4
    assert outcome.p_value == min(1.0, 4 * min(p_values.values()))
    assert outcome.ok == (outcome.p_value > outcome.calibration.level)


@pytest.mark.slow
def test_false_alarms_of_the_whole_check_are_as_stated(normal):
    """100 checks at a level of 20 %: above 37 failures once in 10,000 at most; at a rate of 50 % 99 times in 100."""
    failed = sum(
        not rd.check(normal, normals(60, 10 + i), given=["x"], level=0.2, key=i, **QUICK)[1].ok for i in range(100)
    )
    assert binom.sf(37, 100, 0.2) < 1e-4
    assert failed <= 37


def test_a_wrong_model_fails_and_says_so_when_asked(normal):
    model, outcome = rd.check(normal, normals(200, 3, shift=1.0), given=["x"], key=2, **SMALL)
    assert not outcome.ok
    (sentence,) = warned(lambda: model.sample(5, given=OBSERVED, key=0))
    assert sentence.startswith("the check of a, b given x failed (sbc p = ")
    assert "\n" not in sentence


@pytest.mark.slow
def test_without_densities_joint_regions_are_left_out(normal):
    _, outcome = rd.check(normal, normals(60, 4), given=["x"], key=0, **QUICK)
    assert outcome.log_prob is None
    assert set(outcome.coverage.sizes) == {"a", "b[0]", "b[1]"}


@pytest.mark.slow
def test_parts_of_a_variable_may_be_given_and_asked(normal):
    mask = np.array([True, True, False, True])
    _, outcome = rd.check(normal, normals(60, 5), given={"x": mask}, of=["x", "a"], key=0, **QUICK)
    assert outcome.sbc.labels == ("x[2]", "a")
    assert outcome.calibration.shares == (("a", 0.0, 1.0), ("b", 0.0, 0.0), ("x", 0.75, 0.25))


def test_a_record_survives_save_and_load(checked, tmp_path):
    model, _ = checked
    loaded = rd.load(rd.save(model, tmp_path / "m.safetensors"))
    assert loaded.record == model.record
    assert loaded.calibration.calibrations
    assert warned(lambda: loaded.sample(5, given={"a": 0.0}, key=0))


def test_a_changed_model_drops_its_record(checked, tmp_path):
    model, _ = checked
    changed = jax.tree.map(lambda leaf: leaf + 1e-6 if leaf.dtype == jnp.float32 else leaf, model.net)
    changed = dataclasses.replace(model, net=changed)
    assert changed.calibration.calibrations == ()
    assert changed.reference == model.reference  # they depend on coordinates, not on weights
    assert warned(lambda: changed.sample(5, given={"a": 0.0}, key=0)) == []  # but that it is untrained
    assert rd.load(rd.save(changed, tmp_path / "m.safetensors")).record.calibrations == ()


@pytest.mark.slow
def test_further_training_drops_the_record(checked):
    further, _ = rd.fit(checked[0], normals(60, 9), key=1, steps=2, batch_size=32, progress=False)
    assert further.record.calibrations == ()
    assert further.reference.simulations == 55


def test_another_check_of_a_family_replaces_the_first(checked):
    model, first = checked
    again, second = rd.check(model, normals(60, 6), given=["x"], key=0, **QUICK)
    assert again.calibration.calibrations == (second.calibration,)
    both, third = rd.check(model, normals(60, 6), given=["a"], key=0, **QUICK)
    assert both.calibration.calibrations == (first.calibration, third.calibration)


def test_a_question_far_from_all_checks_is_told(checked):
    model, _ = checked
    (sentence,) = warned(lambda: model.sample(5, given={"a": 0.0}, key=0))
    assert "far from those that were checked (a, b given x) in the role of" in sentence
    assert "\n" not in sentence
    # a marginal of what was checked, and two of four data missing, are near
    assert model.concerns(OBSERVED, ["a"]) == []
    assert model.concerns({"x": np.array([0.1, np.nan, np.nan, 0.2])}) == []
    assert model.concerns({"x": np.array([0.1, np.nan, np.nan, np.nan])}) != []


def test_an_observation_unlike_the_simulations_is_told(checked):
    model, _ = checked
    (sentence,) = model.concerns({"x": np.array([0.1, 0.2, 7.0, 0.0])})
    assert sentence.startswith("the observation is unlike the simulations, 'x[2]' = 7 lies outside all of them (-3.5")
    many = np.random.default_rng(0).normal(size=(40, 4))
    assert model.concerns(rd.Batch({"x": many})) == []
    many[:10] += 6.0
    (sentence,) = model.concerns(rd.Batch({"x": many}))
    assert sentence.startswith("10 of 40 observations are unlike")


def test_a_warning_points_at_who_asked_and_can_be_silenced(checked):
    model, _ = checked
    with pytest.warns(rd.CalibrationWarning) as found:
        model.sample(5, given={"a": 0.0}, key=0)
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rd.CalibrationWarning)
        model.sample(5, given={"a": 0.0}, key=0)  # any warning that is left would be an error


def test_an_interval_is_no_observation(checked):
    model, _ = checked
    given = {"x": OBSERVED["x"], "a": rd.Interval(-1.0, 1.0)}
    assert model.concerns(given) == []


def test_a_model_without_a_record_knows_nothing_but_that_it_is_untrained(normal):
    assert warned(lambda: normal.sample(5, given={"x": np.full(4, 50.0)}, key=0)) == []
    (sentence,) = normal.doubts({"x": np.full(4, 50.0)})
    assert sentence.startswith("this model is untrained")


@pytest.mark.parametrize(
    ("one", "other", "far"),
    [
        (("v", 1.0, 0.0), ("v", 1.0, 0.0), 0.0),
        (("v", 0.0, 1.0), ("v", 1.0, 0.0), 1.0),  # asked for what was given
        (("v", 0.0, 0.0), ("v", 1.0, 0.0), 1.0),  # left out what was given
        (("v", 0.0, 0.0), ("v", 0.0, 1.0), 0.5),  # left out what was asked
        (("v", 0.75, 0.0), ("v", 1.0, 0.0), 0.25),  # a quarter missing
        (("v", 0.5, 0.5), ("v", 1.0, 0.0), 0.5),
        (("v", 0.5, 0.0), ("v", 0.5, 0.5), 0.25),
    ],
)
def test_distance_of_questions(one, other, far):
    same = ("w", 1.0, 0.0)
    assert distance((same, one), (same, other))[0] == far
    assert distance((same, other), (same, one))[0] == far


def test_p_value_of_an_observation_is_a_rank():
    """Observations of the same law: each of the 20 ranks is as likely, so that 1 in 4 has a p-value of at most .25."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(3, 3))
    p_values = []
    for _ in range(400):
        rows = (rng.normal(size=(20, 3)) @ mix).astype(np.float32)
        familiar = ReferenceData(rows[:19].tobytes(), (1, 2, 4))
        z = np.full(6, np.nan)
        z[[1, 2, 4]] = rows[19]
        p_values.append(familiar.p_value(z))
    hits = int((np.array(p_values) <= 0.25 + 1e-9).sum())
    assert binom.cdf(hits, 400, 0.25) > 5e-5  # false-alarm rate 1e-4 for both ends
    assert binom.sf(hits - 1, 400, 0.25) > 5e-5


def test_loneliness_is_the_whitened_distance_to_the_fifth_neighbor():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(30, 2)) @ np.array([[3.0, 1.0], [0.0, 0.1]])
    inverse = np.linalg.inv(np.cov(rows.T, bias=True) + 1e-3 * np.eye(2))
    apart = rows[:, None] - rows
    squares = np.einsum("ijk,kl,ijl->ij", apart, inverse, apart)
    np.testing.assert_allclose(nearest_neighbor_distance(rows), np.sqrt(np.sort(squares, axis=1)[:, 5]), rtol=1e-6)


# data that do not fit ------------------------------------------------------------------------------------------------


def test_a_datum_that_does_not_fit_is_named(normal):
    found = rd.unlike(normal, {"x": np.array([0.1, -0.2, 6.0, 0.4])}, normals(200, 7), key=0)
    assert not found.ok
    assert found.worst == "x[2]"
    # 32 draws tell a standard deviation within 12 %, a few times that at most
    assert found.surprise["x[2]"] == pytest.approx(6.0, rel=0.5)
    assert found.datum_p["x[2]"] == 1 / 100
    assert found.summary().startswith("the observation is unlike the simulations (p = 0.015); 'x[2]' fits worst")
    assert rd.unlike(normal, OBSERVED, normals(200, 7), key=0).ok


def test_no_more_than_two_thousand_are_compared_with(normal, monkeypatch):
    """All distances of all of a campaign would be a matrix of its square."""
    monkeypatch.setattr(likeness, "MAX_SIMULATIONS", 60)
    few, many = (rd.unlike(normal, OBSERVED, {k: v[:n] for k, v in normals(200, 7).items()}, key=0) for n in (60, 200))
    assert few.p_values == many.p_values


def test_what_was_not_observed_is_left_out(normal):
    found = rd.unlike(normal, {"x": np.array([np.nan, -6.0, np.nan, 0.4])}, normals(200, 7), key=0)
    assert list(found.surprise) == ["x[1]", "x[3]"]
    assert not found.ok


def test_simulations_of_a_check_serve(checked):
    model, _ = checked
    assert rd.unlike(model, OBSERVED, key=0).ok


CURVE = {"shape": (4,), "axes": 1}
CURVES = Layout(
    (
        Variable("a"),
        Variable("y", kind="data", **CURVE),
        Variable("top", kind="data"),
        Variable("y.at", (4,), kind="place"),
    )
)


@pytest.fixture(scope="module")
def curve_model():
    """An untrained model of a function, right for `curves`."""
    return rd.joint(CURVES, net=rd.nets.PointMLP(8, 1))


def curves(n, seed, *, width=1.0, fewer=False):
    """Standard normals, four of them at times of their own; with `fewer` at 2 to 4 of them, the others NaN."""
    rng = np.random.default_rng(seed)
    t, y = rng.uniform(size=(n, 4)), rng.normal(size=(n, 4))
    if fewer:
        gone = np.arange(4) >= rng.integers(2, 5, size=(n, 1))
        t[gone] = y[gone] = np.nan
    return {"a": width * rng.normal(size=n), "y": y, "top": rng.normal(size=n), "y.at": t}


def test_answers_given_a_function_are_checked(curve_model):
    """At the points of each simulation; a question at another number of points is of the same family."""
    model, outcome = rd.check(curve_model, curves(100, 1, fewer=True), given=["y"], key=2, **SMALL)
    assert outcome.ok
    assert outcome.sbc.labels == ("a", "top")
    assert outcome.log_prob is not None
    assert outcome.calibration.shares == (("a", 0.0, 1.0), ("y", 1.0, 0.0), ("top", 0.0, 1.0))
    seen = rd.At([0.3, 0.5], [0.1, -0.2])
    assert warned(lambda: model.sample(5, given={"y": seen}, of=["a", "top"], key=0)) == []
    (sentence,) = warned(lambda: model.sample(5, given={"top": 0.2}, of={"y": rd.At([0.3])}, key=0))
    assert "far from those that were checked (a, top given y) in the role of 'y'" in sentence
    assert not rd.check(curve_model, curves(100, 1, width=0.3), given=["y"], key=2, **SMALL)[1].ok


def test_a_function_is_asked_where_each_simulation_saw_it(curve_model):
    mask = np.array([True, False, True, False])
    _, outcome = rd.check(curve_model, curves(100, 3), given={"y": mask}, of=["y", "a"], key=0, **SMALL)
    assert outcome.ok
    assert outcome.sbc.labels == ("y[1]", "y[3]", "a")
    assert outcome.calibration.shares == (("a", 0.0, 1.0), ("y", 0.5, 0.5), ("top", 0.0, 0.0))
    wrong = curves(100, 3) | {"y": 0.3 * curves(100, 3)["y"]}
    assert not rd.check(curve_model, wrong, given={"y": mask}, of=["y"], key=0, **SMALL)[1].ok
    with pytest.raises(rd.DataError, match="'y' has fewer points in some simulations"):
        rd.check(curve_model, curves(100, 3, fewer=True), given=["a"], key=0, **SMALL)


@pytest.mark.slow
def test_many_observations_are_judged_as_each_alone(checked):
    model, _ = checked
    rows = np.stack([OBSERVED["x"], np.array([0.0, 5.0, 0.0, 0.0])])
    first, second = rd.unlike_each(model, rd.Batch({"x": rows}), key=0)
    assert first.ok
    assert second.worst == "x[1]"
    assert second.p_values["neighbors"] == rd.unlike(model, {"x": rows[1]}, key=0).p_values["neighbors"]


@pytest.mark.slow
def test_a_posterior_alone_judges_by_neighbors():
    model = rd.posterior(LAYOUT, net=rd.nets.ResMLP(8, 1))
    found = rd.unlike(model, {"x": np.full(4, 4.0)}, normals(200, 7), key=0)
    assert set(found.p_values) == {"neighbors"}
    assert not found.ok
    assert found.worst is None
    assert found.summary() == "the observation is unlike the simulations (p = 0.005)"


SIMS = normals(60, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: rd.check(m, SIMS, given=["y"], key=0), "`given` names 'y'"),
        (lambda m: rd.check(m, SIMS, given="x", key=0), "must be a list of names"),
        (lambda m: rd.check(m, SIMS, given=[], key=0), "`given` names nothing"),
        (lambda m: rd.unlike(m, OBSERVED, SIMS, references=58, key=0), "58 simulations cannot fail anything"),
        (lambda m: rd.check(m, SIMS, given=["a", "b", "x"], key=0), "nothing is left to ask"),
        (lambda m: rd.check(m, normals(20, 0), given=["x"], key=0), "at least 50 held-out simulations, got 20"),
        (lambda m: rd.check(m, {"a": SIMS["a"]}, given=["x"], key=0), "'b' is missing in the simulations"),
        (
            lambda m: rd.check(m, {**SIMS, "a": SIMS["a"] / 0}, given=["x"], key=0),
            "60 of 60 simulations are not finite",
        ),
        (lambda m: rd.check(m, {**SIMS}, given={"x": np.ones(3, bool)}, key=0), "must be booleans of the shape (4,)"),
        (lambda m: rd.unlike(m, OBSERVED, key=0), "hand in held-out simulations"),
        (lambda m: rd.unlike(m, {"a": 0.0}, SIMS, key=0), "'a' is a parameter"),
        (lambda m: rd.unlike(m, {"x": np.full(4, np.nan)}, SIMS, key=0), "nothing of the observation was observed"),
        (lambda m: rd.unlike(m, rd.Batch({"x": np.zeros((2, 4))}), SIMS, key=0), "there is unlike_each"),
        (
            lambda m: rd.unlike_each(m, rd.Batch({"x": np.where(np.eye(4) > 0, np.nan, 0.0)}), SIMS, key=0),
            "the same elements must be observed",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_mistakes_are_one_clear_sentence(normal, call, message):
    with pytest.raises(rd.RetrodictError) as caught:
        call(normal)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_misspecified_observations_are_flagged_and_the_replaced_datum_is_named():
    """A line through 12 points with noise of .1: 50 observations each as simulated, twice as noisy, one replaced.

    By that of another simulation, at least 10 standard deviations of the noise away: nearer ones may well fit.
    """
    times = np.linspace(-1.0, 1.0, 12)

    def line(noise):
        def simulate(key, level, slope):
            return {"y": level + slope * times + noise * jax.random.normal(key, (12,))}

        return rd.Problem(prior={"level": dist.Normal(0.0, 1.0), "slope": dist.Normal(0.0, 1.0)}, simulator=simulate)

    sims, held_out = rd.simulate(line(0.1), 10_000, key=0), rd.simulate(line(0.1), 600, key=1)
    model, _ = rd.fit(rd.joint(sims.layout, net=rd.nets.ResMLP(128, 3)), sims, key=1, steps=4000, progress=False)
    good, loud = rd.simulate(line(0.1), 50, key=2)["y"], rd.simulate(line(0.2), 50, key=3)["y"]
    which, replaced = np.random.default_rng(0).integers(0, 12, 50), good.copy()
    others = rd.simulate(line(0.1), 1000, key=4)["y"].reshape(50, 20, 12)
    for row, i, twenty in zip(replaced, which, others, strict=True):
        row[i] = next(y for y in twenty[:, i] if abs(y - row[i]) > 1.0)

    def judged(rows):
        return rd.unlike_each(model, rd.Batch({"y": rows}), held_out, key=5)

    def flagged(found):
        return np.mean([not one.ok for one in found])

    bad = judged(replaced)
    named = np.mean([one.worst == f"y[{i}]" for one, i in zip(bad, which, strict=True)])
    rates = flagged(judged(good)), flagged(judged(loud)), flagged(bad), named
    print("false alarms {:.2f}, noise doubled {:.2f}, replaced {:.2f}, named first {:.2f}".format(*rates))
    assert rates[0] <= 0.10
    assert min(rates[1:]) >= 0.80
