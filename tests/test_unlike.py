"""Every model that was trained knows values unlike its simulations, at the first question; plain ones pass."""

import dataclasses
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import binom

import retrodict as rd
from conftest import LAYOUT, normals
from retrodict.models import Calibration, Family, Proof, Record, ReferenceData
from retrodict.models._limits import LEVEL
from retrodict.roles import GIVEN, LATENT
from retrodict.transforms import Scaling
from retrodict.variables import Layout, Variable


def warned(call):
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        call()
    return [str(message.message) for message in messages if issubclass(message.category, rd.CalibrationWarning)]


# laws of data, and what is unlike them --------------------------------------------------------------------------------

MIX = np.random.default_rng(5).normal(size=(10, 10))


def line(rng, n):
    t = rng.normal(size=n)
    return np.stack([t, t + 0.001 * rng.normal(size=n), rng.normal(size=n)], axis=1)


def clusters(rng, n):
    x = rng.normal(size=(n, 3))
    rare = rng.random(n) < 0.01
    x[rare] = 0.3 * x[rare] + [30.0, -20.0, 10.0]
    return x


def groups(rng, n):
    return rng.normal(size=(n, 3)) + rng.choice([-10.0, 10.0], size=(n, 1))


def ring(rng, n):
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    return (1.0 + 0.02 * rng.normal(size=(n, 1))) * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def glitches(rng, n):
    x = rng.normal(size=(n, 3))
    x[rng.random(n) < 4e-4] = 1e10
    return x


LAWS = {
    "normal": lambda rng, n: rng.normal(size=(n, 3)),
    "one number": lambda rng, n: rng.normal(size=(n, 1)),
    "correlated": lambda rng, n: rng.normal(size=(n, 10)) @ MIX,
    "long": lambda rng, n: rng.normal(size=(n, 200)),
    "uniform": lambda rng, n: rng.uniform(size=(n, 4)),
    "exponential": lambda rng, n: rng.exponential(size=(n, 4)),
    "Cauchy": lambda rng, n: rng.standard_cauchy((n, 2)),
    "lognormal": lambda rng, n: np.exp(2.0 * rng.normal(size=(n, 3))),
    "counts": lambda rng, n: rng.poisson(3.0, (n, 5)).astype(float),
    "rare counts": lambda rng, n: (rng.random((n, 40)) < 0.002) * rng.poisson(3.0, (n, 40)).astype(float),
    "yes and no": lambda rng, n: (rng.random((n, 6)) < 0.03).astype(float),
    "constant": lambda rng, n: np.concatenate([rng.normal(size=(n, 2)), np.ones((n, 1))], axis=1),
    "line": line,
    "clusters": clusters,
    "groups": groups,
    "ring": ring,
    "glitches": glitches,
}
BOUND = 24  # of 5,000 rows that may be called unlike
STRANGE = {  # law: an observation; elements that it changes
    "far in one": ("normal", {1: 60.0}),
    "far in one of many": ("long", {131: 60.0}),
    "far in all": ("correlated", dict.fromkeys(range(10), 500.0)),
    "beyond an end": ("uniform", {2: 2.0}),
    "far below, positive": ("lognormal", {0: -5.0}),
    "ten times the largest": ("Cauchy", {0: "10 max"}),
    "ten times the smallest": ("Cauchy", {1: "10 min"}),
    "a large count": ("counts", {0: 60.0}),
    "off the line": ("line", {0: 1.0, 1: 1.02}),  # 20 sd of what is left when the other is known
    "off the line, one missing": ("line", {0: 1.0, 1: 1.02, 2: np.nan}),
    "inside the ring": ("ring", {0: 0.0, 1: 0.0}),
    "beside runaway rows": ("glitches", {0: 60.0}),
    "not the constant": ("constant", {2: 3.0}),
    "overflow": ("normal", {0: 1e30}),
}


def known(law, seed, n=4000):
    """The reference of simulations of a law, and the coordinates they are seen in."""
    rng = np.random.default_rng(seed)
    rows = LAWS[law](rng, n).astype(np.float32)
    layout = Layout((Variable("x", rows.shape[1:], kind="data"),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants
        scaling = Scaling.fit(layout, rows) if law != "glitches" else Scaling.identity(layout)
    return ReferenceData.of(scaling, rows[200:], rows[:200], rng), scaling, rows


@pytest.mark.parametrize("case", STRANGE)
def test_what_is_unlike_the_simulations_is_known(case):
    law, changes = STRANGE[case]
    for seed in range(3):
        reference, scaling, rows = known(law, seed)
        observation = LAWS[law](np.random.default_rng(100 + seed), 1)[0]
        for element, value in changes.items():
            column = rows[:, element]
            observation[element] = {"10 max": 10 * column.max(), "10 min": 10 * column.min()}.get(value, value)
        assert reference.judge(np.asarray(scaling.forward(observation[None].astype(np.float32)))) is not None


@pytest.mark.parametrize("law", LAWS)
def test_plain_observations_are_not_called_unlike(law):
    """Each of 5 references meets 1,000 new rows one by one, 2 Batches of 400 and one with missing elements.

    Fewer than 1 in 1,000 are called unlike. References vary: at twice that rate a test fails once in 10,000 times.
    """
    assert binom.sf(BOUND, 5_000, 2 * LEVEL) < 1e-4
    alone, batches = 0, 0
    for seed in range(5):
        reference, scaling, _ = known(law, seed)
        plain = LAWS["normal" if law == "glitches" else law]
        rows = plain(np.random.default_rng(1000 + seed), 2000).astype(np.float32)
        z = np.asarray(scaling.forward(rows))
        alone += sum(reference.judge(z[i : i + 1]) is not None for i in range(0, 2000, 2))
        some = np.where(np.arange(z.shape[1]) % 3 == 1, np.nan, z)
        batches += sum(reference.judge(rows) is not None for rows in (z[:400], z[400:800], some[800:1200]))
    assert LEVEL == 1e-3
    assert alone <= BOUND
    assert batches <= 2


def test_members_of_a_rare_cluster_are_no_outliers():
    reference, scaling, _ = known("clusters", 0)
    rows = LAWS["clusters"](np.random.default_rng(1), 40_000)
    members = np.asarray(scaling.forward(rows[rows[:, 0] > 20.0].astype(np.float32)))[:300]
    assert len(members) == 300
    assert sum(reference.judge(z[None]) is not None for z in members) <= 15


def test_copies_of_rows_do_not_make_new_ones_strange():
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(400, 3)), 10, axis=0).astype(np.float32)
    scaling = Scaling.fit(Layout((Variable("x", (3,), kind="data"),)), rows)
    reference = ReferenceData.of(scaling, rows, rows[:0], rng)
    z = np.asarray(scaling.forward(rng.normal(size=(1000, 3)).astype(np.float32)))
    assert sum(reference.judge(row[None]) is not None for row in z) <= 8


def test_reference_data_are_small_and_survive_as_json():
    for law in ("normal", "long"):
        reference, _, _ = known(law, 0)
        fields = reference.to_json()
        assert len(fields["rows"]) + len(fields["ends"]) < 200_000
        again = ReferenceData.from_json(fields)
        assert again == reference
        assert again.unseen.held_out == len(again.unseen.data) >= 99


def test_many_elements_keep_a_bounded_number_of_numbers():
    """Pairs of neighbors know how rough a series is: one that is smooth in the simulations is not otherwise."""
    rng, t = np.random.default_rng(0), np.linspace(0.0, 1.0, 3000)
    rows = np.stack([rng.normal() * np.sin(6 * t) + rng.normal() * np.cos(9 * t) for _ in range(600)])
    rows = (rows + 1e-3 * rng.normal(size=rows.shape)).astype(np.float32)
    scaling = Scaling.fit(Layout((Variable("x", (3000,), kind="data"),)), rows, ["x"])
    reference = ReferenceData.of(scaling, rows[100:], rows[:100], rng)
    assert len(reference.to_json()["rows"]) + len(reference.to_json()["ends"]) < 200_000
    smooth = np.sin(6 * t) - 0.5 * np.cos(9 * t) + 1e-3 * rng.normal(size=3000)
    rough = smooth + 0.2 * (-1.0) ** np.arange(3000)
    assert reference.judge(np.asarray(scaling.forward(smooth[None].astype(np.float32)))) is None
    assert reference.judge(np.asarray(scaling.forward(rough[None].astype(np.float32)))) is not None


# models ---------------------------------------------------------------------------------------------------------------

QUICK = {"steps": 2, "batch_size": 32, "progress": False}
FAR = {"x": np.array([0.1, 0.2, 60.0, 0.0])}
PLAIN = {"x": np.array([0.1, -0.3, 0.6, 0.2])}


@pytest.fixture(scope="module")
def trained(normal):
    return rd.fit(normal, normals(1000, 1), key=1, **QUICK)[0]


def test_a_trained_model_warns_at_the_first_question(trained):
    assert not trained.record.calibrations
    assert warned(lambda: trained.sample(5, given=PLAIN, key=0)) == []
    (sentence,) = warned(lambda: trained.sample(5, given=FAR, key=0))
    assert sentence.startswith("the observation is unlike the simulations, 'x[2]' = 60 lies outside all of them (-")
    assert "\n" not in sentence
    value = {"a": 0.0, "b": np.zeros(2)}
    assert warned(lambda: trained.log_prob(value, given=FAR)) == [sentence]
    assert warned(lambda: trained.log_prob(value, given=PLAIN)) == []
    assert trained.doubts({"x": np.array([0.1, np.nan, 60.0, np.nan])})
    (of_parameter,) = trained.doubts({"a": 60.0})
    assert of_parameter.startswith("the given value is unlike the simulations, 'a' = 60")
    assert warned(lambda: trained.without_warnings().sample(5, given=FAR, key=0)) == []


def test_all_rows_of_a_batch_are_looked_at(trained):
    rows = np.random.default_rng(0).normal(size=(200, 4))
    assert trained.doubts(rd.Batch({"x": rows})) == []
    rows[[57, 120, 199], 1] = 60.0
    (sentence,) = trained.doubts(rd.Batch({"x": rows}))
    assert sentence.startswith("3 of 200 observations are unlike the simulations, first number 57, 'x[1]' = 60 lies")


def test_reference_data_are_in_the_file(trained, tmp_path):
    loaded = rd.load(rd.save(trained, tmp_path / "m.safetensors"))
    assert loaded.record == trained.record
    assert loaded.doubts(FAR) == trained.doubts(FAR)


def test_looking_costs_next_to_nothing(trained):
    """The first question of a kind computes distances of all rows; a next one some matrix products."""
    query = trained.parse(FAR)
    begun = time.perf_counter()
    trained._doubts(query)
    first = time.perf_counter() - begun
    trained.sample(1000, given=PLAIN, key=0)
    times = {"doubts": [], "sample": []}
    for _ in range(5):
        for name, call in (
            ("doubts", lambda: trained._doubts(query)),
            ("sample", lambda: trained.sample(1000, given=PLAIN, key=0)),
        ):
            begun = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begun)
    assert first < 1.0  # with compilation; 20 ms on a quiet machine
    assert min(times["doubts"]) < 0.05


def test_training_on_keeps_the_latest_simulations(trained):
    further = rd.fit(trained, normals(1000, 2, shift=60.0), key=1, **QUICK)[0]
    assert not further.doubts({"a": 60.0})
    assert further.doubts({"a": 0.0})


def test_sites_of_a_hierarchy_are_compared_one_by_one():
    problem = rd.Problem(
        {"mu": dist.Normal(0.0, 1.0), "site": rd.Plate("site", {"eta": lambda mu: dist.Normal(mu, 0.5)})},
        lambda key, mu, eta: {"y": eta + 0.3 * jax.random.normal(key, (2,))},
    )
    sims = rd.simulate(problem, 600, key=0)
    plate = rd.nets.PlateTransformer(heads=1, head_size=4, depth=1)
    model = rd.hierarchical(sims.layout, net=plate, site=rd.nets.ResMLP(8, 1))
    assert len(model.doubts({"y": np.zeros((3, 2))})) == 1  # untrained
    model = dataclasses.replace(model, site=rd.fit(model.site, sims, key=1, **QUICK)[0], record=Record(steps=2))
    y = np.random.default_rng(0).normal(size=(12, 2)) * 0.3
    assert model.doubts({"y": y}) == []
    y[4, 1] = 60.0
    (sentence,) = model.doubts({"y": y})
    assert sentence.startswith("1 of 12 sites is unlike the simulations, first number 4, 'y[1]' = 60 lies outside")
    assert "rd.unlike" not in sentence


def test_values_and_points_of_functions_have_limits():
    def simulate(key, rate):
        t = jnp.sort(jax.random.uniform(key, (6,)))
        return {"f": rd.At(t, rate * t + 0.1 * jax.random.normal(key, (6,)))}

    problem = rd.Problem({"rate": dist.Normal(0.0, 1.0)}, simulate)
    sims = rd.simulate(problem, 400, key=0)
    model = rd.joint(sims.layout, net=rd.nets.Simformer(heads=1, head_size=4, depth=1))
    model = rd.fit(model, sims, key=1, **QUICK)[0]
    t = np.linspace(0.1, 0.9, 4)
    assert model.doubts({"f": rd.At(t, 0.3 * t)}) == []
    assert model.doubts({"f": rd.At(t, 0.3 * t + 60.0)})[0].count("lies outside") == 1
    assert "'f.at[" in model.doubts({"f": rd.At(t + 20.0, 0.3 * t)})[0]


def test_distilled_and_weighted_models_know_what_their_model_knows(trained):
    family = Family(LAYOUT, tuple([LATENT] * 3 + [GIVEN] * 4))
    sampler = rd.DistilledSampler(trained.without_warnings(), family, 1, Proof((0.5,), 0.52), trained.record)
    assert sampler.doubts(FAR) == trained.doubts(FAR)
    flow = rd.fit(rd.posterior(LAYOUT, net=rd.nets.ResMLP(8, 1)), normals(1000, 1), key=1, **QUICK)[0]
    weighted = rd.ImportanceSampledPosterior(flow, None, rd.Problem({"a": dist.Normal(0.0, 1.0)}, None).prior)
    assert weighted.doubts(FAR) == flow.doubts(FAR) != []


# untrained ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default::retrodict.UntrainedWarning")
def test_an_untrained_model_says_so(normal):
    with pytest.warns(rd.UntrainedWarning, match="this model is untrained.* train it with rd.fit") as messages:
        normal.sample(5, given=PLAIN, key=0)
    assert messages[0].filename == __file__
    with pytest.warns(rd.UntrainedWarning):
        normal.log_prob({"a": 0.0, "b": np.zeros(2)}, given=PLAIN)
    assert issubclass(rd.UntrainedWarning, rd.CalibrationWarning)


# checks ---------------------------------------------------------------------------------------------------------------

SHARES = (("a", 0.0, 1.0), ("x", 1.0, 0.0))


def outcome(*, ok, simulations=300, draws=500, tests=("sbc", "tarp"), level=0.05):
    p_value = 0.5 if ok else 1e-4
    return Calibration("w", SHARES, simulations, draws, level, p_value, tuple((t, p_value) for t in tests), ())


@pytest.mark.parametrize(
    ("second", "kept"),
    [
        ({}, 1),  # as strong
        ({"simulations": 50}, 2),
        ({"draws": 20}, 2),
        ({"tests": ("sbc",)}, 2),
        ({"level": 1e-6}, 2),
        ({"simulations": 600, "tests": ("sbc", "tarp", "log_prob")}, 1),
    ],
)
def test_a_weaker_check_does_not_replace_a_failed_one(second, kept):
    record = Record().checked(outcome(ok=False), None).checked(outcome(ok=True, **second), None)
    assert len(record.calibrations) == kept
    assert all(entry.ok for entry in record.calibrations) == (kept == 1)
    assert len(record.checked(outcome(ok=False, simulations=1000), None).calibrations) == 1


def test_a_failure_is_told_until_a_check_as_strong_passes(normal):
    small = {"draws": 20, "densities": 0, "given": ["x"]}
    failed, _ = rd.check(normal, normals(200, 3, shift=1.0), key=2, observations=60, **small)
    weaker, second = rd.check(failed, normals(200, 4), key=3, observations=50, **small)
    assert second.ok
    assert "an earlier check FAILED" in second.summary()
    assert "the check of a, b given x failed" in weaker.doubts(PLAIN)[0]
    cured, third = rd.check(weaker, normals(200, 4), key=3, observations=60, **small)
    assert third.ok
    assert not third.failed_before
    assert cured.doubts(PLAIN) == []


def test_a_check_on_the_training_rows_is_told(trained):
    small = {"draws": 20, "densities": 0, "observations": 60, "given": ["x"], "key": 3}
    with pytest.warns(
        rd.CalibrationWarning, match="about 9.% of these simulations are rows that the model was trained"
    ):
        rd.check(trained, normals(1000, 1), **small)
    assert warned(lambda: rd.check(trained, normals(200, 5), **small)) == []


# learned --------------------------------------------------------------------------------------------------------------


def trials(noise, count, seed):
    rng = np.random.default_rng(seed)
    rate = rng.normal(size=1200)
    return {"rate": rate, "time": rate[:, None] + noise * rng.normal(size=(1200, count))}


@pytest.mark.filterwarnings("default:too little was learned")
@pytest.mark.parametrize(("noise", "learned"), [(0.5, False), (100.0, True)])
def test_a_network_that_knows_less_than_a_regression_is_told(noise, learned):
    """A few steps teach nothing: that is too little where 40 trials say much, and enough where they say nothing."""
    layout = Layout((Variable("rate"), Variable("time", (40,), kind="data")))
    model = rd.joint(layout, net=rd.nets.ResMLP(8, 1), conditional_affine=False)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        rd.fit(model, trials(noise, 40, 0), key=1, **QUICK)
    told = [message for message in messages if message.category is rd.LearningWarning]
    assert len(told) == (0 if learned else 1)
    if told:
        assert str(told[0].message).startswith("too little was learned about 'rate': a regression on the data")
        assert told[0].filename == __file__


@pytest.mark.filterwarnings("default:few simulations")
@pytest.mark.parametrize(("count", "few"), [(200, True), (1200, False)])
def test_few_simulations_are_told(count, few):
    layout = Layout((Variable("rate"), Variable("time", (40,), kind="data")))
    sims = {name: values[:count] for name, values in trials(0.5, 40, 0).items()}
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        rd.fit(rd.joint(layout, net=rd.nets.ResMLP(8, 1)), sims, key=1, **QUICK)
    told = [str(message.message) for message in messages if str(message.message).startswith("few simulations: 'rate'")]
    assert len(told) == few
