"""The errors a user can meet, each one sentence with what was expected, what came and what to do.

RetrodictError (a ValueError)
├── DataError       values of a wrong name, shape or type, or not finite where they must be
├── QueryError      a question that this model cannot answer
├── TrainingError   training that cannot go on
└── FileError       a file that cannot be written, or is not what it should be
"""

import difflib
from collections.abc import Iterable


class RetrodictError(ValueError):
    """The root of the tree: catch this one to catch all."""


class DataError(RetrodictError):
    """Values of a wrong name, shape or type, or not finite where they must be."""


class QueryError(RetrodictError):
    """A question that this model cannot answer."""


class TrainingError(RetrodictError):
    """Training that cannot go on."""


class FileError(RetrodictError):
    """A file that cannot be written, or is not what it should be."""


def listed(names: Iterable[str]) -> str:
    """`'a', 'b'`: names as they are shown in messages."""
    return ", ".join(f"'{name}'" for name in names)


def unknown(where: str, name: object, known: Iterable[str], *, owner: str = "this model has") -> str:
    """The sentence for a name that is not there, with the nearest one that is."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{where} names '{name}'; {owner} {listed(known)}.{hint}"
