"""The store: whole batches or none, damage found and named, other problems and other writers refused."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import retrodict as rd
from conftest import assert_same, contents
from retrodict.simulation.store._fingerprint import digest, fingerprint


ROWS, BATCH = 150, 32
VARIABLES = ("a", "b", "y")


def in_jax(key, a, b):
    return {"y": jnp.where(a > 1.2, jnp.nan, a + b[0] + jax.random.uniform(key, (3,)))}


def in_python(rng, a, b):
    if a > 1.2:
        raise ValueError("a is too large")
    return {"y": a + b[0] + rng.uniform(size=3)}


def endless(rng, a, b):
    """The simulator in Python, without failures."""
    return {"y": a + b[0] + rng.uniform(size=3)}


PRIOR = {"a": dist.Uniform(0.0, 1.5), "b": dist.Uniform(jnp.zeros(2), 1.0).to_event(1)}
PROBLEMS = {"jax": rd.Problem(PRIOR, in_jax), "python": rd.Problem(PRIOR, rd.numpy_simulator(in_python))}


def simulated(where, kind="python", n=ROWS, **how):
    return rd.simulate(PROBLEMS[kind], n, key=3, store=where, **{"batch": BATCH, "progress": False, **how})


@pytest.fixture(scope="module", params=["jax", "python"])
def whole(request, tmp_path_factory):
    where = tmp_path_factory.mktemp("whole") / request.param
    return request.param, where, simulated(where, request.param)


@pytest.fixture
def copied(whole, tmp_path):
    kind, where, _ = whole
    return kind, shutil.copytree(where, tmp_path / "copy"), contents(where)


def test_a_store_holds_what_simulate_draws(whole):
    kind, where, sims = whole
    plain = rd.simulate(PROBLEMS[kind] if kind == "jax" else changed(simulator=endless), ROWS, key=3)
    well = np.flatnonzero(rd.open_store(where).codes == 1)
    for name in VARIABLES:
        expected = plain[name] if kind == "jax" else plain[name][well]
        np.testing.assert_allclose(sims[name], expected, rtol=1e-6)  # some units in the last place of float32
    assert (sims.kept, sims.n_failed, sims.drawn) == (len(well), ROWS - len(well), ROWS)
    status = rd.open_store(where).status
    assert status["ok"] == sims.kept
    assert status["non-finite" if kind == "jax" else "failed"] == sims.n_failed > 0
    assert status["missing"] == 0
    assert list(sims) == list(VARIABLES)
    assert f"{sims.kept} ok" in repr(rd.open_store(where))
    assert f"{sims.kept} kept" in repr(sims)
    assert sims.problem is PROBLEMS[kind]


def test_failures_are_there_with_parameters_and_reasons(whole):
    kind, where, sims = whole
    failed = rd.open_store(where).failed
    assert (failed["a"] > 1.2).all()
    np.testing.assert_array_equal(failed["a"], sims.failed["a"])
    assert set(failed["status"]) == {"non-finite" if kind == "jax" else "failed"}
    told = "" if kind == "jax" else "ValueError: a is too large (line"
    assert all(text.startswith(told) for text in failed["error"])
    assert kind == "jax" or "test_store.py" in failed["error"][0]
    assert sims.error == failed["error"][0]


def test_a_store_and_its_rows_show_where_they_lie(whole):
    _, where, sims = whole
    lines = repr(rd.open_store(where)).splitlines()
    assert lines[0].startswith(f"Store('{where}', 150 rows: {sims.kept} ok, {sims.n_failed} ")
    assert lines[2].split() == ["b", "(150,", "2)", "parameter,", "in", "(0,", "1)"]
    assert f"in '{where}'" in repr(sims).splitlines()[0]
    assert f"({sims.kept}, 3)" in repr(sims).splitlines()[3]
    assert "<td>b</td><td>(150, 2)</td>" in rd.open_store(where)._repr_html_()


def test_a_seed_runs_a_row_again(whole):
    kind, where, sims = whole
    store = rd.open_store(where)
    seed = store.read("seed", np.flatnonzero(store.codes == 1)[:1])[0]
    a, b = sims["a"][0], sims["b"][0]
    if kind == "jax":
        again = in_jax(jax.random.wrap_key_data(jnp.asarray(seed)), a, b)["y"]
    else:
        again = in_python(np.random.default_rng(seed), a, b)["y"]
    np.testing.assert_allclose(again, sims["y"][0], rtol=1e-6)


def test_xarray_opens_it(whole):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed: pip install 'retrodict[arviz]'")
    kind, where, sims = whole
    with xarray.open_zarr(where, consolidated=False, chunks=None) as found:
        assert found["y"].dims == ("row", "y_dim_0")
        assert dict(found.sizes) == {"row": ROWS, "b_dim_0": 2, "y_dim_0": 3, "seed_dim_0": 2}
        np.testing.assert_array_equal(found["y"].values[found["status"].values == 1], sims["y"])
        assert (found["seconds"].values > 0).all()
        about = found.attrs["retrodict"]
    assert about["problem"]["simulator"]["name"] == ("in_jax" if kind == "jax" else "in_python")
    assert about["problem"]["prior"]["a"] == "Uniform(low=0.0, high=1.5)"
    assert about["versions"][0]["jax"] == jax.__version__
    meta = json.loads((where / "y" / "zarr.json").read_text())
    assert [codec["name"] for codec in meta["codecs"]][-1] == "crc32c"
    assert meta["chunk_grid"]["configuration"]["chunk_shape"] == [BATCH, 3]


@pytest.mark.parametrize("first", [5, BATCH, 70])
def test_topping_up_equals_drawing_all_at_once(whole, tmp_path, first):
    kind, where, _ = whole
    simulated(tmp_path / "s", kind, first)
    assert rd.open_store(tmp_path / "s").status["missing"] == 0
    assert simulated(tmp_path / "s", kind).drawn == ROWS
    assert_same(contents(where), contents(tmp_path / "s"))


def test_fewer_rows_than_there_are(copied):
    kind, where, _ = copied
    assert simulated(where, kind, 40).drawn == 40
    assert rd.open_store(where).rows == ROWS


def test_only_what_is_missing_is_run(copied, monkeypatch):
    kind, where, truth = copied
    (where / "status" / "c" / "2").unlink()
    before = {file: file.stat().st_mtime_ns for file in (where / "y").rglob("*") if file.is_file()}
    assert rd.open_store(where).status["missing"] == BATCH
    simulated(where, kind)
    assert_same(truth, contents(where))
    after = {str(file.relative_to(where)) for file, then in before.items() if file.stat().st_mtime_ns != then}
    assert after == {"y/c/2/0"}


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)


DAMAGE = {
    "a byte of data": ("y/c/1/0", flipped),
    "a byte of a parameter": ("a/c/1", flipped),
    "a byte of a status": ("status/c/1", flipped),
    "a byte of a seed": ("seed/c/1/0", flipped),
    "a chunk that is gone": ("y/c/1/0", lambda file: file.unlink()),
    "a chunk that is empty": ("y/c/1/0", lambda file: file.write_bytes(b"")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_named_and_redone(case, copied):
    kind, where, truth = copied
    name, damage = DAMAGE[case]
    damage(where / name)
    store = rd.open_store(where)
    assert store.check() == [name]
    if name.startswith("status"):
        assert store.status["missing"] == BATCH
    elif name[0] in "ay":
        with pytest.raises(rd.FileError, match=rf"{name}' is damaged .*so that rows 32 to 63 count as missing: simul"):
            store.sims()[name[0]]
    with pytest.warns(
        UserWarning, match=f"damaged chunks \\('{name}'\\): their batches count as missing and are redone"
    ):
        simulated(where, kind)
    assert_same(truth, contents(where))
    assert rd.open_store(where).check() == []


def test_the_error_texts_are_checked_too(tmp_path):
    simulated(tmp_path / "s")
    truth = contents(tmp_path / "s")
    flipped(tmp_path / "s" / "error" / "c" / "0")
    with pytest.warns(UserWarning, match="error/c/0"):
        simulated(tmp_path / "s")
    assert_same(truth, contents(tmp_path / "s"))


def test_a_disk_that_fills_at_any_write_costs_one_batch(whole, tmp_path, monkeypatch):
    """Every kind of write fails in turn, with half of a file left behind, as a kill would leave it."""
    from zarr.storage import _local

    kind, where, _ = whole
    truth, put, left = contents(where), _local._put, [0]

    def full(path, value, exclusive=False):
        left[0] -= 1
        if left[0] < 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".half.partial").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(path, value, exclusive)

    monkeypatch.setattr(_local, "_put", full)
    failures = 0
    for writes in range(0, 60, 3 if kind == "python" else 11):  # seven writes a batch in Python: all come up in turn
        folder = tmp_path / f"s{writes}"
        left[0] = writes
        try:
            simulated(folder, kind)
        except rd.FileError as error:
            failures += 1
            assert "No space left on device; the batches that were written are kept" in str(error)  # noqa: PT017
        if writes > 20:  # the store is made by then: what is there is right
            store = rd.open_store(folder)
            there = np.flatnonzero(store.codes)
            assert len(there) % BATCH in (0, ROWS % BATCH)
            np.testing.assert_array_equal(store.read("y", there), truth["y"][there])
        left[0] = 10**6
        simulated(folder, kind)
        assert_same(truth, contents(folder))
        assert not list(folder.rglob("*.partial"))
    assert failures >= (3 if kind == "jax" else 13)


def other(a, b):
    return a + b


def helped(rng, a, b):
    return {"y": np.full(3, other(a, b[0]))}


@dataclasses.dataclass
class Setting:
    value: float


def changed(**what):
    prior, simulator = what.get("prior", PRIOR), what.get("simulator", in_python)
    return rd.Problem(prior, rd.numpy_simulator(simulator))


def wider(rng, a, b):
    return {"y": np.zeros(4)}


OTHERS = {
    "a prior": (
        {"prior": {**PRIOR, "a": dist.Uniform(0.0, 1.4)}},
        3,
        r"its variables are 'a' \(\) in \(0.0, 1.5\), .* and here 'a' \(\) in \(0.0, 1.4\)",
    ),
    "a shape": ({"simulator": wider}, 3, r"'y' \(3,\), and here .*'y' \(4,\)"),
    "a simulator": ({"simulator": helped}, 3, "the simulator 'in_python' there and 'helped' here, has other source"),
    "a key": ({}, 4, r"its key is \[0, 3\] and not \[0, 4\]"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_problem_is_refused(case, tmp_path):
    what, key, sentence = OTHERS[case]
    simulated(tmp_path / "s", n=40)
    how = {"store": tmp_path / "s", "key": key, "progress": False}
    with pytest.raises(rd.DataError, match=f"is of another problem: .*{sentence}.*; take another folder"):
        rd.simulate(changed(**what), 80, **how)
    assert rd.open_store(tmp_path / "s").rows == 40
    if case in ("a prior", "a shape"):  # other variables do not fit, whoever accepts them
        with pytest.raises(rd.DataError, match=r"take another folder$"):
            rd.simulate(changed(**what), 80, accept_changed=True, **how)
        return
    assert rd.simulate(changed(**what), 80, accept_changed=True, **how).drawn == 80
    about = json.loads((tmp_path / "s" / "zarr.json").read_text())["attributes"]["retrodict"]
    assert len(about["changes"]) == 1
    assert rd.simulate(changed(**what), 80, **how).drawn == 80  # from now on it is the one


def test_what_a_hash_sees_of_a_simulator():
    def made(text, **around):
        space = dict(around)
        exec(text, space)
        return space["f"]

    def closed(number):
        return lambda x: number * x

    first = "def f(x):\n    return g(x) + c\n"
    assert digest(in_python) == digest(in_python)
    assert digest(in_python) != digest(helped)
    assert digest(closed(1)) == digest(closed(1)) != digest(closed(2))
    assert digest(made(first, c=1)) == digest(made(first, c=1)) != digest(made(first, c=2))
    assert digest(made(first, c=np.arange(3))) != digest(made(first, c=np.arange(4)))
    settings = [digest(made(first, c=[Setting(a), Setting(b)])) for a in (1.0, 2.0, 5.0) for b in (2.0, 3.0)]
    assert len(set(settings)) == 6  # objects that are freed on the way do not hide those that follow
    before = digest(helped)
    helped.__globals__["other"] = lambda a, b: a - b
    try:
        assert digest(helped) != before
    finally:
        helped.__globals__["other"] = other


def test_a_hash_of_our_own_classes_sees_their_settings_and_not_their_source(monkeypatch):
    """A store goes on with a version of the library that is written in other words."""
    commands = [rd.command_simulator(f"{name} {{output}}").function for name in ("one", "two")]
    before = [digest(command) for command in commands]
    assert before[0] != before[1]
    monkeypatch.setattr(type(commands[0]), "__module__", "retrodict.elsewhere")
    monkeypatch.setattr("inspect.getsource", lambda thing: "class Other: pass")
    assert [digest(command) for command in commands] == before


def test_a_prior_is_the_same_in_every_process(monkeypatch):
    """numpyro keeps the names of a distribution's fields in a set, whose order differs from process to process."""
    laws = {
        "vector": dist.Normal(jnp.ones(9), jnp.full(9, 2.0)).to_event(1),
        "long": dist.Uniform(jnp.zeros(9), jnp.arange(1, 10.0)),
    }
    problem = rd.Problem(laws, lambda key, vector, long: {"y": vector})
    before, names = fingerprint(problem, jax.random.key(0)), dist.Distribution.gather_pytree_data_fields.__func__
    monkeypatch.setattr(
        dist.Distribution, "gather_pytree_data_fields", classmethod(lambda cls: tuple(reversed(names(cls))))
    )
    assert fingerprint(problem, jax.random.key(0)) == before
    other = rd.Problem({**laws, "vector": dist.Normal(jnp.full(9, 2.0), jnp.ones(9)).to_event(1)}, problem.simulator)
    assert fingerprint(other, jax.random.key(0))["prior"]["vector"] != before["prior"]["vector"]


def test_comments_do_not_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    codes = ("return x + 1", "# more\n    return (x+1)", "return x + 2")
    found = []
    for i, code in enumerate(codes):
        (tmp_path / f"version_{i}.py").write_text(f"def f(x):\n    {code}\n")
        found.append(digest(__import__(f"version_{i}").f))
    assert found[0] == found[1] != found[2]


HOLD = """
import fcntl, os, sys, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(lock, fcntl.LOCK_EX)
os.truncate(lock, 0)
os.write(lock, b"process 1 on that machine")
print("held", flush=True)
time.sleep(60)
"""


def test_one_process_writes_at_a_time(tmp_path):
    simulated(tmp_path / "s", n=40)
    lock = tmp_path / "s" / "status" / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(rd.FileError, match=r"another process writes to the store .* \(process 1 on that machine\)"):
            simulated(tmp_path / "s", n=80)
        assert rd.open_store(tmp_path / "s").rows == 40  # reading goes on
        holder.send_signal(signal.SIGKILL)
    assert simulated(tmp_path / "s", n=80).drawn == 80  # the lock died with its holder


def test_one_campaign_of_a_process_writes_at_a_time(tmp_path):
    seen, shared = [], HOLD.replace("LOCK_EX", "LOCK_SH | fcntl.LOCK_NB").replace("60", "0")

    def nosy(rng, a, b):
        if seen == ["the trial run"]:
            try:
                simulated(tmp_path / "s")
            except rd.FileError as error:
                seen.append(str(error))
            how = [sys.executable, "-c", shared, str(tmp_path / "s" / "status" / ".lock")]
            seen.append(subprocess.run(how, capture_output=True, text=True).stderr)
        seen.append("the trial run")
        return {"y": np.zeros(3)}

    rd.simulate(changed(simulator=nosy), 10, key=0, store=tmp_path / "s", progress=False)
    assert f"this process writes to the store '{tmp_path / 's'}' already" in seen[1]
    assert "BlockingIOError" in seen[2]


def test_what_is_no_store(tmp_path):
    with pytest.raises(rd.FileError, match="there is no store"):
        rd.open_store(tmp_path / "none")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear diary")
    with pytest.raises(rd.FileError, match="is there and is no store; take a folder that is empty"):
        simulated(tmp_path / "mine")
    with pytest.raises(rd.FileError, match="is there and is no store"):
        simulated(tmp_path / "mine" / "notes.txt")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    import zarr

    zarr.create_group(str(tmp_path / "other"), zarr_format=3)
    with pytest.raises(rd.FileError, match="a Zarr directory, but not one that retrodict wrote"):
        rd.open_store(tmp_path / "other")
    simulated(tmp_path / "s", n=40)
    about = json.loads((tmp_path / "s" / "zarr.json").read_text())
    about["attributes"]["retrodict"]["schema"] = 99
    (tmp_path / "s" / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(rd.FileError, match="has the schema 99; this version reads up to 1: update it"):
        rd.open_store(tmp_path / "s")


def test_names_that_a_store_has_itself(tmp_path):
    problem = rd.Problem({"seed": dist.Uniform(0.0, 1.0)}, lambda key, seed: {"y": seed})
    with pytest.raises(rd.DataError, match="'seed' cannot be the name of a variable in a store"):
        rd.simulate(problem, 10, key=0, store=tmp_path / "s")


@pytest.fixture
def mounted(tmp_path):
    """A file system of one megabyte, and how it is made read-only."""
    folder = tmp_path / "small"
    folder.mkdir()
    how = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(how, capture_output=True).returncode:
        pytest.skip("a file system of limited size cannot be mounted here (this takes root)")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(mounted):
    folder, _ = mounted
    filler = folder / "filler"
    filler.write_bytes(bytes(700_000))
    with pytest.raises(rd.FileError, match=r"cannot write to the store .*: No space left on device; the batches that"):
        simulated(folder / "s", n=20_000, batch=256)
    before = rd.open_store(folder / "s").status["missing"]
    assert 0 < before < 20_000
    assert rd.open_store(folder / "s").check() == []
    filler.unlink()
    simulated(folder / "s", n=20_000 - before + 10, batch=256)
    assert rd.open_store(folder / "s").status["missing"] < before


def test_a_read_only_disk(mounted):
    folder, freeze = mounted
    simulated(folder / "s", n=40)
    freeze()
    with pytest.raises(rd.FileError, match=r"cannot write to the store .*: Read-only file system"):
        simulated(folder / "s", n=80)
    assert rd.open_store(folder / "s").sims().drawn == 40  # and can be read


def test_a_folder_that_may_not_be_written(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write to any folder; see the read-only disk")
    simulated(tmp_path / "s", n=40)
    for folder in [tmp_path / "s", *(tmp_path / "s").rglob("*")]:
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    with pytest.raises(rd.FileError, match=r"cannot write to the store .*: Permission denied"):
        simulated(tmp_path / "s", n=80)


def test_opening_a_long_store_is_quick(tmp_path):
    """A tenth of a million rows in the chunks that they have by default; a million open in .3 s (2 are allowed)."""
    simulated(tmp_path / "s", "jax", n=100_000, batch=4096)
    begun = time.process_time()
    simulated(tmp_path / "s", "jax", n=100_000)
    assert time.process_time() - begun < 0.5
