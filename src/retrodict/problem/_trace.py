"""A look at a simulator in JAX while it is traced: shapes of its data, and mistakes that a trace cannot show later.

JAX runs Python once. Noise of NumPy's generator is drawn while it does, and is a constant of the program from then on:

    trace, trace again      constants differ      ->  the simulator draws with a generator of its own: refused
    key -> outputs          no path in the graph  ->  two keys give the same data: said when rows are simulated
"""

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from retrodict._errors import DataError, RetrodictError
from retrodict._runtime.real_arrays import COMPLEX, TEXT
from retrodict.problem._ends import TRACER_ERRORS
from retrodict.variables import At


NOT_JAX = (
    "the simulator uses NumPy, SciPy, `float(...)` or `if` on its arguments, which JAX cannot follow: decorate it with "
    "`rd.numpy_simulator`, which hands it a NumPy generator in place of the key, or write it in jax.numpy"
)
OWN_GENERATOR = (
    "the simulator draws with a generator of NumPy or Python, once, while JAX traces it, so that every run would "
    "have the same noise: decorate it with `rd.numpy_simulator` and draw with the generator that it gets, or use the "
    "key and jax.random"
)


class Trace(NamedTuple):
    """The data of a simulator as shapes and types by name, functions as `At`, and whether they depend on the key."""

    data: dict[str, Any]
    uses_key: bool


def trace(simulator: Callable[..., Any], parameters: Mapping[str, Any]) -> Trace:
    """Traces a simulator at parameters of some shapes.

    Raises:
        RetrodictError: it takes other arguments, is not written in JAX, returns no mapping, or has noise of its own.
        DataError: data that are not real numbers.
    """
    check_arguments(simulator, parameters)
    while hasattr(simulator, "lower") and hasattr(simulator, "__wrapped__"):  # compiled functions are traced once only
        simulator = simulator.__wrapped__
    before = _generator_states()
    program, shapes = _program(simulator, parameters)
    if before != _generator_states() or not _equal(_constants(program), _constants(_program(simulator, parameters)[0])):
        raise RetrodictError(OWN_GENERATOR)
    return Trace(shapes, _uses_first(program.jaxpr))


def check_arguments(simulator: Callable[..., Any], parameters: Iterable[str], first: str = "key") -> None:
    """Refuses a simulator that cannot be called with the parameters by name.

    Raises:
        RetrodictError: with the arguments that it has and those that it needs.
    """
    try:
        signature = inspect.signature(simulator)
    except (TypeError, ValueError):  # some compiled functions have none
        return
    try:
        signature.bind(None, **dict.fromkeys(parameters))
    except TypeError as error:
        names = ", ".join([first, *parameters])
        raise RetrodictError(
            f"a simulator of this prior is called as f({names}), and this one is f{signature}: {error}; give its "
            "arguments the names of the parameters"
        ) from error


def named_arrays(values: Any) -> dict[str, Any]:
    """The data that a simulator in JAX returned, as arrays by name.

    Raises:
        RetrodictError: it returned no mapping.
        DataError: data that are not real numbers.
    """
    if not isinstance(values, Mapping):
        kind = "an array" if hasattr(values, "shape") else type(values).__name__
        raise RetrodictError(f"a simulator returns a mapping from name to array, got {kind}")
    return {
        name: At(_array(name, value.points), _array(name, value.values))
        if isinstance(value, At)
        else _array(name, value)
        for name, value in values.items()
    }


def _array(name: str, value: Any) -> Any:
    if isinstance(value, str | bytes):
        raise DataError(f"'{name}' of the simulator {TEXT}")
    try:
        array = jnp.asarray(value)
    except TRACER_ERRORS:
        raise
    except (TypeError, ValueError) as error:
        raise DataError(f"'{name}' of the simulator must be numbers, got {type(value).__name__}: {error}") from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise DataError(f"'{name}' of the simulator {COMPLEX}")
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise DataError(f"'{name}' of the simulator must be numbers, got {array.dtype}")
    return array


def _program(simulator: Callable[..., Any], parameters: Mapping[str, Any]) -> tuple[core.ClosedJaxpr, dict[str, Any]]:
    def run(key: jax.Array, values: Mapping[str, jax.Array]) -> dict[str, Any]:
        return named_arrays(simulator(key, **values))

    try:
        return jax.make_jaxpr(run, return_shape=True)(jax.random.key(0), dict(parameters))
    except RetrodictError as error:  # without the note that JAX adds to what passes through a trace
        raise type(error)(*error.args) from None
    except TRACER_ERRORS as error:
        raise RetrodictError(NOT_JAX) from error
    except (AttributeError, TypeError) as error:  # methods of a generator that a key lacks, functions of NumPy
        if "Tracer" in str(error) or "ufunc" in str(error) or "key<" in str(error):
            raise RetrodictError(f"{NOT_JAX} ({error})") from error
        raise


def _generator_states() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002  (users draw from it)
    return (numpy_state[0], numpy_state[1].tobytes(), *numpy_state[2:], random.getstate())


def _constants(program: core.ClosedJaxpr) -> Iterator[np.ndarray]:
    """The constants of a program, those of its inner programs and in its equations among them."""
    yield from map(_plain, program.consts)
    for equation in program.jaxpr.eqns:
        yield from (_plain(v.val) for v in equation.invars if isinstance(v, core.Literal))
        for part in jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_program):
            if isinstance(part, core.ClosedJaxpr):
                yield from _constants(part)
            elif isinstance(part, core.Jaxpr):
                yield from _constants(core.ClosedJaxpr(part, ()))


def _is_program(part: Any) -> bool:
    return isinstance(part, core.ClosedJaxpr | core.Jaxpr)


def _plain(value: Any) -> np.ndarray:
    is_key = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if is_key else value)


def _equal(one: Iterable[np.ndarray], other: Iterable[np.ndarray]) -> bool:
    one, other = list(one), list(other)
    return len(one) == len(other) and all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def _uses_first(program: core.Jaxpr) -> bool:
    """Whether an output of a program depends on its first input."""
    reached = {program.invars[0]}
    for equation in program.eqns:
        if any(v in reached for v in equation.invars if not isinstance(v, core.Literal)):
            reached.update(equation.outvars)
    return any(v in reached for v in program.outvars if not isinstance(v, core.Literal))
