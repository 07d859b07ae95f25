"""The files of a store: making one, the lock of its writer, and the checksum at the end of every chunk."""

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


def sound(file: Path) -> bytes | None:
    """The content of a chunk without its checksum, or None if that does not fit or there is no file."""
    import google_crc32c

    try:
        content = file.read_bytes()
    except OSError:
        return None
    ours = google_crc32c.value(content[:-4])
    return content[:-4] if len(content) > 4 and int.from_bytes(content[-4:], "little") == ours else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever keeps a file from being written is one sentence.

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


def _free(path: Path) -> bool:
    """Whether there is nothing at a place but what a store that is being made may have left."""
    if not path.is_dir():
        return not path.exists()
    left = [part.relative_to(path) for part in path.rglob("*")]
    return all(part.suffix == ".partial" or str(part) in ("status", "status/.lock") for part in left)


WRITTEN: set[Path] = set()  # by this process; the lock of a file keeps out other processes alone


def locked(path: Path) -> int:
    """A descriptor that holds the lock, which ends with the process, however that ends; `unlocked` gives it back.

    Raises:
        FileError: somebody else holds it, the folder is no store, or it cannot be written.
    """
    import fcntl

    # within `status`, because readers of Zarr take what lies in a group for a part of it
    folder = path / "status"
    if not _free(path) and not (path / "zarr.json").is_file():
        raise FileError(f"'{path}' is there and is no store; take a folder that is empty or not there yet")
    if path.resolve() in WRITTEN:
        raise FileError(f"this process writes to the store '{path}' already; wait until that ends")
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # not flock, which children made by a fork would hold on to when this process is killed
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        who = os.read(lock, 200).decode(errors="replace") or "unknown"
        os.close(lock)
        raise FileError(
            f"another process writes to the store '{path}' ({who}); wait until it ends, or take another folder"
        ) from error
    with writing(path):
        os.truncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
    WRITTEN.add(path.resolve())
    return lock


def unlocked(path: Path, lock: int) -> None:
    """Gives the lock back."""
    WRITTEN.discard(path.resolve())
    os.close(lock)


def opened(path: Path, mode: Literal["r", "r+"]) -> Any:
    """The group of a directory.

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


def about_of(group: Any) -> dict[str, Any]:
    """What a store says about itself.

    Raises:
        FileError: it is another program's, or of a newer version.
    """
    about = group.attrs.get("retrodict")
    where = group.store_path
    if not isinstance(about, dict) or "schema" not in about:
        raise FileError(f"'{where}' is a Zarr directory, but not one that retrodict wrote")
    if about["schema"] > SCHEMA:
        raise FileError(f"'{where}' has the schema {about['schema']}; this version reads up to {SCHEMA}: update it")
    return about


def versions_here() -> dict[str, str]:
    """The packages that rows may depend on."""
    return {name: version(name) for name in PACKAGES}


def make(path: Path, problem: Mapping[str, Any], rows: int, batch: int) -> None:
    """Makes an empty store unless there is a whole one; the problem is written last, as the sign that all is there."""
    import zarr
    from zarr.codecs import Crc32cCodec

    if not (path / "zarr.json").is_file():
        zarr.create_group(str(path), attributes={"retrodict": {"schema": SCHEMA}}, zarr_format=3)
    group = opened(path, "r+")
    about = about_of(group)
    if "problem" in about:
        return
    for part in path.iterdir():  # arrays of a store whose making was interrupted, which hold no row
        if part.is_dir():
            (part / "zarr.json").unlink(missing_ok=True)
            with suppress(OSError):  # the folder of the lock stays
                part.rmdir()
    kind = problem["precision"]
    arrays: dict[str, tuple[tuple[int, ...], Any, Any]] = {
        **{row["name"]: (tuple(row["shape"]), kind, np.nan) for row in problem["variables"]},
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
    group.update_attributes({"retrodict": {**about, "problem": dict(problem), "versions": [versions_here()]}})
