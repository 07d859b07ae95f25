"""Intervals, sums and another prior, asked of a Gaussian whose every answer is known.

a ~ N(0, 1),   b ~ N(.8 a, .6),   y ~ N(a + b, .5);   asked: a and b given y = 1.5 and each of `questions`
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict import plots
from retrodict.constraints import Equality, Inequality, Interval, Prior
from retrodict.models import joint
from retrodict.problem import Problem
from retrodict.simulation._simulate import simulate
from retrodict.training import fit
from retrodict_bench.gallery._exhibit import Budget, Exhibit, Shown


Y, EXACT = 1.5, 1_000_000
TIGHT = 0.02  # sds of a sum that an equality allows


def problem() -> Problem:
    """a, b and y of the module's first lines."""
    import numpyro.distributions as dist

    def run(key: Any, a: Any, b: Any) -> dict[str, Any]:
        return {"y": a + b + 0.5 * jax.random.normal(key)}

    return Problem({"a": dist.Normal(0.0, 1.0), "b": lambda a: dist.Normal(0.8 * a, 0.6)}, run)


def exact(n: int, seed: int) -> np.ndarray:
    """Draws `(n, 2)` of a and b given y = Y."""
    prior = np.array([[1.0, 0.8], [0.8, 0.64 + 0.36]])
    toward = prior @ np.ones(2)
    spread = toward.sum() + 0.25
    return np.random.default_rng(seed).multivariate_normal(
        toward * Y / spread, prior - np.outer(toward, toward) / spread, size=n
    )


def questions(draws: np.ndarray) -> dict[str, tuple[dict[str, Any], list[Any], np.ndarray]]:
    """Intervals, constraints and the exact weights of `draws`, by the name of the question."""
    import numpyro.distributions as dist

    a, b = draws.T
    middle, upper, last = np.quantile(a, [0.5, 0.7, 0.9])
    difference = a - b
    value, tight = difference.mean() + difference.std(), TIGHT * difference.std()
    ends = np.quantile(a + b, 0.4), np.quantile(difference, 0.5)
    new, old = dist.Normal(1.0, 0.4), dist.Normal(0.0, 1.0)
    return {
        "half-line": ({"a": Interval(last)}, [], a >= last),
        "interval": ({"a": Interval(middle, upper)}, [], (a >= middle) & (a <= upper)),
        "equality": ({}, [Equality({"a": 1.0, "b": -1.0}, value)], np.exp(-0.5 * ((difference - value) / tight) ** 2)),
        "polytope": (
            {},
            [Inequality({"a": 1.0, "b": 1.0}, high=ends[0]), Inequality({"a": 1.0, "b": -1.0}, high=ends[1])],
            (a + b <= ends[0]) & (difference <= ends[1]),
        ),
        "new prior": (
            {},
            [Prior({"a": new}, old={"a": old})],
            np.exp(np.asarray(new.log_prob(jnp.asarray(a)) - old.log_prob(jnp.asarray(a)), float)),
        ),
    }


def _moments(draws: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    mean = np.average(draws, axis=0, weights=weights)
    return mean, np.sqrt(np.average((draws - mean) ** 2, axis=0, weights=weights))


def _off(
    draws: Mapping[str, np.ndarray], weights: np.ndarray | None, truth: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    mean, sd = _moments(np.stack([draws["a"], draws["b"]], axis=1), weights)
    return float(np.max(np.abs(mean - truth[0]) / truth[1])), float(np.max(np.abs(sd / truth[1] - 1)))


def show(budget: Budget, seed: int, *, progress: bool) -> Shown:
    """Every question, by guidance alone and corrected, beside the exact answer."""
    sims = simulate(problem(), budget.simulations, key=seed)
    model, _ = fit(joint(sims.layout), sims, key=seed + 1, steps=budget.steps, progress=progress)
    many, findings, figures = exact(EXACT, seed + 2), {}, {}
    for name, (intervals, guide, weights) in questions(many).items():
        asked: Any = {"given": {"y": Y, **intervals}, "guide": guide, "of": ["a", "b"], "key": seed + 3}
        found, plain = model.guided(budget.draws, **asked), model.sample(budget.draws, correct=False, **asked)
        truth = _moments(many, weights)
        alone, right = _off(plain, None, truth), _off(found.draws, found.weights, truth)
        findings[name] = {
            "mean off, guidance alone (sd)": alone[0],
            "sd off, guidance alone": alone[1],
            "mean off, corrected (sd)": right[0],
            "sd off, corrected": right[1],
            "effective share": found.effective_size / budget.draws,
        }
        if name in ("polytope", "interval"):
            rows = np.random.default_rng(seed).choice(EXACT, 4000, p=weights / weights.sum())
            sets = {
                "exact": {"a": many[rows, 0], "b": many[rows, 1]},
                "guidance alone": plain,
                "corrected": found.resampled(budget.draws, seed),
            }
            figures[name] = plots.corner(sets, names=["a", "b"]), f"{name}: the exact answer and ours"
    return Shown(figures, findings)


EXHIBIT = Exhibit(
    "Intervals, equalities, polytopes and another prior",
    "A correlated Gaussian, where every answer is known. Guidance alone approximates; the weights make it right, and "
    "the effective share says how much they had to do.",
    Budget(20_000, 3000, draws=4000),
    show,
)
