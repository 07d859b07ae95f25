"""Forty plain problems, which deserve no warning: the benchmark's ten tasks, conjugate Gaussians, and textbook models.

Where means and standard deviations are known exactly, or from the benchmark's reference draws, they are compared, too.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist

import retrodict as rd
from retrodict_bench import tasks
from retrodict_bench.benchmark import TASKS
from retrodict_bench.zoo._case import Case, Moments, Observation
from retrodict_bench.zoo._several import linear
from retrodict_bench.zoo._sites import normal, trials


PLAIN: dict[str, Any] = {"bar": "silent"}
N = dist.Normal(0.0, 1.0)
POSITIVE = dist.LogNormal(0.0, 0.5)
UNIT = dist.Uniform(0.0, 1.0)
TIMES = np.linspace(0.0, 7.0, 8)


def _of_task(name: str) -> Case:
    """Returns a task of the benchmark at its first observation."""

    def exact(observation: Observation) -> Moments:
        del observation
        draws = tasks.get(name).reference(1)["theta"].astype(np.float64)
        return {"theta": (draws.mean(axis=0), draws.std(axis=0))}

    def ask() -> dict[str, Any]:
        return {k: np.asarray(v)[None] for k, v in tasks.get(name).observation(1).items()}

    return Case(f"task_{name}", "plain", f"'{name}' of the benchmark", exact, lambda: tasks.get(name).problem, ask=ask,
                failed="ignore", **{**PLAIN, "width": 128})  # fmt: skip


def _gaussian(size: int, noise: float, *, scale: float = 1.0, learn: str = "posterior") -> Case:
    """Returns theta ~ N(0, scale^2), x = theta + noise scale e."""
    name = f"gaussian_{size}_{noise:g}" + f"_scale_{scale:g}" * (scale != 1.0) + "_joint" * (learn == "joint")
    text = f"{size} numbers of sd {scale:g}, noise {noise * scale:g}"
    return linear(name, "plain", text, np.eye(size), noise * scale, prior=scale**2 * np.eye(size), learn=learn, **PLAIN)


def _plain(name: str, text: str, prior: Any, simulator: Callable[..., Any], **more: Any) -> Case:
    return Case(name, "plain", text, None, partial(rd.Problem, prior, simulator), **{**PLAIN, **more})


def _noisy(mean: Callable[..., Any], sd: float = 0.1) -> Callable[..., Any]:
    """Returns the simulator x = mean(parameters) + sd e."""

    def simulator(key: Any, **parameters: Any) -> dict[str, Any]:
        value = mean(**parameters)
        return {"x": value + sd * jr.normal(key, jnp.shape(value))}

    return simulator


def _walk(key: Any, drift: Any, sd: Any) -> dict[str, Any]:
    return {"x": jnp.cumsum(drift + sd * jr.normal(key, (10,)))}


GAUSSIANS = [
    _gaussian(1, 0.5), _gaussian(1, 0.1), _gaussian(2, 0.5), _gaussian(2, 0.3, scale=10.0), _gaussian(3, 1.0),
    _gaussian(3, 0.5, scale=0.01), _gaussian(5, 0.5), _gaussian(5, 0.5, scale=1000.0), _gaussian(8, 0.3),
    _gaussian(10, 1.0), _gaussian(2, 0.5, learn="joint"), _gaussian(4, 0.5, learn="joint"),
]  # fmt: skip
TEXTBOOK = [
    _plain("decay", "amount exp(-rate t) + .1 e", {"amount": POSITIVE, "rate": UNIT},
           _noisy(lambda amount, rate: amount * jnp.exp(-rate * TIMES))),
    _plain("decay_joint", "the same by joint", {"amount": POSITIVE, "rate": UNIT},
           _noisy(lambda amount, rate: amount * jnp.exp(-rate * TIMES)), learn="joint"),
    _plain("oscillation", "a sin(w t) + .1 e", {"a": POSITIVE, "w": dist.Uniform(0.5, 1.5)},
           _noisy(lambda a, w: a * jnp.sin(w * TIMES))),
    _plain("straight_line", "a + b t + .1 e", {"a": N, "b": N}, _noisy(lambda a, b: a + b * TIMES / 7.0)),
    _plain("parabola", "a + b t + c t^2 + .1 e", {"a": N, "b": N, "c": N},
           _noisy(lambda a, b, c: a + b * TIMES / 7.0 + c * (TIMES / 7.0) ** 2)),
    _plain("logistic_curve", "1 / (1 + exp(-s (t - m))) + .05 e", {"s": POSITIVE, "m": dist.Uniform(2.0, 5.0)},
           _noisy(lambda s, m: 1.0 / (1.0 + jnp.exp(-s * (TIMES - m))), 0.05)),
    _plain("waiting_times", "10 exponential times of a rate", {"rate": POSITIVE},
           lambda key, rate: {"x": jr.exponential(key, (10,)) / rate}),
    _plain("counts_of_twenty", "5 Poisson counts of 20 a", {"a": POSITIVE},
           lambda key, a: {"x": jr.poisson(key, 20.0 * a, (5,))}),
    _plain("successes", "40 trials of p ~ Beta(2, 2)", {"p": dist.Beta(2.0, 2.0)},
           lambda key, p: {"x": jr.binomial(key, 40.0, p)}),
    _plain("normal_sample", "10 numbers, mean and sd unknown", {"m": N, "s": POSITIVE},
           lambda key, m, s: {"x": m + s * jr.normal(key, (10,))}),
    _plain("random_walk", "10 steps with drift", {"drift": N, "sd": POSITIVE}, _walk),
    _plain("student_five", "5 numbers with t(5) noise", {"m": N}, lambda key, m: {"x": m + 0.5 * jr.t(key, 5.0, (5,))}),
    _plain("uniform_noise", "4 numbers, m + U(-1, 1)", {"m": N},
           lambda key, m: {"x": m + jr.uniform(key, (4,), minval=-1.0, maxval=1.0)}),
    _plain("in_numpy", "a simulator in NumPy", {"m": N, "s": POSITIVE},
           rd.numpy_simulator(lambda rng, m, s: {"x": m + s * rng.normal(size=4), "y": s + 0.1 * rng.normal()})),
    _plain("two_kinds_of_data", "a scalar and a series", {"a": N, "b": UNIT},
           lambda key, a, b: {"x": a + 0.3 * jr.normal(key),
                              "y": b * TIMES + 0.5 * jr.normal(jr.fold_in(key, 1), (8,))}),
    _plain("emission", "a line of 30 channels over a background", {"height": POSITIVE, "place": UNIT},
           _noisy(lambda height, place: height * jnp.exp(-50 * (jnp.linspace(0, 1, 30) - place) ** 2) + 0.2)),
    dataclasses.replace(normal("plain_sites", "10 sites of 3 numbers", lambda z: z, lambda z: z), kind="plain",
                        bar="silent"),
    dataclasses.replace(trials("plain_trials", "20 trials", 20), kind="plain", bar="silent"),
]  # fmt: skip
PLAINS = [*map(_of_task, TASKS), *GAUSSIANS, *TEXTBOOK]
