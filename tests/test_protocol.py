"""One protocol: nineteen calls on five kinds of model are answered, or refused in one sentence with the cure."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import retrodict as rd
from conftest import LAYOUT
from retrodict.query import parse, parse_values, words
from retrodict.report import posterior_report
from retrodict.roles import ABSENT, GIVEN, LATENT
from unchanged import questions


OLD = Path(__file__).parent / "unchanged"
FILES = {
    "FlowModel": "joint",
    "ImportanceSampledPosterior": "weighted",
    "HierarchicalModel": "hierarchical",
    "DistilledSampler": "distilled_sampler",
    "DistilledDensity": "distilled_density",
}
PROBLEMS = {"joint": questions.COUNTS, "hierarchical": questions.SITES}
OBSERVED = {"joint": {"counts": questions.COUNT}, "hierarchical": {"y": np.array([0.4, 0.9], np.float32)}}
VALUES = {"joint": questions.RATE, "hierarchical": {"mu": np.zeros(3, np.float32)}}
INTERVALS = {"joint": {"rate": rd.Interval(0.5, 1.0)}, "hierarchical": {"y": rd.Interval(0.0, 1.0)}}


class Asked:
    """A small model of a kind, and what belongs to it."""

    def __init__(self, kind):
        name = FILES[kind]
        self.model = rd.load(OLD / f"{name}.safetensors")
        self.problem = PROBLEMS.get(name, questions.STRAIGHT)
        self.observed = OBSERVED.get(name, {"x": questions.X[0]})
        self.values = VALUES.get(name, questions.THETA)
        self.interval = INTERVALS.get(name, {"x": rd.Interval(0.0, 1.0)})
        if name == "weighted":
            self.model = self.model.under(self.problem)
        self.sims = rd.simulate(self.problem, 60, sites=2 if name == "hierarchical" else 0, key=5)
        self.rows = rd.simulate(self.problem, 60, key=6)
        self.of = next(iter(self.values))
        self.given = list(self.observed)


FEW = {"observations": 50, "draws": 20, "densities": 2}
CALLS = {
    "layout": lambda a, tmp: a.model.layout.names,
    "record": lambda a, tmp: a.model.record.steps,
    "calibration": lambda a, tmp: a.model.calibration.calibrations,
    "trained": lambda a, tmp: a.model.trained,
    "sample": lambda a, tmp: a.model.sample(3, given=a.observed, key=0),
    "sample(of)": lambda a, tmp: a.model.sample(3, given=a.observed, of=[a.of], key=0),
    "sample(solver=)": lambda a, tmp: a.model.sample(3, given=a.observed, solver=rd.solvers.Heun(8), key=0),
    "sample(given Interval)": lambda a, tmp: a.model.sample(3, given=a.interval, key=0),
    "log_prob": lambda a, tmp: a.model.log_prob(a.values, given=a.observed),
    "doubts": lambda a, tmp: a.model.doubts(a.observed),
    "rd.fit": lambda a, tmp: rd.fit(a.model, a.rows, key=0, steps=2, batch_size=8, progress=False)[0].record.steps,
    "rd.check": lambda a, tmp: rd.check(a.model, a.sims, given=a.given, key=0, **FEW)[1].p_value,
    "rd.unlike": lambda a, tmp: rd.unlike(a.model, a.observed, a.rows, references=60, draws=4, level=0.1, key=0).ok,
    "rd.truncate": lambda a, tmp: rd.truncate(
        a.problem, a.model, given=a.observed, mass=0.99, margin=1.5
    ).prior.cut_off,
    "rd.tune": lambda a, tmp: rd.tune(a.model, given=a.given, solver=questions.AUTO)[1].evaluations,
    "rd.distill": lambda a, tmp: rd.distill(
        a.model, a.rows, given=a.given, net=rd.nets.ResMLP(8, 1), steps=2, observations=2, draws=40, bar=1.1, key=0,
        progress=False,
    )[0].evaluations,
    "rd.repaint": lambda a, tmp: rd.repaint(a.model, 3, given=a.observed, key=0),
    "save + load": lambda a, tmp: rd.load(rd.save(a.model, tmp / "model.safetensors")).layout.names,
    "report": lambda a, tmp: posterior_report.examine(a.model, a.rows, a.observed, **FEW).ok,
}  # fmt: skip
# rows: FlowModel, ImportanceSampledPosterior, HierarchicalModel, DistilledSampler, DistilledDensity; x: refused
TABLE = """
layout                  . . . . .
record                  . . . . .
calibration             . . . . .
trained                 . . . . .
sample                  . . . . x
sample(of)              . . . . x
sample(solver=)         . . . x x
sample(given Interval)  . x x x x
log_prob                . . . x .
doubts                  . . . . .
rd.fit                  . . . x x
rd.check                . . . . x
rd.unlike               . . x . .
rd.truncate             . . x . x
rd.tune                 . x x x x
rd.distill              . x x x x
rd.repaint              . x x x x
save + load             . . . . .
report                  . . x . x
"""
CELLS = [
    (call, kind, mark == ".")
    for call, marks in (
        line.rsplit(maxsplit=5)[:1] + [line.rsplit(maxsplit=5)[1:]] for line in TABLE.strip().splitlines()
    )
    for kind, mark in zip(FILES, marks, strict=True)
]


@pytest.fixture(scope="module", params=FILES)
def asked(request):
    return request.param, Asked(request.param)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_answered_or_refused_in_a_sentence(asked, call, tmp_path, monkeypatch):
    kind, about = asked
    (expected,) = (answered for name, other, answered in CELLS if (name, other) == (call, kind))
    monkeypatch.setattr("retrodict.training._truncated_prior.POSTERIOR_DRAWS", 200)
    monkeypatch.setattr("retrodict.training._distill.TRAINING_PAIRS", 64)
    monkeypatch.setattr("retrodict.training._distill.VALIDATION_PAIRS", 32)
    monkeypatch.setattr(posterior_report, "DRAWS", 50)
    monkeypatch.setattr(posterior_report, "REPLICATES", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            CALLS[call](about, tmp_path)
        except rd.RetrodictError as error:
            sentence = str(error)
            assert not expected, sentence
            assert sentence.count(". ") == 0, f"one sentence: {sentence}"
            assert len(sentence) > 30
        else:
            assert expected, f"{call} of a {kind} was expected to be refused"


def test_the_table_is_complete():
    assert len(CELLS) == len(CALLS) * len(FILES) == 95
    assert {call for call, _, _ in CELLS} == set(CALLS)


# one query ------------------------------------------------------------------------------------------------------------


def test_a_query_says_its_roles_and_its_family():
    query = parse(LAYOUT, {"x": [0.1, np.nan, 0.3, 0.4]}, ["a", "x"])
    assert query.roles[0].tolist() == [LATENT, ABSENT, ABSENT, GIVEN, LATENT, GIVEN, GIVEN]
    assert query.family == "a, 25 % of x given 75 % of x"
    assert words((("a", 0.0, 0.999), ("x", 0.001, 0.0))) == "99 % of a given 1 % of x"  # parts, not all or nothing
    np.testing.assert_allclose(query.values[0], [0, 0, 0, 0.1, 0, 0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize("value", [np.arange(4.0), np.arange(4.0)[None]])
def test_one_observation_may_have_an_axis(normal, value):
    draws = normal.sample(5, given={"x": value}, key=0)
    expected = normal.sample(5, given={"x": np.arange(4.0)}, key=0)
    assert draws["b"].shape == (5, 2)
    np.testing.assert_array_equal(draws["b"], expected["b"])


def test_many_observations_need_a_batch(normal):
    with pytest.raises(rd.DataError, match=r"for many observations pass rd.Batch"):
        normal.sample(5, given={"x": np.zeros((3, 4))}, key=0)


def test_one_value_has_one_density(normal):
    """Standard normal in every element, so that the density is known; a vector of one row keeps its axis."""
    value, given = {"a": 0.5, "b": np.array([1.0, -1.0])}, {"x": np.zeros(4)}
    expected = norm.logpdf(0.5) + 2 * norm.logpdf(1.0)
    alone, row = (
        normal.log_prob(values, given=given) for values in (value, {k: np.asarray(v)[None] for k, v in value.items()})
    )
    assert np.shape(alone) == ()
    assert row.shape == (1,)
    np.testing.assert_allclose([alone, row[0]], expected, atol=0.02)  # sixteen midpoint steps of three elements


def test_what_is_mentioned_and_missing_is_asked_by_default(normal):
    full = {"a": 0.1, "b": [0.2, np.nan], "x": [0.0, 1.0, 2.0, 3.0]}
    draws = normal.sample(5, given=full, key=0)
    assert list(draws) == ["b"]
    np.testing.assert_allclose(draws["b"][:, 0], 0.2, rtol=1e-6)
    assert np.isfinite(draws["b"][:, 1]).all()
    with pytest.raises(rd.QueryError, match="nothing is left to ask"):
        normal.sample(5, given={**full, "b": [0.2, 0.3]}, key=0)


REFUSED = {
    "name in given": (lambda: parse(LAYOUT, {"xx": 1.0}), "`given` names 'xx'.*Did you mean 'x'"),
    "name in of": (lambda: parse(LAYOUT, {}, ["aa"]), "`of` names 'aa'"),
    "empty of": (lambda: parse(LAYOUT, {}, []), "`of` is empty"),
    "given is a list": (lambda: parse(LAYOUT, ["x"]), "must map names to values"),
    "both": (lambda: parse(LAYOUT, {"b": [1.0, np.nan]}, {"b": np.array([True, True])}), "both asked and given"),
    "mask": (lambda: parse(LAYOUT, {}, {"b": np.array([1, 0])}), "booleans of the shape"),
    "infinite": (lambda: parse(LAYOUT, {"a": np.inf}), "write NaN for what was not observed"),
    "batch lengths": (
        lambda: parse(LAYOUT, rd.Batch({"a": np.zeros(2), "x": np.zeros((3, 4))})),
        "the same number of observations",
    ),
    "interval in a batch": (lambda: parse(LAYOUT, rd.Batch({"a": rd.Interval(0, 1)})), "ask a Batch one by one"),
    "values of no name": (lambda: parse_values(LAYOUT, {}), "at least one name"),
    "NaN in some rows": (lambda: parse_values(LAYOUT, {"a": [1.0, np.nan]}), "in some rows only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_question_that_cannot_be_parsed_is_refused(case):
    ask, sentence = REFUSED[case]
    with pytest.raises(rd.RetrodictError, match=sentence):
        ask()


# inside JAX -----------------------------------------------------------------------------------------------------------


def test_a_density_for_jax_has_values_gradients_and_batches(normal):
    density = normal.log_density(given={"x": np.zeros(4)})
    value = {"a": jnp.asarray(0.5), "b": jnp.asarray([1.0, -1.0])}
    expected = norm.logpdf(0.5) + 2 * norm.logpdf(1.0)
    # sixteen midpoint steps leave .0014 nats an element, and as much of a slope
    np.testing.assert_allclose(jax.jit(density)(value), expected, atol=0.02)
    slope = jax.grad(density)(value)
    np.testing.assert_allclose(slope["a"], -0.5, atol=0.01)
    np.testing.assert_allclose(slope["b"], [-1.0, 1.0], atol=0.01)
    many = {"a": jnp.linspace(-1, 1, 5), "b": jnp.zeros((5, 2))}
    np.testing.assert_allclose(jax.vmap(density)(many), normal.log_prob(many, given={"x": np.zeros(4)}), rtol=1e-4)


def test_a_density_for_jax_ends_with_the_support(model):
    observed = {"counts": np.ones(3)}
    density = model.log_density(given=observed)
    inside, outside = {"rate": 1.0, "noise": 1.0}, {"rate": 1.0, "noise": 1.7}
    np.testing.assert_allclose(density(inside), model.log_prob(inside, given=observed), rtol=1e-3)
    assert float(density(outside)) == -np.inf
    slopes = jax.grad(density)({k: jnp.asarray(v) for k, v in outside.items()})
    assert all(np.isfinite(float(slope)) for slope in slopes.values())


def test_a_sampler_for_jax_draws_from_the_model(normal):
    """4,000 draws of a standard normal: mean and sd within five standard errors, a false alarm in 10^5."""
    draw = normal.sampler(given={"x": np.zeros(4)})
    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000))
    assert draws["a"].shape == (4000,)
    assert draws["b"].shape == (4000, 2)
    values = np.concatenate([draws["a"][:, None], draws["b"]], axis=1)
    np.testing.assert_allclose(values.mean(axis=0), 0.0, atol=5 / 4000**0.5)
    np.testing.assert_allclose(values.std(axis=0), 1.0, atol=5 / 8000**0.5 + 0.01)


def test_posterior_predictive_data_belong_to_their_draws(model):
    draws = {"rate": np.full(7, 1.0), "noise": np.linspace(0.6, 1.4, 7)}
    made = model.predictive(draws, key=1)
    assert {name: value.shape for name, value in made.items()} == {"counts": (7, 3)}
    with pytest.raises(rd.QueryError, match=r"lacks 'noise'"):
        model.predictive({"rate": np.zeros(3)})


def test_a_model_prints_in_ten_lines(asked):
    _, about = asked
    lines = repr(about.model).splitlines()
    assert 4 <= len(lines) <= 10
    assert all(name in repr(about.model) for name in about.model.layout.parameters)
    assert "<table>" in about.model._repr_html_()
