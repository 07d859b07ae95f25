"""The text that `print` shows of a model."""

from collections.abc import Iterable, Mapping

from retrodict.models._record import Record
from retrodict.variables import Layout


def rows_about(
    layout: Layout, description: Mapping[str, str], record: Record, *, trained: bool
) -> list[tuple[str, str]]:
    """Returns rows of names and values: variables, parts, training and checks of a model."""
    rows = [("parameters", _shapes(layout, layout.parameters)), ("data", _shapes(layout, layout.data))]
    rows += [(name, value) for name, value in description.items() if name != "kind"]
    rows.append(("trained", record.training_text if record.steps or not trained else "yes"))
    for check in sorted(record.calibrations, key=lambda check: check.ok)[:2]:
        outcome = "passed" if check.ok else "FAILED"
        rows.append(("checked", f"{check.question}: {outcome} (p = {check.p_value:.2g})"))
    return rows


def _shapes(layout: Layout, names: Iterable[str]) -> str:
    def text(name: str) -> str:
        shape, site = layout[name].shape, " per site" if layout[name].plate else ""
        return f"{name} ({', '.join(map(str, shape))}){site}" if shape else f"{name}{site}"

    return ", ".join(map(text, names)) or "none"
