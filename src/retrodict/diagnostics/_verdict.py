"""The verdict of a test: a p-value, the rate of false alarms, and how a result is printed."""

from collections.abc import Mapping

from retrodict._errors import DataError
from retrodict._runtime.notebook import html_table


class Verdict:
    """The base of all results: one p-value of everything tested together, and the rate of false alarms `level`.

    A subclass is a dataclass with `repr=False`. It has the fields `p_value` and `level`, and may return more lines for
    its summary from `figures`.
    """

    p_value: float
    level: float

    @property
    def ok(self) -> bool:
        """Whether everything passes together, at a rate `level` of false alarms."""
        return self.p_value > self.level

    def figures(self) -> dict[str, float | str]:
        """Returns the numbers of the summary beside p-value and level, by name."""
        return {}

    def summary(self) -> str:
        """Returns the outcome in one line."""
        line = f"{self._outcome}, p = {self.p_value:.2g} at a level of {self.level:g}"
        figures = ", ".join(f"{name} {_text(value)}" for name, value in self.figures().items())
        return f"{line}; {figures}" if figures else line

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"  # and not hundreds of numbers

    def _repr_html_(self) -> str:
        rows = {"outcome": self._outcome, "p-value": f"{self.p_value:.2g}", "level": f"{self.level:g}"}
        figures = {name: _text(value) for name, value in self.figures().items()}
        return html_table(type(self).__name__, (rows | figures).items())

    @property
    def _outcome(self) -> str:
        return "passed" if self.ok else "FAILED"


def _text(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def lowest(p_values: Mapping[str, float]) -> dict[str, float | str]:
    """Returns the lowest of several p-values as a figure of a summary, with its label."""
    label = min(p_values, key=lambda label: p_values[label])
    return {f"lowest of {len(p_values)} p-values": f"{p_values[label]:.2g} ('{label}')"}


def bonferroni(p_values: Mapping[str, float]) -> float:
    """Returns the p-value of several tests together: the lowest one times their number, at most 1."""
    return min(1.0, len(p_values) * min(p_values.values()))


def checked_level(level: float) -> float:
    """Returns a rate of false alarms as a float.

    Raises:
        DataError: it is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise DataError(f"`level`, the rate of false alarms, must be between 0 and 1, got {level}")
    return float(level)
