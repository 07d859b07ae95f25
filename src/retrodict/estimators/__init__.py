"""Estimators: a layout, a network and a path that together answer questions."""

from retrodict.estimators._answers import SAMPLER as SAMPLER
from retrodict.estimators._auto import SolverWarning as SolverWarning
from retrodict.estimators._generative import Generative as Generative
from retrodict.estimators._generative import joint as joint
from retrodict.estimators._generative import likelihood as likelihood
from retrodict.estimators._generative import posterior as posterior
from retrodict.estimators._generative import unconditional as unconditional
from retrodict.estimators._guided import GuidanceWarning as GuidanceWarning
from retrodict.estimators._guided import Guided as Guided
from retrodict.estimators._guided import repaint as repaint
from retrodict.estimators._hierarchical import Hierarchical as Hierarchical
from retrodict.estimators._hierarchical import hierarchical as hierarchical
from retrodict.estimators._mixture import ROOT as ROOT
from retrodict.estimators._mixture import MixtureDensity as MixtureDensity
from retrodict.estimators._mixture import Pairs as Pairs
from retrodict.estimators._narrow import Narrow as Narrow
from retrodict.estimators._record import Calibration as Calibration
from retrodict.estimators._record import CalibrationWarning as CalibrationWarning
from retrodict.estimators._record import Choice as Choice
from retrodict.estimators._record import Familiar as Familiar
from retrodict.estimators._record import Record as Record
from retrodict.estimators._record import fingerprint as fingerprint
from retrodict.estimators._record import loneliness as loneliness
from retrodict.estimators._record import shares_of as shares_of
from retrodict.estimators._surrogate import Surrogate as Surrogate
