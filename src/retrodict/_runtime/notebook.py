"""Results in notebooks: a small table of names and values."""

import html
from collections.abc import Iterable
from typing import Any


def html_table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """Returns an HTML table with a title, one row for each name and value; all text is escaped."""
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(str(name))}</th>'
        f'<td style="text-align:left">{html.escape(str(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption><b>{html.escape(title)}</b></caption>{cells}</table>"
