"""The store: a directory in Zarr 3 that `xarray.open_zarr` reads, one array per variable, one chunk per batch.

    DIR/<variable>    (row, *shape)    what was drawn and simulated; NaN where a run did not end
    DIR/status        (row,)           0 missing, 1 ok, 2 failed, 3 non-finite, 4 timed out
    DIR/seconds       (row,)           what the row took; in JAX its part of the batch
    DIR/seed          (row, words)     of the run: `np.random.default_rng(seed)` or `jax.random.wrap_key_data(seed)`
    DIR/error         (row,)           why a row failed, else empty

A chunk is written beside its place and moved there in one step, and a batch's status is written last: a batch is there
as a whole, or counts as missing, whenever the writer dies. Every chunk ends with its checksum (crc32c). One process
writes at a time, under a lock that ends with it.

Moves are not forced to the disk one by one: after a power cut chunks may be empty, which their checksums tell.
"""

import functools
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import numpy as np

from retrodict._errors import DataError, FileError, listed
from retrodict.problem import Problem
from retrodict.simulation.rows import Simulations
from retrodict.simulation.store._files import about_of, locked, make, opened, sound, unlocked, versions_here, writing
from retrodict.simulation.store._fingerprint import differences
from retrodict.simulation.store._rows import StoredRows
from retrodict.variables import Layout


MISSING, OK, FAILED, NON_FINITE, TIMED_OUT = range(5)
STATUS = ("missing", "ok", "failed", "non-finite", "timed out")
OWN = ("status", "seconds", "seed", "error")


def _well(codes: np.ndarray) -> np.ndarray:
    return codes == OK


def _not_well(codes: np.ndarray) -> np.ndarray:
    return codes > OK


def open_store(path: str | os.PathLike[str]) -> "Store":
    """Opens a store for reading, also while another process writes to it.

    Raises:
        FileError: there is no store, or one that is damaged or was written by a newer version.
    """
    return Store(Path(path))


class Store:
    """The rows of a campaign on disk, to be read.

    Attributes:
        path: the directory.
        rows: how many rows the campaign is to have so far.
        batch: rows of a chunk.
        layout: the variables.
        problem: the fingerprint of what was simulated.
    """

    _mode: ClassVar[Literal["r", "r+"]] = "r"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._group = opened(path, self._mode)
        about = about_of(self._group)
        if "problem" not in about:
            raise FileError(f"'{path}' is a store that was never finished being made; simulate into it again")
        self.problem: dict[str, Any] = about["problem"]
        self.versions: list[dict[str, str]] = about["versions"]
        self.layout = Layout.from_json(self.problem["variables"])
        self.damaged: list[str] = []
        self._open_arrays()

    def _open_arrays(self) -> None:
        # a chunk that holds nothing but NaN is written all the same, so that one that is gone is known to be
        held = [*self.layout.names, *OWN]
        self._arrays = {name: self._group[name].with_config({"write_empty_chunks": True}) for name in held}
        self.rows, self.batch = int(self._arrays["status"].shape[0]), int(self._arrays["status"].chunks[0])

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """The status of every row `(rows,)`, numbers as in `STATUS`; chunks that cannot be read count as missing."""
        found = np.zeros(self.batches * self.batch, np.uint8)
        for k in range(self.batches):
            file = self.chunk("status", k)
            content = sound(file)
            if content is not None and len(content) == self.batch:
                found[k * self.batch : (k + 1) * self.batch] = np.frombuffer(content, np.uint8)
            elif file.exists():
                self.damaged.append(self._named(file))
        return found[: self.rows]

    @property
    def batches(self) -> int:
        return -(-self.rows // self.batch)

    @property
    def status(self) -> dict[str, int]:
        """How many rows have each status."""
        counts = np.bincount(self.codes, minlength=len(STATUS))
        return {name: int(count) for name, count in zip(STATUS, counts, strict=True)}

    def sims(self, n: int | None = None, *, growing: bool = False, problem: Problem | None = None) -> Simulations:
        """The rows that ended well, of the first `n` or of all, read when they are asked for, with the parameters of
        those that failed.

        With `growing` training on them takes up the rows that a campaign adds meanwhile.

        Raises:
            FileError: (when a variable is asked for) a chunk is damaged.
        """
        kept = StoredRows(self, self.layout.names, _well, n)
        bad = StoredRows(self, self.layout.parameters, _not_well, n)
        return Simulations(kept, self.layout, bad if bad.count else {}, 0, problem, growing)

    def refresh(self) -> None:
        """Looks again at what is there: another process may have written since."""
        self._group = opened(self.path, self._mode)
        self._open_arrays()
        self.__dict__.pop("codes", None)

    @property
    def failed(self) -> dict[str, np.ndarray]:
        """Of every row that did not end well: parameters `(m, *shape)`, "row", "seed", "status" and "error"."""
        rows = np.flatnonzero(self.codes > OK)
        found = {name: self.read(name, rows) for name in [*self.layout.parameters, "seed"]}
        error = np.full(len(rows), "", object)
        for k in np.unique(rows // self.batch):
            here = rows // self.batch == k
            if self.chunk("error", k).exists():
                texts = self.batch_of("error", int(k))
                error[here] = texts[rows[here] - k * self.batch]
        return {**found, "row": rows, "status": np.asarray(STATUS)[self.codes[rows]], "error": error.astype(str)}

    def read(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Some rows of one array, `rows` in their order.

        Raises:
            FileError: a chunk that they lie in is damaged or gone.
        """
        array = self._arrays[name]
        found = np.empty((len(rows), *array.shape[1:]), array.dtype)
        batches, first = np.unique(rows // self.batch, return_index=True)
        for k, start, end in zip(batches.tolist(), first, np.append(first, len(rows))[1:], strict=True):
            found[start:end] = self.batch_of(name, k)[rows[start:end] - k * self.batch]
        return found

    def check(self) -> list[str]:
        """Reads every chunk of every batch that is there, and returns the names of those that are damaged."""
        found = [self._named(file) for k in range(self.batches) for file in self.unsound(k)]
        return [*self.damaged, *found]

    def unsound(self, k: int) -> list[Path]:
        """The chunks of batch `k` that are damaged or gone, though its status says that it is there."""
        codes = self.codes[k * self.batch : (k + 1) * self.batch]
        if not codes.any():
            return []
        names = [*self.layout.names, "seconds", "seed"]
        if np.isin(codes, (FAILED, TIMED_OUT)).any():
            names.append("error")
        return [file for name in names if sound(file := self.chunk(name, k)) is None]

    def chunk(self, name: str, k: int) -> Path:
        """Where batch `k` of an array lies."""
        return self.path / name / "c" / str(k) / Path(*["0"] * (self._arrays[name].ndim - 1))

    def kind(self, name: str) -> np.dtype:
        """The type of the numbers of an array."""
        return np.dtype(self._arrays[name].dtype)

    def batch_of(self, name: str, k: int) -> np.ndarray:
        """Batch `k` of an array, `(batch, *shape)`.

        Raises:
            FileError: its chunk is damaged or gone.
        """
        file, array = self.chunk(name, k), self._arrays[name]
        start, end = k * self.batch, min((k + 1) * self.batch, self.rows)
        content = sound(file)
        if content is None:
            why = "its checksum does not fit" if file.exists() else "it is gone"
            raise FileError(
                f"'{file}' is damaged ({why}), so that rows {start} to {end - 1} count as missing: simulate into the "
                "store again to redo them"
            )
        if name == "error":
            return array[start:end]
        # past the codecs of Zarr, which take a chunk that is gone for one of NaN
        return np.frombuffer(content, array.dtype.newbyteorder("<")).reshape(self.batch, *array.shape[1:])

    def _named(self, file: Path) -> str:
        return str(file.relative_to(self.path))

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.status.items() if count)
        shapes = ", ".join(f"{v.name}: {v.shape}" for v in self.layout.variables)
        return f"Store('{self.path}', {self.rows} rows: {counts}; {shapes})"


class Writer(Store):
    """A store that this process alone may write to, as a context.

    Opening it makes the store if there is none, makes it as long as `rows`, and checks all that is there: batches with
    a damaged chunk are named in a warning and are missing from then on.

    Raises:
        DataError: the store is of another problem, key or version of the simulator, and `accept_changed` is not set.
        FileError: another process writes to it, it cannot be written, or it is something else.
    """

    _mode = "r+"

    def __init__(self, path: Path, problem: Mapping[str, Any], rows: int, batch: int, *, accept_changed: bool) -> None:
        self.path, self._lock = path, locked(path)
        try:
            with writing(path):
                make(path, problem, rows, batch)
            super().__init__(path)
            self._same(problem, accept_changed=accept_changed)
            with writing(path):
                self._extend(rows)
                self._mend()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets others write; nothing is left to be written."""
        unlocked(self.path, self._lock)

    def missing(self, n: int) -> dict[int, np.ndarray]:
        """Batch to the numbers of its rows that are missing, among the first `n`."""
        rows = np.flatnonzero(self.codes[:n] == MISSING)
        cuts = np.flatnonzero(np.diff(rows // self.batch)) + 1
        return {int(part[0]) // self.batch: part for part in np.split(rows, cuts) if len(part)}

    def write(self, k: int, rows: np.ndarray, values: Mapping[str, np.ndarray], codes: np.ndarray) -> None:
        """Writes some rows of batch `k`; `values` are the variables, "seconds", "seed" and, if any failed, "error".

        Raises:
            FileError: they cannot be written; whatever was there before is unchanged.
        """
        start, end = k * self.batch, min((k + 1) * self.batch, self.rows)
        status = self.codes[start:end].copy()
        status[rows - start] = codes
        if "error" not in values and self.chunk("error", k).exists():
            values = {**values, "error": np.full(len(rows), "", object)}
        with writing(self.path):
            for name, new in values.items():
                array = self._arrays[name]
                if len(rows) < end - start:  # the others were there already, or are not wanted yet
                    whole = np.array(array[start:end])
                    whole[rows - start] = new
                    new = whole
                array[start:end] = new
            self._arrays["status"][start:end] = status
        self.codes[start:end] = status

    def _same(self, problem: Mapping[str, Any], *, accept_changed: bool) -> None:
        found = differences(self.problem, problem)
        fixed = self.problem["variables"] != problem["variables"]
        if found and (fixed or not accept_changed):
            cure = "take another folder" if fixed else "take another folder, or pass accept_changed=True to go on"
            raise DataError(f"the store '{self.path}' is of another problem: {'; '.join(found)}; {cure}")
        about, now = dict(about_of(self._group)), versions_here()
        if found or now not in self.versions:
            about["versions"] = [*[v for v in self.versions if v != now], now]
            about["problem"] = dict(problem)
            about["changes"] = [*about.get("changes", []), *found]
            with writing(self.path):
                self._group.update_attributes({"retrodict": about})

    def _extend(self, rows: int) -> None:
        """Makes all arrays as long as `rows`, `status` last: it says how long the store is."""
        for name in [*self.layout.names, "seconds", "seed", "error", "status"]:
            array = self._arrays[name]
            if array.shape[0] < rows:
                array.resize((rows, *array.shape[1:]))
        self._open_arrays()

    def _mend(self) -> None:
        """Whatever a dead writer left half-written goes; a batch with a damaged chunk goes missing."""
        for file in self.path.rglob("*.partial"):
            file.unlink()
        for k in range(self.batches):
            for file in self.unsound(k):
                self.damaged.append(self._named(file))
                # the status first: a batch without one is missing, whatever else is there
                self.chunk("status", k).unlink(missing_ok=True)
        for name in self.damaged:
            (self.path / name).unlink(missing_ok=True)
        found, self.damaged = self.damaged, []
        if found:
            del self.codes
            warnings.warn(
                f"'{self.path}' has damaged chunks ({listed(found)}): their batches count as missing and are redone",
                stacklevel=5,
            )
