"""The benchmark: one rule for every task, how far its posteriors are from the reference, and what
others have published."""

from retrodict.models import SAMPLER
from retrodict_bench.benchmark._exam import BY_RULE, DRAWS, TASKS, Exam, Row, Spread, matrix, rule_of
from retrodict_bench.benchmark._league import League, Published, best, league, published
from retrodict_bench.benchmark._record import append, done, read
from retrodict_bench.benchmark._text import across, line


__all__ = [
    "BY_RULE",
    "DRAWS",
    "SAMPLER",
    "TASKS",
    "Exam",
    "League",
    "Published",
    "Row",
    "Spread",
    "across",
    "append",
    "best",
    "done",
    "league",
    "line",
    "matrix",
    "published",
    "read",
    "rule_of",
]
