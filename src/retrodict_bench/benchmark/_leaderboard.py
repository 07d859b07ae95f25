"""The leaderboard: the table of a benchmark beside published scores.

Scores by different classifiers are not on one scale, so every column names its classifier. Our strict score stands
beside the best published score of any amortized system at the same number of simulations, by each classifier.
Sequential methods simulate anew for every observation and are left out.
"""

import csv
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from retrodict_bench.benchmark._evaluate import Row


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
    """A published score, its classifier and its source."""

    task: str
    system: str
    simulations: int
    c2st: float
    classifier: str
    source: str
    sequential: bool


@functools.cache
def published() -> tuple[Published, ...]:
    """Returns every published C2ST of these tasks that we know of."""
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
    """Returns the lowest published score of an amortized system, by one classifier or by any; `None` without one."""
    scores = [
        p
        for p in published()
        if (p.task, p.simulations) == (task, simulations) and not p.sequential and classifier in (None, p.classifier)
    ]
    return min(scores, key=lambda p: p.c2st, default=None)


class Leaderboard(NamedTuple):
    """The arguments of `report.Table`."""

    columns: list[str]
    rows: list[list[object]]
    caption: str


def leaderboard(rows: Iterable[Row]) -> Leaderboard:
    """Returns a table with one line for all rows that differ in their seed alone: means over observations and seeds."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.refused is None:
            settings = (row.path, row.solver, row.evaluations or 0, row.draws, tuple(row.observations))
            cells.setdefault((row.task, row.simulations, row.rule, *settings), []).append(row)
    differ = len({key[3:] for key in cells}) > 1
    return Leaderboard(
        [*COLUMNS, *["path, solver, evaluations, draws, observations"] * differ],
        [[*_line(group), *[_settings_text(group[0])] * differ] for _, group in sorted(cells.items())],
        "C2ST of as many draws as of the reference: .5 is perfect, 1 is useless. mlp: the strict classifier of the SBI "
        "benchmark; rf: a random forest. Published: the best amortized system at the same budget.",
    )


def _line(rows: list[Row]) -> list[object]:
    task, simulations = rows[0].task, rows[0].simulations
    strict = np.array([row.c2st_mlp.each for row in rows if row.c2st_mlp])
    lenient = np.array([row.c2st_rf.each for row in rows if row.c2st_rf])
    published_texts = (_published_text(best(task, simulations, c)) for c in (STRICT, LENIENT, "unknown"))
    return [
        task,
        simulations,
        round(strict.mean(), 3),
        round(strict.mean(axis=0).std(), 3),
        round(lenient.mean(), 3),
        *published_texts,
        round(float(np.mean([row.train_seconds for row in rows]))),
        round(float(np.mean([row.sample_seconds for row in rows])), 2),
        ", ".join(str(row.seed) for row in rows),
        rows[0].rule,
    ]


def _settings_text(row: Row) -> str:
    evaluations = "adaptive" if row.evaluations is None else row.evaluations
    return f"{row.path}, {row.solver}, {evaluations}, {row.draws}, {len(row.observations)}"


def _published_text(score: Published | None) -> str | None:
    return None if score is None else f"{score.c2st:.3f} ({score.system})"
