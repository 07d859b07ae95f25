"""A case of the zoo: a small problem with an exact answer, how it is learned, and what must come out.

Training rows come from `rd.simulate(problem)`, or are arrays in double precision that the user hands to `rd.fit` where
a prior in single precision could not draw them. `spoil` then does to them what happens to data.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.random as jr
import numpy as np

import retrodict as rd
from retrodict_bench.zoo._exact import Moments


Rows: TypeAlias = dict[str, np.ndarray]
Observation: TypeAlias = Mapping[str, np.ndarray]
Learn: TypeAlias = Literal["posterior", "joint", "hierarchical", "learn_posterior"]
# what must come: the right answer or a sentence; a sentence; the right answer without any sentence
Bar: TypeAlias = Literal["right or said", "said", "silent"]

OBSERVATIONS, SETS = 8, 2  # asked of a case, and of one with sites
SEED_OF_TRAINING, SEED_OF_OBSERVATIONS = 11, 12


@dataclass(frozen=True)
class Case:
    """A case of the zoo.

    Attributes:
        name: of the case.
        kind: the kind of data it belongs to.
        text: the problem in a few symbols.
        exact: exact mean and sd of parameters given one observation; None where warnings alone are counted.
        problem: makes the problem.
        rows: makes rows in double precision, in place of a simulator; then `layout` is set, and no `problem`.
        layout: makes the layout of `rows`.
        spoil: what happens to training rows.
        ask: makes the observations, name to `(K, *shape)`; by default new rows of the same problem.
        learn: the way to learn.
        failed: the word of `rd.fit` on failed runs.
        simulations: the number of training rows.
        sites: the number of sites of an observation.
        width: the width of the network; 0 is that of `SMALL`.
        steps: of training; 0 are those of `SMALL`.
        x64: whether JAX computes in double precision.
        bar: what must come.
        inside: the true ends of the first parameter, which draws must not leave.
        blame: the names of which one must be in a sentence; by default any variable.
        spoil_observations: what happens to observations after they were made; the exact answer is for those before.
    """

    name: str
    kind: str
    text: str
    exact: Callable[[Observation], Moments] | None
    problem: Callable[[], rd.Problem] | None = None
    rows: Callable[[np.random.Generator, int], Rows] | None = None
    layout: Callable[[], rd.Layout] | None = None
    spoil: Callable[[Rows], Any] | None = None
    ask: Callable[[], Rows] | None = None
    learn: Learn = "posterior"
    failed: Any = None
    simulations: int = 10_000
    sites: int = 0
    width: int = 0
    steps: int = 0
    x64: bool = False
    bar: Bar = "right or said"
    inside: tuple[float, float] = (-np.inf, np.inf)
    blame: tuple[str, ...] = ()
    spoil_observations: Callable[[Rows], Any] | None = None

    def training(self) -> Any:
        """Returns the rows to train on: simulations, or a dictionary of arrays."""
        sims = self.drawn(self.simulations, SEED_OF_TRAINING)
        return sims if self.spoil is None else self.spoil({name: np.array(sims[name]) for name in sims})

    def drawn(self, n: int, seed: int) -> Any:
        """Returns rows to train on, unspoiled: arrays, or simulations of the library."""
        if self.rows is not None:
            return self.rows(np.random.default_rng(seed), n)
        assert self.problem is not None
        return rd.simulate(self.problem(), n, key=seed, progress=False)

    def fresh(self, n: int, seed: int) -> Rows:
        """Returns new rows, with sites where an observation has some; data of NumPy simulators never meet the library.

        Fewer come where runs fail.
        """
        if self.rows is not None:
            return self.rows(np.random.default_rng(seed), n)
        assert self.problem is not None
        problem = self.problem()
        if problem.python_function is None:
            sims = rd.simulate(problem, n, key=seed, sites=self.sites, progress=False)
            return {name: np.asarray(sims[name]) for name in sims}
        parameters = _parameters(problem, n, seed, self.sites)
        rng, plate = np.random.default_rng(seed), problem.prior.plate
        every = {
            k: np.broadcast_to(v[:, None], (n, self.sites)) if plate and v.ndim == 1 else v
            for k, v in parameters.items()
        }
        shape = (n, self.sites) if plate else (n,)
        data = [problem.python_function(rng, **{k: v[i] for k, v in every.items()}) for i in np.ndindex(shape)]
        arrays = {k: np.stack([np.asarray(row[k], np.float64) for row in data]) for k in data[0]}
        return {**parameters, **{k: v.reshape(*shape, *v.shape[1:]) for k, v in arrays.items()}}

    def asked(self) -> Rows:
        """Returns the observations, name to `(K, *shape)`."""
        if self.ask is not None:
            return {name: np.asarray(values, np.float64) for name, values in self.ask().items()}
        count = SETS if self.sites else OBSERVATIONS
        rows = self.fresh(4 * count, SEED_OF_OBSERVATIONS)  # more than that, as runs may fail
        return {name: rows[name][:count] for name in self.variables().data}

    def variables(self) -> rd.Layout:
        """Returns the layout."""
        if self.layout is not None:
            return self.layout()
        assert self.problem is not None
        return self.problem().layout

    def named(self, name: str, **changes: Any) -> "Case":
        """Returns the case with another name and other settings."""
        return dataclasses.replace(self, name=name, **changes)


def _parameters(problem: rd.Problem, n: int, seed: int, sites: int) -> Rows:
    """Returns draws of the prior, `(n, *shape)`, and `(n, sites)` of what every site has."""
    prior, (key, key_own) = problem.prior, jr.split(jr.key(seed))
    drawn = jax.vmap(prior.draw)(jr.split(key, n))
    if prior.plate:
        shared = {name: drawn[name] for name in problem.layout.shared}
        keys = jr.split(key_own, (n, sites))
        of_sites = jax.vmap(jax.vmap(prior.draw_own, in_axes=(0, None)))(keys, shared)
        drawn = {**shared, **of_sites}
    return {name: np.asarray(values, np.float64) for name, values in drawn.items()}
