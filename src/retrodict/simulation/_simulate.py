"""Simulations: rows of parameters and data drawn together.

A row that blows up is an outcome, not an accident: it is counted and set aside, never silently replaced. Training on
the rows that are left is training on p(parameters, data | the run ended well). Whoever has observed finite data knows
that the real run ended well, so posteriors are untouched; only draws of the *prior* (an unconditional question) and
of the likelihood where runs fail are those of the runs that end well.

Where a problem has a plate, a row is ONE site with the parameters that all share; `sites` draws many sites under the
same shared parameters instead, each of them a run of the simulator.
"""

import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict._errors import DataError, RetrodictError
from retrodict._types import Key, as_key
from retrodict.problem import NumpySimulator, Problem
from retrodict.query.functions import recorded
from retrodict.simulation.rows import BATCH, Simulations, ended_well, keys_of, row_of


def simulate(
    problem: Problem,
    n: int,
    *,
    key: Key,
    sites: int | np.ndarray = 0,
    store: str | os.PathLike[str] | None = None,
    executor: Any = None,
    timeout: float | None = None,
    batch: int | None = None,
    accept_changed: bool = False,
    progress: bool = True,
) -> Simulations:
    """Draws `n` rows from the prior and runs the simulator on each.

    Row i depends on `key` and i alone, never on its neighbours or on how rows are batched. With a `store` rows are
    written as they come: the same call goes on after an interruption, and one with a larger `n` adds what is missing.

    Args:
        sites: of a problem with a plate, how many sites every row has, a number or `(n,)` of them; 0 is one site
            without an axis of its own.
        store: the directory to keep rows in; the result is then read from it. All that follows needs one.
        executor: of a simulator in Python, who runs it: None for this process, a whole number of processes, a
            `dask.distributed.Client`, or anything with the interface of `concurrent.futures`.
        timeout: of a simulator in Python, seconds that a row may take; then it runs in a process that can be ended.
        batch: rows that are written at once, when the store is made; by default 4,096 at most, in Python n / 64 and 256
            at most.
        accept_changed: go on with a store of another prior, key or version of the simulator.
        progress: show rows per second, failures and the time left.

    Raises:
        DataError: `n` is not positive, `sites` of a problem without a plate, or the store is of another problem.
        FileError: the store cannot be written, another process writes to it, or it is something else.
        RetrodictError: no run ended with finite data.
        KeyboardInterrupt: Ctrl-C, after the batch at hand; SIGTERM raises SystemExit.
    """
    if n < 1:
        raise DataError(f"the number of simulations must be positive, got {n}")
    if store is not None:
        if np.any(sites):
            raise DataError("a store keeps rows of one site; simulate many `sites` without a store")
        from retrodict.simulation.store import campaign  # most programs never need one

        return campaign(
            problem,
            n,
            root=as_key(key),
            path=Path(store),
            executor=executor,
            timeout=timeout,
            batch=batch,
            accept_changed=accept_changed,
            progress=progress,
        )
    for name, value in {"executor": executor, "timeout": timeout, "batch": batch}.items():
        if value is not None:
            raise DataError(f"`{name}` needs a store to write to: rd.simulate(..., store=DIR, {name}={value!r})")
    return _in_memory(problem, n, as_key(key), sites)


def _in_memory(problem: Problem, n: int, root: jax.Array, sites: int | np.ndarray) -> Simulations:
    layout, counts = problem.layout, np.asarray(sites)
    if counts.any() and not layout.plate:
        raise DataError("`sites` counts the sites of a plate, and this problem has none; write one: rd.Plate")
    if counts.dtype.kind not in "iu" or counts.shape not in ((), (n,)) or counts.min() < (1 if counts.ndim else 0):
        raise DataError(f"`sites` must be a whole number, or one for each of the {n} rows, at least 1 each")
    errors: list[str] = []
    if isinstance(problem.simulator, NumpySimulator):
        values = _run_rows(problem, n, root, int(counts.max()), errors)
    else:
        values = _run_batches(problem, n, root, int(counts.max()))
    well = ended_well(values, layout)
    if not well.any():
        said = f" ({errors[0]})" if errors else ""
        raise RetrodictError(f"none of {n} simulations ended with finite data{said}: check the simulator on one draw")
    if counts.ndim:
        beyond = np.arange(counts.max()) >= counts[:, None]
        for name in layout.own:
            values[name] = np.array(values[name], np.float32)
            values[name][beyond] = np.nan
    kept = {name: values[name][well] for name in layout.names}
    failed = {name: values[name][~well] for name in layout.parameters} if not well.all() else {}
    return Simulations(kept, layout, failed, int(counts.max()), problem, error=errors[0] if errors else "")


def _run_batches(problem: Problem, n: int, root: jax.Array, sites: int) -> dict[str, np.ndarray]:
    def with_sites(row: jax.Array) -> dict[str, jax.Array]:
        key_prior, key_run = keys_of(root, row)
        parameters = problem.prior.draw(key_prior)
        shared = {name: parameters[name] for name in problem.layout.shared if name in parameters}

        def site(key: jax.Array) -> dict[str, jax.Array]:
            key_prior, key_run = jax.random.split(key)
            both = {**shared, **problem.prior.draw_own(key_prior, shared)}
            found = {**problem.prior.recorded(key_prior, both), **problem.run(key_run, both)}
            return {name: found[name] for name in problem.layout.own}

        return {**shared, **jax.vmap(site)(jax.random.split(key_run, sites))}

    batched = jax.jit(jax.vmap(with_sites if sites else functools.partial(row_of(problem), root)))
    size = min(n, max(1, BATCH // max(sites, 1)))
    parts = [jax.device_get(batched(jnp.arange(start, start + size))) for start in range(0, n, size)]
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def _run_rows(problem: Problem, n: int, root: jax.Array, sites: int, errors: list[str]) -> dict[str, np.ndarray]:
    """Rows one after the other; one that raises has no data, and what it says goes to `errors`."""
    draw, draw_own = jax.jit(problem.prior.draw), jax.jit(problem.prior.draw_own)
    nothing = {v.name: np.full(v.shape, np.nan) for v in problem.layout.variables if v.kind != "parameter"}

    def run(key_prior: jax.Array, key_run: jax.Array, parameters: dict[str, jax.Array]) -> dict[str, Any]:
        parameters = jax.device_get(parameters)
        seen = jax.device_get(problem.prior.recorded(key_prior, parameters))
        try:
            return {**seen, **recorded(problem.simulator(key_run, **parameters))}
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            return {**seen, **nothing}

    rows = []
    for row in range(n):
        key_prior, key_run = keys_of(root, row)
        parameters = draw(key_prior)
        if not sites:
            rows.append(run(key_prior, key_run, parameters))
            continue
        shared = {name: parameters[name] for name in problem.layout.shared}
        keys = [jax.random.split(key) for key in jax.random.split(key_run, sites)]
        each = [run(first, then, {**shared, **draw_own(first, shared)}) for first, then in keys]
        rows.append({**jax.device_get(shared), **{k: np.stack([e[k] for e in each]) for k in problem.layout.own}})
    return {name: np.stack([np.asarray(r[name], np.float32) for r in rows]) for name in rows[0]}
