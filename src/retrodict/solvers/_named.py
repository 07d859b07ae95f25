"""Solvers of fixed steps written down by name, so that a model file can carry one; a file may name nothing else."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from retrodict._errors import FileError, QueryError
from retrodict.paths import AbstractGrid, KarrasRho, LogSNR, Power, Uniform
from retrodict.solvers._base import AbstractSolver, AbstractStepping
from retrodict.solvers._edm import EDMSampler
from retrodict.solvers._fixed import RK4, AdamsBashforth, Euler, Heun, Midpoint
from retrodict.solvers._multistep import DPMSolver
from retrodict.solvers._straightened import Straightened


GRIDS: dict[str, type[AbstractGrid]] = {grid.__name__: grid for grid in (Uniform, Power, KarrasRho, LogSNR)}
SCHEMES: dict[str, type[AbstractStepping]] = {
    scheme.__name__: scheme for scheme in (Euler, Midpoint, Heun, RK4, AdamsBashforth, DPMSolver, EDMSampler)
}


def to_json(solver: AbstractSolver) -> dict[str, Any]:
    """A solver by its name and settings.

    Raises:
        QueryError: the solver or its grid is not one of the tables above.
    """
    if isinstance(solver, Straightened):
        return {"name": "Straightened", "solver": to_json(solver.solver)}
    found: dict[str, Any] = {"name": _name_of(solver, SCHEMES)}
    for field in dataclasses.fields(solver):
        value = getattr(solver, field.name)
        found[field.name] = (
            {"name": _name_of(value, GRIDS), **dataclasses.asdict(value)} if isinstance(value, AbstractGrid) else value
        )
    return found


def from_json(found: Mapping[str, Any]) -> AbstractSolver:
    """The inverse of `to_json`.

    Raises:
        FileError: a name that is in no table.
    """
    settings = dict(found)
    name = settings.pop("name")
    if name == "Straightened":
        return Straightened(from_json(settings["solver"]))
    if settings.get("grid") is not None:
        grid = dict(settings["grid"])
        settings["grid"] = _known(grid.pop("name"), GRIDS)(**grid)
    solver: AbstractSolver = _known(name, SCHEMES)(**settings)
    return solver


def _name_of(thing: Any, table: Mapping[str, type]) -> str:
    name = type(thing).__name__
    if table.get(name) is not type(thing):
        raise QueryError(f"{name} is not one of retrodict's own, which alone a file can name; tune among those")
    return name


def _known(name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise FileError(f"the file names the solver or grid '{name}', which this version does not know")
    return table[name]
