"""The parts of a manifest: everything about a model that is no array, as plain JSON with names of its own.

A file names classes of this package and distributions of numpyro, and nothing else: reading one never executes code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retrodict import paths as _paths
from retrodict._errors import FileError
from retrodict._types import as_key
from retrodict.models._record import Record
from retrodict.nets import architecture_from_json
from retrodict.problem import AbstractPrior, Prior
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import LATENT, VARIES, AbstractRoleLaw, law_from_json
from retrodict.transforms import ConditionalAffine, JointAffine, Scaling
from retrodict.variables import Layout


PATH_PARTS = ("schedule", "time_law", "grid", "diffusion")  # classes with settings
PATH_FUNCTIONS = ("parameterization", "weighting")
PLAIN = (str, int, float, bool, type(None))
FIELD_CLASSES: dict[str, Any] = {"layout": Layout, "record": Record}  # of values that write themselves


def path_to_json(path: _paths.Path) -> dict[str, Any]:
    """Returns every part by its name in `retrodict.paths`, with its settings; noise by its name in numpyro.

    Raises:
        FileError: a part that is not one of this package.
    """
    fields: dict[str, Any] = {"span": list(path.span), "source": None}
    for name in PATH_PARTS:
        piece = getattr(path, name)
        _refuse_foreign(type(piece), piece)
        settings = {f.name: getattr(piece, f.name) for f in dataclasses.fields(piece)}
        fields[name] = {"name": type(piece).__name__, **settings}
    for name in PATH_FUNCTIONS:
        piece = getattr(path, name)
        _refuse_foreign(piece, piece)
        fields[name] = piece.__name__
    if path.source is not None:
        fields["source"] = distribution_to_json(path.source)
    return fields


def path_from_json(fields: dict[str, Any]) -> _paths.Path:
    """Returns the inverse of `path_to_json`."""

    def part(settings: dict[str, Any]) -> Any:
        settings = dict(settings)
        return _path_part(settings.pop("name"))(**settings)

    source = fields["source"]
    return _paths.Path(
        **{name: part(fields[name]) for name in PATH_PARTS},
        **{name: _path_part(fields[name]) for name in PATH_FUNCTIONS},
        span=tuple(fields["span"]),
        source=None if source is None else distribution_from_json(source),
    )


def flow_parts_from_json(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a flow model but its network, from its manifest."""
    layout, law = Layout.from_json(manifest["layout"]), law_from_json(manifest["roles"])
    structure = manifest.get("dependencies")
    affine = ConditionalAffine.identity(law.fixed(layout) == LATENT) if manifest.get("framed") else None
    wanted = manifest.get("baseline", False)  # or "to be chosen"
    return {
        "layout": layout,
        "architecture": architecture_from_json(manifest["net"]),
        "law": law,
        "record": Record.from_json(manifest["record"]),
        "balanced": bool(manifest["balanced"]),
        "dependencies": None if structure is None else Dependencies.from_json(structure),
        "path": path_from_json(manifest["path"]),
        "scaling": dataclasses.replace(Scaling.identity(layout), affine=affine),
        "baseline": blank_baseline(layout, law) if wanted is True else None,
        "chooses_baseline": wanted not in (True, False),
    }


def blank_baseline(layout: Layout, law: AbstractRoleLaw) -> JointAffine:
    """Returns the affine baseline of a model under this law of roles, before it is fitted."""
    fixed = law.fixed(layout)
    return JointAffine.identity(None if (fixed == VARIES).any() else fixed == LATENT, layout.size)


def _refuse_foreign(part: Any, shown: Any) -> None:
    if getattr(_paths, getattr(part, "__name__", ""), None) is not part:
        raise FileError(f"{shown} is not one of retrodict's own; a file can name only these, so it cannot be saved")


def _path_part(name: str) -> Any:
    piece = getattr(_paths, name, None)
    if not getattr(piece, "__module__", "").startswith(f"{_paths.__name__}."):
        raise FileError(f"the file names the path '{name}', which this version does not know")
    return piece


def prior_to_json(prior: AbstractPrior | None) -> dict[str, Any] | None:
    """Returns a product of distributions; None for any other prior, which whoever loads the file must say again."""
    if not isinstance(prior, Prior):
        return None
    try:
        fields = {name: distribution_to_json(entry) for name, entry in prior.distributions.items()}
        draw = prior.draw(as_key(0))
        equal = np.allclose(prior_from_json(fields).log_prob(draw), prior.log_prob(draw), rtol=1e-4, atol=1e-4)
    except (FileError, TypeError, ValueError, AttributeError):  # depends on others, or says more than its settings
        return None
    return fields if equal else None


def prior_from_json(fields: dict[str, Any]) -> Prior:
    """Returns the inverse of `prior_to_json`."""
    return Prior({name: distribution_from_json(entry) for name, entry in fields.items()})


def distribution_to_json(distribution: Any) -> dict[str, Any]:
    """Returns a distribution of numpyro by its name there, with its settings; one of several numbers by that of each.

    Raises:
        FileError: it is none of numpyro's.
    """
    import numpyro.distributions as dist

    name = type(distribution).__name__
    if isinstance(distribution, dist.Independent):
        base = distribution_to_json(distribution.base_dist)
        return {"name": name, "base": base, "events": distribution.reinterpreted_batch_ndims}
    if isinstance(distribution, dist.ExpandedDistribution):
        base = distribution_to_json(distribution.base_dist)
        return {"name": name, "base": base, "shape": list(distribution.batch_shape)}
    if getattr(dist, name, None) is not type(distribution):
        raise FileError(f"{distribution} is no distribution of numpyro; a file can name only these")
    settings = {k for k in distribution.arg_constraints if k in vars(distribution)}
    if "scale_tril" in settings:
        settings -= {"covariance_matrix", "precision_matrix"}  # the same, said again
    return {"name": name, **{k: np.asarray(getattr(distribution, k)).tolist() for k in sorted(settings)}}


def distribution_from_json(settings: dict[str, Any]) -> Any:
    """Returns the inverse of `distribution_to_json`.

    Raises:
        FileError: the name is none of numpyro's distributions.
    """
    import numpyro.distributions as dist

    settings = dict(settings)
    name = settings.pop("name")
    kind = getattr(dist, name, None)
    if not (isinstance(kind, type) and issubclass(kind, dist.Distribution)):
        raise FileError(f"the file names the distribution '{name}', which is none of numpyro's")
    if "base" in settings:
        base = distribution_from_json(settings["base"])
        return base.to_event(settings["events"]) if kind is dist.Independent else base.expand(settings["shape"])
    return kind(**{k: jnp.asarray(v, float) if isinstance(v, list) else v for k, v in settings.items()})


def field_to_json(kind: str, name: str, value: Any) -> Any:
    """Returns a field of a model as JSON: plain values, layouts, records, and arrays by shape and type.

    Raises:
        FileError: any other value.
    """
    for key, field_class in FIELD_CLASSES.items():
        if isinstance(value, field_class):
            return {key: value.to_json()}
    if isinstance(value, jax.Array | np.ndarray):
        return {"array": [list(value.shape), str(value.dtype)]}
    if isinstance(value, tuple | list):
        return {"list": [field_to_json(kind, name, item) for item in value]}
    if isinstance(value, PLAIN):
        return value
    raise FileError(
        f"'{name}' of a {kind} is a {type(value).__name__}, which files do not know by themselves; give {kind} the "
        "methods `to_manifest` and `from_manifest`"
    )


def field_from_json(value: Any) -> Any:
    """Returns the inverse of `field_to_json`, arrays with zeros in them."""
    if not isinstance(value, dict):
        return value
    for key, field_class in FIELD_CLASSES.items():
        if key in value:
            return field_class.from_json(value[key])
    if "array" in value:
        shape, dtype = value["array"]
        return jnp.zeros(tuple(shape), dtype)
    return tuple(field_from_json(item) for item in value["list"])
