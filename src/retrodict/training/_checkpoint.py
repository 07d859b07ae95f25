"""Checkpoints: what a training run carries, on disk, so that a killed run goes on as if it had never stopped.

A run is a function of its rows, weights, pace and keys. After chunks of steps all that changes is written in one step
(weights, their averages, the optimizer's state, the best so far, the log), beside a hash of all that does not. Reading
it back gives the same numbers bit for bit, and so does every step after, on the same machine with the same versions. A
run that differs in anything is refused, as it would be neither of the two.
"""

import hashlib
import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from retrodict._errors import FileError
from retrodict._runtime.atomic_files import make_folder, write_npz


SECONDS = 10.0  # between two writings, at least


class State(NamedTuple):
    """Everything that changes while a run goes on.

    `carry` and `best` are trees of arrays; `log` has a row for each chunk, (steps done, training and validation loss);
    `ended` is why the run ended, if it did.
    """

    carry: Any
    best: Any
    best_step: int
    log: list[tuple[int, float, float]]
    seconds: float
    ended: str = ""

    @property
    def done(self) -> int:
        """Steps so far."""
        return self.log[-1][0] if self.log else 0


class Checkpoint:
    """The file of one run in a folder; `parts` are arrays, keys and settings that decide the run."""

    def __init__(self, folder: str | os.PathLike[str], what: str, *parts: Any) -> None:
        make_folder(Path(folder))
        self.file = Path(folder) / f"{what.replace(' ', '_')}.npz"
        self.identity, self.written = _hash(parts), time.monotonic()

    def read(self, like: State) -> State | None:
        """What an earlier run left, in the structure of `like`; None where there is nothing.

        Raises:
            FileError: the file is of another run, or damaged.
        """
        if not self.file.exists():
            return None
        try:
            # numpy leaves a file open that it cannot read
            with np.load(io.BytesIO(self.file.read_bytes()), allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            told = json.loads(bytes(arrays.pop("told")).decode())
            identity = told.pop("identity")
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise FileError(f"'{self.file}' is no checkpoint, or damaged ({error}); remove it to begin anew") from error
        if identity != self.identity:
            raise FileError(
                f"'{self.file}' belongs to another run (other simulations, model, key or settings); name another "
                "folder for `checkpoint`, or remove the file"
            )
        leaves, tree = jax.tree.flatten((like.carry, like.best))
        carry, best = jax.tree.unflatten(tree, [jnp.asarray(arrays[str(i)]) for i in range(len(leaves))])
        told["log"] = [tuple(row) for row in told["log"]]
        return State(carry=carry, best=best, **told)

    def write(self, state: State) -> None:
        """Keeps `state`, unless the last one is only seconds old and the run goes on.

        Raises:
            FileError: the file cannot be written; the last one is unchanged.
        """
        if not state.ended and time.monotonic() - self.written < SECONDS:
            return
        arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves((state.carry, state.best)))}
        names = ("best_step", "log", "seconds", "ended")
        told = {"identity": self.identity, **{name: getattr(state, name) for name in names}}
        write_npz(self.file, {**arrays, "told": np.frombuffer(json.dumps(told).encode(), np.uint8)})
        self.written = time.monotonic()


def _hash(parts: Any) -> str:
    """A hash of trees of arrays, keys and what can be printed."""
    leaves, tree = jax.tree.flatten(parts)
    # where a function lies in memory says nothing
    found = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(tree)).encode())
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array | np.ndarray):
            array = np.ascontiguousarray(leaf)
            found.update(f"{array.shape}{array.dtype}".encode())
            found.update(array.data.cast("B") if array.size else b"")
        else:
            found.update(re.sub(r" at 0x[0-9a-f]+", "", repr(leaf)).encode())
    return found.hexdigest()
