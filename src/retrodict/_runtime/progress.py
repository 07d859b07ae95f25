"""Progress on standard error: a bar on a terminal, elsewhere a plain line now and then.

Progress is for people: a stream that is closed or broken never ends the work that it would have told about.
"""

import contextlib
import sys
import time
from types import TracebackType
from typing import IO, Any, Self, cast


SECONDS_BETWEEN_LINES = 15.0  # where there is no bar


class Progress:
    """Shows how far a loop is, with a note and the time left.

    Args:
        label: the work, in a word or two.
        total: the number of steps.
        shown: whether anything is written at all.
        delay: seconds before the first sign; work that ends earlier says nothing.
    """

    def __init__(self, label: str, total: int, *, shown: bool = True, delay: float = 0.0) -> None:
        self.label, self.total, self.shown, self.delay = label, total, shown, delay
        self.start = self.last = time.monotonic()
        self._bar: Any = None
        self._stream = _Stream(sys.stderr)
        self._on_terminal = shown and self._stream.isatty()

    def __enter__(self) -> Self:
        if self._on_terminal and not self.delay:
            self._open_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, done: int, note: str = "") -> None:
        """Says that `done` of the total is done."""
        now = time.monotonic()
        if not self.shown or now - self.start < self.delay:
            return
        if self._on_terminal:
            if self._bar is None:
                self._open_bar()
            self._bar.update(self._task, completed=done, note=note)
        elif now - self.last >= SECONDS_BETWEEN_LINES or done >= self.total:
            self.last = now
            remaining = (now - self.start) / max(done, 1) * (self.total - done)
            write_line(f"{self.label}: {done}/{self.total}, {note}, {remaining:.0f} s left")

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(file=cast(IO[str], self._stream)))
        self._task = self._bar.add_task(self.label, total=self.total, note="")
        self._bar.start()


class Throughput:
    """Rows per second and failures, as progress over `total` rows.

    Args:
        progress: where it is shown.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress, self.start = progress, time.monotonic()
        self.done = self.failed = 0

    def add(self, rows: int, failed: int) -> None:
        """Counts rows that ended, and those among them that failed."""
        self.done += rows
        self.failed += failed
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        self.progress.at(self.done, f"{rate:.3g} rows/s, {self.failed} failed")


def write_line(text: str) -> None:
    """Writes a line to standard error, if there is one."""
    stream = _Stream(sys.stderr)
    stream.write(f"{text}\n")
    stream.flush()


class _Stream:
    """A stream that may be closed, broken or None, and then does nothing."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def isatty(self) -> bool:
        return bool(self._call("isatty"))

    def write(self, text: str) -> None:
        self._call("write", text)

    def flush(self) -> None:
        self._call("flush")

    def _call(self, name: str, *arguments: str) -> Any:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # None, broken, closed
            return getattr(self.stream, name)(*arguments)
