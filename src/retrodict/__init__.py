"""retrodict: one generative model of everything a simulator touches, and any question about it."""

import importlib as _importlib
import typing as _typing

from retrodict._compiled import keep_compiled as _keep_compiled
from retrodict._errors import DataError as DataError
from retrodict._errors import FileError as FileError
from retrodict._errors import QueryError as QueryError
from retrodict._errors import RetrodictError as RetrodictError
from retrodict._errors import TrainingError as TrainingError
from retrodict.numpyro_priors import numpyro_prior as numpyro_prior
from retrodict.problem import Function as Function
from retrodict.problem import Plate as Plate
from retrodict.problem import Problem as Problem
from retrodict.problem import numpy_simulator as numpy_simulator
from retrodict.simulate import simulate as simulate
from retrodict.tokens import Batch as Batch
from retrodict.variables import At as At


_keep_compiled()

# Whoever simulates needs no networks, and whoever trains no diagnostics: all else is imported when it is first named.
if _typing.TYPE_CHECKING:
    from retrodict import constraints as constraints
    from retrodict import densities as densities
    from retrodict import diagnostics as diagnostics
    from retrodict import guidance as guidance
    from retrodict import nets as nets
    from retrodict import paths as paths
    from retrodict import roles as roles
    from retrodict import solvers as solvers
    from retrodict import synthesis as synthesis
    from retrodict import tasks as tasks
    from retrodict.command import command_simulator as command_simulator
    from retrodict.constraints import Interval as Interval
    from retrodict.datatree import to_datatree as to_datatree
    from retrodict.dependencies import Dependencies as Dependencies
    from retrodict.distillation import DistillationWarning as DistillationWarning
    from retrodict.distillation import distill as distill
    from retrodict.distillation import distill_density as distill_density
    from retrodict.estimators import CalibrationWarning as CalibrationWarning
    from retrodict.estimators import GuidanceWarning as GuidanceWarning
    from retrodict.estimators import SolverWarning as SolverWarning
    from retrodict.estimators import hierarchical as hierarchical
    from retrodict.estimators import joint as joint
    from retrodict.estimators import likelihood as likelihood
    from retrodict.estimators import posterior as posterior
    from retrodict.estimators import repaint as repaint
    from retrodict.estimators import unconditional as unconditional
    from retrodict.failing import FailedRunsWarning as FailedRunsWarning
    from retrodict.failing import failures as failures
    from retrodict.likeness import unlike as unlike
    from retrodict.likeness import unlike_each as unlike_each
    from retrodict.recipe import learn_posterior as learn_posterior
    from retrodict.saving import load as load
    from retrodict.saving import save as save
    from retrodict.store import open_store as open_store
    from retrodict.training import fit as fit
    from retrodict.truncation import truncate as truncate
    from retrodict.trust import check as check
    from retrodict.tuning import tune as tune

_ROOMS = (
    "constraints", "densities", "diagnostics", "guidance", "nets", "paths", "roles", "solvers", "synthesis", "tasks",
)  # fmt: skip
_NAMES = {
    "command": ("command_simulator",),
    "constraints": ("Interval",),
    "datatree": ("to_datatree",),
    "dependencies": ("Dependencies",),
    "distillation": ("DistillationWarning", "distill", "distill_density"),
    "estimators": (
        "CalibrationWarning", "GuidanceWarning", "SolverWarning", "hierarchical", "joint", "likelihood", "posterior",
        "repaint", "unconditional",
    ),
    "failing": ("FailedRunsWarning", "failures"),
    "likeness": ("unlike", "unlike_each"),
    "recipe": ("learn_posterior",),
    "saving": ("load", "save"),
    "store": ("open_store",),
    "training": ("fit",),
    "truncation": ("truncate",),
    "trust": ("check",),
    "tuning": ("tune",),
}  # fmt: skip
_HOMES = {name: room for room, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> _typing.Any:
    if name in _ROOMS:
        return _importlib.import_module(f"retrodict.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'retrodict' has no attribute '{name}'")
    found = globals()[name] = getattr(_importlib.import_module(f"retrodict.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_HOMES})
