"""Training on what is larger than memory, and on what is still being simulated."""

import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.training import _checkpoint as checkpoint
from retrodict.training import _loop as loop
from retrodict.training import _source as source
from retrodict.training import _table as table


NET = rd.nets.ResMLP(16, 1)


def simulate(key, rate):
    import jax

    x = rate + 0.5 * jax.random.normal(key, (2,))
    return {"x": jax.numpy.where(rate > 1.0, jax.numpy.nan, x)}  # one run in six fails


PROBLEM = rd.Problem({"rate": dist.Normal(0.0, 1.0)}, simulate)


@pytest.fixture
def small(monkeypatch):
    """Nothing fits in memory, chunks of ten steps, and looks for new rows all the time."""
    monkeypatch.setattr(table, "MAX_RESIDENT_BYTES", 0)
    monkeypatch.setattr(table, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHUNK", 10)
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)


def stored(path, n=1000, batch=64):
    rd.simulate(PROBLEM, n, key=0, store=path, batch=batch, progress=False)
    return rd.open_store(path)


def fit(sims, **settings):
    how = {"key": 0, "batch_size": 32, "steps": 50, "failed": "given", **settings}
    return rd.fit(rd.joint(PROBLEM.layout, net=NET), sims, progress=False, **how)


def test_a_part_of_a_store_is_that_part(tmp_path):
    store = stored(tmp_path / "s")
    sims, whole = store.sims(), rd.open_store(tmp_path / "s").sims()
    assert 100 < sims.n_failed < 250
    assert sims.kept == 1000 - sims.n_failed
    for start, stop in ((0, 1), (0, 64), (10, 500), (sims.kept - 3, sims.kept)):
        part = sims.part(start, stop)
        for name in ("rate", "x"):
            np.testing.assert_array_equal(part[name], whole[name][start:stop])
    in_memory = rd.simulate(PROBLEM, 1000, key=0)
    np.testing.assert_array_equal(whole["x"], in_memory["x"])
    np.testing.assert_array_equal(whole.failed["rate"], in_memory.failed["rate"])


def test_a_stream_gives_every_row_once_before_any_twice():
    rows = np.arange(1000, dtype=np.float32)[:, None]
    stream = source.Stream(lambda a, b: rows[a:b], lambda r: r, lambda: 1000, 4, held_out=40, block=96)
    assert stream.count == 960
    seen = [piece.rows.ravel() for done in (0, 20, 40) for piece in stream.pieces((1, 2), done, done + 20, 32)]
    flat = np.concatenate(seen)  # 640 rows at a time: pieces begin and end within blocks
    assert (np.sort(flat) == np.repeat(np.arange(40, 1000), 2)).all()  # two turns; the second piece is of both
    assert len(np.unique(seen[0])) == len(np.unique(seen[2])) == 640
    assert not np.array_equal(np.sort(seen[0]), np.sort(seen[2]))
    again = next(stream.pieces((1, 2), 20, 40, 32))  # wherever a run begins, it sees what it would have seen
    np.testing.assert_array_equal(again.rows.ravel(), seen[1])


def test_large_rows_come_a_few_steps_at_a_time(monkeypatch):
    monkeypatch.setattr(source, "MAX_GATHERED_BYTES", 4 * 10 * 32 * 7)
    rows, read = np.zeros((500, 10), np.float32), []

    def noted(start, stop):
        read.append(stop - start)
        return rows[start:stop]

    stream = source.Stream(noted, lambda r: r, lambda: 500, 40, held_out=0, block=500)
    assert [piece.steps for piece in stream.pieces((0,), 0, 20, 32)] == [7, 7, 6]
    assert sum(read) == 20 * 32  # not a block for each piece


@pytest.mark.slow
def test_a_model_learns_as_well_from_a_stream(small, tmp_path, monkeypatch):
    """The validation rows differ: the mean loss of 5 % of 800 rows, eight times each, has a standard deviation of .02,
    and the two runs see other batches; 6 of these."""
    store = stored(tmp_path / "s")
    streamed, history = fit(store.sims(), steps=400, batch_size=64)
    monkeypatch.setattr(table, "MAX_RESIDENT_BYTES", 2**30)
    held = rd.simulate(PROBLEM, 400, key=5)
    _, other = fit(store.sims(), steps=400, batch_size=64, validation=held)
    monkeypatch.setattr(table, "MAX_RESIDENT_BYTES", 0)
    _, same = fit(store.sims(), steps=400, batch_size=64, validation=held)
    assert abs(same.best - other.best) < 0.06
    assert history.validation[-1] < history.validation[0]
    assert streamed.record.simulations == store.sims().kept


def test_a_streamed_run_goes_on_bit_for_bit(small, tmp_path, killed_early):
    sims = stored(tmp_path / "s").sims()
    whole, history = fit(sims)
    killed_early(lambda: fit(sims, checkpoint=tmp_path / "c"))
    model, again = fit(sims, checkpoint=tmp_path / "c")
    np.testing.assert_array_equal(history.train, again.train)
    np.testing.assert_array_equal(model.sample(3, key=0)["x"], whole.sample(3, key=0)["x"])
    other = stored(tmp_path / "other", n=900).sims()
    with pytest.raises(rd.FileError, match="belongs to another run"):
        fit(other, checkpoint=tmp_path / "c")


def test_training_takes_up_rows_that_come_meanwhile(small, tmp_path, monkeypatch):
    store = stored(tmp_path / "s", n=128)
    sims, advance, counts = store.sims(growing=True), loop.Trainer.advance, []
    first = sims.kept

    def and_simulates(self, *args):
        counts.append(self.source.count)
        if len(counts) == 2:
            stored(tmp_path / "s", n=1000)
        return advance(self, *args)

    monkeypatch.setattr(loop.Trainer, "advance", and_simulates)
    fit(sims)
    assert counts[0] == first - 5  # five of them validate
    assert counts[-1] == sims.kept - 5 > 700
    whole = rd.open_store(tmp_path / "s").sims()
    assert (np.sort(sims["rate"]) == np.sort(whole["rate"])).all()


def test_arrays_that_are_files_are_streamed(small, tmp_path):
    sims = rd.simulate(PROBLEM, 500, key=0)
    mapped = {}
    for name in sims:
        np.save(tmp_path / f"{name}.npy", sims[name])
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    assert fit(mapped)[1].step[-1] == 50
    np.save(tmp_path / "x.npy", np.where(sims["x"] > 1.5, np.inf, sims["x"]))
    with pytest.raises(rd.DataError, match=r"are not finite \(in x\)"):
        fit({**mapped, "x": np.load(tmp_path / "x.npy", mmap_mode="r")})


@pytest.mark.slow
def test_what_is_streamed_is_weighted_as_what_is_not(small, tmp_path):
    sims = stored(tmp_path / "s").sims()
    found = rd.failures(sims)
    rows = table.SimulationTable.of(PROBLEM.layout, sims, found)
    scaling = fit(sims, steps=1)[0].scaling
    (piece,) = rows.stream(scaling, 0).pieces((0,), 0, 2, 64)
    rate = np.asarray(scaling.inverse(piece.rows[..., :-1]))[..., 0].ravel()
    np.testing.assert_allclose(piece.rows[..., -1].ravel(), 1.0 / found.probability({"rate": rate}), rtol=1e-3)
    assert np.isfinite(fit(sims, failed="corrected")[1].train).all()
