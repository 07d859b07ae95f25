"""Networks for a layout: with their first weights, or their structure alone."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import PRNGKeyArray

from retrodict.nets import AbstractArchitecture, AbstractNet
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import AbstractRoleLaw
from retrodict.variables import Layout


@functools.lru_cache(maxsize=64)
def structure_of(
    architecture: AbstractArchitecture, layout: Layout, law: AbstractRoleLaw, dependencies: Dependencies | None
) -> Any:
    """Returns the tree structure of the network for a layout, without its numbers."""
    return jax.tree.structure(eqx.filter_eval_shape(built, architecture, layout, law, dependencies, jr.key(0)))


@eqx.filter_jit
def built(
    architecture: AbstractArchitecture,
    layout: Layout,
    law: AbstractRoleLaw,
    dependencies: Dependencies | None,
    key: PRNGKeyArray,
) -> AbstractNet:
    """Returns the network for a layout, with its first weights."""
    return architecture.build(layout, law=law, dependencies=dependencies, key=key)
