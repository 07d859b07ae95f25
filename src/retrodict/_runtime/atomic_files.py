"""Files: written whole or not at all.

A file is written beside its final place and moved there in one step: whatever goes wrong, the old file survives.
"""

import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._errors import FileError


def write_npz(file: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes named arrays as `.npz`, all or nothing.

    Raises:
        FileError: the file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict[str, Any](arrays))
    return write_whole(file, buffer.getvalue())


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, unless it is there.

    Raises:
        FileError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder '{path}': {error.strerror}") from error


def write_whole(file: Path, content: bytes) -> Path:
    """Writes all of `content` to `file` or leaves what was there.

    Raises:
        FileError: the disk is full, the folder is missing or read-only, ...
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as handle:
            temporary = Path(handle.name)
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise FileError(f"cannot write '{file}': {error.strerror}; what was there before is unchanged") from error
    return file
