"""Checkpoints: a run that was killed and goes on is, bit for bit, the run that was never killed."""

import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import retrodict as rd
from retrodict.training import _checkpoint as checkpoint
from retrodict.training import _loop as loop


NET = rd.nets.ResMLP(16, 1)
CODE = """
import sys
import retrodict as rd
from retrodict.training import _checkpoint, _loop
_loop.CHUNK, _checkpoint.SECONDS = 20, 0.0
sims = rd.simulate(rd.tasks.get("two_moons").problem, 300, key=0)
start = rd.joint(sims.layout, net=rd.nets.ResMLP(16, 1))
model, history = rd.fit(start, sims, key=0, steps={steps}, batch_size=32, progress=False, checkpoint=sys.argv[1])
rd.save(model, sys.argv[2])
"""


@pytest.fixture
def short(monkeypatch):
    """Chunks of ten steps, each of them kept."""
    monkeypatch.setattr(loop, "CHUNK", 10)
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)


def fit(sims, **settings):
    how = {"key": 0, "batch_size": 32, "steps": 50, **settings}
    return rd.fit(rd.joint(sims.layout, net=NET), sims, progress=False, **how)


def same(first, second):
    pairs = zip(jax.tree.leaves(first.net), jax.tree.leaves(second.net), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_run_goes_on_as_if_it_had_never_stopped(sims, short, tmp_path, monkeypatch, killed_early):
    whole, history = fit(sims)
    killed_early(lambda: fit(sims, checkpoint=tmp_path))
    chunks, begin = [], loop.Trainer._next

    def counted(self, state, *args, **rest):
        chunks.append(state.done)
        return begin(self, state, *args, **rest)

    monkeypatch.setattr(loop.Trainer, "_next", counted)
    model, again = fit(sims, checkpoint=tmp_path)
    assert chunks == [30, 40]
    assert same(whole, model)
    np.testing.assert_array_equal(history.validation, again.validation)
    np.testing.assert_array_equal(history.train, again.train)
    ended, last = fit(sims, checkpoint=tmp_path)  # nothing is left to do
    assert chunks == [30, 40]
    assert same(whole, ended)
    assert last.seconds == again.seconds


def test_another_run_is_refused(sims, short, tmp_path):
    fit(sims, steps=10, checkpoint=tmp_path)
    others = [{"key": 1}, {"steps": 60}, {"learning_rate": 1e-3}, {"weight_decay": 0.0}, {"batch_size": 16}]
    for other in others:
        with pytest.raises(rd.FileError, match="belongs to another run"):
            fit(sims, **{"steps": 10, **other}, checkpoint=tmp_path)
    with pytest.raises(rd.FileError, match="belongs to another run"):
        fit(rd.simulate(sims.problem, len(sims["rate"]), key=9), steps=10, checkpoint=tmp_path)
    start = rd.joint(sims.layout, net=NET, path=rd.paths.edm())
    with pytest.raises(rd.FileError, match="belongs to another run"):
        rd.fit(start, sims, key=0, steps=10, batch_size=32, progress=False, checkpoint=tmp_path)


def test_a_damaged_checkpoint_is_said_to_be_one(sims, short, tmp_path):
    fit(sims, steps=10, checkpoint=tmp_path)
    file = tmp_path / "training.npz"
    whole = file.read_bytes()
    for part in (whole[: len(whole) // 2], b"PK" + whole[2:100], b""):
        file.write_bytes(part)
        with pytest.raises(rd.FileError, match="remove it to begin anew"):
            fit(sims, steps=10, checkpoint=tmp_path)


@pytest.mark.slow
def test_a_kill_at_any_moment(tmp_path):
    """Another process, killed twice, each time when a new checkpoint is there, and a third that ends; and one alone."""
    code = CODE.format(steps=100)
    alone = [sys.executable, "-c", code, str(tmp_path / "alone"), str(tmp_path / "alone.safetensors")]
    subprocess.run(alone, check=True)
    killed = [sys.executable, "-c", code, str(tmp_path / "killed"), str(tmp_path / "killed.safetensors")]
    file, seen = tmp_path / "killed" / "training.npz", None
    for _ in range(2):
        process, begun = subprocess.Popen(killed), time.monotonic()
        while (not file.exists() or file.stat().st_mtime_ns == seen) and process.poll() is None:
            assert time.monotonic() - begun < 120
            time.sleep(0.002)
        process.kill()
        process.wait()
        seen = file.stat().st_mtime_ns
    subprocess.run(killed, check=True)
    assert same(rd.load(tmp_path / "alone.safetensors"), rd.load(tmp_path / "killed.safetensors"))
