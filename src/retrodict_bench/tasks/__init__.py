"""Tasks: problems with known answers, by name.

With `task = tasks.get("two_moons")`, `task.problem` is prior and simulator, `task.observation(1)` an observation,
`task.true_parameters(1)` the parameters behind it, and `task.reference(1)` draws of the exact posterior given it.
"""

import importlib
from typing import Any

from retrodict import DataError
from retrodict._errors import unknown
from retrodict_bench.tasks._task import Task as Task


# name to module and builder; a task is imported on first use
_BUILDERS = {
    "bernoulli_glm": ("bernoulli_glm", "task"),
    "bernoulli_glm_raw": ("bernoulli_glm", "task_raw"),
    "blood_flow": ("blood_flow", "task"),
    "eight_schools": ("eight_schools", "task"),
    "gaussian_linear": ("gaussian_linear", "task"),
    "gaussian_linear_uniform": ("gaussian_linear_uniform", "task"),
    "gaussian_mixture": ("gaussian_mixture", "task"),
    "gravitational_waves": ("gravitational_waves", "task"),
    "h_brownian": ("h_brownian", "task"),
    "h_conjugate": ("h_conjugate", "task"),
    "h_gaussian_linear": ("h_gaussian_linear", "task"),
    "h_gaussian_linear_uniform": ("h_gaussian_linear_uniform", "task"),
    "h_gaussian_mixture": ("h_gaussian_mixture", "task"),
    "h_sir": ("h_sir", "task"),
    "h_slcp": ("h_slcp", "task"),
    "h_two_moons": ("h_two_moons", "task"),
    "hmm": ("hmm", "task"),
    "hodgkin_huxley": ("hodgkin_huxley", "task"),
    "influenza": ("influenza", "task"),
    "lotka_volterra": ("lotka_volterra", "task"),
    "lotka_volterra_unstructured": ("lotka_volterra_unstructured", "task"),
    "lynx_hare": ("lynx_hare", "task"),
    "reaction_diffusion": ("reaction_diffusion", "task"),
    "seir": ("seir", "task"),
    "sir": ("sir", "task"),
    "sird": ("sird", "task"),
    "slcp": ("slcp", "task"),
    "slcp_distractors": ("slcp_distractors", "task"),
    "strong_lensing": ("strong_lensing", "task"),
    "tree": ("tree", "task"),
    "two_moons": ("two_moons", "task"),
    "vilar": ("vilar", "task"),
}


def __getattr__(name: str) -> Any:
    # `rd.tasks.lynx_hare` without a separate import
    if name not in {module for module, _ in _BUILDERS.values()}:
        raise AttributeError(f"module 'retrodict_bench.tasks' has no attribute '{name}'")
    return importlib.import_module(f"retrodict_bench.tasks.{name}")


def names() -> list[str]:
    """Returns the names of all tasks."""
    return list(_BUILDERS)


def get(name: str) -> Task:
    """Returns the task of this name.

    The tasks of sbibm, `tree` and `hmm` have one parameter `theta`, one datum `x` and ten observations, k = 1 to 10.
    `gravitational_waves`, `hodgkin_huxley`, `lotka_volterra_unstructured`, `reaction_diffusion`, `sird`,
    `strong_lensing` and `vilar` name their variables and have ten observations; `lotka_volterra_unstructured` and
    `sird` are about functions of time. `lynx_hare` and `influenza` have one real observation.

    `blood_flow`, `eight_schools`, `seir` and names that begin with `h_` have a plate of sites: an observation is that
    of `task.sites` sites, and `task.log_joint` is the density of all variables. `h_brownian`, `h_conjugate`,
    `h_gaussian_linear` and `h_gaussian_linear_uniform` have exact references, `eight_schools`, whose observation is
    real, one by NUTS. `hmm`, `slcp`, `tree` and `two_moons` have `task.conditional`, which answers every question
    exactly.

    Raises:
        DataError: no task has this name.
    """
    if name not in _BUILDERS:
        raise DataError(unknown("`tasks.get`", name, names(), owner="retrodict has the tasks"))
    module, builder = _BUILDERS[name]
    return getattr(importlib.import_module(f"retrodict_bench.tasks.{module}"), builder)()
