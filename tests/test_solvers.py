"""Every solver against an equation with a known solution, and the order of each by halving its step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import retrodict as rd
from conftest import exact_guess
from retrodict import paths
from retrodict.models._auto_solver import followed
from retrodict.solvers import (
    RK4,
    AdamsBashforth,
    Dopri5,
    DPMSolver,
    Euler,
    Heun,
    LogSNR,
    Midpoint,
    Power,
    Straightened,
    Tsit5,
    with_explicit_grid,
)


pytestmark = pytest.mark.usefixtures("x64")
ORDERS = {Euler: 1, Midpoint: 2, Heun: 2, AdamsBashforth: 2, RK4: 4}
X0 = np.asarray([1.0, -2.0])


def slope(x, t):
    """dx/dt = cos(t) x, whose solution is x0 exp(sin t)."""
    return jnp.cos(t) * x


def error(solver, start=0.0, end=1.0):
    exact = X0 * jnp.exp(jnp.sin(end) - jnp.sin(start))
    return float(jnp.max(jnp.abs(solver(slope, X0, start, end) - exact)))


@pytest.mark.parametrize("grid", [Power(1.0), Power(2.0)], ids=["uniform", "dense"])
@pytest.mark.parametrize("kind", ORDERS, ids=lambda kind: kind.__name__)
def test_halving_the_step_gains_the_order(kind, grid):
    coarse, fine = error(kind(20, grid)), error(kind(40, grid))
    # the leading term of the error falls by 2^order; the next one is 1/20 of it at most
    assert np.log2(coarse / fine) == pytest.approx(ORDERS[kind], abs=0.25)


@pytest.mark.parametrize("kind", ORDERS, ids=lambda kind: kind.__name__)
def test_time_runs_backwards_too(kind):
    assert error(kind(40), start=1.0, end=0.0) < 4 * error(kind(40)) + 1e-6


@pytest.mark.parametrize("kind", [Dopri5, Tsit5], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
def test_an_adaptive_solver_keeps_its_tolerance(kind, span):
    # local errors of 1e-8 over a few tens of steps
    assert error(kind(rtol=1e-8, atol=1e-8), *span) < 1e-6


@pytest.mark.parametrize("kind", [Dopri5, Tsit5], ids=lambda kind: kind.__name__)
def test_a_row_does_not_depend_on_its_neighbors(kind):
    """A stiff neighbor must not change the steps of an easy row."""

    def solve(rate):
        return kind()(lambda x, t: -rate * x, jnp.ones(()), 0.0, 1.0)

    alone = jax.vmap(solve)(jnp.asarray([1.0, 1.0]))[0]
    beside = jax.vmap(solve)(jnp.asarray([1.0, 80.0]))[0]
    assert alone == beside


@pytest.mark.parametrize("kind", [Dopri5, Tsit5], ids=lambda kind: kind.__name__)
def test_too_many_steps_give_nan_and_not_a_hang(kind):
    found = kind(max_steps=4, rtol=1e-10, atol=1e-10)(slope, X0, 0.0, 1.0)
    assert np.isnan(found).all()


@pytest.mark.parametrize("kind", ORDERS, ids=lambda kind: kind.__name__)
def test_the_number_of_evaluations_is_what_it_says(kind):
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return slope(x, t)

    solver = kind(5)
    jax.block_until_ready(solver(counted, X0, 0.0, 1.0))
    jax.effects_barrier()
    assert len(calls) == solver.evaluations


def test_a_state_may_be_a_pytree():
    found = RK4(40)(lambda s, t: {"x": slope(s["x"], t), "t": jnp.ones(())}, {"x": X0, "t": jnp.zeros(())}, 0.0, 1.0)
    np.testing.assert_allclose(found["t"], 1.0, rtol=1e-12)


@pytest.mark.parametrize("schedule", [paths.Straight(), paths.VariancePreserving(), paths.Karras()], ids=str)
@pytest.mark.parametrize("grid", [Power(2.0), paths.Uniform(), paths.KarrasRho(), paths.LogSNR()], ids=str)
def test_a_grid_is_increasing_and_ends_at_the_ends(grid, schedule):
    times = grid.times(7, 0.0, 1.0, schedule)
    assert times[0] == 0.0
    assert times[-1] == 1.0
    assert (np.diff(times) > 0).all()
    np.testing.assert_array_equal(grid.times(7, 1.0, 0.0, schedule), times[::-1])


def test_adams_bashforth_is_exact_for_a_slope_linear_in_time():
    """Also on a grid of unequal steps, where the ratio of neighboring steps must enter."""
    found = AdamsBashforth(6, Power(3.0))(lambda x, t: 3.0 * t + 0.0 * x, X0, 0.0, 1.0)
    np.testing.assert_allclose(found, X0 + 1.5, rtol=1e-12)


TOLD = [(kind, paths.flow_matching()) for kind in (*ORDERS, DPMSolver)]
TOLD += [(DPMSolver, paths.vp()), (DPMSolver, paths.edm())]


@pytest.mark.parametrize(("kind", "path"), TOLD, ids=lambda part: getattr(part, "__name__", type(part).__name__))
def test_told_times_change_nothing(kind, path):
    """Padded to 16 steps, of which 2 or 7 are taken; only rounding differs."""
    flow = paths.Flow(path, lambda x, t: exact_guess(path, x, t, 0.3, 0.5))
    x = path.begin(X0)
    for steps in (2, 7):
        solver = Straightened(kind(steps, LogSNR()))
        found = with_explicit_grid(solver, path, 16)
        assert found.solver.steps == 16
        np.testing.assert_allclose(found(flow, x, *path.span), solver(flow, x, *path.span), rtol=1e-10)


def test_told_times_run_backwards_too():
    for solver in (AdamsBashforth(6, Power(3.0)), RK4(3)):
        found = with_explicit_grid(solver, paths.flow_matching(), 16, reverse=True)(slope, X0, 1.0, 0.0)
        np.testing.assert_allclose(found, solver(slope, X0, 1.0, 0.0), rtol=1e-10)


def test_no_step_is_refused():
    with pytest.raises(rd.QueryError, match="at least one step, got steps=0"):
        Euler(0)


PATHS = {"fm": paths.flow_matching(), "vp": paths.vp(), "ve": paths.ve(), "edm": paths.edm()}
ENOUGH = [Midpoint(10), Heun(10), Heun(20), RK4(5), AdamsBashforth(20), Euler(100), DPMSolver(20), Heun(16, LogSNR())]
TOO_FEW = [Euler(1), Euler(10), DPMSolver(4), rd.solvers.EDMSampler(6)]


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_solver_that_is_named_serves_every_path(path, recwarn):
    """Draws of a Gaussian that is as wide as the prior, or a third: half of the bar, on every path alike."""
    for solver in ENOUGH:
        way = followed(solver, path)
        assert abs(rd.solvers.gaussian_error(way, path)) < 0.05, solver
    assert not recwarn


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("solver", TOO_FEW, ids=lambda solver: f"{type(solver).__name__}{solver.steps}")
def test_too_few_steps_are_told(solver, path):
    with pytest.warns(rd.SolverWarning, match=rf"{type(solver).__name__} takes too few steps: .* too (narrow|wide)"):
        followed(solver, path)


def test_steps_in_time_fail_where_a_schedule_is_steep():
    """What straight lines are for: twenty steps of Heun are 31 % too wide on the path of VE, ten of Euler nothing."""
    assert rd.solvers.gaussian_error(Heun(20), paths.ve()) > 0.3
    assert rd.solvers.gaussian_error(Euler(10), paths.ve()) == pytest.approx(-1.0, abs=0.05)
    assert rd.solvers.straightened(Heun(20), paths.flow_matching()) == Heun(20)


def test_solvers_with_noise_or_steps_of_their_own_are_not_measured(recwarn):
    for solver in (rd.solvers.EulerMaruyama(2), Dopri5(), rd.solvers.EDMSampler(6, churn=5.0)):
        assert followed(solver, paths.ve()) is solver
    assert not recwarn


@pytest.mark.parametrize("name", ["ve", "edm"])
def test_a_model_draws_right_by_a_solver_that_is_named(name):
    """An untrained network is exact for standard normal data."""
    layout = rd.Layout((rd.Variable("theta"),))
    model = rd.unconditional(layout, net=rd.nets.ResMLP(8, 1), path=PATHS[name], key=0)
    drawn = model.sample(4000, solver=Heun(20), key=1)["theta"]
    assert drawn.std() == pytest.approx(1.0, abs=0.06)  # 5 standard errors
