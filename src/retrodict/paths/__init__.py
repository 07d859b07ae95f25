"""Paths between noise and data. A method is a row of this table, and every entry of a row can be changed:

| method | schedule | predicts | training times | grid | noise of the SDE |
|---|---|---|---|---|---|
| `flow_matching` | straight | velocity | density t^power | dense near the data | g^2 = sigma |
| `vp` | variance preserving | noise | log-normal sigma / alpha | dense near the data | reverse SDE |
| `ve` | variance exploding | noise | log-normal sigma | uniform: sigma geometric | reverse SDE |
| `edm` | sigma itself | mix of unit variance | log-normal sigma | uniform: Karras's rho = 7 | reverse SDE |

`dataclasses.replace(vp(), parameterization=velocity)` is the variance-preserving schedule with velocity prediction.
"""

from retrodict.paths._grids import AbstractGrid as AbstractGrid
from retrodict.paths._grids import KarrasRho as KarrasRho
from retrodict.paths._grids import LogSNR as LogSNR
from retrodict.paths._grids import Power as Power
from retrodict.paths._grids import Uniform as Uniform
from retrodict.paths._laws import AbstractDiffusion as AbstractDiffusion
from retrodict.paths._laws import AbstractTimeLaw as AbstractTimeLaw
from retrodict.paths._laws import LogitNormal as LogitNormal
from retrodict.paths._laws import LogNormalRatio as LogNormalRatio
from retrodict.paths._laws import NonSingular as NonSingular
from retrodict.paths._laws import Parameterization as Parameterization
from retrodict.paths._laws import PowerLaw as PowerLaw
from retrodict.paths._laws import Reverse as Reverse
from retrodict.paths._laws import ZeroEnds as ZeroEnds
from retrodict.paths._laws import data as data
from retrodict.paths._laws import likelihood as likelihood
from retrodict.paths._laws import mix as mix
from retrodict.paths._laws import noise as noise
from retrodict.paths._laws import plain as plain
from retrodict.paths._laws import velocity as velocity
from retrodict.paths._methods import METHODS as METHODS
from retrodict.paths._methods import edm as edm
from retrodict.paths._methods import flow_matching as flow_matching
from retrodict.paths._methods import ve as ve
from retrodict.paths._methods import vp as vp
from retrodict.paths._path import Denoised as Denoised
from retrodict.paths._path import Denoised as Guess  # noqa: F401 - its name in earlier versions
from retrodict.paths._path import Flow as Flow
from retrodict.paths._path import Path as Path
from retrodict.paths._schedules import AbstractSchedule as AbstractSchedule
from retrodict.paths._schedules import Karras as Karras
from retrodict.paths._schedules import Straight as Straight
from retrodict.paths._schedules import VarianceExploding as VarianceExploding
from retrodict.paths._schedules import VariancePreserving as VariancePreserving
