"""Truth beside draws: what most checks take, brought into one form.

A simulation i has a true value theta_i and, of a model that saw its data alone, L draws. Both come by name, truth as
`(n, *shape)` and draws as `(n, L, *shape)`; inside they are columns, one per scalar element: `(n, d)` and `(n, L, d)`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import ArrayLike, Float64, Int64

from retrodict._errors import DataError, listed, unknown
from retrodict.diagnostics.summary import labels_of


Numbers: TypeAlias = ArrayLike | Sequence[Any]
Named: TypeAlias = Mapping[str, Numbers]
FEWEST = 10  # simulations: with fewer nothing can be said at a rate of 5 %


@dataclass(frozen=True)
class Pairs:
    """`labels` of the d scalar elements, `truth` and `draws`."""

    labels: tuple[str, ...]
    truth: Float64[np.ndarray, "n d"]
    draws: Float64[np.ndarray, "n L d"]

    @property
    def n(self) -> int:
        return len(self.truth)

    @property
    def n_draws(self) -> int:
        return self.draws.shape[1]


def paired(truth: Named, draws: Named) -> Pairs:
    """Checks truth and draws by name and lays their elements side by side, in the order of `truth`.

    Raises:
        DataError: names, shapes or numbers of simulations that do not fit together, values that are not finite, fewer
            than ten simulations.
    """
    same_names(truth, draws, ("`truth`", "`draws`"))
    labels: list[str] = []
    columns, blocks = [], []
    for name in truth:
        value = numbers(truth[name], f"the truth of '{name}'", axes=1)
        drawn = numbers(draws[name], f"the draws of '{name}'", axes=2)
        if value.shape != (drawn.shape[0], *drawn.shape[2:]) or 0 in drawn.shape:
            raise DataError(
                f"truth (n, *shape) and draws (n, n_draws, *shape) must agree; '{name}' has {value.shape} "
                f"and {drawn.shape}"
            )
        labels += labels_of(name, value.shape[1:])
        columns.append(value.reshape(len(value), -1))
        blocks.append(drawn.reshape(*drawn.shape[:2], -1))
    sizes = {name: block.shape[:2] for name, block in zip(truth, blocks, strict=True)}
    if len(set(sizes.values())) > 1:
        raise DataError(f"all variables need the same numbers of simulations and draws, got {sizes}")
    if len(columns[0]) < FEWEST:
        raise DataError(f"a check needs at least {FEWEST} simulations, got {len(columns[0])}")
    return Pairs(tuple(labels), np.concatenate(columns, axis=1), np.concatenate(blocks, axis=2))


def ranks(
    truth: Float64[np.ndarray, "n d"], draws: Float64[np.ndarray, "n L d"], rng: np.random.Generator
) -> Int64[np.ndarray, "n d"]:
    """How many of the L draws lie below the truth, 0 to L, ties broken at random (counts, values at an end)."""
    under = (draws < truth[:, None]).sum(axis=1)
    ties = (draws == truth[:, None]).sum(axis=1)
    return under + rng.integers(0, ties + 1)


def matrix(values: Named, what: str) -> Float64[np.ndarray, "n d"]:
    """Named arrays `(n, *shape)` as columns `(n, d)`.

    Raises:
        DataError: nothing there, different numbers of rows, or values that are not finite.
    """
    if not isinstance(values, Mapping) or not values:
        raise DataError(f"{what} must be a mapping from name to array with at least one entry")
    parts = [numbers(value, f"'{name}' of {what}", axes=1) for name, value in values.items()]
    if len({len(part) for part in parts}) > 1:
        raise DataError(f"the variables of {what} have different numbers of rows: {[len(part) for part in parts]}")
    return np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], axis=1)


def aligned(first: Named, second: Named, what: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Two mappings with the same names and shapes as columns, in the order of the first.

    Raises:
        DataError: names or shapes that differ, or values that are not finite.
    """
    same_names(first, second, what)
    columns = matrix(first, what[0]), matrix({name: second[name] for name in first}, what[1])
    for name in first:
        one, other = (np.shape(values[name])[1:] for values in (first, second))
        if one != other:
            raise DataError(f"a row of '{name}' has the shape {one} in {what[0]} and {other} in {what[1]}")
    return columns


def numbers(values: Any, what: str, *, axes: int = 0, finite: bool = True) -> Float64[np.ndarray, "..."]:
    """Real numbers with at least `axes` axes.

    Raises:
        DataError: they are none, or not finite.
    """
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise TypeError("complex")
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what} must be an array of real numbers") from None
    if array.ndim < axes:
        raise DataError(
            f"{what} must have at least {axes} {'axis' if axes == 1 else 'axes'}, got the shape {array.shape}"
        )
    bad = int(np.sum(~np.isfinite(array)))
    if finite and bad:
        raise DataError(f"{bad} of the {array.size} numbers in {what} are not finite: drop or repair those rows first")
    return array


def generator(key: Any) -> np.random.Generator:
    """A generator of random numbers from a whole number or a key of `jax.random`."""
    if isinstance(key, int | np.integer):
        return np.random.default_rng(int(key))
    # Imported here: the arithmetic of this room needs no JAX.
    import jax

    try:
        return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    except (TypeError, ValueError):
        raise DataError(f"`key` must be a whole number or a key of jax.random, got {key!r}") from None


def same_names(first: Named, second: Named, what: tuple[str, str]) -> None:
    """Two mappings with the same names.

    Raises:
        DataError: one has a name that the other lacks, or one is no mapping or empty.
    """
    for values, which in zip((first, second), what, strict=True):
        if not isinstance(values, Mapping) or not values:
            raise DataError(f"{which} must be a mapping from name to array with at least one entry")
    for name in second:
        if name not in first:
            raise DataError(unknown(what[1], name, first, owner=f"{what[0]} has"))
    if absent := [name for name in first if name not in second]:
        raise DataError(f"{what[0]} has {listed(absent)}, which {what[1]} lacks: hand in the same variables")
