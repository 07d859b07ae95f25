"""Rows: draws of parameters and data together, a row by itself or many as a mapping.

A row depends on (key, its number) alone, never on its neighbors or on how rows are batched:

    key, i  ->  key_prior, key_run = split(fold_in(key, i))  ->  parameters, data
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from retrodict._runtime.tables import Cells, as_html, as_text
from retrodict.problem import Problem
from retrodict.variables import Layout, Variable


MAX_ROWS_PER_BATCH = 4096  # that a simulator in JAX runs at once


@dataclass(frozen=True)
class Simulations(Mapping[str, np.ndarray]):
    """A mapping name -> array `(n, *shape)` of the rows that ended well.

    Rows of a store are read when they are asked for.

    Attributes:
        arrays: the arrays by name; with `sites` above zero those of a plate are `(n, sites, *shape)`, NaN at sites that
            a row does not have.
        layout: the variables; with a plate those of a single site.
        failed: the parameters of rows whose data were not finite or whose run raised.
        sites: the number of sites, or 0 for a single site without an axis of its own.
        problem: the problem whose prior and simulator made the rows, if that is known.
        growing: whether a campaign may add rows later.
        error: the message of the first run that raised.
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
        """The numbers of rows that were drawn, kept and failed, by these names."""
        return {"drawn": self.drawn, "kept": self.kept, "failed": self.n_failed}

    def part(self, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """The rows from `start` to `stop`; of a store only these are read."""
        if hasattr(self.arrays, "part"):
            return self.arrays.part(start, stop)
        return {name: values[start:stop] for name, values in self.arrays.items()}

    def __repr__(self) -> str:
        return as_text(*self._table())

    def _repr_html_(self) -> str:
        return as_html(*self._table())

    def _table(self) -> tuple[str, list[Cells]]:
        """A title, and name, shape and kind of each variable."""
        error = f" ({self.error[:100]})" if self.error else ""
        words = [f"{self.drawn} drawn, {self.kept} kept, {self.n_failed} failed{error}"]
        words += [f"{self.sites} sites"] if self.sites else []
        words += [f"in '{self.arrays.path}'"] if hasattr(self.arrays, "path") else []
        words += ["growing"] if self.growing else []
        rows: list[Cells] = [(v.name, str(self._shape(v)), _kind_text(v)) for v in self.layout.variables]
        return f"Simulations({', '.join(words)})", rows

    def _shape(self, variable: Variable) -> tuple[int, ...]:
        """The shape of the array of a variable; none is read for it."""
        sites = (self.sites,) if self.sites and variable.plate else ()
        return (self.kept, *sites, *variable.shape)


def row_of(problem: Problem) -> Callable[..., dict[str, jax.Array]]:
    """The function from the key and a row's number to all of its variables, for problems in JAX.

    A third argument, values of the parameters by name, takes the place of a draw of the prior.
    """

    def row(root: jax.Array, number: jax.Array, values: Mapping[str, jax.Array] | None = None) -> dict[str, jax.Array]:
        key_prior, key_run = keys_of(root, number)
        parameters = dict(values or problem.prior.draw(key_prior))
        return {**problem.prior.recorded(key_prior, parameters), **problem.run(key_run, parameters)}

    return row


def sites_of(problem: Problem, sites: int) -> Callable[..., dict[str, jax.Array]]:
    """The same function for rows of many sites under the same shared parameters, `(sites, *shape)`."""
    layout, prior = problem.layout, problem.prior

    def row(root: jax.Array, number: jax.Array, values: Mapping[str, jax.Array] | None = None) -> dict[str, jax.Array]:
        key_prior, key_run = keys_of(root, number)
        parameters = dict(values or prior.draw(key_prior))
        shared = {name: parameters[name] for name in layout.shared if name in parameters}

        def site(key: jax.Array, site_values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            key_prior, key_run = jax.random.split(key)
            parameters = {**shared, **(site_values or prior.draw_own(key_prior, shared))}
            result = {**prior.recorded(key_prior, parameters), **problem.run(key_run, parameters)}
            return {name: result[name] for name in layout.own}

        site_values = {name: value for name, value in parameters.items() if name not in shared} if values else {}
        return {**shared, **jax.vmap(site)(jax.random.split(key_run, sites), site_values)}

    return row


def keys_of(root: jax.Array, number: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The keys of a row's prior and of its run."""
    key_prior, key_run = jax.random.split(jax.random.fold_in(root, number))
    return key_prior, key_run


def ended_well(values: Mapping[str, np.ndarray], layout: Layout) -> np.ndarray:
    """Whether each row of `{name: (n, ...)}` ended with finite numbers, `(n,)`."""
    return np.all([_is_finite(values[v.name].reshape(len(values[v.name]), -1), v) for v in layout.variables], axis=0)


def _is_finite(rows: np.ndarray, variable: Variable) -> np.ndarray:
    """Whether each row is finite. A function is NaN where a row has no point, but not everywhere."""
    if variable.axes or variable.kind == "place":
        return ~np.isinf(rows).any(axis=1) & ~np.isnan(rows).all(axis=1)
    return np.isfinite(rows).all(axis=1)


def _count(arrays: Mapping[str, Any]) -> int:
    """The number of rows, without reading any of them."""
    return arrays.count if hasattr(arrays, "count") else len(next(iter(arrays.values())))


def _kind_text(variable: Variable) -> str:
    if variable.kind == "place":
        return variable.support
    return f"{variable.kind}, {variable.support}{f', per {variable.plate}' if variable.plate else ''}"
