"""Summaries of draws: mean, standard deviation and quantiles per scalar element, as plain numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np


QUANTILES = {"q05": 0.05, "q50": 0.50, "q95": 0.95}


def summarize(draws: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """`{"theta[0]": {"mean", "sd", "q05", "q50", "q95"}, ...}` of draws `{name: (n, *shape)}`."""
    return {label: describe(column) for label, column in columns(draws).items()}


def labels_of(name: str, shape: tuple[int, ...]) -> list[str]:
    """Scalars by their name, other elements as `name[i]` or `name[i,j]`."""
    return [name + (f"[{','.join(map(str, index))}]" if index else "") for index in np.ndindex(shape)]


def columns(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One column `(n,)` per scalar element, scalars by their name and the others as `name[i]` or `name[i,j]`."""
    found = {}
    for name, array in draws.items():
        array = np.asarray(array)
        shape = array.shape[1:]
        for label, index in zip(labels_of(name, shape), np.ndindex(shape), strict=True):
            found[label] = array[(slice(None), *index)]
    return found


def describe(column: Any) -> dict[str, float]:
    """Mean, standard deviation and quantiles of a column `(n,)`."""
    column = np.asarray(column, np.float64)
    quantiles = np.quantile(column, list(QUANTILES.values()))
    return {
        "mean": float(column.mean()),
        "sd": float(column.std()),
        **{name: float(q) for name, q in zip(QUANTILES, quantiles, strict=True)},
    }
