"""The page for a referee, and the commands that check a model and write it."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

import retrodict as rd
from conftest import normals
from retrodict import cli
from retrodict.report import Drawing
from retrodict.report import posterior_report as referee
from retrodict.variables import Layout, Variable
from test_report import Page


OBSERVED = {"x": np.array([0.1, -0.3, np.nan, 0.2])}
SMALL = {"observations": 60, "draws": 20, "densities": 2}


@pytest.fixture(scope="module")
def model(normal):
    return normal


@pytest.fixture(scope="module")
def findings(model):
    return referee.examine(model, normals(120, 1), OBSERVED, seed=3, **SMALL)


@pytest.fixture(scope="module")
def page(model, findings, tmp_path_factory):
    return referee.write(tmp_path_factory.mktemp("page") / "report.html", model, findings, title="Three <numbers>")


def test_findings_are_those_of_the_checks(findings):
    assert findings.ok
    assert findings.check.calibration.question == "a, b given 75 % of x"
    assert findings.check.calibration.shares[2] == ("x", 0.75, 0.0)  # one of four was not observed
    assert set(findings.predictive.p_values) == {"mean of x", "sd of x", "least of x", "largest of x"}
    assert set(findings.likeness.surprise) == {"x[0]", "x[1]", "x[3]"}
    told = findings.to_json()
    assert json.loads(json.dumps(told))["ok"] is True
    assert set(told["summary"]) == {"a", "b[0]", "b[1]"}


def test_the_page_says_everything_in_order(page, findings):
    found = Page(page.read_text())
    assert found.texts["h1"] == ["Three <numbers>"]
    assert found.texts["h2"] == [
        "The problem",
        "The data: could the simulator have made them?",
        "Training",
        "The posterior",
        "Predictive checks",
        "Calibration",
        "Cost, seeds and versions",
        "How to cite",
    ]
    assert "All checks passed." in " ".join(found.texts["p"])
    rows = {row[0]: row[1:] for row in found.cells if len(row) > 1}
    assert rows["calibration on held-out simulations"][0] == "passed"
    assert rows["seed of this report"] == ["3"]
    assert float(rows["a"][-5].replace("\N{MINUS SIGN}", "-")) == pytest.approx(findings.draws["a"].mean(), abs=1e-3)


def test_the_page_needs_nothing_else_and_every_image_has_words(page):
    source = page.read_text()
    found = Page(source)
    images = source.count("<img ")
    assert images == 5  # corner, ranks, ranks added up, coverage, random points
    alts = [value for name, value in found.attributes if name == "alt"]
    assert len(alts) == images
    assert all(len(alt) > 40 for alt in alts)
    assert all(value.startswith("data:image/svg+xml;base64,") for name, value in found.attributes if name == "src")
    assert not re.search(r"""(?:href|src)=["'](?!#|data:)""", source)
    assert "<script" not in source


@pytest.mark.slow
def test_a_failure_is_said_first(model, tmp_path):
    wrong = normals(120, 1)
    wrong["a"] = wrong["a"] + 1.0
    found = referee.examine(model, wrong, {"x": np.array([0.0, 7.0, 0.0, 0.0])}, **SMALL)
    assert not found.ok
    text = Page(referee.write(tmp_path / "r.html", model, found).read_text()).texts
    assert "Not all checks passed: read why" in text["p"][0]
    assert any("'x[1]' fits worst" in paragraph for paragraph in text["p"])


def test_a_drawing_without_words_is_refused():
    with pytest.raises(rd.DataError, match="needs `alt`"):
        Drawing(None)


def test_a_model_of_functions_has_no_report():
    layout = Layout((Variable("a"), Variable("y", (3,), kind="data", axes=1), Variable("y.at", (3,), kind="place")))
    model = rd.joint(layout, net=rd.nets.PointMLP(8, 1))
    with pytest.raises(rd.QueryError, match=r"models with functions \('y'\)"):
        referee.examine(model, {}, {"y": rd.At([0.1], [0.2])})


def visited(browser, page, width, folder):
    """What the console says, what the page asks of other hosts, and how large the picture of it is."""
    picture, log = folder / f"{width}.png", folder / f"{width}.json"
    done = subprocess.run(
        [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--no-first-run",
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},2400", f"--screenshot={picture}",
            f"--log-net-log={log}", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert picture.is_file(), done.stderr[-2000:]
    # what the browser asks for itself has no site; what the page asks has that of files
    asked = re.findall(r'site=file://[^"]*","url":"(https?://[^"]*)"', log.read_text())
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked, picture.stat().st_size


def test_the_page_in_a_real_browser(page, tmp_path):
    """Two widths, no complaint in the console, nothing asked of any other host."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no chromium here: apt-get install chromium")
    guilty = tmp_path / "guilty.html"
    guilty.write_text('<img src="https://example.org/x.png"><script>console.error("oops")</script>')
    console, asked, _ = visited(browser, guilty, 400, tmp_path)
    assert any("oops" in line for line in console)  # else nothing below could fail
    assert "https://example.org/x.png" in asked
    for width in (390, 1280):
        console, asked, size = visited(browser, page, width, tmp_path)
        assert not console
        assert not asked
        assert size > 20_000  # not a blank sheet


@pytest.mark.slow
def test_check_keeps_its_outcome_in_the_file(model, tmp_path, capsys):
    file, rows = rd.save(model, tmp_path / "m.safetensors"), tmp_path / "rows"
    rows.mkdir()
    for i in range(2):
        np.savez(rows / f"{i}.npz", **normals(60, 5 + i))
    arguments = ["check", str(file), "--sims", str(rows), "--observations", "60", "--draws", "20"]
    assert cli.run([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["question"] == "a, b given x"
    assert told["ok"]
    assert set(told["p_values"]) == {"sbc", "coverage", "tarp", "log_prob"}
    (kept,) = rd.load(file).calibration.calibrations
    assert dict(kept.p_values) == told["p_values"]
    assert cli.run(["sample", str(file), "--given", '{"a": 0}', "--n", "20", "--json"]) == 0
    (doubt,) = json.loads(capsys.readouterr().out)["warnings"]
    assert doubt.startswith("this question is far from those that were checked")


def test_what_check_cannot_use_is_told(model, tmp_path, capsys):
    file = str(rd.save(model, tmp_path / "m.safetensors"))
    for arguments, message in (
        ([], "one of --sims FILE.npz, --task NAME and --problem"),
        (["--sims", str(tmp_path / "none.npz")], "takes a .npz file or a folder of them, and there is none"),
        (["--sims", str(tmp_path / "m.safetensors")], "is no .npz file of plain arrays"),
        (["--task", "two_moons", "--given", "y"], "'a' is missing in the simulations"),
    ):
        assert cli.run(["check", file, *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
