"""A campaign: the missing rows of a store, batch after batch, until there are as many as are asked for.

    store -> the batches that lack rows -> draw their parameters -> run the simulator -> write, the status last

A row depends on (key, its number) alone. A simulator in JAX always runs a whole batch with the same compiled program,
of which the missing rows are kept, so that even the last bits do not depend on where a campaign was interrupted.

Ctrl-C and SIGTERM let the batches at hand end and be written; a second Ctrl-C does not wait.
"""

from pathlib import Path
from typing import Any

import jax

from retrodict._errors import DataError, RetrodictError, listed
from retrodict._runtime.progress import Progress, Throughput
from retrodict.problem import Problem
from retrodict.simulation._claims import warn_of_frozen_noise
from retrodict.simulation.rows import MAX_ROWS_PER_BATCH, Simulations
from retrodict.simulation.store._fingerprint import fingerprint
from retrodict.simulation.store._runs import Campaign, Signals, run_jax, run_python, trial_elsewhere
from retrodict.simulation.store._store import MISSING, OK, RESERVED_NAMES, Writer
from retrodict.simulation.store._workers import PackedSimulator, checked_executor, resolve_executor


MAX_PYTHON_ROWS_PER_BATCH = 256
MIN_JAX_ROWS_PER_BATCH = 256  # a first, small campaign makes the batches that a larger one has to live with
MAX_BYTES_PER_BATCH = 2**26


def campaign(
    problem: Problem,
    n: int,
    *,
    root: jax.Array,
    path: Path,
    executor: Any = None,
    timeout: float | None = None,
    batch: int | None = None,
    accept_changed: bool = False,
    progress: bool = True,
) -> Simulations:
    """Brings a store to `n` rows, and returns the first `n` of it; see `retrodict.simulation._simulate`."""
    function = problem.python_function
    if function is None and (executor is not None or timeout is not None):
        raise DataError(
            "a simulator in JAX runs in this process, in batches; `executor` and `timeout` are for simulators in "
            "Python: rd.numpy_simulator(f), rd.command_simulator(...)"
        )
    executor = checked_executor(executor, timeout)
    if function is not None and (timeout is not None or isinstance(executor, int)):
        trial_elsewhere(problem, PackedSimulator.of(function, None, timeout))
    warn_of_frozen_noise(problem)
    clashes = [name for name in problem.layout.names if name in (*RESERVED_NAMES, "row") or "/" in name]
    if clashes:
        raise DataError(
            f"{listed(clashes)} cannot be the name of a variable in a store, which keeps "
            f"{listed([*RESERVED_NAMES, 'row'])} itself"
        )
    if batch is not None and batch < 1:
        raise DataError(f"`batch` is how many rows are written at once, at least 1, got {batch}")
    description, drawn_names = fingerprint(problem, root), {v.name for v in problem.prior.variables}
    shapes = {v.name: v.shape for v in problem.layout.variables if v.name not in drawn_names}
    runner = None if function is None else resolve_executor(executor, function, shapes, timeout)
    with Writer(path, description, n, batch or _batch_size(problem, n), accept_changed=accept_changed) as store:
        missing = store.missing(n)
        total = sum(map(len, missing.values()))
        if total:
            with Signals() as signals, Progress("simulating", total, shown=progress) as bar:
                rows = Campaign(problem, root, store, missing, signals, Throughput(bar))
                run_jax(rows) if runner is None else run_python(rows, runner)
            if signals.received:
                signals.end(f"{int((store.codes[:n] != MISSING).sum())} of {n} rows are in '{path}'")
        sims = store.sims(n, problem=problem)
        if not (store.codes[:n] == OK).any():
            reason = next(iter(store.failed["error"]), "") or "their data are not finite"
            raise RetrodictError(
                f"none of {n} simulations in '{path}' ended well ({reason}): check the simulator on one draw"
            )
        return sims


def _batch_size(problem: Problem, n: int) -> int:
    """The number of rows that are drawn, run and written at once."""
    bytes_per_row = sum(v.size * (8 if v.name in problem.types else 4) for v in problem.layout.variables)
    if problem.python_function is not None:  # as many batches as keep all workers busy to the end
        rows = min(MAX_PYTHON_ROWS_PER_BATCH, n // 64)
    else:
        rows = min(MAX_ROWS_PER_BATCH, max(MIN_JAX_ROWS_PER_BATCH, n))
    return max(1, min(rows, MAX_BYTES_PER_BATCH // bytes_per_row))
