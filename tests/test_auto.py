"""Solvers that a model chooses: what is measured is true, and what is kept is right."""

import dataclasses
import json
import math
import warnings

import jax
import numpy as np
import pytest

import retrodict as rd
from retrodict.evaluation import solver_tuning as tuning
from retrodict.models import _auto_solver as _auto
from retrodict.models import _files as saving
from retrodict.solvers import (
    CANDIDATES,
    RK4,
    AdamsBashforth,
    Auto,
    DPMSolver,
    Euler,
    Heun,
    Power,
    Straightened,
    Uniform,
    at_cost,
    from_json,
    stripped,
    to_json,
)
from retrodict.variables import Layout, Variable


FEW = tuple(Straightened(scheme) for scheme in (AdamsBashforth(grid=Power()), AdamsBashforth(grid=Uniform())))
WISH = Auto(0.02, FEW)  # everywhere the same two: one program
COUNTS = np.asarray([1.0, 1.4, 0.6], np.float32)


@pytest.fixture
def measurements(monkeypatch):
    """Counts how often something is measured, in a process that has measured nothing."""
    assert rd.tune  # imported before anything is patched: what it measures is not counted
    calls, measured = [], _auto.measured

    def counted(*args):
        calls.append(args)
        return measured(*args)

    monkeypatch.setattr(_auto, "measured", counted)
    monkeypatch.setattr(_auto, "_CHOSEN", {})
    return calls


def stretched(solver):
    """Where a solver carries x0 = 1 along the flow of standard normal data on straight lines, by float64 arithmetic."""
    own, x, before = stripped(solver), 1.0, None
    t = 1.0 - (1.0 - np.linspace(0.0, 1.0, own.steps + 1)) ** (2.0 if own.grid == Power() else 1.0)

    def f(x, t):  # the velocity E[x1 - x0 | x]
        return (2 * t - 1) / (t**2 + (1 - t) ** 2) * x

    for i, h in enumerate(np.diff(t)):
        k = f(x, t[i])
        if before is None:
            x, before = x + h / 2 * (k + f(x + h * k, t[i + 1])), (k, h)
        else:
            half = h / before[1] / 2
            x, before = x + h * ((1 + half) * k - half * before[0]), (k, h)
    return x


@pytest.mark.parametrize("wanted", [0.03, 0.003])
def test_the_error_is_that_of_arithmetic(normal, wanted):
    """The true error is |c - 1| x0, of root mean square |c - 1|. Its unit is read off 32 draws, which is within a
    third of an sd; the fine solution adds a tenth of what is wanted at most."""
    _, choice = rd.tune(normal, given=["x"], solver=Auto(wanted, FEW))
    true = abs(stretched(choice.solver) - 1.0)
    assert 0.75 * true < choice.error < 1.35 * true + 0.1 * wanted
    assert choice.error <= wanted


@pytest.mark.slow
def test_the_error_is_that_of_a_much_finer_solution(model, measurements):
    """A trained model, other noise, simulated observations: within a factor of 2 of what Dopri5 says at 1e-6."""
    batch = rd.Batch({"counts": np.stack([COUNTS, 0.7 * COUNTS, 2.0 * COUNTS])})
    _, choice = rd.tune(model, given=["counts"], solver=WISH)

    def coordinates(solver):
        draws = model.sample(200, given=batch, solver=solver, key=5)
        return np.stack(list(model.to_coordinates({k: v.reshape(600) for k, v in draws.items()}).values())).reshape(
            2, 3, 200
        )

    fine = coordinates(rd.solvers.Dopri5(1e-6, 1e-6))
    low, high = np.quantile(fine, [0.1587, 0.8413], axis=2, keepdims=True)
    true = np.sqrt(np.mean(((coordinates(choice.solver) - fine) / (high - low) * 2) ** 2))
    assert true / 2 < choice.error < 2 * true


def test_a_looser_error_costs_less(normal):
    costs = [rd.tune(normal, given=["x"], solver=Auto(wanted, FEW))[1].evaluations for wanted in (0.01, 0.001, 0.0001)]
    assert costs == sorted(set(costs))


def law(scale, order):
    """Errors that fall by a power of the number of evaluations."""
    return lambda solver: scale * solver.evaluations**-order


@pytest.mark.parametrize("wanted", [0.2, 0.05, 0.01, 0.001])
def test_the_search_finds_the_cheapest(wanted):
    laws = {AdamsBashforth: law(4.0, 2.0), DPMSolver: law(2.0, 1.0), RK4: law(300.0, 4.0)}
    candidates = tuple(kind() for kind in laws)

    def error(solver):
        return laws[type(solver)](solver)

    every = [_auto._at(one, cost) for one in candidates for cost in range(2, 257)]
    least = min(one.evaluations for one in every if one is not None and error(one) <= wanted)
    found = _auto.search(candidates, error, wanted)
    assert error(found) <= wanted
    assert least <= found.evaluations <= math.ceil(least * (1 + 1 / 16))


def test_the_search_ends_with_the_best_where_nothing_is_good_enough():
    found = _auto.search((Heun(), Euler()), lambda one: (2.0 if isinstance(one, Euler) else 1.0) / one.evaluations, 0.0)
    assert isinstance(found, Heun)
    assert found.evaluations == 256


def test_lost_rows_are_no_solution():
    truth = np.ones((2, 3, 1))
    assert _auto._rms(truth * np.nan, truth, np.ones(())) == np.inf
    truth[0] = np.nan  # nothing was asked there
    assert _auto._rms(truth + 0.5, truth, np.ones(())) == 0.5
    truth[1, 0] = np.inf  # the fine solution lost a row
    assert _auto._rms(np.ones((2, 3, 1)), truth, np.ones(())) == np.inf


@pytest.mark.filterwarnings("ignore:.* takes too few steps")  # as the candidates here do
def test_the_choice_is_the_same_for_every_key_and_made_once(model, measurements):
    ask = {"given": {"counts": COUNTS}, "solver": WISH}
    one, other = (model.sample(5, key=key, **ask) for key in (1, 2))
    assert len(measurements) == 1
    assert (one["rate"] != other["rate"]).all()
    (choice,) = _auto._CHOSEN.values()
    np.testing.assert_array_equal(one["rate"], model.sample(5, given=ask["given"], solver=choice.solver, key=1)["rate"])
    _auto._CHOSEN.clear()
    model.sample(5, key=7, **ask)
    assert [found.solver for found in _auto._CHOSEN.values()] == [choice.solver]


def test_families_of_questions_are_told_apart(model, measurements):
    model, _ = rd.tune(model, given=["counts"], solver=WISH)
    for given in ({"counts": COUNTS}, rd.Batch({"counts": np.stack([COUNTS] * 2)})):
        model.sample(3, given=given, solver=WISH, key=0)
    assert not measurements
    others = [{"counts": np.where([1, 1, 0], COUNTS, np.nan)}, {"rate": 1.0}, {}]
    for count, given in enumerate(others, start=1):
        model.sample(3, given=given, solver=WISH, key=0)
        assert len(measurements) == count
    model.sample(3, given={"counts": COUNTS}, solver=Auto(0.05, FEW), key=0)
    model.log_prob({"rate": [1.0], "noise": [1.0]}, given={"counts": COUNTS}, solver=WISH)
    assert len(measurements) == 5


@pytest.mark.filterwarnings("ignore:.* takes too few steps")  # as the candidates here do
def test_a_file_carries_the_choice(model, measurements, tmp_path):
    tuned, choice = rd.tune(model, given=["counts"], solver=WISH)
    assert model.record.solvers == ()  # values, not states
    again = rd.load(rd.save(tuned, tmp_path / "m"))
    assert again.record == tuned.record
    assert again.record.solvers == (choice,)
    assert choice.question == "rate, noise given counts"
    ask = {"given": {"counts": COUNTS}, "key": 1}
    np.testing.assert_array_equal(
        again.sample(9, solver=WISH, **ask)["rate"], model.sample(9, solver=choice.solver, **ask)["rate"]
    )
    assert not measurements
    twice, _ = rd.tune(again, given=["counts"], solver=WISH)
    assert len(twice.record.solvers) == 1


def test_a_file_without_choices_is_as_it_was(model, tmp_path):
    _, manifest = saving._read(rd.save(model, tmp_path / "m"))
    assert "solvers" not in manifest["record"]
    assert rd.load(tmp_path / "m").record.solvers == ()


def test_other_weights_have_no_choice(model, sims, measurements, tmp_path):
    tuned, _ = rd.tune(model, given=["counts"], solver=WISH)
    further, _ = rd.fit(tuned, sims, key=0, steps=2, batch_size=32, progress=False)
    assert further.record.solvers == ()
    moved = dataclasses.replace(tuned, net=jax.tree.map(lambda a: a * 1.5, tuned.net))
    moved.sample(3, given={"counts": COUNTS}, solver=WISH, key=0)
    assert len(measurements) == 1
    assert rd.load(rd.save(moved, tmp_path / "m")).record.solvers == ()


def test_a_warning_says_what_is_reached(model, measurements, monkeypatch):
    monkeypatch.setattr(_auto, "COSTS", (8,))
    with pytest.warns(rd.SolverWarning, match=r"an error of 1e-05; the best of them, with 8 .*, errs by 0\.0\d+"):
        model.sample(3, given={"counts": COUNTS}, solver=Auto(1e-5, FEW), key=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(3, given={"counts": COUNTS}, solver=Auto(0.5, FEW), key=0)


@pytest.mark.parametrize("wanted", [0.1, 0.005])
def test_densities_err_by_what_was_wanted(normal, wanted):
    """Against the closed form; at points a little further out than draws are in the mean, hence the factor of 2."""
    values = {"a": np.linspace(-1.5, 1.5, 9), "b": np.linspace(1.5, -1.5, 18).reshape(9, 2)}
    rows = np.concatenate([values["a"][:, None], values["b"]], axis=1)
    exact = -0.5 * (rows**2).sum(axis=1) - 1.5 * np.log(2 * np.pi)
    found = normal.log_prob(values, given={"x": np.zeros(4)}, solver=Auto(wanted, FEW))
    assert np.sqrt(np.mean((found - exact) ** 2)) < 2 * wanted


@pytest.mark.slow
def test_guided_questions_have_a_choice_too(model, measurements):
    draws = model.sample(8, given={"counts": COUNTS, "noise": rd.Interval(0.6, 1.2)}, of=["noise"], solver=WISH, key=0)
    assert ((draws["noise"] >= 0.6) & (draws["noise"] <= 1.2)).all()
    assert len(measurements) == 1


def test_observations_come_from_the_model_if_it_has_learned_them(model, sims, monkeypatch):
    roles = np.asarray([[1, 1, 2, 2, 2]])
    own = _auto.typical(model, roles, np.zeros(5, np.float32))
    start = rd.posterior(sims.layout, net=rd.nets.ResMLP(16, 1))
    alone = rd.fit(start, sims, key=1, steps=20, batch_size=32, progress=False)[0]
    other = _auto.typical(alone, roles, np.zeros(5, np.float32))
    assert own.z.shape == other.z.shape == (_auto.OBSERVATIONS, 5)
    assert (own.z[:, :2] == 0.0).all()
    assert (own.z[:, 2:] != other.z[:, 2:]).all()
    seen, measured = [], tuning.measured
    monkeypatch.setattr(tuning, "measured", lambda m, asked, *rest: seen.append(asked) or measured(m, asked, *rest))
    rd.tune(alone, given=["counts"], solver=WISH, sims=sims)
    (asked,) = seen
    rows = np.linspace(0, sims.kept - 1, _auto.OBSERVATIONS).astype(int)
    scaled = alone.to_coordinates({"counts": sims["counts"]})["counts"][rows]
    np.testing.assert_allclose(asked.z[:, 2:], scaled, rtol=1e-5, atol=1e-6)
    assert (asked.z[:, :2] == 0.0).all()


@pytest.mark.filterwarnings("ignore:.* takes too few steps")  # as the candidates here do
def test_a_choice_for_densities_is_kept_apart(model, measurements):
    tuned, choice = rd.tune(model, given=["counts"], solver=WISH, kind="densities")
    assert (choice.kind, choice.question) == ("densities", "rate, noise given counts")
    values, given = {"rate": [1.0], "noise": [1.0]}, {"counts": COUNTS}
    before = len(measurements)
    np.testing.assert_array_equal(
        tuned.log_prob(values, given=given, solver=WISH), model.log_prob(values, given=given, solver=choice.solver)
    )
    assert len(measurements) == before
    tuned.sample(3, given=given, solver=WISH, key=0)
    assert len(measurements) == before + 1


@pytest.mark.parametrize("solver", [*CANDIDATES, rd.solvers.EDMSampler(5)], ids=str)
def test_a_solver_survives_json(solver):
    filled = at_cost(solver, 24)
    assert from_json(json.loads(json.dumps(to_json(filled)))) == filled


class Bent(rd.paths.AbstractGrid):
    def rising(self, steps, low, high, schedule):
        return np.linspace(low, high, steps + 1)


CASES = {
    "no error": (lambda m: Auto(0.0), "Auto needs an error above 0, such as Auto(error=0.01), got 0.0"),
    "no candidates": (lambda m: Auto(candidates=()), "Auto has no candidates; name at least one"),
    "an adaptive candidate": (
        lambda m: Auto(candidates=(rd.solvers.Dopri5(),)), "and draw no noise on their way, got Dopri5; name some"),
    "a noisy candidate": (
        lambda m: Auto(candidates=(rd.solvers.ShARK(),)), "and draw no noise on their way, got ShARK; name some"),
    "Auto where there is no model": (
        lambda m: Auto()(lambda x, t: x, np.zeros(2), 0.0, 1.0), "name one here, such as AdamsBashforth(steps=16)"),
    "no densities": (
        lambda m: m.log_prob({"rate": [1.0]}, solver=Auto(candidates=(DPMSolver(),))),
        "none of Auto's candidates can follow this model's path and has densities; name another"),
    "no Auto": (
        lambda m: rd.tune(m, given=["counts"], solver=Heun()),
        "tune chooses for `rd.solvers.Auto(error=...)`, got Heun"),
    "a name in given": (lambda m: rd.tune(m, given=["cuonts"]), "`given` names 'cuonts'"),
    "no model": (lambda m: rd.tune(m.net, given=["counts"]), "tune takes a model such as rd.joint"),
    "a grid of one's own": (
        lambda m: rd.tune(m, given=["counts"], solver=Auto(candidates=(Heun(grid=Bent()),))),
        "Bent is not one of retrodict's own, which alone a file can name"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_chosen_is_refused(model, case):
    call, message = CASES[case]
    with pytest.raises(rd.QueryError) as told:
        call(model)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_a_hierarchy_refuses():
    layout = Layout((Variable("g"), Variable("y", kind="data", plate="site")))
    model = rd.hierarchical(layout, site=rd.nets.ResMLP(8, 1), flow=rd.nets.ResMLP(8, 1))
    for ask in (
        lambda: model.sample(3, given={"y": np.zeros(2)}, solver=Auto(), key=0),
        lambda: model.log_prob({"g": np.zeros(2)}, given={"y": np.zeros(2)}, solver=Auto()),
    ):
        with pytest.raises(rd.QueryError, match=r"name a solver, or ask `model\.site` about a"):
            ask()


def test_a_file_that_names_another_solver_is_refused(model, tmp_path):
    tuned, _ = rd.tune(model, given=["counts"], solver=WISH)
    file = rd.save(tuned, tmp_path / "m")
    arrays, manifest = saving._read(file)
    manifest["record"]["solvers"][0]["solver"]["solver"]["name"] = "Oracle"
    from safetensors.numpy import save

    file.write_bytes(save(arrays, metadata={"retrodict": json.dumps(manifest)}))
    with pytest.raises(rd.FileError, match=r"names the solver or grid 'Oracle'"):
        rd.load(file)
