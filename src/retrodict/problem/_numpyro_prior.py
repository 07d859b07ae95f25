"""Priors written as a numpyro model: its sample sites are the parameters, its plate holds those of each site.

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("site", 8):
            numpyro.sample("eta", dist.Normal(mu, 0.5))

The model is traced, never inferred. The sites of its plate are alike, however many they are, and the first is drawn.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError, RetrodictError, listed
from retrodict.problem import AbstractPrior, Draw
from retrodict.problem._ends import TRIAL_DRAWS, check_draws, claimed_ends, ends_of
from retrodict.variables import Variable


class NumpyroPrior(AbstractPrior):
    """The prior that a numpyro model without arguments and without observations describes.

    Attributes:
        names: the parameters.
        own: the parameters inside the plate, name to plate.

    Raises:
        DataError: the model has no parameters, has observations, or has more than one plate.
        RetrodictError: a parameter is a constant, or its support is no interval of the reals.
    """

    def __init__(self, model: Callable[[], Any]) -> None:
        self.model = model
        trace = self._trace(jax.random.key(0), {})
        self.names = [name for name, site in trace.items() if site["type"] == "sample"]
        if not self.names:
            raise DataError("the numpyro model has no `numpyro.sample`, hence no parameters")
        if observed := [name for name in self.names if trace[name]["is_observed"]]:
            raise DataError(
                f"the numpyro model observes {listed(observed)}; a prior has parameters only, data are simulated"
            )
        for name in self.names:
            claimed_ends(trace[name]["fn"], name)  # what cannot be used is said at once
        plates = {frame.name for name in self.names for frame in trace[name]["cond_indep_stack"]}
        if len(plates) > 1:
            raise DataError(f"a problem has one plate, and plates in plates are not offered yet; got {listed(plates)}")
        self.own = {name: next(iter(plates)) for name in self.names if trace[name]["cond_indep_stack"]}

    @functools.cached_property
    def variables(self) -> tuple[Variable, ...]:
        traces = [self._trace(jax.random.key(seed), {}) for seed in (0, 1)]
        draws = jax.device_get(jax.vmap(self.draw)(jax.random.split(jax.random.key(0), TRIAL_DRAWS)))
        rows = []
        for name in self.names:
            (low, high), moved = (self._bounds(trace[name], name) for trace in traces)
            if not all(np.allclose(*ends, rtol=1e-6, atol=0.0) for ends in zip((low, high), moved, strict=True)):
                raise RetrodictError(f"the support of '{name}' moves with other parameters; give it a fixed support")
            shape = tuple(draws[name].shape[1:])
            check_draws(name, draws[name], (low, high))
            rows.append(Variable(name, shape, low, high, kind="parameter", plate=self.own.get(name, "")))
        return tuple(rows)

    def draw(self, key: PRNGKeyArray) -> Draw:
        trace = self._trace(key, {})
        return {name: self._first_site(name, trace[name]["value"]) for name in self.names}

    def draw_own(self, key: PRNGKeyArray, shared: Mapping[str, Array]) -> Draw:
        trace = self._trace(key, shared)
        return {name: self._first_site(name, trace[name]["value"]) for name in self.own}

    def log_prob(self, values: Mapping[str, Array]) -> Array:
        # every site of the plate gets the same values; the first one counts
        trace = self._trace(jax.random.key(0), {})
        everywhere = {
            name: jnp.broadcast_to(values[name], trace[name]["value"].shape) if name in self.own else values[name]
            for name in self.names
        }
        trace = self._trace(jax.random.key(0), everywhere)
        terms = [self._first_site(name, trace[name]["fn"].log_prob(everywhere[name])) for name in self.names]
        return functools.reduce(jnp.add, map(jnp.sum, terms))

    def _trace(self, key: PRNGKeyArray, values: Mapping[str, Array]) -> dict[str, Any]:
        """The trace of the model, with some sample sites held at values."""
        from numpyro import handlers  # seconds to import, and not every problem needs it

        return dict(handlers.trace(handlers.substitute(handlers.seed(self.model, key), data=dict(values))).get_trace())

    def _first_site(self, name: str, value: Any) -> Array:
        """The value of the first site, where a parameter lies inside the plate, whose axis is the first."""
        return jnp.asarray(value[0] if name in self.own else value, float)

    def _bounds(self, site: Mapping[str, Any], name: str) -> Any:
        low, high = ends_of(site["fn"], name, tuple(jnp.shape(site["value"])))
        if name in self.own:  # bounds are alike at all sites: a number per element remains, or a number for all
            size, count = jnp.size(site["value"]), len(site["value"])
            low, high = (e[: size // count] if isinstance(e, tuple) else e for e in (low, high))
        return low, high


def numpyro_prior(model: Callable[[], Any]) -> NumpyroPrior:
    """The prior that a numpyro model without arguments and without observations describes, its plate included.

    Raises:
        DataError: the model has no parameters, has observations, or has more than one plate.
    """
    return NumpyroPrior(model)
