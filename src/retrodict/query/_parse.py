"""A question in names becomes a `Query`: roles and values per token.

    given {"x": [.3, nan]},  of ["theta"]      ->      theta latent,  x[0] given,  x[1] absent

Everything that can be wrong with names, shapes, types, masks, intervals and points is caught here, with one set of
sentences. NaN in `given` means not observed. `of` defaults to the variables that `given` does not mention;
where it mentions all of them, to those with missing elements.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from retrodict._errors import DataError, QueryError, listed, unknown
from retrodict.query._query import Query
from retrodict.query.functions import functions_in, in_slots, slot_rows, slots
from retrodict.query.interval import Interval, fixed_values, interval_masks, intervals_in
from retrodict.query.tokens import Batch, as_numbers, flatten, named_values, requests_of, shape_text, unflatten
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.transforms import supports
from retrodict.variables import At, Layout, Variable, names_of


Given = Mapping[str, Any] | None
Of = Iterable[str] | Mapping[str, Any] | None
NOTHING_LEFT = "nothing is left to ask: every element of `of` is given; leave something out of `given`"
VALUES = "`values` must map at least one name to its values"
ONE_OBSERVATION = "a question with constraints is about one observation; ask a Batch one by one"


class Constraint(Protocol):
    """Something that must hold of the answer; see `retrodict.constraints`."""

    def masks(self, layout: Layout) -> dict[str, np.ndarray]: ...


def parse(
    layout: Layout,
    given: Given = None,
    of: Of = None,
    *,
    guide: Sequence[Constraint] = (),
    strength: float = 1.0,
    correct: bool = True,
    embedded: Mapping[str, int] | None = None,
) -> Query:
    """Turns a question in names into a `Query`.

    Args:
        given: names to values `shape`, to intervals, or, in a `Batch`, to values `(B, *shape)`.
        of: names; or names to booleans `shape`, the elements that are asked, or to None for all that is not given.
        guide: constraints on the answer; their elements are drawn, too.
        strength: the exponent of classifier-free guidance.
        correct: whether guided draws are weighted by their density.
        embedded: variables that can be given, not asked, and the number of their axes along which parts may be missing.

    Raises:
        QueryError: a wrong name, an element of `of` that is given as well, or nothing left to ask.
        DataError: a wrong shape or type, infinite numbers, or a value outside its support.
    """
    embedded, given, places = embedded or {}, as_mapping(given), dict[str, slice]()
    check_names("`given`", given, layout.names)
    missing = _names_with_missing(layout, given)
    if layout.functions and not in_slots(layout, given):
        resized = slots(layout, given, of)
        layout, given, of, places = resized.layout, resized.given, resized.of, dict(resized.answers)
    answers = layout.without((*embedded, *layout.places))
    intervals, batched = intervals_in(given), isinstance(given, Batch)
    if batched and (intervals or guide or strength != 1.0):
        raise QueryError(ONE_OBSERVATION)
    observed = observed_arrays(layout, given if batched else _exact(answers, given, intervals), batched=batched)
    if of is None:
        unmentioned = [name for name in answers.names if name not in given]
        names = unmentioned or [name for name in answers.names if name in missing]
    else:
        names = requested(layout, of)
    masks = _asked_masks(layout, names, requests_of(of), observed)
    for constraint_masks in _guided_masks(answers, intervals, guide, observed):
        for name, mask in constraint_masks.items():
            masks[name] = masks.get(name, np.zeros(layout[name].size, bool)) | mask
    roles, values = _roles_and_values(layout, masks, observed)
    _refuse_embedded(layout, names, roles, embedded)
    return Query(
        layout,
        answers,
        roles,
        values,
        tuple(name for name in layout.names if name in names),
        batched=batched,
        places=places,
        intervals=intervals,
        constraints=tuple(guide),
        strength=strength,
        correct=correct,
    )


def parse_values(
    layout: Layout, values: Mapping[str, Any], given: Given = None, *, embedded: Mapping[str, int] | None = None
) -> tuple[Query, np.ndarray, bool]:
    """Turns the question of a density into a `Query`, whose latent elements are those of `values`.

    Returns the query, the tokens `(n, d)` of values and given elements, and whether `values` was one value, `shape`
    instead of `(n, *shape)`. Elements that are NaN in every row of `values` are left out.

    Raises:
        QueryError: a wrong name, an element both in `values` and in `given`.
        DataError: a wrong shape or type, or NaN in some rows only.
    """
    values = named_values(values, VALUES, QueryError)
    if not values:
        raise QueryError(VALUES)
    check_names("`values`", values, layout.names)
    given = as_mapping(given)
    if layout.functions and not in_slots(layout, given):
        points = {name: At(function.points) for name, function in functions_in(values).items()}
        resized = slots(layout, given, {**dict.fromkeys(values), **points})
        values = slot_rows(resized.layout, values, resized.answers)
        layout, given = resized.layout, resized.given
    values, single = _with_rows(layout, values)
    tokens = flatten(layout, values, values, where="`values`")
    latent = ~np.isnan(tokens)
    if (latent != latent[0]).any():
        raise DataError("`values` has NaN in some rows only; NaN leaves an element out, in every row or in none")
    query = parse(layout, given, unflatten(layout, latent[0], values), embedded=embedded)
    if query.batched and len(query.roles) != len(tokens):
        raise DataError(
            f"`values` has {len(tokens)} rows and the Batch {len(query.roles)} observations; they are paired row by row"
        )
    return query, np.where(query.roles == LATENT, tokens, query.values), single


# names ----------------------------------------------------------------------------------------------------------------


def as_mapping(given: Given) -> Mapping[str, Any]:
    """Returns `given` as a mapping.

    Raises:
        QueryError: it is none, nor a table such as those of pandas.
    """
    return {} if given is None else named_values(given, "`given` must map names to values", QueryError)


def check_names(argument: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Refuses a name that is not known.

    Raises:
        QueryError: with the nearest name that is.
    """
    for name in names:
        if name not in known:
            raise QueryError(unknown(argument, name, known))


def requested(layout: Layout, of: Iterable[str]) -> list[str]:
    """Returns the names in `of`, in the order of the layout.

    Raises:
        QueryError: a name that the layout does not have, or no name at all.
    """
    names = names_of(of)
    check_names("`of`", names, layout.names)
    if not names:
        raise QueryError(f"`of` is empty; name at least one of {listed(layout.names)}")
    return [name for name in layout.names if name in names]


def element_masks(given: Iterable[str] | Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Returns by name which elements are given, booleans `shape`, for a family of questions about many rows.

    `given` is a list of names, or maps names to booleans.

    Raises:
        QueryError: a wrong name, or no names at all.
        DataError: a mask of the wrong shape or type.
    """
    if isinstance(given, str):
        raise QueryError(f"`given` must be a list of names or a mapping from name to booleans, got '{given}'")
    check_names("`given`", given, list(shapes))
    masks = {}
    for name in given:
        masks[name] = np.asarray(given[name]) if isinstance(given, Mapping) else np.ones(shapes[name], bool)
        if masks[name].dtype != bool or masks[name].shape != shapes[name]:
            raise DataError(f"'{name}' in `given` must be booleans of the shape {shapes[name]}")
    if not masks:
        raise QueryError("`given` names nothing; name what was observed, such as given=['y']")
    return masks


# values ---------------------------------------------------------------------------------------------------------------


def _names_with_missing(layout: Layout, given: Mapping[str, Any]) -> set[str]:
    """Returns the variables in `given` of which an element is missing or known to an interval; functions apart."""
    numbers = {name: value for name, value in given.items() if name not in layout.functions}
    intervals = intervals_in(numbers)
    arrays = {
        name: as_numbers(value, f"'{name}' in `given`") for name, value in numbers.items() if name not in intervals
    }
    return {*intervals, *(name for name, array in arrays.items() if np.isnan(array).any())}


def _exact(layout: Layout, given: Mapping[str, Any], intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """Returns what is given as numbers; of intervals, the elements with equal ends."""
    numbers = {name: value for name, value in given.items() if name not in intervals}
    return numbers | fixed_values(layout, intervals)


def observed_arrays(layout: Layout, given: Mapping[str, Any], *, batched: bool) -> dict[str, np.ndarray]:
    """Returns what is given as arrays `(m, size)`, NaN where not observed."""
    arrays = {name: _numbers_of(layout[name], value, batched=batched) for name, value in given.items()}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"every variable in a Batch needs the same number of observations, got {lengths}")
    for name, array in arrays.items():
        _check_support(layout[name], array)
    return arrays


def _numbers_of(variable: Variable, value: Any, *, batched: bool) -> np.ndarray:
    array = as_numbers(value, f"'{variable.name}' in `given`")
    if not batched and array.shape == (1, *variable.shape):
        array = array[0]  # one observation may have its axis, too
    shape = array.shape[1:] if batched and array.ndim else array.shape
    if shape != variable.shape or (batched and array.ndim == 0):
        expected = shape_text("B", variable) if batched else str(variable.shape)
        cure = "" if batched or array.shape[1:] != variable.shape else "; for many observations pass rd.Batch({...})"
        raise DataError(f"'{variable.name}' in `given` must have the shape {expected}, got {array.shape}{cure}")
    if np.isinf(array).any():
        raise DataError(f"'{variable.name}' in `given` is infinite somewhere; write NaN for what was not observed")
    return array.reshape(-1, variable.size)


def _check_support(variable: Variable, array: np.ndarray) -> None:
    observed = ~np.isnan(array)
    low, high = (end[np.nonzero(observed)[1]] for end in variable.ends)
    outside = ~supports.contains(array[observed], low, high)
    if outside.any():
        first = int(np.argmax(outside))
        value = array[observed][first]
        raise DataError(
            f"'{variable.name}' in `given` is {value:g}, outside its support ({low[first]:g}, {high[first]:g})"
        )


def _with_rows(layout: Layout, values: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Returns `values` with a leading axis, and whether it was missing in all of them."""
    arrays = {name: as_numbers(value, f"'{name}' in `values`") for name, value in values.items()}
    if all(array.shape == layout[name].shape for name, array in arrays.items()):
        return {name: array[None] for name, array in arrays.items()}, True
    return values, False


# roles ----------------------------------------------------------------------------------------------------------------


def _element_mask(variable: Variable, request: Any) -> np.ndarray:
    """Returns which elements of a variable are asked, flat."""
    if request is None:
        return np.ones(variable.size, bool)
    mask = np.asarray(request)
    if mask.dtype != bool or mask.shape != variable.shape:
        raise QueryError(
            f"`of` maps '{variable.name}' to the elements that are asked, booleans of the shape {variable.shape}, "
            f"got {mask.dtype} of the shape {mask.shape}"
        )
    return mask.ravel()


def _asked_masks(
    layout: Layout, names: Iterable[str], requests: Mapping[str, Any], observed: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Returns by name the elements that are asked, flat; refuses elements that a mask in `of` names and `given` has."""
    masks = {name: _element_mask(layout[name], requests.get(name)) for name in names}
    for name in masks:
        named = requests.get(name) is not None and name in observed
        if named and (masks[name] & ~np.isnan(observed[name])).any():
            raise QueryError(f"'{name}' has an element that is both asked and given; ask for what is not given")
    return masks


def _guided_masks(
    layout: Layout,
    intervals: Mapping[str, Interval],
    guide: Sequence[Constraint],
    observed: Mapping[str, np.ndarray],
) -> list[dict[str, np.ndarray]]:
    """Returns for every constraint the elements, flat by name, that it speaks of and that are not given."""
    result = []
    constraints = [
        ("Interval", interval_masks(layout, intervals)),
        *((type(c).__name__, c.masks(layout)) for c in guide),
    ]
    for constraint, masks in constraints:
        if not any(mask.any() for mask in masks.values()):
            continue
        free = {name: mask.ravel() & _unobserved(observed, name) for name, mask in masks.items()}
        if not any(mask.any() for mask in free.values()):
            raise QueryError(
                f"nothing is left for {constraint} to guide: all that it speaks of is given; "
                "leave something out of `given`"
            )
        result.append(free)
    return result


def _unobserved(observed: Mapping[str, np.ndarray], name: str) -> Any:
    return np.isnan(observed[name][0]) if name in observed else True


def _roles_and_values(
    layout: Layout, masks: Mapping[str, np.ndarray], observed: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    m = len(next(iter(observed.values()))) if observed else 1
    roles = np.full((m, layout.size), ABSENT, np.int32)
    values = np.zeros((m, layout.size), np.result_type(np.float32, *observed.values()))
    for name, mask in masks.items():
        roles[:, layout.slices[name]] = np.where(mask, LATENT, ABSENT)
    for name, array in observed.items():
        block, observed_mask = layout.slices[name], ~np.isnan(array)
        roles[:, block] = np.where(observed_mask, GIVEN, roles[:, block])
        values[:, block] = np.where(observed_mask, array, 0.0)
    if not (roles == LATENT).any(axis=1).all():
        raise QueryError(NOTHING_LEFT)
    return roles, values


def _refuse_embedded(layout: Layout, names: Sequence[str], roles: np.ndarray, embedded: Mapping[str, int]) -> None:
    for name, pieces in embedded.items():
        if name in names:
            raise QueryError(f"'{name}' is read as a whole by an embedding; it can be given, not asked")
        block = roles[:, layout.slices[name]]
        if not pieces and (block != block[:, :1]).any():
            raise QueryError(f"'{name}' is read as a whole by an embedding; give all of it, or leave it out of `given`")
