"""The zoo's outcomes as a page in Markdown."""

from collections import Counter
from collections.abc import Mapping

from retrodict_bench.zoo._run import FAILED_VERDICTS, MAX_OFF, MAX_OUTSIDE, MAX_RATIO, MIN_RATIO, Outcome


MAX_LETTERS = 160  # of a sentence in the table
HEAD = f"""# The zoo of ordinary data

Small problems of ordinary data whose posteriors are known exactly: {{count}} cases. Each is learned from 10,000
simulations (fewer where the case says so) by the library's defaults, with small networks and few steps so that a case
takes seconds. *Off* is the error of posterior means in exact sds, root mean square over observations and parameters.
*Ratio* is the posterior sd over the exact one, of the parameter where it is farthest from one. An answer is **right**
if off is at most {MAX_OFF:g}, the ratio is between {MIN_RATIO:g} and {MAX_RATIO:g}, and at most {MAX_OUTSIDE:.0%} of
draws lie outside the support. What cannot be right must be said, with the name of a variable: **warned** or
**refused**. Plain problems must come without a warning: **silent**. Words in capitals are failures.

```sh
python -m retrodict_bench.zoo --out runs/zoo.jsonl --page runs/zoo.md
```

`--names` and `--kinds` choose cases, `--part 1/2` and `--part 2/2` share them between two processes, and a file of
outcomes goes on where it stopped. `--by-defaults` takes the library's networks and steps.

"""


def page(outcomes: Mapping[str, Outcome], before: Mapping[str, Outcome] | None = None) -> str:
    """Returns the page; with `before` a column has the outcomes of an earlier version."""
    before = before or {}
    verdicts = Counter(outcome.verdict for outcome in outcomes.values())
    summary = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
    spoken = sum(outcome.verdict == "right" and bool(outcome.said) for outcome in outcomes.values())
    columns = ["case", "problem", *(["before"] if before else []), "off", "ratio", "verdict", "what was said"]
    text = [
        HEAD.format(count=len(outcomes)),
        f"In sum: {summary}. Of the right answers {spoken} came with a sentence.\n",
    ]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes.values()):
        rows = [_row(o, before) for o in outcomes.values() if o.kind == kind]
        lines = ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
        text.append(f"## {kind.capitalize()}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(text)


def _row(outcome: Outcome, before: Mapping[str, Outcome]) -> list[str]:
    earlier = [_brief(before[outcome.name]) if outcome.name in before else ""] if before else []
    verdict = f"**{outcome.verdict}**" if outcome.verdict in FAILED_VERDICTS else outcome.verdict
    density = f"log_prob is not finite at {outcome.infinite:.0%} of draws" if outcome.infinite else ""
    outside = f"{outcome.outside:.0%} of draws outside the support" if outcome.outside > MAX_OUTSIDE else ""
    sentences = [text for text in (*outcome.said, outcome.refused, outcome.error, density, outside) if text]
    return [
        outcome.name,
        _cell(outcome.text),
        *earlier,
        _number(outcome.off),
        _number(outcome.ratio),
        verdict,
        _cell("; ".join(map(_shortened, sentences))),
    ]


def _brief(outcome: Outcome) -> str:
    numbers = "" if outcome.off is None else f": {_number(outcome.off)}, {_number(outcome.ratio)}"
    return f"{outcome.verdict.lower()}{numbers}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if 0.005 <= abs(value) < 100 else f"{value:.1e}" if value else "0"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 3]}..."
