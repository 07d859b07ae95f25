"""fit: it learns, it keeps the best, it stops for the right reasons, and it says what happened."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict import training
from retrodict.models import DistilledDensity, DistilledSampler, Family, MixtureDensity, Proof, Sizes, fingerprint
from retrodict.models._factorized_likelihood import FactorizedLikelihood
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.models._record import Calibration, Record
from retrodict.training import _fit as fitting
from retrodict.training import _loop as loop
from retrodict.training import _source as source
from retrodict.training._fit_flow import RowsLoss


NET = rd.nets.ResMLP(16, 1)


def fit(sims, layout=None, **settings):
    start = rd.joint(layout or sims.layout, net=NET)
    return rd.fit(start, sims, progress=False, **{"key": 0, "batch_size": 32, **settings})


def test_the_loss_falls_and_the_model_given_is_unchanged(sims, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK", 100)
    before = rd.joint(sims.layout, net=NET)
    model, history = rd.fit(before, sims, key=0, steps=600, batch_size=32, progress=False)
    # common random numbers: a hundredth is far more than chance
    assert history.validation[-1] < history.validation[0] - 0.01
    assert not before.trained
    assert model.trained
    assert before.record.validation_loss is None
    assert model.record.validation_loss == history.best


def test_one_key_one_model(sims):
    (first, _), (again, _), (other, _) = (fit(sims, key=k, steps=150) for k in (0, 0, 1))
    draws = [m.sample(5, key=0)["rate"] for m in (first, again, other)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def test_training_goes_on_where_it_stopped(sims):
    model, history = fit(sims, steps=150)
    further, more = rd.fit(model, sims, key=0, steps=150, batch_size=32, progress=False)
    assert further.record.steps == 300
    assert more.validation[0] < history.validation[0]
    np.testing.assert_array_equal(further.scaling.robust.mean, model.scaling.robust.mean)


def same_weights(model, weights):
    kept = jax.tree.leaves(eqx.filter(model.net, eqx.is_inexact_array))
    return all(np.array_equal(a, b) for a, b in zip(kept, jax.tree.leaves(weights), strict=True))


def test_early_stopping_keeps_the_best(sims, monkeypatch):
    """A validation loss that only rises: training ends after `patience` steps with the first weights."""
    losses, begin, met = iter(range(100)), loop.Trainer.__init__, []

    def init(self, *args):
        begin(self, *args)
        self.validate = lambda weights, _: (met.append(jax.tree.map(np.array, weights)), next(losses))[1]

    monkeypatch.setattr(loop, "CHUNK", 10)
    monkeypatch.setattr(loop.Trainer, "__init__", init)
    model, history = fit(sims, steps=100, patience=30)
    assert history.ended == "no progress"
    assert history.best_step == 10
    assert history.step[-1] == 40
    assert model.record.validation_loss == 0.0
    assert same_weights(model, met[0])
    assert not same_weights(model, met[-1])


@pytest.fixture
def interrupting(monkeypatch):
    """Ctrl-C in the third chunk."""
    monkeypatch.setattr(loop, "CHUNK", 10)
    original, calls = loop.Trainer.advance, []

    def advance(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(loop.Trainer, "advance", advance)


@pytest.mark.usefixtures("interrupting")
def test_an_interrupt_keeps_the_best_weights(sims, monkeypatch):
    met, validate = [], loop.Trainer.validate

    def recorded(self, weights, key):
        met.append(jax.tree.map(np.array, weights))
        return validate(self, weights, key)

    monkeypatch.setattr(loop.Trainer, "validate", recorded)
    model, history = fit(sims, steps=100)
    assert history.ended == "interrupted"
    assert history.step.tolist() == [10, 20]
    assert same_weights(model, met[int(np.argmin(history.validation))])
    assert model.record.validation_loss == history.best


def test_a_loss_that_is_not_a_number_stops_with_the_cure(sims):
    with pytest.raises(rd.TrainingError, match="lower `learning_rate`"):
        fit(sims, steps=500, learning_rate=1e30)


def new_trainer(sims):
    train, validation = np.ones((50, 5), np.float32), np.zeros((20, 5), np.float32)
    model = rd.joint(sims.layout, net=NET)
    weights, form = eqx.partition(model.net, eqx.is_inexact_array)
    loss = RowsLoss(dataclasses.replace(model, net=form))
    return loop.Trainer(weights, loss, train, validation, loop.TrainingBudget(10, 8, 1e-3, 3.0))


def test_validation_compares_like_with_like(sims):
    """Common random numbers: the same weights have the same validation loss, to the last bit."""
    trainer = new_trainer(sims)
    key = jax.random.key(0)
    first, again = (trainer.validate(trainer.initial, key) for _ in range(2))
    assert first == again


def test_batches_use_every_row_before_any_twice():
    (piece,) = source.Memory(np.arange(50)).pieces((0, 1), 0, 25, 8)
    assert piece.rows.shape == (25, 8)
    for epoch in range(4):
        assert sorted(piece.rows.ravel()[50 * epoch : 50 * (epoch + 1)]) == list(range(50))


def test_a_large_validation_set_is_used_in_part(sims, monkeypatch):
    """Every row eight times while that is little; else as many as are allowed, none twice."""
    trainer, rows = new_trainer(sims), np.arange(50.0)[:, None]
    few = trainer._validation_piece(rows)
    assert sorted(np.unique(few.rows[..., 0], return_counts=True)[1].tolist())[0] >= loop.VALIDATION_DRAWS
    monkeypatch.setattr(loop, "MAX_VALIDATION_DRAWS", 2 * trainer.batch_size)
    many = trainer._validation_piece(np.arange(1000.0)[:, None])
    values = np.asarray(many.rows).ravel()
    assert len(values) == loop.VALIDATION_DRAWS * trainer.batch_size
    assert len(np.unique(values)) == len(values)


def test_weights_decay_as_fast_as_asked(sims):
    """Without a gradient AdamW takes `rate * decay` of every weight; the rate has warmed up to 1e-3 after one step."""
    trainer = new_trainer(sims)
    nothing = jax.tree.map(jnp.zeros_like, trainer.initial)
    optimizer = loop._optimizer(trainer.budget)
    state = optimizer.init(trainer.initial)
    _, state = optimizer.update(nothing, state, trainer.initial)
    update, _ = optimizer.update(nothing, state, trainer.initial)
    for moved, weight in zip(jax.tree.leaves(update), jax.tree.leaves(trainer.initial), strict=True):
        np.testing.assert_allclose(moved, -3e-3 * weight, rtol=1e-4, atol=1e-9)


def test_the_optimizer_is_adamw_on_gradients_clipped_all_together():
    """Against the equations (Loshchilov & Hutter 2019, Algorithm 2), array by array, with Adam's usual constants."""
    budget, rng = loop.TrainingBudget(40, learning_rate=0.01, weight_decay=0.3), np.random.default_rng(0)
    optimizer, shapes = loop._optimizer(budget), {"matrix": (3, 2), "vector": (4,), "number": ()}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    expected = {name: np.asarray(w, float) for name, w in weights.items()}
    first, second = ({name: np.zeros(shape) for name, shape in shapes.items()} for _ in range(2))
    state = optimizer.init(weights)
    for step in range(40):
        size = 3.0 if step % 2 else 0.05  # above the norm at which they are clipped, and below
        slope = {name: (size * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
        update, state = optimizer.update(slope, state, weights)
        weights = jax.tree.map(np.add, weights, update)
        norm = np.sqrt(sum((part.astype(float) ** 2).sum() for part in slope.values()))
        assert (norm > 1) == (size > 1)
        rate = 0.01 * (step / 4 if step < 4 else (1 + np.cos(np.pi * (step - 4) / 36)) / 2)
        for name in shapes:
            g = slope[name] / max(norm, 1.0)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            ahead = first[name] / (1 - 0.9 ** (step + 1))
            spread = np.sqrt(second[name] / (1 - 0.999 ** (step + 1))) + 1e-8
            expected[name] = expected[name] - rate * (ahead / spread + 0.3 * expected[name])
        for name in shapes:
            np.testing.assert_allclose(weights[name], expected[name], rtol=2e-5, atol=2e-6)


def test_a_second_run_of_the_same_form_compiles_nothing(caplog):
    """Other rows, another number of them, other weights: what is compiled depends on none of these."""
    rows = rd.simulate(rd.tasks.get("two_moons").problem, 500, key=0)
    fit({name: values[:400] for name, values in rows.items()}, steps=20, layout=rows.layout)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        fit({name: values[40:] for name, values in rows.items()}, steps=20, key=1, layout=rows.layout)
    assert not [line for line in caplog.messages if "XLA compilation" in line]


# kinds of models -----------------------------------------------------------------------------------------------------


def leaves(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


@pytest.fixture
def weighted(sims):
    """A posterior that weights draws by a likelihood, untrained, and checked."""
    flow = rd.posterior(sims.layout, net=NET)
    model = ImportanceSampledPosterior(
        flow, FactorizedLikelihood.blank(sims.layout, None, [Sizes(1, 2, 3)]), sims.problem.prior
    )
    check = Calibration(fingerprint(model), (("counts", 1.0, 0.0),), 50, 50, 0.01, 0.5, (("ranks", 0.5),), ())
    return dataclasses.replace(model, record=Record(calibrations=(check,)))


def test_an_importance_sampled_posterior_trains_its_flow(sims, weighted):
    settings = {"key": 0, "steps": 20, "batch_size": 32, "progress": False}
    assert weighted.calibration.calibrations
    model, history = rd.fit(weighted, sims, **settings)
    flow, _ = rd.fit(weighted.flow, sims, **settings)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(model.flow), leaves(flow), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(leaves(model.likelihood), leaves(weighted.likelihood), strict=True))
    assert model.prior is weighted.prior
    assert (model.record.steps, model.record.simulations) == (20, 500)
    assert model.record.validation_loss == history.best
    assert model.record.seconds == history.seconds
    assert not model.calibration.calibrations
    assert rd.fit(model, sims, **settings)[0].record.steps == 40


def distilled_sampler(model):
    return DistilledSampler(model, Family(model.layout, (1,) * model.layout.size), 1, Proof((0.5,), 0.52))


def distilled_density(model):
    mixture = MixtureDensity.blank(Sizes(1, 1, 1, width=4, depth=1), key=jax.random.key(0))
    return DistilledDensity(Family(model.layout, (1,) * model.layout.size), 0.0, 0.0, model.scaling, mixture)


NOT_TRAINED = {
    "a distilled sampler": (distilled_sampler, "train its model with rd.fit and distill again"),
    "a distilled density": (distilled_density, "DistilledDensity is distilled, not trained on simulations"),
    "a list": (lambda model: [model], r"fit takes a model such as rd.joint\(sims.layout\), got list"),
    "a layout": (lambda model: model.layout, "got Layout"),
}


@pytest.mark.parametrize("case", NOT_TRAINED)
def test_what_is_not_trained_is_refused(case, sims):
    make, words = NOT_TRAINED[case]
    with pytest.raises(rd.QueryError, match=words):
        rd.fit(make(rd.joint(sims.layout, net=NET)), sims, key=0)


class Mean(eqx.Module):
    """A stranger's kind of model."""

    value: float = 0.0


def test_a_kind_of_model_says_how_it_is_trained(sims):
    @training.fit_kind.register
    def _(model: Mean, sims, settings):
        budget = settings.budget(steps=7, batch_size=3)
        history = training.History(*(np.array([budget.steps]) for _ in range(3)), budget.steps, 0.0, "finished")
        return Mean(model.value + float(np.mean(sims["rate"]))), history

    model, history = rd.fit(Mean(1.0), sims, key=0, learning_rate=0.5)
    assert model.value == pytest.approx(1.0 + np.mean(sims["rate"]))
    assert history.step.tolist() == [7]
    assert rd.fit(Mean(), sims, key=0, steps=9)[1].step.tolist() == [9]
    with pytest.raises(rd.DataError, match="`batch_size` must be a positive whole number, got 0"):
        rd.fit(Mean(), sims, key=0, batch_size=0)


def test_words_for_failed_runs_and_their_earlier_spellings(monkeypatch):
    problem = rd.Problem(
        {"rate": dist.Normal(0.0, 1.0)},
        lambda key, rate: {"x": jnp.where(rate > 0.5, jnp.nan, rate + jax.random.normal(key))},
    )
    sims = rd.simulate(problem, 200, key=0)
    model = rd.joint(sims.layout, net=NET)
    monkeypatch.setattr(fitting, "fit_kind", lambda model, sims, settings: settings.reweight)
    for word, reweight in {"ignore": False, "given": False, "reweight": True, "corrected": True}.items():
        assert rd.fit(model, sims, key=0, failed=word) is reweight
    words = "failed='ignore' .*failed='reweight' .*, which were 'given' and 'corrected' before"
    with pytest.warns(rd.FailedRunsWarning, match=words):
        assert rd.fit(model, sims, key=0) is False
    for wrong in ("no", ["given"]):
        with pytest.raises(rd.DataError, match="`failed` is 'ignore' or 'reweight'"):
            rd.fit(model, sims, key=0, failed=wrong)


# histories -----------------------------------------------------------------------------------------------------------


def test_a_history_is_told_in_a_few_lines():
    def history(validation, best_step, before):
        return training.History(
            np.array([250, 500, 750]), np.array([3.0, 2.0, 1.0]), np.array(validation), best_step, 12.3, "no progress",
            before,
        )  # fmt: skip

    site = history([0.5, 0.25, 0.75], 500, {})
    told = history([2.5, 1.5, 1.75], 750, {"site": site, "own <b>": site})
    lines = str(told).splitlines()
    assert len(lines) <= 10
    for words in ("750 (stopped early)", "1.5000 at step 500", "1.0000", "step 750", "12 s", "site (750 steps"):
        assert any(words in line for line in lines), words
    assert "\n" not in repr(told)
    assert "own &lt;b&gt;" in told._repr_html_()
    assert "1.5000 at step 500" in told._repr_html_()
