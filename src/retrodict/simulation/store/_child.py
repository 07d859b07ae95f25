"""A row of a Python simulator, and the process that runs many of them.

    parent                                    child
    sys.path, (function, shapes)        ->    loads them, says "" when it is ready, else what went wrong
    [(seed, parameters), ...]           ->
                                        <-    an outcome (status, seconds, error, values) after each row

This file is run as a script and imports nothing but the standard library, NumPy and `real_arrays`, so that a worker
starts in a tenth of a second: `import retrodict` would bring JAX, which a simulator in NumPy does not need.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np


if __name__ == "__main__":  # beside no package: the file that says what numbers are lies two folders up
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "_runtime"))
    from real_arrays import NotNumbersError, real_array  # type: ignore[import-not-found]
else:
    from retrodict._runtime.real_arrays import NotNumbersError, real_array

FAILED, TIMED_OUT = 2, 4
MAX_ERROR_LETTERS = 1000

Shapes = Mapping[str, tuple[int, ...]] | None  # of the data; None in a trial run, which is to show them
Outcome = tuple[int, float, str, dict[str, np.ndarray] | None]  # status, 0 if it ended; seconds; error; values


def run_row(function: Callable[..., Any], shapes: Shapes, seed: Any, parameters: Mapping[str, Any]) -> Outcome:
    """Runs a row; whatever the simulator does wrong becomes the outcome."""
    start, status = time.perf_counter(), FAILED
    try:
        # a simulator's prints are for people: standard output may be the JSON of a command
        with contextlib.redirect_stdout(sys.stderr):
            numbers = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
            data = function(np.random.default_rng(seed), **numbers)
        return 0, time.perf_counter() - start, "", _checked(data, shapes)
    except TimeoutError as error:
        status, text = TIMED_OUT, str(error) or "the simulator timed out"
    except (Exception, SystemExit) as error:  # a simulator that calls sys.exit has failed, not the campaign
        text = _error_text(error)
    return status, time.perf_counter() - start, text[:MAX_ERROR_LETTERS], None


class _InvalidDataError(Exception):
    """A simulator returned no mapping from the right names to arrays of the right shapes."""


def _error_text(error: BaseException) -> str:
    if isinstance(error, _InvalidDataError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (line {frame.lineno} of {os.path.basename(frame.filename)})"


def _checked(data: Any, shapes: Shapes) -> dict[str, np.ndarray]:
    """The data as arrays of numbers; a function, retrodict's `At`, as values and points."""
    if not isinstance(data, Mapping):
        raise _InvalidDataError(f"the simulator returned {type(data).__name__}, not a mapping from name to array")
    flat: dict[str, Any] = {}
    for name, value in data.items():
        points = getattr(value, "points", None) if isinstance(value, tuple) else None
        flat |= {name: value} if points is None else {name: value[1], f"{name}.at": points}
    if shapes is not None and set(flat) != set(shapes):
        raise _InvalidDataError(f"the simulator returned {_listed(flat)} instead of {_listed(shapes)}")
    return {name: _as_array(name, value, shapes and tuple(shapes[name])) for name, value in flat.items()}


def _as_array(name: str, value: Any, shape: Any) -> np.ndarray:
    """The value as an array of numbers of the shape, or of any shape if that is None."""
    try:
        array = real_array(value, integers=True)
    except NotNumbersError as error:
        raise _InvalidDataError(f"'{name}' {error}") from error
    if shape is not None and array.shape != shape:
        raise _InvalidDataError(f"'{name}' has the shape {array.shape} instead of {shape}")
    return array


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"


class _StopRequest(BaseException):
    """The parent asked for an end: the simulator's own `finally` still runs."""


def _stop(number: int, frame: Any) -> None:
    raise _StopRequest


def main() -> None:
    """Serves rows until the parent closes the pipe, or dies."""
    signal.signal(signal.SIGTERM, _stop)
    source, sink = os.dup(0), os.dup(1)
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    os.dup2(2, 1)  # also for prints of programs that the simulator starts
    inbox, outbox = Connection(source, writable=False), Connection(sink, readable=False)
    messages: SimpleQueue[Any] = SimpleQueue()
    try:
        sys.path[:] = inbox.recv()
    except EOFError:
        return  # the parent was killed before it had said anything

    def listen() -> None:
        try:
            while True:
                messages.put(inbox.recv())
        except (EOFError, OSError):
            os._exit(1)  # nobody waits for the row at hand any more

    try:
        from cloudpickle import loads  # functions of a script or a notebook travel as code

        function, shapes = loads(inbox.recv_bytes())
        problem = ""
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    threading.Thread(target=listen, daemon=True).start()
    with contextlib.suppress(_StopRequest, BrokenPipeError):
        outbox.send(problem)
        while not problem:
            for seed, parameters in messages.get():
                outbox.send(run_row(function, shapes, seed, parameters))


if __name__ == "__main__":
    main()
