"""The files of the tasks that come from the sbibm benchmark (Lueckmann et al. 2021).

`observations.npz`, in the package, holds `<task>_observations` and `<task>_true_parameters`, ten of each.
`data/sbibm/<task>.npz`, in a checkout, holds `reference` (10, 10000, parameters), which is too large for the package.
"""

import functools
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

from retrodict import FileError, Problem
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
    """Returns a task with one parameter `theta`, one datum `x` and the observations of sbibm.

    `reference` names a task with the same posteriors whose reference draws serve this one, too.
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
    """Finds the file of a task's reference posterior, in the folder RETRODICT_DATA or in a checkout above this file.

    Raises:
        FileError: it is in neither place.
    """
    folder = os.environ.get(FOLDER)
    roots = [Path(folder)] if folder else [parent / "data" for parent in Path(__file__).resolve().parents]
    for root in roots:
        if (root / "sbibm" / f"{name}.npz").is_file():
            return root / "sbibm" / f"{name}.npz"
    place = f"{FOLDER} is '{folder}', which holds no" if folder else "no folder above the installed package holds"
    raise FileError(
        f"the reference posterior of '{name}' is not here: {place} sbibm/{name}.npz; "
        f"set {FOLDER} to the folder `data` of a checkout of retrodict, which holds the references"
    )


@functools.cache
def small(key: str, file: str = "observations.npz") -> np.ndarray:
    """Returns one array of a file of the package."""
    with np.load(Path(__file__).with_name(file)) as opened:
        return frozen(opened[key])


@functools.cache
def _reference(path: Path) -> np.ndarray:
    try:
        # opened here, because `np.load` does not close a file that turns out to be cut short
        with path.open("rb") as opened, np.load(opened) as file:
            return frozen(file["reference"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FileError(f"'{path}' should hold an array `reference`, but reading it failed: {error}") from error
