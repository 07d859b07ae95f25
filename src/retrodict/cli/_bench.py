"""The verb `bench`: cells of the benchmark are run one after the other, and its file becomes a table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import retrodict as rd
from retrodict import report
from retrodict._errors import FileError
from retrodict._runtime.atomic_files import make_folder
from retrodict.cli.arguments import chosen_of, numbers_in
from retrodict_bench import benchmark


def routes_of(paths: str) -> dict[str, Any]:
    """Returns the paths of joint models by name; None for the rule of `learn_posterior`."""
    methods: Mapping[str, Any] = rd.paths.METHODS
    rule = benchmark.BY_RULE
    return {p: None if p == rule else methods[p]() for p in chosen_of("--paths", paths, methods, besides=[rule])}


def movers_of(solvers: str, evaluations: int | None) -> dict[str, Any]:
    """Returns solvers by name, with so many evaluations of the network where a number is given."""
    factories: Mapping[str, Any] = {**rd.solvers.SOLVERS, "default": lambda: benchmark.SAMPLER, "auto": rd.solvers.Auto}
    names = chosen_of("--solvers", solvers, rd.solvers.SOLVERS, besides=["default", "auto"])
    movers = {name: factories[name]() for name in names}
    if evaluations is None:
        return movers
    return {name: rd.solvers.at_cost(solver, evaluations) for name, solver in movers.items()}


def cells_of(tasks: str, simulations: str, seed: str, observations: str, draws: int) -> list[Any]:
    """Returns the cells to run; wrong arguments are told before anything is trained."""
    other_tasks = [name for name in rd.tasks.names() if name not in benchmark.TASKS]
    numbers = numbers_in(observations)
    return [
        benchmark.Evaluation.of(name, simulations=budget, observations=numbers, draws=draws, seed=number)
        for name in chosen_of("--tasks", tasks, benchmark.TASKS, besides=other_tasks)
        for budget in numbers_in(simulations, "--simulations")
        for number in numbers_in(seed, "--seed")
    ]


def run_cells(
    cells: list[Any], routes: Mapping[str, Any], movers: Mapping[str, Any], out: Path | None, *, as_json: bool
) -> None:
    """Runs the cells that the file `out` does not have yet, prints their rows and appends them."""
    finished_rows = [] if out is None else benchmark.read(out)
    if out is not None:
        make_folder(out.parent)
    for cell in cells:
        rows, done = [], benchmark.finished(finished_rows, cell, routes, movers)
        for row in benchmark.matrix(cell, routes, movers, done=done, progress=not as_json):
            print(json.dumps(row.to_json()) if as_json else benchmark.row_text(row), flush=True)
            rows.append(row)
            if out is not None:
                benchmark.append(out, row)
        if len(rows) > 1 and not as_json:
            print(f"\n{benchmark.table_text(rows)}\n", flush=True)


def show_leaderboard(out: Path | None, page: Path | None, *, as_json: bool) -> None:
    """Prints the table of a benchmark's file, as Markdown, and writes it as a page.

    Raises:
        FileError: there are no rows, or a place that cannot be written.
    """
    rows = [] if out is None else benchmark.read(out)
    if not rows:
        raise FileError("a table needs rows: retrodict bench --out FILE, and then with --table")
    leaderboard = benchmark.leaderboard(rows)
    table = report.Table(*leaderboard)
    print(json.dumps(leaderboard._asdict()) if as_json else f"{table.to_markdown()}\n\n{table.caption}")
    if page is not None:
        report.write_report(page, "Benchmark", [report.Section("C2ST against the reference", [table])])
