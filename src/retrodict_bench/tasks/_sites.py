"""Tasks with sites: shared parameters g, and of every site s its own parameters eta_s and data y_s.

    log p(g, eta, y) = log p(g) + sum over s of [log p(eta_s | g) + log p(y_s | g, eta_s)]

Given g the sites are independent. Where the eta_s can be integrated out of each site's term, the posterior of g is that
of few numbers; where it is that of one number, a sum over a fine grid is exact to the grid. Draws of g come first then,
and given each of them draws of every eta_s:

    p(g, eta | y) = p(g | y) product over s of p(eta_s | g, y_s)
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from retrodict._errors import DataError
from retrodict.problem import Prior, Problem
from retrodict.query.functions import joined, recorded
from retrodict.simulation._simulate import simulate
from retrodict.variables import Variable
from retrodict_bench.tasks._task import LogJoint, Rows, Task, frozen


SITES, OBSERVATIONS, REFERENCE = 50, 10, 10_000

Posterior = Callable[[Mapping[str, np.ndarray], np.random.Generator, int], Mapping[str, np.ndarray]]


def sites_task(
    name: str,
    problem: Problem,
    log_likelihood: Callable[..., Array],
    *,
    seed: int,
    sites: int = SITES,
    posterior: Posterior | None = None,
) -> Task:
    """A task whose ten observations of `sites` sites each are simulated from a fixed seed.

    Args:
        name: what `tasks.get` calls it.
        problem: with a plate.
        log_likelihood: log p(y_s | g, eta_s) of one site, every variable passed by its name.
        seed: that of the observations; the reference draws have the next one.
        sites: in every observation.
        posterior: `posterior(data, rng, n)`, n exact draws given the data of all sites; `None` if nobody knows them.
    """

    @functools.cache
    def drawn() -> tuple[Rows, Rows]:
        found = simulate(problem, OBSERVATIONS, key=seed, sites=sites)
        rows = {k: frozen(np.array(v, np.float32)) for k, v in found.items()}
        parameters = problem.layout.parameters
        return {k: v for k, v in rows.items() if k not in parameters}, {k: rows[k] for k in parameters}

    @functools.cache
    def references() -> Rows:
        if posterior is None:
            raise DataError(
                f"'{name}' has no reference posterior; check a posterior with `retrodict.diagnostics`, against the "
                "true parameters of many simulations"
            )
        rng, data = np.random.default_rng(seed + 1), drawn()[0]
        rows = [{k: v[i].astype(float) for k, v in data.items()} for i in range(OBSERVATIONS)]
        each = [posterior(row, rng, REFERENCE) for row in rows]
        return {k: frozen(np.stack([draws[k] for draws in each]).astype(np.float32)) for k in each[0]}

    return Task(
        name,
        problem,
        lambda: drawn()[0],
        lambda: drawn()[1],
        references,
        log_likelihood,
        sites=sites,
        log_joint=log_joint(problem, log_likelihood),
    )


def log_joint(problem: Problem, log_likelihood: Callable[..., Array]) -> LogJoint:
    """The log density of the module's first lines; see `Task.log_joint`.

    Laws of what is always given (where a function is seen, known errors) are left out: they cancel in every posterior.
    """
    prior = problem.prior
    if not isinstance(prior, Prior):
        raise DataError("`log_joint` is that of a prior in a mapping")
    shared = Prior({k: entry for k, entry in prior.distributions.items() if k not in prior.own})

    def joint(values: Mapping[str, Any]) -> Float[Array, ""]:
        found = {k: jnp.asarray(v, float) for k, v in recorded(values).items()}
        common = {k: found[k] for k in shared.distributions}
        score = shared.log_prob(common)

        def site(own: Mapping[str, Array]) -> Array:
            parameters = {**common, **{k: own[k] for k in prior.own}}
            return prior.log_prob(parameters) - score + log_likelihood(**joined({**common, **own}))

        total = score + jnp.sum(jax.vmap(site)({k: found[k] for k in problem.layout.own}))
        return jnp.where(_inside(prior.variables, found), total, -jnp.inf)

    return joint


def _inside(variables: Iterable[Variable], values: Mapping[str, Array]) -> Bool[Array, ""]:
    """Whether every variable lies in its support, at all sites."""
    ends = {v.name: [end.reshape(v.shape) for end in v.ends] for v in variables}
    held = [jnp.all((values[k] >= low) & (values[k] <= high)) for k, (low, high) in ends.items()]
    return functools.reduce(jnp.logical_and, held)


def drawn_on_grid(
    log_density: Float[np.ndarray, "*b k"], grid: Float[np.ndarray, " k"], rng: np.random.Generator, n: int
) -> Float[np.ndarray, "n *b"]:
    """Draws from densities known up to a factor on a grid, linear in between: the inverse of their distribution."""
    density = np.exp(log_density - log_density.max(axis=-1, keepdims=True))
    rows = density.reshape(-1, len(grid))
    found = np.stack([_inverse(row, grid, rng.uniform(size=n)) for row in rows], axis=-1)
    return found.reshape(n, *density.shape[:-1])


def _inverse(density: np.ndarray, grid: np.ndarray, u: np.ndarray) -> np.ndarray:
    mass = np.concatenate([[0.0], np.cumsum(np.diff(grid) * (density[1:] + density[:-1]) / 2)])
    cell = np.clip(np.searchsorted(mass, u * mass[-1], side="right") - 1, 0, len(grid) - 2)
    width = grid[cell + 1] - grid[cell]
    left, slope = density[cell], (density[cell + 1] - density[cell]) / width
    rest = u * mass[-1] - mass[cell]
    # left d + slope d^2 / 2 = rest, solved without a difference of equal numbers
    root = np.sqrt(np.maximum(left**2 + 2 * slope * rest, 0.0))
    return grid[cell] + np.minimum(2 * rest / np.maximum(left + root, 1e-300), width)
