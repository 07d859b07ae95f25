"""Executors of rows of a Python simulator: this process, processes of our own, or an executor that a user hands over.

All have the method `submit(rows) -> Future` of an outcome per row, and a row's outcome does not depend on the executor.
A time limit always means a process that can be killed: on the far side of an executor, too.

A process that dies costs the row at hand, which is tried `MAX_TRIES` times in all; a row that outlives its time limit
costs its process, which is replaced.
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
from retrodict._types import is_count
from retrodict.problem import _command_simulator
from retrodict.simulation.store import _child
from retrodict.simulation.store._child import FAILED, TIMED_OUT, Outcome


MAX_TRIES = 3
SECONDS_TO_CLEAN_UP = 2.0  # that a process gets before it is killed
SECONDS_TO_START = 300.0  # in which a process must have loaded the simulator

SeededRows = Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]]  # seed and parameters of each


@dataclass(frozen=True)
class PackedSimulator:
    """A simulator as bytes, and the seconds that a row may take."""

    code: bytes
    timeout: float | None

    @classmethod
    def of(cls, function: Callable[..., Any], shapes: _child.Shapes, timeout: float | None) -> "PackedSimulator":
        """Packs a function and the shapes of its data.

        Raises:
            DataError: the function cannot be sent to another process.
        """
        import cloudpickle

        # by value, so that a worker that runs programs need not import retrodict
        cloudpickle.register_pickle_by_value(_command_simulator)
        try:
            return cls(cloudpickle.dumps((function, shapes)), timeout)
        except Exception as error:
            raise DataError(f"the simulator cannot be sent to another process: {error}") from error
        finally:
            cloudpickle.unregister_pickle_by_value(_command_simulator)


class Executor(Protocol):
    """A runner of batches of rows; `window` is how many batches it should be given at once."""

    window: int

    def submit(self, rows: SeededRows) -> "Future[list[Outcome]]":
        """Starts some rows; the future holds their outcomes."""

    def close(self) -> None:
        """Ends all that runs, at once."""


class InProcess:
    """Runs rows in this process, one after the other."""

    window = 1

    def __init__(self, function: Callable[..., Any], shapes: _child.Shapes) -> None:
        self.function, self.shapes = function, shapes

    def submit(self, rows: SeededRows) -> "Future[list[Outcome]]":
        future: Future[list[Outcome]] = Future()
        future.set_result([_child.run_row(self.function, self.shapes, *row) for row in rows])
        return future

    def close(self) -> None:
        """Does nothing: nothing runs once `submit` has returned."""


class ProcessPool:
    """Runs rows in processes on this machine, each driven by a thread."""

    def __init__(self, simulator: PackedSimulator, count: int) -> None:
        self.simulator, self.window = simulator, count + 1  # a batch waits, so that no process does
        self._threads = ThreadPoolExecutor(count)
        self._local = threading.local()
        self._workers: list[Worker] = []

    def submit(self, rows: SeededRows) -> "Future[list[Outcome]]":
        return self._threads.submit(self._run, rows)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(cancel_futures=True)

    def _run(self, rows: SeededRows) -> list[Outcome]:
        if not hasattr(self._local, "worker"):
            self._local.worker = Worker(self.simulator)
            self._workers.append(self._local.worker)
        return self._local.worker.run(rows)


class ExternalExecutor:
    """Runs rows on a user's executor with the interface of `concurrent.futures`."""

    window = 256

    def __init__(self, simulator: PackedSimulator, executor: Any) -> None:
        self.simulator, self.executor = simulator, executor

    def submit(self, rows: SeededRows) -> "Future[list[Outcome]]":
        return self.executor.submit(run_rows, self.simulator, list(rows))

    def close(self) -> None:
        """Does nothing: the user made the executor and closes it."""


def run_rows(simulator: PackedSimulator, rows: SeededRows) -> list[Outcome]:
    """Runs some rows, on the far side of an executor."""
    if simulator.timeout is not None:
        worker = Worker(simulator)
        try:
            return worker.run(rows)
        finally:
            worker.close()
    from cloudpickle import loads

    function, shapes = loads(simulator.code)
    return [_child.run_row(function, shapes, *row) for row in rows]


def checked_executor(executor: Any, timeout: float | None) -> Any:
    """The user's `executor` in one of three forms.

    These are None for this process, a whole number of processes (a time limit needs one), or an object with the
    interface of `concurrent.futures`.

    Raises:
        DataError: it is none of these, or the time limit is not positive.
    """
    if timeout is not None and not timeout > 0:
        raise DataError(f"`timeout` is the seconds that a row may take, more than 0, got {timeout!r}")
    if executor is None:
        return None if timeout is None else 1
    if is_count(executor):
        return int(executor)
    if hasattr(executor, "get_executor"):  # a client of Dask; its own `submit` would reuse results of equal calls
        executor = executor.get_executor(pure=False)
    if not hasattr(executor, "submit"):
        raise DataError(
            "`executor` is None, a positive whole number of processes, a dask.distributed.Client, or anything with "
            f"`submit` as in concurrent.futures, got {executor!r}"
        )
    return executor


def resolve_executor(
    executor: Any, function: Callable[..., Any], shapes: _child.Shapes, timeout: float | None
) -> Executor:
    """The runner of rows for an `executor` in a form of `checked_executor`."""
    if executor is None:
        return InProcess(function, shapes)
    simulator = PackedSimulator.of(function, shapes, timeout)
    return ProcessPool(simulator, executor) if isinstance(executor, int) else ExternalExecutor(simulator, executor)


class Worker:
    """A process that runs rows; it is started when there are some, and again when it has died."""

    def __init__(self, simulator: PackedSimulator) -> None:
        self.simulator = simulator
        self.closed = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, rows: SeededRows) -> list[Outcome]:
        """Returns an outcome per row.

        Raises:
            RuntimeError: the process cannot be started, or was closed.
        """
        outcomes: list[Outcome] = []
        timeout, deaths, sent = self.simulator.timeout, 0, False
        while len(outcomes) < len(rows):
            if self._process is None:
                self._start()
                sent = False
            try:
                if not sent:
                    self._inbox.send(list(rows[len(outcomes) :]))
                    sent = True
                if self._outbox.poll(timeout):
                    outcomes.append(self._outbox.recv())
                    deaths = 0
                    continue
                self._stop()
                outcomes.append((TIMED_OUT, float(timeout or 0), f"no end within {timeout} s", None))
            except (EOFError, OSError):
                code = self._stop()
                deaths += 1
                if self.closed:
                    raise RuntimeError("the worker was closed") from None
                if deaths == MAX_TRIES:
                    reason = f"signal {-code}" if code < 0 else f"exit code {code}"
                    text = f"the process died {MAX_TRIES} times at this row ({reason})"
                    outcomes.append((FAILED, 0.0, text, None))
                    deaths = 0
        return outcomes

    def close(self) -> None:
        """Ends the process at once, whatever it does."""
        self.closed = True
        if self._process is not None:
            _kill(self._process)

    def _start(self) -> None:
        """Starts the process and sends it the simulator.

        Raises:
            RuntimeError: the worker was closed, or the process cannot load the simulator.
        """
        if self.closed:
            raise RuntimeError("the worker was closed")
        # a core each: as many threads of linear algebra as there are cores would slow all workers down
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(_child.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if sys.__stderr__ is None else None,  # None: this process was started without
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
            self._inbox.send_bytes(self.simulator.code)
            ready = self._outbox.poll(SECONDS_TO_START)
            problem = self._outbox.recv() if ready else f"not ready within {SECONDS_TO_START:.0f} s"
        except (EOFError, OSError):
            problem = "it died at its start"
        if problem:
            self._stop()
            raise RuntimeError(f"a worker process could not load the simulator: {problem}")

    def _stop(self) -> int:
        """Ends the process; returns its exit code as `_kill` does."""
        assert self._process is not None
        code = _kill(self._process)
        self._inbox.close()
        self._outbox.close()
        self._process = None
        return code


def _kill(process: "subprocess.Popen[bytes]") -> int:
    """Ends a process and its children; returns its exit code, or minus the signal that had ended it before."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)  # lets it end a program that it waits for
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(SECONDS_TO_CLEAN_UP)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
