"""A writer of reports: one self-contained HTML page from texts, tables and figures.

    page    = title, lead, key figures, sections, footnote
    section = title, blocks
    block   = text | table | picture | drawing

The page needs no other file: its style sheet is inline, pictures are embedded, and it has no script and no external
link. It can be mailed, archived and opened anywhere. Nothing is computed here, and all text is escaped. The skeleton of
the page and its style sheet are `page.html` and `style.css` beside this module.
"""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from retrodict._errors import DataError, FileError
from retrodict._runtime.atomic_files import write_whole


# matplotlib is not needed for a page without figures.
if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

FIGURE_DPI = 200  # of embedded figures, sharp on dense screens and on paper
FILE_DPI = 150  # of files that `plots.save` writes
PIXELS_PER_INCH = 104  # of CSS; a wide figure, of seven inches, is as wide as the text
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text, separated by empty lines."""

    body: str

    def to_html(self) -> str:
        """Returns a `<p>` for each paragraph."""
        paragraphs = [text for text in self.body.split("\n\n") if text.strip()]
        return "".join(f"<p>{_escaped(text)}</p>\n" for text in paragraphs)


@dataclass(frozen=True)
class Table:
    """A table with rows of strings, numbers or `None`; floats are shown to four digits, integers in full.

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
        """Returns a `<table>` in a frame; `style` goes into its tag."""
        numeric = [all(_is_number(row[j]) for row in self.rows) for j in range(len(self.columns))]
        marks = [' class="number"' if n and self.rows else "" for n in numeric]
        heads = "".join(f'<th scope="col"{m}>{_escaped(c)}</th>' for c, m in zip(self.columns, marks, strict=True))
        body = "".join(f"<tr>{self._row(row, marks)}</tr>\n" for row in self.rows)
        caption = f"<caption>{_escaped(self.caption)}</caption>" if self.caption else ""
        # the frame scrolls a table that is wider than the screen; with a tabindex also by keyboard
        return (
            f'<div class="wide" tabindex="0"><table{style}>{caption}\n'
            f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
        )

    def to_markdown(self) -> str:
        """Returns the lines of a Markdown table, without the caption."""
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
    """A matplotlib figure, or the path of a PNG file, embedded as pixels; `alt` describes it in words.

    Raises:
        FileError: when the page is written, a path that cannot be read or is no PNG file.
    """

    source: Figure | str | Path
    caption: str = ""
    alt: str = ""

    def to_html(self) -> str:
        """Returns a `<figure>` with the picture inside."""
        png, dpi = self._png()
        scale = PIXELS_PER_INCH / dpi
        width, height = (round(scale * int.from_bytes(png[k : k + 4])) for k in (16, 20))  # bytes of the PNG header
        return _figure("png", png, self.alt or self.caption, width, height, self.caption)

    def _png(self) -> tuple[bytes, int]:
        """Returns the pixels, and their number per inch."""
        if not isinstance(self.source, str | Path):
            buffer = io.BytesIO()
            self.source.savefig(buffer, format="png", dpi=FIGURE_DPI)
            return buffer.getvalue(), FIGURE_DPI
        try:
            png = Path(self.source).read_bytes()
        except OSError as error:
            raise FileError(f"the picture '{self.source}' cannot be read: {error.strerror}") from error
        if not png.startswith(PNG_SIGNATURE):
            raise FileError(f"'{self.source}' is no PNG file: only those and matplotlib figures go into a report")
        return png, FILE_DPI


@dataclass(frozen=True)
class Drawing:
    """A matplotlib figure, embedded as vectors, sharp at any size; `alt` describes it in words.

    Raises:
        DataError: an empty `alt`, on which readers who cannot see depend.
    """

    figure: Figure
    caption: str = ""
    alt: str = ""

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise DataError("a drawing needs `alt`, its content in words, for readers who cannot see it")

    def to_html(self) -> str:
        """Returns a `<figure>` with the drawing as an image, so that names inside two SVGs cannot clash."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        width, height = (round(PIXELS_PER_INCH * inches) for inches in self.figure.get_size_inches())
        return _figure("svg+xml", buffer.getvalue(), self.alt, width, height, self.caption)


Block: TypeAlias = Text | Table | Picture | Drawing


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it.

    Raises:
        DataError: a block of another type.
    """

    title: str
    blocks: Sequence[Block] = ()

    def __post_init__(self) -> None:
        for block in self.blocks:
            if not isinstance(block, Block):
                raise DataError(f"a section holds Text, Table, Picture or Drawing, not {type(block).__name__}: wrap it")

    def to_html(self, anchor: str) -> str:
        """Returns a `<section>`, the target of `#anchor`."""
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

    Returns the path. Versions and the time belong in the footnote, from the caller. The file is written completely or
    not at all; an existing file is replaced.

    Raises:
        FileError: a place that cannot be written, or a picture that cannot be read.
    """
    path = Path(path)
    anchors = [f"section-{i}" for i in range(1, len(sections) + 1)]
    parts = [f"<header>\n<h1>{_escaped(title)}</h1>\n"]
    parts += [f'<p class="lead">{_escaped(lead)}</p>\n'] if lead else []
    parts += ["</header>\n"]
    parts += [key_figures.to_html(style=' class="key"')] if key_figures else []
    if len(sections) > 3:  # a short page needs no contents
        links = zip(anchors, sections, strict=True)
        items = "".join(f'<li><a href="#{anchor}">{_escaped(section.title)}</a></li>' for anchor, section in links)
        parts += [f'<nav aria-label="Contents"><ol>{items}</ol></nav>\n']
    parts += [section.to_html(anchor) for anchor, section in zip(anchors, sections, strict=True)]
    parts += [f"<footer>{Text(footnote).to_html()}</footer>\n"] if footnote else []
    page = _resource("page.html").format(title=_escaped(title), style=_resource("style.css"), body="".join(parts))
    write_whole(path, page.encode(errors="replace"))
    return path


def _resource(name: str) -> str:
    return resources.files("retrodict.report").joinpath(name).read_text(encoding="utf-8")


def _figure(kind: str, content: bytes, alt: str, width: int, height: int, caption: str) -> str:
    data = base64.b64encode(content).decode()
    text = f"<figcaption>{_escaped(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img src="data:image/{kind};base64,{data}" alt="{_escaped(alt)}" '
        f'width="{width}" height="{height}">{text}</figure>\n'
    )


def _escaped(text: str) -> str:
    return html.escape(str(text), quote=True)


def _scalar(value: Any) -> Any:
    """Turns an array of one number into a plain number."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _is_number(value: Any) -> bool:
    value = _scalar(value)
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    """Formats a value for readers, in HTML: `None` is a dash, a minus sign is no hyphen."""
    value = _scalar(value)
    if value is None:
        return "&ndash;"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not _is_number(value):
        return _escaped(str(value))
    if isinstance(value, Integral) or not math.isfinite(value):
        text = str(value).replace("inf", "&infin;").replace("nan", "NaN")
    else:
        text = f"{float(value):.4g}"
    return text.replace("-", "&minus;")
