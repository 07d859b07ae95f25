"""Gaussian linear with a uniform prior: a truncated Gaussian posterior.

    theta ~ U(-1, 1)^10,   x ~ N(theta, v I),   v = .1

Hence theta | x is N(x, v I) truncated to the box: ten independent truncated Gaussians.
"""

from retrodict import Problem
from retrodict_bench.tasks._sbibm import sbibm_task
from retrodict_bench.tasks._task import Task
from retrodict_bench.tasks.gaussian_linear import DIMENSION, STRUCTURE, log_likelihood, simulate


def task() -> Task:
    """Returns the task of sbibm: theta ~ U(-1, 1)^10 and x (10,)."""
    import numpyro.distributions as dist

    prior = {"theta": dist.Uniform(-1.0, 1.0).expand((DIMENSION,)).to_event(1)}
    return sbibm_task("gaussian_linear_uniform", Problem(prior, simulate), log_likelihood, structure=STRUCTURE)
