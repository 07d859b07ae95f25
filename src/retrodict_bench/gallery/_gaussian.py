"""Intervals, linear constraints and another prior for a Gaussian whose exact answers are known.

a ~ N(0, 1),   b ~ N(.8 a, .6),   y ~ N(a + b, .5);   each of `questions` asks for a and b given y = 1.5
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict import Problem, fit, joint, plots, simulate
from retrodict.constraints import Equality, Inequality, Interval, Prior
from retrodict_bench.gallery._exhibit import Budget, Exhibit, ExhibitResult


Y, N_EXACT = 1.5, 1_000_000
TOLERANCE = 0.02  # of an equality, in sds of its sum


def problem() -> Problem:
    """Returns prior and simulator of a, b and y, as in the module's first lines."""
    import numpyro.distributions as dist

    def run(key: Any, a: Any, b: Any) -> dict[str, Any]:
        return {"y": a + b + 0.5 * jax.random.normal(key)}

    return Problem({"a": dist.Normal(0.0, 1.0), "b": lambda a: dist.Normal(0.8 * a, 0.6)}, run)


def exact(n: int, seed: int) -> np.ndarray:
    """Draws a and b given y = Y, `(n, 2)`."""
    prior = np.array([[1.0, 0.8], [0.8, 0.64 + 0.36]])
    covariance = prior @ np.ones(2)  # of (a, b) with y
    variance = covariance.sum() + 0.25  # of y
    return np.random.default_rng(seed).multivariate_normal(
        covariance * Y / variance, prior - np.outer(covariance, covariance) / variance, size=n
    )


def questions(draws: np.ndarray) -> dict[str, tuple[dict[str, Any], list[Any], np.ndarray]]:
    """Returns the intervals, constraints and exact weights of `draws` for each question, by its name."""
    import numpyro.distributions as dist

    a, b = draws.T
    middle, upper, last = np.quantile(a, [0.5, 0.7, 0.9])
    difference = a - b
    value, tolerance = difference.mean() + difference.std(), TOLERANCE * difference.std()
    ends = np.quantile(a + b, 0.4), np.quantile(difference, 0.5)
    new, old = dist.Normal(1.0, 0.4), dist.Normal(0.0, 1.0)
    return {
        "half-line": ({"a": Interval(last)}, [], a >= last),
        "interval": ({"a": Interval(middle, upper)}, [], (a >= middle) & (a <= upper)),
        "equality": (
            {},
            [Equality({"a": 1.0, "b": -1.0}, value)],
            np.exp(-0.5 * ((difference - value) / tolerance) ** 2),
        ),
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


def _errors(
    draws: Mapping[str, np.ndarray], weights: np.ndarray | None, truth: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    mean, sd = _moments(np.stack([draws["a"], draws["b"]], axis=1), weights)
    return float(np.max(np.abs(mean - truth[0]) / truth[1])), float(np.max(np.abs(sd / truth[1] - 1)))


def show(budget: Budget, seed: int, *, progress: bool) -> ExhibitResult:
    """Answers every question by guidance alone and corrected, and compares both with the exact answer."""
    sims = simulate(problem(), budget.simulations, key=seed)
    model, _ = fit(joint(sims.layout), sims, key=seed + 1, steps=budget.steps, progress=progress)
    exact_draws, findings, figures = exact(N_EXACT, seed + 2), {}, {}
    for name, (intervals, guide, weights) in questions(exact_draws).items():
        query: Any = {"given": {"y": Y, **intervals}, "guide": guide, "of": ["a", "b"], "key": seed + 3}
        corrected, plain = model.guided(budget.draws, **query), model.sample(budget.draws, correct=False, **query)
        truth = _moments(exact_draws, weights)
        plain_errors, corrected_errors = _errors(plain, None, truth), _errors(corrected.draws, corrected.weights, truth)
        findings[name] = {
            "mean off, guidance alone (sd)": plain_errors[0],
            "sd off, guidance alone": plain_errors[1],
            "mean off, corrected (sd)": corrected_errors[0],
            "sd off, corrected": corrected_errors[1],
            "effective share": corrected.effective_size / budget.draws,
        }
        if name in ("polytope", "interval"):
            rows = np.random.default_rng(seed).choice(N_EXACT, 4000, p=weights / weights.sum())
            sets = {
                "exact": {"a": exact_draws[rows, 0], "b": exact_draws[rows, 1]},
                "guidance alone": plain,
                "corrected": corrected.resampled(budget.draws, seed),
            }
            figures[name] = plots.corner(sets, names=["a", "b"]), f"{name}: the exact answer and ours"
    return ExhibitResult(figures, findings)


EXHIBIT = Exhibit(
    "Intervals, equalities, polytopes and another prior",
    "A correlated Gaussian, whose exact answers are known. Guidance alone is an approximation and weights correct it. "
    "The effective share tells how much they correct.",
    Budget(20_000, 3000, draws=4000),
    show,
)
