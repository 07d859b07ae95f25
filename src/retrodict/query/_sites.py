"""Questions about many sites: what is known of each, one row per site.

What is given about sites has a leading axis, `(sites, *shape)`. NaN is not observed, so that sites may have
observations of different kinds and numbers. A function has `rd.At(points (sites, k), values (sites, k))`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32

from retrodict._errors import QueryError
from retrodict.query.family import Shares
from retrodict.query.functions import each_array, functions_in
from retrodict.query.tokens import Batch
from retrodict.roles import GIVEN
from retrodict.variables import At, Layout


@dataclass(frozen=True, eq=False)
class SiteQuery:
    """A question about `count` sites.

    Attributes:
        count: the number of sites, S.
        shared: shared variables that are given, in the user's units.
        own: variables of sites that are given, in the user's units.
        of: every variable that is asked, with the points, the mask of sites or the None it was asked with.
        layout: the variables of one site, functions with as many slots as the question has.
        values: the elements of all sites' variables, `(S, d)`.
        roles: GIVEN or ABSENT, `(S, d)`.
    """

    count: int
    shared: Mapping[str, Any]
    own: Mapping[str, Any]
    of: Mapping[str, Any]
    layout: Layout
    values: Float64[np.ndarray, "S d"]
    roles: Int32[np.ndarray, "S d"]

    @property
    def observed(self) -> bool:
        """Whether anything is known of any site."""
        return bool((self.roles == GIVEN).any())

    @property
    def complete(self) -> Bool[np.ndarray, " S"]:
        """The sites of which all data are given and no parameter."""
        expected = np.where(self.layout.only_own.is_parameter, self.roles != GIVEN, self.roles == GIVEN)
        return expected.all(axis=1)

    @property
    def shares(self) -> Shares:
        """The shares given and asked of every variable; of a function, of the sites that have one."""
        rows = [(name, float(name in self.shared), float(name in self.of)) for name in self.layout.shared]
        site_layout = self.layout.only_own
        for name in site_layout.names:
            if site_layout[name].kind != "place":
                given = self.roles[:, site_layout.slices[name]] == GIVEN
                share = float((given.any(axis=1) if site_layout[name].axes else given).mean())
                rows.append((name, share, (1.0 - share) * (name in self.of)))
        return tuple(rows)

    def points(self) -> dict[str, At | None]:
        """Returns the variables of sites that are asked, functions with the points they are asked at."""
        asked = {name: request for name, request in self.of.items() if name in self.layout.own}
        return {**dict.fromkeys(asked), **functions_in(asked)}

    def open_sites(self) -> Int[np.ndarray, " s"]:
        """Returns the sites of which something is asked that is not given.

        Raises:
            QueryError: there is none, or a mask of another shape or type.
        """
        names = list(self.points())
        asked = np.any([self._site_mask(name) for name in names], axis=0)
        sites = [i for i in np.flatnonzero(asked) if any(self._is_open(name, int(i)) for name in names)]
        if not sites:
            raise QueryError("nothing is left to ask: every element of `of` is given; leave something out of `given`")
        return np.asarray(sites)

    def rows(self, shared: Mapping[str, np.ndarray], sites: np.ndarray) -> Batch:
        """Returns one row for every draw of the shared variables and every site: that draw, and the site's data."""
        n = len(next(iter(shared.values())))
        rows: dict[str, Any] = {name: np.repeat(np.asarray(v), len(sites), axis=0) for name, v in shared.items()}

        def tiled(value: Any) -> np.ndarray:
            part = np.asarray(value)[sites]
            return np.tile(part, (n, *[1] * (part.ndim - 1)))

        for name, value in self.own.items():
            rows[name] = each_array(tiled, value)
        return Batch(rows)

    def with_given(self, name: str, values: np.ndarray) -> np.ndarray:
        """Returns draws `(n, S, *shape)` with NaN at sites that were not asked, and given elements as they are."""
        mask = self._site_mask(name).reshape(-1, *[1] * (values.ndim - 2))
        values, given = np.where(mask, values, np.nan), self.own.get(name)
        return values if given is None or self.layout[name].axes else np.where(np.isnan(given), values, given)

    def _site_mask(self, name: str) -> Bool[np.ndarray, " S"]:
        """Returns the sites of which a variable is asked."""
        request = self.of[name]
        if isinstance(request, At | None):
            return np.ones(self.count, bool)
        mask = np.asarray(request)
        if mask.dtype != bool or mask.shape != (self.count,):
            raise QueryError(
                f"`of` maps '{name}' to the sites that are asked, booleans of the shape ({self.count},), "
                f"got {mask.dtype} of the shape {mask.shape}"
            )
        return mask

    def _is_open(self, name: str, site: int) -> bool:
        given = self.own.get(name)  # a function is asked at other points
        return given is None or self.layout[name].axes > 0 or bool(np.isnan(given[site]).any())
