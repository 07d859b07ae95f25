"""Rows: one draw of parameters and data, and many of them as a mapping.

A row depends on (key, its number) alone, never on its neighbors or on how rows are batched:

    key, i  ->  key_prior, key_run = split(fold_in(key, i))  ->  parameters, data
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import jax
import numpy as np

from retrodict.problem import Problem
from retrodict.variables import Layout, Variable


BATCH = 4096  # rows that a simulator in JAX runs at once, at most


@dataclass(frozen=True)
class Simulations(Mapping[str, np.ndarray]):
    """A mapping name -> array `(n, *shape)` of the rows that ended well, with the layout and the count of the others.

    `failed` holds the parameters of the rows whose data were not finite or whose run raised, and `error` what the first
    of the latter said. With `sites` above zero, what a site has for itself comes as `(n, sites, *shape)`, NaN at sites
    that a row does not have; `layout` is that of one site. `problem` is what was simulated, if that is known. Rows of a
    store are read when they are asked for, and with `growing` there may be more of them later.
    """

    arrays: Mapping[str, np.ndarray]
    layout: Layout
    failed: Mapping[str, np.ndarray] = field(default_factory=dict)
    sites: int = 0
    problem: Problem | None = None
    growing: bool = False
    error: str = ""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def kept(self) -> int:
        return _count(self.arrays)

    @property
    def n_failed(self) -> int:
        return _count(self.failed) if self.failed else 0

    @property
    def drawn(self) -> int:
        return self.kept + self.n_failed

    @property
    def counts(self) -> dict[str, int]:
        """Rows that were drawn, kept and failed, by these names."""
        return {"drawn": self.drawn, "kept": self.kept, "failed": self.n_failed}

    def part(self, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """The rows from `start` to `stop`; of a store no others are read."""
        if hasattr(self.arrays, "part"):
            return self.arrays.part(start, stop)
        return {name: values[start:stop] for name, values in self.arrays.items()}

    def __repr__(self) -> str:
        sites = (self.sites,) if self.sites else ()
        own = {v.name: (*(sites if v.plate else ()), *v.shape) for v in self.layout.variables}
        shapes = ", ".join(f"{name}: {(self.kept, *shape)}" for name, shape in own.items())
        said = f" ({self.error})" if self.error else ""
        return f"Simulations({self.drawn} drawn, {self.kept} kept, {self.n_failed} failed{said}; {shapes})"


def _count(arrays: Mapping[str, np.ndarray]) -> int:
    """Rows, without reading any of them."""
    return arrays.count if hasattr(arrays, "count") else len(next(iter(arrays.values())))


def row_of(problem: Problem) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """The function from the key and a row's number to all of its variables, for problems in JAX."""

    def row(root: jax.Array, number: jax.Array) -> dict[str, jax.Array]:
        key_prior, key_run = keys_of(root, number)
        parameters = problem.prior.draw(key_prior)
        return {**problem.prior.recorded(key_prior, parameters), **problem.run(key_run, parameters)}

    return row


def keys_of(root: jax.Array, number: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The keys of a row's prior and of its run."""
    key_prior, key_run = jax.random.split(jax.random.fold_in(root, number))
    return key_prior, key_run


def ended_well(values: Mapping[str, np.ndarray], layout: Layout) -> np.ndarray:
    """Which rows of `{name: (n, ...)}` ended with finite numbers, `(n,)` booleans."""
    return np.all([_finite(values[v.name].reshape(len(values[v.name]), -1), v) for v in layout.variables], axis=0)


def _finite(rows: np.ndarray, variable: Variable) -> np.ndarray:
    """Which rows ended well. A function is NaN where a row has no point, but not everywhere."""
    if variable.axes or variable.kind == "place":
        return ~np.isinf(rows).any(axis=1) & ~np.isnan(rows).all(axis=1)
    return np.isfinite(rows).all(axis=1)
