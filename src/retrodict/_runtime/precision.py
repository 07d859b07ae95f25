"""Single precision inside models, also where JAX is set to double precision (`jax_enable_x64`).

Weights are trained in single precision, and what a network sees is scaled to order one before. A model computes the
same in a program that needs double precision for a simulator of its user.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax


Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")


def in_single_precision(function: Callable[Inputs, Result]) -> Callable[Inputs, Result]:
    """Returns the function with JAX's numbers in single precision while it runs; it may be traced."""

    @functools.wraps(function)
    def wrapped(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Result:
        with jax.enable_x64(False):  # noqa: FBT003 - it takes no keyword
            return function(*args, **kwargs)

    return wrapped
