"""retrodict: one generative model of everything a simulator touches, and any question about it."""

import gc as _gc
import importlib as _importlib
import typing as _typing


if _typing.TYPE_CHECKING:
    from retrodict import diagnostics as diagnostics
    from retrodict.command import command_simulator as command_simulator
    from retrodict.datatree import to_datatree as to_datatree
    from retrodict.likeness import unlike as unlike
    from retrodict.likeness import unlike_each as unlike_each
    from retrodict.store import open_store as open_store
    from retrodict.trust import check as check


# an import makes no garbage, and looking for some twice among all that jax holds is a third of what ours costs
_collecting = _gc.isenabled()
_gc.disable()
try:
    from retrodict import constraints as constraints
    from retrodict import densities as densities
    from retrodict import guidance as guidance
    from retrodict import nets as nets
    from retrodict import paths as paths
    from retrodict import roles as roles
    from retrodict import solvers as solvers
    from retrodict import synthesis as synthesis
    from retrodict import tasks as tasks
    from retrodict._errors import DataError as DataError
    from retrodict._errors import FileError as FileError
    from retrodict._errors import QueryError as QueryError
    from retrodict._errors import RetrodictError as RetrodictError
    from retrodict._errors import TrainingError as TrainingError
    from retrodict.constraints import Interval as Interval
    from retrodict.dependencies import Dependencies as Dependencies
    from retrodict.estimators import CalibrationWarning as CalibrationWarning
    from retrodict.estimators import GuidanceWarning as GuidanceWarning
    from retrodict.estimators import hierarchical as hierarchical
    from retrodict.estimators import joint as joint
    from retrodict.estimators import likelihood as likelihood
    from retrodict.estimators import posterior as posterior
    from retrodict.estimators import repaint as repaint
    from retrodict.estimators import unconditional as unconditional
    from retrodict.numpyro_priors import numpyro_prior as numpyro_prior
    from retrodict.problem import Function as Function
    from retrodict.problem import Plate as Plate
    from retrodict.problem import Problem as Problem
    from retrodict.problem import numpy_simulator as numpy_simulator
    from retrodict.saving import load as load
    from retrodict.saving import save as save
    from retrodict.simulate import simulate as simulate
    from retrodict.tokens import Batch as Batch
    from retrodict.training import fit as fit
    from retrodict.truncation import truncate as truncate
    from retrodict.variables import At as At
finally:
    if _collecting:
        _gc.enable()

# a sixth of what an import costs is for checking models, which most programs never do: these come when asked for
_LATER = {"check": "trust", "unlike": "likeness", "unlike_each": "likeness", "to_datatree": "datatree"}
_LATER |= {"open_store": "store", "command_simulator": "command"}


def __getattr__(name: str) -> _typing.Any:
    if name == "diagnostics":
        return _importlib.import_module("retrodict.diagnostics")
    if name in _LATER:
        return getattr(_importlib.import_module(f"retrodict.{_LATER[name]}"), name)
    raise AttributeError(f"module 'retrodict' has no attribute '{name}'")
