"""The benchmark: posteriors of one training rule for every task, scored against references, beside published scores."""

from retrodict.models import SAMPLER
from retrodict_bench.benchmark._evaluate import BY_RULE, DRAWS, TASKS, Evaluation, Row, ScoreSummary, matrix, rule_of
from retrodict_bench.benchmark._leaderboard import Leaderboard, Published, best, leaderboard, published
from retrodict_bench.benchmark._record import append, finished, read
from retrodict_bench.benchmark._text import row_text, table_text


__all__ = [
    "BY_RULE",
    "DRAWS",
    "SAMPLER",
    "TASKS",
    "Evaluation",
    "Leaderboard",
    "Published",
    "Row",
    "ScoreSummary",
    "append",
    "best",
    "finished",
    "leaderboard",
    "matrix",
    "published",
    "read",
    "row_text",
    "rule_of",
    "table_text",
]
