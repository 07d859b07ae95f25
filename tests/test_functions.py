"""Functions seen at points that differ from row to row: slots, padding, and any number of points.

Networks have random weights here, so that nothing is true by silence; what is learned is in the slow tests.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.models._guided import PROPOSER
from retrodict.models._site_surrogate import surrogate_of
from retrodict.query import flatten, parse
from retrodict.query.functions import slots
from retrodict.roles import ABSENT, GIVEN, LATENT, Known, Thinned
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout, Variable


GRID = np.linspace(0.0, 4.0, 9)


def simulate(key, level, trend):
    """Twelve times, of which some are none; values of the line between them, and a number that is no function."""
    key_time, key_count = jr.split(key)
    t = jr.uniform(key_time, (12,), maxval=4.0)
    t = jnp.where(jnp.arange(12) < jr.randint(key_count, (), 3, 13), t, jnp.nan)
    return {"y": rd.At(t, level + jnp.interp(t, jnp.asarray(GRID, float), trend)), "top": trend.max()}


PROBLEM = rd.Problem(
    {"level": dist.Normal(0.0, 1.0), "trend": rd.Function(dist.Normal(jnp.arange(9.0), 0.1).to_event(1), GRID, 5)},
    simulate,
)
SMALL = {"heads": 2, "head_size": 8, "depth": 1}
NETS = {"simformer": rd.nets.Simformer(**SMALL), "flux joint": rd.nets.Flux1Joint(**SMALL)}
NETS["flux"] = rd.nets.Flux1(heads=2, head_size=8, double=1, single=1)
NETS["points"] = rd.nets.PointMLP(8, 2)


def built(net, seed=0):
    """A model with random weights and a scaling that was fitted."""
    make = rd.posterior if isinstance(net, rd.nets.Flux1) else rd.joint
    model, layout = make(PROBLEM.layout, net=net), PROBLEM.layout
    rows = flatten(layout, rd.simulate(PROBLEM, 200, key=0), layout.names, where="the simulations")
    scaling = Scaling.fit(layout, rows, (*layout.functions, *layout.places))
    leaves, tree = jax.tree.flatten(eqx.filter(model.net, eqx.is_inexact_array))
    rng = np.random.default_rng(seed)
    wild = [jnp.asarray(leaf + 0.3 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    return dataclasses.replace(model, scaling=scaling, net=eqx.combine(jax.tree.unflatten(tree, wild), model.net))


@pytest.fixture(scope="module")
def models():
    return {name: built(net) for name, net in NETS.items()}


def said(model, given, of):
    """Predictions by name at time .4 about noisy values that are all .3, in the model's coordinates."""
    question = parse(model.layout, given, of, embedded=model._pieces)
    model = model.seen_at(question.layout)
    ready = model.ready(model.scaling.forward(question.values[0]), jnp.asarray(question.roles[0]))
    whole = model.predict(jnp.full(model.modeled.size, 0.3), ready, jnp.asarray(0.4))
    parts = {name: np.asarray(whole[model.modeled.slices[name]]) for name in question.of}
    return {name: part[question.places.get(name, slice(None))] for name, part in parts.items()}


T, Y = np.asarray([0.5, 1.0, 3.0]), np.asarray([0.1, 0.7, 2.0])


def test_a_problem_knows_its_functions():
    layout = PROBLEM.layout
    assert layout.names == ["level", "trend", "top", "y", "trend.at", "y.at"]
    assert (layout.functions, layout.places) == (["trend", "y"], ["trend.at", "y.at"])
    assert [layout[name].shape for name in layout.names] == [(), (5,), (), (12,), (5,), (12,)]
    assert Layout.from_json(layout.to_json()) == layout


def test_rows_keep_functions_where_they_were_seen():
    sims = rd.simulate(PROBLEM, 300, key=0)
    assert sims.n_failed == 0
    points = np.isfinite(sims["y.at"]).sum(axis=1)
    assert (points.min(), points.max()) == (3, 12)
    np.testing.assert_array_equal(np.isnan(sims["y"]), np.isnan(sims["y.at"]))
    # the trend is t times two, up to the noise of .1, and what was seen of it lies .5 apart on the grid
    np.testing.assert_allclose(sims["trend"], 2 * sims["trend.at"], atol=0.6)
    assert not np.array_equal(sims["trend.at"][0], sims["trend.at"][1])


def test_the_scale_is_shared(models):
    model = models["simformer"]
    for name in ("y", "y.at", "trend"):
        part = model.scaling.robust.std[model.layout.slices[name]]
        assert np.isfinite(part).all()
        assert len(np.unique(part)) == 1


@pytest.mark.slow
def test_missing_points_cost_nothing(models):
    """Values of what is no point count nothing in the loss, and nothing that is no number comes out of it."""
    model, layout = models["simformer"], PROBLEM.layout
    rows = flatten(layout, rd.simulate(PROBLEM, 8, key=1), layout.names, where="the simulations")
    z = np.asarray(model.scaling.forward(rows))
    assert np.isnan(z).any()

    @eqx.filter_jit
    def loss(net, z, key):
        return dataclasses.replace(model, net=net).loss(z, key, jnp.asarray(0.4))

    found, slope = eqx.filter_value_and_grad(lambda net: sum(loss(net, row, jr.key(3)) for row in z))(model.net)
    assert np.isfinite(found)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    # a value at a place that is none is no value
    row = z[np.isnan(z).any(axis=1)][0]
    other = row.copy()
    block = layout.slices["y"]
    other[block] = np.where(np.isnan(row[layout.slices["y.at"]]), 7.0, row[block])
    assert not np.isnan(other[block]).any()
    assert loss(model.net, row, jr.key(3)) == loss(model.net, other, jr.key(3))


def test_where_functions_lie_is_always_given():
    law = Known(rd.roles.random_roles(), tuple(PROBLEM.layout.places))
    roles = np.asarray(jax.vmap(lambda key: law.draw(key, PROBLEM.layout))(jr.split(jr.key(0), 500)))
    places = np.concatenate([np.arange(PROBLEM.layout.size)[PROBLEM.layout.slices[n]] for n in PROBLEM.layout.places])
    assert (roles[:, places] == GIVEN).all()
    others = np.delete(roles, places, axis=1)
    assert (others == LATENT).any(axis=1).all()
    assert all((others == role).any() for role in (GIVEN, LATENT, ABSENT))


@pytest.mark.parametrize("name", NETS)
def test_points_are_in_no_order_and_empty_slots_count_nothing(name, models, x64):
    """In double precision where it matters: sums over tokens run in another order."""
    model, of = models[name], {"trend": rd.At([0.2, 2.2]), "level": None}
    found = said(model, {"y": rd.At(T, Y)}, of)
    assert found["trend"].shape == (2,)
    moved = said(model, {"y": rd.At(T[::-1], Y[::-1])}, of)
    padded = said(model, {"y": rd.At([*T, np.nan, *np.full(5, 3.3)], [*Y, *np.full(6, np.nan)])}, of)
    for other in (moved, padded):
        for key, value in found.items():
            np.testing.assert_allclose(other[key], value, atol=2e-5)
    elsewhere = said(model, {"y": rd.At(T + 0.1, Y)}, of)
    assert np.abs(elsewhere["trend"] - found["trend"]).max() > 1e-3
    turned = said(model, {"y": rd.At(T, Y)}, {"trend": rd.At([2.2, 0.2]), "level": None})
    np.testing.assert_allclose(turned["trend"], found["trend"][::-1], atol=2e-5)


def test_draws_come_at_the_points_that_were_asked(models):
    model = models["simformer"]
    draws = model.sample(7, given={"y": rd.At(T, Y)}, of={"trend": rd.At(GRID), "y": rd.At([3.5])}, key=0)
    assert {name: x.shape for name, x in draws.items()} == {"trend": (7, 9), "y": (7, 1)}
    assert all(np.isfinite(x).all() for x in draws.values())
    assert set(model.sample(7, given={"y": rd.At(T, Y)}, key=0)) == {"level", "top"}


def test_a_batch_may_have_different_numbers_of_points(models):
    model = models["simformer"]
    times = np.stack([T, [0.5, np.nan, np.nan]])
    values = np.stack([Y, [0.1, np.nan, np.nan]])
    many = model.sample(400, given=rd.Batch({"y": rd.At(times, values)}), of=["level"], key=0)["level"]
    assert many.shape == (2, 400)
    one = model.sample(400, given={"y": rd.At([0.5], [0.1])}, of=["level"], key=1)["level"]
    # the same law from other noise: means within five standard errors of their difference
    assert abs(many[1].mean() - one.mean()) < 5 * one.std() * np.sqrt(2 / 400)


def test_a_density_takes_functions(models):
    """Its integral over a value at one point is one."""
    model, given = models["simformer"], {"y": rd.At(T, Y), "level": 0.1}
    draws = model.sample(2000, given=given, of={"trend": rd.At([1.5])}, key=0)["trend"][:, 0]
    low, high = draws.mean() - 8 * draws.std(), draws.mean() + 8 * draws.std()
    x = np.linspace(low, high, 200)
    logs = model.log_prob({"trend": rd.At([1.5], x[:, None])}, given=given, solver=rd.solvers.Midpoint(64))
    assert np.trapezoid(np.exp(logs), x) == pytest.approx(1.0, abs=0.02)


def test_a_whole_variable_is_asked_beside_points_by_none():
    layout = rd.Problem(
        {"a": dist.Normal(0.0, 1.0), "f": rd.Function(dist.Normal(jnp.zeros(9), 1.0).to_event(1), GRID, 5)},
        lambda key, a, f: {"x": jnp.stack([a, f[0], f[1]])},
    ).layout
    found = slots(layout, {"x": [1.0, np.nan, 2.0]}, {"f": rd.At([0.5]), "x": None})
    roles = parse(found.layout, found.given, found.of).roles[0]
    assert roles[found.layout.slices["x"]].tolist() == [GIVEN, LATENT, GIVEN]
    with pytest.raises(rd.QueryError, match="both asked and given"):
        parse(found.layout, found.given, {**found.of, "x": np.ones(3, bool)})


def test_an_interval_of_a_function_becomes_one_of_its_slots(models):
    ends = rd.Interval([*Y, 1.5, -np.inf], [*Y, np.inf, np.inf])
    found = slots(models["simformer"].layout, {"y": rd.At([*T, 2.5, 3.5], ends)}, {"y": rd.At([0.2])})
    given = found.given
    assert found.answers == {"y": slice(5, 6)}
    np.testing.assert_allclose(given["y"].low, [*Y, 1.5, *[-np.inf] * 4], rtol=1e-6)
    np.testing.assert_allclose(given["y"].high, [*Y, *[np.inf] * 5], rtol=1e-6)
    np.testing.assert_allclose(given["y.at"][:6], [*T, 2.5, 3.5, 0.2], rtol=1e-6)


@pytest.mark.slow
def test_values_of_a_function_may_lie_in_an_interval(models):
    """y above its median at 2.5, and known at T: against draws without the bound, of which half remain."""
    model, where = models["simformer"], rd.At([2.5])
    # random weights make a rough flow: both questions have the solver of guidance
    free = model.sample(4000, given={"y": rd.At(T, Y)}, of={"level": None, "y": where}, solver=PROPOSER, key=0)
    low = np.median(free["y"])
    above = free["y"][:, 0] > low
    ends = rd.Interval([*Y, low], [*Y, np.inf])
    found = model.guided(1000, given={"y": rd.At([*T, 2.5], ends)}, of=["level"], key=1)
    assert np.exp(found.log_evidence) == pytest.approx(0.5, abs=0.1)  # five standard errors are .08
    mean, truth = np.average(found.draws["level"].ravel(), weights=found.weights), free["level"][above]
    assert abs(mean - truth.mean()) < 0.25 * truth.std()  # five standard errors of 500 and 2,000 draws


def test_a_model_with_functions_survives_a_file(models, tmp_path):
    model = models["flux joint"]
    rd.save(model, tmp_path / "model.safetensors")
    question = {"given": {"y": rd.At(T, Y)}, "of": {"trend": rd.At([1.0])}, "key": 3}
    again = rd.load(tmp_path / "model.safetensors")
    assert again.law == model.law
    np.testing.assert_array_equal(again.sample(5, **question)["trend"], model.sample(5, **question)["trend"])


def test_a_model_of_one_question_about_functions_answers_that_one_alone(models):
    """Fewer points are the same question; a function of which it knows nothing, or asks nothing, is another."""
    given, trend = {"y": rd.At(T, Y), "top": 3.0}, {"trend": rd.At(T)}
    whole = models["flux"].sample(3, given=given, of={"level": None, **trend}, key=0)
    part = models["flux"].sample(3, given=given, of=trend, key=0)
    np.testing.assert_array_equal(part["trend"], whole["trend"])
    for known, of in ((given, ["level"]), ({"top": 3.0}, trend), ({"y": given["y"]}, trend)):
        with pytest.raises(rd.QueryError, match="one question, 'level', 'trend' given 'top', 'y'"):
            models["flux"].sample(3, given=known, of=of, key=0)


def test_one_question_is_learned_with_any_number_of_points(tmp_path):
    """Its law leaves points out; that of many questions does so itself, and that of a surrogate of points needs not."""
    one, many = rd.likelihood(PROBLEM.layout, net=NETS["points"]), rd.joint(PROBLEM.layout, net=NETS["points"])
    assert one.law == Known(Thinned(rd.roles.Likelihood()), ("trend.at", "y.at"))
    assert many.law == Known(rd.roles.random_roles(), ("trend.at", "y.at"))
    surrogate = surrogate_of(PROBLEM.layout, None, None, key=jr.key(0)).model
    assert surrogate.law == Known(rd.roles.Likelihood(), ("trend.at", "y.at"))
    for model in (one, many, surrogate):
        assert rd.load(rd.save(model, tmp_path / "model.safetensors")).law == model.law


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["posterior", "likelihood"])
def test_one_question_knows_fewer_points_than_it_saw(asked):
    """A level seen with noise .5 at 12 points, asked at 3 of them or 12: against the exact mean and deviation.

    Of two seeds, at three points: means within .06 sd and log deviations within .05; where every row that was learned
    from had twelve, a posterior was off by .59 sd and 35 % too narrow.
    """

    def simulate(key, level):
        t = jr.uniform(key, (12,))
        return {"y": rd.At(t, level + 0.5 * jr.normal(jr.fold_in(key, 1), (12,)))}

    sims = rd.simulate(rd.Problem({"level": dist.Normal(0.0, 1.0)}, simulate), 5000, key=0)
    net = rd.nets.Simformer(heads=2, head_size=8, depth=2)
    start = rd.posterior(sims.layout, net=net) if asked == "posterior" else rd.likelihood(sims.layout, net=net)
    model, _ = rd.fit(start, sims, key=1, steps=2000, batch_size=256, progress=False)
    for count in (3, 12):
        t = np.linspace(0.1, 0.9, count)
        if asked == "posterior":
            drawn = model.sample(4000, given={"y": rd.At(t, np.full(count, 1.0))}, key=2)["level"]
            mean, sd = 4 * count / (1 + 4 * count), (1 + 4 * count) ** -0.5
        else:
            y = model.sample(4000, given={"level": 1.0}, of={"y": rd.At(t)}, key=2)["y"]
            drawn, mean, sd = y.mean(axis=1), 1.0, 0.5 / count**0.5
        assert abs(drawn.mean() - mean) < 0.25 * sd
        assert abs(np.log(drawn.std() / sd)) < 0.2


REFUSED = {
    "no points": (lambda m: m.sample(2, given={"y": Y}, key=0), r"'y' is a function: `given` says where and what"),
    "no values": (lambda m: m.sample(2, given={"y": rd.At(T)}, key=0), r"`given` says where and what"),
    "intervals that do not fit": (
        lambda m: m.sample(2, given={"y": rd.At(T, rd.Interval([0.0, 1.0]))}, key=0), "ends of the shapes"),
    "asked nowhere": (
        lambda m: m.sample(2, given={"y": rd.At(T, Y)}, of=["trend"], key=0),
        r"say where it is asked, of=\{'trend': rd.At\(points\)\}",
    ),
    "asked with values": (
        lambda m: m.sample(2, of={"y": rd.At(T, Y)}, key=0), "its values belong in `given`"),
    "fewer values": (
        lambda m: m.sample(2, given={"y": rd.At(T, Y[:2])}, key=0), "'y' needs a value for every point"),
    "two axes": (
        lambda m: m.sample(2, given={"y": rd.At(np.zeros((3, 2)), Y)}, key=0), "the points of 'y' must have the shape"),
    "an infinite point": (
        lambda m: m.sample(2, given={"y": rd.At([np.inf, 0, 1], Y)}, key=0), "values at points that are not finite"),
    "asked at nan": (
        lambda m: m.sample(2, of={"y": rd.At([np.nan])}, key=0), "asked at one or more finite points"),
    "a place": (lambda m: m.sample(2, of=["y.at"], key=0), "says where a function lies; it is known, not asked"),
    "a frame": (
        lambda m: rd.posterior(m.layout, framed=True), "a model with embeddings or functions has others"),
    "an mlp": (
        lambda m: rd.joint(m.layout, net=rd.nets.ResMLP()), r"use net=rd.nets.Simformer\(\) or rd.nets.PointMLP\(\)"),
    "no function": (
        lambda m: rd.joint(Layout((Variable("a"),)), net=rd.nets.PointMLP()), "PointMLP reads functions, and this"),
    "no width": (lambda m: rd.nets.PointMLP(0), "needs a positive width and depth, got width=0, depth=3"),
    "two shapes": (
        lambda m: rd.Problem({"a": dist.Normal()}, lambda key, a: {"y": rd.At(jnp.zeros(3), jnp.zeros(4))}).layout,
        r"values \(k,\) at points \(k,\) or \(k, axes\)"),
    "a gradient": (
        lambda m: m.grad_log_prob({"level": np.zeros(1)}, given={"y": rd.At(T, Y)}), "grad_log_prob is not offered"),
    "a score": (lambda m: m.score({"level": np.zeros(1)}, 0.5), "score is not offered for models with functions"),
    "truncation": (
        lambda m: rd.truncate(PROBLEM, m, given={"y": rd.At(T, Y)}), "'trend' is a function; truncate a problem whose"),
    "no series": (lambda m: Variable("y", (2, 2), axes=1), r"a function is values at points, of the shape \(k,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_question_about_a_function_gets_one_clear_sentence(case, models):
    ask, sentence = REFUSED[case]
    with pytest.raises(rd.RetrodictError, match=sentence):
        ask(models["simformer"])
