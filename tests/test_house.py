"""The house itself: which room may import which, and what importing costs."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import retrodict
from retrodict.models import SAMPLER


ROOT = Path(__file__).parent.parent / "src"
SOURCE, BENCH = ROOT / "retrodict", ROOT / "retrodict_bench"
WORLD = {"variables", "query", "nets", "roles", "transforms", "models", "problem", "simulation"}
WALLS = {  # room -> rooms that it must not know: mathematics knows no world, a net not what it is asked
    "paths": WORLD,
    "solvers": WORLD,
    "densities": WORLD,
    "guidance": WORLD | {"constraints"},
    "diagnostics": WORLD | {"paths", "plots", "report", "training"},
    "nets": {"paths", "solvers", "models", "transforms", "query"},
    "query": {"nets", "models", "training", "evaluation"},
    "models": {"training", "evaluation", "report", "simulation"},
    "variables": {"query", "nets", "models", "paths"},
    **{room: {"report", "cli"} for room in ("evaluation", "training", "simulation", "problem", "plots")},
}
FLOORS = {
    **dict.fromkeys(["_types", "_errors", "_runtime"], 1),
    **dict.fromkeys(["variables", "paths", "diagnostics"], 2),
    **dict.fromkeys(["roles", "transforms", "solvers"], 3),
    **dict.fromkeys(["query", "densities", "plots"], 4),
    **dict.fromkeys(["problem", "guidance"], 5),
    **dict.fromkeys(["nets", "constraints", "simulation"], 6),
    "models": 7,
    "evaluation": 8,
    "training": 9,
    **dict.fromkeys(["synthesis", "report"], 10),
    **dict.fromkeys(["cli", "tasks"], 12),
}


def named(file):
    """The modules that a file names in its imports, those inside functions and for type checkers, too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if source_of(name) else node.module for name in inner)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def source_of(module):
    """The file of a module of ours, or None."""
    path = ROOT / module.replace(".", "/")
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if module.startswith("retrodict") and file.exists()), None)


def imports():
    """Every (room, file, imported room) of the library."""
    for file in SOURCE.rglob("*.py"):
        room = file.relative_to(SOURCE).parts[0].removesuffix(".py")
        for name in named(file):
            if name.startswith("retrodict."):
                yield room, file, name.split(".")[1]


@pytest.mark.parametrize("room", WALLS)
def test_a_wall_holds(room):
    through = {other for here, _, other in imports() if here == room} & WALLS[room]
    assert not through, f"{room} imports {through}"


def test_every_arrow_points_down():
    rooms = {here for here, _, _ in imports()} - {"__init__"}
    assert rooms <= set(FLOORS), f"rooms without a floor: {rooms - set(FLOORS)}"
    assert len(rooms) <= 24
    up = {(here, other) for here, _, other in imports() if FLOORS.get(here, 99) < FLOORS.get(other, 0)}
    assert not up, f"arrows that point up: {up}"


def test_the_library_needs_nothing_of_the_benchmark():
    """But for `rd.tasks`, another name of it, and commands that show it."""
    doors = {SOURCE / "tasks.py", SOURCE / "cli" / "_commands.py", SOURCE / "cli" / "_bench.py"}
    through = {file for file in SOURCE.rglob("*.py") if any(n.startswith("retrodict_bench") for n in named(file))}
    assert through <= doors


def test_no_circle_of_files():
    """A file in a circle works in one order of imports only; imports inside functions hide a circle, and are none."""
    files = {file for file in ROOT.rglob("*.py") if file != SOURCE / "__init__.py"}  # the face names every room
    left = {file: {source_of(name) for name in named(file)} & files - {file} for file in files}
    while ends := [here for here, there in left.items() if not there & set(left)]:
        for here in ends:
            del left[here]
    assert not left


def test_the_idea_is_short():
    """Lines of code that run, each counted once, for the loss of a row and a draw: loss, path and solver. Not those of
    the network, which may be any, nor of what is said before a value comes: roles, layouts, grids of times."""
    problem = retrodict.Problem({"a": dist.Normal(0.0, 1.0)}, lambda key, a: {"y": a + jax.random.normal(key, (2,))})
    model = retrodict.joint(problem.layout, net=retrodict.nets.ResMLP(8, 1))
    z, roles, seen = jnp.array([0.1, 0.2, 0.3]), jnp.array([1, 2, 2]), set()
    rooms = ("models", "paths", "solvers")

    def called(frame, event, arg):
        file = frame.f_code.co_filename
        return line if file.startswith(tuple(str(SOURCE / room) for room in rooms)) and "_grids" not in file else None

    def line(frame, event, arg):
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    before = sys.gettrace()
    with jax.disable_jit():
        sys.settrace(called)
        try:
            model.loss(z, jax.random.key(0), jnp.array(0.4))
            SAMPLER(model.flow(z, roles), jnp.array([0.3, 0.0, 0.0]), *model.path.span)
        finally:
            sys.settrace(before)
    assert 80 < len(seen) <= 120


LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def test_nothing_is_too_long_to_be_read():
    for file in SOURCE.rglob("*.py"):
        text = file.read_text()
        assert text.count("\n") <= LONGEST_FILE, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{node.name} in {file.name}"


# kept for code of users; the library, its benchmark and its pages say the words of today
EARLIER_SPELLINGS = re.compile(r"""failed=["'](given|corrected)|\bframed=|\bcounts=\(\d|\.tell\(\)|\.concerns\(""")


def test_earlier_spellings_are_for_users_alone():
    files = [*ROOT.rglob("*.py"), *ROOT.parent.glob("docs/*.md"), ROOT.parent / "README.md"]
    used = {str(file): match[0] for file in files if (match := EARLIER_SPELLINGS.search(file.read_text()))}
    assert not used


def test_diagnostics_never_draw():
    for file in (SOURCE / "diagnostics").rglob("*.py"):
        assert "matplotlib" not in file.read_text(), file


PIPES = {
    "simulation/store/_child.py",
    "simulation/store/_workers.py",
}  # what a process hands to its own children; never a file
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def test_no_file_is_read_as_a_pickle():
    for file in SOURCE.rglob("*.py"):
        text = file.read_text()
        nodes = list(ast.walk(ast.parse(text)))
        names = {a.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for a in node.names}
        names |= {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not names & PICKLES or file.relative_to(SOURCE).as_posix() in PIPES, file
        assert "allow_pickle=True" not in text.replace(" ", ""), file


HEAVY = {
    "diffrax",
    "optax",
    "sklearn",
    "matplotlib",
    "typer",
    "rich",
    "numpyro",
    "flowjax",
    "scipy.stats",
    "safetensors",
    "xarray",
    "zarr",
    "google_crc32c",
    "cloudpickle",
    "dask",
    "distributed",
    "arviz",
}


def test_importing_pulls_in_nothing_heavy():
    code = f"import sys, retrodict; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before = subprocess.run(
        [sys.executable, "-c", f"import sys, jax, equinox; print(sorted({HEAVY!r} & set(sys.modules)))"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert set(ast.literal_eval(out)) <= set(ast.literal_eval(before))


def seconds(module):
    """Processor seconds of a process that imports a module and ends; sources are compiled once, as if installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    code = f"import {module}, resource; u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept).stdout
    )


def test_importing_costs_little_more_than_jax():
    """The median of three ratios, each of two processes one after the other: what else the machine does meets both."""
    ratios = [seconds("retrodict") / seconds("jax") for _ in range(3)]
    assert sorted(ratios)[1] < 1.6, ratios


def test_what_is_imported_later_is_what_type_checkers_see():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.asname: node.module for node in block.body for alias in node.names}
    for name, module in told.items():
        found = getattr(retrodict, name)
        assert found is getattr(importlib.import_module(module), name), name
    assert {*told, "__version__"} == {*retrodict._ROOMS, *retrodict._HOMES, "__version__"} == set(dir(retrodict))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        retrodict.fitt  # noqa: B018


def test_one_version_everywhere():
    root = SOURCE.parent.parent
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text()
    assert f"\n## {version} " in (root / "CHANGELOG.md").read_text()
