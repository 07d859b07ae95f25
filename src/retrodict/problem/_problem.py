"""Problems: what a scientist brings, a prior and a simulator.

A prior is a mapping from a parameter's name to a `numpyro` distribution, or to a function of earlier parameters that
returns one; a simulator turns one draw of the parameters into one draw of the data:

    prior      {"rate": dist.LogNormal(0, 0.5), "level": lambda rate: dist.Normal(rate, 1)}
    simulator  simulate(key, rate, level) -> {"counts": array}          a JAX function

Where sites are alike (patients, schools, trials) a `Plate` in the prior holds what each of them has for itself, and the
simulator is that of ONE site:

    prior      {"mu": dist.Normal(0, 1), "site": Plate("site", {"eta": lambda mu: dist.Normal(mu, 0.5)})}
    simulator  simulate(key, mu, eta) -> {"y": array}
"""

import abc
import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError, RetrodictError, listed, unknown
from retrodict._types import Key, as_key
from retrodict.query.functions import recorded, variables_of
from retrodict.variables import At, Layout, Variable, bounds_of


class Function(NamedTuple):
    """The prior of a function: a distribution `law` of its values on a grid `at`, linear in between.

    The simulator gets the values on the grid; what a row keeps of them are `points` values at random points of it,
    uniform from end to end.
    """

    law: Any
    at: Any
    points: int = 20

    def seen(self, key: PRNGKeyArray, values: Array) -> At:
        """The function at random points."""
        grid = jnp.asarray(self.at, float)
        where = jax.random.uniform(key, (self.points,), minval=grid[0], maxval=grid[-1])
        return At(where, jnp.interp(where, grid, values))


class Plate(NamedTuple):
    """In a prior: what every site has for itself, name to distribution, each of which may depend on shared parameters
    and on earlier ones of the same site."""

    name: str
    distributions: Mapping[str, Any]


TRIALS = 5  # runs of a simulator in Python, until one shows what it returns

Draw = dict[str, Array]
Simulator = Callable[..., Mapping[str, Any]]


class AbstractPrior(abc.ABC):
    """A distribution over the parameters, drawn one at a time and batched by `jax.vmap`."""

    @property
    @abc.abstractmethod
    def variables(self) -> tuple[Variable, ...]:
        """The parameters with their shapes and supports."""

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray) -> Draw:
        """One draw of every parameter."""

    @abc.abstractmethod
    def log_prob(self, values: Mapping[str, Array]) -> Array:
        """The log density of one value of every parameter."""

    def recorded(self, key: PRNGKeyArray, values: Draw) -> Draw:
        """What a row keeps of one draw: of a function, values at random points."""
        del key
        return values

    @property
    def plate(self) -> str:
        """The name of the plate whose sites have parameters of their own; empty if there is none."""
        return next((v.plate for v in self.variables if v.plate), "")

    def draw_own(self, key: PRNGKeyArray, shared: Mapping[str, Array]) -> Draw:
        """One draw of what one site has for itself, given the parameters that all sites share."""
        del key, shared
        return {}


class Prior(AbstractPrior):
    """A product of named distributions, each of which may depend on the parameters before it; see `Plate` for sites.

    Raises:
        RetrodictError: an entry is no distribution, depends on a later parameter, or has a support that moves.
        DataError: there is no entry, or plates are nested or more than one.
    """

    def __init__(self, distributions: Mapping[str, Any]) -> None:
        if not distributions:
            raise DataError("a problem needs at least one parameter in its prior")
        self.distributions, self.own = _flat(distributions)
        self._plate = next((entry.name for entry in distributions.values() if isinstance(entry, Plate)), "")
        seen: list[str] = []
        for name, entry in self.distributions.items():
            for parent in _parents(entry):
                if parent not in seen:
                    earlier = listed(seen) if seen else "nothing"
                    raise RetrodictError(
                        f"the prior of '{name}' depends on '{parent}', but only {earlier} comes before it"
                    )
                if parent in self.own and name not in self.own:
                    raise RetrodictError(
                        f"'{name}' is shared by all sites and cannot depend on '{parent}', of which every site has one"
                    )
            seen.append(name)

    @property
    def plate(self) -> str:
        return self._plate  # also of sites that have data alone

    @functools.cached_property
    def variables(self) -> tuple[Variable, ...]:
        draws = [self.draw(jax.random.key(seed)) for seed in (0, 1)]
        rows: list[Variable] = []
        for name, entry in self.distributions.items():
            first, second = (bounds_of(self._at(entry, draw).support, name) for draw in draws)
            if first != second:
                raise RetrodictError(
                    f"the support of '{name}' moves with {listed(_parents(entry))}; give it a fixed support "
                    "(draw a fraction of the interval, and scale it in the simulator)"
                )
            if isinstance(entry, Function):
                seen = entry.seen(jax.random.key(0), draws[0][name])
                new: tuple[Variable, ...] = variables_of(name, seen, _one(first[0]), _one(first[1]), "parameter")
            else:
                new = (Variable(name, tuple(draws[0][name].shape), *first, kind="parameter"),)
            rows.extend(dataclasses.replace(v, plate=self.own.get(name, "")) for v in new)
        return tuple(rows)

    def recorded(self, key: PRNGKeyArray, values: Draw) -> Draw:
        found: dict[str, Any] = dict(values)
        for i, (name, entry) in enumerate(self.distributions.items()):
            if isinstance(entry, Function):
                found[name] = entry.seen(jax.random.fold_in(key, i), values[name])
        return recorded(found)

    def draw(self, key: PRNGKeyArray) -> Draw:
        return self._drawn(key, self.distributions, {})

    def draw_own(self, key: PRNGKeyArray, shared: Mapping[str, Array]) -> Draw:
        values = self._drawn(key, self.own, dict(shared))
        return {name: values[name] for name in self.own}

    def _drawn(self, key: PRNGKeyArray, names: Iterable[str], values: Draw) -> Draw:
        for name in names:
            key, subkey = jax.random.split(key)
            values[name] = jnp.asarray(self._at(self.distributions[name], values).sample(subkey), float)
        return values

    def log_prob(self, values: Mapping[str, Array]) -> Array:
        terms = (jnp.sum(self._at(e, values).log_prob(values[name])) for name, e in self.distributions.items())
        return functools.reduce(jnp.add, terms)

    @staticmethod
    def _at(entry: Any, values: Mapping[str, Array]) -> Any:
        entry = entry.law if isinstance(entry, Function) else entry
        found = entry if hasattr(entry, "log_prob") else entry(**{p: values[p] for p in _parents(entry)})
        if not hasattr(found, "log_prob"):
            raise RetrodictError(f"a prior is a numpyro distribution or a function that returns one, got {found!r}")
        return found


def _flat(distributions: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """All entries, those of the plate among them, and which plate each of these lives in."""
    flat: dict[str, Any] = {}
    own: dict[str, str] = {}
    for name, entry in distributions.items():
        inside = entry.distributions if isinstance(entry, Plate) else {name: entry}
        if isinstance(entry, Plate):
            if name != entry.name:
                raise DataError(f"the plate '{entry.name}' stands under the name '{name}'; give both the same name")
            if own:
                raise DataError(
                    f"a problem has one plate, and '{name}' would be a second beside '{next(iter(own.values()))}'"
                )
            if any(isinstance(inner, Plate) for inner in inside.values()):
                raise DataError(f"the plate '{name}' holds another plate; plates in plates are not offered yet")
            own = dict.fromkeys(inside, name)
        for key, value in inside.items():
            if key in flat:
                raise DataError(f"two parameters of the prior are called '{key}'")
            flat[key] = value
    return flat, own


def _one(end: Any) -> float:
    """The end of the support that all values of a function share."""
    return float(np.min(end)) if np.ndim(end) else float(end)


def _as_prior(prior: Any) -> AbstractPrior:
    if isinstance(prior, AbstractPrior):
        return prior
    if isinstance(prior, Mapping):
        return Prior(prior)
    raise DataError(
        "a prior is a mapping from name to distribution, or a numpyro model as rd.numpyro_prior(model), "
        f"got {type(prior).__name__}"
    )


def _parents(entry: Any) -> list[str]:
    entry = entry.law if isinstance(entry, Function) else entry
    if hasattr(entry, "log_prob"):
        return []
    if not callable(entry):
        raise RetrodictError(f"a prior is a numpyro distribution or a function that returns one, got {entry!r}")
    return list(inspect.signature(entry).parameters)


class NumpySimulator:
    """A simulator in plain NumPy, `f(rng, **parameters) -> {name: array}`, run one row after the other.

    Called by hand it takes a key, as any simulator, or a generator.
    """

    def __init__(self, function: Callable[..., Mapping[str, Any]]) -> None:
        self.function = function

    def __call__(self, key: Key | np.random.Generator, **parameters: Any) -> dict[str, Any]:
        # every row's generator comes from the row's own key, so that no two rows ever share a stream
        if not isinstance(key, np.random.Generator):
            key = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
        values = self.function(key, **{name: np.asarray(value) for name, value in parameters.items()})
        return {name: value if isinstance(value, At) else np.asarray(value) for name, value in values.items()}


def numpy_simulator(function: Callable[..., Mapping[str, Any]]) -> NumpySimulator:
    """Wraps `f(rng, **parameters) -> {name: array}`, where `rng` is a `numpy.random.Generator`."""
    return NumpySimulator(function)


class Problem:
    """A prior and a simulator.

    Args:
        prior: name to `numpyro` distribution, to a function of earlier parameters that returns one, or to a `Plate`;
            or what `numpyro_prior` makes of a numpyro model.
        simulator: `simulator(key, **parameters) -> {name: array}`, one draw in and one out.
        supports: for data that live on a half-line or an interval, name to `numpyro` constraint; the others are real.

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
        self.prior = _as_prior(prior)
        self.simulator = simulator
        self.supports = dict(supports or {})

    @functools.cached_property
    def layout(self) -> Layout:
        """The parameters of the prior, then the data as a trial run of the simulator shows them."""
        # the prior first: what is wrong with it is said before anything runs
        if isinstance(self.simulator, NumpySimulator):
            return self._shown(self.prior.variables, self._trial(self.simulator))
        parameters, key = self.prior.variables, jax.random.key(0)
        return self._shown(parameters, jax.eval_shape(lambda k: self.simulator(k, **self.prior.draw(k)), key))

    def try_by(self, run: Simulator) -> None:
        """Finds `layout`, unless it is known, by trial runs that `run(key, **parameters)` makes in the simulator's
        place: elsewhere, where one that hangs or dies can be ended."""
        if "layout" not in vars(self):
            vars(self)["layout"] = self._shown(self.prior.variables, self._trial(run))

    def _shown(self, parameters: tuple[Variable, ...], found: Any) -> Layout:
        if not isinstance(found, Mapping):
            kind = "an array" if hasattr(found, "shape") else type(found).__name__
            raise RetrodictError(f"a simulator returns a mapping from name to array, got {kind}")
        data = {name: v if isinstance(v, At) else np.zeros(np.shape(v)) for name, v in found.items()}
        for name in self.supports:
            if name not in data:
                raise DataError(unknown("`supports`", name, data, owner="this simulator returns"))
        both = [name for name in data if name in {v.name for v in parameters}]
        if both:
            raise DataError(f"{listed(both)} would be both a parameter and data: give the data another name")
        rows: list[Variable] = []
        for name, value in data.items():
            if isinstance(value, At):
                rows.extend(variables_of(name, value, *self._ends(name), "data"))
            else:
                rows.append(Variable(name, tuple(value.shape), *self._ends(name), kind="data"))
        # the simulator is that of one site: where there are sites, all data are theirs
        return Layout((*parameters, *(dataclasses.replace(v, plate=self.prior.plate) for v in rows)))

    def _trial(self, run: Simulator) -> Any:
        """What the first of some runs returns that does not raise: a simulator may fail now and then."""
        for seed in range(TRIALS):
            key = jax.random.key(seed)
            try:
                with contextlib.redirect_stdout(sys.stderr):  # what it prints is not what a command prints
                    return run(key, **self.prior.draw(key))
            except Exception:
                if seed == TRIALS - 1:
                    raise
        raise AssertionError

    def run(self, key: PRNGKeyArray, parameters: Mapping[str, Array]) -> Draw:
        """One run of the simulator, as floating-point arrays."""
        return {k: jnp.asarray(v, float) for k, v in recorded(self.simulator(key, **parameters)).items()}

    def _ends(self, name: str) -> tuple[Any, Any]:
        if name not in self.supports:
            return -np.inf, np.inf
        return bounds_of(self.supports[name], name)
