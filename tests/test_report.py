"""The page is read back: it must need nothing else, say what it was told and be well-formed."""

import base64
import io
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from retrodict._errors import DataError, FileError
from retrodict.report import Picture, Section, Table, Text, write_report


VOID = {"meta", "img", "br", "hr", "link", "input"}
NASTY = '<script>alert(1)</script> & "it\'s" </p>'


class Page(HTMLParser):
    """The page's tags, attributes and text; fails where a tag is not closed in order."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts, self.cells = [], [], [], {}, []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
            if self.open[-1] in ("td", "th"):
                self.cells[-1][-1] += data


def figure(width=2.0):
    drawn = Figure(figsize=(width, 1.0))
    drawn.subplots().plot([0, 1], [0, 1])
    return drawn


@pytest.fixture
def source(tmp_path):
    """The source of a page with everything in it."""
    figure().savefig(tmp_path / "saved.png", dpi=150)
    sections = [
        Section("First " + NASTY, [Text("one " + NASTY + "\n\ntwo"), Text("three")]),
        Section("Tables", [Table(["name " + NASTY, "value"], [["row " + NASTY, 1.5]], "caption " + NASTY)]),
        Section("Pictures", [Picture(figure(), "drawn", NASTY), Picture(tmp_path / "saved.png", "saved")]),
        Section("Empty"),
    ]
    key = Table(["quantity", "value"], [["C2ST", 0.51234567]])
    path = write_report(
        tmp_path / "report.html",
        "Title " + NASTY,
        sections,
        lead="Lead " + NASTY,
        key_figures=key,
        footnote="v0.1, noon",
    )
    return path.read_text(encoding="utf-8")


def test_page_needs_nothing_else(source):
    page = Page(source)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data"):
            assert value.startswith(("data:image/png;base64,", "#")), value[:60]
        assert not name.startswith("on")
    assert "url(" not in source
    assert "@import" not in source
    assert not re.search(r"https?://|//\w+\.\w", re.sub(r"base64,[^\"]*", "", source))


def test_what_is_said_stands_in_order_and_nothing_said_becomes_markup(source):
    page = Page(source)
    assert page.texts["title"] == page.texts["h1"] == ["Title " + NASTY]
    assert page.texts["h2"] == ["First " + NASTY, "Tables", "Pictures", "Empty"]
    assert page.texts["p"] == ["Lead " + NASTY, "one " + NASTY, "two", "three", "v0.1, noon"]
    assert page.texts["caption"] == ["caption " + NASTY]
    assert page.texts["figcaption"] == ["drawn", "saved"]
    assert page.cells == [
        ["quantity", "value"],
        ["C2ST", "0.5123"],
        ["name " + NASTY, "value"],
        ["row " + NASTY, "1.5"],
    ]
    assert dict(page.attributes)["alt"] == "saved"
    assert ("alt", NASTY) in page.attributes
    places = [source.index(tag) for tag in ("<h1>", '<table class="key"', "<nav", "<section", "<footer")]
    assert places == sorted(places)


def test_contents_lead_to_the_sections(source, tmp_path):
    page = Page(source)
    links = [value[1:] for name, value in page.attributes if name == "href"]
    assert links == [value for name, value in page.attributes if name == "id"]
    assert len(links) == 4
    short = write_report(tmp_path / "short.html", "t", [Section("a"), Section("b")]).read_text(encoding="utf-8")
    assert not {"nav", "footer", "table"} & set(Page(short).tags)


def test_pictures_decode_to_what_was_drawn_and_have_the_same_scale(source):
    images = [base64.b64decode(code) for code in re.findall(r'src="data:image/png;base64,([^"]+)"', source)]
    sizes = [Image.open(io.BytesIO(image)).size for image in images]
    assert sizes == [(400, 200), (300, 150)]  # 2 by 1 inches at 200 and at 150 dots per inch
    for image in images:
        assert len(Image.open(io.BytesIO(image)).getcolors(maxcolors=10**6)) > 10
    assert re.findall(r'width="(\d+)" height="(\d+)"', source) == [("208", "104")] * 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.123456, "0.1235"),
        (-1.5, "\u22121.5"),
        (1e-5, "1e\u221205"),
        (12345, "12345"),
        (-3, "\u22123"),
        (np.float32(0.25), "0.25"),
        (np.int64(-7), "\u22127"),
        (np.array(2.5), "2.5"),
        (float("nan"), "NaN"),
        (float("-inf"), "\u2212\u221e"),
        (None, "\u2013"),
        (True, "yes"),
        (np.bool_(False), "no"),
        ("well-known", "well-known"),
    ],
)
def test_cells_show_values_as_a_reader_wants_them(value, shown):
    assert Page(Table(["a", "b"], [["x", value]]).to_html()).cells[1] == ["x", shown]


def test_columns_of_numbers_are_aligned_as_numbers():
    table = Table(["name", "number", "mixed"], [["a", 1, 1], ["b", None, "one"]]).to_html()
    assert table.count('<td class="number">') == 2
    assert '<th scope="col" class="number">number</th><th scope="col">mixed</th>' in table
    assert '<th scope="row">b</th>' in table


def test_a_page_appears_whole_or_not_at_all(tmp_path):
    path = write_report(tmp_path / "report.html", "old", [])
    with pytest.raises(FileError, match=r"picture '.*none\.png' cannot be read: No such file"):
        write_report(path, "new", [Section("s", [Picture(tmp_path / "none.png")])])
    assert "<h1>old</h1>" in path.read_text(encoding="utf-8")
    assert "<h1>new</h1>" in write_report(path, "new", []).read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["report.html"]


def test_what_cannot_be_written_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileError, match=r"cannot write '.*': No such file or directory"):
        write_report(tmp_path / "nowhere" / "report.html", "t", [])
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"cannot write .*: Is a directory"):
        write_report(tmp_path / "folder", "t", [])
    assert os.listdir(tmp_path) == ["folder"]
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(FileError, match="is no PNG file"):
        Picture(tmp_path / "text.png").to_html()


def test_malformed_tables_and_sections_are_refused():
    with pytest.raises(DataError, match="row 1 of a table has 1 cells, but there are 2 columns"):
        Table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(DataError, match="not str: wrap it"):
        Section("s", ["text"])


def test_odd_characters_survive(tmp_path):
    path = write_report(tmp_path / "r.html", "\u03b8 \u2192 x, \ud800, {braces}", [])
    assert Page(path.read_text(encoding="utf-8")).texts["h1"] == ["\u03b8 \u2192 x, ?, {braces}"]
