"""The store: a directory in Zarr 3 that `xarray.open_zarr` reads, one array per variable, one chunk per batch.

    DIR/<variable>    (row, *shape)    parameters and data; NaN where a run did not end
    DIR/status        (row,)           0 missing, 1 ok, 2 failed, 3 non-finite, 4 timed out
    DIR/seconds       (row,)           the time that the row took; in JAX its part of the batch
    DIR/seed          (row, words)     of the run: `np.random.default_rng(seed)` or `jax.random.wrap_key_data(seed)`
    DIR/error         (row,)           the reason why a row failed, else empty

A chunk is written beside its place and moved there in one step, and a batch's status is written last: whenever the
writer dies, a batch is complete or counts as missing. Every chunk ends with its checksum (crc32c). A single process
writes at a time, under a lock that ends with it.

Moves are not forced to the disk one by one: after a power cut chunks may be empty, which their checksums tell.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import numpy as np

from retrodict._errors import DataError, FileError, listed
from retrodict._runtime.tables import Cells, as_html, as_text
from retrodict.problem import Problem
from retrodict.simulation.rows import Simulations
from retrodict.simulation.store._files import (
    attributes_of,
    installed_versions,
    lock_store,
    make_store,
    open_group,
    sound_content,
    unlock_store,
    writing,
)
from retrodict.simulation.store._fingerprint import differences
from retrodict.simulation.store._rows import StoredRows
from retrodict.variables import Layout


MISSING, OK, FAILED, NON_FINITE, TIMED_OUT = range(5)
STATUS = ("missing", "ok", "failed", "non-finite", "timed out")
RESERVED_NAMES = ("status", "seconds", "seed", "error")


def _is_ok(codes: np.ndarray) -> np.ndarray:
    return codes == OK


def _is_failed(codes: np.ndarray) -> np.ndarray:
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
        rows: the number of rows that the campaign is to have so far.
        batch: the number of rows of a chunk.
        layout: the variables.
        problem: the fingerprint of what was simulated.
    """

    _mode: ClassVar[Literal["r", "r+"]] = "r"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._group = open_group(path, self._mode)
        attributes = attributes_of(self._group)
        if "problem" not in attributes:
            raise FileError(f"'{path}' is a store that was never finished being made; simulate into it again")
        self.problem: dict[str, Any] = attributes["problem"]
        self.versions: list[dict[str, str]] = attributes["versions"]
        self.layout = Layout.from_json(self.problem["variables"])
        self.damaged: list[str] = []
        self._open_arrays()

    def _open_arrays(self) -> None:
        # a chunk of nothing but NaN is written all the same, so that a missing file is always a damage
        names = [*self.layout.names, *RESERVED_NAMES]
        self._arrays = {name: self._group[name].with_config({"write_empty_chunks": True}) for name in names}
        self.rows, self.batch = int(self._arrays["status"].shape[0]), int(self._arrays["status"].chunks[0])

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """The status of every row `(rows,)`, numbers as in `STATUS`; chunks that cannot be read count as missing."""
        codes = np.zeros(self.batches * self.batch, np.uint8)
        for k in range(self.batches):
            file = self.chunk("status", k)
            content = sound_content(file)
            if content is not None and len(content) == self.batch:
                codes[k * self.batch : (k + 1) * self.batch] = np.frombuffer(content, np.uint8)
            elif file.exists():
                self.damaged.append(self._relative(file))
        return codes[: self.rows]

    @property
    def batches(self) -> int:
        return -(-self.rows // self.batch)

    @property
    def status(self) -> dict[str, int]:
        """The number of rows of each status."""
        counts = np.bincount(self.codes, minlength=len(STATUS))
        return {name: int(count) for name, count in zip(STATUS, counts, strict=True)}

    def sims(self, n: int | None = None, *, growing: bool = False, problem: Problem | None = None) -> Simulations:
        """The rows that ended well, of the first `n` or of all, with the parameters of the rows that failed.

        Rows are read when they are asked for. With `growing` training takes up the rows that a campaign adds meanwhile.

        Raises:
            FileError: (when a variable is asked for) a chunk is damaged.
        """
        rows = StoredRows(self, self.layout.names, _is_ok, n)
        failed = StoredRows(self, self.layout.parameters, _is_failed, n)
        return Simulations(rows, self.layout, failed if failed.count else {}, 0, problem, growing, self._first_error(n))

    def refresh(self) -> None:
        """Looks again at what is there: another process may have written since."""
        self._group = open_group(self.path, self._mode)
        self._open_arrays()
        self.__dict__.pop("codes", None)

    @property
    def failed(self) -> dict[str, np.ndarray]:
        """The rows that did not end well: parameters `(m, *shape)`, "row", "seed", "status" and "error"."""
        rows = np.flatnonzero(self.codes > OK)
        values = {name: self.read(name, rows) for name in [*self.layout.parameters, "seed"]}
        error = np.full(len(rows), "", object)
        for k in np.unique(rows // self.batch):
            mask = rows // self.batch == k
            if self.chunk("error", k).exists():
                texts = self.batch_of("error", int(k))
                error[mask] = texts[rows[mask] - k * self.batch]
        return {**values, "row": rows, "status": np.asarray(STATUS)[self.codes[rows]], "error": error.astype(str)}

    def read(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Reads rows of an array; their numbers `rows` ascend.

        Raises:
            FileError: a chunk that they lie in is damaged or gone.
        """
        array = self._arrays[name]
        values = np.empty((len(rows), *array.shape[1:]), array.dtype)
        batches, first = np.unique(rows // self.batch, return_index=True)
        for k, start, end in zip(batches.tolist(), first, np.append(first, len(rows))[1:], strict=True):
            values[start:end] = self.batch_of(name, k)[rows[start:end] - k * self.batch]
        return values

    def check(self) -> list[str]:
        """Reads every chunk of every batch that is there, and returns the names of damaged ones."""
        unsound = [self._relative(file) for k in range(self.batches) for file in self.unsound(k)]
        return [*self.damaged, *unsound]  # damaged statuses are known once these were read

    def unsound(self, k: int) -> list[Path]:
        """The chunks of batch `k` that are damaged or gone, though its status says that it is there."""
        codes = self.codes[k * self.batch : (k + 1) * self.batch]
        if not codes.any():
            return []
        names = [*self.layout.names, "seconds", "seed"]
        if np.isin(codes, (FAILED, TIMED_OUT)).any():
            names.append("error")
        return [file for name in names if sound_content(file := self.chunk(name, k)) is None]

    def chunk(self, name: str, k: int) -> Path:
        """The file of batch `k` of an array."""
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
        content = sound_content(file)
        if content is None:
            reason = "its checksum does not fit" if file.exists() else "it is gone"
            raise FileError(
                f"'{file}' is damaged ({reason}), so that rows {start} to {end - 1} count as missing: simulate into "
                "the store again to redo them"
            )
        if name == "error":
            return array[start:end]
        # past the codecs of Zarr, which read a missing chunk as NaN
        return np.frombuffer(content, array.dtype.newbyteorder("<")).reshape(self.batch, *array.shape[1:])

    def _relative(self, file: Path) -> str:
        return str(file.relative_to(self.path))

    def _first_error(self, n: int | None) -> str:
        """The error of the first row that failed with one, if it can be read."""
        rows = np.flatnonzero(np.isin(self.codes[:n], (FAILED, TIMED_OUT)))[:1]
        for row in rows.tolist():
            with contextlib.suppress(FileError):
                return str(self.batch_of("error", row // self.batch)[row % self.batch])
        return ""

    def __repr__(self) -> str:
        return as_text(*self._table())

    def _repr_html_(self) -> str:
        return as_html(*self._table())

    def _table(self) -> tuple[str, list[Cells]]:
        """A title, and name, shape and type of each array."""
        counts = ", ".join(f"{count} {name}" for name, count in self.status.items() if count)
        rows: list[Cells] = [
            (v.name, str((self.rows, *v.shape)), f"{v.kind}, {v.support}") for v in self.layout.variables
        ]
        return f"Store('{self.path}', {self.rows} rows: {counts})", rows


class Writer(Store):
    """A store that this process alone may write to, as a context.

    Opening it makes the store if there is none, makes it as long as `rows`, and checks its files: batches with a
    damaged chunk are named in a warning and are missing from then on.

    Raises:
        DataError: the store is of another problem, key or version of the simulator, and `accept_changed` is not set.
        FileError: another process writes to it, it cannot be written, or it is something else.
    """

    _mode = "r+"

    def __init__(self, path: Path, problem: Mapping[str, Any], rows: int, batch: int, *, accept_changed: bool) -> None:
        self.path, self._lock = path, lock_store(path)
        try:
            with writing(path):
                make_store(path, problem, rows, batch)
            super().__init__(path)
            self._check_problem(problem, accept_changed=accept_changed)
            with writing(path):
                self._extend(rows)
                self._repair()
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
        """Gives the lock back, so that others may write."""
        unlock_store(self.path, self._lock)

    def missing(self, n: int) -> dict[int, np.ndarray]:
        """Batch to the numbers of its rows that are missing, among the first `n`."""
        rows = np.flatnonzero(self.codes[:n] == MISSING)
        cuts = np.flatnonzero(np.diff(rows // self.batch)) + 1
        return {int(numbers[0]) // self.batch: numbers for numbers in np.split(rows, cuts) if len(numbers)}

    def write(self, k: int, rows: np.ndarray, values: Mapping[str, np.ndarray], codes: np.ndarray) -> None:
        """Writes some rows of batch `k`; `values` are the variables, "seconds", "seed" and, if any failed, "error".

        Raises:
            FileError: they cannot be written; the rows that were there before are unchanged.
        """
        start, end = k * self.batch, min((k + 1) * self.batch, self.rows)
        status = self.codes[start:end].copy()
        status[rows - start] = codes
        if "error" not in values and self.chunk("error", k).exists():
            values = {**values, "error": np.full(len(rows), "", object)}
        with writing(self.path):
            for name, new in values.items():
                array = self._arrays[name]
                if len(rows) < end - start:  # the remaining rows are there already, or are not asked for yet
                    batch = np.array(array[start:end])
                    batch[rows - start] = new
                    new = batch
                array[start:end] = new
            self._arrays["status"][start:end] = status
        self.codes[start:end] = status

    def _check_problem(self, problem: Mapping[str, Any], *, accept_changed: bool) -> None:
        """Compares the problem with that of the store, and writes down accepted changes and new versions."""
        changes = differences(self.problem, problem)
        has_other_variables = self.problem["variables"] != problem["variables"]
        if changes and (has_other_variables or not accept_changed):
            option = "" if has_other_variables else ", or pass accept_changed=True to go on"
            raise DataError(
                f"the store '{self.path}' is of another problem: {'; '.join(changes)}; take another folder{option}"
            )
        attributes, versions = dict(attributes_of(self._group)), installed_versions()
        if changes or versions not in self.versions:
            attributes["versions"] = [*[v for v in self.versions if v != versions], versions]
            attributes["problem"] = dict(problem)
            attributes["changes"] = [*attributes.get("changes", []), *changes]
            with writing(self.path):
                self._group.update_attributes({"retrodict": attributes})

    def _extend(self, rows: int) -> None:
        """Makes all arrays as long as `rows`, `status` last: it says how long the store is."""
        for name in [*self.layout.names, "seconds", "seed", "error", "status"]:
            array = self._arrays[name]
            if array.shape[0] < rows:
                array.resize((rows, *array.shape[1:]))
        self._open_arrays()

    def _repair(self) -> None:
        """Removes half-written files of a dead writer; batches with a damaged chunk become missing."""
        for file in self.path.rglob("*.partial"):
            file.unlink()
        for k in range(self.batches):
            for file in self.unsound(k):
                self.damaged.append(self._relative(file))
                # the status first: a batch without one is missing, with whatever files
                self.chunk("status", k).unlink(missing_ok=True)
        for name in self.damaged:
            (self.path / name).unlink(missing_ok=True)
        damaged, self.damaged = self.damaged, []
        if damaged:
            del self.codes
            warnings.warn(
                f"'{self.path}' has damaged chunks ({listed(damaged)}): their batches count as missing and are redone",
                stacklevel=5,
            )
