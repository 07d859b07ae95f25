"""The input of most checks, truth beside draws, checked and brought into one form.

A simulation i has a true value theta_i and L draws of a model that saw only the data of i. Both come by name, truth as
`(n, *shape)` and draws as `(n, L, *shape)`. Inside they are columns, one per scalar element: `(n, d)` and `(n, L, d)`.
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
MIN_SIMULATIONS = 10  # fewer cannot show anything at a rate of false alarms of 5 %


@dataclass(frozen=True)
class PairedDraws:
    """True values and draws of the same simulations, one column per scalar element, with `labels` of the d elements."""

    labels: tuple[str, ...]
    truth: Float64[np.ndarray, "n d"]
    draws: Float64[np.ndarray, "n L d"]

    @property
    def n(self) -> int:
        """The number of simulations."""
        return len(self.truth)

    @property
    def n_draws(self) -> int:
        """The number of draws of each simulation."""
        return self.draws.shape[1]


def paired(truth: Named, draws: Named) -> PairedDraws:
    """Returns truth and draws as columns, in the order of `truth`, after checking them.

    Raises:
        DataError: names, shapes or numbers of simulations that do not fit together, values that are not finite, fewer
            than ten simulations.
    """
    same_names(truth, draws, ("`truth`", "`draws`"))
    labels: list[str] = []
    columns, blocks = [], []
    for name in truth:
        true_values = numbers(truth[name], f"the truth of '{name}'", axes=1)
        block = numbers(draws[name], f"the draws of '{name}'", axes=2)
        if true_values.shape != (block.shape[0], *block.shape[2:]) or 0 in block.shape:
            raise DataError(
                f"truth (n, *shape) and draws (n, n_draws, *shape) must agree; '{name}' has {true_values.shape} "
                f"and {block.shape}"
            )
        labels += labels_of(name, true_values.shape[1:])
        columns.append(true_values.reshape(len(true_values), -1))
        blocks.append(block.reshape(*block.shape[:2], -1))
    sizes = {name: block.shape[:2] for name, block in zip(truth, blocks, strict=True)}
    if len(set(sizes.values())) > 1:
        raise DataError(f"all variables need the same numbers of simulations and draws, got {sizes}")
    if len(columns[0]) < MIN_SIMULATIONS:
        raise DataError(f"a check needs at least {MIN_SIMULATIONS} simulations, got {len(columns[0])}")
    return PairedDraws(tuple(labels), np.concatenate(columns, axis=1), np.concatenate(blocks, axis=2))


def ranks(
    truth: Float64[np.ndarray, "n d"], draws: Float64[np.ndarray, "n L d"], rng: np.random.Generator
) -> Int64[np.ndarray, "n d"]:
    """Returns the number of draws below the truth, 0 to L. Ties (counts, values at an end) are broken at random."""
    n_below = (draws < truth[:, None]).sum(axis=1)
    ties = (draws == truth[:, None]).sum(axis=1)
    return n_below + rng.integers(0, ties + 1)


def _check_mapping(values: Named, label: str) -> None:
    if not isinstance(values, Mapping) or not values:
        raise DataError(f"{label} must be a mapping from name to array with at least one entry")


def matrix(values: Named, label: str) -> Float64[np.ndarray, "n d"]:
    """Returns named arrays `(n, *shape)` as columns `(n, d)`; `label` is their name in errors.

    Raises:
        DataError: no variables, different numbers of rows, or values that are not finite.
    """
    _check_mapping(values, label)
    arrays = [numbers(value, f"'{name}' of {label}", axes=1) for name, value in values.items()]
    if len({len(array) for array in arrays}) > 1:
        raise DataError(f"the variables of {label} have different numbers of rows: {[len(array) for array in arrays]}")
    return np.concatenate([array.reshape(len(array), math.prod(array.shape[1:])) for array in arrays], axis=1)


def aligned(first: Named, second: Named, labels: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns two mappings with the same names and shapes as columns, in the order of the first.

    Raises:
        DataError: names or shapes that differ, or values that are not finite.
    """
    same_names(first, second, labels)
    columns = matrix(first, labels[0]), matrix({name: second[name] for name in first}, labels[1])
    for name in first:
        first_shape, second_shape = (np.shape(values[name])[1:] for values in (first, second))
        if first_shape != second_shape:
            raise DataError(
                f"a row of '{name}' has the shape {first_shape} in {labels[0]} and {second_shape} in {labels[1]}"
            )
    return columns


def numbers(values: Any, label: str, *, axes: int = 0, finite: bool = True) -> Float64[np.ndarray, "..."]:
    """Returns real numbers with at least `axes` axes as an array; `label` is their name in errors.

    Raises:
        DataError: values that are not numbers, not finite, or have too few axes.
    """
    try:
        array = np.asarray(values)
        if np.iscomplexobj(array):
            raise TypeError("complex")
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{label} must be an array of real numbers") from None
    if array.ndim < axes:
        raise DataError(
            f"{label} must have at least {axes} {'axis' if axes == 1 else 'axes'}, got the shape {array.shape}"
        )
    n_bad = int(np.sum(~np.isfinite(array)))
    if finite and n_bad:
        raise DataError(
            f"{n_bad} of the {array.size} numbers in {label} are not finite: drop or repair those rows first"
        )
    return array


def generator(key: Any) -> np.random.Generator:
    """Returns a generator of random numbers for a whole number or a key of `jax.random`."""
    if isinstance(key, int | np.integer):
        return np.random.default_rng(int(key))
    # Imported here: the arithmetic of this folder needs no JAX.
    import jax

    try:
        return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
    except (TypeError, ValueError):
        raise DataError(f"`key` must be a whole number or a key of jax.random, got {key!r}") from None


def same_names(first: Named, second: Named, labels: tuple[str, str]) -> None:
    """Checks that two mappings have the same names.

    Raises:
        DataError: one has a name that the other lacks, or one is empty or not a mapping.
    """
    _check_mapping(first, labels[0])
    _check_mapping(second, labels[1])
    for name in second:
        if name not in first:
            raise DataError(unknown(labels[1], name, first, owner=f"{labels[0]} has"))
    if absent := [name for name in first if name not in second]:
        raise DataError(f"{labels[0]} has {listed(absent)}, which {labels[1]} lacks: hand in the same variables")
