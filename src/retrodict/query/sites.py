"""Questions about many sites: names to one row per site, and back.

What is given about sites has a leading axis, `(sites, *shape)`; NaN is not observed, as ever, so that sites may have
observations of different kinds and numbers. A function has `rd.At(points (sites, k), values (sites, k))`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrodict._errors import DataError, QueryError, listed, unknown
from retrodict.query.family import Shares
from retrodict.query.functions import slots
from retrodict.query.tokens import Batch, as_numbers, ask
from retrodict.roles import ABSENT, GIVEN
from retrodict.variables import At, Layout


@dataclass(frozen=True)
class SiteQuestion:
    """A question about `count` sites.

    `shared` and `own` are what is given, in the user's units; `of` maps every variable that is asked to the points,
    the mask or the None it was asked with. `values` and `roles` `(count, d)` are the sites' elements in the slots of
    `layout`, `d` those of its own variables.
    """

    count: int
    shared: Mapping[str, Any]
    own: Mapping[str, Any]
    of: Mapping[str, Any]
    layout: Layout
    values: np.ndarray
    roles: np.ndarray

    @property
    def seen(self) -> bool:
        """Whether anything is known of any site."""
        return bool((self.roles == GIVEN).any())

    @property
    def complete(self) -> np.ndarray:
        """The sites `(count,)` of which all data are given and no own parameter."""
        known = np.where(self.layout.only_own.is_parameter, self.roles != GIVEN, self.roles == GIVEN)
        return known.all(axis=1)

    @property
    def shares(self) -> Shares:
        """The shares given and asked of every variable; of a function, of the sites that have one."""
        found = [(name, float(name in self.shared), float(name in self.of)) for name in self.layout.shared]
        own = self.layout.only_own
        for name in own.names:
            if own[name].kind != "place":
                seen = self.roles[:, own.slices[name]] == GIVEN
                share = float((seen.any(axis=1) if own[name].axes else seen).mean())
                found.append((name, share, (1.0 - share) * (name in self.of)))
        return tuple(found)

    def points(self) -> dict[str, At | None]:
        """Own variables that are asked, functions with the points they are asked at."""
        asked = {name: how for name, how in self.of.items() if name in self.layout.own}
        return {name: how if isinstance(how, At) else None for name, how in asked.items()}

    def open_sites(self) -> np.ndarray:
        """The sites of which something is asked that is not given.

        Raises:
            QueryError: there is none, or a mask of another shape or type.
        """
        names = list(self.points())
        asked = np.any([self._mask(name) for name in names], axis=0)
        found = [i for i in np.flatnonzero(asked) if any(self._open(name, int(i)) for name in names)]
        if not found:
            raise QueryError("nothing is left to ask: every element of `of` is given; leave something out of `given`")
        return np.asarray(found)

    def rows(self, shared: Mapping[str, np.ndarray], which: np.ndarray) -> Batch:
        """One row for every draw of what is shared and every site: what is known of that site beside that draw."""
        n = len(next(iter(shared.values())))
        found: dict[str, Any] = {name: np.repeat(np.asarray(v), len(which), axis=0) for name, v in shared.items()}

        def tiled(value: Any) -> np.ndarray:
            part = np.asarray(value, np.float32)[which]
            return np.tile(part, (n, *[1] * (part.ndim - 1)))

        for name, value in self.own.items():
            found[name] = At(tiled(value.points), tiled(value.values)) if isinstance(value, At) else tiled(value)
        return Batch(found)

    def told(self, name: str, values: np.ndarray) -> np.ndarray:
        """Draws `(n, sites, *shape)` with NaN at sites that were not asked, and what is given as it is."""
        values = np.where(self._mask(name).reshape(-1, *[1] * (values.ndim - 2)), values, np.nan)
        known = self.own.get(name)
        return values if known is None or isinstance(known, At) else np.where(np.isnan(known), values, known)

    def _mask(self, name: str) -> np.ndarray:
        """The sites `(count,)` of which a variable is asked."""
        how = self.of[name]
        if isinstance(how, At | None):
            return np.ones(self.count, bool)
        mask = np.asarray(how)
        if mask.dtype != bool or mask.shape != (self.count,):
            raise QueryError(
                f"`of` maps '{name}' to the sites that are asked, booleans of the shape ({self.count},), "
                f"got {mask.dtype} of the shape {mask.shape}"
            )
        return mask

    def _open(self, name: str, site: int) -> bool:
        known = self.own.get(name)
        return known is None or isinstance(known, At) or bool(np.isnan(known[site]).any())


def site_question(
    layout: Layout,
    given: Mapping[str, Any] | None,
    of: Iterable[str] | Mapping[str, Any] | None,
    sites: int | None,
) -> SiteQuestion:
    """Reads a question about many sites.

    Raises:
        QueryError: a name that the layout does not have, or nothing left to ask.
        DataError: a wrong shape, type or value, or numbers of sites that differ.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise QueryError(f"`given` must map names to values, got {type(given).__name__}")
    for name in given:
        if name not in layout.names:
            raise QueryError(unknown("`given`", name, layout.names))
    wanted = _wanted(layout, given, of)
    own = {name: value for name, value in given.items() if name in layout.own}
    shared = {name: value for name, value in given.items() if name not in layout.own}
    count = _count(own, sites)
    own = {name: _padded(value, count) for name, value in own.items()}
    found = slots(layout, Batch(own), None) if layout.functions else None
    cut, filled = (layout, Batch(own)) if found is None else (found.layout, found.given)
    if own:
        question = ask(cut, filled, cut.shared)  # refuses wrong shapes, infinite numbers, values outside supports
        values, roles = question.values, question.roles
    else:
        values, roles = (np.zeros((count, cut.size), kind) for kind in (np.float32, np.int32))
    where = cut.tokens_of(cut.own)
    return SiteQuestion(count, shared, own, wanted, cut, values[:, where], _given_only(roles[:, where]))


def observed_at(given: Batch, which: Any) -> dict[str, Any]:
    """One observation of a batch, or several of them."""
    return {k: At(v.points[which], v.values[which]) if isinstance(v, At) else v[which] for k, v in given.items()}


def _given_only(roles: np.ndarray) -> np.ndarray:
    return np.where(roles == GIVEN, GIVEN, ABSENT)


def _wanted(layout: Layout, given: Mapping[str, Any], of: Any) -> dict[str, Any]:
    if of is None:
        names = [name for name in layout.names if name not in given and name not in layout.places]
        found: dict[str, Any] = {name: None for name in names if name not in layout.functions}
    else:
        listing = [of] if isinstance(of, str) else list(of)
        found = {name: of[name] if isinstance(of, Mapping) else None for name in listing}
    for name in found:
        if name not in layout.names or name in layout.places:
            raise QueryError(unknown("`of`", name, [n for n in layout.names if n not in layout.places]))
        if name in layout.shared and name in given:
            raise QueryError(f"'{name}' is both asked and given; leave it out of one")
    if not found:
        raise QueryError(f"nothing is left to ask: name some of {listed(layout.names)} in `of`, or give less")
    return found


def _count(own: Mapping[str, Any], sites: int | None) -> int:
    """The number of sites: that of what is given, or `sites` if there are more."""
    lengths = {}
    for name, value in own.items():
        array = np.asarray(value.points if isinstance(value, At) else as_numbers(value, f"'{name}' in `given`"))
        if array.ndim == 0:
            raise DataError(f"'{name}' in `given` needs a leading axis, one entry for every site; got a single number")
        lengths[name] = len(array)
    if len(set(lengths.values())) > 1:
        raise DataError(f"what is given needs the same number of sites, got {lengths}; write NaN for what is not known")
    known = next(iter(lengths.values()), 0)
    if sites is not None and (isinstance(sites, bool) or not isinstance(sites, int | np.integer) or sites < known):
        raise DataError(f"`sites` must be a whole number, at least the {known} that are given, got {sites!r}")
    return int(sites) if sites is not None else max(known, 1)


def _padded(value: Any, count: int) -> Any:
    """What is given, NaN for sites of which nothing is known."""
    if isinstance(value, At):
        return At(_padded(value.points, count), _padded(value.values, count))
    array = np.asarray(value, np.float32)
    return np.pad(array, [(0, count - len(array)), *[(0, 0)] * (array.ndim - 1)], constant_values=np.nan)
