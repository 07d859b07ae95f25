"""The errors a user can meet. Each message is a sentence that says what was expected, what came and what to do.

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
    """Names as messages show them: `'a', 'b'`."""
    return ", ".join(f"'{name}'" for name in names)


def unknown(source: str, name: object, names: Iterable[str], *, owner: str = "this model has") -> str:
    """The sentence for a name that is not among `names`, with the nearest one that is."""
    names = list(names)
    matches = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean '{matches[0]}'?" if matches else ""
    return f"{source} names '{name}'; {owner} {listed(names)}.{hint}"
