"""Arguments: what is typed on a command line, as Python; whatever is wrong is one sentence with the cure."""

import importlib.util
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from retrodict._errors import DataError, FileError, RetrodictError, listed, unknown


HELD_OUT = 7919  # folded into the seed, so that rows to check on are never those that `train` drew from it


def chosen_of(option: str, text: str, known: Iterable[str], *, besides: Sequence[str] = ()) -> list[str]:
    """The names in a list with commas, each once; `all` stands for all of `known`."""
    offered = [*known, *besides, "all"]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in offered:
            raise DataError(unknown(f"`{option}`", name, offered, owner="it takes"))
    return list(dict.fromkeys(choice for name in names for choice in (known if name == "all" else [name])))


def problem_of(command: str, task: str | None, problem: str | None) -> Any:
    """The problem of a task, or the one that FILE.py:NAME names; a command takes one of them."""
    if (task is None) == (problem is None):
        raise DataError(f"{command} needs one of --task NAME and --problem FILE.py:NAME")
    import retrodict as rd

    return rd.tasks.get(task).problem if task is not None else problem_in(str(problem))


def problem_in(where: str) -> Any:
    """The problem that FILE.py:NAME names."""
    from retrodict.problem import Problem

    file, _, name = where.rpartition(":")
    if not file or not name:
        raise DataError(f"--problem takes FILE.py:NAME, got '{where}'")
    if not Path(file).is_file():
        raise FileError(f"there is no file '{file}' to take the problem '{name}' from")
    module = module_in(Path(file))
    problems = [key for key, value in vars(module).items() if isinstance(value, Problem)]
    if name not in problems:
        raise DataError(f"'{file}' has no problem '{name}'; it has {listed(problems) or 'none'}")
    return vars(module)[name]


def module_in(file: Path) -> Any:
    """Returns a Python file as a module, by whose name code in it is found again.

    Raises:
        FileError: there is no such file, or it is no Python file.
    """
    if not file.is_file():
        raise FileError(f"there is no file '{file}' to import")
    spec = importlib.util.spec_from_file_location(f"_retrodict_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise FileError(f"'{file}' is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def held_out(sims: Path | None, task: str | None, problem: str | None, n: int, seed: int) -> Mapping[str, Any]:
    """Simulations that a model was not trained on: read, or made."""
    if sum(source is not None for source in (sims, task, problem)) != 1:
        raise DataError("this needs one of --sims FILE.npz, --task NAME and --problem FILE.py:NAME")
    if sims is not None:
        return _rows(sims)
    import jax

    import retrodict as rd

    return rd.simulate(problem_of("this", task, problem), n, key=jax.random.fold_in(jax.random.key(seed), HELD_OUT))


@contextmanager
def executor_in(text: str | None, workers: int | None) -> Iterator[Any]:
    """Who runs a simulator: `workers` processes, or Dask, a cluster on this machine or the one at ADDRESS."""
    if text is None:
        yield workers
        return
    name, _, address = text.partition(":")
    if name != "dask":
        raise DataError(f"--executor takes dask or dask:ADDRESS, got '{text}'")
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise RetrodictError("--executor dask needs dask.distributed: pip install 'retrodict[dask]'") from error
    if address:
        if workers is not None:
            raise DataError("--workers is for processes on this machine; the cluster at an address has its own")
        try:
            client = Client(address, timeout=10)
        except (OSError, ValueError) as error:
            raise DataError(f"--executor finds no Dask scheduler at '{address}': {error}") from error
        with client:
            yield client
        return
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _rows(where: Path) -> dict[str, np.ndarray]:
    """The rows of one .npz file, or of all in a folder, one after the other."""
    files = sorted(where.glob("*.npz")) if where.is_dir() else [where]
    if not files or not all(file.is_file() for file in files):
        raise FileError(f"--sims takes a .npz file or a folder of them, and there is none at '{where}'")
    parts = [_arrays(file) for file in files]
    for rows, file in zip(parts, files, strict=True):
        if rows.keys() != parts[0].keys():
            raise DataError(f"'{file}' has {listed(rows)}, and '{files[0]}' {listed(parts[0])}: they must be alike")
    shapes = [{name: array.shape[1:] for name, array in rows.items()} for rows in parts]
    for shape, file in zip(shapes, files, strict=True):
        if shape != shapes[0]:
            raise DataError(f"'{file}' has rows of {shape}, and '{files[0]}' of {shapes[0]}: they must be alike")
    return {name: np.concatenate([rows[name] for rows in parts]) for name in parts[0]}


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with open(file, "rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise FileError(f"'{file}' is no .npz file of plain arrays: {error}") from error


def asked_in(text: str | None) -> Any:
    """Names, or a mapping from names to where functions are asked."""
    if text is None or not text.lstrip().startswith("{"):
        return None if text is None else [name.strip() for name in text.split(",")]
    from retrodict import At

    requests = {name: None if value is None else _value(name, value) for name, value in _object("--of", text).items()}
    for name, value in requests.items():
        if value is not None and not isinstance(value, At):
            raise DataError(
                f"--of takes {{\"points\": [...]}} where a function is asked and null for others; see '{name}'"
            )
    return requests


def given_in(text: str, option: str = "--given") -> dict[str, Any]:
    """Returns what is known: JSON, or a file with it."""
    file = Path(text)
    if text.lstrip()[:1] in ("{", "["):
        source, content = option, text
    elif not file.is_file():
        raise FileError(f"{option} takes JSON or a file, and there is no file '{text}'")
    elif file.suffix == ".npz":
        return _arrays(file)
    else:
        source, content = f"'{text}'", file.read_text(errors="replace")
    return {name: _value(name, value) for name, value in _object(source, content).items()}


def _object(source: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{source} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{source} must be a JSON object from name to values, got {type(value).__name__}")
    return value


def _value(name: str, value: Any) -> Any:
    """Numbers, a function at points, or an interval."""
    from retrodict import At, Interval

    if not isinstance(value, dict):
        return _numbers(name, value)
    parts = {key: None if number is None else _numbers(name, number) for key, number in value.items()}
    if "points" in parts and set(parts) <= {"points", "values"}:
        return At(**parts)
    points = parts.pop("points", None)
    if parts and set(parts) <= {"low", "high"}:
        return Interval(**parts) if points is None else At(points, Interval(**parts))
    raise DataError(
        f'\'{name}\' must be numbers, {{"points": ..., "values": ...}} for a function, or '
        f'{{"low": ..., "high": ...}} for an interval; got {listed(parts) or "nothing"}'
    )


def _numbers(name: str, value: Any) -> np.ndarray:
    """Numbers as JSON has them, which knows no NaN: null says that an element was not observed."""
    from retrodict._types import is_number
    from retrodict.query import as_numbers

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        if value is None:
            return np.nan
        if not is_number(value):
            raise DataError(f"'{name}' takes numbers, lists of numbers and null, got {value!r}")
        return value

    return as_numbers(plain(value), f"'{name}'")


def numbers_in(text: str, option: str = "--observations") -> list[int]:
    """Whole numbers, such as 1-10 or 1,3,5."""
    try:
        parts = [span.split("-") for span in text.split(",")]
        numbers = list(dict.fromkeys(k for span in parts for k in range(int(span[0]), int(span[-1]) + 1)))
    except ValueError:
        numbers = []
    if not numbers:
        raise DataError(f"{option} takes numbers such as 1-10 or 1,3,5, got '{text}'")
    return numbers
