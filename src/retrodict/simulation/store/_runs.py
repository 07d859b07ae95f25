"""Running the batches of a campaign, in JAX or in Python, and writing each as it ends."""

import contextlib
import functools
import os
import queue
import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from retrodict._errors import RetrodictError
from retrodict._runtime.progress import Throughput, write_line
from retrodict.problem._problem import TRIAL_RUNS, Problem
from retrodict.query.functions import joined
from retrodict.simulation._claims import check_first_rows
from retrodict.simulation.rows import ended_well, keys_of, row_of
from retrodict.simulation.store._child import MAX_ERROR_LETTERS, Outcome
from retrodict.simulation.store._store import FAILED, MISSING, NON_FINITE, OK, Writer
from retrodict.simulation.store._workers import MAX_TRIES, Executor, PackedSimulator, Worker


class Signals:
    """A context in which the first Ctrl-C or SIGTERM is noted in `received`, and the next one raises."""

    def __init__(self) -> None:
        self.received = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # only the main thread may set handlers of signals
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.received:
            raise KeyboardInterrupt("stopped at once: the batches at hand are lost, and the others are kept")
        self.received = number
        if sys.__stderr__ is not None:  # else file 2 may be another one by now
            with contextlib.suppress(OSError):
                # past the buffers of Python, which may be in the middle of a line
                os.write(2, b"ending after the batch at hand; once more to end at once\n")

    def end(self, summary: str) -> None:
        """Ends as the signal asked for, now that all is written.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM.
        """
        sentence = f"stopped: {summary}, and the same call goes on with them"
        if self.received == signal.SIGTERM:
            write_line(sentence)  # the exit code takes the place of a message
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(sentence)


@dataclass(frozen=True)
class Campaign:
    """The rows to run and the store to write them to; `missing` is batch to numbers of rows."""

    problem: Problem
    root: jax.Array
    store: Writer
    missing: dict[int, np.ndarray]
    signals: Signals
    throughput: Throughput

    def write(self, k: int, values: dict[str, np.ndarray], codes: np.ndarray) -> None:
        """Writes the missing rows of batch `k`, and counts them; the first rows are checked before.

        Raises:
            DataError: the first rows do not fit the layout.
        """
        if not (self.store.codes != MISSING).any():
            errors = [text for text in values.get("error", ()) if text]
            check_first_rows(self.problem, values, errors)
        self.store.write(k, self.missing[k], values, codes.astype(np.uint8))
        self.throughput.add(len(codes), int((codes != OK).sum()))

    def numbers(self, k: int) -> np.ndarray:
        """The numbers of all rows of batch `k`."""
        return np.arange(k * self.store.batch, (k + 1) * self.store.batch)


class DrawnRows(NamedTuple):
    """The draws of some rows: seeds `(m, words)`, parameters for the simulator, and the values that a store keeps."""

    seeds: Any
    parameters: dict[str, Any]
    record: dict[str, Any]


def run_jax(campaign: Campaign) -> None:
    """Runs whole batches with a compiled program; the next batch is computed while one is written."""
    store = campaign.store
    for start, k, result in _started_batches(campaign):
        errors = None
        try:
            values, seeds = jax.device_get(result())
        except Exception:  # JAX has several kinds: a row raised inside of compiled code, and took its batch along
            values, seeds, errors = _run_singly(campaign, k)
        places = campaign.missing[k] - k * store.batch
        values = {name: value[places] for name, value in values.items()}
        codes = np.where(ended_well(values, store.layout), OK, NON_FINITE)
        seconds = np.full(len(places), (time.perf_counter() - start) / store.batch, np.float32)
        values |= {"seconds": seconds, "seed": seeds[places]}
        if errors is not None:
            codes[errors[places] != ""] = FAILED
            values["error"] = errors[places]
        campaign.write(k, values, codes)


def _started_batches(campaign: Campaign) -> Iterator[tuple[float, int, Callable[[], Any]]]:
    """The time of its start, number and result of each batch; the next batch is started before one is handed out."""
    run, previous = _programs(campaign.problem).run, None
    for k in campaign.missing:
        if campaign.signals.received:
            break
        batch = (time.perf_counter(), k, _started(run, campaign.root, campaign.numbers(k)))
        if previous is not None:
            yield previous
        previous = batch
    if previous is not None:
        yield previous


def _started(run: Any, *arguments: Any) -> Callable[[], Any]:
    """Starts a computation. An error, now or later, is raised when the result is asked for."""
    try:
        result = run(*arguments)
    except jax.errors.JaxRuntimeError as error:
        raised = error

        def fail() -> Any:
            raise raised

        return fail
    return lambda: result


def _run_singly(campaign: Campaign, k: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Runs a batch row after row, to find those that raise; their data are NaN. Returns values, seeds and errors."""
    layout, size, programs = campaign.problem.layout, campaign.store.batch, _programs(campaign.problem)
    numbers = campaign.numbers(k)
    rows: DrawnRows = jax.device_get(programs.draw(campaign.root, numbers))
    errors = np.full(size, "", object)
    data = {v.name: np.full((size, *v.shape), np.nan) for v in layout.variables if v.name not in rows.record}
    for i, number in enumerate(numbers):
        try:
            values = jax.device_get(programs.row(campaign.root, number))
            for name, array in data.items():
                array[i] = values[name]
        except Exception as error:
            lines = str(error).splitlines() or ["no reason given"]  # among them a Python traceback, where there is one
            headlines = (line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line))
            errors[i] = next(headlines, lines[0])[:MAX_ERROR_LETTERS]
    return data | rows.record, rows.seeds, errors


class RowPrograms(NamedTuple):
    """Compiled functions of the campaign's key and numbers of rows."""

    run: Any  # many rows and their seeds
    row: Any  # a single row
    draw: Any  # the draws of many rows


@functools.lru_cache(maxsize=8)  # a campaign that is topped up does not compile again
def _programs(problem: Problem) -> RowPrograms:
    row, prior = row_of(problem), problem.prior

    def seeded(root: jax.Array, number: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        return row(root, number), jax.random.key_data(keys_of(root, number)[1])

    def draw(root: jax.Array, number: jax.Array) -> DrawnRows:
        key_prior, key_run = keys_of(root, number)
        parameters = prior.draw(key_prior)
        return DrawnRows(jax.random.key_data(key_run), parameters, prior.recorded(key_prior, parameters))

    axes = (None, 0)
    return RowPrograms(jax.jit(jax.vmap(seeded, axes)), jax.jit(row), jax.jit(jax.vmap(draw, axes)))


def trial_elsewhere(problem: Problem, simulator: PackedSimulator) -> None:
    """Makes the trial run that shows the data in a process of its own, as it may hang or die.

    Raises:
        RetrodictError: no trial run ended well.
    """
    worker = Worker(simulator)

    def run(key: jax.Array, **parameters: Any) -> Mapping[str, Any]:
        seed = np.asarray(jax.random.key_data(key))
        _, _, text, values = worker.run([(seed, jax.device_get(parameters))])[0]
        if values is None:
            raise RetrodictError(f"none of {TRIAL_RUNS} trial runs of the simulator ended well; the last: {text}")
        return joined(values)

    try:
        problem.find_layout(run)
    finally:
        worker.close()


def run_python(campaign: Campaign, executor: Executor) -> None:
    """Hands batches to the executor, and writes each as it comes back, in any order.

    Raises:
        RetrodictError: the executor cannot run batches at all.
    """
    draw, size, signals = _programs(campaign.problem).draw, campaign.store.batch, campaign.signals
    finished: queue.SimpleQueue[tuple[int, Future[list[Outcome]]]] = queue.SimpleQueue()
    waiting, tries = deque(campaign.missing), Counter[int]()
    running: dict[int, tuple[DrawnRows, Future[list[Outcome]]]] = {}

    def submit(k: int) -> None:
        # all rows of a batch are drawn, so that all batches share a compiled program
        batch, places = jax.device_get(draw(campaign.root, campaign.numbers(k))), campaign.missing[k] - k * size
        rows = DrawnRows(*jax.tree.map(lambda array: array[places], tuple(batch)))
        future = executor.submit(
            [(seed, {name: v[i] for name, v in rows.parameters.items()}) for i, seed in enumerate(rows.seeds)]
        )
        running[k] = rows, future
        future.add_done_callback(lambda done: finished.put((k, done)))

    try:
        while running or (waiting and not signals.received):
            while waiting and len(running) < executor.window and not signals.received:
                submit(waiting.popleft())
            if signals.received:  # batches that run may end; those that wait do not begin
                running = {k: (rows, future) for k, (rows, future) in running.items() if not future.cancel()}
            try:
                k, future = finished.get(timeout=0.2)
            except queue.Empty:
                continue
            if k not in running or running[k][1] is not future:
                continue
            rows, _ = running.pop(k)
            tries[k] += 1
            outcomes = _outcomes(future, len(rows.seeds), last=tries[k] == MAX_TRIES)
            if outcomes is None:
                waiting.appendleft(k)
            else:
                campaign.write(k, *_gathered(campaign, rows, outcomes))
    except BrokenExecutor as error:
        raise RetrodictError(
            f"the executor is broken ({error}); the rows so far are kept: go on with a new executor"
        ) from error
    finally:
        executor.close()


def _outcomes(future: "Future[list[Outcome]]", rows: int, *, last: bool) -> list[Outcome] | None:
    """The outcomes of a batch, or None if it is to be tried again because its worker died."""
    try:
        return future.result()
    except BrokenExecutor:
        raise
    except Exception as error:
        if not last:
            return None
        cause = f"{type(error).__name__}: {error}"
        if type(error).__name__ == "KilledWorker":  # Dask's, when a task ended one worker after the other
            text = f"the worker died with this batch, {MAX_TRIES} times ({cause})"
            return [(FAILED, 0.0, text[:MAX_ERROR_LETTERS], None)] * rows
        raise RetrodictError(f"the executor cannot run a batch, {MAX_TRIES} times: {cause}") from error


def _gathered(campaign: Campaign, rows: DrawnRows, outcomes: list[Outcome]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The rows of a batch as arrays, and their statuses."""
    layout, m = campaign.problem.layout, len(outcomes)
    kinds = {v.name: campaign.store.kind(v.name) for v in layout.variables}
    values = {v.name: np.full((m, *v.shape), np.nan, kinds[v.name]) for v in layout.variables}
    values |= {name: np.asarray(value, kinds[name]) for name, value in rows.record.items()}
    codes = np.zeros(m, np.uint8)
    for i, (code, _, _, data) in enumerate(outcomes):
        codes[i] = code
        for name, value in (data or {}).items():
            values[name][i] = value
    codes = np.where(codes, codes, np.where(ended_well(values, layout), OK, NON_FINITE))
    values |= {"seconds": np.asarray([seconds for _, seconds, _, _ in outcomes], np.float32), "seed": rows.seeds}
    if any(text for _, _, text, _ in outcomes):
        values["error"] = np.asarray([text for _, _, text, _ in outcomes], object)
    return values, codes
