"""Devices: rows side by side on all of them, whatever is the same for all rows on each.

    rows (n, ...)  ->  n / k on each of k devices          weights, questions: a copy on every device

Means over rows then cross devices by themselves (sharding of arrays, which the compiler follows). One device is the
same code with nothing to share out.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def mesh_for(rows: int) -> Mesh | None:
    """As many devices as `rows` can be shared out to evenly; None where that is one."""
    devices = jax.devices()
    k = math.gcd(rows, len(devices))
    return Mesh(np.asarray(devices[:k]), ("rows",)) if k > 1 else None


def shared_out(tree: Any, mesh: Mesh | None, axis: int) -> Any:
    """Arrays on the devices of `mesh`, each device a part of `axis`."""
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, tree)
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, "rows")))


def on_each(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays on the devices of `mesh`, whole on each."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def row_by_row(answer: Callable[[Any, Any], Any], same: Any, rows: Any) -> Any:
    """`answer(same, rows)`, every device with its part of the rows; inside of compiled code.

    For loops over rows, which the compiler would not share out by itself.
    """
    mesh = mesh_for(len(jax.tree.leaves(rows)[0]))
    if mesh is None:
        return answer(same, rows)
    across = PartitionSpec("rows")
    return jax.shard_map(answer, mesh=mesh, in_specs=(PartitionSpec(), across), out_specs=across, check_vma=False)(
        same, rows
    )
