"""Solvers: from noise to data along a velocity, chosen after training.

    solver(velocity, x, t_start, t_end)  ->  x at t_end,       velocity(x, t) = dx/dt

`x` is any pytree; time may run either way. Fixed-grid solvers cost a fixed number of evaluations; `Dopri5` and `Tsit5`
choose their steps per row, so that neighbors never matter.
"""

from retrodict.solvers._adaptive import Dopri5 as Dopri5
from retrodict.solvers._adaptive import Tsit5 as Tsit5
from retrodict.solvers._base import AbstractSolver as AbstractSolver
from retrodict.solvers._fixed import RK4 as RK4
from retrodict.solvers._fixed import AdamsBashforth as AdamsBashforth
from retrodict.solvers._fixed import Euler as Euler
from retrodict.solvers._fixed import Heun as Heun
from retrodict.solvers._fixed import Midpoint as Midpoint
from retrodict.solvers._grids import AbstractGrid as AbstractGrid
from retrodict.solvers._grids import Power as Power
