"""Simulations in memory, of parameters drawn from the prior or of given ones.

A row that blows up is an outcome, not an accident: it is counted and set aside, never silently replaced. Training on
the remaining rows is training on p(parameters, data | the run ended well). Whoever has observed finite data knows that
the real run ended well, so posteriors are unchanged. Draws of the *prior* (an unconditional question), and of the
likelihood where runs fail, are those of the runs that end well.

Where a problem has a plate, a row is ONE site with the parameters that all sites share. With `sites` a row has many
sites under the same shared parameters, each of them a run of the simulator.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict._errors import DataError, RetrodictError, listed, unknown
from retrodict._runtime.blocks import blocks
from retrodict._runtime.compile_cache import ensure_cache
from retrodict._runtime.progress import Progress, Throughput
from retrodict._runtime.real_arrays import in_precision
from retrodict._types import Key, as_key
from retrodict.problem import Problem
from retrodict.query.tokens import as_numbers, named_values
from retrodict.simulation._claims import FIRST_ROWS, check_first_rows, warn_of_frozen_noise
from retrodict.simulation.rows import MAX_ROWS_PER_BATCH, Simulations, ended_well, keys_of, row_of, sites_of


SECONDS_WITHOUT_PROGRESS = 3.0  # quick simulations say nothing


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

    Row i depends on `key` and i alone, never on its neighbors or on how rows are batched. With a `store` rows are
    written as they come: the same call goes on after an interruption, and one with a larger `n` adds the missing rows.

    Args:
        sites: for a problem with a plate, how many sites every row has, a number or `(n,)` of them; 0 is a single site
            without an axis of its own.
        store: the directory to keep rows in; the result is then read from it. The arguments below need a store.
        executor: runs a simulator in Python: None for this process, a whole number of processes, a
            `dask.distributed.Client`, or anything with the interface of `concurrent.futures`.
        timeout: seconds that a row of a simulator in Python may take; it then runs in a process that can be ended.
        batch: rows that are written at once, when the store is made; by default 4,096 at most, in Python n / 64 and 256
            at most.
        accept_changed: go on with a store of another prior, key or version of the simulator.
        progress: show rows per second, failures and the time left, also without a store, unless the run is quick.

    Raises:
        DataError: `n` is not positive, `sites` of a problem without a plate, the store is of another problem, or the
            first rows do not fit what the problem claims of them.
        FileError: the store cannot be written, another process writes to it, or it is something else.
        RetrodictError: no run ended with finite data.
        KeyboardInterrupt: Ctrl-C, after the batch at hand; SIGTERM raises SystemExit.
    """
    ensure_cache()
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
    return _in_memory(_Request(problem, as_key(key), n, _site_counts(problem, n, sites)), progress=progress)


def simulate_at(
    problem: Problem, draws: Mapping[str, Any], *, key: Key, sites: int = 0, progress: bool = True
) -> Simulations:
    """Runs the simulator at given parameters, such as draws of a posterior: the posterior predictive.

    The result has a row for every draw, with failures counted as in `simulate`. Row i depends on `key`, i and the
    parameters of row i alone; at the parameters that `simulate` drew with the same key the data are the same. The rows
    are no draws of the prior, so that a model should not be trained on them.

    Args:
        draws: every parameter of the prior by name, `(n, *shape)`; a function by its values on the grid of the prior.
            Parameters of a plate are `(n, sites, *shape)`, or `(n, *shape)` for a single site.
        sites: how many sites every row has, for a plate without parameters of its own.
        progress: show rows per second, failures and the time left, unless the run is quick.

    Raises:
        DataError: a name that the prior does not have, a missing one, a wrong shape, or numbers that are not finite.
        RetrodictError: no run ended with finite data.
    """
    ensure_cache()
    draws = named_values(draws, "`draws` map every parameter of the prior to its values")
    values, n, sites = _checked_draws(problem, draws, sites)
    request = _Request(problem, as_key(key), n, _site_counts(problem, n, sites), values)
    return dataclasses.replace(_in_memory(request, progress=progress), problem=None)


@dataclass(frozen=True)
class _Request:
    """Rows to be simulated: `n` of them, at the parameters `draws` or, if there are none, at draws of the prior.

    `counts` is the number of sites of all rows, or of each, `(n,)`.
    """

    problem: Problem
    root: jax.Array
    n: int
    counts: np.ndarray
    draws: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def sites(self) -> int:
        return int(self.counts.max())


def _site_counts(problem: Problem, n: int, sites: int | np.ndarray) -> np.ndarray:
    counts = np.asarray(sites)
    if counts.any() and not problem.layout.plate:
        raise DataError("`sites` counts the sites of a plate, and this problem has none; write one: rd.Plate")
    if counts.dtype.kind not in "iu" or counts.shape not in ((), (n,)) or counts.min() < (1 if counts.ndim else 0):
        raise DataError(f"`sites` must be a whole number, or one for each of the {n} rows, at least 1 each")
    return counts


def _checked_draws(problem: Problem, draws: Mapping[str, Any], sites: int) -> tuple[dict[str, np.ndarray], int, int]:
    """Parameters as the simulator takes them, `(n, *shape)` or `(n, sites, *shape)`, with n and the number of sites."""
    shapes = {name: leaf.shape for name, leaf in jax.eval_shape(problem.prior.draw, jax.random.key(0)).items()}
    for name in draws:
        if name not in shapes:
            raise DataError(unknown("`draws`", name, shapes, owner="the prior has"))
    if missing := [name for name in shapes if name not in draws]:
        raise DataError(f"`draws` need every parameter of the prior, {listed(shapes)}; {listed(missing)} is missing")
    per_site = {v.name for v in problem.prior.variables if v.plate and v.name in shapes}
    values = {
        name: _checked_values(name, draws[name], shape, per_site=name in per_site) for name, shape in shapes.items()
    }
    axes = {name: array.shape[: array.ndim - len(shapes[name])] for name, array in values.items()}
    rows, site_axes = {axis[0] for axis in axes.values()}, {axes[name][1:] for name in per_site}
    if len(rows) != 1 or len(site_axes) > 1 or 0 in [size for axis in axes.values() for size in axis]:
        raise DataError(f"parameters in `draws` need one number of rows and of sites, above 0; got {axes}")
    count = sum(site_axes.pop()) if per_site else sites
    if sites not in (0, count):
        raise DataError(f"`draws` have parameters of {count} sites and `sites` is {sites}; leave `sites` out")
    return values, rows.pop(), count


def _checked_values(name: str, value: Any, shape: tuple[int, ...], *, per_site: bool) -> np.ndarray:
    array = as_numbers(value, f"'{name}' in `draws`", missing=False)
    axes = array.ndim - len(shape)
    if axes not in ((1, 2) if per_site else (1,)) or array.shape[axes:] != shape:
        expected = [_shape_text("n", *shape), *([_shape_text("n", "sites", *shape)] if per_site else [])]
        raise DataError(f"'{name}' in `draws` must have the shape {' or '.join(expected)}, got {array.shape}")
    is_finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if not is_finite.all():
        raise DataError(f"'{name}' in `draws` is not finite in row {np.argmin(is_finite)}; leave such rows out")
    return array


def _shape_text(*axes: str | int) -> str:
    return f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"


def _in_memory(request: _Request, *, progress: bool) -> Simulations:
    """Runs all rows; those that did not end well are set aside."""
    problem, layout, counts = request.problem, request.problem.layout, request.counts
    warn_of_frozen_noise(problem)
    errors: list[str] = []
    batches: list[dict[str, np.ndarray]] = []
    done = 0
    runs = _run_jax(request) if problem.python_function is None else _run_numpy(request, errors)
    with Progress("simulating", request.n, shown=progress, delay=SECONDS_WITHOUT_PROGRESS) as bar:
        throughput = Throughput(bar)
        for batch in runs:
            batches.append(batch)
            well = ended_well(batch, layout)
            throughput.add(len(well), int((~well).sum()))
            done += len(well)
            if done - len(well) < FIRST_ROWS <= done or done == request.n < FIRST_ROWS:
                check_first_rows(problem, _joined(batches), errors, drawn=not request.draws)
    values = _joined(batches)
    well = ended_well(values, layout)
    if not well.any():
        reason = f" ({errors[0]})" if errors else ""
        raise RetrodictError(
            f"none of {request.n} simulations ended with finite data{reason}: check the simulator on one draw"
        )
    if counts.ndim:
        is_absent = np.arange(request.sites) >= counts[:, None]
        for name in layout.own:
            values[name] = np.array(values[name])
            values[name][is_absent] = np.nan
    arrays = {name: values[name][well] for name in layout.names}
    failed = {name: values[name][~well] for name in layout.parameters} if not well.all() else {}
    return Simulations(arrays, layout, failed, request.sites, problem, error=errors[0] if errors else "")


def _joined(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All rows by name, in the precision that holds them."""
    return {name: in_precision(np.concatenate([batch[name] for batch in batches])) for name in batches[0]}


def _run_jax(request: _Request) -> Iterator[dict[str, np.ndarray]]:
    """Runs batch after batch with a compiled program."""
    problem, n, sites = request.problem, request.n, request.sites
    row = functools.partial(sites_of(problem, sites) if sites else row_of(problem), request.root)
    run = jax.jit(jax.vmap(row))
    size = min(n, max(1, MAX_ROWS_PER_BATCH // max(sites, 1)))
    for block in blocks(n, size):
        numbers = block[0] + np.arange(size)  # always as many, for one compiled program
        draws = {name: values[np.minimum(numbers, n - 1)] for name, values in request.draws.items()}
        batch = jax.device_get(run(jnp.asarray(numbers), draws))
        yield {name: array[: len(block)] for name, array in batch.items()}


def _run_numpy(request: _Request, errors: list[str]) -> Iterator[dict[str, np.ndarray]]:
    """Runs row after row; one that raises has no data, and its message goes to `errors`."""
    from retrodict.simulation.store._child import run_row  # the function of a row that stores run, too

    problem, layout, prior, sites = request.problem, request.problem.layout, request.problem.prior, request.sites
    draw, draw_own = jax.jit(prior.draw), jax.jit(prior.draw_own)
    drawn = {v.name for v in prior.variables}
    shapes = {v.name: v.shape for v in layout.variables if v.name not in drawn}
    no_data = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}

    def run(key_prior: jax.Array, key_run: jax.Array, parameters: dict[str, Any]) -> dict[str, Any]:
        parameters, seed = jax.device_get((parameters, jax.random.key_data(key_run)))
        assert problem.python_function is not None
        _, _, text, data = run_row(problem.python_function, shapes, seed, parameters)
        errors.extend([text] if data is None else [])
        return {**jax.device_get(prior.recorded(key_prior, parameters)), **(no_data if data is None else data)}

    for number in range(request.n):
        key_prior, key_run = keys_of(request.root, number)
        fixed = {name: values[number] for name, values in request.draws.items()}
        parameters = fixed or draw(key_prior)
        if sites:
            shared = {name: parameters[name] for name in layout.shared}
            runs = []
            for i, key in enumerate(jax.random.split(key_run, sites)):
                key_own, key_data = jax.random.split(key)
                site_values = {name: fixed[name][i] for name in fixed if name not in shared}
                runs.append(run(key_own, key_data, {**shared, **(site_values or draw_own(key_own, shared))}))
            row = {**jax.device_get(shared), **{k: np.stack([r[k] for r in runs]) for k in layout.own}}
        else:
            row = run(key_prior, key_run, parameters)
        yield {name: np.asarray(value)[None] for name, value in row.items()}
