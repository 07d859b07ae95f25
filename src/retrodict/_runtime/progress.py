"""Progress: a bar on a terminal, one plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self


EVERY = 15.0  # seconds between two lines, where there is no bar


class Progress:
    """Shows how far a loop is, with a note and the time left; writes to standard error, and nothing if not `shown`."""

    def __init__(self, label: str, total: int, *, shown: bool = True) -> None:
        self.label, self.total = label, total
        self.begun = self.last = time.monotonic()
        self._bar = None
        self.shown = shown
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=total, note="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def at(self, done: int, note: str = "") -> None:
        """Says that `done` of the total is done."""
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if self.shown and (now - self.last >= EVERY or done >= self.total):
            self.last = now
            left = (now - self.begun) / max(done, 1) * (self.total - done)
            print(f"{self.label}: {done}/{self.total}, {note}, {left:.0f} s left", file=sys.stderr, flush=True)
