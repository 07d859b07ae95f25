"""A solver that a model chooses for itself: the setting. What is measured, and how, is in `models/_auto_solver`.

A *candidate* is a solver whose number of steps is open: a scheme on a grid. `at_cost` fills it in.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict.paths import KarrasRho, LogSNR, Path, Power, Uniform
from retrodict.solvers._base import AbstractSolver, AbstractStepping, State, Told, Velocity
from retrodict.solvers._edm import EDMSampler
from retrodict.solvers._fixed import RK4, AbstractOneStep, AdamsBashforth, Heun
from retrodict.solvers._multistep import DPMSolver
from retrodict.solvers._stochastic import AbstractStochastic
from retrodict.solvers._straightened import Straightened


# along straight lines, where a grid means the same on every path; DPM-Solver knows no other way
CANDIDATES: tuple[AbstractSolver, ...] = tuple(
    Straightened(scheme(grid=grid))
    for scheme in (AdamsBashforth, DPMSolver, Heun, RK4)
    for grid in (Power(), Uniform(), KarrasRho(), LogSNR())
)


class Auto(AbstractSolver):
    """The cheapest of `candidates` whose error is at most `error`, as the model measures it on itself.

    Draws: the same noise is carried to data by a candidate and by a solution so fine that its own error is known. The
    error is the root mean square of how far the two end apart, over draws, elements and observations, in units of how
    far the draws of one observation spread (half of their central 68 %), in the model's coordinates. It bounds the
    Wasserstein distance of second order between what is drawn and what the flow says. Densities: the root mean square
    error of the log density of such draws, in nats.

    Observations are drawn from the model itself, where it was trained to be asked about them, and are otherwise
    standard normal in the model's coordinates; `rd.tune` measures on simulations, and keeps the choice with the model.
    The choice belongs to the weights and to the roles of a question. It is the same for every key, and made once in a
    process. Where nothing reaches `error` the best there is draws, with a `SolverWarning`.

    Attributes:
        error: at most so much, above 0.
        candidates: solvers whose number of steps is open, compared at equal numbers of evaluations.

    Raises:
        QueryError: an error that is not above 0, or a candidate that chooses its steps itself or draws noise.
    """

    error: float = eqx.field(static=True, default=0.01)
    candidates: tuple[AbstractSolver, ...] = eqx.field(static=True, default=CANDIDATES)

    def __check_init__(self) -> None:
        if isinstance(self.error, bool) or not isinstance(self.error, int | float) or not self.error > 0.0:
            raise QueryError(f"Auto needs an error above 0, such as Auto(error=0.01), got {self.error!r}")
        for candidate in self.candidates:
            own = stripped(candidate)
            random = isinstance(own, AbstractStochastic) or (isinstance(own, EDMSampler) and own.churn > 0.0)
            if random or not isinstance(own, AbstractStepping):
                raise QueryError(
                    "Auto compares solvers that take a given number of steps and draw no noise on their way, got "
                    f"{type(own).__name__}; name some such as AdamsBashforth(grid=Power())"
                )
        if not self.candidates:
            raise QueryError("Auto has no candidates; name at least one, or leave `candidates` out")

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        raise QueryError(
            "Auto chooses among solvers for a question to a model of `rd.joint` and its relatives; name one here, such "
            "as AdamsBashforth(steps=16)"
        )

    @property
    def evaluations(self) -> None:
        return None


def stripped(solver: AbstractSolver) -> AbstractSolver:
    """The solver that goes along straight lines, if this is one that does, or else the solver itself."""
    return solver.solver if isinstance(solver, Straightened) else solver


def at_cost(solver: AbstractSolver, evaluations: int) -> AbstractSolver:
    """The solver with as many steps as so many evaluations of the network allow; an adaptive one as it is.

    Raises:
        QueryError: not enough for the fewest steps.
    """
    if isinstance(solver, Straightened):
        return Straightened(at_cost(solver.solver, evaluations))
    if not isinstance(solver, AbstractStepping):
        return solver
    two, three = (dataclasses.replace(solver, steps=steps).evaluations or 0 for steps in (2, 3))
    try:
        return dataclasses.replace(solver, steps=2 + (evaluations - two) // (three - two))
    except QueryError as error:
        few = f"{evaluations} evaluations of the network are too few for {type(solver).__name__}"
        raise QueryError(f"{few}: {error}; allow more, or leave it out") from error


def told(solver: AbstractSolver, path: Path, most: int, *, back: bool = False) -> AbstractSolver:
    """The same solver with its times as numbers, at most so many steps: what is compiled for a scheme serves all grids.

    `back` has it go from the data to noise. A scheme that may not walk along told times stays what it is.
    """
    if isinstance(solver, Straightened):
        return Straightened(told(solver.solver, path.straightened(), most, back=back))
    if not isinstance(solver, AbstractOneStep | AdamsBashforth | DPMSolver):
        return solver
    times = _times(solver, path, *(reversed(path.span) if back else path.span))
    times = jnp.pad(times, (0, most - solver.steps), mode="edge")
    return dataclasses.replace(solver, steps=most, grid=Told(times, jnp.asarray(solver.steps)))


@eqx.filter_jit
def _times(solver: AbstractStepping, path: Path, start: float, end: float) -> Array:
    return (solver.grid or path.grid).times(solver.steps, start, end, path.schedule)
