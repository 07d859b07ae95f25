"""The command of the zoo: runs cases, keeps their outcomes as JSON lines, and writes them as a page.

    python -m retrodict_bench.zoo --out runs/zoo.jsonl --part 1/2       half of all cases; a second process has 2/2
    python -m retrodict_bench.zoo --out runs/zoo.jsonl --page docs/zoo.md --only-page

Cases whose outcome is in the file are not run again.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import jax

from retrodict_bench.zoo import CASES, FAILED_VERDICTS, Outcome, run
from retrodict_bench.zoo._page import page


CASES_PER_CACHE = 30


def main() -> int:
    """Runs the command; the status is 1 if a case failed."""
    parser = argparse.ArgumentParser(prog="python -m retrodict_bench.zoo", description=__doc__)
    parser.add_argument("--names", help="cases with commas; by default all")
    parser.add_argument("--kinds", help="kinds with commas; by default all")
    parser.add_argument("--part", default="1/1", help="every k-th case: 1/2 and 2/2 for two processes")
    parser.add_argument("--out", type=Path, help="file of the outcomes, JSON lines; goes on where it stopped")
    parser.add_argument("--page", type=Path, help="file of the table, Markdown")
    parser.add_argument("--before", type=Path, help="outcomes of an earlier version, for one more column of the page")
    parser.add_argument("--only-page", action="store_true", help="run nothing")
    parser.add_argument("--by-defaults", action="store_true", help="the library's networks and steps, not small ones")
    parser.add_argument("--list", action="store_true", help="print the cases and their kinds")
    arguments = parser.parse_args()
    names = _chosen(parser, arguments.names, arguments.kinds)
    if arguments.list:
        sys.stdout.write("".join(f"{CASES[name].kind:16}{name:32}{CASES[name].text}\n" for name in names))
        return 0
    outcomes = {} if arguments.out is None else _read(arguments.out)
    part, parts = map(int, arguments.part.split("/"))
    for name in [] if arguments.only_page else names[part - 1 :: parts]:
        if name not in outcomes:
            outcomes[name] = run(CASES[name], by_defaults=arguments.by_defaults)
            sys.stdout.write(f"{_line(outcomes[name])}\n")
            sys.stdout.flush()
            if arguments.out is not None:
                _append(arguments.out, outcomes[name])
            if len(outcomes) % CASES_PER_CACHE == 0:
                jax.clear_caches()  # compiled code of many cases fills gigabytes
    outcomes = outcomes if arguments.out is None else _read(arguments.out)  # the other process wrote some
    if arguments.page is not None:
        before = {} if arguments.before is None else _read(arguments.before)
        arguments.page.write_text(page({name: outcomes[name] for name in CASES if name in outcomes}, before))
    return int(any(outcomes[name].verdict in FAILED_VERDICTS for name in names if name in outcomes))


def _chosen(parser: argparse.ArgumentParser, names: str | None, kinds: str | None) -> list[str]:
    known = {case.kind for case in CASES.values()}
    chosen, wanted = names.split(",") if names else list(CASES), set(kinds.split(",")) if kinds else known
    for unknown in [name for name in chosen if name not in CASES] + sorted(wanted - known):
        parser.error(f"no case or kind '{unknown}'; --list shows them")
    return [name for name in chosen if CASES[name].kind in wanted]


def _line(outcome: Outcome) -> str:
    numbers = "" if outcome.off is None else f" off {outcome.off:.3g}, ratio {outcome.ratio:.3g}"
    sentences = [*outcome.said, outcome.refused, outcome.error]
    words = " | ".join(text[:200] for text in sentences if text)
    return f"{outcome.verdict:20}{outcome.name:30}{outcome.seconds:5.0f} s{numbers}  {words}"


def _read(file: Path) -> dict[str, Outcome]:
    """Returns the outcomes of a file by name; a line that a kill has cut short is no outcome."""
    outcomes = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            outcome = Outcome(**json.loads(line))
        except json.JSONDecodeError:
            continue
        outcomes[outcome.name] = outcome
    return outcomes


def _append(file: Path, outcome: Outcome) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        handle.write(json.dumps(asdict(outcome)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
