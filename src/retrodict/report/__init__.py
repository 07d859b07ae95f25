"""Reports: one self-contained HTML page from texts, tables and figures."""

from retrodict.report.html import Block as Block
from retrodict.report.html import Drawing as Drawing
from retrodict.report.html import Picture as Picture
from retrodict.report.html import Section as Section
from retrodict.report.html import Table as Table
from retrodict.report.html import Text as Text
from retrodict.report.html import write_report as write_report
