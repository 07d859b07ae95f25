"""Compiled programs outlive the process: JAX keeps them in a folder of the user's, from the first import on.

A first `fit` and a first draw compile for seconds; the next process that asks for the same reads them from disk. Every
kind of processor has a folder of its own, because a program of one may use instructions that another lacks, and a
cluster's machines share a home. What was not used for longest goes first when the folder is full.

Whoever has set JAX's own `JAX_COMPILATION_CACHE_DIR`, or `JAX_ENABLE_COMPILATION_CACHE=false`, is not interfered with.
"""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax
import platformdirs


FULL = 2 * 2**30  # bytes
EFFORT = "xla_backend_optimization_level"
WORTHWHILE = 0.3  # seconds of compilation; below, a file costs as much as it saves


def keep_compiled() -> Path | None:
    """Has JAX keep what it compiles, unless the user has settled that or there is no place; returns the folder."""
    settled = jax.config.values
    if settled["jax_compilation_cache_dir"] is not None or not settled["jax_enable_compilation_cache"]:
        return None
    folder = Path(platformdirs.user_cache_dir("retrodict", appauthor=False)) / "compiled" / _processor()
    try:
        # whoever may write here can run code as this user
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / ".writable").touch()
    except OSError:
        return None  # a machine without a home compiles anew, as it would without us
    jax.config.update("jax_compilation_cache_max_size", FULL)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTHWHILE)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def for_few_runs() -> dict[str, Any]:
    """What has a program compiled with little effort, for `jit`: one that runs for less time than that would take.

    On a processor alone, and not where the user has settled it in XLA_FLAGS. Products of matrices are as fast.
    """
    if jax.default_backend() != "cpu" or EFFORT in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {"compiler_options": {EFFORT: 0}}


def loops_are_cheap() -> bool:
    """Whether loops cost little beside products of matrices: not where the user has settled on no effort."""
    return f"{EFFORT}=0" not in os.environ.get("XLA_FLAGS", "")


def _processor() -> str:
    """A name for the instructions that this machine understands."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        told = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
