"""Solvers as JSON. A model file names a solver of fixed steps and its grid by a written name.

Written names are part of the file format: a class may be renamed, its written name may not. A file can name nothing but
the entries of these tables.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from retrodict._errors import FileError, QueryError
from retrodict.paths import AbstractGrid, KarrasRho, LogSNR, Power, Uniform
from retrodict.solvers._base import AbstractSolver, AbstractStepping
from retrodict.solvers._edm import EDMSampler
from retrodict.solvers._fixed import RK4, AdamsBashforth, Euler, Heun, Midpoint
from retrodict.solvers._multistep import DPMSolver
from retrodict.solvers._straightened import Straightened, stripped


STRAIGHTENED = "Straightened"
GRIDS: dict[str, type[AbstractGrid]] = {
    "Uniform": Uniform,
    "Power": Power,
    "KarrasRho": KarrasRho,
    "LogSNR": LogSNR,
}
SCHEMES: dict[str, type[AbstractStepping]] = {
    "Euler": Euler,
    "Midpoint": Midpoint,
    "Heun": Heun,
    "RK4": RK4,
    "AdamsBashforth": AdamsBashforth,
    "DPMSolver": DPMSolver,
    "EDMSampler": EDMSampler,
}


def to_json(solver: AbstractSolver) -> dict[str, Any]:
    """Returns the written name and the settings of a solver.

    Raises:
        QueryError: the solver or its grid is in none of the tables.
    """
    inner = stripped(solver)
    if inner is not solver:
        return {"name": STRAIGHTENED, "solver": to_json(inner)}
    entry: dict[str, Any] = {"name": _name_of(solver, SCHEMES)}
    entry |= {field.name: getattr(solver, field.name) for field in dataclasses.fields(solver)}
    if grid := entry.get("grid"):
        entry["grid"] = {"name": _name_of(grid, GRIDS), **dataclasses.asdict(grid)}
    return entry


def from_json(entry: Mapping[str, Any]) -> AbstractSolver:
    """Returns the solver that `to_json` wrote.

    Raises:
        FileError: a name that is in none of the tables.
    """
    settings = dict(entry)
    name = settings.pop("name")
    if name == STRAIGHTENED:
        return Straightened(from_json(settings["solver"]))
    if settings.get("grid") is not None:
        grid = dict(settings["grid"])
        settings["grid"] = _class_of(grid.pop("name"), GRIDS)(**grid)
    solver: AbstractSolver = _class_of(name, SCHEMES)(**settings)
    return solver


def _name_of(instance: Any, table: Mapping[str, type]) -> str:
    for name, cls in table.items():
        if type(instance) is cls:
            return name
    raise QueryError(
        f"{type(instance).__name__} is not one of retrodict's own, which alone a file can name; choose among the "
        "solvers and grids of retrodict"
    )


def _class_of(name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise FileError(f"the file names the solver or grid '{name}', which this version does not know")
    return table[name]
