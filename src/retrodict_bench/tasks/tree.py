"""Tree: three parameters on a small tree, four nonlinear readings (Simformer, Gloeckler et al. 2024).

    theta_0 ~ N(0, 1),   theta_1 ~ N(theta_0, 1),   theta_2 ~ N(theta_0, 1)
    x_0 ~ N(sin^2 theta_1, .2),   x_1 ~ N(.1 theta_1^2, .2),   x_2 ~ N(.1 theta_2^2, .6),   x_3 ~ N(cos^2 theta_2, .1)

All second arguments are standard deviations. Every conditional is known: see `_gaussian_tree`.
"""

from retrodict_bench.tasks._gaussian_tree import GaussianTree, Reading
from retrodict_bench.tasks._task import Task


MODEL = GaussianTree(
    parents=(-1, 0, 0),
    scales=(1.0, 1.0, 1.0),
    readings=(
        Reading(1, lambda theta: theta.__array_namespace__().sin(theta) ** 2, 0.2),
        Reading(1, lambda theta: 0.1 * theta**2, 0.2),
        Reading(2, lambda theta: 0.1 * theta**2, 0.6),
        Reading(2, lambda theta: theta.__array_namespace__().cos(theta) ** 2, 0.1),
    ),
)


def task() -> Task:
    """Returns the task: theta (3,) and x (4,); ten observations simulated here (seed 1), references on first use."""
    return MODEL.task("tree", seed=1)
