"""Devices: rows are divided among all of them, and what all rows share is copied to each.

    rows (n, ...)  ->  n / k on each of k devices          weights, questions: a copy on every device

The compiler follows the sharding of arrays, so that means over rows cross devices by themselves. With one device the
same code has nothing to divide.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def mesh_for(rows: int) -> Mesh | None:
    """The mesh of as many devices as divide `rows` evenly; None if that is one device."""
    devices = jax.devices()
    k = math.gcd(rows, len(devices))
    return Mesh(np.asarray(devices[:k]), ("rows",)) if k > 1 else None


def shared_out(tree: Any, mesh: Mesh | None, axis: int) -> Any:
    """Divides arrays along `axis` among the devices of `mesh`."""
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, tree)
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, "rows")))


def on_each(tree: Any, mesh: Mesh | None) -> Any:
    """Copies arrays to every device of `mesh`."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def row_by_row(answer: Callable[[Any, Any], Any], shared: Any, rows: Any) -> Any:
    """Computes `answer(shared, rows)` inside compiled code, each device with its part of the rows.

    The compiler would not divide a loop over rows by itself.
    """
    mesh = mesh_for(len(jax.tree.leaves(rows)[0]))
    if mesh is None:
        return answer(shared, rows)
    by_row = PartitionSpec("rows")
    sharded = jax.shard_map(answer, mesh=mesh, in_specs=(PartitionSpec(), by_row), out_specs=by_row, check_vma=False)
    return sharded(shared, rows)
