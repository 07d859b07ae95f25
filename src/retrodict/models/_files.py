"""Models on disk: one safetensors file, arrays and one JSON manifest in its metadata.

The manifest names everything that is no array (kind, layout, network, path, law of roles, record). Loading builds the
model from the classes of this version and reads numbers into it; nothing in the file is ever executed. A file is
written beside its final place and moved there in one step: whatever goes wrong, the old file survives.

Beside the manifest stands a checksum, the SHA-256 of the complete file with zeros in the checksum's place, so that no
bit of a file can change unnoticed. It is compared before anything is read. Files of earlier versions have none, and a
file whose metadata name anything but a manifest and a checksum is damaged.

Names in files are independent of names in the code: kinds by `AbstractModel.kind`, arrays by `WRITTEN_NAMES`.
"""

import hashlib
import json
import os
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from retrodict._errors import FileError, RetrodictError
from retrodict._runtime.atomic_files import write_whole
from retrodict._runtime.compile_cache import ensure_cache
from retrodict._runtime.precision import in_single_precision
from retrodict.models._model import KINDS, AbstractModel, manifest_of, model_for, skeleton_of


SCHEMA, OLDEST = 3, 2  # 1 had matrices the other way round
PACKAGES = ("retrodict", "jax", "equinox", "numpy")
LATER = (".far", ".powers")  # arrays that came later: None in files without them
CHECKSUM, NO_CHECKSUM = "sha256", "0" * 64  # its name in the metadata, and what holds its place
WRITTEN_NAMES = {  # attribute on the way to an array -> its name in files, where they differ
    "affine": "frame",
    "baseline": "frame",
    "coefficients": "line",
    "factors": "parts",
    "input_scaling": "seen",
    "integers": "whole",
    "is_integer": "which",
    "largest": "most",
    "log_sd": "left",
    "log_width": "usual",
    "robust": "tails",
    "smallest": "least",
}


def save(model: AbstractModel, file: str | os.PathLike[str]) -> Path:
    """Writes a model to one file, all or nothing, and returns its path.

    Raises:
        FileError: the file cannot be written, or the model has parts that no file can name; a file that was there
            before is unchanged.
    """
    from safetensors.numpy import save as to_bytes

    model_for("save", model)
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))
    arrays = {_array_name(path): np.asarray(leaf) for path, leaf in leaves}
    manifest = {"schema": SCHEMA, **manifest_of(model), "versions": {name: version(name) for name in PACKAGES}}
    content = to_bytes(arrays, metadata={"retrodict": json.dumps(manifest), CHECKSUM: NO_CHECKSUM})
    return write_whole(Path(file), content.replace(_entry(NO_CHECKSUM), _entry(checksum_of(content)), 1))


@in_single_precision
def load(file: str | os.PathLike[str]) -> Any:
    """Reads a model that `save` wrote, of the kind that was saved; nothing in the file is executed.

    A kind of another package is looked for among installed entry points `retrodict.models`.

    Raises:
        FileError: the file is not there, truncated or damaged, of another kind, or of another version.
    """
    ensure_cache()
    arrays, manifest = _read(Path(file))
    _import_kind(manifest.get("kind"))
    try:
        model = skeleton_of(manifest)
    except FileError:
        raise
    except (RetrodictError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"'{file}' has a manifest that does not describe a model ({error}); it is damaged") from error
    leaves, tree = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))
    numbers: list[Any] = []
    for path, leaf in leaves:
        name = _array_name(path)
        array = arrays.get(name)
        if array is None and name.endswith(LATER):
            numbers.append(None)
            continue
        if array is None or array.shape != leaf.shape:
            came = "nothing" if array is None else f"the shape {array.shape}"
            raise FileError(f"'{file}' is damaged: {name} should have the shape {leaf.shape}, got {came}")
        numbers.append(jnp.asarray(array, leaf.dtype) if isinstance(leaf, jax.Array) else array.astype(leaf.dtype))
    plain = eqx.filter(model, eqx.is_array, inverse=True)
    return eqx.combine(jax.tree_util.tree_unflatten(tree, numbers), plain)


def _array_name(where: tuple[Any, ...]) -> str:
    """Returns the name of an array in files: the path of attributes that leads to it, by their written names."""
    names = jax.tree_util
    return names.keystr(
        tuple(
            names.GetAttrKey(WRITTEN_NAMES.get(k.name, k.name)) if isinstance(k, names.GetAttrKey) else k for k in where
        )
    )


def _import_kind(kind: str | None) -> None:
    if kind is None or kind in KINDS:
        return
    for entry in entry_points(group="retrodict.models", name=kind):
        entry.load()
    if kind not in KINDS:
        raise FileError(
            f"the file holds a model of the kind '{kind}', which this version does not know; import the module that "
            "defines it first (on the command line: --import FILE.py)"
        )


def checksum_of(content: bytes) -> str:
    """Returns the checksum of a file with zeros in the checksum's place."""
    return hashlib.sha256(content).hexdigest()


def _entry(checksum: str) -> bytes:
    """Returns the bytes of the checksum's entry; quotes inside the manifest are escaped, so that none looks so."""
    return f'"{CHECKSUM}":"{checksum}"'.encode()


def _refuse_damaged(file: Path, content: bytes) -> None:
    """Raises a `FileError` if the checksum in a file does not fit; a file of an earlier version has none."""
    prefix = _entry("")[:-1]
    start = content.find(prefix) + len(prefix)
    if start < len(prefix):
        return
    end = start + len(NO_CHECKSUM)
    if content[start:end] != checksum_of(content[:start] + NO_CHECKSUM.encode() + content[end:]).encode():
        raise FileError(f"'{file}' is truncated or damaged: its checksum does not fit; load another copy of the file")


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    if not file.is_file():
        raise FileError(f"there is no model file '{file}'")
    try:
        content = file.read_bytes()
        _refuse_damaged(file, content)
        arrays = from_bytes(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.get("__metadata__") or {}
    except FileError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"'{file}' is truncated or no model file: {error}") from error
    if "retrodict" not in metadata:
        raise FileError(f"'{file}' is a safetensors file, but not one that retrodict wrote")
    if strange := sorted(set(metadata) - {"retrodict", CHECKSUM}):
        raise FileError(f"'{file}' is damaged: its metadata should hold a manifest and a checksum, got {strange}")
    try:
        manifest = json.loads(metadata["retrodict"])
        schema = int(manifest["schema"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"'{file}' has a manifest that cannot be read ({error}); it is damaged") from error
    if not OLDEST <= schema <= SCHEMA:
        wrote = manifest.get("versions", {}).get("retrodict", "of another version")
        cure = "update it" if schema > SCHEMA else "train the model anew"
        raise FileError(
            f"'{file}' was written by retrodict {wrote} (schema {schema}); this version reads {OLDEST} to {SCHEMA}: "
            f"{cure}"
        )
    return arrays, manifest
