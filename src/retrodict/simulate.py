"""Simulations: rows of parameters and data drawn together.

A row that blows up is an outcome, not an accident: it is counted and set aside, never silently replaced. Training on
the rows that are left is training on p(parameters, data | the run ended well). Whoever has observed finite data knows
that the real run ended well, so posteriors are untouched; only draws of the *prior* (an unconditional question) and
of the likelihood where runs fail are those of the runs that end well.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

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

    `failed` holds the parameters of the rows whose data were not finite.
    """

    arrays: Mapping[str, np.ndarray]
    layout: Layout
    failed: Mapping[str, np.ndarray] = field(default_factory=dict)

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


def simulate(problem: Problem, n: int, *, key: Key) -> Simulations:
    """Draws `n` rows from the prior and runs the simulator on each.

    Row i depends on `key` and i alone, never on its neighbours or on how rows are batched.

    Raises:
        DataError: `n` is not positive.
        RetrodictError: no run ended with finite data.
    """
    if n < 1:
        raise DataError(f"the number of simulations must be positive, got {n}")
    layout, root = problem.layout, as_key(key)
    run = _run_rows if isinstance(problem.simulator, NumpySimulator) else _run_batches
    values = run(problem, n, root)
    finite = np.all([_finite(values[v.name].reshape(n, -1), v) for v in layout.variables], axis=0)
    if not finite.any():
        raise RetrodictError(f"none of {n} simulations ended with finite data: check the simulator on one draw")
    kept = {name: values[name][finite] for name in layout.names}
    failed = {name: values[name][~finite] for name in layout.parameters} if not finite.all() else {}
    return Simulations(kept, layout, failed)


def _finite(rows: np.ndarray, variable: Variable) -> np.ndarray:
    """Which rows ended well. A function is NaN where a row has no point, but not everywhere."""
    if variable.axes or variable.kind == "place":
        return ~np.isinf(rows).any(axis=1) & ~np.isnan(rows).all(axis=1)
    return np.isfinite(rows).all(axis=1)


def _run_batches(problem: Problem, n: int, root: jax.Array) -> dict[str, np.ndarray]:
    def one(row: jax.Array) -> dict[str, jax.Array]:
        key_prior, key_run = jax.random.split(jax.random.fold_in(root, row))
        parameters = problem.prior.draw(key_prior)
        return {**problem.prior.recorded(key_prior, parameters), **problem.run(key_run, parameters)}

    batched = jax.jit(jax.vmap(one))
    size = min(n, BATCH)
    parts = [jax.device_get(batched(jnp.arange(start, start + size))) for start in range(0, n, size)]
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def _run_rows(problem: Problem, n: int, root: jax.Array) -> dict[str, np.ndarray]:
    draw = jax.jit(problem.prior.draw)
    rows = []
    for row in range(n):
        key_prior, key_run = jax.random.split(jax.random.fold_in(root, row))
        parameters = jax.device_get(draw(key_prior))
        seen = jax.device_get(problem.prior.recorded(key_prior, parameters))
        rows.append({**seen, **recorded(problem.simulator(key_run, **parameters))})
    return {name: np.stack([np.asarray(r[name], np.float32) for r in rows]) for name in rows[0]}
