"""Tokens: named values to a flat row of elements, and back.

flatten     {"rate": (n,), "counts": (n, 3)}  ->  (n, 4)
unflatten   (n, 4)                            ->  {"rate": (n,), "counts": (n, 3)}
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrodict._errors import DataError, QueryError, RetrodictError, listed
from retrodict._runtime.real_arrays import NotNumbersError, real_array
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


def as_numbers(value: Any, where: str, *, missing: bool = True) -> np.ndarray:
    """Returns the value as an array of float32 where that holds it, else of float64; see `_runtime.real_arrays`.

    Masked elements are NaN, not observed; with `missing=False` they are refused.

    Raises:
        DataError: the value is not made of real numbers.
    """
    try:
        return real_array(value, missing=missing)
    except NotNumbersError as error:
        raise DataError(f"{where} {error}") from error


def named_values(values: Any, refusal: str, error: type[RetrodictError] = DataError) -> Mapping[str, Any]:
    """Returns named values as a mapping: one already, or what has `keys` and items, such as a table of pandas.

    Raises:
        DataError: they are none; `refusal` says what they should be. `error` is its class.
    """
    if isinstance(values, Mapping):
        return values
    if hasattr(values, "keys") and hasattr(values, "__getitem__"):
        return {str(name): values[name] for name in values.keys()}  # noqa: SIM118
    raise error(f"{refusal}, got {type(values).__name__}")


def requests_of(of: Iterable[str] | Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns by name what is asked: the mask or the points that `of` maps the name to, or None if it lists names."""
    return dict(of) if isinstance(of, Mapping) else dict.fromkeys(names_of(() if of is None else of))


def check_simulations(sims: Any) -> Mapping[str, Any]:
    """Returns simulations as a mapping; a table of pandas is one of its columns.

    Raises:
        DataError: they are none.
    """
    return named_values(sims, "simulations are a mapping from name to array")


def flatten(layout: Layout, values: Mapping[str, Any], names: Iterable[str], *, where: str) -> np.ndarray:
    """Returns rows of tokens `(n, d)` from arrays `(n, *shape)`; tokens of variables not in `names` are zero.

    Tokens are float64 if an array is, else float32.

    Raises:
        DataError: a wrong name, shape or type, or numbers of rows that differ.
    """
    columns, lengths = {}, {}
    for name in names:
        if name not in values:
            raise DataError(f"'{name}' is missing in {where}, which have {listed(values)}")
        variable, array = layout[name], as_numbers(values[name], f"'{name}' in {where}", missing=where == "`given`")
        if array.ndim == 0 or array.shape[1:] != variable.shape:
            raise DataError(f"'{name}' in {where} must have the shape {shape_text('n', variable)}, got {array.shape}")
        columns[name], lengths[name] = array.reshape(len(array), variable.size), len(array)
    if len(set(lengths.values())) != 1:
        raise DataError(f"every variable in {where} needs the same number of rows, got {lengths}")
    tokens = np.zeros((next(iter(lengths.values())), layout.size), np.result_type(np.float32, *columns.values()))
    for name, column in columns.items():
        tokens[:, layout.slices[name]] = column
    return tokens


def by_position(values: Any) -> Any:
    """Returns what is indexed by the numbers of rows; a column of pandas is indexed by its labels otherwise."""
    return getattr(values, "iloc", values)


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
