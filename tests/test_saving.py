"""Model files: what comes back is what went in, and nothing that is no model file is believed."""

import errno
import json
import os
import pickle
import re
import subprocess
import sys

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from safetensors.numpy import save as to_bytes

import retrodict as rd
from retrodict.models import _files as saving
from unchanged import questions


@pytest.fixture
def file(model, tmp_path):
    return rd.save(model, tmp_path / "model.safetensors")


def test_a_model_survives_the_disk(model, file, sims):
    again = rd.load(file)
    ask = {"given": {"counts": sims["counts"][0]}, "key": 0}
    np.testing.assert_array_equal(model.sample(9, **ask)["rate"], again.sample(9, **ask)["rate"])
    values = {"rate": sims["rate"][:3], "noise": sims["noise"][:3]}
    np.testing.assert_array_equal(model.log_prob(values), again.log_prob(values))
    for field in ("layout", "architecture", "law", "record", "balanced"):
        assert getattr(model, field) == getattr(again, field)


def test_training_goes_on_from_a_file(file, sims):
    model, _ = rd.fit(rd.load(file), sims, key=0, steps=10, batch_size=32, progress=False)
    assert model.record.steps == 30


@pytest.mark.parametrize(
    "settings",
    [
        {"path": rd.paths.flow_matching(power=1.5)},
        {"path": rd.paths.flow_matching(times=rd.paths.LogitNormal(0.3, 0.8))},
        {"path": rd.paths.vp(weighting=rd.paths.likelihood)},
        {"path": rd.paths.ve(parameterization=rd.paths.data)},
        {"path": rd.paths.edm()},
        {"path": rd.paths.flow_matching(source=dist.StudentT(5.0, 0.0, 1.0))},
        {"roles": rd.roles.random_roles(0.3, 0.1)},
        {"net": rd.nets.ResMLP(8, 2), "balanced": True},
    ],
    ids=["power", "logit", "vp", "ve", "edm", "noise", "roles", "net"],
)
def test_every_setting_is_in_the_file(settings, sims, tmp_path):
    model = rd.joint(sims.layout, **settings)
    again = rd.load(rd.save(model, tmp_path / "m"))
    assert jax.tree.structure(model) == jax.tree.structure(again)
    for here, there in zip(jax.tree.leaves(model), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(here, there)


def test_the_manifest_is_plain_json(file):
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as handle:
        manifest = json.loads(handle.metadata()["retrodict"])
    assert manifest["schema"] == 3
    assert {"layout", "net", "path", "roles", "record", "versions"} <= set(manifest)


def rewrite(file, change):
    """The same file with its manifest changed."""
    arrays, manifest = saving._read(file)
    change(manifest)
    file.write_bytes(to_bytes(arrays, metadata={"retrodict": json.dumps(manifest)}))
    return file


def flipped(content, bit):
    return content[: bit // 8] + bytes([content[bit // 8] ^ (1 << bit % 8)]) + content[bit // 8 + 1 :]


def damaged(content, rng):
    """Files with one flipped bit each, or a block of zeros: anywhere, in the header, and in the checksum itself."""
    checksum, header = content.index(b"sha256"), 8 + int.from_bytes(content[:8], "little")
    for low, high, count in ((0, len(content), 120), (0, header, 60), (checksum - 1, checksum + 75, 60)):
        yield from (flipped(content, int(bit)) for bit in rng.integers(8 * low, 8 * high, count))
    starts = np.concatenate([rng.integers(0, len(content) - 512, 40), rng.integers(0, header, 10), [checksum - 100]])
    zeroed = (content[:at] + bytes(512) + content[at + 512 :] for at in starts)
    yield from (content_ for content_ in zeroed if content_ != content)


@pytest.mark.parametrize("kind", ["flow", "site mixture", "distilled"])
def test_every_bit_of_a_file_counts(kind, model, sims, tmp_path):
    if kind == "flow":
        saved = model
    elif kind == "distilled":
        saved = rd.load(questions.model_file("distilled_sampler"))
    else:
        saved = rd.load(questions.model_file("hierarchical"))
    file = rd.save(saved, tmp_path / "model.safetensors")
    content, loads = file.read_bytes(), []
    for i, spoiled in enumerate(damaged(content, np.random.default_rng(0))):
        file.write_bytes(spoiled)
        try:
            rd.load(file)
        except rd.FileError:
            continue
        loads.append(i)
    assert i > 280
    assert not loads
    file.write_bytes(content)
    rd.load(file)


def test_files_without_a_checksum_load_and_others_are_not_taken_for_them(file):
    """What earlier versions wrote; a file whose checksum has lost its name is none of these."""
    content = file.read_bytes()
    renamed = content.replace(b'"sha256"', b'"sha257"', 1)
    file.write_bytes(renamed)
    with pytest.raises(rd.FileError, match="is damaged: its metadata should hold"):
        rd.load(file)
    file.write_bytes(content)
    rd.load(rewrite(file, lambda manifest: None))
    assert b'"sha256"' not in file.read_bytes()


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.unlink(), "there is no model file"),
        (lambda f: f.write_bytes(f.read_bytes()[:-100]), "is truncated or damaged: its checksum does not fit"),
        (lambda f: f.write_bytes(f.read_bytes()[:50]), "is truncated or "),
        (lambda f: f.write_bytes(f.read_bytes() + b"more"), "is truncated or damaged: its checksum does not fit"),
        (lambda f: f.write_bytes(b""), "is truncated or no model file"),
        (lambda f: f.write_text("hello " * 100), "is truncated or no model file"),
        (lambda f: f.write_bytes(pickle.dumps(Bomb())), "is truncated or no model file"),
        (lambda f: f.write_bytes(to_bytes({"a": np.zeros(2)})), "but not one that retrodict wrote"),
        (lambda f: rewrite(f, lambda m: m.update(schema=4)), "schema 4.*reads 2 to 3: update it"),
        (lambda f: rewrite(f, lambda m: m.update(schema=1)), "schema 1.*reads 2 to 3: train the model anew"),
        (lambda f: rewrite(f, lambda m: m.pop("schema")), "manifest that cannot be read"),
        (lambda f: rewrite(f, lambda m: m.pop("layout")), "does not describe a model"),
        (lambda f: rewrite(f, lambda m: m["net"].update(name="Oracle")), "names the network 'Oracle'"),
        (lambda f: rewrite(f, lambda m: m["net"].update(width=32)), "is damaged: .* should have the shape"),
        (lambda f: rewrite(f, lambda m: m["roles"].update(name="Whim")), "names the law of roles 'Whim'"),
        (lambda f: rewrite(f, lambda m: m["path"]["schedule"].update(name="jnp")), "names the path 'jnp'"),
    ],
)
def test_what_is_no_model_file_is_refused(file, spoil, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spoil(file)
    with pytest.raises(rd.FileError, match=message):
        rd.load(file)
    assert not (tmp_path / "exploded").exists()


FULL = """
import resource, signal, sys
import retrodict as rd
model = rd.load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    rd.save(model, sys.argv[1])
except rd.FileError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_file(file, tmp_path):
    """A real refusal of the operating system in the middle of a write: in a process whose files may not pass 4 kB."""
    before = file.read_bytes()
    assert len(before) > 4096
    told = subprocess.run([sys.executable, "-c", FULL, str(file)], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^cannot write .*: File too large; what was there before is unchanged$", told.strip())
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == [file.name]


def test_a_read_only_disk_leaves_the_old_file(model, file, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    before = file.read_bytes()
    monkeypatch.setattr(saving.os, "replace", refuse)
    with pytest.raises(rd.FileError, match=r"Read-only file system; what was there before is unchanged"):
        rd.save(model, file)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == [file.name]


def test_a_missing_folder_is_told(model, tmp_path):
    with pytest.raises(rd.FileError, match="No such file or directory"):
        rd.save(model, tmp_path / "nowhere" / "model.safetensors")
