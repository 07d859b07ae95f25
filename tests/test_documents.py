"""The pages for users, run as they stand: all blocks of Python in their order, with little to simulate and learn.

What a page says in words about its figures is shown elsewhere; here its code runs, and its names are those of today.
"""

import contextlib
import re
from pathlib import Path

import pytest

import retrodict as rd
from conftest import blocks
from retrodict.training import _distill as distillation


DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("../README", "getting_started", "questions", "clusters", "campaigns", "trust", "plots")
LONG = ("functions", "choices", "coming_from", "hierarchies")  # minutes of compilation
ELSEWHERE = ("extending",)  # in tests/test_extending.py
ROWS, STEPS, DRAWS = 400, 20, 60
BEFORE = {  # what the reader of a page has already
    "campaigns": """
import numpy as np, numpyro.distributions as dist, retrodict as rd

@rd.numpy_simulator
def simulate(rng, rate):
    if rate > 3.0:
        raise ValueError("too fast")
    return {"counts": rng.poisson(rate, 3)}

problem = rd.Problem({"rate": dist.LogNormal(0.0, 0.7)}, simulate)
rates = np.array([0.5, 4.0])
""",
    "hierarchies": """
import jax, numpy as np, numpyro.distributions as dist, retrodict as rd
y = np.linspace(-1.0, 1.0, 5)
""",
    "trust": """
import jax, numpy as np, numpyro.distributions as dist, retrodict as rd
problem = rd.Problem({"rate": dist.LogNormal(0.0, 0.5)},
                     lambda key, rate: {"counts": rate + 0.3 * jax.random.normal(key, (3,))})
sims = rd.simulate(problem, 400, key=0)
model, history = rd.fit(rd.joint(sims.layout), sims, key=1)
observed = np.array([1.0, 1.2, 0.9])
""",
}


@pytest.fixture
def small(monkeypatch):
    """Fewer rows, steps and draws than the page asks for; everything else is the real thing."""
    fit, simulate, joint, hierarchical, check, distill, density = (
        getattr(rd, name)
        for name in ("fit", "simulate", "joint", "hierarchical", "check", "distill", "distill_density")
    )
    mlp, few = rd.nets.ResMLP(8, 1), {"steps": STEPS, "progress": False}
    transformer = rd.nets.Simformer(heads=1, head_size=4, depth=1)
    plate = rd.nets.PlateTransformer(heads=1, head_size=4, depth=1)
    monkeypatch.setattr(distillation, "TRAINING_PAIRS", 1024)
    monkeypatch.setattr(distillation, "c2st", lambda one, other: 0.5)
    monkeypatch.setattr(rd, "fit", lambda *a, **k: fit(*a, **{**k, **few}))
    monkeypatch.setattr(rd, "hierarchical", lambda layout, **k: hierarchical(layout, **{"net": plate, **k}))
    monkeypatch.setattr(rd, "distill", lambda *a, **k: distill(*a, **{**k, **few, "observations": 2, "draws": DRAWS}))
    monkeypatch.setattr(rd, "distill_density", lambda *a, **k: density(*a, **{**k, **few, "observations": 20}))
    monkeypatch.setattr(rd, "simulate", lambda problem, n, **k: simulate(problem, min(n, ROWS), **k))
    monkeypatch.setattr(
        rd, "joint", lambda layout, **k: joint(layout, **{"net": transformer if layout.functions else mlp, **k})
    )
    monkeypatch.setattr(rd, "check", lambda *a, **k: check(*a, **{**k, "observations": 50, "draws": DRAWS}))


@pytest.mark.filterwarnings("ignore::retrodict.CalibrationWarning")  # twenty steps teach nothing
@pytest.mark.parametrize("name", [*PAGES, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_a_page_runs(name, small, tmp_path):
    page, names = DOCS / f"{name}.md", {"__name__": name}
    found = list(blocks(page))
    assert found
    with contextlib.chdir(tmp_path):
        for block in (BEFORE.get(name, ""), *found):
            exec(compile(block, page, "exec"), names)


def test_every_page_with_code_is_run():
    """But for blocks with a title, which say what they need."""
    run = {(DOCS / f"{name}.md").resolve() for name in (*PAGES, *LONG, *ELSEWHERE)}
    assert run == {page.resolve() for page in [*DOCS.glob("*.md"), DOCS / "../README.md"] if list(blocks(page))}


def test_the_reference_has_every_public_name():
    """Rooms that are public have a part of their own there."""
    told = re.findall(r"^::: retrodict\.(\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    last, rooms = {name.split(".")[-1] for name in told}, {name.split(".")[0] for name in told}
    missing = {name for names in rd._NAMES.values() for name in names} | (set(rd._ROOMS) - rooms)
    missing -= {*last, "posterior", "likelihood", "unconditional"}  # which stand with `joint`
    assert not [name for name in missing if not name.endswith("Warning")]


def test_links_of_pages_lead_somewhere():
    """To files of this repository, and from every page."""
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
