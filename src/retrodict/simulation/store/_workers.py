"""Who runs the rows of a Python simulator: this process, processes of its own, or an executor that somebody hands over.

All of them are asked in one way, `submit(rows) -> Future` of one outcome per row, and a row's outcome does not depend
on who ran it. A time limit always means a process that can be killed: on the far side of an executor, too.

A process that dies costs the row at hand, which is tried `TRIES` times in all; a row that outlives its time limit costs
its process, which is replaced.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retrodict._errors import DataError
from retrodict.problem import _command_simulator as command
from retrodict.simulation.store import _child
from retrodict.simulation.store._child import FAILED, TIMED_OUT, Outcome


TRIES = 3
GRACE = 2.0  # seconds that a process gets to clean up before it is killed
START = 300.0  # seconds in which a process must have loaded the simulator

Rows = Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]]  # seed and parameters of each


@dataclass(frozen=True)
class Job:
    """The simulator as bytes, and seconds that a row may take."""

    code: bytes
    timeout: float | None

    @classmethod
    def of(cls, function: Callable[..., Any], shapes: _child.Shapes, timeout: float | None) -> "Job":
        import cloudpickle

        # by value, so that a worker that runs programs need not import retrodict
        cloudpickle.register_pickle_by_value(command)
        try:
            return cls(cloudpickle.dumps((function, shapes)), timeout)
        except Exception as error:
            raise DataError(f"the simulator cannot be sent to another process: {error}") from error
        finally:
            cloudpickle.unregister_pickle_by_value(command)


class Crew(Protocol):
    """Somebody who runs batches of rows."""

    window: int

    def submit(self, rows: Rows) -> "Future[list[Outcome]]":
        """The outcomes of some rows, later."""

    def close(self) -> None:
        """Ends what runs, at once."""


class Here:
    """Rows in this process, one after the other."""

    window = 1

    def __init__(self, function: Callable[..., Any], shapes: _child.Shapes) -> None:
        self.function, self.shapes = function, shapes

    def submit(self, rows: Rows) -> "Future[list[Outcome]]":
        future: Future[list[Outcome]] = Future()
        future.set_result([_child.run_row(self.function, self.shapes, *row) for row in rows])
        return future

    def close(self) -> None:
        """Nothing runs once `submit` has returned."""


class Processes:
    """Some processes on this machine, each driven by a thread."""

    def __init__(self, job: Job, count: int) -> None:
        self.job, self.window = job, count + 1  # one batch waits, so that nobody else does
        self._threads = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._all: list[Worker] = []

    def submit(self, rows: Rows) -> "Future[list[Outcome]]":
        return self._threads.submit(self._run, rows)

    def close(self) -> None:
        for worker in self._all:
            worker.close()
        self._threads.shutdown(cancel_futures=True)

    def _run(self, rows: Rows) -> list[Outcome]:
        if not hasattr(self._own, "worker"):
            self._own.worker = Worker(self.job)
            self._all.append(self._own.worker)
        return self._own.worker.run(rows)


class Elsewhere:
    """An executor with the interface of `concurrent.futures`."""

    window = 256

    def __init__(self, job: Job, executor: Any) -> None:
        self.job, self.executor = job, executor

    def submit(self, rows: Rows) -> "Future[list[Outcome]]":
        return self.executor.submit(run_rows, self.job, list(rows))

    def close(self) -> None:
        """Whoever made the executor closes it."""


def run_rows(job: Job, rows: Rows) -> list[Outcome]:
    """The outcomes of some rows, on the far side of an executor."""
    if job.timeout is not None:
        worker = Worker(job)
        try:
            return worker.run(rows)
        finally:
            worker.close()
    from cloudpickle import loads

    function, shapes = loads(job.code)
    return [_child.run_row(function, shapes, *row) for row in rows]


def who(executor: Any, timeout: float | None) -> Any:
    """What `executor` stands for: None, this process; a whole number of processes, of which a time limit needs one; or
    something with the interface of `concurrent.futures`.

    Raises:
        DataError: it is none of these, or the time limit is not positive.
    """
    if timeout is not None and not timeout > 0:
        raise DataError(f"`timeout` is the seconds that a row may take, more than 0, got {timeout!r}")
    if executor is None:
        return None if timeout is None else 1
    if isinstance(executor, int | np.integer) and not isinstance(executor, bool) and executor > 0:
        return int(executor)
    if hasattr(executor, "get_executor"):  # a client of Dask; its own `submit` keeps results by what was asked
        executor = executor.get_executor(pure=False)
    if not hasattr(executor, "submit"):
        raise DataError(
            "`executor` is None, a positive whole number of processes, a dask.distributed.Client, or anything with "
            f"`submit` as in concurrent.futures, got {executor!r}"
        )
    return executor


def crew_of(executor: Any, function: Callable[..., Any], shapes: _child.Shapes, timeout: float | None) -> Crew:
    """Those who run rows; `executor` is what `who` found."""
    if executor is None:
        return Here(function, shapes)
    job = Job.of(function, shapes, timeout)
    return Processes(job, executor) if isinstance(executor, int) else Elsewhere(job, executor)


class Worker:
    """One process that runs rows; it is started when there are some, and again when it has died."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.closed = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, rows: Rows) -> list[Outcome]:
        """One outcome per row.

        Raises:
            RuntimeError: the process cannot be started, or was closed.
        """
        found: list[Outcome] = []
        deaths = 0
        sent = False
        while len(found) < len(rows):
            if self._process is None:
                self._start()
                sent = False
            try:
                if not sent:
                    self._inbox.send(list(rows[len(found) :]))
                    sent = True
                if self._outbox.poll(self.job.timeout):
                    found.append(self._outbox.recv())
                    deaths = 0
                    continue
                self._stop()
                found.append((TIMED_OUT, float(self.job.timeout or 0), f"no end within {self.job.timeout} s", None))
            except (EOFError, OSError):
                code = self._stop()
                deaths += 1
                if self.closed:
                    raise RuntimeError("the worker was closed") from None
                if deaths == TRIES:
                    why = f"signal {-code}" if code < 0 else f"exit code {code}"
                    found.append((FAILED, 0.0, f"the process died {TRIES} times at this row ({why})", None))
                    deaths = 0
        return found

    def close(self) -> None:
        """Ends the process at once, whatever it does."""
        self.closed = True
        if self._process is not None:
            _kill(self._process)

    def _start(self) -> None:
        if self.closed:
            raise RuntimeError("the worker was closed")
        # one core each: as many threads of linear algebra as there are cores would slow all workers down
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(_child.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which lets the batch at hand end
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._inbox = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self._outbox = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._inbox.send(sys.path)
            self._inbox.send_bytes(self.job.code)
            said = self._outbox.recv() if self._outbox.poll(START) else f"not ready within {START:.0f} s"
        except (EOFError, OSError):
            said = "it died at its start"
        if said:
            self._stop()
            raise RuntimeError(f"a worker process could not load the simulator: {said}")

    def _stop(self) -> int:
        assert self._process is not None
        code = _kill(self._process)
        self._inbox.close()
        self._outbox.close()
        self._process = None
        return code


def _kill(process: "subprocess.Popen[bytes]") -> int:
    """Ends a process and what it started; returns its exit code, or minus the signal that had ended it before."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)  # so that a program that it waits for is ended, too
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
