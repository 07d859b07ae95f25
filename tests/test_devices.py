"""Several devices: two virtual ones on this processor do what one does."""

import os
import subprocess
import sys

import numpy as np

from retrodict import devices


CODE = """
import sys
import jax
import numpy as np
import retrodict as rd
from retrodict.training import _loop

_loop.CHUNK, placed = 20, []
place = _loop.Trainer._placed

def seen(self, piece):
    found = place(self, piece)
    placed.append(len(jax.tree.leaves(found.rows if found.which is None else found.which)[0].sharding.device_set))
    return found

_loop.Trainer._placed = seen
sims = rd.simulate(rd.tasks.get("two_moons").problem, 300, key=0)
start = rd.joint(sims.layout, net=rd.nets.ResMLP(16, 1))
model, history = rd.fit(start, sims, key=1, steps=60, batch_size=32, progress=False)
draws = model.sample(100, given={"x": [0.1, 0.2]}, key=2)["theta"]
many = model.sample(5, given=rd.Batch({"x": sims["x"][:7]}), key=3)["theta"]
np.savez(sys.argv[1], train=history.train, validation=history.validation, draws=draws, many=many, placed=placed)
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
    for name in ("train", "validation", "draws", "many"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-4)


def test_rows_are_shared_out_evenly_or_not_at_all():
    assert devices.mesh_for(7) is None  # there is one device
    np.testing.assert_array_equal(devices.row_by_row(lambda a, rows: a + rows, 1.0, np.arange(3.0)), [1.0, 2.0, 3.0])
