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
from retrodict._runtime.tables import Cells, as_html, as_text
from retrodict._types import Key, as_key
from retrodict.problem._prior import AbstractPrior, Draw, Entry, as_prior
from retrodict.query.functions import each_array, recorded, variables_of
from retrodict.variables import At, Layout, Variable, bounds_of


TRIAL_RUNS = 5  # of a simulator in Python, which may fail now and then: the first that ends well shows the data

Simulator = Callable[..., Mapping[str, Any]]


class NumpySimulator:
    """A simulator in plain NumPy, `f(rng, **parameters) -> {name: array}`, run row after row.

    Called by hand it takes a key, as any simulator, or a generator.
    """

    def __init__(self, function: Callable[..., Mapping[str, Any]]) -> None:
        self.function = function

    def __call__(self, key: Key | np.random.Generator, **parameters: Any) -> dict[str, Any]:
        # every row's generator comes from the row's own key, so that no two rows ever share a stream
        if not isinstance(key, np.random.Generator):
            key = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
        values = self.function(key, **{name: np.asarray(value) for name, value in parameters.items()})
        return {name: each_array(np.asarray, value) for name, value in values.items()}


def numpy_simulator(function: Callable[..., Mapping[str, Any]]) -> NumpySimulator:
    """Wraps `f(rng, **parameters) -> {name: array}`, where `rng` is a `numpy.random.Generator`."""
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

    @property
    def python_function(self) -> Callable[..., Mapping[str, Any]] | None:
        """The function `f(rng, **parameters)` of a simulator in Python; None for a simulator in JAX."""
        return self.simulator.function if isinstance(self.simulator, NumpySimulator) else None

    @functools.cached_property
    def layout(self) -> Layout:
        """The parameters of the prior, then the data as a trial run of the simulator shows them."""
        # the prior first: what is wrong with it is said before anything runs
        if self.python_function is not None:
            return self._layout_of(self.prior.variables, self._trial_run(self.simulator))
        parameters, key = self.prior.variables, jax.random.key(0)
        return self._layout_of(parameters, jax.eval_shape(lambda k: self.simulator(k, **self.prior.draw(k)), key))

    def find_layout(self, run: Simulator) -> None:
        """Finds `layout`, unless it is known, by trial runs of `run(key, **parameters)` in place of the simulator.

        `run` may call the simulator in another process, where one that hangs or dies can be ended.
        """
        if "layout" not in vars(self):
            vars(self)["layout"] = self._layout_of(self.prior.variables, self._trial_run(run))

    def run(self, key: PRNGKeyArray, parameters: Mapping[str, Array]) -> Draw:
        """Runs the simulator once; its data as floating-point arrays."""
        return {k: jnp.asarray(v, float) for k, v in recorded(self.simulator(key, **parameters)).items()}

    def _layout_of(self, parameters: tuple[Variable, ...], values: Any) -> Layout:
        """The layout of the parameters and of data such as `values`, which a simulator returned."""
        if not isinstance(values, Mapping):
            kind = "an array" if hasattr(values, "shape") else type(values).__name__
            raise RetrodictError(f"a simulator returns a mapping from name to array, got {kind}")
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
        # the simulator is that of one site: where there are sites, all data are theirs
        return Layout((*parameters, *(dataclasses.replace(v, plate=self.prior.plate) for v in data)))

    def _trial_run(self, run: Simulator) -> Any:
        """The data of the first trial run that does not raise."""
        for seed in range(TRIAL_RUNS):
            key = jax.random.key(seed)
            try:
                # a simulator's own prints must not end up in the output of a command
                with contextlib.redirect_stdout(sys.stderr):
                    return run(key, **self.prior.draw(key))
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
