"""The files of the tasks that come from the sbibm benchmark (Lueckmann et al. 2021): where they lie, how they are read.

`observations.npz`, in the package, holds `<task>_observations` and `<task>_true_parameters`, ten of each;
`data/sbibm/<task>.npz`, in a checkout, `reference` (10, 10000, parameters), which is too heavy for the package.
"""

import functools
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

from retrodict._errors import FileError
from retrodict.problem import Problem
from retrodict_bench.tasks._task import Conditional, Task, frozen


FOLDER = "RETRODICT_DATA"


def sbibm_task(
    name: str,
    problem: Problem,
    log_likelihood: Callable[..., Array],
    *,
    reference: str | None = None,
    conditional: Conditional | None = None,
    structure: Mapping[str, Any] | None = None,
) -> Task:
    """A task whose one parameter is `theta` and whose one datum is `x`, with the observations of sbibm.

    `reference` names the task that has the same posterior, observation by observation, where its draws serve this one.
    """
    return Task(
        name=name,
        problem=problem,
        observations=lambda: {"x": small(f"{name}_observations")},
        truths=lambda: {"theta": small(f"{name}_true_parameters")},
        references=lambda: {"theta": _reference(reference_file(reference or name))},
        log_likelihood=log_likelihood,
        conditional=conditional,
        structure=structure,
    )


def reference_file(name: str) -> Path:
    """Where the reference posterior of a task lies: in the folder RETRODICT_DATA, or in the checkout above this file.

    Raises:
        FileError: it is in neither place.
    """
    folder = os.environ.get(FOLDER)
    roots = [Path(folder)] if folder else [parent / "data" for parent in Path(__file__).resolve().parents]
    for root in roots:
        if (root / "sbibm" / f"{name}.npz").is_file():
            return root / "sbibm" / f"{name}.npz"
    sought = f"{FOLDER} is '{folder}', which holds no" if folder else "no folder above the installed package holds"
    raise FileError(
        f"the reference posterior of '{name}' is not here: {sought} sbibm/{name}.npz; "
        f"set {FOLDER} to the folder `data` of a checkout of retrodict, where references live"
    )


@functools.cache
def small(key: str, file: str = "observations.npz") -> np.ndarray:
    """One array of a file that travels inside the package."""
    with np.load(Path(__file__).with_name(file)) as opened:
        return frozen(opened[key])


@functools.cache
def _reference(path: Path) -> np.ndarray:
    try:
        # opened here, because `np.load` forgets to close a file that turns out to be cut short
        with path.open("rb") as opened, np.load(opened) as file:
            return frozen(file["reference"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FileError(f"'{path}' should hold an array `reference`, but reading it failed: {error}") from error
