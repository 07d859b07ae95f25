"""`Auto`, a solver that a model chooses for itself. The measurement is in `models/_auto_solver`.

A *candidate* is a scheme on a grid whose number of steps is still open. `at_cost` sets it.
"""

import equinox as eqx
from jaxtyping import PRNGKeyArray

from retrodict._errors import QueryError
from retrodict._types import is_number
from retrodict.paths import KarrasRho, LogSNR, Path, Power, Uniform
from retrodict.solvers._base import AbstractSolver, AbstractStepping, State, Velocity
from retrodict.solvers._fixed import RK4, AdamsBashforth, Heun
from retrodict.solvers._multistep import DPMSolver
from retrodict.solvers._straightened import Straightened, stripped


# along straight lines, so that a grid means the same on every path
CANDIDATES: tuple[AbstractSolver, ...] = tuple(
    Straightened(scheme(grid=grid))
    for scheme in (AdamsBashforth, DPMSolver, Heun, RK4)
    for grid in (Power(), Uniform(), KarrasRho(), LogSNR())
)


class Auto(AbstractSolver):
    """The cheapest of `candidates` whose error is at most `error`, measured by the model on itself.

    The error of draws compares two ends of the same noise: that of a candidate, and that of a reference solution so
    fine that its error is known. It is the root mean square of their difference over draws, elements and observations,
    in the model's coordinates. Its unit is the spread of the draws of one observation: half of their central 68 %. It
    bounds the Wasserstein distance of second order between the draws and the law of the flow. The error of densities is
    the root mean square error of the log density of such draws, in nats.

    Observations are drawn from the model itself if it was trained to draw them, and else are standard normal in the
    model's coordinates. `rd.tune` measures on simulations and stores the choice with the model. A choice belongs to the
    weights and to the roles of a query. It is the same for every key, and is made once in a process. If no candidate
    reaches `error`, the best one is used, with a `SolverWarning`.

    Attributes:
        error: the largest error allowed, above 0.
        candidates: solvers whose number of steps is open, compared at equal numbers of evaluations.

    Raises:
        QueryError: an error that is not above 0, no candidates, or a candidate that chooses its steps itself or draws
            noise.
    """

    error: float = eqx.field(static=True, default=0.01)
    candidates: tuple[AbstractSolver, ...] = eqx.field(static=True, default=CANDIDATES)

    def __check_init__(self) -> None:
        if not (is_number(self.error) and self.error > 0.0):
            raise QueryError(f"Auto needs an error above 0, such as Auto(error=0.01), got {self.error!r}")
        for candidate in self.candidates:
            scheme = stripped(candidate)
            if not isinstance(scheme, AbstractStepping) or scheme.draws_noise:
                raise QueryError(
                    "Auto compares solvers that take a given number of steps and draw no noise on their way, got "
                    f"{type(scheme).__name__}; name some such as AdamsBashforth(grid=Power())"
                )
        if not self.candidates:
            raise QueryError("Auto has no candidates; name at least one, or leave `candidates` out")

    def __call__(
        self, velocity: Velocity, x: State, start: float, end: float, *, key: PRNGKeyArray | None = None
    ) -> State:
        raise QueryError(
            "Auto chooses a solver for a query to a model of `rd.joint` and its relatives; name one here, such as "
            "AdamsBashforth(steps=16)"
        )

    @property
    def evaluations(self) -> None:
        return None


def at_cost(solver: AbstractSolver, evaluations: int) -> AbstractSolver:
    """Returns the solver with as many steps as `evaluations` of the network allow; an adaptive solver is unchanged.

    Raises:
        QueryError: `evaluations` are too few for the smallest number of steps.
    """
    return solver.at_cost(evaluations)


def with_explicit_grid(solver: AbstractSolver, path: Path, max_steps: int, *, reverse: bool = False) -> AbstractSolver:
    """Returns the same solver with its times as an array, padded to `max_steps` steps.

    A program compiled for a scheme then serves all its grids. `reverse` runs from data to noise. A scheme that does not
    support an explicit grid is unchanged.
    """
    return solver.with_explicit_grid(path, max_steps, reverse=reverse)


def told(solver: AbstractSolver, path: Path, most: int, *, back: bool = False) -> AbstractSolver:
    """Returns `with_explicit_grid(solver, path, most, reverse=back)`, by the name and keywords of earlier versions."""
    return with_explicit_grid(solver, path, most, reverse=back)
