"""The command line: what it writes, what it prints, and one line with the cure for what is wrong."""

import json

import numpy as np
import pytest

import retrodict as rd
from retrodict import cli
from retrodict.cli import arguments


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    file = tmp_path_factory.mktemp("cli") / "m.safetensors"
    code = cli.run(
        ["train", "--task", "two_moons", "--simulations", "200", "--steps", "10", "--out", str(file), "--json"]
    )
    assert code == 0
    return file


def told_before(text):
    """The validation loss in the sentence of `retrodict train`."""
    return float(text.split("validation loss ")[1].split(";")[0])


def test_train_says_what_it_did(trained, capsys, tmp_path):
    out = tmp_path / "m.safetensors"
    arguments = ["train", "--task", "two_moons", "--simulations", "100", "--steps", "5", "--out", str(out)]
    assert cli.run(arguments) == 0
    assert "100 simulations (0 failed), 5 steps in" in (text := capsys.readouterr().out)
    assert text.rstrip().endswith(f"wrote {out}")
    assert cli.run([*arguments, "--query", "posterior", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["simulations"] == {"drawn": 100, "kept": 100, "failed": 0}
    assert told["steps"] == 5
    more = ["--store", str(tmp_path / "s"), "--failed", "corrected", "--json"]  # nothing failed: nothing to correct
    assert cli.run([*arguments, *more]) == 0
    assert json.loads(capsys.readouterr().out)["validation_loss"] == pytest.approx(told_before(text), abs=1e-4)
    assert sum(1 for _ in (tmp_path / "s" / "theta" / "c").iterdir()) == 1


def test_a_problem_of_ones_own(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpyro.distributions as dist, jax, retrodict as rd\n"
        "p = rd.Problem({'a': dist.Normal(0., 1.)}, lambda key, a: {'y': a + jax.random.normal(key)})\n"
    )
    arguments = ["train", "--simulations", "50", "--steps", "3", "--out", str(tmp_path / "m"), "--problem"]
    assert cli.run([*arguments, f"{file}:p"]) == 0
    assert cli.run([*arguments, f"{file}:q"]) == 2
    assert f"'{file}' has no problem 'q'; it has 'p'" in capsys.readouterr().err


def test_sample_answers_and_writes(trained, capsys, tmp_path):
    out = tmp_path / "draws.npz"
    given = '{"x": [0.1, null]}'
    assert (
        cli.run(["sample", str(trained), "--given", given, "--of", "theta", "--n", "50", "--out", str(out), "--json"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    with np.load(out) as draws:
        assert draws["theta"].shape == (50, 2)
        assert told["summary"]["theta[0]"]["mean"] == pytest.approx(draws["theta"][:, 0].mean(), rel=1e-4)
    assert cli.run(["sample", str(trained), "--n", "20"]) == 0
    assert "theta[1]" in (text := capsys.readouterr().out)
    assert text.rstrip().endswith("20 draws")


def test_given_may_name_functions_and_intervals():
    found = arguments.given_in('{"y": {"points": [0, 1], "values": [2, null]}, "a": {"low": 0.5}, "b": [1]}')
    assert isinstance(found["y"], rd.At)
    np.testing.assert_array_equal(found["y"].points, [0.0, 1.0])
    np.testing.assert_array_equal(found["y"].values, [2.0, np.nan])
    assert isinstance(found["a"], rd.Interval)
    assert (found["a"].low, found["a"].high) == (0.5, np.inf)
    np.testing.assert_array_equal(found["b"], [1.0])
    asked = arguments.asked_in('{"y": {"points": [3]}, "a": null}')
    assert asked["a"] is None
    assert asked["y"].values is None
    both = arguments.given_in('{"y": {"points": [3, 4], "low": [1, null]}}')["y"]
    np.testing.assert_array_equal(both.values.low, [1.0, -np.inf])
    with pytest.raises(rd.DataError, match="null for others; see 'a'"):
        arguments.asked_in('{"a": [1]}')
    assert arguments.asked_in("a, b") == ["a", "b"]
    assert arguments.asked_in(None) is None


def test_given_may_be_a_file(trained, tmp_path, capsys):
    np.savez(tmp_path / "obs.npz", x=np.asarray([0.1, 0.2], np.float32))
    (tmp_path / "obs.json").write_text('{"x": [0.1, 0.2]}')
    told = []
    for name in ("obs.npz", "obs.json"):
        assert cli.run(["sample", str(trained), "--given", str(tmp_path / name), "--n", "30", "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out)["summary"])
    assert told[0] == told[1]


WRONG = {
    "an unknown command": (["trian"], "No such command 'trian'"),
    "an unknown option": (["bench", "--taks", "x"], "No such option: --taks"),
    "a missing option": (["train"], "Missing option '--out'"),
    "no number": (["bench", "--simulations", "many"], "--simulations takes numbers such as 1-10 or 1,3,5, got 'many'"),
    "no problem": (["train", "--out", "m"], "train needs one of --task NAME and --problem FILE.py:NAME"),
    "an unknown task": (["train", "--out", "m", "--task", "two_mons"], "Did you mean 'two_moons'?"),
    "an unknown task of many": (["bench", "--tasks", "slcp,moons"], "'moons'"),
    "a problem without a name": (
        ["train", "--out", "m", "--problem", "p.py"],
        "--problem takes FILE.py:NAME, got 'p.py'",
    ),
    "a problem without a file": (["train", "--out", "m", "--problem", "no.py:p"], "there is no file 'no.py'"),
    "observations": (
        ["bench", "--observations", "all"],
        "--observations takes numbers such as 1-10 or 1,3,5, got 'all'",
    ),
    "an unknown path": (
        ["bench", "--paths", "vp,flow_maching"],
        "`--paths` names 'flow_maching'; it takes 'flow_matching', 'vp', 've', 'edm', 'rule', 'all'. "
        "Did you mean 'flow_matching'?",
    ),
    "an unknown solver": (["bench", "--solvers", "Heum"], "'default', 'auto', 'all'. Did you mean 'Heun'?"),
    "no evaluations": (["bench", "--evaluations", "0"], "Invalid value for '--evaluations'"),
    "too few evaluations": (
        ["bench", "--solvers", "all", "--evaluations", "3"],
        "3 evaluations of the network are too few for RK4",
    ),
    "too many draws to judge": (["bench", "--draws", "10001"], "between 10 and 10000, as 'two_moons' has, got 10001"),
    "too few draws to judge": (["bench", "--draws", "9"], "between 10 and 10000, as 'two_moons' has, got 9"),
    "an observation out of range": (["bench", "--tasks", "slcp", "--observations", "12"], "12"),
    "no model": (["sample", "no.safetensors"], "there is no model file 'no.safetensors'"),
    "given is no JSON": (["sample", "MODEL", "--given", "{x: 1}"], "--given is not JSON"),
    "given is no file": (["sample", "MODEL", "--given", "x.json"], "there is no file 'x.json'"),
    "given has text": (
        ["sample", "MODEL", "--given", '{"x": ["a", 1]}'],
        "takes numbers, lists of numbers and null, got 'a'",
    ),
    "given has no form": (
        ["sample", "MODEL", "--given", '{"x": {"lo": 1}}'],
        """'x' must be numbers, {"points": ..., "values": ...} for a function""",
    ),
    "given has a wrong name": (["sample", "MODEL", "--given", '{"y": 1}'], "`given` names 'y'"),
    "given has a wrong shape": (["sample", "MODEL", "--given", '{"x": [1]}'], "must have the shape (2,), got (1,)"),
    "nowhere to write": (["sample", "MODEL", "--out", "no/where.npz"], "cannot write 'no/where.npz'"),
    "given has rows of other lengths": (
        ["sample", "MODEL", "--given", '{"x": [[1, 2], [3]]}'],
        "'x' must be numbers in rows of equal length",
    ),
    "given is a list": (["sample", "MODEL", "--given", f"[{', '.join(['1'] * 300)}]"], "got list"),
    "an observation that is no file": (
        ["report", "MODEL", "--observation", "nope"],
        "--observation takes JSON or a file, and there is no file 'nope'",
    ),
    "a broken file": (["check", "MODEL", "--sims", "BROKEN"], "is no .npz file of plain arrays"),
    "workers without a store": (
        ["simulate", "--task", "two_moons", "--out", "r.npz", "--workers", "2"],
        "--workers, --timeout and --executor write rows as they come: add --store DIR",
    ),
    "no draws": (["sample", "MODEL", "--n", "0"], "must be a positive whole number, got 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_exits_2_with_one_line(case, trained, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, sentence = WRONG[case]
    np.savez("whole.npz", x=np.zeros(100))
    (tmp_path / "broken.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:200])
    named = {"MODEL": str(trained), "BROKEN": "broken.npz"}
    assert cli.run([named.get(a, a) for a in arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("retrodict: ")
    assert told.count("\n") == 1
    assert sentence in told


def test_numbers_are_each_taken_once():
    assert arguments.numbers_in("3,1-2,2") == [3, 1, 2]


def test_ctrl_c_exits_130_and_says_what_is_kept(monkeypatch, tmp_path, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt("stopped: 3 of 9 rows are in")

    monkeypatch.setattr(rd, "simulate", stopped)
    for command in (["simulate"], ["train", "--steps", "1"]):
        assert cli.run([*command, "--task", "two_moons", "--out", str(tmp_path / "rows.npz")]) == 130
        assert capsys.readouterr().err.startswith("retrodict: stopped: 3 of 9 rows are in\n")
    assert not list(tmp_path.iterdir())


def test_no_arguments_show_the_commands(capsys):
    assert cli.run([]) == 0
    text = capsys.readouterr()
    assert "bench" in text.out + text.err
