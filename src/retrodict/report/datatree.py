"""Draws in the form that the rest of the field reads: an xarray DataTree in ArviZ's schema.

    posterior, prior, posterior_predictive     (chain, draw, *dims)         draws of a model are one chain
    observed_data                              (*dims)

Draws of a generative model are independent, so there is one chain and every draw is an effective one.

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
    """An `xarray.DataTree` with the groups of ArviZ, of draws `{name: (n, *shape)}` by whatever made them.

    `draws` become the group `posterior`; `prior` and `posterior_predictive` are such draws, too, each group with its
    own number of them; `observed` is `{name: shape}`. `dims` names the axes of a variable (else `name_dim_0`, ...) and
    `coords` labels places along them, as in `dims={"hare": ["year"]}, coords={"year": range(1900, 1921)}`.

    Raises:
        DataError: draws of different numbers, or names of axes that do not fit their variables.
        RetrodictError: xarray is not installed.

    Source: Kumar et al. 2019, doi 10.21105/joss.01143.
    """
    try:
        import xarray
    except ImportError as error:
        raise RetrodictError("a DataTree needs xarray: pip install 'retrodict[arviz]'") from error
    named, places = dict(dims or {}), dict(coords or {})
    everything = [*draws, *(prior or {}), *(posterior_predictive or {}), *(observed or {})]
    for name in named:
        if name not in everything:
            raise DataError(unknown("`dims`", name, everything, owner="there are"))
    groups = {"posterior": draws, "prior": prior, "posterior_predictive": posterior_predictive}
    found = {group: _drawn(group, values, named) for group, values in groups.items() if values}
    if observed:
        found["observed_data"] = {name: _axes(name, np.asarray(value), named) for name, value in observed.items()}
    every = {axis for variables in found.values() for axes, _ in variables.values() for axis in axes}
    for axis in places:
        if axis not in every:
            raise DataError(unknown("`coords`", axis, sorted(every), owner="the axes are"))
    trees = {}
    for group, variables in found.items():
        used = {axis for axes, _ in variables.values() for axis in axes}
        numbered = {axis: np.arange(n) for axis, n in _lengths(variables).items() if axis in ("chain", "draw")}
        labels = {axis: list(place) for axis, place in places.items() if axis in used}
        _check_lengths(_lengths(variables), labels)
        attributes = {"inference_library": "retrodict"}
        trees[group] = xarray.Dataset(variables, coords={**numbered, **labels}, attrs=attributes)
    return xarray.DataTree.from_dict(trees)


Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]


def _drawn(group: str, values: Mapping[str, Any], dims: Mapping[str, Sequence[str]]) -> Variables:
    arrays = {name: np.asarray(value) for name, value in values.items()}
    counts = {name: array.shape[:1] for name, array in arrays.items()}
    if len(set(counts.values())) > 1 or () in counts.values():
        raise DataError(f"draws are (n, *shape) with one n for all of the group '{group}', got {counts}")
    found = {}
    for name, array in arrays.items():
        axes, _ = _axes(name, array[0], dims)
        found[name] = (("chain", "draw", *axes), array[None])
    return found


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
