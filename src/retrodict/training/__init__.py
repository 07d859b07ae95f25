"""Training: `fit(model, sims)` returns a new model and its history; `model` is unchanged."""

from retrodict.training._fit import STEPS as STEPS
from retrodict.training._fit import FailedRuns as FailedRuns
from retrodict.training._fit import FitSettings as FitSettings
from retrodict.training._fit import failed_runs as failed_runs
from retrodict.training._fit import fit as fit
from retrodict.training._fit import fit_kind as fit_kind
from retrodict.training._fit_mixture import fit_mixture as fit_mixture
from retrodict.training._loop import WEIGHT_DECAY as WEIGHT_DECAY
from retrodict.training._loop import History as History
from retrodict.training._loop import TrainingBudget as TrainingBudget
