"""A question about many sites, in names, becomes a `Query` whose observations hold one `SiteQuery` each."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from retrodict._errors import DataError, QueryError, listed
from retrodict._types import is_count
from retrodict.query._parse import NOTHING_LEFT, Constraint, Given, Of, as_mapping, check_names, observed_arrays
from retrodict.query._query import Query
from retrodict.query._sites import SiteQuery
from retrodict.query.functions import each_array, functions_in, points_in, slots
from retrodict.query.interval import intervals_in
from retrodict.query.tokens import Batch, as_numbers, by_position, requests_of
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.variables import Layout, Variable


def parse_sites(
    layout: Layout,
    given: Given = None,
    of: Of = None,
    *,
    sites: int | None = None,
    guide: Sequence[Constraint] = (),
    strength: float = 1.0,
) -> Query:
    """Turns a question about many sites into a `Query`; with a `Batch`, every observation has its sites.

    `of` defaults to the variables that `given` does not mention, functions excepted; it maps a name to booleans
    `(sites,)` where only some sites are asked. With `sites` above the number of given ones the last ones are new.

    Raises:
        QueryError: a name that the layout does not have, or nothing left to ask.
        DataError: a wrong shape, type or value, or numbers of sites that differ.
    """
    given = as_mapping(given)
    check_names("`given`", given, layout.names)
    intervals = intervals_in(given)
    values = {name: value for name, value in given.items() if name not in intervals}
    batched = isinstance(given, Batch)
    if batched:
        batch = Batch(values)
        queries = [_site_query(layout, observation_of(batch, i), of, sites) for i in range(_batch_size(batch))]
    else:
        queries = [_site_query(layout, values, of, sites)]
    answers = _answers(layout, queries[0])
    roles = np.full((len(queries), answers.size), LATENT, np.int32)
    return Query(
        layout=layout,
        answers=answers,
        roles=roles,
        values=np.zeros(roles.shape),
        of=tuple(name for name in layout.names if name in queries[0].of),
        batched=batched,
        intervals=intervals,
        constraints=tuple(guide),
        strength=strength,
        sites=tuple(queries),
    )


def observation_of(given: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Returns one observation of a batch, or several of them."""
    return {name: each_array(lambda array: by_position(array)[index], value) for name, value in given.items()}


def _batch_size(given: Batch) -> int:
    lengths = {len(points_in(value)) for value in given.values()}
    if len(lengths) != 1:
        raise DataError(f"every variable in a Batch needs the same number of observations, got {sorted(lengths)}")
    return lengths.pop()


def _answers(layout: Layout, query: SiteQuery) -> Layout:
    """Returns the layout of the answer: every variable that is asked, those of sites with an axis of sites."""
    functions = functions_in(query.of)

    def answer(name: str) -> Variable:
        variable = layout[name]
        shape = np.shape(functions[name].points)[:1] if name in functions else variable.shape
        sites = (query.count,) if variable.plate else ()
        return Variable(name, (*sites, *shape), kind=variable.kind)

    return Layout(tuple(answer(name) for name in layout.names if name in query.of))


def _site_query(layout: Layout, given: Mapping[str, Any], of: Of, sites: int | None) -> SiteQuery:
    requests = _requests(layout, given, of)
    site_values = {name: value for name, value in given.items() if name in layout.own}
    shared = {name: value for name, value in given.items() if name not in layout.own}
    count = _number_of_sites(site_values, sites)
    site_values = {name: each_array(partial(_padded, count=count), value) for name, value in site_values.items()}
    resized, rows = layout, Batch(site_values)
    if layout.functions:
        slotted = slots(layout, Batch(site_values), None)
        resized, rows = slotted.layout, slotted.given  # type: ignore[assignment]
    tokens = resized.tokens_of(resized.own)
    observed = observed_arrays(resized, rows, batched=True) if site_values else {}
    values = np.zeros((count, resized.size), np.result_type(np.float32, *observed.values()))
    roles = np.full((count, resized.size), ABSENT, np.int32)
    for name, array in observed.items():
        block, observed_mask = resized.slices[name], ~np.isnan(array)
        values[:, block] = np.where(observed_mask, array, 0.0)
        roles[:, block] = np.where(observed_mask, GIVEN, ABSENT)
    return SiteQuery(count, shared, site_values, requests, resized, values[:, tokens], roles[:, tokens])


def _requests(layout: Layout, given: Mapping[str, Any], of: Of) -> dict[str, Any]:
    if of is None:
        names = [n for n in layout.names if n not in layout.places and n not in layout.functions]
        unmentioned = [name for name in names if name not in given]
        requests: dict[str, Any] = dict.fromkeys(
            unmentioned or [n for n in names if n in layout.own and _has_nan(given[n])]
        )
    else:
        requests = requests_of(of)
    check_names("`of`", requests, [name for name in layout.names if name not in layout.places])
    for name in requests:
        if name in layout.shared and name in given:
            raise QueryError(f"'{name}' is both asked and given; leave it out of one")
    if not requests:
        raise QueryError(NOTHING_LEFT if of is None else f"`of` is empty; name at least one of {listed(layout.names)}")
    return requests


def _has_nan(value: Any) -> bool:
    return bool(np.isnan(as_numbers(value, "a variable in `given`")).any())


def _number_of_sites(own: Mapping[str, Any], sites: int | None) -> int:
    """Returns the number of sites: that of what is given, or `sites` if there are more."""
    lengths = {}
    for name, value in own.items():
        array = as_numbers(points_in(value), f"'{name}' in `given`")
        if array.ndim == 0:
            raise DataError(f"'{name}' in `given` needs a leading axis, one entry for every site; got a single number")
        lengths[name] = len(array)
    if len(set(lengths.values())) > 1:
        raise DataError(f"what is given needs the same number of sites, got {lengths}; write NaN for what is not known")
    n_given = next(iter(lengths.values()), 0)
    if sites is not None and not is_count(sites, n_given):
        raise DataError(f"`sites` must be a whole number, at least the {n_given} that are given, got {sites!r}")
    return int(sites) if sites is not None else max(n_given, 1)


def _padded(value: Any, count: int) -> np.ndarray:
    """Returns an array of what is given, NaN for sites of which nothing is known."""
    array = as_numbers(value, "a variable in `given`")
    return np.pad(array, [(0, count - len(array)), *[(0, 0)] * (array.ndim - 1)], constant_values=np.nan)
