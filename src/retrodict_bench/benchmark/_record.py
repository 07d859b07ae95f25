"""The file of a benchmark: one JSON line for every row, appended as soon as it is judged.

A benchmark of hours is stopped and goes on: what the file holds is not run again. A line that a kill has cut short is
no row, and the next one starts on a line of its own.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path as File

from retrodict._errors import FileError
from retrodict.paths import Path
from retrodict.solvers import AbstractSolver
from retrodict_bench.benchmark._exam import Exam, Row, rule_of


def read(file: File) -> list[Row]:
    """All rows of a file, none if there is no file.

    Raises:
        FileError: a file that cannot be read, or that holds something else.
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
    """Adds a row behind all others, on disk when this returns.

    Raises:
        FileError: the file cannot be written.
    """
    try:
        with file.open("a+b") as handle:
            end = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, end - 1))
            cut = end > 0 and handle.read(1) != b"\n"
            handle.write(b"\n" * cut + json.dumps(row.to_json()).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise FileError(f"cannot write the benchmark '{file}': {error.strerror}") from error


def done(
    rows: Iterable[Row], exam: Exam, paths: Mapping[str, Path | None], solvers: Mapping[str, AbstractSolver]
) -> set[tuple[str, str]]:
    """Pairs of a path and a solver that have been judged in this exam, by the rule that now holds; a solver with other
    settings is another one."""
    asked = (exam.task.name, exam.simulations, list(exam.references), exam.draws, exam.seed)
    return {
        (row.path, row.solver)
        for row in rows
        if (row.task, row.simulations, row.observations, row.draws, row.seed) == asked
        and row.path in paths
        and row.rule == rule_of(paths[row.path])
        and row.settings["solver"] == str(solvers.get(row.solver))
    }
