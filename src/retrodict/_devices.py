"""Devices: several processor cores, or several accelerators, as equal workers.

XLA runs a small network on one core. Seen as several devices, cores share the rows of a batch instead: every device
computes its rows, and gradients are summed. The same lines serve several accelerators.
"""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


MOST = 8  # devices: beyond that the rows of a usual batch are too few to share


def use_all_cores(most: int = MOST) -> int:
    """Lets JAX see the processor's cores as devices, which training and sampling then share; returns how many.

    Call it before the first computation: once JAX has started, the number of devices is fixed and stays as it is.
    """
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, most)
    if jax.config.jax_num_cpu_devices in (-1, None, 1):
        try:
            jax.config.update("jax_num_cpu_devices", cores)
        except RuntimeError:  # JAX has started
            pass
    return len(jax.local_devices())


def shared(array: Any, *, axis: int) -> jax.Array:
    """The array with its `axis` split among the devices, or whole on each of them where it does not divide."""
    count = _count(array.shape[axis])
    names = [None] * array.ndim
    if count > 1:
        names[axis] = "rows"  # type: ignore[call-overload]
    return jax.device_put(array, NamedSharding(_mesh(count), PartitionSpec(*names)))


def everywhere(tree: Any, *, rows: int) -> Any:
    """A pytree whole on each of the devices that share `rows` rows."""
    return jax.device_put(tree, NamedSharding(_mesh(_count(rows)), PartitionSpec()))


def _count(rows: int) -> int:
    count = len(jax.local_devices())
    return count if rows % count == 0 else 1


def _mesh(count: int) -> Mesh:
    return Mesh(np.asarray(jax.local_devices()[:count]), ("rows",))
