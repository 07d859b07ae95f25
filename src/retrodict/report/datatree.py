"""Draws as an xarray DataTree in the schema of ArviZ, which plots, summarizes and stores it.

    posterior, prior, posterior_predictive     (chain, draw, *dims)         one chain
    observed_data                              (*dims)

Draws of a model are independent: they are one chain, and its effective sample size is the number of draws.

Source: the InferenceData schema of ArviZ (Kumar et al. 2019, doi 10.21105/joss.01143).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodict._errors import DataError, RetrodictError, unknown


# xarray is an extra, and imported where it is used.
if TYPE_CHECKING:
    from xarray import DataTree
else:
    DataTree = Any


def to_datatree(
    draws: Mapping[str, Any],
    *,
    prior: Mapping[str, Any] | None = None,
    posterior_predictive: Mapping[str, Any] | None = None,
    observed: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
) -> DataTree:
    """Converts draws `{name: (n, *shape)}`, of a model or of any other source, to a DataTree with ArviZ's groups.

    Args:
        draws: the group `posterior`.
        prior: draws of the group `prior`, of a number of their own.
        posterior_predictive: draws of that group, of a number of their own.
        observed: arrays `{name: (*shape)}` of the group `observed_data`.
        dims: names of the axes of a variable, as in `{"hare": ["year"]}`; default: `hare_dim_0`, ...
        coords: labels along an axis, as in `{"year": range(1900, 1921)}`.

    Raises:
        DataError: draws of different numbers, or axes that do not fit their variables.
        RetrodictError: xarray is not installed.

    Source: Kumar et al. 2019, doi 10.21105/joss.01143.
    """
    try:
        import xarray
    except ImportError as error:
        raise RetrodictError("a DataTree needs xarray: pip install 'retrodict[arviz]'") from error
    axis_names, axis_labels = dict(dims or {}), dict(coords or {})
    names = [*draws, *(prior or {}), *(posterior_predictive or {}), *(observed or {})]
    for name in axis_names:
        if name not in names:
            raise DataError(unknown("`dims`", name, names, owner="there are"))
    drawn_groups = {"posterior": draws, "prior": prior, "posterior_predictive": posterior_predictive}
    groups = {group: _chain(group, values, axis_names) for group, values in drawn_groups.items() if values}
    if observed:
        groups["observed_data"] = {name: _axes(name, np.asarray(value), axis_names) for name, value in observed.items()}
    known_axes = {axis for variables in groups.values() for axes, _ in variables.values() for axis in axes}
    for axis in axis_labels:
        if axis not in known_axes:
            raise DataError(unknown("`coords`", axis, sorted(known_axes), owner="the axes are"))
    datasets = {}
    for group, variables in groups.items():
        lengths = _lengths(variables)
        numbers = {axis: np.arange(n) for axis, n in lengths.items() if axis in ("chain", "draw")}
        labels = {axis: list(values) for axis, values in axis_labels.items() if axis in lengths}
        _check_lengths(lengths, labels)
        attributes = {"inference_library": "retrodict"}
        datasets[group] = xarray.Dataset(variables, coords={**numbers, **labels}, attrs=attributes)
    return xarray.DataTree.from_dict(datasets)


Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]  # axes and array by name


def _chain(group: str, values: Mapping[str, Any], dims: Mapping[str, Sequence[str]]) -> Variables:
    arrays = {name: np.asarray(value) for name, value in values.items()}
    counts = {name: array.shape[:1] for name, array in arrays.items()}
    if len(set(counts.values())) > 1 or () in counts.values():
        raise DataError(f"draws are (n, *shape) with one n for all of the group '{group}', got {counts}")
    variables = {}
    for name, array in arrays.items():
        axes, _ = _axes(name, array[0], dims)
        variables[name] = (("chain", "draw", *axes), array[None])
    return variables


def _axes(name: str, array: np.ndarray, dims: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], np.ndarray]:
    axes = tuple(dims.get(name, [f"{name}_dim_{i}" for i in range(array.ndim)]))
    if len(axes) != array.ndim:
        raise DataError(f"`dims` names {len(axes)} axes of '{name}', which has {array.ndim}")
    return axes, array


def _lengths(variables: Variables) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for name, (axes, array) in variables.items():
        for axis, n in zip(axes, array.shape, strict=True):
            if lengths.setdefault(axis, n) != n:
                raise DataError(f"the axis '{axis}' of '{name}' has {n} places, and {lengths[axis]} elsewhere")
    return lengths


def _check_lengths(lengths: Mapping[str, int], labels: Mapping[str, list[Any]]) -> None:
    for axis, label in labels.items():
        if len(label) != lengths[axis]:
            raise DataError(f"`coords` has {len(label)} labels along '{axis}', which has {lengths[axis]} places")
