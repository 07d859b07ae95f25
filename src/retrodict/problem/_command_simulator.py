"""Simulators that are programs in any language, which read a file and write another.

    command_simulator("./sim --in {input} --out {output} --seed {seed}")

Each row gets a scratch directory of its own, in which the program is run. `{input}` is a JSON file of the parameters,
name to number or nested lists; to `{output}` the program writes its data in the same form, with `null` for NaN. With
`output="y.npy"` the program writes a single array as .npy instead, the variable "y"; with `input="npz"` it reads the
parameters as an uncompressed .npz.

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
        self.__name__ = os.path.basename(self.command[0])

    def __call__(self, rng: np.random.Generator, **parameters: Any) -> dict[str, np.ndarray]:
        """Runs the program once.

        Raises:
            RuntimeError: it ended with an error, or wrote no output that can be read; its directory is kept and named.
            TimeoutError: it did not end in time; its directory is kept and named.
        """
        folder = Path(tempfile.mkdtemp(prefix="retrodict-row-", dir=self.scratch))
        source, target = folder / f"input.{self.input}", folder / f"output.{self.output.rpartition('.')[2]}"
        if self.input == "json":
            source.write_text(json.dumps({name: np.asarray(value).tolist() for name, value in parameters.items()}))
        else:
            np.savez(source, **dict[str, Any](parameters))
        fields = {"{input}": str(source), "{output}": str(target), "{seed}": str(rng.integers(2**31))}
        words = list(self.command)
        for name, value in fields.items():
            words = [word.replace(name, value) for word in words]
        self._run(words, folder)
        try:
            values = self._read(target)
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
                if process.poll() is None:  # too late, or this process is ended: all that the program started goes, too
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code:
            lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
            last = f", its last words '{lines[-1][:200]}'" if lines else ""
            raise RuntimeError(f"the program ended with code {code}{last}; see {folder}")

    def _read(self, file: Path) -> dict[str, np.ndarray]:
        if not file.is_file():
            raise OSError(f"there is no file '{file.name}'")
        if self.output != "json":
            return {self.output.removesuffix(".npy"): np.load(file, allow_pickle=False)}
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"a mapping from name to numbers was expected, got {type(content).__name__}")
        return {name: np.asarray(value, float) for name, value in content.items()}  # null becomes NaN


def command_simulator(
    command: str | Sequence[str],
    *,
    input: Literal["json", "npz"] = "json",
    output: str = "json",
    timeout: float | None = None,
    scratch: str | os.PathLike[str] | None = None,
) -> NumpySimulator:
    """A simulator that is a program, run once per row in a scratch directory of its own.

    The directory is removed when the row ended well. After an error or a time limit it is kept, with the program's
    prints in `log.txt`, and the error text names it. No shell reads the command: for pipes write a script.

    Args:
        command: a string, cut into words as a shell would, or the words; with `{input}`, `{output}`, `{seed}`, which
            stand for two files and a whole number below 2^31. Paths of files are relative to the present folder.
        input: "json", or "npz" for an uncompressed .npz of the parameters.
        output: "json", or "NAME.npy" for a single array, the variable NAME.
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
    # rows run in other folders, where a relative path would not be found
    words = [
        os.path.abspath(word) if os.path.isfile(word) and (i or os.sep in word) else word
        for i, word in enumerate(words)
    ]
    folder = None if scratch is None else os.path.abspath(scratch)
    return NumpySimulator(Command(words, input=input, output=output, timeout=timeout, scratch=folder))
