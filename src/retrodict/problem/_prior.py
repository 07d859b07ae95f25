"""Priors: a product of named distributions, each of which may depend on the parameters before it.

    {"rate": dist.LogNormal(0, 0.5), "level": lambda rate: dist.Normal(rate, 1)}

Where sites are alike (patients, schools, trials) a `Plate` holds the parameters of which each site has its own:

    {"mu": dist.Normal(0, 1), "site": Plate("site", {"eta": lambda mu: dist.Normal(mu, 0.5)})}
"""

import abc
import dataclasses
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError, RetrodictError, listed
from retrodict.problem._ends import ROUNDING, TRACER_ERRORS, TRIAL_DRAWS, base_of, check_draws, claimed_ends, ends_of
from retrodict.query.functions import recorded, variables_of
from retrodict.variables import At, Bound, Variable


TRIAL_SUPPORTS = 8  # of a law that depends on other parameters

Draw = dict[str, Array]


class Function(NamedTuple):
    """The prior of a function: a distribution `law` of its values on a grid `at`, linear in between.

    The simulator gets the values on the grid. A row keeps `points` values at random points of it, uniform from end to
    end.
    """

    law: Any
    at: Any
    points: int = 20

    def seen(self, key: PRNGKeyArray, values: Array) -> At:
        """The function at random points."""
        grid = jnp.asarray(self.at, float)
        points = jax.random.uniform(key, (self.points,), minval=grid[0], maxval=grid[-1])
        return At(points, jnp.interp(points, grid, values))


class Plate(NamedTuple):
    """Parameters of which every site has its own: name to distribution, in a prior.

    A distribution may be a function of shared parameters and of earlier parameters of the same site.
    """

    name: str
    distributions: Mapping[str, Any]


class AbstractPrior(abc.ABC):
    """A distribution over the parameters, drawn singly and batched by `jax.vmap`."""

    @property
    @abc.abstractmethod
    def variables(self) -> tuple[Variable, ...]:
        """The parameters with their shapes and supports."""

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray) -> Draw:
        """Draws every parameter once."""

    @abc.abstractmethod
    def log_prob(self, values: Mapping[str, Array]) -> Array:
        """The log density at a value of every parameter."""

    def recorded(self, key: PRNGKeyArray, values: Draw) -> Draw:
        """The values that a row keeps of a draw: of a function, those at random points."""
        del key
        return values

    @property
    def plate(self) -> str:
        """The name of the plate whose sites have parameters of their own; empty if there is none."""
        return next((v.plate for v in self.variables if v.plate), "")

    def draw_own(self, key: PRNGKeyArray, shared: Mapping[str, Array]) -> Draw:
        """Draws the parameters of a site, given the parameters that all sites share."""
        del key, shared
        return {}


class Entry(NamedTuple):
    """The law of a parameter, a distribution or a function of its `parents`; `function` is set for a `Function`."""

    law: Any
    parents: tuple[str, ...]
    function: Function | None = None

    @classmethod
    def read(cls, entry: Any) -> "Entry":
        """Reads an entry of a prior.

        Raises:
            RetrodictError: it is neither a distribution nor callable.
        """
        function = entry if isinstance(entry, Function) else None
        law = entry if function is None else function.law
        if hasattr(law, "log_prob"):
            return cls(law, (), function)
        if not callable(law):
            raise RetrodictError(f"a prior is a numpyro distribution or a function that returns one, got {law!r}")
        return cls(law, tuple(inspect.signature(law).parameters), function)

    def distribution(self, values: Mapping[str, Array]) -> Any:
        """The distribution, given values of the parents.

        Raises:
            RetrodictError: the function of the parents returns something else.
        """
        is_fixed = hasattr(self.law, "log_prob")
        result = self.law if is_fixed else self.law(**{parent: values[parent] for parent in self.parents})
        if not hasattr(result, "log_prob"):
            raise RetrodictError(f"a prior is a numpyro distribution or a function that returns one, got {result!r}")
        return result

    def __str__(self) -> str:
        kind = "a function, " if self.function else ""
        return f"{kind}given {', '.join(self.parents)}" if self.parents else f"{kind}{_law_text(self.law)}"


class Prior(AbstractPrior):
    """A product of named distributions, each of which may depend on the parameters before it; see `Plate` for sites.

    Attributes:
        distributions: name to distribution, or to a function that returns one, those of the plate among them.
        own: the parameters of which every site has its own, name to plate.
        entries: the same as `distributions`, read.

    Raises:
        RetrodictError: an entry is no distribution, is a constant, depends on a later parameter, or has a support that
            moves or that is no interval of the reals.
        DataError: there is no entry, or plates are nested or more than one.
    """

    def __init__(self, distributions: Mapping[str, Any]) -> None:
        if not distributions:
            raise DataError("a problem needs at least one parameter in its prior")
        self.distributions, self.own, self._plate = _flat(distributions)
        self.entries: dict[str, Entry] = {}
        for name, entry in self.distributions.items():
            read = Entry.read(entry)
            for parent in read.parents:
                if parent not in self.entries:
                    earlier = listed(self.entries) if self.entries else "nothing"
                    raise RetrodictError(
                        f"the prior of '{name}' depends on '{parent}', but only {earlier} comes before it"
                    )
                if parent in self.own and name not in self.own:
                    raise RetrodictError(
                        f"'{name}' is shared by all sites and cannot depend on '{parent}', of which every site has one"
                    )
            if not read.parents:
                claimed_ends(read.distribution({}), name)  # what cannot be used is said at once
            self.entries[name] = read

    @property
    def plate(self) -> str:
        return self._plate  # also of sites that have data alone

    @functools.cached_property
    def variables(self) -> tuple[Variable, ...]:
        with jax.ensure_compile_time_eval():  # a program that is being traced may be the first to ask
            return tuple(self._variables())

    def _variables(self) -> list[Variable]:
        draws = self._trial_draws
        variables: list[Variable] = []
        for name, entry in self.entries.items():
            values, bounds = draws[name], self._ends(name)
            shape = tuple(values.shape[1:])
            check_draws(name, values, bounds, constant=entry.function is not None)
            new: tuple[Variable, ...] = (Variable(name, shape, *bounds, kind="parameter"),)
            if entry.function is not None:
                at = entry.function.seen(jax.random.key(0), values[0])
                low, high = (float(np.min(bound)) for bound in bounds)  # all values of a function share a support
                new = variables_of(name, at, low, high, "parameter")
            variables.extend(dataclasses.replace(v, plate=self.own.get(name, "")) for v in new)
        return variables

    @functools.cached_property
    def _trial_draws(self) -> dict[str, np.ndarray]:
        """Some draws by name, `(n, *shape)`.

        Raises:
            RetrodictError: a function in the prior needs numbers, where JAX has arrays that stand for all draws.
        """
        try:
            return jax.device_get(jax.vmap(self.draw)(jax.random.split(jax.random.key(0), TRIAL_DRAWS)))
        except TRACER_ERRORS as error:
            raise RetrodictError(
                "a function in the prior uses NumPy, `float(...)` or `if` on a parameter, which JAX cannot follow; "
                "write it in jax.numpy"
            ) from error

    def supports(self, name: str, entry: Entry | None = None) -> list[tuple[Bound, Bound]]:
        """The ends of the law of a parameter at some draws of its parents; `entry` is another law of it."""
        draws, entry = self._trial_draws, entry or self.entries[name]
        shape = tuple(draws[name].shape[1:])
        if any(parent not in draws for parent in entry.parents):
            return []
        rows = [{k: jnp.asarray(v[i]) for k, v in draws.items()} for i in range(TRIAL_SUPPORTS if entry.parents else 1)]
        return [ends_of(entry.distribution(row), name, shape) for row in rows]

    def _ends(self, name: str) -> tuple[Bound, Bound]:
        """The ends of a law, which must be the same whatever its parents are."""
        bounds, *others = self.supports(name)
        for other in others:
            if not all(np.allclose(*ends, rtol=ROUNDING, atol=0.0) for ends in zip(bounds, other, strict=True)):
                raise RetrodictError(
                    f"the support of '{name}' moves with {listed(self.entries[name].parents)}; give it a fixed support "
                    "(draw a fraction of the interval, and scale it in the simulator)"
                )
        return bounds

    def recorded(self, key: PRNGKeyArray, values: Draw) -> Draw:
        result: dict[str, Any] = dict(values)
        for i, (name, entry) in enumerate(self.entries.items()):
            if entry.function is not None:
                result[name] = entry.function.seen(jax.random.fold_in(key, i), values[name])
        return recorded(result)

    def draw(self, key: PRNGKeyArray) -> Draw:
        return self._with_drawn(key, self.entries, {})

    def draw_own(self, key: PRNGKeyArray, shared: Mapping[str, Array]) -> Draw:
        values = self._with_drawn(key, self.own, dict(shared))
        return {name: values[name] for name in self.own}

    def _with_drawn(self, key: PRNGKeyArray, names: Iterable[str], values: Draw) -> Draw:
        """Adds a draw of some parameters to the values of those that they may depend on."""
        for name in names:
            key, subkey = jax.random.split(key)
            values[name] = jnp.asarray(self.entries[name].distribution(values).sample(subkey), float)
        return values

    def log_prob(self, values: Mapping[str, Array]) -> Array:
        entries = self.entries.items()
        return functools.reduce(
            jnp.add, (jnp.sum(e.distribution(values).log_prob(values[name])) for name, e in entries)
        )


def as_prior(prior: Any) -> AbstractPrior:
    """The prior that a user wrote: a mapping from name to distribution, or a prior.

    Raises:
        DataError: it is neither.
    """
    if isinstance(prior, AbstractPrior):
        return prior
    if isinstance(prior, Mapping):
        return Prior(prior)
    raise DataError(
        "a prior is a mapping from name to distribution, or a numpyro model as rd.numpyro_prior(model), "
        f"got {type(prior).__name__}"
    )


def _flat(distributions: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], str]:
    """All entries, those of the plate among them, the plate of each entry that has one, and the first plate or ''."""
    flat: dict[str, Any] = {}
    plates: dict[str, str] = {}
    plate = ""
    for name, entry in distributions.items():
        is_plate = isinstance(entry, Plate)
        if is_plate:
            _check_plate(name, entry, plates)
            plate, plates = plate or name, dict.fromkeys(entry.distributions, name)
        for key, value in (entry.distributions if is_plate else {name: entry}).items():
            if key in flat:
                raise DataError(f"two parameters of the prior are called '{key}'")
            flat[key] = value
    return flat, plates, plate


def _check_plate(name: str, plate: Plate, plates: Mapping[str, str]) -> None:
    """Raises a DataError if a plate is not the first, has another name, or holds another plate."""
    if name != plate.name:
        raise DataError(f"the plate '{plate.name}' stands under the name '{name}'; give both the same name")
    if plates:
        first = next(iter(plates.values()))
        raise DataError(f"a problem has one plate, and '{name}' would be a second beside '{first}'")
    if any(isinstance(inner, Plate) for inner in plate.distributions.values()):
        raise DataError(f"the plate '{name}' holds another plate; plates in plates are not offered yet")


def _law_text(distribution: Any) -> str:
    """A distribution in short: "Uniform(low=0, high=1.5)"."""
    base = base_of(distribution)
    settings = {name: np.asarray(getattr(base, name)) for name in getattr(base, "arg_constraints", {})}
    words = [f"{name}={_numbers_text(value)}" for name, value in settings.items() if value.ndim < 2]
    return f"{type(base).__name__}({', '.join(words)})"


def _numbers_text(values: np.ndarray) -> str:
    """Numbers in short; equal ones are shown once."""
    numbers = [f"{value:.6g}" for value in values.ravel().tolist()]
    if len(set(numbers)) == 1:
        return numbers[0]
    return f"[{', '.join(numbers if len(numbers) <= 4 else [*numbers[:2], '...', numbers[-1]])}]"
