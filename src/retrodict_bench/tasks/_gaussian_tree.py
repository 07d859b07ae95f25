"""Trees of Gaussian steps with nonlinear readings: every conditional, by message passing on a grid.

    theta_i ~ N(theta_parent(i), s_i)           a tree of scalar nodes; the root's parent is 0
    x_j     ~ N(f_j(theta_node(j)), r_j)        readings; s and r are standard deviations

A node that is not given lives on a grid of spacing h. Messages go up, from the last node to the first,

    m_i(t) = prod_{j given, node(j) = i} N(x_j; f_j(t), r_j)  prod_{children c} int N(t_c; t, s_c) m_c(t_c) dt_c,

and draws go down: the root from N(t; 0, s) m(t), every child from N(t_c; t, s_c) m_c(t_c) given the cell of its parent.
A draw is uniform within its cell, so the density is constant on cells. The sums are exact to rounding, because the
error of a Gaussian factor of width w is exp(-2 (pi w / h)^2). The cells add h^2 / 12 = 2e-6 to a variance; the
narrowest conditionals of our tasks (hmm, theta = 5) have a variance of (.05)^2, so that is below one part in 1000.
Readings that are not given are drawn last, from p(x | theta).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.lib.stride_tricks import sliding_window_view

from retrodict import DataError, Problem
from retrodict._types import Key
from retrodict.roles import GIVEN, LATENT
from retrodict_bench.tasks._roles import answer, generator, given_tokens
from retrodict_bench.tasks._task import Task, frozen


OBSERVATIONS, REFERENCE_DRAWS = 10, 10_000  # as in sbibm
SPACING = 0.005
REACH = 6.0  # sds of a node's prior covered by the grid: a mass of 2e-9 lies outside
WIDTH = 10.0  # sds covered by a step's kernel
MAX_REACH = 100.0  # of a grid, in the units of theta

Curve = Callable[[Any], Any]
"""f(theta) for arrays of NumPy and of JAX: it calls functions of `theta.__array_namespace__()` only."""


@dataclass(frozen=True)
class Reading:
    """A reading x ~ N(curve(theta[node]), scale)."""

    node: int
    curve: Curve
    scale: float


@dataclass(frozen=True)
class GaussianTree:
    """A tree of Gaussian nodes with readings.

    Attributes:
        parents: the parent of each node, -1 for the root; a parent comes before its children.
        scales: the standard deviation of each node given its parent.
        readings: one for each element of `x`.
    """

    parents: tuple[int, ...]
    scales: tuple[float, ...]
    readings: tuple[Reading, ...]

    @property
    def structure(self) -> dict[str, Any]:
        """Returns the dependencies of all variables; see `Task.structure`."""
        nodes = {f"theta[{i}]": [f"theta[{p}]"] for i, p in enumerate(self.parents) if p >= 0}
        return {"parents": nodes | {f"x[{j}]": [f"theta[{r.node}]"] for j, r in enumerate(self.readings)}}

    def prior(self) -> dict[str, Any]:
        """Returns the law of theta as one Gaussian vector."""
        import numpyro.distributions as dist

        return {"theta": dist.MultivariateNormal(jnp.zeros(len(self.parents)), scale_tril=jnp.asarray(self.factor))}

    @property
    def factor(self) -> Float[np.ndarray, "t t"]:
        """Returns A of theta = A z, z standard normal: A[i, k] = s_k if k lies on the path from the root to i."""
        factor = np.zeros((len(self.parents), len(self.parents)))
        for i, (p, s) in enumerate(zip(self.parents, self.scales, strict=True)):
            factor[i] = factor[p] if p >= 0 else 0.0
            factor[i, i] = s
        return factor

    def simulate(self, key: PRNGKeyArray, theta: Float[Array, " t"]) -> dict[str, Array]:
        """Draws `x` given `theta`."""
        mean, scale = self._readings(jnp, theta)
        return {"x": mean + scale * jr.normal(key, mean.shape)}

    def log_likelihood(self, theta: Float[Array, " t"], x: Float[Array, " r"]) -> Float[Array, ""]:
        """Returns log p(x | theta)."""
        mean, scale = self._readings(jnp, theta)
        return jnp.sum(-0.5 * ((x - mean) / scale) ** 2 - jnp.log(scale * np.sqrt(2 * np.pi)))

    def _readings(self, xp: Any, theta: Any) -> tuple[Any, Any]:
        means = [r.curve(theta[..., r.node]) for r in self.readings]
        return xp.stack(means, axis=-1), xp.asarray([r.scale for r in self.readings])

    def task(self, name: str, *, seed: int) -> Task:
        """Returns the task: ten observations drawn by NumPy from this seed, references drawn on first use."""
        return Task(
            name=name,
            problem=Problem(self.prior(), self.simulate),
            observations=lambda: {"x": _observed(self, seed)[1]},
            truths=lambda: {"theta": _observed(self, seed)[0]},
            references=lambda: {"theta": _reference_draws(self, seed)},
            log_likelihood=self.log_likelihood,
            conditional=self.conditional,
            structure=self.structure,
        )

    def draw(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws n rows of theta and x."""
        theta = rng.standard_normal((n, len(self.parents))) @ self.factor.T
        mean, scale = self._readings(np, theta)
        return theta, mean + scale * rng.standard_normal(mean.shape)

    def conditional(self, roles: Any, values: Any, n: int, key: Key) -> Float[np.ndarray, "n d"]:
        """Draws all latent tokens given the given ones; see `Task.conditional`."""
        nodes = len(self.parents)
        _, tokens = given_tokens(roles, values, n, nodes + len(self.readings))
        rng = generator(key)
        theta = self._draw_theta(rng, tokens[:nodes], tokens[nodes:], n)
        mean, scale = self._readings(np, theta)
        x = mean + scale * rng.standard_normal(mean.shape)
        return answer(np.concatenate([theta, x], axis=1), roles, values)

    def _draw_theta(self, rng: np.random.Generator, theta: np.ndarray, x: np.ndarray, n: int) -> np.ndarray:
        grid = self._grid(theta, x)
        messages = self._messages(grid, theta, x)
        cells, draws = np.zeros((len(theta), n), int), np.tile(theta, (n, 1))
        for i, (p, s) in enumerate(zip(self.parents, self.scales, strict=True)):
            if np.isfinite(theta[i]):
                continue
            if p < 0 or np.isfinite(theta[p]):  # all draws have the same weights
                weights = _log_normal(theta[p] if p >= 0 else 0.0, grid, s) + messages[i]
                cells[i] = _draw_columns(rng, weights[None], np.zeros(n, int))
            else:
                rows, index = np.unique(cells[p], return_inverse=True)
                kernel = _kernel(s)
                padded = np.pad(messages[i], len(kernel) // 2, constant_values=-np.inf)
                weights = sliding_window_view(padded, len(kernel))[rows] + kernel
                cells[i] = _draw_columns(rng, weights, index) + cells[p] - len(kernel) // 2
            draws[:, i] = grid[cells[i]] + SPACING * (rng.random(n) - 0.5)
        return draws

    def _messages(self, grid: np.ndarray, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Returns log m_i on the grid, up to a constant."""
        messages = np.zeros((len(theta), len(grid)))
        for j, reading in enumerate(self.readings):
            if np.isfinite(x[j]):
                messages[reading.node] += _log_normal(reading.curve(grid), x[j], reading.scale)
        for i in reversed(range(len(theta))):
            p, s = self.parents[i], self.scales[i]
            if p >= 0 and np.isfinite(theta[i]):
                messages[p] += _log_normal(grid, theta[i], s)
            elif p >= 0 and np.ptp(messages[i]) > 0:  # a flat message: no reading below this node is given
                top = messages[i].max()
                with np.errstate(divide="ignore"):  # the sum may underflow to a log of minus infinity
                    messages[p] += np.log(_convolve(np.exp(messages[i] - top), np.exp(_kernel(s)))) + top
        return messages

    def _grid(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        prior_sd = np.sqrt((self.factor**2).sum(1).max())
        # given values may pull a node away from its prior, and the grid has to cover it there
        largest = np.nanmax(np.abs(np.append(theta, 0.0)))
        pull = np.sqrt(np.nanmax(np.abs(np.append(x, 0.0))) * 10)
        reach = max(REACH * prior_sd, largest + REACH * max(self.scales), pull + 1.0)
        if reach > MAX_REACH:
            raise DataError("a value lies more than a hundred from what this model ever makes: check the values")
        return SPACING * np.arange(-np.ceil(reach / SPACING), np.ceil(reach / SPACING) + 1)


@functools.cache
def _observed(model: GaussianTree, seed: int) -> tuple[np.ndarray, np.ndarray]:
    theta, x = model.draw(np.random.default_rng(seed), OBSERVATIONS)
    return frozen(theta.astype(np.float32)), frozen(x.astype(np.float32))


@functools.cache
def _reference_draws(model: GaussianTree, seed: int) -> np.ndarray:
    nodes, rows = len(model.parents), []
    roles = np.array([LATENT] * nodes + [GIVEN] * len(model.readings))
    for k, x in enumerate(_observed(model, seed)[1]):
        rows.append(model.conditional(roles, np.append(np.zeros(nodes), x), REFERENCE_DRAWS, k)[:, :nodes])
    return frozen(np.stack(rows))


def _log_normal(mean: Any, x: Any, scale: float) -> np.ndarray:
    return -0.5 * ((x - mean) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))


def _kernel(scale: float) -> np.ndarray:
    """Returns log N(k h; 0, scale) for k h from -WIDTH to WIDTH standard deviations."""
    half = round(WIDTH * scale / SPACING)
    return _log_normal(0.0, SPACING * np.arange(-half, half + 1), scale)


def _convolve(weights: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    # a direct sum: the rounding of a Fourier transform is larger than the tails, and would make some of them negative
    half = len(kernel) // 2
    return np.convolve(weights, kernel)[half : half + len(weights)]


def _draw_columns(rng: np.random.Generator, log_weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Draws, for each of `rows`, a column of that row of the table, by the inverse of its cumulative sums."""
    top = log_weights.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        raise DataError("the given values contradict one another: together they have probability 0, check them")
    sums = np.cumsum(np.exp(log_weights - top), axis=1)
    # row k is shifted to k .. k + 1, so that one search serves all rows
    shifted = (sums / sums[:, -1:] + np.arange(len(sums))[:, None]).ravel()
    u = rows + 1.0 - rng.random(len(rows))  # strictly above `rows`: a cell of weight 0 is never drawn
    return np.minimum(np.searchsorted(shifted, u) - rows * sums.shape[1], sums.shape[1] - 1)
