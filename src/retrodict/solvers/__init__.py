"""Solvers carry noise to data. They are chosen after training, and any of them serves any path.

    solver(flow, x, t_start, t_end, key=...)  ->  x at t_end

| | solvers | needs of the flow | densities |
|---|---|---|---|
| fixed grid | `Euler`, `Midpoint`, `Heun`, `RK4`, `AdamsBashforth` | the velocity | yes |
| adaptive, per row | `Dopri5`, `Tsit5` | the velocity | yes |
| exponential | `DPMSolver` | the denoised data | no |
| Algorithm 2 of Karras et al. | `EDMSampler` | the denoised data; standard normal noise | no |
| other schedule | `Straightened(solver)`: any solver along straight lines | the denoised data | no |
| measured on the model | `Auto(error=.01)`: the cheapest solver on a fixed grid whose error is small enough | | yes |
| SDE | `EulerMaruyama`, `StochasticHeun`, `SEA`, `ShARK` | the score, so Gaussian noise | no |

A model follows a scheme of fixed steps along straight lines, whatever its path, and warns if the steps are so few that
even Gaussian draws would be wrong by a tenth of their standard deviation (`gaussian_error`).

Solvers that need only the velocity take any pytree and any function `(x, t)`. A solver that cannot follow a path says
why (`refusal`).
"""

from retrodict.paths import AbstractGrid as AbstractGrid
from retrodict.paths import KarrasRho as KarrasRho
from retrodict.paths import LogSNR as LogSNR
from retrodict.paths import Power as Power
from retrodict.paths import Uniform as Uniform
from retrodict.solvers._accuracy import MAX_ERROR as MAX_ERROR
from retrodict.solvers._accuracy import gaussian_error as gaussian_error
from retrodict.solvers._accuracy import straightened as straightened
from retrodict.solvers._adaptive import Dopri5 as Dopri5
from retrodict.solvers._adaptive import Tsit5 as Tsit5
from retrodict.solvers._auto import CANDIDATES as CANDIDATES
from retrodict.solvers._auto import Auto as Auto
from retrodict.solvers._auto import at_cost as at_cost
from retrodict.solvers._auto import told as told
from retrodict.solvers._auto import with_explicit_grid as with_explicit_grid
from retrodict.solvers._base import AbstractSolver as AbstractSolver
from retrodict.solvers._base import AbstractStepping as AbstractStepping
from retrodict.solvers._edm import EDMSampler as EDMSampler
from retrodict.solvers._fixed import RK4 as RK4
from retrodict.solvers._fixed import AbstractOneStep as AbstractOneStep
from retrodict.solvers._fixed import AdamsBashforth as AdamsBashforth
from retrodict.solvers._fixed import Euler as Euler
from retrodict.solvers._fixed import Heun as Heun
from retrodict.solvers._fixed import Midpoint as Midpoint
from retrodict.solvers._multistep import DPMSolver as DPMSolver
from retrodict.solvers._named import from_json as from_json
from retrodict.solvers._named import to_json as to_json
from retrodict.solvers._stochastic import SEA as SEA
from retrodict.solvers._stochastic import EulerMaruyama as EulerMaruyama
from retrodict.solvers._stochastic import ShARK as ShARK
from retrodict.solvers._stochastic import StochasticHeun as StochasticHeun
from retrodict.solvers._straightened import Normalized as Normalized
from retrodict.solvers._straightened import Straightened as Straightened
from retrodict.solvers._straightened import stripped as stripped


SOLVERS = {
    "Euler": Euler,
    "Midpoint": Midpoint,
    "Heun": Heun,
    "RK4": RK4,
    "AdamsBashforth": AdamsBashforth,
    "Dopri5": Dopri5,
    "Tsit5": Tsit5,
    "DPMSolver": DPMSolver,
    "EDMSampler": EDMSampler,
    "EulerMaruyama": EulerMaruyama,
    "StochasticHeun": StochasticHeun,
    "SEA": SEA,
    "ShARK": ShARK,
}
