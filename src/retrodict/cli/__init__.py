"""The command line: what is typed becomes calls of the library, and nothing is computed here."""

from retrodict.cli._commands import app as app
from retrodict.cli._commands import main as main
from retrodict.cli._commands import run as run
