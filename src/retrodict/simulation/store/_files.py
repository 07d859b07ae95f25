"""The files of a store: making it, the lock of its writer, and the checksum at the end of every chunk."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retrodict._errors import FileError


SCHEMA = 1
PACKAGES = ("retrodict", "jax", "numpy", "zarr")


def sound_content(file: Path) -> bytes | None:
    """The content of a chunk without its checksum, or None if that does not fit or there is no file."""
    import google_crc32c

    try:
        content = file.read_bytes()
    except OSError:
        return None
    checksum = google_crc32c.value(content[:-4])
    return content[:-4] if len(content) > 4 and int.from_bytes(content[-4:], "little") == checksum else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context that turns errors of the file system into a sentence.

    Raises:
        FileError: the disk is full, the folder is read-only, ...
    """
    try:
        yield
    except OSError as error:
        raise FileError(
            f"cannot write to the store '{path}': {error.strerror or error}; the batches that were written are kept, "
            "and the same call goes on with them"
        ) from error


def _is_free(path: Path) -> bool:
    """Whether a store may be made at a path: it is empty, but for remains of a making that was interrupted."""
    if not path.is_dir():
        return not path.exists()
    files = [file.relative_to(path) for file in path.rglob("*")]
    return all(file.suffix == ".partial" or str(file) in ("status", "status/.lock") for file in files)


_OPEN_HERE: set[Path] = set()  # stores that this process writes to; the lock of a file keeps out other processes alone


def lock_store(path: Path) -> int:
    """Takes the lock of a store, and returns its descriptor for `unlock_store`. The lock ends with the process.

    Raises:
        FileError: another process holds it, the folder is no store, or it cannot be written.
    """
    import fcntl

    # within `status`, because readers of Zarr take every file in a group for a part of it
    folder = path / "status"
    if not _is_free(path) and not (path / "zarr.json").is_file():
        raise FileError(f"'{path}' is there and is no store; take a folder that is empty or not there yet")
    if path.resolve() in _OPEN_HERE:
        raise FileError(f"this process writes to the store '{path}' already; wait until that ends")
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # not flock, which children made by a fork would hold on to when this process is killed
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(lock, 200).decode(errors="replace") or "unknown"
        os.close(lock)
        raise FileError(
            f"another process writes to the store '{path}' ({holder}); wait until it ends, or take another folder"
        ) from error
    with writing(path):
        os.truncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
    _OPEN_HERE.add(path.resolve())
    return lock


def unlock_store(path: Path, lock: int) -> None:
    """Gives the lock back."""
    _OPEN_HERE.discard(path.resolve())
    os.close(lock)


def open_group(path: Path, mode: Literal["r", "r+"]) -> Any:
    """Opens a directory as a group of Zarr.

    Raises:
        FileError: there is none, or it cannot be read.
    """
    import zarr

    if not (path / "zarr.json").is_file():
        raise FileError(f"there is no store '{path}'")
    try:
        return zarr.open_group(str(path), mode=mode, zarr_format=3)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"'{path}' is no store that can be read: {error}") from error


def attributes_of(group: Any) -> dict[str, Any]:
    """The attributes that a store has from us: schema, problem, versions and changes.

    Raises:
        FileError: another program wrote it, or a newer version.
    """
    attributes = group.attrs.get("retrodict")
    path = group.store_path
    if not isinstance(attributes, dict) or "schema" not in attributes:
        raise FileError(f"'{path}' is a Zarr directory, but not one that retrodict wrote")
    if attributes["schema"] > SCHEMA:
        raise FileError(f"'{path}' has the schema {attributes['schema']}; this version reads up to {SCHEMA}: update it")
    return attributes


def installed_versions() -> dict[str, str]:
    """The versions of the packages that rows may depend on."""
    return {name: version(name) for name in PACKAGES}


def make_store(path: Path, problem: Mapping[str, Any], rows: int, batch: int) -> None:
    """Makes an empty store unless there is a complete one. The problem is written last, as the sign of completeness."""
    import zarr
    from zarr.codecs import Crc32cCodec

    if not (path / "zarr.json").is_file():
        zarr.create_group(str(path), attributes={"retrodict": {"schema": SCHEMA}}, zarr_format=3)
    group = open_group(path, "r+")
    attributes = attributes_of(group)
    if "problem" in attributes:
        return
    for folder in path.iterdir():  # arrays of a store whose making was interrupted, which hold no row
        if folder.is_dir():
            (folder / "zarr.json").unlink(missing_ok=True)
            with suppress(OSError):  # the folder of the lock stays
                folder.rmdir()
    precision, wide = problem["precision"], problem["types"]
    arrays: dict[str, tuple[tuple[int, ...], Any, Any]] = {
        **{
            row["name"]: (tuple(row["shape"]), wide.get(row["name"], precision), np.nan) for row in problem["variables"]
        },
        "seconds": ((), "float32", np.nan),
        "seed": ((len(problem["key"]),), "uint32", 0),
        "error": ((), str, ""),
        "status": ((), "uint8", 0),
    }
    for name, (shape, dtype, fill) in arrays.items():
        group.create_array(
            name,
            shape=(rows, *shape),
            chunks=(batch, *shape),
            dtype=dtype,
            fill_value=fill,
            dimension_names=["row", *(f"{name}_dim_{i}" for i in range(len(shape)))],
            compressors=[Crc32cCodec()],
        )
    attributes = {**attributes, "problem": dict(problem), "versions": [installed_versions()]}
    group.update_attributes({"retrodict": attributes})
