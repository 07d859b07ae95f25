"""Tokens: named values to a flat row of elements, and back.

flatten     {"rate": (n,), "counts": (n, 3)}  ->  (n, 4)
unflatten   (n, 4)                            ->  {"rate": (n,), "counts": (n, 3)}
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from retrodict._errors import DataError, QueryError, listed
from retrodict._types import is_count
from retrodict.variables import Layout, Variable, names_of


@dataclass(frozen=True)
class Batch(Mapping[str, Any]):
    """Many observations at once: every array has one leading axis of the same length."""

    arrays: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def as_numbers(value: Any, where: str) -> np.ndarray:
    """Returns the value as an array of floats, double precision where it came so.

    Raises:
        DataError: the value is not made of numbers.
    """
    if isinstance(value, jax.Array | np.ndarray | float | int | Sequence | np.generic) and not isinstance(value, str):
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise DataError(f"{where} must be numbers in rows of equal length") from error
        if array.dtype.kind in "iufb" or array.dtype.name == "bfloat16":
            return array.astype(np.float64 if array.dtype in (np.float64, np.int64, np.uint64) else np.float32)
        raise DataError(f"{where} must be numbers, got an array of type {array.dtype}")
    raise DataError(f"{where} must be numbers, got {type(value).__name__}")


def requests_of(of: Iterable[str] | Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns by name what is asked: the mask or the points that `of` maps the name to, or None if it lists names."""
    return dict(of) if isinstance(of, Mapping) else dict.fromkeys(names_of(() if of is None else of))


def check_simulations(sims: Any) -> None:
    """Refuses simulations that are no mapping.

    Raises:
        DataError: they are none.
    """
    if not isinstance(sims, Mapping):
        raise DataError(f"simulations are a mapping from name to array, got {type(sims).__name__}")


def flatten(layout: Layout, values: Mapping[str, Any], names: Iterable[str], *, where: str) -> np.ndarray:
    """Returns rows of tokens `(n, d)` from arrays `(n, *shape)`; tokens of variables not in `names` are zero.

    Raises:
        DataError: a wrong name, shape or type, or numbers of rows that differ.
    """
    columns, lengths = {}, {}
    for name in names:
        if name not in values:
            raise DataError(f"'{name}' is missing in {where}, which have {listed(values)}")
        variable, array = layout[name], as_numbers(values[name], f"'{name}' in {where}")
        if array.ndim == 0 or array.shape[1:] != variable.shape:
            raise DataError(f"'{name}' in {where} must have the shape {shape_text('n', variable)}, got {array.shape}")
        columns[name], lengths[name] = array.reshape(len(array), variable.size), len(array)
    if len(set(lengths.values())) != 1:
        raise DataError(f"every variable in {where} needs the same number of rows, got {lengths}")
    tokens = np.zeros((next(iter(lengths.values())), layout.size), np.result_type(np.float32, *columns.values()))
    for name, column in columns.items():
        tokens[:, layout.slices[name]] = column
    return tokens


def unflatten(layout: Layout, tokens: Any, names: Iterable[str]) -> dict[str, Any]:
    """Returns arrays `(*batch, *shape)` by name from tokens `(*batch, d)`."""
    batch = tokens.shape[:-1]
    return {name: tokens[..., layout.slices[name]].reshape((*batch, *layout[name].shape)) for name in names}


def elements(layout: Layout, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the variables with an element in a mask `(d,)`, and the mask of their elements, `shape` each."""
    masks = unflatten(layout, mask, layout.names)
    return {name: element_mask for name, element_mask in masks.items() if np.any(element_mask)}


def shape_text(first: str, variable: Variable) -> str:
    """Returns a shape with one leading axis, as messages show it: `(n, 3)`."""
    return "(" + ", ".join([first, *map(str, variable.shape)]) + ("," if not variable.shape else "") + ")"


def count(n: Any) -> int:
    """Returns a number of draws.

    Raises:
        QueryError: it is no positive whole number.
    """
    if not is_count(n):
        raise QueryError(f"the number of draws must be a positive whole number, got {n!r}")
    return int(n)
