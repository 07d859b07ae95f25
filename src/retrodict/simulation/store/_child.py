"""One row of a Python simulator, and the process that runs many of them.

    parent                                    child
    sys.path, (function, shapes)        ->    loads them, says "ready"
    [(seed, parameters), ...]           ->
                                        <-    one outcome (status, seconds, error, values) after each row

This file is run as a script and imports nothing but the standard library and NumPy, so that a worker starts in a tenth
of a second: `import retrodict` would bring JAX, which a simulator in NumPy does not need.
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
from queue import SimpleQueue
from typing import Any

import numpy as np


FAILED, TIMED_OUT = 2, 4
LONGEST = 1000  # letters of an error text

Shapes = Mapping[str, tuple[int, ...]] | None  # of the data; None where a trial run is to show them
Outcome = tuple[int, float, str, dict[str, np.ndarray] | None]  # status, 0 if it ended; seconds; error; values


def run_row(function: Callable[..., Any], shapes: Shapes, seed: Any, parameters: Mapping[str, Any]) -> Outcome:
    """Runs one row; whatever the simulator does wrong becomes its outcome."""
    begun, status = time.perf_counter(), FAILED
    try:
        # what a simulator prints is for people: standard output may be somebody's JSON
        with contextlib.redirect_stdout(sys.stderr):
            found = function(np.random.default_rng(seed), **{k: np.asarray(v) for k, v in parameters.items()})
        return 0, time.perf_counter() - begun, "", _checked(found, shapes)
    except TimeoutError as error:
        status, text = TIMED_OUT, str(error) or "the simulator timed out"
    except (Exception, SystemExit) as error:  # a simulator that calls sys.exit has failed, not the campaign
        text = _told(error)
    return status, time.perf_counter() - begun, text[:LONGEST], None


class _Wrong(Exception):
    """What a simulator returned is not what it should be."""


def _told(error: BaseException) -> str:
    if isinstance(error, _Wrong):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (line {where.lineno} of {os.path.basename(where.filename)})"


def _checked(found: Any, shapes: Shapes) -> dict[str, np.ndarray]:
    if not isinstance(found, Mapping):
        raise _Wrong(f"the simulator returned {type(found).__name__}, not a mapping from name to array")
    flat: dict[str, Any] = {}
    for name, value in found.items():
        points = getattr(value, "points", None) if isinstance(value, tuple) else None
        if points is not None:  # a function, retrodict's At
            flat |= {name: value[1], f"{name}.at": points}
        else:
            flat[name] = value
    if shapes is not None and set(flat) != set(shapes):
        raise _Wrong(f"the simulator returned {_names(flat)} instead of {_names(shapes)}")
    values = {}
    for name, value in flat.items():
        try:
            array = np.asarray(value)
        except ValueError as error:  # lists of different lengths
            raise _Wrong(f"'{name}' is no array: {error}") from error
        if array.dtype.kind not in "biuf":
            raise _Wrong(f"'{name}' must be real numbers, and is of the type {array.dtype}")
        if shapes is not None and array.shape != tuple(shapes[name]):
            raise _Wrong(f"'{name}' has the shape {array.shape} instead of {tuple(shapes[name])}")
        values[name] = array.astype(np.float32)
    return values


def _names(of: Any) -> str:
    return ", ".join(f"'{name}'" for name in of) or "nothing"


class _Ended(BaseException):
    """The parent asked for an end: the simulator's own `finally` still runs."""


def _end(number: int, frame: Any) -> None:
    raise _Ended


def main() -> None:
    """Serves rows until the parent closes the pipe, or dies."""
    signal.signal(signal.SIGTERM, _end)
    source, sink = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # also what a program prints that the simulator starts
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
        said = ""
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    threading.Thread(target=listen, daemon=True).start()
    with contextlib.suppress(_Ended, BrokenPipeError):
        outbox.send(said)
        while not said:
            for seed, parameters in messages.get():
                outbox.send(run_row(function, shapes, seed, parameters))


if __name__ == "__main__":
    main()
