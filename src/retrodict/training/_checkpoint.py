"""Checkpoints: the state of a training run on disk, so that a killed run goes on as if it had never stopped.

A run is a function of its rows, weights, budget and keys. After chunks of steps everything that changes is written at
once (weights, their average, the optimizer's state, the best weights so far, the log), beside a hash of everything that
does not change. The restored state has the same numbers bit for bit, and so does every later step, on the same machine
with the same versions. A checkpoint of another run is refused: going on from it would give neither of the two runs.
"""

import hashlib
import io
import json
import os
import re
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from retrodict._errors import FileError
from retrodict._runtime.atomic_files import make_folder, write_npz


SECONDS = 10.0  # between two writes, at least
LOG = "told"  # the array of a file that holds everything but arrays, as JSON
# by what damage to an archive shows: its directory, its compression, its checksums, its contents
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, BadZipFile, zlib.error)
FIELDS = ("best_step", "log", "seconds", "ended")  # in it, beside the hash


class State(NamedTuple):
    """Everything that changes while a run goes on.

    `carry` and `best` are trees of arrays. `log` has a row for each chunk: steps done, training loss, validation loss.
    `ended` is the reason why the run ended, and empty before.
    """

    carry: Any
    best: Any
    best_step: int
    log: list[tuple[int, float, float]]
    seconds: float
    ended: str = ""

    @property
    def done(self) -> int:
        """The number of steps so far."""
        return self.log[-1][0] if self.log else 0


class Checkpoint:
    """The file of a run in a folder; `parts` are the arrays, keys and settings that decide the run."""

    def __init__(self, folder: str | os.PathLike[str], name: str, *parts: Any) -> None:
        make_folder(Path(folder))
        self.file = Path(folder) / f"{name.replace(' ', '_')}.npz"
        self.identity, self.written = _hash(parts), time.monotonic()

    def read(self, like: State) -> State | None:
        """Returns the stored state, in the structure of `like`; None without a file.

        Raises:
            FileError: the file belongs to another run, or is damaged.
        """
        if not self.file.exists():
            return None
        try:
            # numpy leaves a file open that it cannot read
            with np.load(io.BytesIO(self.file.read_bytes()), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            fields = json.loads(bytes(arrays.pop(LOG)).decode())
            identity = fields.pop("identity")
        except DAMAGE as error:
            raise FileError(f"'{self.file}' is no checkpoint, or damaged ({error}); remove it to begin anew") from error
        if identity != self.identity:
            raise FileError(
                f"'{self.file}' belongs to another run (other simulations, model, key or settings); name another "
                "folder for `checkpoint`, or remove the file"
            )
        leaves, tree = jax.tree.flatten((like.carry, like.best))
        carry, best = jax.tree.unflatten(tree, [jnp.asarray(arrays[str(i)]) for i in range(len(leaves))])
        fields["log"] = [tuple(row) for row in fields["log"]]
        return State(carry=carry, best=best, **fields)

    def write(self, state: State) -> None:
        """Writes `state`, unless the last write was seconds ago and the run goes on.

        Raises:
            FileError: the file cannot be written; the last one is unchanged.
        """
        if not state.ended and time.monotonic() - self.written < SECONDS:
            return
        arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves((state.carry, state.best)))}
        fields = {"identity": self.identity, **{name: getattr(state, name) for name in FIELDS}}
        write_npz(self.file, {**arrays, LOG: np.frombuffer(json.dumps(fields).encode(), np.uint8)})
        self.written = time.monotonic()


def _hash(parts: Any) -> str:
    """Returns a hash of trees of arrays, keys and whatever can be printed."""
    leaves, tree = jax.tree.flatten(parts)
    digest = hashlib.sha256(_text(tree).encode())
    for leaf in leaves:
        if isinstance(leaf, jax.Array | np.ndarray):
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            array = np.ascontiguousarray(jax.random.key_data(leaf) if is_key else leaf)
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(array.data.cast("B") if array.size else b"")
        else:
            digest.update(_text(leaf).encode())
    return digest.hexdigest()


def _text(value: Any) -> str:
    """Returns `repr(value)` without addresses in memory, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
