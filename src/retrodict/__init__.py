"""retrodict: one generative model of everything a simulator touches, and any question about it."""

import gc as _gc


# an import makes no garbage, and looking for some twice among all that jax holds is a third of what ours costs
_collecting = _gc.isenabled()
_gc.disable()
try:
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
    from retrodict._errors import DataError as DataError
    from retrodict._errors import FileError as FileError
    from retrodict._errors import QueryError as QueryError
    from retrodict._errors import RetrodictError as RetrodictError
    from retrodict._errors import TrainingError as TrainingError
    from retrodict.constraints import Interval as Interval
    from retrodict.datatree import to_datatree as to_datatree
    from retrodict.dependencies import Dependencies as Dependencies
    from retrodict.estimators import CalibrationWarning as CalibrationWarning
    from retrodict.estimators import GuidanceWarning as GuidanceWarning
    from retrodict.estimators import hierarchical as hierarchical
    from retrodict.estimators import joint as joint
    from retrodict.estimators import likelihood as likelihood
    from retrodict.estimators import posterior as posterior
    from retrodict.estimators import repaint as repaint
    from retrodict.estimators import unconditional as unconditional
    from retrodict.likeness import unlike as unlike
    from retrodict.likeness import unlike_each as unlike_each
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
    from retrodict.trust import check as check
    from retrodict.variables import At as At
finally:
    if _collecting:
        _gc.enable()
