"""Compiled programs that outlive the process, in a folder of the user's that JAX reads and writes.

A first `fit` and a first draw compile for seconds; the next process that asks for the same reads the programs from
disk. Every kind of processor has a folder of its own, because a program of one may use instructions that another
lacks, and the machines of a cluster share a home. In a full folder the programs that were not used for longest go.

Importing `retrodict` changes nothing in JAX. `ensure_cache` is called wherever the library may be the first to compile.
"""

import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax
import platformdirs


EFFORT = "xla_backend_optimization_level"
LIMITS = {  # setting of JAX: its default, and our value unless a user has chosen another
    "jax_compilation_cache_max_size": (-1, 2 * 2**30),  # bytes
    "jax_persistent_cache_min_compile_time_secs": (1.0, 0.3),  # below, a file costs as much as it saves
}


def keep_compiled() -> Path | None:
    """Lets JAX keep compiled programs on disk, so that later processes need not compile them again.

    The folder is `retrodict/compiled/PROCESSOR` in the user's cache folder (`~/.cache` on Linux), readable by this user
    alone and 2 GiB at most. The library calls this function at its first compilation: in `simulate`, when a model is
    made or loaded, and when training begins. Call it earlier to keep your own programs, too.

    Nothing changes where JAX has been told otherwise, by environment variables or `jax.config`. To switch it off set
    `JAX_ENABLE_COMPILATION_CACHE=false`; to use another folder set `JAX_COMPILATION_CACHE_DIR`.

    Returns:
        The folder, or None: the user has settled it, the folder cannot be written, or others own it or may write to it.
    """
    values = jax.config.values
    folder = Path(platformdirs.user_cache_dir("retrodict", appauthor=False)) / "compiled" / _processor()
    if values["jax_compilation_cache_dir"] == str(folder):
        return folder
    if values["jax_compilation_cache_dir"] is not None or not values["jax_enable_compilation_cache"]:
        return None
    if not _is_private(folder):
        return None
    for name, (default, limit) in LIMITS.items():
        if values[name] == default:
            jax.config.update(name, limit)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


@functools.cache
def ensure_cache() -> None:
    """Calls `keep_compiled` once per process: for functions that may be the first to compile."""
    keep_compiled()


def for_few_runs() -> dict[str, Any]:
    """Keyword arguments for `jit` that turn off XLA's optimizer, for programs that run so rarely that optimizing costs
    more than it saves.

    Empty on other devices than CPUs, and where XLA_FLAGS settle the level. Products of matrices stay as fast.
    """
    if jax.default_backend() != "cpu" or EFFORT in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {"compiler_options": {EFFORT: 0}}


def loops_are_cheap() -> bool:
    """Whether loops cost little beside products of matrices: not where XLA_FLAGS turn the optimizer off."""
    return f"{EFFORT}=0" not in os.environ.get("XLA_FLAGS", "")


def _is_private(folder: Path) -> bool:
    """Whether a folder, which is made if it is not there, is this user's and can be written by nobody else.

    Whoever may write here can run code as this user.
    """
    try:
        for path in (folder.parents[1], folder.parent, folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_mode & 0o022 or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
            return False
        (folder / ".writable").touch()
    except OSError:
        return False  # a machine without a home compiles anew, as it would without us
    return True


def _processor() -> str:
    """A name for the instructions that this machine understands."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"
