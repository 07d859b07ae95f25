"""Checks of draws: arrays in, a small result out. Nothing here knows a model or draws a picture.

Each result holds a statistic, its null distribution or a band, a p-value and `.ok`. Under the null `.ok` is false with
the probability `level`. Several variables by name are tested together, and `level` is the rate of false alarms of the
whole result, not of each variable. `.summary()` is the outcome in one line.
"""

from retrodict.diagnostics._c2st import C2ST as C2ST
from retrodict.diagnostics._c2st import c2st as c2st
from retrodict.diagnostics._c2st import c2st_forest as c2st_forest
from retrodict.diagnostics._coverage import Coverage as Coverage
from retrodict.diagnostics._coverage import coverage as coverage
from retrodict.diagnostics._lc2st import LC2ST as LC2ST
from retrodict.diagnostics._lc2st import lc2st as lc2st
from retrodict.diagnostics._mmd import MMD as MMD
from retrodict.diagnostics._mmd import mmd as mmd
from retrodict.diagnostics._predictive import Predictive as Predictive
from retrodict.diagnostics._predictive import predictive as predictive
from retrodict.diagnostics._sbc import SBC as SBC
from retrodict.diagnostics._sbc import sbc as sbc
from retrodict.diagnostics._scales import OutlierWarning as OutlierWarning
from retrodict.diagnostics._score import ExpectedLogProb as ExpectedLogProb
from retrodict.diagnostics._score import expected_log_prob as expected_log_prob
from retrodict.diagnostics._tarp import TARP as TARP
from retrodict.diagnostics._tarp import Bootstrap as Bootstrap
from retrodict.diagnostics._tarp import Box as Box
from retrodict.diagnostics._tarp import Jeffreys as Jeffreys
from retrodict.diagnostics._tarp import LastDraw as Drawn  # noqa: F401 - its name in earlier versions
from retrodict.diagnostics._tarp import LastDraw as LastDraw
from retrodict.diagnostics._tarp import Others as Others
from retrodict.diagnostics._tarp import tarp as tarp
from retrodict.diagnostics._verdict import Verdict as Verdict
