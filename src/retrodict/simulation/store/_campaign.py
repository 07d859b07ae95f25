"""A campaign: the missing rows of a store, batch after batch, until there are as many as are wanted.

    store -> which batches lack rows -> draw their parameters -> run the simulator -> write, the status last

A row depends on (key, its number) alone. A simulator in JAX always runs a whole batch with one compiled program, and
keeps of it what is wanted, so that even the last bits do not depend on where a campaign was cut.

Ctrl-C and SIGTERM let the batches at hand end and be written; a second Ctrl-C does not wait.
"""

from pathlib import Path
from typing import Any

import jax

from retrodict._errors import DataError, RetrodictError, listed
from retrodict._runtime.progress import Progress
from retrodict.problem import NumpySimulator, Problem
from retrodict.simulation.rows import BATCH, Simulations
from retrodict.simulation.store._fingerprint import fingerprint
from retrodict.simulation.store._runs import Signals, Track, Work, run_jax, run_python, try_apart
from retrodict.simulation.store._store import MISSING, OK, OWN, Writer
from retrodict.simulation.store._workers import Job, crew_of, who


LARGEST_PYTHON = 256  # rows of a batch in Python
SMALLEST = 256  # in JAX: a first, small campaign makes the batches that a larger one has to live with
BYTES = 2**26  # of a batch


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
    python = problem.simulator if isinstance(problem.simulator, NumpySimulator) else None
    if python is None and (executor is not None or timeout is not None):
        raise DataError(
            "a simulator in JAX runs in this process, in batches; `executor` and `timeout` are for simulators in "
            "Python: rd.numpy_simulator(f), rd.command_simulator(...)"
        )
    executor = who(executor, timeout)
    if python is not None and (timeout is not None or isinstance(executor, int)):
        try_apart(problem, Job.of(python.function, None, timeout))
    own = [name for name in problem.layout.names if name in (*OWN, "row") or "/" in name]
    if own:
        raise DataError(
            f"{listed(own)} cannot be the name of a variable in a store, which keeps {listed([*OWN, 'row'])} itself"
        )
    if batch is not None and batch < 1:
        raise DataError(f"`batch` is how many rows are written at once, at least 1, got {batch}")
    about = fingerprint(problem, root)
    shapes = {v.name: v.shape for v in problem.layout.variables if v.name not in _drawn_names(problem)}
    crew = None if python is None else crew_of(executor, python.function, shapes, timeout)
    with Writer(path, about, n, batch or _batch(problem, n), accept_changed=accept_changed) as store:
        missing = store.missing(n)
        total = sum(map(len, missing.values()))
        if total:
            with Signals() as signals, Progress("simulating", total, shown=progress) as bar:
                work = Work(problem, root, store, missing, signals, Track(bar))
                run_jax(work) if crew is None else run_python(work, crew)
            if signals.came:
                signals.end(f"{int((store.codes[:n] != MISSING).sum())} of {n} rows are in '{path}'")
        found = store.sims(n, problem=problem)
        if not (store.codes[:n] == OK).any():
            why = next(iter(store.failed["error"]), "") or "their data are not finite"
            raise RetrodictError(
                f"none of {n} simulations in '{path}' ended well ({why}): check the simulator on one draw"
            )
        return found


def _batch(problem: Problem, n: int) -> int:
    """Rows that are drawn, run and written at once."""
    size = 4 * sum(v.size for v in problem.layout.variables)
    if isinstance(problem.simulator, NumpySimulator):  # as many batches as keep all workers busy to the end
        wanted = min(LARGEST_PYTHON, n // 64)
    else:
        wanted = min(BATCH, max(SMALLEST, n))
    return max(1, min(wanted, BYTES // size))


def _drawn_names(problem: Problem) -> set[str]:
    """What a row has from the prior: the parameters, and where those that are functions lie."""
    return {v.name for v in problem.prior.variables}
