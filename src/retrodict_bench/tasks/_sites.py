"""Tasks with sites: shared parameters g, and parameters eta_s and data y_s of every site s.

    log p(g, eta, y) = log p(g) + sum over s of [log p(eta_s | g) + log p(y_s | g, eta_s)]

Given g the sites are independent. If eta_s can be integrated out of each site's term, the posterior of g has few
dimensions. If g is one number, a sum over a fine grid is exact up to the spacing of the grid. Then g is drawn first,
and every eta_s given each draw of g:

    p(g, eta | y) = p(g | y) product over s of p(eta_s | g, y_s)
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from retrodict import DataError, Problem, Variable, simulate
from retrodict.problem import Prior
from retrodict.query.functions import joined, recorded
from retrodict_bench.tasks._task import LogJoint, Rows, Task, frozen


SITES, OBSERVATIONS, REFERENCE_DRAWS = 50, 10, 10_000

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
    """Returns a task with ten observations of `sites` sites each, simulated from a fixed seed.

    Args:
        name: the name for `tasks.get`.
        problem: prior and simulator, with a plate.
        log_likelihood: log p(y_s | g, eta_s) of one site, every variable passed by its name.
        seed: of the observations; the reference draws have the next one.
        sites: the number of sites in every observation.
        posterior: `posterior(data, rng, n)` draws n exact rows given the data of all sites; `None` if no exact sampler
            is known.
    """

    @functools.cache
    def simulations() -> tuple[Rows, Rows]:
        sims = simulate(problem, OBSERVATIONS, key=seed, sites=sites)
        rows = {k: frozen(np.array(v, np.float32)) for k, v in sims.items()}
        parameters = problem.layout.parameters
        return {k: v for k, v in rows.items() if k not in parameters}, {k: rows[k] for k in parameters}

    @functools.cache
    def references() -> Rows:
        if posterior is None:
            raise DataError(
                f"'{name}' has no reference posterior; check a posterior with `retrodict.diagnostics`, against the "
                "true parameters of many simulations"
            )
        rng, data = np.random.default_rng(seed + 1), simulations()[0]
        rows = [{k: v[i].astype(float) for k, v in data.items()} for i in range(OBSERVATIONS)]
        posteriors = [posterior(row, rng, REFERENCE_DRAWS) for row in rows]
        return {k: frozen(np.stack([draws[k] for draws in posteriors]).astype(np.float32)) for k in posteriors[0]}

    return Task(
        name,
        problem,
        lambda: simulations()[0],
        lambda: simulations()[1],
        references,
        log_likelihood,
        sites=sites,
        log_joint=log_joint(problem, log_likelihood),
    )


def log_joint(problem: Problem, log_likelihood: Callable[..., Array]) -> LogJoint:
    """Returns the log density of the module's first lines; see `Task.log_joint`.

    Densities of variables that are always given (points of a function, known errors) are left out: they cancel in every
    posterior.
    """
    prior = problem.prior
    if not isinstance(prior, Prior):
        raise DataError(f"`log_joint` needs a prior that is a mapping, got {type(prior).__name__}")
    shared = Prior({k: entry for k, entry in prior.distributions.items() if k not in prior.own})

    def joint(values: Mapping[str, Any]) -> Float[Array, ""]:
        arrays = {k: jnp.asarray(v, float) for k, v in recorded(values).items()}
        common = {k: arrays[k] for k in shared.distributions}
        score = shared.log_prob(common)

        def site(variables: Mapping[str, Array]) -> Array:
            parameters = {**common, **{k: variables[k] for k in prior.own}}
            return prior.log_prob(parameters) - score + log_likelihood(**joined({**common, **variables}))

        total = score + jnp.sum(jax.vmap(site)({k: arrays[k] for k in problem.layout.own}))
        return jnp.where(_inside(prior.variables, arrays), total, -jnp.inf)

    return joint


def _inside(variables: Iterable[Variable], values: Mapping[str, Array]) -> Bool[Array, ""]:
    """Whether every variable lies in its support, at all sites."""
    ends = {v.name: [end.reshape(v.shape) for end in v.ends] for v in variables}
    masks = [jnp.all((values[k] >= low) & (values[k] <= high)) for k, (low, high) in ends.items()]
    return functools.reduce(jnp.logical_and, masks)


def truncated_normal(reach: float) -> Callable[[Array, Array], Any]:
    """Returns the law of a site's vector given `loc` and `scale`: normal, truncated to the box from -reach to reach."""

    def law(loc: Array, scale: Array) -> Any:
        import numpyro.distributions as dist

        return dist.TruncatedNormal(loc, scale, low=-reach, high=reach).to_event(1)

    return law


def draw_on_grid(
    log_density: Float[np.ndarray, "*b k"], grid: Float[np.ndarray, " k"], rng: np.random.Generator, n: int
) -> Float[np.ndarray, "n *b"]:
    """Draws from densities that are known up to a factor on a grid and linear between its points, by inversion."""
    density = np.exp(log_density - log_density.max(axis=-1, keepdims=True))
    rows = density.reshape(-1, len(grid))
    draws = np.stack([_quantiles(row, grid, rng.uniform(size=n)) for row in rows], axis=-1)
    return draws.reshape(n, *density.shape[:-1])


def _quantiles(density: np.ndarray, grid: np.ndarray, u: np.ndarray) -> np.ndarray:
    mass = np.concatenate([[0.0], np.cumsum(np.diff(grid) * (density[1:] + density[:-1]) / 2)])
    cell = np.clip(np.searchsorted(mass, u * mass[-1], side="right") - 1, 0, len(grid) - 2)
    width = grid[cell + 1] - grid[cell]
    start, slope = density[cell], (density[cell + 1] - density[cell]) / width
    area = u * mass[-1] - mass[cell]
    # start d + slope d^2 / 2 = area, solved for d without a difference of nearly equal numbers
    root = np.sqrt(np.maximum(start**2 + 2 * slope * area, 0.0))
    return grid[cell] + np.minimum(2 * area / np.maximum(start + root, 1e-300), width)
