"""The zoo of ordinary data: exact answers against rows of the simulators, verdicts, the page, and, slow, every case."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import retrodict as rd
from retrodict_bench.zoo import CASES, FAILED_VERDICTS, Outcome, run
from retrodict_bench.zoo._exact import gaussian, line, plane
from retrodict_bench.zoo._page import page
from retrodict_bench.zoo._run import compared


ROWS, ROWS_OF_TWO, ROWS_OF_SITES = 300, 80, 10  # a grid of two parameters takes longer
MAX_SPREAD = 2.0  # of z^2, which is 1.4 for a normal z
OTHER_ROWS = {  # the answer is for data, or for a prior, that plain rows of the simulator do not have
    "offset_lost_in_jax", "frozen_noise", "reweighted", "reweighted_unreachable", "delta_prior",
}  # fmt: skip
EXACT = [n for n, c in CASES.items() if c.exact and not (n.startswith("task_") or c.x64 or n in OTHER_ROWS)]
FIRST = {CASES[name].kind: name for name in reversed(EXACT)}.values()  # the first of each kind


def test_the_zoo_is_large():
    kinds = {case.kind for case in CASES.values()}
    assert len(CASES) >= 95
    assert len(kinds) >= 20
    assert sum(case.kind == "plain" for case in CASES.values()) == 40


@pytest.mark.parametrize("name", [n if n in FIRST else pytest.param(n, marks=pytest.mark.slow) for n in EXACT])
def test_an_exact_answer_fits_rows_of_the_simulator(name):
    """Over draws of parameters and data together, z = (theta - mean(x)) / sd(x) has mean 0 and mean square 1.

    That is so for the exact mean and sd of any problem, and knows nothing of how they were computed. Six standard
    errors: false alarms below 1e-7 for each number where z is about normal, and seeds are fixed.
    """
    case = CASES[name]
    data, parameters = case.variables().data, case.variables().parameters
    rows = case.fresh(ROWS_OF_SITES if case.sites else ROWS_OF_TWO if parameters == ["a", "b"] else ROWS, seed=123)
    n = len(rows[data[0]])
    answers = [case.exact({name: np.asarray(rows[name])[i] for name in data}) for i in range(n)]
    for parameter in answers[0]:
        truth = np.asarray(rows[parameter], np.float64).reshape(n, -1)
        mean, sd = (np.stack([np.ravel(answer[parameter][i]) for answer in answers]) for i in (0, 1))
        assert_standard((truth - mean) / sd)


def assert_standard(z):
    error = 6.0 / np.sqrt(len(z))
    spread = np.minimum((z**2).std(axis=0), MAX_SPREAD)  # what is far off must not widen its bar without end
    assert (abs(z.mean(axis=0)) < error).all()
    assert (abs((z**2).mean(axis=0) - 1.0) < error * np.maximum(spread, 0.3)).all()


def test_a_wrong_answer_would_be_seen():
    case = CASES["one_thousandth"]
    rows = case.fresh(ROWS, seed=123)
    mean, sd = np.array([case.exact({"x": x})["theta"] for x in rows["x"]]).T
    z = (rows["theta"] - mean) / sd
    assert_standard(z)
    for wrong in (2.0 * z, 0.7 * z, z + 0.5):
        with pytest.raises(AssertionError):
            assert_standard(wrong)


def test_quadrature_agrees_with_the_conjugate_formula():
    """A Gaussian 1e-5 of the grid wide, and a correlated pair: the trapezoid rule is exact to rounding there."""
    x, noise = np.array([0.3, 0.4]), 1e-5
    exact = gaussian(0.0, 1.0, np.ones((2, 1)), noise**2 * np.eye(2), x * noise)
    found = line(lambda t: -0.5 * t**2 - 0.5 * (((x * noise - t[:, None]) / noise) ** 2).sum(axis=1), -9.0, 9.0)
    np.testing.assert_allclose(found, [exact[0][0], exact[1][0]], rtol=1e-6)
    exact = gaussian([0.0, 0.0], np.eye(2), [[1.0, 1.0]], [[0.1]], [0.7])
    pairs = plane(lambda a, b: -0.5 * (a**2 + b**2) - 5.0 * (0.7 - a - b) ** 2, (-9.0, 9.0), (-9.0, 9.0))
    np.testing.assert_allclose(pairs, np.transpose(exact), rtol=1e-6)


def test_means_and_widths_are_compared_in_exact_sds():
    """200,000 draws: means to .002 sd, ratios to .0016, five times their standard errors allowed."""
    rng = np.random.default_rng(0)
    far = 1.7e9 + 0.01 * (rng.normal(size=(2, 200_000)) + 0.3)
    off, ratio, worst = compared({"a": far}, [{"a": (1.7e9, 0.005)}] * 2)
    assert off == pytest.approx(0.6, abs=0.02)
    assert worst == pytest.approx(0.6, abs=0.02)
    assert ratio == pytest.approx(2.0, rel=0.01)
    assert compared({"a": far * np.nan}, [{"a": (0.0, 1.0)}] * 2)[0] == np.inf


RIGHT, WRONG = {"off": 0.1, "ratio": 1.0}, {"off": 3.0, "ratio": 1.0}
VERDICTS = [
    ("right or said", RIGHT, "right"),
    ("right or said", {**RIGHT, "said": ["'flux' is odd"]}, "right"),
    ("right or said", WRONG, "SILENT AND WRONG"),
    ("right or said", {"off": 0.1, "ratio": 1.16}, "SILENT AND WRONG"),
    ("right or said", {**WRONG, "said": ["'flux' is odd"]}, "warned"),
    ("right or said", {**WRONG, "said": ["fluxes are odd"]}, "SAID WITHOUT A NAME"),
    ("right or said", {"refused": "train: 'flux' is text"}, "refused"),
    ("said", RIGHT, "NOTHING SAID"),
    ("said", {**RIGHT, "said": ["'flux' is far"]}, "warned"),
    ("silent", RIGHT, "silent"),
    ("silent", {**RIGHT, "said": ["'flux' is far"]}, "FALSE WARNING"),
    ("silent", {"error": "ask: KeyError: 'x'"}, "RAW ERROR"),
]


@pytest.mark.parametrize(("bar", "fields", "verdict"), VERDICTS)
def test_a_verdict(bar, fields, verdict):
    assert Outcome("a", "kind", "text", bar, **fields).judged(("flux",)) == verdict


def test_a_refusal_a_warning_and_a_raw_error_are_kept(monkeypatch):
    case = CASES["text_data"]
    refused = run(case)
    assert "'x'" in refused.refused
    assert refused.verdict == "refused"
    monkeypatch.setattr(rd, "fit", lambda *args, **settings: 1 / 0)
    broken = run(case)
    assert broken.verdict == "RAW ERROR"
    assert broken.error.startswith("train: ZeroDivisionError")


def test_the_page_has_a_row_for_every_outcome():
    said = [f"'x' is odd | {'very ' * 80}odd"]
    outcomes = {
        name: Outcome(name, CASES[name].kind, CASES[name].text, "silent", 0.1, 1.0, said=said, verdict="RAW ERROR")
        for name in CASES
    }
    text = page(outcomes, outcomes)
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    assert len(rows) == len(CASES) + 2 * len({case.kind for case in CASES.values()})
    assert all(row.replace("\\|", "").count("|") == 8 for row in rows)


def test_the_command_goes_on_where_it_stopped(tmp_path):
    file = tmp_path / "zoo.jsonl"
    kept = {"name": "text_data", "kind": "types", "text": "x is text", "bar": "said", "verdict": "NOTHING SAID"}
    file.write_text(json.dumps(kept) + "\n" + '{"name": "unix_ti')  # a line that a kill has cut short
    arguments = ["--names", "text_data", "--out", str(file), "--page", str(tmp_path / "zoo.md")]
    command = [sys.executable, "-m", "retrodict_bench.zoo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 1, done.stderr  # nothing was said
    assert done.stdout == ""  # nothing was run
    assert "**NOTHING SAID**" in (tmp_path / "zoo.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_case_is_right_or_said(name):
    outcome = run(CASES[name])
    assert outcome.verdict not in FAILED_VERDICTS, outcome
