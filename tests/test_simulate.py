"""Simulations: rows that depend on their own seed alone, failures counted, supports declared."""

import io
import subprocess
import sys
import time
from html.parser import HTMLParser
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import retrodict as rd
from retrodict._runtime import progress
from retrodict.variables import Layout, Variable


room = import_module("retrodict.simulation._simulate")  # `rd.simulate` is the function


def test_a_row_does_not_depend_on_how_many_are_drawn(problem, monkeypatch):
    few, many = rd.simulate(problem, 10, key=3), rd.simulate(problem, 40, key=3)
    monkeypatch.setattr(room, "MAX_ROWS_PER_BATCH", 7)
    odd = rd.simulate(problem, 40, key=3)
    for name in few:
        np.testing.assert_array_equal(few[name], many[name][:10])
        np.testing.assert_array_equal(odd[name], many[name])


def test_no_two_rows_are_alike(problem):
    sims = rd.simulate(problem, 2000, key=0)
    assert len(np.unique(sims["counts"], axis=0)) == 2000


def test_failures_are_counted_and_their_parameters_kept():
    def explode(key, a):
        return {"y": jnp.where(a > 1.0, jnp.nan, a + jax.random.normal(key))}

    sims = rd.simulate(rd.Problem({"a": dist.Normal(0.0, 1.0)}, explode), 4000, key=0)
    assert sims.drawn == sims.kept + sims.n_failed == 4000
    assert (sims.failed["a"] > 1.0).all()
    assert (sims["a"] <= 1.0).all()
    # P(a > 1) = .1587; 5 standard deviations of a binomial of 4,000, false-alarm rate 6e-7
    assert abs(sims.n_failed / 4000 - 0.1587) < 5 * np.sqrt(0.1587 * 0.8413 / 4000)
    assert "failed" in repr(sims)


def test_a_numpy_simulator_called_by_hand():
    """With a generator of one's own, or with a key as any simulator."""
    simulator = rd.numpy_simulator(lambda rng, a: {"y": a + rng.normal(size=2)})
    by_hand = simulator(np.random.default_rng(3), a=1.0)["y"]
    np.testing.assert_array_equal(by_hand, 1.0 + np.random.default_rng(3).normal(size=2))
    np.testing.assert_array_equal(simulator(5, a=1.0)["y"], simulator(jax.random.key(5), a=1.0)["y"])


def test_a_row_that_raises_has_failed():
    """In memory as in a store; where none ends well, its own words say why."""

    def refuse(rng, a, most=1.0):
        if a > most:
            raise ValueError("too far")
        return {"y": np.array([a, rng.normal()])}

    sims = rd.simulate(rd.Problem({"a": dist.Normal(0.0, 1.0)}, rd.numpy_simulator(refuse)), 500, key=0)
    assert (sims["a"] <= 1.0).all()
    assert (sims.failed["a"] > 1.0).all()
    assert abs(sims.n_failed / 500 - 0.1587) < 5 * np.sqrt(0.1587 * 0.8413 / 500)
    assert f"{sims.n_failed} failed (ValueError: too far (line " in repr(sims)


def test_numpy_simulators_have_a_stream_per_row():
    problem = rd.Problem({"a": dist.Normal(0.0, 1.0)}, rd.numpy_simulator(lambda rng, a: {"y": a + rng.normal(size=2)}))
    sims, again = rd.simulate(problem, 50, key=0), rd.simulate(problem, 20, key=0)
    assert sims["y"].shape == (50, 2)
    assert len(np.unique(sims["y"] - sims["a"][:, None])) == 100
    np.testing.assert_array_equal(sims["y"][:20], again["y"])


def test_a_prior_may_depend_on_earlier_parameters():
    problem = rd.Problem(
        {"m": dist.Normal(0.0, 1.0), "a": lambda m: dist.Normal(m, 0.1)}, lambda key, m, a: {"y": a + 0 * m}
    )
    sims = rd.simulate(problem, 3000, key=0)
    assert np.std(sims["a"] - sims["m"]) == pytest.approx(0.1, rel=0.07)  # 5 sd of a standard deviation of 3,000
    value = {"m": jnp.asarray(0.5), "a": jnp.asarray(0.4)}
    exact = dist.Normal(0.0, 1.0).log_prob(0.5) + dist.Normal(0.5, 0.1).log_prob(0.4)
    assert problem.prior.log_prob(value) == pytest.approx(float(exact), rel=1e-6)


def test_data_have_the_supports_that_are_declared():
    problem = rd.Problem(
        {"a": dist.HalfNormal(1.0)}, lambda key, a: {"y": jnp.exp(a)}, supports={"y": constraints.positive}
    )
    assert (problem.layout["y"].low, problem.layout["y"].high) == (0.0, np.inf)
    assert problem.layout["a"].low == 0.0
    assert (problem.layout.parameters, problem.layout.data) == (["a"], ["y"])


# ---- at given parameters


def linear(key, a, b):
    """y ~ N(2 a + b, 1/2^2), three times."""
    return {"y": 2.0 * a + b[0] + 0.5 * jax.random.normal(key, (3,))}


LINEAR_PRIOR = {"a": dist.Normal(0.0, 1.0), "b": dist.Normal(jnp.zeros(2), 1.0).to_event(1)}
LINEAR = {
    "jax": rd.Problem(LINEAR_PRIOR, linear),
    "numpy": rd.Problem(
        LINEAR_PRIOR, rd.numpy_simulator(lambda rng, a, b: {"y": 2.0 * a + b[0] + 0.5 * rng.normal(size=3)})
    ),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_simulations_at_fixed_parameters_have_the_mean_and_sd_of_the_simulator(kind):
    n = {"jax": 40_000, "numpy": 2_000}[kind]
    draws = {"a": np.full(n, 0.7), "b": np.tile([-0.2, 9.0], (n, 1))}
    sims = room.simulate_at(LINEAR[kind], draws, key=5)
    assert (sims.kept, sims.drawn, sims["y"].shape) == (n, n, (n, 3))
    assert (np.float32(sims["a"]) == np.float32(0.7)).all()
    # 5 standard errors of a mean and of a standard deviation of 3 n normal numbers
    assert abs(sims["y"].mean() - 1.2) < 5 * 0.5 / np.sqrt(3 * n)
    assert abs(sims["y"].std() - 0.5) < 5 * 0.5 / np.sqrt(6 * n)
    assert len(np.unique(sims["y"])) > 2.9 * n  # float32 has few numbers: some draws are equal
    assert sims.problem is None  # rows that are no draws of its prior


@pytest.mark.parametrize("kind", LINEAR)
def test_simulations_at_the_parameters_of_simulations_are_these(kind, monkeypatch):
    """With the same key, however rows are batched; and equal keys mean equal rows."""
    sims = rd.simulate(LINEAR[kind], 30, key=3)
    draws = {name: sims[name] for name in ("a", "b")}
    again = room.simulate_at(LINEAR[kind], draws, key=3)
    np.testing.assert_allclose(again["y"], sims["y"], rtol=1e-6)
    monkeypatch.setattr(room, "MAX_ROWS_PER_BATCH", 7)
    np.testing.assert_array_equal(room.simulate_at(LINEAR[kind], draws, key=3)["y"], again["y"])
    few = {name: values[:4] for name, values in draws.items()}
    np.testing.assert_array_equal(room.simulate_at(LINEAR[kind], few, key=3)["y"], again["y"][:4])
    assert (room.simulate_at(LINEAR[kind], few, key=4)["y"] != again["y"][:4]).all()


SITES_PRIOR = {"mu": dist.Normal(0.0, 1.0), "site": rd.Plate("site", {"eta": lambda mu: dist.Normal(mu, 0.5)})}
SITES = {
    "jax": rd.Problem(SITES_PRIOR, lambda key, mu, eta: {"y": eta - mu + 0.5 * jax.random.normal(key)}),
    "numpy": rd.Problem(SITES_PRIOR, rd.numpy_simulator(lambda rng, mu, eta: {"y": eta - mu + 0.5 * rng.normal()})),
}


@pytest.mark.parametrize("kind", SITES)
def test_simulations_of_sites_at_given_parameters(kind):
    sims = rd.simulate(SITES[kind], 20, key=1, sites=4)
    draws = {name: sims[name] for name in ("mu", "eta")}
    again = room.simulate_at(SITES[kind], draws, key=1)
    assert (again.sites, again["y"].shape) == (4, (20, 4))
    np.testing.assert_allclose(again["y"], sims["y"], atol=2e-6)
    np.testing.assert_array_equal(again["eta"], sims["eta"])
    one = room.simulate_at(SITES[kind], {"mu": sims["mu"], "eta": sims["eta"][:, 0]}, key=1)
    assert (one.sites, one["y"].shape) == (0, (20,))
    far = room.simulate_at(SITES[kind], {"mu": np.zeros(500), "eta": np.tile([-3.0, 5.0], (500, 1))}, key=2)
    # 5 standard errors of a mean of 500
    np.testing.assert_allclose(far["y"].mean(axis=0), [-3.0, 5.0], atol=5 * 0.5 / np.sqrt(500))


def test_sites_with_data_alone_are_counted_by_the_caller():
    trials = rd.Problem({"mu": dist.Normal(), "site": rd.Plate("site", {})}, lambda key, mu: {"y": mu})
    assert room.simulate_at(trials, {"mu": np.arange(3.0)}, key=0, sites=2)["y"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert room.simulate_at(trials, {"mu": np.arange(3.0)}, key=0)["y"].tolist() == [0, 1, 2]


def test_functions_are_given_on_the_grid_of_the_prior():
    grid = jnp.linspace(0.0, 1.0, 5)
    law = rd.Function(dist.Uniform(jnp.zeros(5), 1.0).to_event(1), grid, 3)
    problem = rd.Problem({"f": law}, lambda key, f: {"y": f.sum()})
    sims = room.simulate_at(problem, {"f": np.tile(np.linspace(0.0, 1.0, 5), (4, 1))}, key=0)
    np.testing.assert_allclose(sims["f"], sims["f.at"][..., 0] if sims["f.at"].ndim == 3 else sims["f.at"], atol=1e-6)
    assert (sims["y"] == 2.5).all()


def test_failures_at_given_parameters_are_counted():
    def refuse(rng, a):
        if a > 1:
            raise ValueError("too far")
        return {"y": a if a > -1 else np.nan}

    problem = rd.Problem({"a": dist.Normal(0.0, 1.0)}, rd.numpy_simulator(refuse))
    sims = room.simulate_at(problem, {"a": [0.0, 2.0, -2.0, 0.5]}, key=0)
    assert sims["y"].tolist() == [0.0, 0.5]
    assert sims.failed["a"].tolist() == [2.0, -2.0]
    assert sims.error.startswith("ValueError: too far (line ")
    with pytest.raises(rd.RetrodictError, match=r"none of 2 simulations ended with finite data \(ValueError: too far"):
        room.simulate_at(problem, {"a": [2.0, -2.0]}, key=0)


WRONG_DRAWS = {
    "an unknown name": ({"a": [0.0], "b": [[0.0, 0.0]], "c": [0.0]}, "names 'c'; the prior has 'a', 'b'"),
    "a datum": ({"a": [0.0], "y": [0.0]}, "names 'y'; the prior has 'a', 'b'"),
    "a missing one": ({"a": [0.0]}, "need every parameter of the prior, 'a', 'b'; 'b' is missing"),
    "a number": ({"a": 0.0, "b": [[0.0, 0.0]]}, r"'a' in `draws` must have the shape \(n,\), got \(\)"),
    "a shape": ({"a": [0.0], "b": [0.0]}, r"'b' in `draws` must have the shape \(n, 2\), got \(1,\)"),
    "text": ({"a": ["x"], "b": [[0.0, 0.0]]}, "'a' in `draws` must be numbers"),
    "other rows": ({"a": [0.0, 1.0], "b": [[0.0, 0.0]]}, "need one number of rows and of sites"),
    "no rows": ({"a": np.zeros(0), "b": np.zeros((0, 2))}, "need one number of rows and of sites, above 0"),
    "NaN": ({"a": [0.0, np.nan], "b": np.zeros((2, 2))}, "'a' in `draws` is not finite in row 1; leave such rows out"),
}


@pytest.mark.parametrize("case", WRONG_DRAWS)
def test_wrong_draws_are_refused(case):
    draws, sentence = WRONG_DRAWS[case]
    with pytest.raises(rd.DataError, match=sentence):
        room.simulate_at(LINEAR["jax"], draws, key=0)


def test_wrong_sites_of_draws_are_refused():
    with pytest.raises(
        rd.DataError, match=r"'eta' in `draws` must have the shape \(n,\) or \(n, sites\), got \(2, 3, 1\)"
    ):
        room.simulate_at(SITES["jax"], {"mu": np.zeros(2), "eta": np.zeros((2, 3, 1))}, key=0)
    with pytest.raises(rd.DataError, match="`draws` have parameters of 3 sites and `sites` is 2; leave `sites` out"):
        room.simulate_at(SITES["jax"], {"mu": np.zeros(2), "eta": np.zeros((2, 3))}, key=0, sites=2)
    with pytest.raises(rd.DataError, match="this problem has none"):
        room.simulate_at(LINEAR["jax"], {"a": [0.0], "b": [[0.0, 0.0]]}, key=0, sites=2)


# ---- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def slow(rng, a):
    time.sleep(0.01)
    return {"y": a}


SLOW = rd.Problem({"a": dist.Normal(0.0, 1.0)}, rd.numpy_simulator(slow))


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_quick_run_shows_nothing_and_a_long_one_does(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", quick := stream())
    rd.simulate(SLOW, 5, key=0)
    assert quick.getvalue() == ""
    monkeypatch.setattr(room, "SECONDS_WITHOUT_PROGRESS", 0.05)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    rd.simulate(SLOW, 30, key=0, progress=False)
    assert quick.getvalue() == ""
    rd.simulate(SLOW, 30, key=0)
    shown = quick.getvalue()
    assert "simulating" in shown
    assert " rows/s, 0 failed" in shown
    if stream is io.StringIO:
        lines = shown.splitlines()
        assert len(lines) > 1
        assert lines[-1].startswith("simulating: 30/30, ")
        assert lines[-1].endswith(" rows/s, 0 failed, 0 s left")


def test_a_stream_that_breaks_ends_nothing(monkeypatch):
    class Broken(Terminal):
        def write(self, text):
            raise BrokenPipeError

    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(room, "SECONDS_WITHOUT_PROGRESS", 0.02)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.02)
    for stream in (closed, Broken(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert rd.simulate(SLOW, 20, key=0).kept == 20


STDERR_IS_CLOSED = """
import sys, numpyro.distributions as dist, retrodict as rd
from retrodict._runtime import progress
progress.SECONDS_BETWEEN_LINES = 0.0
assert sys.stderr is None
def f(rng, a):
    print("to nobody")
    return {"y": a}
problem = rd.Problem({"a": dist.Normal(0.0, 1.0)}, rd.numpy_simulator(f))
for how in ({}, {"executor": 1}):
    assert rd.simulate(problem, 8 + len(how) * 8, key=0, store=sys.argv[1], batch=4, **how).n_failed == 0
print(rd.simulate(rd.Problem({"a": dist.Normal(0.0, 1.0)}, lambda key, a: {"y": a}), 8, key=0).kept)
"""


def test_a_campaign_without_standard_error(tmp_path):
    command = [sys.executable, "-c", STDERR_IS_CLOSED, str(tmp_path / "s")]
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "8\n")


# ---- what is shown


class Cells(HTMLParser):
    """The texts of a table, each within its own element."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.open = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in ("table", "caption", "tbody", "tr", "td")
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_problem_shows_its_variables_and_its_simulator():
    lines = repr(LINEAR["jax"]).splitlines()
    assert lines[0] == "Problem(simulator 'linear' in JAX)"
    assert [line.split() for line in lines[1:]] == [
        ["a", "number", "Normal(loc=0,", "scale=1)"],
        ["b", "(2,)", "Normal(loc=0,", "scale=1)"],
        ["y", "(3,)", "data,", "real"],
    ]
    sites = repr(SITES["jax"]).splitlines()
    assert sites[2].endswith("given mu, one per site")
    assert sites[3].endswith("data, real, one per site")


def test_showing_a_problem_runs_no_simulator_in_python():
    def refuse(rng, a):
        raise AssertionError

    problem = rd.Problem({"a": dist.LogNormal(0.0, 1.0)}, rd.numpy_simulator(refuse))
    assert "it has not been run yet" in repr(problem)
    assert "Problem(simulator 'refuse' in NumPy)" in repr(problem)
    broken = rd.Problem({"a": dist.Normal()}, lambda key, a: [1, 2])
    assert "RetrodictError  a simulator returns a mapping from name to array, got list" in repr(broken)
    assert "LogNormal(loc=0, scale=1)" in repr(problem)
    command = rd.command_simulator("/bin/lattice {output}")
    assert "'lattice' in NumPy" in repr(rd.Problem({"a": dist.Normal()}, command))


def test_what_is_shown_is_short_and_html_is_escaped():
    names = [f"p{i}<b>" for i in range(12)]
    problem = rd.Problem({name: dist.Normal() for name in names}, lambda key, **values: {"x<i>": jnp.zeros(3)})
    sims = rd.simulate(problem, 20, key=0)
    for shown in (problem, sims):
        lines = repr(shown).splitlines()
        assert len(lines) <= 10
        assert "... 5 more" in repr(shown)
        assert "x<i>" in lines[-1]
        texts = Cells(shown._repr_html_()).texts
        assert {"p0<b>", "x<i>", lines[0]} <= set(texts)


def test_simulations_show_counts_shapes_and_the_first_error():
    def refuse(rng, a):
        if a > 0:
            raise ValueError("too\nfar <b>")
        return {"y": np.zeros(2)}

    sims = rd.simulate(rd.Problem({"a": dist.Normal(0.0, 1.0)}, rd.numpy_simulator(refuse)), 30, key=0)
    lines = repr(sims).splitlines()
    assert (
        lines[0] == f"Simulations(30 drawn, {sims.kept} kept, {sims.n_failed} failed ({' '.join(sims.error.split())}))"
    )
    assert lines[1].split() == ["a", f"({sims.kept},)", "parameter,", "real"]
    assert lines[2].split() == ["y", f"({sims.kept},", "2)", "data,", "real"]
    assert lines[0] in Cells(sims._repr_html_()).texts
    many = rd.simulate(SITES["jax"], 3, key=0, sites=5)
    assert "5 sites" in repr(many).splitlines()[0]
    assert "(3, 5)" in repr(many)


def test_variables_and_layouts_are_short():
    layout = Layout(
        (
            Variable("rate", low=0.0),
            Variable("shift", (2,), (0.0, -1.0), (1.0, 1.0), plate="site"),
            Variable("f", (20,), kind="data", axes=1),
            Variable("f.at", (20, 1), kind="place"),
        )
    )
    assert repr(layout) == (
        "Layout(parameters rate > 0, shift (2,) in ((0, -1), 1) per site; data f (20,) as a function; "
        "places f.at (20, 1))"
    )
    assert repr(layout["rate"]) == "Variable('rate': parameter, > 0)"
    assert layout["f.at"].support == "points of 'f'"
    assert [Variable("a", high=2.0).support, Variable("a").support] == ["< 2", "real"]
