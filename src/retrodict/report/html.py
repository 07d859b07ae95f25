"""Reports: results in, one HTML page out.

    page    = title, lead, key figures, sections, footnote
    section = title, blocks
    block   = text | table | picture | drawing

The page is one file that needs nothing else: styles are inline, pictures are embedded, and there is no script and no
link to the outside, so that it can be mailed, archived and opened anywhere. Nothing is computed here, and all text is
escaped.
"""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from retrodict._errors import DataError, FileError
from retrodict._runtime.atomic_files import write_whole


# matplotlib is not needed to write a page without figures.
if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

_DPI = 200  # sharp on dense screens and on paper
_FILE_DPI = 150  # what `plots.save` writes
_INCH = 104  # CSS pixels: the seven inches of a wide figure are then the width of the text
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text, an empty line between two of them."""

    body: str

    def to_html(self) -> str:
        """One `<p>` per paragraph."""
        return "".join(f"<p>{_escaped(part)}</p>\n" for part in self.body.split("\n\n") if part.strip())


@dataclass(frozen=True)
class Table:
    """Columns and rows of strings, numbers or `None`; numbers are shown to four digits, whole numbers in full.

    Raises:
        DataError: a row has not one cell per column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise DataError(f"row {i} of a table has {len(row)} cells, but there are {len(self.columns)} columns")

    def to_html(self, *, style: str = "") -> str:
        """A `<table>` in a frame; `style` goes into its tag."""
        numeric = [all(_is_number(row[j]) for row in self.rows) for j in range(len(self.columns))]
        marks = [' class="number"' if n and self.rows else "" for n in numeric]
        heads = "".join(f'<th scope="col"{m}>{_escaped(c)}</th>' for c, m in zip(self.columns, marks, strict=True))
        body = "".join(f"<tr>{self._row(row, marks)}</tr>\n" for row in self.rows)
        caption = f"<caption>{_escaped(self.caption)}</caption>" if self.caption else ""
        # The frame scrolls where a table is wider than a phone; it takes the focus, so that a keyboard can scroll it.
        return (
            f'<div class="wide" tabindex="0"><table{style}>{caption}\n'
            f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
        )

    def to_markdown(self) -> str:
        """Lines of a Markdown table, without the caption."""
        lines = [self.columns, ["---"] * len(self.columns)]
        lines += [[html.unescape(_cell(value)).replace("|", "\\|") for value in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _row(self, row: Sequence[Any], marks: Sequence[str]) -> str:
        cells = [f"<td{mark}>{_cell(value)}</td>" for value, mark in zip(row, marks, strict=True)]
        if row and isinstance(row[0], str):
            cells[0] = f'<th scope="row">{_cell(row[0])}</th>'
        return "".join(cells)


@dataclass(frozen=True)
class Picture:
    """A matplotlib figure, or the path of a PNG file, embedded in the page; `alt` says in words what is seen.

    Raises:
        FileError: when written, a path that cannot be read or is no PNG file.
    """

    source: Figure | str | Path
    caption: str = ""
    alt: str = ""

    def to_html(self) -> str:
        """A `<figure>` with the picture inside."""
        png = self._png()
        inch = _INCH / (_FILE_DPI if isinstance(self.source, str | Path) else _DPI)
        wide, high = (round(inch * int.from_bytes(png[k : k + 4])) for k in (16, 20))  # where a PNG says its size
        data = base64.b64encode(png).decode()
        caption = f"<figcaption>{_escaped(self.caption)}</figcaption>" if self.caption else ""
        return (
            f'<figure><img src="data:image/png;base64,{data}" alt="{_escaped(self.alt or self.caption)}" '
            f'width="{wide}" height="{high}">{caption}</figure>\n'
        )

    def _png(self) -> bytes:
        if not isinstance(self.source, str | Path):
            buffer = io.BytesIO()
            self.source.savefig(buffer, format="png", dpi=_DPI)
            return buffer.getvalue()
        try:
            png = Path(self.source).read_bytes()
        except OSError as error:
            raise FileError(f"the picture '{self.source}' cannot be read: {error.strerror}") from error
        if not png.startswith(_PNG):
            raise FileError(f"'{self.source}' is no PNG file: only those and matplotlib figures go into a report")
        return png


@dataclass(frozen=True)
class Drawing:
    """A matplotlib figure as vectors, sharp at any size; `alt` says in words what is seen.

    Raises:
        DataError: without `alt`, which is all that some readers get.
    """

    figure: Figure
    caption: str = ""
    alt: str = ""

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise DataError("a drawing needs `alt`, its content in words, for readers who cannot see it")

    def to_html(self) -> str:
        """A `<figure>` with the drawing inside, as an image: names inside one SVG do not meet those of another."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        data = base64.b64encode(buffer.getvalue()).decode()
        wide, high = (round(_INCH * inches) for inches in self.figure.get_size_inches())
        caption = f"<figcaption>{_escaped(self.caption)}</figcaption>" if self.caption else ""
        return (
            f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{_escaped(self.alt)}" '
            f'width="{wide}" height="{high}">{caption}</figure>\n'
        )


Block: TypeAlias = Text | Table | Picture | Drawing


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it.

    Raises:
        DataError: a block that is none.
    """

    title: str
    blocks: Sequence[Block] = ()

    def __post_init__(self) -> None:
        for block in self.blocks:
            if not isinstance(block, Block):
                raise DataError(f"a section holds Text, Table, Picture or Drawing, not {type(block).__name__}: wrap it")

    def to_html(self, anchor: str) -> str:
        """A `<section>` that `#anchor` leads to."""
        blocks = "".join(block.to_html() for block in self.blocks)
        return f'<section id="{anchor}">\n<h2>{_escaped(self.title)}</h2>\n{blocks}</section>\n'


def write_report(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    key_figures: Table | None = None,
    footnote: str = "",
) -> Path:
    """Writes one self-contained HTML page: title, `lead` (one line), `key_figures`, sections, `footnote`.

    Returns the path. The caller puts versions and the time into the footnote. The file appears whole or not at all;
    one that is there already is replaced.

    Raises:
        FileError: a place that cannot be written, or a picture that cannot be read.
    """
    path = Path(path)
    anchors = [f"section-{i}" for i in range(1, len(sections) + 1)]
    parts = [f"<header>\n<h1>{_escaped(title)}</h1>\n"]
    parts += [f'<p class="lead">{_escaped(lead)}</p>\n'] if lead else []
    parts += ["</header>\n"]
    parts += [key_figures.to_html(style=' class="key"')] if key_figures else []
    if len(sections) > 3:  # fewer can be seen at a glance
        links = zip(anchors, sections, strict=True)
        items = "".join(f'<li><a href="#{anchor}">{_escaped(section.title)}</a></li>' for anchor, section in links)
        parts += [f'<nav aria-label="Contents"><ol>{items}</ol></nav>\n']
    parts += [section.to_html(anchor) for anchor, section in zip(anchors, sections, strict=True)]
    parts += [f"<footer>{Text(footnote).to_html()}</footer>\n"] if footnote else []
    page = _PAGE.format(title=_escaped(title), style=_STYLE, body="".join(parts))
    write_whole(path, page.encode(errors="replace"))
    return path


def _escaped(text: str) -> str:
    return html.escape(str(text), quote=True)


def _scalar(value: Any) -> Any:
    """An array's single number as a plain one."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _is_number(value: Any) -> bool:
    value = _scalar(value)
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    """A value as a reader wants it, in HTML: `None` is a dash, a minus is no hyphen."""
    value = _scalar(value)
    if value is None:
        return "&ndash;"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, Real):
        return _escaped(str(value))
    if isinstance(value, Integral) or not math.isfinite(value):
        text = str(value).replace("inf", "&infin;").replace("nan", "NaN")
    else:
        text = f"{float(value):.4g}"
    return text.replace("-", "&minus;")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #59616b; --line: #d9dde2; --tint: #f4f6f8; --paper: #ffffff;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --soft: #a0a8b1; --line: #373d44; --tint: #20252a; --paper: #16191d; --accent: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.6 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 48rem; margin: 0 auto; padding: 2.5rem 1.25rem 3rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.1rem); line-height: 1.2; margin: 0; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.75rem 0 .75rem; overflow-wrap: anywhere; }
p { margin: .75rem 0; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; color: var(--soft); margin: .6rem 0 0; }
header { border-bottom: 2px solid var(--accent); padding-bottom: 1.25rem; margin-bottom: 1.5rem; }
nav ol { columns: 2 14rem; margin: 1.5rem 0 0; padding-left: 1.4rem; color: var(--soft); font-size: .95rem; }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
.wide { overflow-x: auto; margin: 1.25rem 0; }
table { border-collapse: collapse; min-width: 60%; font-size: .92rem; line-height: 1.4; }
caption { caption-side: top; text-align: left; color: var(--soft); padding-bottom: .5rem; }
th, td { text-align: left; vertical-align: baseline; padding: .4rem 1rem .4rem .25rem;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom: 1.5px solid var(--soft); font-weight: 600; }
tbody th { font-weight: 400; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.key { width: 100%; background: var(--tint); font-size: 1rem; }
.key th, .key td { padding: .55rem 1rem; }
.key tbody tr:last-child > * { border-bottom: 0; }
.key .number { font-weight: 600; }
figure { margin: 1.5rem 0; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
@media screen and (prefers-color-scheme: dark) { img { padding: .5rem; } }
figcaption { color: var(--soft); font-size: .92rem; margin-top: .6rem; }
footer { margin-top: 3.5rem; border-top: 1px solid var(--line); padding-top: .5rem; color: var(--soft);
  font-size: .85rem; }
@media print {
  :root { color-scheme: light; --ink: #000000; --soft: #444444; --line: #bbbbbb; --tint: #ffffff; --paper: #ffffff;
    --accent: #000000; }
  main { max-width: none; padding: 0; }
  body { font-size: 10.5pt; }
  h2, caption { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  nav { display: none; }
  .wide { overflow: visible; }
}
"""
