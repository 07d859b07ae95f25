"""Models on disk: one safetensors file, arrays and one JSON manifest in its metadata.

The manifest names everything that is no array (kind, layout, network, path, law of roles, record). Loading builds the
model from the classes of this version and reads numbers into it; nothing in the file is ever executed. A file is
written beside its final place and moved there in one step: whatever goes wrong, the old file survives.

Names in files are independent of names in the code: kinds by `AbstractModel.kind`, arrays by `WRITTEN_NAMES`.
"""

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
    return write_whole(Path(file), to_bytes(arrays, metadata={"retrodict": json.dumps(manifest)}))


@in_single_precision
def load(file: str | os.PathLike[str]) -> Any:
    """Reads a model that `save` wrote, of the kind that was saved; nothing in the file is executed.

    A kind of another package is looked for among installed entry points `retrodict.models`.

    Raises:
        FileError: the file is not there, truncated, of another kind, or of another version.
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


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise FileError(f"there is no model file '{file}'")
    try:
        with safe_open(file, framework="numpy") as handle:
            metadata = handle.metadata() or {}
            arrays = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"'{file}' is truncated or no model file: {error}") from error
    if "retrodict" not in metadata:
        raise FileError(f"'{file}' is a safetensors file, but not one that retrodict wrote")
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
