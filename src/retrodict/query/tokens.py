"""Tokens: named values to a flat row of elements, and back.

    flatten     {"rate": (n,), "counts": (n, 3)}  ->  (n, 4)
    unflatten   (n, 4)                            ->  {"rate": (n,), "counts": (n, 3)}

A question in names (`given`, `of`, NaN for what was not observed) becomes roles and values per token; everything that
can be wrong with names, shapes and types is caught here, at the door.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from retrodict._errors import DataError, QueryError, listed, unknown
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.transforms import supports
from retrodict.variables import Layout, Variable


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


@dataclass(frozen=True)
class Question:
    """A question in tokens: `roles` `(m, d)` integers and `values` `(m, d)`, zero where nothing is given.

    `of` are the variables whose values come back; `m` is 1 for a single observation.
    """

    roles: np.ndarray
    values: np.ndarray
    of: tuple[str, ...]


def as_numbers(value: Any, where: str) -> np.ndarray:
    """The value as a floating-point array, or a sentence saying that it is none."""
    if isinstance(value, jax.Array | np.ndarray | float | int | Sequence | np.generic) and not isinstance(value, str):
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise DataError(f"{where} must be numbers in rows of equal length") from error
        if array.dtype.kind in "iufb" or array.dtype.name == "bfloat16":
            return array.astype(np.float32)
        raise DataError(f"{where} must be numbers, got an array of type {array.dtype}")
    raise DataError(f"{where} must be numbers, got {type(value).__name__}")


def flatten(layout: Layout, values: Mapping[str, Any], names: Iterable[str], *, where: str) -> np.ndarray:
    """Rows of tokens `(n, d)` from arrays `(n, *shape)`; tokens of variables not in `names` are zero.

    Raises:
        DataError: a wrong name, shape or type, or numbers of rows that differ.
    """
    columns, rows = {}, {}
    for name in names:
        if name not in values:
            raise DataError(f"'{name}' is missing in {where}, which have {listed(values)}")
        variable, array = layout[name], as_numbers(values[name], f"'{name}' in {where}")
        if array.ndim == 0 or array.shape[1:] != variable.shape:
            raise DataError(f"'{name}' in {where} must have the shape {_shape('n', variable)}, got {array.shape}")
        columns[name], rows[name] = array.reshape(len(array), variable.size), len(array)
    if len(set(rows.values())) != 1:
        raise DataError(f"every variable in {where} needs the same number of rows, got {rows}")
    tokens = np.zeros((next(iter(rows.values())), layout.size), np.float32)
    for name, column in columns.items():
        tokens[:, layout.slices[name]] = column
    return tokens


def unflatten(layout: Layout, tokens: Any, names: Iterable[str]) -> dict[str, Any]:
    """Arrays `(*batch, *shape)` by name from tokens `(*batch, d)`."""
    batch = tokens.shape[:-1]
    return {name: tokens[..., layout.slices[name]].reshape((*batch, *layout[name].shape)) for name in names}


def elements(layout: Layout, which: np.ndarray) -> dict[str, np.ndarray]:
    """Variables with an element in a mask `(d,)`, and which of theirs are, `shape` each."""
    held = unflatten(layout, which, layout.names)
    return {name: some for name, some in held.items() if np.any(some)}


def ask(layout: Layout, given: Mapping[str, Any] | None, of: Iterable[str] | Mapping[str, Any] | None) -> Question:
    """A question in names as roles and values per token.

    `of` defaults to every variable that `given` does not name; it may map a name to booleans `shape`, the elements that
    are asked, or to None for all that is not given. NaN elements of a given variable are absent, or latent where `of`
    asks for them.

    Raises:
        QueryError: a wrong name, an element of `of` that is given as well, or nothing left to ask.
        DataError: a wrong shape or type, infinite numbers, or a value outside its support.
    """
    given = given if given is not None else {}
    if not isinstance(given, Mapping):
        raise QueryError(f"`given` must map names to values, got {type(given).__name__}")
    for name in given:
        if name not in layout.names:
            raise QueryError(unknown("`given`", name, layout.names))
    asked = tuple(name for name in layout.names if name not in given) if of is None else _asked(layout, of)
    batched = isinstance(given, Batch)
    arrays = {name: _given(layout[name], given[name], batched=batched) for name in given}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"every variable in a Batch needs the same number of observations, got {lengths}")
    m = next(iter(lengths.values()), 1)
    roles = np.full((m, layout.size), ABSENT, np.int32)
    values = np.zeros((m, layout.size), np.float32)
    for name in asked:
        roles[:, layout.slices[name]] = np.where(_mask(layout[name], of), LATENT, ABSENT)
    for name, array in arrays.items():
        seen = ~np.isnan(array)
        block = layout.slices[name]
        if isinstance(of, Mapping) and of.get(name) is not None and (seen & (roles[:, block] == LATENT)).any():
            raise QueryError(f"'{name}' has an element that is both asked and given; ask for what is not given")
        roles[:, block] = np.where(seen, GIVEN, roles[:, block])
        values[:, block] = np.where(seen, array, 0.0)
        _check_support(layout[name], array[seen], np.nonzero(seen)[1])
    if not (roles == LATENT).any(axis=1).all():
        raise QueryError("nothing is left to ask: every element of `of` is given; leave something out of `given`")
    return Question(roles, values, asked)


def _asked(layout: Layout, of: Iterable[str]) -> tuple[str, ...]:
    wanted = [of] if isinstance(of, str) else list(of)
    for name in wanted:
        if name not in layout.names:
            raise QueryError(unknown("`of`", name, layout.names))
    if not wanted:
        raise QueryError(f"`of` is empty; name at least one of {listed(layout.names)}")
    return tuple(name for name in layout.names if name in wanted)


def _mask(variable: Variable, of: Any) -> np.ndarray:
    """Which elements of a variable are asked, flat."""
    if not isinstance(of, Mapping) or of[variable.name] is None:
        return np.ones(variable.size, bool)
    mask = np.asarray(of[variable.name])
    if mask.dtype != bool or mask.shape != variable.shape:
        raise QueryError(
            f"`of` maps '{variable.name}' to the elements that are asked, booleans of the shape {variable.shape}, "
            f"got {mask.dtype} of the shape {mask.shape}"
        )
    return mask.ravel()


def _given(variable: Variable, value: Any, *, batched: bool) -> np.ndarray:
    array = as_numbers(value, f"'{variable.name}' in `given`")
    shape = array.shape[1:] if batched and array.ndim else array.shape
    if shape != variable.shape or (batched and array.ndim == 0):
        wanted = _shape("B", variable) if batched else str(variable.shape)
        cure = "" if batched or array.shape[1:] != variable.shape else "; for many observations pass rd.Batch({...})"
        raise DataError(f"'{variable.name}' in `given` must have the shape {wanted}, got {array.shape}{cure}")
    if np.isinf(array).any():
        raise DataError(f"'{variable.name}' in `given` is infinite somewhere; write NaN for what was not observed")
    return array.reshape(-1, variable.size)


def _check_support(variable: Variable, values: np.ndarray, elements: np.ndarray) -> None:
    low, high = (end[elements] for end in variable.ends)
    outside = ~supports.contains(values, low.astype(np.float32), high.astype(np.float32))
    if outside.any():
        first = int(np.argmax(outside))
        raise DataError(
            f"'{variable.name}' in `given` is {values[first]:g}, outside its support ({low[first]:g}, {high[first]:g})"
        )


def _shape(first: str, variable: Variable) -> str:
    return "(" + ", ".join([first, *map(str, variable.shape)]) + ("," if not variable.shape else "") + ")"
