"""Campaigns: every way a row can end, who runs it, how it is stopped, and that none of it changes a row."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from conftest import assert_same, contents
from retrodict import cli
from retrodict.simulation.store import _child


KILLED = Path(__file__).parent.parent / "tools" / "killed_campaigns.py"


def problem_of(function):
    return rd.Problem({"a": dist.Uniform(0.0, 1.0)}, rd.numpy_simulator(function))


def simulated(where, problem, n=40, **how):
    return rd.simulate(problem, n, key=0, store=where, **{"batch": 8, "progress": False, **how})


def ways():
    """A simulator that ends in another way in every interval of its parameter, and what each way is to come to.

    Made in a function, so that it travels to workers as code: they need not import this file.
    """

    def raises():
        raise ValueError("no\nroot found")

    def leaves():
        raise SystemExit(3)

    def gives_up():
        raise TimeoutError("after 3 s of its own")

    fine = (1.0, 2.0)
    table = [
        (lambda: {"y": fine}, "ok", ""),
        (lambda: {"y": [1.0, float("nan")]}, "non-finite", ""),
        (lambda: {"y": [1.0, float("inf")]}, "non-finite", ""),
        (raises, "failed", "ValueError: no\nroot found (line "),
        (leaves, "failed", "SystemExit: 3 (line "),
        (gives_up, "timed out", "after 3 s of its own"),
        (lambda: {"z": fine}, "failed", "the simulator returned 'z' instead of 'y'"),
        (lambda: {"y": fine, "z": 1}, "failed", "the simulator returned 'y', 'z' instead of 'y'"),
        (lambda: {}, "failed", "the simulator returned nothing instead of 'y'"),
        (lambda: {"y": [1.0]}, "failed", "'y' has the shape (1,) instead of (2,)"),
        (lambda: {"y": [[1.0], [1.0, 2.0]]}, "failed", "'y' must be numbers in rows of equal length; "),
        (lambda: {"y": ["a", "b"]}, "failed", "'y' must be numbers, got text"),
        (lambda: {"y": [1j, 2.0]}, "failed", "'y' must be real numbers, got complex ones"),
        (lambda: fine, "failed", "the simulator returned tuple, not a mapping from name to array"),
        (lambda: print("{not json}") or {"y": fine}, "ok", ""),
    ]

    def simulate(rng, a):
        return table[int(float(a) * len(table))][0]()

    return simulate, [row[1:] for row in table]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """150 rows that end in all of these ways, run in this process; the trial run ended well."""
    where = tmp_path_factory.mktemp("ways") / "s"
    simulate, table = ways()
    problem = problem_of(simulate)
    problem.__dict__["layout"] = problem_of(lambda rng, a: {"y": np.zeros(2)}).layout
    simulated(where, problem, 150)
    return problem, where, table


def test_every_way_to_end_has_its_outcome(ended):
    _, where, table = ended
    store = rd.open_store(where)
    a, errors = store.read("a", np.arange(150)), np.full(150, "", object)
    errors[store.failed["row"]] = store.failed["error"]
    met = set()
    for code, number, error in zip(store.codes, a, errors, strict=True):
        way = int(float(number) * len(table))
        status, text = table[way]
        met.add(way)
        assert ("missing", "ok", "failed", "non-finite", "timed out")[code] == status, (way, error)
        assert error.startswith(text)
        assert bool(error) == bool(text)
    assert met == set(range(len(table)))


def test_what_a_simulator_prints_is_not_on_standard_output(ended, tmp_path, capfd):
    problem, _, table = ended
    simulated(tmp_path / "s", problem, 80)
    simulated(tmp_path / "t", problem, 80, executor=1)
    said = capfd.readouterr()
    assert said.out == ""
    a = rd.open_store(tmp_path / "s").read("a", np.arange(80))
    prints = sum(int(float(number) * len(table)) == len(table) - 1 for number in a)  # the last way of the table
    assert said.err.count("{not json}") == 2 * prints > 0


def test_workers_and_executors_change_nothing(ended, tmp_path):
    problem, where, _ = ended
    truth = contents(where)
    simulated(tmp_path / "workers", problem, 150, executor=2)
    assert_same(truth, contents(tmp_path / "workers"))
    with ThreadPoolExecutor(3) as threads:
        simulated(tmp_path / "threads", problem, 150, executor=threads)
    assert_same(truth, contents(tmp_path / "threads"))


class Late:
    """An executor that waits until some batches are there, and then runs the last first; some fail at first."""

    def __init__(self, error=None, times=0):
        self.waiting, self.error, self.times, self.tried = [], error, times, {}
        self.lock, self.asked, self.ran = threading.Lock(), [], []

    def submit(self, function, job, rows):
        future = Future()
        self.asked.append(rows[0][0].tobytes())
        self.waiting.append((future, function, job, rows))
        threading.Timer(0.05, self.run).start()
        return future

    def run(self):
        with self.lock:  # one timer at a time
            while self.waiting:
                future, function, job, rows = self.waiting.pop()
                seed = rows[0][0].tobytes()
                self.ran.append(seed)
                self.tried[seed] = self.tried.get(seed, 0) + 1
                if self.tried[seed] <= self.times:
                    future.set_exception(self.error)
                else:
                    future.set_result(function(job, rows))


class KilledWorker(Exception):
    """By the name that Dask gives it."""


def test_the_order_of_batches_changes_nothing(ended, tmp_path):
    problem, where, _ = ended
    simulated(tmp_path / "s", problem, 150, executor=(late := Late()))
    assert sorted(late.ran) == sorted(late.asked)
    assert late.ran != late.asked
    assert_same(contents(where), contents(tmp_path / "s"))


def test_a_batch_whose_worker_died_is_redone(ended, tmp_path):
    problem, where, _ = ended
    simulated(tmp_path / "s", problem, 150, executor=(late := Late(KilledWorker("dead"), 2)))
    assert_same(contents(where), contents(tmp_path / "s"))
    assert set(late.tried.values()) == {3}


def test_a_batch_that_ends_every_worker_fails(tmp_path):
    problem = problem_of(lambda rng, a: {"y": a})
    with pytest.raises(rd.RetrodictError, match=r"none of 16 .* ended well \(the worker died with this batch, 3 times"):
        simulated(tmp_path / "s", problem, 16, executor=Late(KilledWorker("dead"), 9))
    assert rd.open_store(tmp_path / "s").status["failed"] == 16


def test_an_executor_that_cannot_run_is_told_from_a_failing_simulator(tmp_path):
    problem = problem_of(lambda rng, a: {"y": a})
    with pytest.raises(rd.RetrodictError, match="the executor cannot run a batch, 3 times: OSError: no network"):
        simulated(tmp_path / "s", problem, executor=Late(OSError("no network"), 9))
    with pytest.raises(rd.RetrodictError, match=r"the executor is broken \(gone\); the rows so far are kept"):
        simulated(tmp_path / "s", problem, executor=Late(BrokenExecutor("gone"), 9))
    assert rd.open_store(tmp_path / "s").status["missing"] == 40
    assert simulated(tmp_path / "s", problem).drawn == 40


def test_rows_that_hang_or_kill_their_process(tmp_path):
    import os
    import time

    def simulate(rng, a):
        if a > 0.9:
            time.sleep(1000)
        if a < 0.1:
            os.kill(os.getpid(), 9)
        return {"y": a, "jax": float("jax" in sys.modules), "pid": os.getpid()}

    problem = problem_of(simulate)
    sims = simulated(tmp_path / "s", problem, 24, executor=2, timeout=0.4)
    store = rd.open_store(tmp_path / "s")
    a = store.read("a", np.arange(24))
    assert store.status["timed out"] == (a > 0.9).sum() > 0
    assert store.status["failed"] == (a < 0.1).sum() > 0
    assert sims.kept == 24 - sims.n_failed
    assert set(store.failed["error"]) == {
        "no end within 0.4 s",
        "the process died 3 times at this row (signal 9)",
    }
    assert not sims["jax"].any()  # a worker that needs no JAX has none, and starts at once
    time.sleep(0.1)
    for pid in map(int, set(sims["pid"])):  # and none is left behind
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_time_limit_holds_in_this_process_and_on_executors(tmp_path):
    import time

    def simulate(rng, a):
        time.sleep(1000 if a > 0.9 else 0)
        return {"y": a}

    problem = problem_of(simulate)
    simulated(tmp_path / "one", problem, 12, timeout=0.4)
    assert rd.open_store(tmp_path / "one").status["timed out"] > 0
    with ThreadPoolExecutor(1) as threads:
        simulated(tmp_path / "two", problem, 12, timeout=0.4, executor=threads)
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"))


def test_a_trial_run_may_hang_or_kill_its_process(tmp_path):
    import os
    import time

    prior = rd.Problem({"a": dist.Uniform(0.0, 1.0)}, lambda key, a: {}).prior
    first, second = (float(prior.draw(jax.random.key(seed))["a"]) for seed in (0, 1))

    def simulate(rng, a):
        if abs(a - first) < 1e-6:
            time.sleep(1000)
        if abs(a - second) < 1e-6:
            os.kill(os.getpid(), 9)
        return {"y": [a, 1.0]}

    problem = problem_of(simulate)
    assert simulated(tmp_path / "s", problem, 4, timeout=0.4).layout["y"].shape == (2,)  # the third trial showed it

    def hang(rng, a):
        time.sleep(1000)

    with pytest.raises(rd.RetrodictError, match=r"none of 5 trial runs of the simulator ended well; .* within 0\.1 s"):
        simulated(tmp_path / "t", problem_of(hang), 4, timeout=0.1)
    with pytest.raises(rd.RetrodictError, match="ended well; the last: the process died 3 times at this row"):
        simulated(tmp_path / "t", problem_of(lambda rng, a: os.kill(os.getpid(), 9)), 4, executor=1)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
@pytest.mark.parametrize("kind", ["jax", "python"])
def test_signals_end_after_the_batch_at_hand(kind, number, raised, tmp_path, monkeypatch, capsys):
    from retrodict.simulation.store._store import Writer

    if kind == "jax":
        problem = rd.Problem({"a": dist.Uniform(0.0, 1.0)}, lambda key, a: {"y": a + jax.random.uniform(key)})
    else:
        problem = problem_of(lambda rng, a: {"y": a + rng.uniform()})
    simulated(tmp_path / "whole", problem)
    write = Writer.write

    def interrupted(self, k, *what):
        if k == 2:
            signal.raise_signal(number)
        write(self, k, *what)

    monkeypatch.setattr(Writer, "write", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(raised) as told:
        simulated(tmp_path / "s", problem)
    assert signal.getsignal(number) is before
    there = 40 - rd.open_store(tmp_path / "s").status["missing"]
    assert there == {"jax": 32, "python": 24}[kind]  # in JAX one more batch was at hand
    if raised is SystemExit:
        assert told.value.code == 143
        assert f"stopped: {there} of 40 rows are in" in capsys.readouterr().err
    else:
        assert f"stopped: {there} of 40 rows are in" in str(told.value)
    monkeypatch.undo()
    simulated(tmp_path / "s", problem)
    assert_same(contents(tmp_path / "whole"), contents(tmp_path / "s"))


def test_a_second_interrupt_does_not_wait(tmp_path):
    def simulate(rng, a):
        if done:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return {"y": a}

    done = False
    problem = problem_of(simulate)
    assert problem.layout.data == ["y"]
    done = True
    with pytest.raises(KeyboardInterrupt, match="stopped at once"):
        simulated(tmp_path / "s", problem)
    assert rd.open_store(tmp_path / "s").status["missing"] == 40


def test_a_row_that_raises_in_jax_fails_alone(tmp_path):
    def simulate(key, a):
        return {"y": eqx.error_if(a, a > 0.8, "too large")}

    problem = rd.Problem({"a": dist.Uniform(0.0, 1.0)}, simulate)
    sims = simulated(tmp_path / "s", problem)
    failed = rd.open_store(tmp_path / "s").failed
    assert (failed["a"] > 0.8).all()
    assert (sims["a"] <= 0.8).all()
    assert sims.kept + len(failed["a"]) == 40
    assert len(failed["a"]) > 2
    assert all(error.endswith("EquinoxRuntimeError: too large") for error in failed["error"])


def test_functions_and_sites_go_through_workers(tmp_path):
    def simulate(rng, f, a):
        t = np.sort(rng.uniform(size=4))
        return {"y": rd.At(t, np.interp(t, np.linspace(0.0, 1.0, 5), f) + a)}

    grid = jnp.linspace(0.0, 1.0, 5)
    law = dist.Uniform(jnp.zeros(5), 1.0).to_event(1)
    plate = rd.Plate("site", {"a": dist.Uniform(0.0, 1.0)})
    functions = rd.Problem({"f": rd.Function(law, grid, 3), "a": dist.Uniform(0.0, 1.0)}, rd.numpy_simulator(simulate))
    sims = simulated(tmp_path / "s", functions, 8, executor=1)
    plain = rd.simulate(functions, 8, key=0)
    assert {name: sims[name].shape for name in sims} == {name: plain[name].shape for name in plain}
    for name in plain:
        np.testing.assert_allclose(sims[name], plain[name], rtol=2e-6)
    sites = rd.Problem({"m": dist.Uniform(0.0, 1.0), "site": plate}, rd.numpy_simulator(lambda rng, m, a: {"y": m + a}))
    found = simulated(tmp_path / "t", sites, 8)
    np.testing.assert_allclose(found["y"], found["m"] + found["a"], rtol=1e-6)
    assert found.layout.own == ["a", "y"]
    with pytest.raises(rd.DataError, match="a store keeps rows of one site"):
        simulated(tmp_path / "t", sites, 8, sites=2)


LOCK = threading.Lock()
IN_JAX = rd.Problem({"a": dist.Uniform(0.0, 1.0)}, lambda key, a: {"y": a})
IN_PYTHON = problem_of(lambda rng, a: {"y": a})
WRONG = {
    "an executor for JAX": (IN_JAX, {"executor": 2}, "a simulator in JAX runs in this process, in batches"),
    "a time limit for JAX": (IN_JAX, {"timeout": 1.0}, "a simulator in JAX runs in this process, in batches"),
    "no workers": (IN_PYTHON, {"executor": 0}, "`executor` is None, a positive whole number of processes"),
    "a name for an executor": (IN_PYTHON, {"executor": "dask"}, "anything with `submit`"),
    "no time": (IN_PYTHON, {"timeout": 0.0}, "`timeout` is the seconds that a row may take, more than 0"),
    "no batch": (IN_PYTHON, {"batch": 0}, "`batch` is how many rows are written at once, at least 1"),
    "no rows": (IN_PYTHON, {"n": 0}, "the number of simulations must be positive"),
    "no store": (IN_PYTHON, {"store": None, "executor": 2}, "`executor` needs a store to write to"),
    "what cannot be sent": (
        problem_of(lambda rng, a, lock=LOCK: {"y": a}),
        {"executor": 1},
        "the simulator cannot be sent to another process",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_before_anything_is_written(case, tmp_path):
    problem, how, sentence = WRONG[case]
    with pytest.raises(rd.DataError, match=sentence):
        rd.simulate(problem, **{"n": 10, "key": 0, "store": tmp_path / "s", "progress": False, **how})
    assert not (tmp_path / "s").exists()


PROGRAM = r"""
import json, sys, time
given, found, seed, how = sys.argv[1:]
a = json.load(open(given))["a"]
assert 0 <= int(seed) < 2**31
if a < 0.1:
    print("it began"); print("and diverged", file=sys.stderr); sys.exit(7)
if a > 0.9:
    time.sleep(100)
if 0.8 < a < 0.9:
    sys.exit(0)
if 0.7 < a < 0.8:
    open(found, "w").write("{")
else:
    json.dump({"y": [a, None if a < 0.2 else 1.0]}, open(found, "w"))
"""


def test_a_program_is_a_simulator(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "scratch").mkdir()
    command = [sys.executable, "-S", tmp_path / "program.py", "{input}", "{output}", "{seed}", "how?"]
    simulator = rd.command_simulator(command, timeout=1.0, scratch=tmp_path / "scratch")
    problem = rd.Problem({"a": dist.Uniform(0.0, 1.0)}, simulator)
    assert problem.layout["y"].shape == (2,)
    trials = set((tmp_path / "scratch").iterdir())
    sims = simulated(tmp_path / "s", problem, 40, executor=2)
    np.testing.assert_allclose(sims["y"], np.stack([sims["a"], np.ones(sims.kept)], axis=1))
    failed = rd.open_store(tmp_path / "s").failed
    kept = set()
    for a, status, error in zip(failed["a"], failed["status"], failed["error"], strict=True):
        told = {
            a > 0.9: ("timed out", "the program did not end within 1.0 s; see "),
            0.8 < a < 0.9: ("failed", "no output that can be read: there is no file 'output.json'; see "),
            0.7 < a < 0.8: ("failed", "RuntimeError: the program wrote no output that can be read: "),
            0.1 < a < 0.2: ("non-finite", ""),
            a < 0.1: ("failed", "RuntimeError: the program ended with code 7, its last words 'and diverged'; see "),
        }[True]
        assert (status, told[1] in error) == (told[0], True), error
        if error:
            kept.add(Path(error.partition("; see ")[2].partition(" (line")[0]))
    assert set(failed["status"]) == {"failed", "timed out", "non-finite"}
    assert kept == set((tmp_path / "scratch").iterdir()) - trials  # of rows that ended, nothing is left
    assert all(json.loads((folder / "input.json").read_text()).keys() == {"a"} for folder in kept)


def test_a_program_may_read_and_write_arrays(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(
        "import sys, numpy as np\n"
        "with np.load(sys.argv[1]) as given:\n    np.save(sys.argv[2], np.arange(6.).reshape(2, 3) * given['a'])\n"
    )
    monkeypatch.chdir(tmp_path)  # the program is found from where rows are run
    command = f"{sys.executable} program.py {{input}} {{output}}"
    simulator = rd.command_simulator(command, input="npz", output="y.npy")
    values = simulator.function(np.random.default_rng(0), a=np.asarray(2.0))
    np.testing.assert_array_equal(values["y"], 2 * np.arange(6.0).reshape(2, 3))
    with pytest.raises(rd.DataError, match=r"one of which has \{output\}"):
        rd.command_simulator("./simulate")
    with pytest.raises(rd.DataError, match="`input` is 'json' or 'npz', got 'csv'"):
        rd.command_simulator(command, input="csv")
    with pytest.raises(rd.DataError, match=r"such as 'y.npy', got 'y.csv'"):
        rd.command_simulator(command, output="y.csv")
    with pytest.raises(RuntimeError, match=r"the program cannot be started: .*'no-such-program'"):
        rd.command_simulator("no-such-program {output}").function(np.random.default_rng(0))


def test_a_time_limit_ends_what_a_program_has_started(tmp_path):
    """The row's own limit, too: the worker gets the time to end the program and what that started."""
    program = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    simulator = rd.command_simulator(["sh", "-c", f"{program}; : {{output}}"], scratch=tmp_path)
    problem = rd.Problem({"a": dist.Uniform(0.0, 1.0)}, simulator)
    problem.__dict__["layout"] = IN_PYTHON.layout
    with pytest.raises(rd.RetrodictError, match=r"no end within 0.5 s"):
        simulated(tmp_path / "s", problem, 1, timeout=0.5)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):  # until whoever inherited it has reaped it
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.02)
    raise AssertionError(f"{pid} still sleeps")


def test_the_command_line(tmp_path, capsys):
    file, store, out = tmp_path / "mine.py", tmp_path / "s", tmp_path / "rows.npz"
    file.write_text(
        "import numpyro.distributions as dist, retrodict as rd\n"
        "def f(rng, a):\n"
        "    print('hello')\n"
        "    if a > .5: raise ValueError('too large')\n"
        "    return {'y': a + rng.normal()}\n"
        "p = rd.Problem({'a': dist.Uniform(0., 1.)}, rd.numpy_simulator(f))\n"
    )
    base = ["simulate", "--problem", f"{file}:p", "--store", str(store)]
    arguments = [*base, "--simulations", "20", "--workers", "1", "--timeout", "60", "--json"]
    assert cli.run([*arguments, "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"]["ok"] + told["status"]["failed"] == 20 == told["simulations"]["drawn"]
    with np.load(out) as rows:
        assert len(rows["y"]) == told["simulations"]["kept"] > 0
    assert cli.run([*base, "--simulations", "30"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("30 simulations (")
    assert said.out.rstrip().endswith(f"failed); wrote {store}")
    assert "simulating: 10/10, " in said.err
    assert " rows/s, " in said.err
    assert cli.run([*base, "--seed", "1"]) == 2
    assert "or pass accept_changed=True" in capsys.readouterr().err
    assert cli.run([*base, "--seed", "1", "--simulations", "40", "--accept-changed"]) == 0
    capsys.readouterr()
    for wrong, sentence in {
        ("--task", "two_moons"): "simulate needs a place for the rows: --store DIR, --out FILE.npz, or both",
        ("--store", "s"): "simulate needs one of --task NAME and --problem FILE.py:NAME",
        (*base[1:], "--executor", "slurm"): "--executor takes dask or dask:ADDRESS, got 'slurm'",
        (*base[1:], "--executor", "dask:x", "--workers", "2"): "--workers is for processes on this machine",
    }.items():
        assert cli.run(["simulate", *wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_campaigns_survive_being_killed():
    done = subprocess.run(
        [sys.executable, str(KILLED), "--rounds", "3", "--kills", "1", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=300,  # twelve seconds on two quiet cores
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 campaigns, 0 differ" in done.stdout
    assert done.stdout.count("killed 1 times") >= 2  # the first of its kind may end before its turn comes


@pytest.mark.slow
def test_a_hundred_campaigns_survive_being_killed():
    done = subprocess.run([sys.executable, str(KILLED), "--rounds", "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 campaigns, 0 differ" in done.stdout
    print(done.stdout)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dask, about workers that end
def test_dask_runs_a_campaign_while_its_workers_are_killed(ended, tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'retrodict[dask]'")

    def simulate(rng, a):
        import time

        time.sleep(0.02)
        return {"y": a + rng.normal(size=3)}

    problem = problem_of(simulate)
    simulated(tmp_path / "truth", problem, 2000)
    kills, stop = [], threading.Event()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill():
            while not stop.wait(5.0):
                pids = client.run(os.getpid)
                os.kill(pid := next(iter(pids.values())), signal.SIGKILL)
                kills.append(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            simulated(tmp_path / "s", problem, 2000, executor=client)
        finally:
            stop.set()
            killer.join()
    assert len(kills) > 1
    assert_same(contents(tmp_path / "truth"), contents(tmp_path / "s"))


def test_a_worker_whose_parent_is_gone_at_once_ends_in_silence():
    command = [sys.executable, "-P", _child.__file__]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
