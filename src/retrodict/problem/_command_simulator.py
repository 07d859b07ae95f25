"""Simulators that are programs: C++, Fortran, R, Matlab, whatever reads one file and writes another.

    command_simulator("./sim --in {input} --out {output} --seed {seed}")

Each row gets a scratch directory of its own, in which the program is run. `{input}` is a JSON file of the parameters,
name to number or nested lists; `{output}` is where the program writes its data in the same form, `null` for what is not
a number. With `output="y.npy"` the program writes one array as .npy instead, the variable "y"; with `input="npz"` it
reads the parameters as an uncompressed .npz.

`Command` needs no more than the standard library and NumPy: it travels as code to workers, which have no JAX.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retrodict._errors import DataError
from retrodict.problem import NumpySimulator


class Command:
    """A program as a function `f(rng, **parameters) -> {name: array}`; see `command_simulator`."""

    def __init__(
        self, command: Sequence[str], *, input: str, output: str, timeout: float | None, scratch: str | None
    ) -> None:
        self.command, self.input, self.output = tuple(command), input, output
        self.timeout, self.scratch = timeout, scratch

    def __call__(self, rng: np.random.Generator, **parameters: Any) -> dict[str, np.ndarray]:
        """Runs the program once.

        Raises:
            RuntimeError: it ended with an error, or wrote nothing that can be read; its directory is kept and named.
            TimeoutError: it did not end in time; likewise.
        """
        folder = Path(tempfile.mkdtemp(prefix="retrodict-row-", dir=self.scratch))
        given, found = folder / f"input.{self.input}", folder / f"output.{self.output.rpartition('.')[2]}"
        if self.input == "json":
            given.write_text(json.dumps({name: np.asarray(value).tolist() for name, value in parameters.items()}))
        else:
            np.savez(given, **dict[str, Any](parameters))
        filled = {"{input}": str(given), "{output}": str(found), "{seed}": str(rng.integers(2**31))}
        words = list(self.command)
        for name, value in filled.items():
            words = [word.replace(name, value) for word in words]
        self._run(words, folder)
        try:
            values = self._read(found)
        except (OSError, ValueError, TypeError) as error:
            raise RuntimeError(f"the program wrote no output that can be read: {error}; see {folder}") from error
        shutil.rmtree(folder)
        return values

    def _run(self, words: Sequence[str], folder: Path) -> None:
        with open(folder / "log.txt", "wb") as log:
            try:
                process = subprocess.Popen(
                    words, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise RuntimeError(f"the program cannot be started: {error}; see {folder}") from error
            try:
                code = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"the program did not end within {self.timeout} s; see {folder}") from None
            finally:
                if process.poll() is None:  # too late, or somebody ended us: what it started goes, too
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code:
            said = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
            last = f", its last words '{said[-1][:200]}'" if said else ""
            raise RuntimeError(f"the program ended with code {code}{last}; see {folder}")

    def _read(self, file: Path) -> dict[str, np.ndarray]:
        if not file.is_file():
            raise OSError(f"there is no file '{file.name}'")
        if self.output != "json":
            return {self.output.removesuffix(".npy"): np.load(file, allow_pickle=False)}
        found = json.loads(file.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"a mapping from name to numbers was expected, got {type(found).__name__}")
        return {name: np.asarray(value, float) for name, value in found.items()}  # null becomes NaN


def command_simulator(
    command: str | Sequence[str],
    *,
    input: Literal["json", "npz"] = "json",
    output: str = "json",
    timeout: float | None = None,
    scratch: str | os.PathLike[str] | None = None,
) -> NumpySimulator:
    """A simulator that is a program, run once per row in a scratch directory of its own.

    The directory goes when the row ended well; after an error or a time limit it is kept, with what the program printed
    in `log.txt`, and the error text names it. No shell reads the command: for pipes write a script.

    Args:
        command: one string, cut into words as a shell would, or the words; with `{input}`, `{output}`, `{seed}`, which
            stand for two files and a whole number below 2^31. Words that name files are meant from where you are.
        input: "json", or "npz" for an uncompressed .npz of the parameters.
        output: "json", or "NAME.npy" for one array, the variable NAME.
        timeout: seconds that the program may take.
        scratch: the folder for scratch directories, by default that of the system.

    Raises:
        DataError: the command has no word or no `{output}`, or `input` or `output` is none of these.
    """
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    if not any("{output}" in word for word in words[1:]):
        raise DataError("`command` names a program and its words, one of which has {output}, where it is to write")
    if input not in ("json", "npz"):
        raise DataError(f"`input` is 'json' or 'npz', got {input!r}")
    if output != "json" and not (output.endswith(".npy") and len(output) > 4):
        raise DataError(f"`output` is 'json' or the name of a variable and '.npy', such as 'y.npy', got {output!r}")
    # rows run elsewhere: what is a file from here is named so that it is found from there
    words = [
        os.path.abspath(word) if os.path.isfile(word) and (i or os.sep in word) else word
        for i, word in enumerate(words)
    ]
    where = None if scratch is None else os.path.abspath(scratch)
    return NumpySimulator(Command(words, input=input, output=output, timeout=timeout, scratch=where))
