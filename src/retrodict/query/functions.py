"""Functions: questions at any points, put in the slots that a model works with.

A model sees a function through slots, each a value and where it lies. Its weights do not know how many there are: a
question gets as many as it needs, those that are given first, then those that are asked, then empty ones.

    given {"counts": At(t, y)},  of {"counts": At(s)}    ->    "counts" [y, NaN],  "counts.at" [t, s],  asked [no, yes]
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrodict._errors import DataError, QueryError
from retrodict.query.tokens import Batch, as_numbers
from retrodict.variables import At, Layout, Variable, places_of


ROUNDED = 4  # slots come in multiples of it, so that questions of similar size share compiled code


@dataclass(frozen=True)
class Slots:
    """A question in slots: the layout that has them, `given` and `of` for it, and where among the slots of a function
    its answers lie."""

    layout: Layout
    given: Mapping[str, Any]
    of: Mapping[str, Any] | None
    answers: Mapping[str, slice]


def slots(layout: Layout, given: Mapping[str, Any] | None, of: Iterable[str] | Mapping[str, Any] | None) -> Slots:
    """Brings the functions of a question into slots.

    Raises:
        QueryError: a function that is asked without points, or a place that is asked.
        DataError: points and values of different shapes, or points that are not finite where values are.
    """
    given = {} if given is None else given
    batched, count = isinstance(given, Batch), 1
    if batched:
        count = len(np.asarray(_first(given)))
    names = [of] if isinstance(of, str) else of or ()
    wanted: dict[str, Any] = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)
    sizes, values, places, asked = {}, {}, {}, {}
    for name in layout.functions:
        axes = layout[name].axes
        seen = _points(name, given[name], axes, count, batched=batched) if name in given else _none(count, axes)
        there, known = seen
        new = np.zeros((count, 0, axes), np.float32)
        if name in wanted:
            new = _asked(name, wanted[name], axes, count)
        used = there.shape[1] + new.shape[1]
        size = max(ROUNDED, -(-used // ROUNDED) * ROUNDED)
        empty = np.full((count, size - used, axes), np.nan, np.float32)
        sizes[name], places[name] = size, np.concatenate([there, new, empty], axis=1)
        values[name] = np.concatenate([known, np.full((count, size - known.shape[1]), np.nan, np.float32)], axis=1)
        asked[name] = slice(there.shape[1], used)
    cut = layout.seen_at(sizes)
    return Slots(
        cut,
        _filled(cut, given, values, places, wanted, batched=batched),
        None if of is None else _of(cut, wanted, asked),
        {name: asked[name] for name in wanted if name in asked},
    )


def _first(given: Mapping[str, Any]) -> Any:
    """The first array of a batch, of a function its points."""
    first = next(iter(given.values()))
    return first.points if isinstance(first, At) else first


def _filled(
    layout: Layout,
    given: Mapping[str, Any],
    values: Mapping[str, Any],
    places: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    batched: bool,
) -> Mapping[str, Any]:
    found = {name: value for name, value in given.items() if name not in values}
    for name, array in values.items():
        place = places_of(name)
        there = places[name].reshape(len(array), *layout[place].shape)
        # a slot without a place is empty; one with a place and no value is asked or left out
        found[place] = np.nan_to_num(there)
        if name in given or name not in wanted:  # a function that nobody speaks of is not there
            found[name] = np.where(np.isnan(places[name]).any(axis=2), np.nan, array)
        if not batched:
            found = {k: v[0] if k in (name, place) else v for k, v in found.items()}
    return Batch(found) if batched else found


def _of(layout: Layout, wanted: Mapping[str, Any], asked: Mapping[str, slice]) -> Mapping[str, Any]:
    found = {}
    for name, how in wanted.items():
        if name in asked:
            found[name] = np.zeros(layout[name].shape, bool)
            found[name][asked[name]] = True
        else:
            found[name] = how
        if name in layout.places:
            raise QueryError(f"'{name}' says where a function lies; it is known, not asked")
    return found


def _none(count: int, axes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((count, 0, axes), np.float32), np.zeros((count, 0), np.float32)


def _points(name: str, found: Any, axes: int, count: int, *, batched: bool) -> tuple[np.ndarray, np.ndarray]:
    """Points `(count, k, axes)` and values `(count, k)`, NaN where there are none."""
    if not isinstance(found, At) or found.values is None:
        raise DataError(f"'{name}' is a function: `given` says where and what, rd.At(points, values)")
    points = as_numbers(found.points, f"the points of '{name}'")
    values = as_numbers(found.values, f"the values of '{name}'")
    there, known = (x if batched else x[None] for x in (points, values))
    there = _columns(name, there, axes)
    if known.shape != there.shape[:2] or len(known) != count:
        raise DataError(f"'{name}' needs a value for every point, got points {points.shape} and values {values.shape}")
    bad = np.isnan(there).any(axis=2) & ~np.isnan(known) | np.isinf(there).any(axis=2)
    if bad.any():
        raise DataError(f"'{name}' has values at points that are not finite")
    return there, known


def _asked(name: str, found: Any, axes: int, count: int) -> np.ndarray:
    if not isinstance(found, At):
        raise QueryError(f"'{name}' is a function: say where it is asked, of={{'{name}': rd.At(points)}}")
    if found.values is not None:
        raise QueryError(f"`of` asks for '{name}' at points; its values belong in `given`")
    points = as_numbers(found.points, f"the points of '{name}' in `of`")
    there = _columns(name, points[None], axes)
    if not np.isfinite(there).all() or not there.shape[1]:
        raise QueryError(f"'{name}' is asked at one or more finite points, got {points.shape}")
    return np.repeat(there, count, axis=0)


def _columns(name: str, points: np.ndarray, axes: int) -> np.ndarray:
    """`(count, k, axes)`; one coordinate may be written without its axis."""
    there = points[..., None] if axes == 1 and points.ndim == 2 else points
    if there.ndim != 3 or there.shape[2] != axes:
        shape = "(k,)" if axes == 1 else f"(k, {axes})"
        raise DataError(f"the points of '{name}' must have the shape {shape}, got {points.shape[1:]}")
    return there


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a simulator returned, functions as values and places by name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, At):
            found |= {name: value.values, places_of(name): value.points}
        else:
            found[name] = value
    return found


def joined(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `recorded`."""
    places = {places_of(name) for name in values} & set(values)
    return {
        name: At(values[places_of(name)], value) if places_of(name) in places else value
        for name, value in values.items()
        if name not in places
    }


def variables_of(name: str, value: At, low: Any, high: Any, kind: str) -> tuple[Variable, Variable]:
    """The variable of a function, and that of where it lies.

    Raises:
        DataError: points and values that do not fit.
    """
    points, shape = np.shape(value.points), np.shape(value.values)
    if len(shape) != 1 or points[:1] != shape or len(points) > 2:
        raise DataError(f"a function is values (k,) at points (k,) or (k, axes), but '{name}' has {shape} at {points}")
    axes = points[1] if len(points) == 2 else 1
    return (
        Variable(name, shape, low, high, kind=kind, axes=axes),  # type: ignore[arg-type]
        Variable(places_of(name), points, kind="place"),
    )
