"""Summaries of draws: mean, standard deviation and quantiles per scalar element, as plain numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np


QUANTILES = {"q05": 0.05, "q50": 0.50, "q95": 0.95}


def summarize(draws: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Returns the summary of every scalar element of draws `{name: (n, *shape)}`, by label.

    A summary is `{"mean": ..., "sd": ..., "q05": ..., "q50": ..., "q95": ...}`. Labels are those of `labels_of`.
    """
    return {label: describe(column) for label, column in columns(draws).items()}


def labels_of(name: str, shape: tuple[int, ...]) -> list[str]:
    """Returns the labels of the elements of a variable, in C order.

    The label of a scalar is its name; elements of an array have the labels `name[i]` or `name[i,j]`.
    """
    return [name + (f"[{','.join(map(str, index))}]" if index else "") for index in np.ndindex(shape)]


def columns(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits draws `{name: (n, *shape)}` into one column `(n,)` per scalar element, by label (see `labels_of`)."""
    by_label = {}
    for name, array in draws.items():
        array = np.asarray(array)
        shape = array.shape[1:]
        for label, index in zip(labels_of(name, shape), np.ndindex(shape), strict=True):
            by_label[label] = array[(slice(None), *index)]
    return by_label


def describe(column: Any) -> dict[str, float]:
    """Returns mean, standard deviation and `QUANTILES` of a column `(n,)`, in double precision."""
    column = np.asarray(column, np.float64)
    quantiles = np.quantile(column, list(QUANTILES.values()))
    return {
        "mean": float(column.mean()),
        "sd": float(column.std()),
        **{name: float(q) for name, q in zip(QUANTILES, quantiles, strict=True)},
    }
