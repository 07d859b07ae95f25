"""Summaries of draws: mean, standard deviation and quantiles per scalar element, as plain numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np


QUANTILES = {"q05": 0.05, "q50": 0.50, "q95": 0.95}


def summarize(draws: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """`{"theta[0]": {"mean", "sd", "q05", "q50", "q95"}, ...}` of draws `{name: (n, *shape)}`."""
    return {label: describe(column) for label, column in columns(draws).items()}


def columns(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One column `(n,)` per scalar element, scalars by their name and the others as `name[i]` or `name[i,j]`."""
    found = {}
    for name, array in draws.items():
        array = np.asarray(array)
        for index in np.ndindex(array.shape[1:]):
            label = name + (f"[{','.join(map(str, index))}]" if index else "")
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
