"""Writes docs/commands.md: every command of the command line with its options, read off the typer app.

python tools/command_page.py            # writes the page
python tools/command_page.py --print    # prints it
"""

import argparse
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retrodict.cli import app


PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
LEAD = """# Commands

The command `retrodict` (or `python -m retrodict.cli`) calls the library. Every command prints what it did and where it
wrote. `--json` prints one machine-readable object instead. A wrong argument or a wrong file ends with exit code 2 and
one line that says what to type. Ctrl-C ends with exit code 130.

`python tools/command_page.py` makes this page from the command line itself.
"""
EXAMPLES = {
    "demo": "retrodict demo --out runs/demo",
    "simulate": "retrodict simulate --problem mine.py:problem --simulations 100000 --store runs/store",
    "train": "retrodict train --task two_moons --simulations 10000 --out model.safetensors",
    "sample": "retrodict sample model.safetensors --given '{\"x\": [0.1, null]}' --out draws.npz",
    "check": "retrodict check model.safetensors --task two_moons --given x",
    "report": "retrodict report model.safetensors --task two_moons --observation '{\"x\": [0.1, 0.2]}'",
    "gallery": "retrodict gallery --only two_moons --out runs/gallery",
    "bench": "retrodict bench --tasks two_moons --simulations 1000 --observations 1-2 --out runs/bench.jsonl",
}
WIDTH = 88  # characters of a line of code, which the site shows without a scroll bar


def page() -> str:
    """Returns the page as Markdown."""
    parts = [LEAD]
    if app.registered_callback and (options := _table(app.registered_callback.callback)):
        parts.append(f"## Options of all commands\n\nThese options stand before the command.\n\n{options}")
    for command in app.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")
        help_text = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        example = f"```sh\n{_wrapped(EXAMPLES[name])}\n```"
        parts.append(f"## retrodict {name}\n\n{help_text}\n\n{example}\n\n{_table(command.callback)}")
    return "\n".join(parts)


def _table(function: Callable[..., Any]) -> str:
    """Returns the arguments and options of a command as a Markdown table; nothing if there are none."""
    hints, parameters = typing.get_type_hints(function, include_extras=True), inspect.signature(function).parameters
    rows = [
        _row(name, hints[name], parameter.default)
        for name, parameter in parameters.items()
        if typing.get_origin(hints.get(name)) is Annotated
    ]
    lines = ["| option | default | meaning |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([*lines, ""]) if rows else ""


def _row(name: str, hint: Any, default: Any) -> tuple[str, str, str]:
    """Returns how a parameter is typed, its default, and its meaning."""
    kind, info = typing.get_args(hint)[:2]
    if isinstance(info, typer.models.ArgumentInfo):
        typed = name.upper()
    else:
        words = (info.default, *(info.param_decls or ()))  # an annotation has its first word in `default`
        declared = [word for word in words if isinstance(word, str) and word.startswith("-")]
        typed = ", ".join(declared or [f"--{name.replace('_', '-')}"])
    text = (info.help or "").replace("|", "\\|")
    if typing.get_origin(kind) is Literal:
        text = f"{text} One of {', '.join(f'`{choice}`' for choice in typing.get_args(kind))}."
    if default is inspect.Parameter.empty:
        shown = "required"
    else:
        shown = "" if default is None or isinstance(default, bool) or default in ("", []) else f"`{default}`"
    return f"`{typed}`", shown, text


def _wrapped(line: str) -> str:
    """Returns a command on lines of at most `WIDTH` characters, broken before an option."""
    if len(line) <= WIDTH:
        return line
    at = line.rindex(" --", 0, WIDTH - 1)
    return f"{line[:at]} \\\n    {_wrapped(line[at + 1 :])}"


def main() -> None:
    """Writes or prints the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true", help="print the page, write nothing")
    text = page()
    if parser.parse_args().print:
        print(text)
    else:
        PAGE.write_text(text)
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
