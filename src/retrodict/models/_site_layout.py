"""Settings and layouts of a hierarchy."""

import dataclasses
from typing import Literal

from retrodict._errors import DataError, QueryError
from retrodict.solvers import AbstractSolver, Auto
from retrodict.variables import Layout, Variable


Method = Literal["likelihood", "direct", "posterior", "composition"]
METHODS = ("likelihood", "direct", "posterior", "composition")


def refuse_settings(layout: Layout, method: Method, counts: tuple[int, int]) -> None:
    """Refuses settings that no hierarchy can have.

    Raises:
        DataError: the layout has no plate, nothing or a function is shared, or an unknown method or number of sites.
    """
    if method not in METHODS:
        raise DataError(f"`method` is one of {', '.join(METHODS)}, got {method!r}")
    if not 1 <= counts[0] <= counts[1]:
        raise DataError(f"`n_sites` are the fewest and most sites in training, at least 1, got {counts}")
    if not isinstance(layout, Layout) or not layout.plate:
        raise DataError("rd.hierarchical needs the layout of a problem whose prior has a plate: rd.Plate(name, {...})")
    if not layout.shared:
        raise DataError(f"nothing is shared by the sites of '{layout.plate}'; ask one site at a time: rd.joint(layout)")
    if any(layout[name].axes or layout[name].kind == "place" for name in layout.shared):
        raise DataError("what sites share must be numbers; functions that all sites share are not offered yet")


def summary_of(layout: Layout) -> str:
    """Returns the name of the features that all sites of a plate give."""
    return f"{layout.plate}.summary"


def shared_layout(layout: Layout, features: int) -> Layout:
    """Returns the layout of shared variables and of the features of all sites, without a plate."""
    shared = (dataclasses.replace(layout[name], plate="") for name in layout.shared)
    return Layout((*shared, Variable(summary_of(layout), (features,), kind="data")))


def refuse_auto(solver: AbstractSolver | None) -> None:
    """Refuses a solver that measures one model: a hierarchy is several."""
    if isinstance(solver, Auto):
        raise QueryError("Auto measures one model; name a solver, or ask `model.site` about a single site")
