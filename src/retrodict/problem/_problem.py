"""Problems: a prior and a simulator.

A simulator turns a draw of the parameters into a draw of the data. In JAX it is

    simulate(key, rate, level) -> {"counts": array}

and in NumPy it takes a generator in place of the key. Where the prior has a plate, it is the simulator of ONE site:

    simulate(key, mu, eta) -> {"y": array}
"""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError, RetrodictError, listed, unknown
from retrodict._runtime.real_arrays import holds_large
from retrodict._runtime.tables import Cells, as_html, as_text
from retrodict._types import Key, as_key
from retrodict.problem._prior import AbstractPrior, Draw, Entry, as_prior
from retrodict.problem._trace import check_arguments, trace
from retrodict.query.functions import each_array, recorded, variables_of
from retrodict.query.tokens import as_numbers
from retrodict.variables import At, Layout, Variable, bounds_of


TRIAL_RUNS = 5  # of a simulator in Python, which may fail now and then: the first that ends well shows the data

Simulator = Callable[..., Mapping[str, Any]]


class NumpySimulator:
    """A simulator in plain NumPy, `f(rng, **parameters) -> {name: array}`, run row after row in double precision.

    Called by hand it takes a key, as any simulator, or a generator.
    """

    def __init__(self, function: Callable[..., Mapping[str, Any]]) -> None:
        self.function = function

    def __call__(self, key: Key | np.random.Generator, **parameters: Any) -> dict[str, Any]:
        # every row's generator comes from the row's own key, so that no two rows ever share a stream
        if not isinstance(key, np.random.Generator):
            key = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
        values = self.function(key, **{name: np.asarray(value, np.float64) for name, value in parameters.items()})
        if not isinstance(values, Mapping):
            raise RetrodictError(f"a simulator returns a mapping from name to array, got {type(values).__name__}")
        for name, array in recorded(values).items():
            as_numbers(array, f"'{name}' of the simulator", missing=False)
        return {name: each_array(np.asarray, value) for name, value in values.items()}


def numpy_simulator(function: Callable[..., Mapping[str, Any]]) -> NumpySimulator:
    """Wraps `f(rng, **parameters) -> {name: array}`, where `rng` is a `numpy.random.Generator`.

    Parameters come as arrays of float64, and float64 data stay so.
    """
    return NumpySimulator(function)


class Problem:
    """A prior and a simulator.

    Args:
        prior: name to `numpyro` distribution, to a function of earlier parameters that returns one, or to a `Plate`;
            or a numpyro model as `numpyro_prior(model)`.
        simulator: `simulator(key, **parameters) -> {name: array}`, from a draw of the parameters to a draw of the data.
        supports: for data that live on a half-line or an interval, name to `numpyro` constraint; other data are real.

    Raises:
        RetrodictError: the prior or the simulator is not of that form.
    """

    def __init__(
        self,
        prior: Mapping[str, Any] | AbstractPrior,
        simulator: Simulator,
        *,
        supports: Mapping[str, Any] | None = None,
    ) -> None:
        self.prior = as_prior(prior)
        self.simulator = simulator
        self.supports = dict(supports or {})
        self._uses_key, self._wide = True, frozenset[str]()

    @property
    def python_function(self) -> Callable[..., Mapping[str, Any]] | None:
        """The function `f(rng, **parameters)` of a simulator in Python; None for a simulator in JAX."""
        return self.simulator.function if isinstance(self.simulator, NumpySimulator) else None

    @functools.cached_property
    def layout(self) -> Layout:
        """The parameters of the prior, then the data as a trial run of the simulator shows them.

        Raises:
            RetrodictError: the prior or the simulator is not of the form that `Problem` describes.
            DataError: data that are not real numbers.
        """
        # the prior first: what is wrong with it is said before anything runs
        parameters = self.prior.variables
        drawn = jax.eval_shape(self.prior.draw, jax.random.key(0))
        if self.python_function is not None:
            check_arguments(self.python_function, drawn, "rng")
            return self._layout_of(parameters, self._trial_run(self.simulator))
        data, self._uses_key = trace(self.simulator, drawn)
        return self._layout_of(parameters, data)

    @property
    def ignores_key(self) -> bool:
        """Whether data depend on the parameters alone, so that runs at equal parameters are equal."""
        return bool(self.layout) and not self._uses_key

    @property
    def types(self) -> dict[str, str]:
        """The type of numbers of data that single precision would round, by name."""
        return {name: "float64" for name in self.layout.names if name in self._wide}

    def find_layout(self, run: Simulator) -> None:
        """Finds `layout`, unless it is known, by trial runs of `run(key, **parameters)` in place of the simulator.

        `run` may call the simulator in another process, where one that hangs or dies can be ended.
        """
        if "layout" not in vars(self):
            vars(self)["layout"] = self._layout_of(self.prior.variables, self._trial_run(run))

    def run(self, key: PRNGKeyArray, parameters: Mapping[str, Array]) -> Draw:
        """Runs the simulator once; its data as floating-point arrays, or whole numbers where these would be rounded."""
        data = {name: jnp.asarray(value) for name, value in recorded(self.simulator(key, **parameters)).items()}
        return {
            name: a if jnp.issubdtype(a.dtype, jnp.integer) and holds_large(a.dtype) else a.astype(float)
            for name, a in data.items()
        }

    def _layout_of(self, parameters: tuple[Variable, ...], values: Any) -> Layout:
        """The layout of the parameters and of data such as `values`, which a simulator returned."""
        for name in self.supports:
            if name not in values:
                raise DataError(unknown("`supports`", name, values, owner="this simulator returns"))
        twice = [name for name in values if name in {v.name for v in parameters}]
        if twice:
            raise DataError(f"{listed(twice)} would be both a parameter and data: give the data another name")
        data: list[Variable] = []
        for name, value in values.items():
            if isinstance(value, At):
                data.extend(variables_of(name, value, *self._bounds(name), "data"))
            else:
                data.append(Variable(name, tuple(np.shape(value)), *self._bounds(name), kind="data"))
        kinds = {k: v.dtype if hasattr(v, "dtype") else np.asarray(v).dtype for k, v in recorded(values).items()}
        self._wide = frozenset(name for name, kind in kinds.items() if holds_large(kind))
        # the simulator is that of one site: where there are sites, all data are theirs
        return Layout((*parameters, *(dataclasses.replace(v, plate=self.prior.plate) for v in data)))

    def _trial_run(self, run: Simulator) -> Any:
        """The data of the first trial run that does not raise."""
        for seed in range(TRIAL_RUNS):
            key = jax.random.key(seed)
            rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
            state = rng.bit_generator.state
            try:
                # a simulator's own prints must not end up in the output of a command
                with contextlib.redirect_stdout(sys.stderr):
                    data = run(rng if run is self.simulator else key, **self.prior.draw(key))
                self._uses_key = run is not self.simulator or rng.bit_generator.state != state
                return data
            except Exception:
                if seed == TRIAL_RUNS - 1:
                    raise
        raise AssertionError

    def _bounds(self, name: str) -> tuple[Any, Any]:
        if name not in self.supports:
            return -np.inf, np.inf
        return bounds_of(self.supports[name], name)

    def __repr__(self) -> str:
        return as_text(*self._table())

    def _repr_html_(self) -> str:
        return as_html(*self._table())

    def _table(self) -> tuple[str, list[Cells]]:
        """A title, and name, shape and law of each variable. A simulator in Python is not run for it."""
        function = self.python_function
        name = _name_of(self.simulator if function is None else function)
        title = f"Problem(simulator '{name}' in {'JAX' if function is None else 'NumPy'})"
        laws: Mapping[str, Entry] = getattr(self.prior, "entries", {})
        try:
            parameters = self.prior.variables
            rows = [(v.name, _shape_text(v), f"{laws.get(v.name, v.support)}{_plate_text(v)}") for v in parameters]
            if function is not None and "layout" not in vars(self):
                return title, [*rows, ("(data)", "", "as the simulator returns them; it has not been run yet")]
            variables = self.layout.variables
        except Exception as error:  # whatever is wrong with a problem, it can be shown
            return title, [(type(error).__name__, str(error))]
        rows = [row for row in rows if row[0] not in self.layout.places]
        data = [v for v in variables if v.kind == "data"]
        return title, [*rows, *((v.name, _shape_text(v), f"data, {v.support}{_plate_text(v)}") for v in data)]


def _name_of(function: Any) -> str:
    """The name of a function, or that of its class."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def _shape_text(variable: Variable) -> str:
    return str(variable.shape) if variable.shape else "number"


def _plate_text(variable: Variable) -> str:
    return f", one per {variable.plate}" if variable.plate else ""
