"""The file of a benchmark: one JSON line for every row, appended as soon as the row has its scores.

A benchmark of hours may be stopped and started again: rows in the file are not run again. A line that a kill has cut
short counts as no row, and the next row starts on a new line.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path as File

from retrodict import FileError
from retrodict.paths import Path
from retrodict.solvers import AbstractSolver
from retrodict_bench.benchmark._evaluate import Evaluation, Row, rule_of


def read(file: File) -> list[Row]:
    """Reads all rows of a file; none if there is no file.

    Raises:
        FileError: the file cannot be read, or a line is no row of a benchmark.
    """
    try:
        lines = file.read_text().split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read the benchmark '{file}': {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows += [Row.from_json(json.loads(line))] if line else []
        except json.JSONDecodeError as error:
            if not line.startswith("{"):  # else a kill has cut it short
                raise FileError(f"line {number} of '{file}' is no row of a benchmark; choose another file") from error
        except (KeyError, TypeError) as error:
            raise FileError(f"line {number} of '{file}' is no row of a benchmark: {error}; take it away") from error
    return rows


def append(file: File, row: Row) -> None:
    """Appends a row to the file; it is on disk when this returns.

    Raises:
        FileError: the file cannot be written.
    """
    try:
        with file.open("a+b") as handle:
            end = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, end - 1))
            is_cut = end > 0 and handle.read(1) != b"\n"
            handle.write(b"\n" * is_cut + json.dumps(row.to_json()).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise FileError(f"cannot write the benchmark '{file}': {error.strerror}") from error


def finished(
    rows: Iterable[Row], evaluation: Evaluation, paths: Mapping[str, Path | None], solvers: Mapping[str, AbstractSolver]
) -> set[tuple[str, str]]:
    """Returns the pairs of a path and a solver of this evaluation that have a row by today's rule.

    A solver with other settings is a different solver.
    """
    cell = (
        evaluation.task.name,
        evaluation.simulations,
        list(evaluation.references),
        evaluation.draws,
        evaluation.seed,
    )
    return {
        (row.path, row.solver)
        for row in rows
        if (row.task, row.simulations, row.observations, row.draws, row.seed) == cell
        and row.path in paths
        and row.rule == rule_of(paths[row.path])
        and row.settings["solver"] == str(solvers.get(row.solver))
    }
