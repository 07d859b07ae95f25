"""The first rows against what the layout claims of them, before all others are run or trained on.

    supports     data outside what `supports` declares, or exactly on the end of a half-line (zeros of a positive datum)
    sets         rows of other shapes, or padded with NaN: sets of any size
    precision    single precision that cannot tell rows apart
    repeats      rows that occur again and again

Rows of a run are a few from a campaign, or all that `fit` gets.
"""

import warnings
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from retrodict._errors import DataError
from retrodict._runtime.real_arrays import MAX_EXACT
from retrodict.problem import Problem
from retrodict.problem._ends import MIN_STEPS, beyond, double_precision
from retrodict.simulation.rows import row_of
from retrodict.variables import Layout, Variable


FIRST_ROWS = 32  # of a simulator in Python; one in JAX runs a batch at once
MAX_SHARE_ON_END = 0.01  # rounding puts a few draws there
MIN_RAGGED_ROWS = 3
MIN_RAGGED_SHARE = 0.1
MIN_PADDED_SHARE = 0.5
MAX_REPEATED_SHARE = 0.01
MAX_ROWS_FOR_REPEATS = 20_000
MAX_BYTES_FOR_REPEATS = 2**26
ROWS_IN_DOUBLE = 8
DOUBLE = (
    "subtract the offset in the simulator, or compute in double precision (arrays of float64, `rd.numpy_simulator`, or "
    "`jax_enable_x64`)"
)
WAYS_OUT = (
    "a set of any size is written as sites, one row each (`rd.Plate` in the prior), or as a function at points (a "
    "simulator that returns rd.At(points, values), NaN where there is no point)"
)


def check_first_rows(
    problem: Problem, rows: Mapping[str, np.ndarray], errors: Sequence[str] = (), *, drawn: bool = True
) -> None:
    """Refuses a simulator whose first rows `(n, *shape)`, failed ones among them, do not fit the layout.

    Args:
        errors: why rows failed.
        drawn: whether parameters are draws of the prior; others are whatever a user asks for.

    Raises:
        DataError: rows outside their supports, sets of any size, or numbers that single precision cannot tell apart.
    """
    layout = problem.layout
    n = len(rows[layout.names[0]])
    ragged = [error for error in errors if " has the shape " in error]
    if len(ragged) >= max(MIN_RAGGED_ROWS, MIN_RAGGED_SHARE * n):
        raise DataError(f"{len(ragged)} of the first {n} rows have another shape: {ragged[0]}; {WAYS_OUT}")
    for variable in layout.variables:
        if variable.kind == "parameter" and not drawn:
            continue
        block = rows[variable.name].reshape(-1, variable.size)  # with sites, one row each
        if variable.kind == "data" and variable.shape and variable.size and not variable.axes:
            _refuse_padded(variable, block)
        _refuse_outside(variable, block, "the simulations")
        refuse_lost_digits(variable.name, block)
    refuse_rounded_constants(problem, rows)


def refuse_rounded_constants(problem: Problem, rows: Mapping[str, np.ndarray]) -> None:
    """Refuses a simulator in JAX of which a datum is the same in all rows, but not in double precision.

    Raises:
        DataError: with the value, and what to do.
    """
    layout = problem.layout
    suspects = [
        name
        for name in layout.data
        if not layout[name].axes and rows[name].dtype == np.float32 and _is_rounded_constant(rows[name])
    ]
    if not suspects or problem.python_function is not None:
        return
    try:
        with double_precision():
            keys = jax.random.split(jax.random.key(0), ROWS_IN_DOUBLE)
            exact = jax.device_get(jax.jit(jax.vmap(lambda key: row_of(problem)(key, 0)))(keys))
    except Exception:  # a simulator that names single precision itself
        return
    for name in suspects:
        change, step = np.ptp(exact[name], axis=0), np.spacing(np.abs(rows[name][0])).astype(float)
        is_rounded = (change > 0) & (change < MIN_STEPS * step)
        if np.any(is_rounded):
            raise DataError(
                f"'{name}' is {rows[name][0][is_rounded].flat[0]:.9g} in all {len(rows[name])} rows, as single "
                f"precision rounds what changes by {change[is_rounded].max():.2g} in double precision; {DOUBLE}"
            )


def _is_rounded_constant(rows: np.ndarray) -> bool:
    """Whether an element is the same in all rows, and no small whole number, which hardly is a rounded one."""
    first = rows[0]
    is_whole = (np.abs(first) <= MAX_EXACT) & (first == np.round(first))
    return bool(np.any((rows == first).all(axis=0) & ~is_whole))


def check_tokens(layout: Layout, tokens: np.ndarray) -> None:
    """Refuses rows of tokens `(n, d)` that lie outside their supports; NaN is no number.

    Raises:
        DataError: with how many rows and an example.
    """
    for variable in layout.variables:
        _refuse_outside(variable, tokens[:, layout.slices[variable.name]], "the simulations")


def refuse_lost_digits(name: str, rows: np.ndarray) -> None:
    """Refuses numbers in single precision that differ by a few of its steps only; constants and whole numbers may.

    Raises:
        DataError: all elements do, with the size of a step.

    Warns:
        UserWarning: some elements do.
    """
    rows = rows[np.isfinite(rows).all(axis=1)]
    if rows.dtype != np.float32 or not rows.size:
        return
    largest, spread = np.abs(rows).max(axis=0), rows.std(axis=0, dtype=float)
    steps = np.spacing(largest).astype(float)
    is_whole = (largest <= MAX_EXACT) & (rows == np.round(rows)).all(axis=0)
    lost = (spread < MIN_STEPS * steps) & (np.ptp(rows, axis=0) > 0) & ~is_whole
    if not lost.any():
        return
    i, count = int(np.argmax(lost)), int(lost.sum())
    which = (
        f"'{name}'" if rows.shape[1] == 1 else f"{count} of {rows.shape[1]} elements of '{name}', such as element {i},"
    )
    sentence = (
        f"{which} is about {largest[i]:.9g} with a spread of {spread[i]:.2g}, and single precision has steps of "
        f"{steps[i]:.2g} there; {DOUBLE}"
    )
    if lost.all():
        raise DataError(sentence)
    warnings.warn(sentence, stacklevel=3)


def warn_of_repeats(layout: Layout, tokens: np.ndarray) -> None:
    """Warns of many rows that are equal to another one; data alone may be counts, which repeat.

    Warns:
        UserWarning: with how many.
    """
    n = min(len(tokens), MAX_ROWS_FOR_REPEATS, MAX_BYTES_FOR_REPEATS // max(1, tokens[:1].nbytes))
    if not layout.parameters or n < 2:
        return
    repeats = n - len({row.tobytes() for row in tokens[:n]})
    if repeats > max(1, MAX_REPEATED_SHARE * n):
        warnings.warn(
            f"{repeats} of {n} simulations repeat another one exactly, in parameters and data, and would count as "
            "evidence again; leave repeated rows out",
            stacklevel=3,
        )


def warn_of_frozen_noise(problem: Problem) -> None:
    """Warns of a simulator whose runs with two keys at equal parameters are equal.

    Warns:
        UserWarning: with what to do if noise was meant.
    """
    if problem.ignores_key:
        argument = "key" if problem.python_function is None else "generator"
        warnings.warn(
            f"the simulator does not use its {argument}, so that its data have no noise, or noise that is frozen or "
            f"cannot be repeated; draw all noise with the {argument} that it gets",
            stacklevel=4,
        )


def _refuse_outside(variable: Variable, rows: np.ndarray, where: str) -> None:
    low, high = variable.ends
    if not (np.isfinite(low).any() or np.isfinite(high).any()):
        return
    outside = beyond(rows, low, high)
    is_open = np.isfinite(low) ^ np.isfinite(high)
    on_end = is_open & ((rows == np.where(np.isfinite(low), low, high)) & ~outside)
    if on_end.any(axis=1).mean() > MAX_SHARE_ON_END:
        outside |= on_end
    if outside.any():
        i, j = np.argwhere(outside)[0]
        element = f", element {j}" if variable.shape else ""
        claim = "the ends of the prior" if variable.kind == "parameter" else "its declared support"
        cure = (
            "give the model the layout of the prior that they were drawn from, or leave them out"
            if variable.kind == "parameter"
            else "declare the support that they have, or none (`supports` of the problem), or mend the simulator"
        )
        raise DataError(
            f"{int(outside.any(axis=1).sum())} of {len(rows)} rows of '{variable.name}' in {where} lie outside "
            f"{claim}, {variable.support}, such as {rows[i, j]:.6g} in row {i}{element}; {cure}"
        )


def _refuse_padded(variable: Variable, rows: np.ndarray) -> None:
    """Refuses rows most of which end with NaN, at different places: sets of any size."""
    missing = np.isnan(rows.reshape(len(rows), variable.shape[0], -1)).any(axis=2)
    is_tail = (np.diff(missing.astype(int), axis=1) >= 0).all(axis=1)
    is_padded = missing[:, -1] & ~missing[:, 0] & is_tail & ~np.isinf(rows).any(axis=1)
    lengths = np.unique((~missing).sum(axis=1)[~missing[:, 0]])
    if len(lengths) > 1 and is_padded.mean() >= MIN_PADDED_SHARE:
        raise DataError(
            f"{int(is_padded.sum())} of the first {len(rows)} rows of '{variable.name}' end with NaN after "
            f"{lengths[0]} or more numbers, and a row with NaN counts as failed; {WAYS_OUT}; a failed run is NaN in "
            "all elements"
        )
