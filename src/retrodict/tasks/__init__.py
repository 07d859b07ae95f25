"""Tasks: problems of which the answer is known, by name.

With `task = tasks.get("two_moons")`, `task.problem` is the prior and the simulator, `task.observation(1)` what was
seen, `task.true_parameters(1)` what made it, and `task.reference(1)` draws of the exact posterior.
"""

from retrodict._errors import DataError, unknown
from retrodict.tasks import gaussian_linear, gaussian_mixture, lynx_hare, slcp, two_moons
from retrodict.tasks._task import Task as Task


_BUILDERS = {
    "gaussian_linear": gaussian_linear.task,
    "gaussian_mixture": gaussian_mixture.task,
    "lynx_hare": lynx_hare.task,
    "slcp": slcp.task,
    "two_moons": two_moons.task,
}


def names() -> list[str]:
    """The names that `get` knows."""
    return list(_BUILDERS)


def get(name: str) -> Task:
    """The task of this name; `DataError` if there is none.

    The four tasks of sbibm have one parameter `theta` and one datum `x`, and ten observations, k = 1 to 10;
    `lynx_hare` has eight parameters, the data `hare` and `lynx`, and the one observation that history made.
    """
    if name not in _BUILDERS:
        raise DataError(unknown("`tasks.get`", name, names(), owner="retrodict has the tasks"))
    return _BUILDERS[name]()
