"""Simulations: rows of parameters and data drawn together.

A row that blows up is an outcome, not an accident: it is counted and set aside, never silently replaced. Training on
the rows that are left is training on p(parameters, data | the run ended well). Whoever has observed finite data knows
that the real run ended well, so posteriors are untouched; only draws of the *prior* (an unconditional question) and
of the likelihood where runs fail are those of the runs that end well.

Where a problem has a plate, a row is ONE site with the parameters that all share; `sites` draws many sites under the
same shared parameters instead, each of them a run of the simulator.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict._errors import DataError, RetrodictError
from retrodict._types import Key, as_key
from retrodict.functions import recorded
from retrodict.problem import NumpySimulator, Problem
from retrodict.variables import Layout, Variable


BATCH = 4096


@dataclass(frozen=True)
class Simulations(Mapping[str, np.ndarray]):
    """A mapping name -> array `(n, *shape)` of the rows that ended well, with the layout and the count of the others.

    `failed` holds the parameters of the rows whose data were not finite. With `sites` above zero, what a site has for
    itself comes as `(n, sites, *shape)`, NaN at sites that a row does not have; `layout` is that of one site. `problem`
    is what was simulated, if that is known.
    """

    arrays: Mapping[str, np.ndarray]
    layout: Layout
    failed: Mapping[str, np.ndarray] = field(default_factory=dict)
    sites: int = 0
    problem: Problem | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def kept(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def n_failed(self) -> int:
        return len(next(iter(self.failed.values()))) if self.failed else 0

    @property
    def drawn(self) -> int:
        return self.kept + self.n_failed

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {value.shape}" for name, value in self.arrays.items())
        return f"Simulations({self.drawn} drawn, {self.kept} kept, {self.n_failed} failed; {shapes})"


def simulate(problem: Problem, n: int, *, key: Key, sites: int | np.ndarray = 0) -> Simulations:
    """Draws `n` rows from the prior and runs the simulator on each.

    Row i depends on `key` and i alone, never on its neighbours or on how rows are batched.

    Args:
        sites: of a problem with a plate, how many sites every row has, a number or `(n,)` of them; 0 is one site
            without an axis of its own.

    Raises:
        DataError: `n` is not positive, or `sites` of a problem without a plate.
        RetrodictError: no run ended with finite data.
    """
    if n < 1:
        raise DataError(f"the number of simulations must be positive, got {n}")
    layout, counts = problem.layout, np.asarray(sites)
    if counts.any() and not layout.plate:
        raise DataError("`sites` counts the sites of a plate, and this problem has none; write one: rd.Plate")
    if counts.dtype.kind not in "iu" or counts.shape not in ((), (n,)) or counts.min() < (1 if counts.ndim else 0):
        raise DataError(f"`sites` must be a whole number, or one for each of the {n} rows, at least 1 each")
    run = _run_rows if isinstance(problem.simulator, NumpySimulator) else _run_batches
    values = run(problem, n, as_key(key), int(counts.max()))
    finite = np.all([_finite(values[v.name].reshape(n, -1), v) for v in layout.variables], axis=0)
    if not finite.any():
        raise RetrodictError(f"none of {n} simulations ended with finite data: check the simulator on one draw")
    if counts.ndim:
        beyond = np.arange(counts.max()) >= counts[:, None]
        for name in layout.own:
            values[name] = np.array(values[name], np.float32)
            values[name][beyond] = np.nan
    kept = {name: values[name][finite] for name in layout.names}
    failed = {name: values[name][~finite] for name in layout.parameters} if not finite.all() else {}
    return Simulations(kept, layout, failed, int(counts.max()), problem)


def _finite(rows: np.ndarray, variable: Variable) -> np.ndarray:
    """Which rows ended well. A function is NaN where a row has no point, but not everywhere."""
    if variable.axes or variable.kind == "place":
        return ~np.isinf(rows).any(axis=1) & ~np.isnan(rows).all(axis=1)
    return np.isfinite(rows).all(axis=1)


def _run_batches(problem: Problem, n: int, root: jax.Array, sites: int) -> dict[str, np.ndarray]:
    def one(row: jax.Array) -> dict[str, jax.Array]:
        key_prior, key_run = jax.random.split(jax.random.fold_in(root, row))
        parameters = problem.prior.draw(key_prior)
        if not sites:
            return {**problem.prior.recorded(key_prior, parameters), **problem.run(key_run, parameters)}
        shared = {name: parameters[name] for name in problem.layout.shared if name in parameters}

        def site(key: jax.Array) -> dict[str, jax.Array]:
            key_prior, key_run = jax.random.split(key)
            both = {**shared, **problem.prior.draw_own(key_prior, shared)}
            found = {**problem.prior.recorded(key_prior, both), **problem.run(key_run, both)}
            return {name: found[name] for name in problem.layout.own}

        return {**shared, **jax.vmap(site)(jax.random.split(key_run, sites))}

    batched = jax.jit(jax.vmap(one))
    size = min(n, max(1, BATCH // max(sites, 1)))
    parts = [jax.device_get(batched(jnp.arange(start, start + size))) for start in range(0, n, size)]
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def _run_rows(problem: Problem, n: int, root: jax.Array, sites: int) -> dict[str, np.ndarray]:
    draw, draw_own = jax.jit(problem.prior.draw), jax.jit(problem.prior.draw_own)

    def run(key_prior: jax.Array, key_run: jax.Array, parameters: dict[str, jax.Array]) -> dict[str, Any]:
        parameters = jax.device_get(parameters)
        seen = jax.device_get(problem.prior.recorded(key_prior, parameters))
        return {**seen, **recorded(problem.simulator(key_run, **parameters))}

    rows = []
    for row in range(n):
        key_prior, key_run = jax.random.split(jax.random.fold_in(root, row))
        parameters = draw(key_prior)
        if not sites:
            rows.append(run(key_prior, key_run, parameters))
            continue
        shared = {name: parameters[name] for name in problem.layout.shared}
        keys = [jax.random.split(key) for key in jax.random.split(key_run, sites)]
        each = [run(first, then, {**shared, **draw_own(first, shared)}) for first, then in keys]
        rows.append({**jax.device_get(shared), **{k: np.stack([e[k] for e in each]) for k in problem.layout.own}})
    return {name: np.stack([np.asarray(r[name], np.float32) for r in rows]) for name in rows[0]}
