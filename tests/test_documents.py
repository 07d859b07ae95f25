"""The pages for users, run as they stand: all blocks of Python in their order, with little to simulate and learn.

The words of a page about its figures are shown elsewhere; here its code runs, and its names are those of today.
"""

import ast
import contextlib
import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import typer

import retrodict as rd
from conftest import blocks
from retrodict.cli import app
from retrodict.training import _distill as distillation


DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"
PAGES = ("../README", "getting_started", "questions", "clusters", "campaigns", "trust", "plots")
LONG = ("functions", "choices", "coming_from", "hierarchies", "trials", "jax")  # minutes of compilation
ELSEWHERE = ("extending", "reference")  # in tests/test_extending.py; a line of import
GUIDES = (*PAGES[1:], *LONG, "extending")
ROWS, STEPS, DRAWS = 400, 20, 60
LONGEST_LINE, LONGEST_README = 88, 100  # characters of code that a page shows without a scroll bar; lines
MAX_PICTURE_BYTES = 60_000


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
@pytest.mark.filterwarnings("ignore:failed=.reweight. cannot bring back:retrodict.FailedRunsWarning")  # of few runs
@pytest.mark.parametrize("name", [*PAGES, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_a_page_runs(name, small, tmp_path):
    page, names = DOCS / f"{name}.md", {"__name__": name}
    found = list(blocks(page))
    assert found
    with contextlib.chdir(tmp_path):
        for block in found:
            exec(compile(block, page, "exec"), names)


def test_every_page_with_code_is_run():
    """But for blocks with a title, which say what they need."""
    run = {(DOCS / f"{name}.md").resolve() for name in (*PAGES, *LONG, *ELSEWHERE)}
    assert run == {page.resolve() for page in [*DOCS.glob("*.md"), README] if list(blocks(page))}


@pytest.mark.parametrize("name", [*PAGES, *LONG, *ELSEWHERE])
def test_a_page_begins_with_its_imports(name):
    """Whoever copies the code of a page from its top needs nothing else."""
    first = ast.parse(next(blocks(DOCS / f"{name}.md")))
    imported = [alias.name for node in first.body if isinstance(node, ast.Import) for alias in node.names]
    assert "retrodict" in imported


@pytest.mark.parametrize("page", [*sorted(DOCS.glob("*.md")), README], ids=lambda page: page.stem)
def test_code_fits_on_a_page(page):
    for fence in re.findall(r"^```\w+[^\n]*\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        assert not [line for line in fence.splitlines() if len(line) > LONGEST_LINE]


def test_the_front_page_is_short():
    assert README.read_text().count("\n") <= LONGEST_README


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_has_a_picture(name):
    page = (DOCS / f"{name}.md").read_text()
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page)
    assert pictures
    for text, file in pictures:
        assert len(text) > 20, "a picture says in words what it shows"
        assert (DOCS / file).stat().st_size <= MAX_PICTURE_BYTES


def test_titles_in_the_navigation_are_those_of_the_pages():
    entries = re.findall(r"^ +- ([^\n]+): (\w+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE)
    for title, file in entries:
        if (DOCS / file).exists():
            assert (DOCS / file).read_text().startswith(f"# {title}\n"), file
    assert {page.name for page in DOCS.glob("*.md")} <= {file for _, file in entries}


def test_the_page_of_commands_is_that_of_the_command_line():
    """`python tools/command_page.py` writes it; every option that typer knows is on it."""
    spec = importlib.util.spec_from_file_location("command_page", DOCS.parent / "tools" / "command_page.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (DOCS / "commands.md").read_text()
    assert page == tool.page()
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        section = page.split(f"## retrodict {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if "--help" not in parameter.opts:
                shown = parameter.name.upper() if parameter.param_type_name == "argument" else parameter.opts[0]
                assert f"| `{shown}" in section, (name, shown)


REFERENCE = (DOCS / "reference.md").read_text()


def test_the_reference_has_every_public_name():
    """Rooms that are public have a part of their own there."""
    told = re.findall(r"^::: retrodict\.(\S+)$", REFERENCE, re.MULTILINE)
    last, rooms = {name.split(".")[-1] for name in told}, set(re.findall(r"^## rd\.(\w+)$", REFERENCE, re.MULTILINE))
    missing = {name for names in rd._NAMES.values() for name in names} | (set(rd._ROOMS) - rooms)
    missing -= {*last, "posterior", "likelihood", "unconditional"}  # which stand with `joint`
    assert not [name for name in missing if not name.endswith("Warning")]


def test_names_in_the_reference_exist():
    """An entry is a module's path and a name in it; `members` are attributes of it."""
    entries = re.findall(r"^::: (\S+)\n(?:    options:\n      members: (\[.*?\]|false)\n)?", REFERENCE, re.MULTILINE)
    assert len(entries) == REFERENCE.count("\n::: ")
    for path, members in entries:
        module, _, name = path.rpartition(".")
        entry = getattr(importlib.import_module(module), name)
        for member in re.findall(r"\w+", members or "") if members != "false" else ():
            assert hasattr(entry, member), f"{path}.{member}"


def test_links_of_pages_lead_somewhere():
    """To files of this repository, and from every page."""
    for page in [*DOCS.glob("*.md"), README]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
