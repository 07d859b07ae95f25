"""Several devices: two virtual ones on this processor do what one does."""

import os
import subprocess
import sys

import numpy as np


CODE = """
import sys
import jax
import numpy as np
import retrodict as rd
from retrodict._runtime import devices
from retrodict.training import _loop

_loop.CHUNK, placed, answered = 20, [], []
place, mesh_for = _loop.Trainer._placed, devices.mesh_for

def count(mesh):
    return 1 if mesh is None else mesh.devices.size

def noted(rows):
    answered.append(count(mesh_for(rows)))
    return mesh_for(rows)

devices.mesh_for = noted  # of answers: training has a name of its own for it

def seen(self, piece):
    found = place(self, piece)
    placed.append(len(jax.tree.leaves(found.rows if found.indices is None else found.indices)[0].sharding.device_set))
    return found

_loop.Trainer._placed = seen
sims = rd.simulate(rd.tasks.get("two_moons").problem, 300, key=0)
start = rd.joint(sims.layout, net=rd.nets.ResMLP(16, 1))
model, history = rd.fit(start, sims, key=1, steps=60, batch_size=32, progress=False)
draws = model.sample(100, given={"x": [0.1, 0.2]}, key=2)["theta"]
many = model.sample(5, given=rd.Batch({"x": sims["x"][:7]}), key=3)["theta"]
shared = [count(mesh_for(n)) for n in (7, 8)]
found = {"train": history.train, "validation": history.validation, "draws": draws, "many": many}
np.savez(sys.argv[1], **found, placed=placed, answered=answered, shared=shared)
"""


def told(folder, count):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    file = folder / f"{count}.npz"
    subprocess.run(
        [sys.executable, "-c", CODE, str(file)], check=True, timeout=300, env={**os.environ, "XLA_FLAGS": flags}
    )
    return np.load(file)


def test_two_devices_train_and_draw_as_one(tmp_path):
    """Means over rows are added up in another order: the last bits differ, and 60 steps make a few of them."""
    one, two = told(tmp_path, 1), told(tmp_path, 2)
    assert set(one["placed"]) == {1}
    assert set(two["placed"]) == {2}
    assert (set(one["answered"]), set(two["answered"])) == ({1}, {2})
    assert (one["shared"].tolist(), two["shared"].tolist()) == ([1, 1], [1, 2])  # evenly or not at all
    for name in ("train", "validation", "draws", "many"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-4)
