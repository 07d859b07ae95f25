"""Running the batches of a campaign, in JAX or in Python, and writing each as it ends."""

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
from retrodict._runtime.progress import Progress
from retrodict.problem._problem import TRIALS, Problem
from retrodict.query.functions import joined
from retrodict.simulation.rows import ended_well, keys_of, row_of
from retrodict.simulation.store._child import Outcome
from retrodict.simulation.store._store import FAILED, NON_FINITE, OK, Writer
from retrodict.simulation.store._workers import TRIES, Crew, Job, Worker


class Track:
    """Rows per second and failures, as progress."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.begun = bar, time.monotonic()
        self.done = self.bad = 0

    def wrote(self, codes: np.ndarray) -> None:
        """Counts the rows of one batch."""
        self.done += len(codes)
        self.bad += int((codes != OK).sum())
        rate = self.done / max(time.monotonic() - self.begun, 1e-9)
        self.bar.at(self.done, f"{rate:.3g} rows/s, {self.bad} failed")


class Signals:
    """While it is entered, the first Ctrl-C or SIGTERM is noted in `came`, and the next one raises."""

    def __init__(self) -> None:
        self.came = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # only the main thread may say what a signal does
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.came:
            raise KeyboardInterrupt("stopped at once: the batches at hand are lost, and the others are kept")
        self.came = number
        # past the buffers of Python, which may be in the middle of a line
        os.write(2, b"ending after the batch at hand; once more to end at once\n")

    def end(self, told: str) -> None:
        """Ends as the signal asked for, now that all is written.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM.
        """
        sentence = f"stopped: {told}, and the same call goes on with them"
        if self.came == signal.SIGTERM:
            sys.stderr.write(f"{sentence}\n")  # the exit code takes the place of a message
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(sentence)


@dataclass(frozen=True)
class Work:
    """What is to be run and where it is written; `missing` is batch to numbers of rows."""

    problem: Problem
    root: jax.Array
    store: Writer
    missing: dict[int, np.ndarray]
    signals: Signals
    track: Track

    def write(self, k: int, values: dict[str, np.ndarray], codes: np.ndarray) -> None:
        self.store.write(k, self.missing[k], values, codes.astype(np.uint8))
        self.track.wrote(codes)


class Drawn(NamedTuple):
    """Of some rows the seeds `(m, words)`, the parameters for the simulator, and what the store keeps of them."""

    seeds: Any
    parameters: dict[str, Any]
    kept: dict[str, Any]


def run_jax(work: Work) -> None:
    """Runs whole batches with one compiled program; the next one is computed while one is written."""
    store = work.store
    for begun, k, found in _ahead(work):
        errors = None
        try:
            values, seeds = jax.device_get(found())
        except Exception:  # JAX has several kinds: a row raised inside of compiled code, and took its batch along
            values, seeds, errors = _one_by_one(work, k)
        here = work.missing[k] - k * store.batch
        values = {name: value[here] for name, value in values.items()}
        codes = np.where(ended_well(values, store.layout), OK, NON_FINITE)
        seconds = np.full(len(here), (time.perf_counter() - begun) / store.batch, np.float32)
        values |= {"seconds": seconds, "seed": seeds[here]}
        if errors is not None:
            codes[errors[here] != ""] = FAILED
            values["error"] = errors[here]
        work.write(k, values, codes)


def _ahead(work: Work) -> Iterator[tuple[float, int, Callable[[], Any]]]:
    run, size, waiting = _programs(work.problem).run, work.store.batch, None
    for k in work.missing:
        if work.signals.came:
            break
        begun = (time.perf_counter(), k, _begun(run, work.root, np.arange(k * size, (k + 1) * size)))
        if waiting is not None:
            yield waiting
        waiting = begun
    if waiting is not None:
        yield waiting


def _begun(run: Any, *what: Any) -> Callable[[], Any]:
    """Starts a computation; what it raises, now or when it is asked for, is raised when it is asked for."""
    try:
        found = run(*what)
    except jax.errors.JaxRuntimeError as error:
        raised = error

        def fail() -> Any:
            raise raised

        return fail
    return lambda: found


def _one_by_one(work: Work, k: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """A batch row after row, so that those that raise are known; what these leave is NaN."""
    layout, size, programs = work.problem.layout, work.store.batch, _programs(work.problem)
    numbers = np.arange(k * size, (k + 1) * size)
    drawn: Drawn = jax.device_get(programs.draw(work.root, numbers))
    errors = np.full(size, "", object)
    data = {v.name: np.full((size, *v.shape), np.nan) for v in layout.variables if v.name not in drawn.kept}
    for i, number in enumerate(numbers):
        try:
            found = jax.device_get(programs.row(work.root, number))
            for name, array in data.items():
                array[i] = found[name]
        except Exception as error:
            lines = str(error).splitlines() or ["no reason given"]  # among them a Python traceback, where there is one
            errors[i] = next((line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)), lines[0])[:1000]
    return data | drawn.kept, drawn.seeds, errors


class Programs(NamedTuple):
    """Compiled functions of a problem, from the campaign's key and numbers of rows."""

    run: Any  # many rows and their seeds
    row: Any  # one row
    draw: Any  # of many rows what is drawn of them


@functools.lru_cache(maxsize=8)  # a campaign that is topped up does not compile again
def _programs(problem: Problem) -> Programs:
    row, prior = row_of(problem), problem.prior

    def seeded(root: jax.Array, number: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        return row(root, number), jax.random.key_data(keys_of(root, number)[1])

    def draw(root: jax.Array, number: jax.Array) -> Drawn:
        key_prior, key_run = keys_of(root, number)
        parameters = prior.draw(key_prior)
        return Drawn(jax.random.key_data(key_run), parameters, prior.recorded(key_prior, parameters))

    many = (None, 0)
    return Programs(jax.jit(jax.vmap(seeded, many)), jax.jit(row), jax.jit(jax.vmap(draw, many)))


def try_apart(problem: Problem, job: Job) -> None:
    """Makes the trial run that shows what the data are in a process of its own, as it may hang or die.

    Raises:
        RetrodictError: no trial run ended well.
    """
    worker = Worker(job)

    def run(key: jax.Array, **parameters: Any) -> Mapping[str, Any]:
        seed = np.asarray(jax.random.key_data(key))
        _, _, text, found = worker.run([(seed, jax.device_get(parameters))])[0]
        if found is None:
            raise RetrodictError(f"none of {TRIALS} trial runs of the simulator ended well; the last: {text}")
        return joined(found)

    try:
        problem.try_by(run)
    finally:
        worker.close()


def run_python(work: Work, crew: Crew) -> None:
    """Hands batches to whoever runs them, and writes each as it comes back, in whatever order.

    Raises:
        RetrodictError: the executor cannot run batches at all.
    """
    draw, size = _programs(work.problem).draw, work.store.batch
    ended: queue.SimpleQueue[tuple[int, Future[list[Outcome]]]] = queue.SimpleQueue()
    waiting, tries = deque(work.missing), Counter[int]()
    flying: dict[int, tuple[Drawn, Future[list[Outcome]]]] = {}

    def submit(k: int) -> None:
        # all of a batch is drawn, so that there is one compiled program for all
        whole, here = jax.device_get(draw(work.root, np.arange(k * size, (k + 1) * size))), work.missing[k] - k * size
        drawn = Drawn(*jax.tree.map(lambda array: array[here], tuple(whole)))
        future = crew.submit(
            [(seed, {name: v[i] for name, v in drawn.parameters.items()}) for i, seed in enumerate(drawn.seeds)]
        )
        flying[k] = drawn, future
        future.add_done_callback(lambda done: ended.put((k, done)))

    try:
        while flying or (waiting and not work.signals.came):
            while waiting and len(flying) < crew.window and not work.signals.came:
                submit(waiting.popleft())
            if work.signals.came:  # what runs may end; what waits does not begin
                flying = {k: it for k, it in flying.items() if not it[1].cancel()}
            try:
                k, future = ended.get(timeout=0.2)
            except queue.Empty:
                continue
            if k not in flying or flying[k][1] is not future:
                continue
            drawn, _ = flying.pop(k)
            tries[k] += 1
            outcomes = _outcomes(future, len(drawn.seeds), last=tries[k] == TRIES)
            if outcomes is None:
                waiting.appendleft(k)
            else:
                work.write(k, *_gathered(work, drawn, outcomes))
    except BrokenExecutor as error:
        raise RetrodictError(
            f"the executor is broken ({error}); the rows so far are kept: go on with a new executor"
        ) from error
    finally:
        crew.close()


def _outcomes(future: "Future[list[Outcome]]", rows: int, *, last: bool) -> list[Outcome] | None:
    """What a batch came to, or None if it is to be tried again because whoever ran it died."""
    try:
        return future.result()
    except BrokenExecutor:
        raise
    except Exception as error:
        if not last:
            return None
        told = f"{type(error).__name__}: {error}"
        if type(error).__name__ == "KilledWorker":  # Dask's, when a task ended one worker after the other
            return [(FAILED, 0.0, f"the worker died with this batch, {TRIES} times ({told})"[:1000], None)] * rows
        raise RetrodictError(f"the executor cannot run a batch, {TRIES} times: {told}") from error


def _gathered(work: Work, drawn: Drawn, outcomes: list[Outcome]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The rows of a batch as arrays, and how each of them ended."""
    layout, m = work.problem.layout, len(outcomes)
    values = {v.name: np.full((m, *v.shape), np.nan, np.float32) for v in layout.variables}
    values |= {name: np.asarray(value, np.float32) for name, value in drawn.kept.items()}
    codes = np.zeros(m, np.uint8)
    for i, (code, _, _, found) in enumerate(outcomes):
        codes[i] = code
        for name, value in (found or {}).items():
            values[name][i] = value
    codes = np.where(codes, codes, np.where(ended_well(values, layout), OK, NON_FINITE))
    values |= {"seconds": np.asarray([seconds for _, seconds, _, _ in outcomes], np.float32), "seed": drawn.seeds}
    if any(text for _, _, text, _ in outcomes):
        values["error"] = np.asarray([text for _, _, text, _ in outcomes], object)
    return values, codes
