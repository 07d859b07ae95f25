"""Small tables that show an object: as text in a terminal, as HTML in a notebook."""

import html
from collections.abc import Iterable, Sequence
from typing import Any


MAX_LINES = 10  # of the text, with its title
MAX_LETTERS = 90  # of a cell

Cells = Sequence[str]


def as_text(title: str, rows: Sequence[Cells]) -> str:
    """Returns a title and aligned columns, ten lines at most."""
    cells = [[_shortened(cell) for cell in row] for row in _thinned(rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([" ".join(title.split()), *(f"  {line}" for line in lines)])


def as_html(title: str, rows: Sequence[Cells]) -> str:
    """Returns the same as an HTML table; all text is escaped."""
    cells = ("".join(f"<td>{html.escape(_shortened(cell))}</td>" for cell in row) for row in _thinned(rows))
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    caption = f'<caption style="text-align: left">{html.escape(" ".join(title.split()))}</caption>'
    return f"<table>{caption}<tbody>{body}</tbody></table>"


def html_table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """Returns an HTML table with a row for each name and value."""
    return as_html(title, [(str(name), str(value)) for name, value in rows])


def _thinned(rows: Sequence[Cells]) -> list[Cells]:
    """Returns the rows, or where they are too many the first and the last with a note in between."""
    space = MAX_LINES - 1
    if len(rows) <= space:
        return list(rows)
    first, last = space // 2 + 1, space // 2 - 1
    note = [f"... {len(rows) - first - last} more", *[""] * (len(rows[0]) - 1)]
    return [*rows[:first], note, *rows[-last:]]


def _shortened(cell: str) -> str:
    text = " ".join(cell.split())
    return text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 3]}..."
