"""retrodict: one generative model of everything a simulator touches, and any question about it."""

import importlib as _importlib
import typing as _typing
from importlib.metadata import version as _version


# Everything is imported when it is first named: whoever simulates needs no networks, whoever trains no diagnostics.
if _typing.TYPE_CHECKING:
    from retrodict import constraints as constraints
    from retrodict import densities as densities
    from retrodict import diagnostics as diagnostics
    from retrodict import guidance as guidance
    from retrodict import nets as nets
    from retrodict import paths as paths
    from retrodict import plots as plots
    from retrodict import roles as roles
    from retrodict import solvers as solvers
    from retrodict import synthesis as synthesis
    from retrodict import tasks as tasks
    from retrodict._errors import DataError as DataError
    from retrodict._errors import FileError as FileError
    from retrodict._errors import QueryError as QueryError
    from retrodict._errors import RetrodictError as RetrodictError
    from retrodict._errors import TrainingError as TrainingError
    from retrodict._runtime.compile_cache import keep_compiled as keep_compiled
    from retrodict.constraints import Interval as Interval
    from retrodict.evaluation import check as check
    from retrodict.evaluation.misspecification import unlike as unlike
    from retrodict.evaluation.misspecification import unlike_each as unlike_each
    from retrodict.evaluation.solver_tuning import tune as tune
    from retrodict.models import AbstractModel as AbstractModel
    from retrodict.models import CalibrationWarning as CalibrationWarning
    from retrodict.models import DistilledDensity as DistilledDensity
    from retrodict.models import DistilledSampler as DistilledSampler
    from retrodict.models import FlowModel as FlowModel
    from retrodict.models import GuidanceWarning as GuidanceWarning
    from retrodict.models import HierarchicalModel as HierarchicalModel
    from retrodict.models import ImportanceSampledPosterior as ImportanceSampledPosterior
    from retrodict.models import SolverWarning as SolverWarning
    from retrodict.models import UntrainedWarning as UntrainedWarning
    from retrodict.models import WeightingWarning as WeightingWarning
    from retrodict.models import hierarchical as hierarchical
    from retrodict.models import joint as joint
    from retrodict.models import likelihood as likelihood
    from retrodict.models import posterior as posterior
    from retrodict.models import repaint as repaint
    from retrodict.models import unconditional as unconditional
    from retrodict.models._files import load as load
    from retrodict.models._files import save as save
    from retrodict.problem import Function as Function
    from retrodict.problem import Plate as Plate
    from retrodict.problem import Problem as Problem
    from retrodict.problem import numpy_simulator as numpy_simulator
    from retrodict.problem._command_simulator import command_simulator as command_simulator
    from retrodict.problem._numpyro_prior import numpyro_prior as numpyro_prior
    from retrodict.problem.dependencies import Dependencies as Dependencies
    from retrodict.query.tokens import Batch as Batch
    from retrodict.report.datatree import to_datatree as to_datatree
    from retrodict.simulation._failures import FailedRunsWarning as FailedRunsWarning
    from retrodict.simulation._failures import failures as failures
    from retrodict.simulation._simulate import simulate as simulate
    from retrodict.simulation._simulate import simulate_at as simulate_at
    from retrodict.simulation.rows import Simulations as Simulations
    from retrodict.simulation.store import open_store as open_store
    from retrodict.training import fit as fit
    from retrodict.training._distill import DistillationWarning as DistillationWarning
    from retrodict.training._distill import distill as distill
    from retrodict.training._distill import distill_density as distill_density
    from retrodict.training._learn_posterior import learn_posterior as learn_posterior
    from retrodict.training._learned import LearningWarning as LearningWarning
    from retrodict.training._truncated_prior import truncate as truncate
    from retrodict.variables import At as At
    from retrodict.variables import Layout as Layout
    from retrodict.variables import Variable as Variable

_ROOMS = (
    "constraints", "densities", "diagnostics", "guidance", "nets", "paths", "plots", "roles", "solvers", "synthesis",
    "tasks",
)  # fmt: skip
_NAMES = {
    "_errors": ("DataError", "FileError", "QueryError", "RetrodictError", "TrainingError"),
    "_runtime.compile_cache": ("keep_compiled",),
    "constraints": ("Interval",),
    "evaluation": ("check",),
    "evaluation.misspecification": ("unlike", "unlike_each"),
    "evaluation.solver_tuning": ("tune",),
    "models": (
        "AbstractModel", "CalibrationWarning", "DistilledDensity", "DistilledSampler", "FlowModel", "GuidanceWarning",
        "HierarchicalModel", "ImportanceSampledPosterior", "SolverWarning", "UntrainedWarning", "WeightingWarning",
        "hierarchical", "joint", "likelihood", "posterior", "repaint", "unconditional",
    ),
    "models._files": ("load", "save"),
    "problem": ("Function", "Plate", "Problem", "numpy_simulator"),
    "problem._command_simulator": ("command_simulator",),
    "problem._numpyro_prior": ("numpyro_prior",),
    "problem.dependencies": ("Dependencies",),
    "query.tokens": ("Batch",),
    "report.datatree": ("to_datatree",),
    "simulation._failures": ("FailedRunsWarning", "failures"),
    "simulation._simulate": ("simulate", "simulate_at"),
    "simulation.rows": ("Simulations",),
    "simulation.store": ("open_store",),
    "training": ("fit",),
    "training._distill": ("DistillationWarning", "distill", "distill_density"),
    "training._learn_posterior": ("learn_posterior",),
    "training._learned": ("LearningWarning",),
    "training._truncated_prior": ("truncate",),
    "variables": ("At", "Layout", "Variable"),
}  # fmt: skip
_HOMES = {name: room for room, names in _NAMES.items() for name in names}

__version__ = _version("retrodict")
__all__ = [*_ROOMS, *_HOMES, "__version__"]


def __getattr__(name: str) -> _typing.Any:
    if name in _ROOMS:
        return _importlib.import_module(f"retrodict.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'retrodict' has no attribute '{name}'")
    member = globals()[name] = getattr(_importlib.import_module(f"retrodict.{_HOMES[name]}"), name)
    return member


def __dir__() -> list[str]:
    return sorted(__all__)
