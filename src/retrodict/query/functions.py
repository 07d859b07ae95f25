"""Functions: questions at any points, put into the slots that a model works with.

A model sees a function through slots, each a value and its place. The weights do not depend on the number of slots: a
question gets as many as it needs, first those that are given, then those that are asked, then empty ones.

    given {"counts": At(t, y)},  of {"counts": At(s)}    ->    "counts" [y, NaN],  "counts.at" [t, s],  asked [no, yes]
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrodict._errors import DataError, QueryError
from retrodict.query.interval import Interval, intervals_in
from retrodict.query.tokens import Batch, as_numbers, by_position, requests_of
from retrodict.variables import At, Layout, Variable, places_of


SLOT_MULTIPLE = 4  # numbers of slots are rounded up to it, so that questions of similar size share compiled code


@dataclass(frozen=True)
class Slots:
    """A question in slots.

    Attributes:
        layout: the layout with these numbers of slots.
        given: as in a question, for this layout.
        of: as in a question, for this layout.
        answers: by function, the slots in which its answers lie.
    """

    layout: Layout
    given: Mapping[str, Any]
    of: Mapping[str, Any] | None
    answers: Mapping[str, slice]


def functions_in(values: Mapping[str, Any]) -> dict[str, At]:
    """Returns the functions among values by name."""
    return {name: value for name, value in values.items() if isinstance(value, At)}


def points_in(value: Any) -> Any:
    """Returns the points of a function, and any other value as it is."""
    return value.points if isinstance(value, At) else value


def each_array(change: Callable[[Any], Any], value: Any) -> Any:
    """Returns `change(value)`; of a function, the changed points and the changed values."""
    return At(change(value.points), change(value.values)) if isinstance(value, At) else change(value)


def in_slots(layout: Layout, given: Mapping[str, Any]) -> bool:
    """Whether a question says itself what lies in which slot, as rows of simulations do."""
    return not set(layout.places).isdisjoint(given)


def slots(layout: Layout, given: Mapping[str, Any], of: Iterable[str] | Mapping[str, Any] | None) -> Slots:
    """Brings the functions of a question into slots; the values of a function may be an `Interval`.

    Raises:
        QueryError: a function that is asked without points, or a place that is asked.
        DataError: points and values of different shapes, or points that are not finite where values are.
    """
    batched, bounded = isinstance(given, Batch), intervals_in({n: at.values for n, at in functions_in(given).items()})
    if not bounded or batched:
        return _number_slots(layout, given, of, batched=batched)
    # elements with equal ends go through slots as numbers; the others come back as an interval of every slot
    ends = {name: interval.ends(np.shape(given[name].points)[:1], name) for name, interval in bounded.items()}
    exact = {name: At(given[name].points, np.where(low == high, low, np.nan)) for name, (low, high) in ends.items()}
    result = _number_slots(layout, {**given, **exact}, of, batched=False)
    intervals = {}
    for name, (low, high) in ends.items():
        infinite = np.full(result.layout[name].size - len(low), np.inf)
        intervals[name] = Interval(np.append(low, -infinite), np.append(high, infinite))
    return Slots(result.layout, {**result.given, **intervals}, result.of, result.answers)


def _number_slots(
    layout: Layout, given: Mapping[str, Any], of: Iterable[str] | Mapping[str, Any] | None, *, batched: bool
) -> Slots:
    count = len(by_position(points_in(next(iter(given.values()))))) if batched else 1
    requests = requests_of(of)
    sizes, values, places, answers = {}, {}, {}, {}
    for name in layout.functions:
        axes = layout[name].axes
        points, observed = _no_points(count, axes)
        if name in given:
            points, observed = _observed_points(name, given[name], axes, count, batched=batched)
        asked_points = np.zeros((count, 0, axes), np.float32)
        if name in requests:
            asked_points = _asked_points(name, requests[name], axes, count)
        used = points.shape[1] + asked_points.shape[1]
        size = max(SLOT_MULTIPLE, -(-used // SLOT_MULTIPLE) * SLOT_MULTIPLE)
        empty = np.full((count, size - used, axes), np.nan, np.float32)
        sizes[name], places[name] = size, np.concatenate([points, asked_points, empty], axis=1)
        unknown_values = np.full((count, size - observed.shape[1]), np.nan, np.float32)
        values[name] = np.concatenate([observed, unknown_values], axis=1)
        answers[name] = slice(points.shape[1], used)
    resized = layout.seen_at(sizes)
    return Slots(
        resized,
        _slot_values(resized, given, values, places, requests, batched=batched),
        None if of is None else _slot_requests(resized, requests, answers),
        {name: answers[name] for name in requests if name in answers},
    )


def _slot_values(
    layout: Layout,
    given: Mapping[str, Any],
    values: Mapping[str, Any],
    places: Mapping[str, Any],
    requests: Mapping[str, Any],
    *,
    batched: bool,
) -> Mapping[str, Any]:
    result = {name: value for name, value in given.items() if name not in values}
    for name, array in values.items():
        place = places_of(name)
        points = places[name].reshape(len(array), *layout[place].shape)
        # a slot without a place is empty; a slot with a place and without a value is asked or left out
        result[place] = np.nan_to_num(points)
        if name in given or name not in requests:  # a function that the question does not mention has no points
            result[name] = np.where(np.isnan(places[name]).any(axis=2), np.nan, array)
        if not batched:
            result = {k: v[0] if k in (name, place) else v for k, v in result.items()}
    return Batch(result) if batched else result


def _slot_requests(layout: Layout, requests: Mapping[str, Any], answers: Mapping[str, slice]) -> Mapping[str, Any]:
    result = {}
    for name, request in requests.items():
        if name in layout.places:
            raise QueryError(f"'{name}' says where a function lies; it is known, not asked")
        result[name] = request
        if name in answers:
            result[name] = np.zeros(layout[name].shape, bool)
            result[name][answers[name]] = True
    return result


def _no_points(count: int, axes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((count, 0, axes), np.float32), np.zeros((count, 0), np.float32)


def _observed_points(name: str, value: Any, axes: int, count: int, *, batched: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns points `(count, k, axes)` and values `(count, k)`, NaN where there are none."""
    if not isinstance(value, At) or value.values is None:
        raise DataError(f"'{name}' is a function: `given` says where and what, rd.At(points, values)")
    raw_points = as_numbers(value.points, f"the points of '{name}'")
    raw_values = as_numbers(value.values, f"the values of '{name}'")
    has_axis = batched or (raw_values.ndim == 2 and len(raw_values) == 1)  # one observation may have one, too
    points, values = (x if has_axis else x[None] for x in (raw_points, raw_values))
    points = _with_axes(name, points, axes)
    if values.shape != points.shape[:2] or len(values) != count:
        raise DataError(
            f"'{name}' needs a value for every point, got points {raw_points.shape} and values {raw_values.shape}"
        )
    bad = np.isnan(points).any(axis=2) & ~np.isnan(values) | np.isinf(points).any(axis=2)
    if bad.any():
        raise DataError(f"'{name}' has values at points that are not finite")
    return points, values


def _asked_points(name: str, request: Any, axes: int, count: int) -> np.ndarray:
    if not isinstance(request, At):
        raise QueryError(f"'{name}' is a function: say where it is asked, of={{'{name}': rd.At(points)}}")
    if request.values is not None:
        raise QueryError(f"`of` asks for '{name}' at points; its values belong in `given`")
    raw = as_numbers(request.points, f"the points of '{name}' in `of`")
    points = _with_axes(name, raw[None], axes)
    if not np.isfinite(points).all() or not points.shape[1]:
        raise QueryError(f"'{name}' is asked at one or more finite points, got {raw.shape}")
    return np.repeat(points, count, axis=0)


def _with_axes(name: str, points: np.ndarray, axes: int) -> np.ndarray:
    """Returns points `(count, k, axes)`; one coordinate may be written without its axis."""
    result = points[..., None] if axes == 1 and points.ndim == 2 else points
    if result.ndim != 3 or result.shape[2] != axes:
        shape = "(k,)" if axes == 1 else f"(k, {axes})"
        raise DataError(f"the points of '{name}' must have the shape {shape}, got {points.shape[1:]}")
    return result


def slot_rows(layout: Layout, values: Mapping[str, Any], answers: Mapping[str, slice]) -> dict[str, Any]:
    """Returns the values of a density `{name: (n, *shape)}`, those of functions, `At(points, (n, k))`, in their slots.

    Raises:
        DataError: values of a function that do not fit its points.
    """
    rows: dict[str, Any] = dict(values)
    for name, value in functions_in(values).items():
        array, block = as_numbers(value.values, f"the values of '{name}'"), answers[name]
        if array.ndim != 2 or array.shape[1] != block.stop - block.start:
            raise DataError(f"'{name}' in `values` needs values (n, k) at points (k,), got {array.shape}")
        rows[name] = np.full((len(array), *layout[name].shape), np.nan, array.dtype)
        rows[name][:, block] = array
    return rows


def recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the output of a simulator, functions as values and places by name."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, At):
            result |= {name: value.values, places_of(name): value.points}
        else:
            result[name] = value
    return result


def joined(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the inverse of `recorded`."""
    places = {places_of(name) for name in values} & set(values)
    return {
        name: At(values[places_of(name)], value) if places_of(name) in places else value
        for name, value in values.items()
        if name not in places
    }


def variables_of(name: str, value: At, low: Any, high: Any, kind: str) -> tuple[Variable, Variable]:
    """Returns the variable of a function, and that of its places.

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
