"""The table of a benchmark, beside what others have published.

Figures by different classifiers are not on one scale: every column names its own. Ours by the strict one is held
against the best published figure of any amortized system at the same number of simulations, whatever its classifier.
Sequential methods, which simulate anew for every observation, are left out.
"""

import csv
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from retrodict_bench.benchmark._exam import Row


STRICT, LENIENT = "mlp", "rf"
COLUMNS = (
    "task",
    "simulations",
    "C2ST, mlp",
    "sd of observations",
    "C2ST, rf",
    "published, mlp",
    "published, rf",
    "published, classifier not said",
    "train, s",
    "draw, s",
    "seeds",
    "rule",
)


@dataclass(frozen=True)
class Published:
    """A figure that others report, by which classifier, and where."""

    task: str
    system: str
    simulations: int
    c2st: float
    classifier: str
    source: str
    sequential: bool


@functools.cache
def published() -> tuple[Published, ...]:
    """Every published C2ST of these tasks that we know of."""
    text = (resources.files("retrodict_bench.benchmark") / "published_c2st.csv").read_text()
    return tuple(
        Published(
            line["task"],
            line["system"],
            int(line["simulations"]),
            float(line["c2st"]),
            line["classifier"],
            line["source"],
            line["sequential"] == "1",
        )
        for line in csv.DictReader(text.splitlines())
    )


def best(task: str, simulations: int, classifier: str | None = None) -> Published | None:
    """The lowest published figure of an amortized system, by one classifier or by any."""
    found = [
        p
        for p in published()
        if (p.task, p.simulations) == (task, simulations) and not p.sequential and classifier in (None, p.classifier)
    ]
    return min(found, key=lambda p: p.c2st, default=None)


class League(NamedTuple):
    """What `report.Table` takes."""

    columns: list[str]
    rows: list[list[object]]
    caption: str


def league(rows: Iterable[Row]) -> League:
    """A line for all rows that differ in their seed alone: means over observations and seeds."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.refused is None:
            how = (row.path, row.solver, row.evaluations or 0, row.draws, tuple(row.observations))
            cells.setdefault((row.task, row.simulations, row.rule, *how), []).append(row)
    several = len({key[3:] for key in cells}) > 1
    return League(
        [*COLUMNS, *["path, solver, evaluations, draws, observations"] * several],
        [[*_line(found), *[_how(found[0])] * several] for _, found in sorted(cells.items())],
        "C2ST of as many draws as of the reference: .5 is perfect, 1 is useless. mlp: the strict classifier of the SBI "
        "benchmark; rf: a random forest. Published: the best amortized system at the same budget.",
    )


def _line(rows: list[Row]) -> list[object]:
    task, simulations = rows[0].task, rows[0].simulations
    strict = np.array([row.c2st_mlp.each for row in rows if row.c2st_mlp])
    lenient = np.array([row.c2st_rf.each for row in rows if row.c2st_rf])
    others = (_told(best(task, simulations, classifier)) for classifier in (STRICT, LENIENT, "unknown"))
    return [
        task,
        simulations,
        round(strict.mean(), 3),
        round(strict.mean(axis=0).std(), 3),
        round(lenient.mean(), 3),
        *others,
        round(float(np.mean([row.train_seconds for row in rows]))),
        round(float(np.mean([row.sample_seconds for row in rows])), 2),
        ", ".join(str(row.seed) for row in rows),
        rows[0].rule,
    ]


def _how(row: Row) -> str:
    evaluations = "adaptive" if row.evaluations is None else row.evaluations
    return f"{row.path}, {row.solver}, {evaluations}, {row.draws}, {len(row.observations)}"


def _told(found: Published | None) -> str | None:
    return None if found is None else f"{found.c2st:.3f} ({found.system})"
