"""The history of a training run: its losses, the step whose weights were kept, and why it ended."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from retrodict._runtime.notebook import html_table


REASONS = {"finished": "all steps taken", "no progress": "stopped early", "interrupted": "interrupted by Ctrl-C"}


@dataclasses.dataclass(frozen=True, repr=False)
class History:
    """The losses of a training run, a number for every chunk of steps, and how it ended.

    Attributes:
        step: the gradient steps done at the end of each chunk.
        train: the mean training loss of each chunk.
        validation: the validation loss of the averaged weights after each chunk.
        best_step: the step whose weights were kept.
        seconds: the wall-clock time.
        ended: "finished", "no progress" (early stopping) or "interrupted" (Ctrl-C).
        before: the histories of the models that were trained first, by name.
    """

    step: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    best_step: int
    seconds: float
    ended: str
    before: Mapping[str, "History"] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> float:
        """The lowest validation loss."""
        return float(self.validation.min())

    def summary(self) -> str:
        """Returns the outcome in a few lines of text, as `print` shows it."""
        return "\n".join(f"{name:<16}{value}" for name, value in self._rows())

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"History({int(self.step[-1])} steps, best={self.best:.4f}, ended={self.ended!r})"

    def _repr_html_(self) -> str:
        return html_table("Training history", self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        rows = [
            ("steps", f"{self.step[-1]:,} ({REASONS.get(self.ended, self.ended)})"),
            ("validation loss", f"{self.best:.4f} at step {self.step[self.validation.argmin()]:,}, the lowest"),
            ("training loss", f"{self.train[-1]:.4f} in the last steps"),
            ("weights kept", f"those of step {self.best_step:,}"),
            ("time", f"{self.seconds:.0f} s"),
        ]
        if self.before:
            runs = (f"{name} ({int(run.step[-1]):,} steps, loss {run.best:.4f})" for name, run in self.before.items())
            rows.append(("trained before", ", ".join(runs)))
        return rows
