"""Hidden Markov model: ten steps of a random walk whose square is observed (Simformer, Gloeckler et al. 2024).

    theta_0 ~ N(0, .5),   theta_i ~ N(theta_{i-1}, .5),   x_i ~ N(theta_i^2, .5),   i = 0, ..., 9

All second arguments are standard deviations. The sign of the walk is not observed. Every conditional is known: see
`_gaussian_tree`.
"""

from retrodict_bench.tasks._gaussian_tree import GaussianTree, Reading
from retrodict_bench.tasks._task import Task


STEPS, SCALE = 10, 0.5

MODEL = GaussianTree(
    parents=tuple(range(-1, STEPS - 1)),
    scales=(SCALE,) * STEPS,
    readings=tuple(Reading(i, lambda theta: theta**2, SCALE) for i in range(STEPS)),
)


def task() -> Task:
    """Returns the task: theta (10,) and x (10,); ten observations simulated here (seed 2), references on first use."""
    return MODEL.task("hmm", seed=2)
