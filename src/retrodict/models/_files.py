"""Models on disk: one safetensors file, arrays plus one JSON manifest in its metadata.

The manifest names everything that is no array (layout, network, path, law of roles, record), so that loading builds
the model from this version's own classes and reads numbers into it. Nothing in the file is ever executed. A file is
written beside its final place and moved there in one step: whatever goes wrong, the old file survives.
"""

import dataclasses
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from retrodict import models
from retrodict import paths as _paths
from retrodict._errors import FileError, RetrodictError
from retrodict._runtime.atomic_files import write_whole
from retrodict._types import as_key
from retrodict.models import (
    DistilledDensity,
    DistilledSampler,
    Family,
    FlowModel,
    HierarchicalModel,
    MixtureDensity,
    Proof,
    Record,
    Sizes,
)
from retrodict.models._factorized_likelihood import FactorizedLikelihood
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.nets import PlateTransformer, architecture_from_json
from retrodict.problem import AbstractPrior, Prior
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import LATENT, AbstractRoleLaw, Known, Observed, Thinned, law_from_json
from retrodict.transforms.affine import ConditionalAffine
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


Model: TypeAlias = FlowModel | HierarchicalModel | DistilledSampler | DistilledDensity | ImportanceSampledPosterior
SCHEMA = 2  # 1 had matrices the other way round
PARTS = ("schedule", "time_law", "grid", "diffusion")  # of a path: classes with settings
FUNCTIONS = ("parameterization", "weighting")
WRITTEN_NAMES = {  # of attributes on the way to an array, where files of schema 2 use another word
    "affine": "frame",
    "baseline": "frame",
    "coefficients": "line",
    "factors": "parts",
    "input_scaling": "seen",
    "integers": "whole",
    "is_integer": "which",
    "largest": "most",
    "log_sd": "left",
    "log_width": "usual",
    "robust": "tails",
    "smallest": "least",
}
PACKAGES = ("retrodict", "jax", "equinox", "numpy")


def save(model: Model, file: str | os.PathLike[str]) -> Path:
    """Writes a model to one file, all or nothing, and returns its path.

    Raises:
        FileError: the file cannot be written, or the path is not made of this package's parts; a file that was there
            before is unchanged.
    """
    from safetensors.numpy import save as to_bytes

    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))
    arrays = {_array_name(path): np.asarray(leaf) for path, leaf in leaves}
    content = to_bytes(arrays, metadata={"retrodict": json.dumps(_manifest(model))})
    return write_whole(Path(file), content)


def load(file: str | os.PathLike[str]) -> Any:
    """Reads a model that `save` wrote, of the kind that was saved; nothing in the file is executed.

    Raises:
        FileError: the file is not there, truncated, of another kind, or of another version.
    """
    arrays, manifest = _read(Path(file))
    try:
        model = _skeleton(manifest)
    except FileError:
        raise
    except (RetrodictError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"'{file}' has a manifest that does not describe a model ({error}); it is damaged") from error
    leaves, tree = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))
    found = []
    for path, leaf in leaves:
        name = _array_name(path)
        array = arrays.get(name)
        if array is None or array.shape != leaf.shape:
            came = "nothing" if array is None else f"the shape {array.shape}"
            raise FileError(f"'{file}' is damaged: {name} should have the shape {leaf.shape}, found {came}")
        found.append(jnp.asarray(array, leaf.dtype) if isinstance(leaf, jax.Array) else array.astype(leaf.dtype))
    return eqx.combine(jax.tree_util.tree_unflatten(tree, found), model)


def _array_name(path: tuple[Any, ...]) -> str:
    """Returns the name of an array in a file: the attributes that lead to it, in the words of schema 2."""
    keys = (
        jax.tree_util.GetAttrKey(WRITTEN_NAMES.get(key.name, key.name))
        if isinstance(key, jax.tree_util.GetAttrKey)
        else key
        for key in path
    )
    return jax.tree_util.keystr(tuple(keys))


def _manifest(model: Model) -> dict[str, Any]:
    return {"schema": SCHEMA, **_described(model), "versions": {name: version(name) for name in PACKAGES}}


def _described(model: Model) -> dict[str, Any]:
    """Everything about a model that is no array."""
    if isinstance(model, DistilledSampler):
        return {
            "kind": "student",
            "model": _manifest(model.model),
            "roles": list(model.family.roles),
            "evaluations": model.evaluations,
            "proof": model.proof._asdict(),
        }
    if isinstance(model, DistilledDensity):
        return {
            "kind": "head",
            "layout": model.layout.to_json(),
            "roles": list(model.family.roles),
            "sizes": model.mixture.sizes._asdict(),
            "framed": model.scaling.affine is not None,
            "kl": model.kl,
            "spread": model.spread,
        }
    if isinstance(model, ImportanceSampledPosterior):
        factors = model.likelihood.factors
        return {
            "kind": "weighted",
            "flow": _manifest(model.flow),
            "sizes": [mixture.sizes._asdict() for mixture in model.likelihood.mixtures],
            "parts": len(factors.kind) > 1 or factors.free,
            "prior": _prior_to_json(model.prior),
            "record": model.calibration.to_json(),
        }
    if isinstance(model, HierarchicalModel):
        return {
            "kind": "hierarchical",
            "layout": model.layout.to_json(),
            "net": model.settings.to_json(),
            "method": model.method,
            "counts": list(model.counts),
            "record": model.record.to_json(),
            "site": _manifest(model.site),
            "own": None if model.own is None else _manifest(model.own.flow),
            "surrogate": _surrogate_to_json(model.surrogate),
            "shared": _manifest(model.shared),
        }
    return {
        "layout": model.layout.to_json(),
        "net": model.architecture.to_json(),
        "path": _path_to_json(model.path),
        "roles": model.law.to_json(),
        "balanced": model.balanced,
        "framed": model.scaling.affine is not None,
        "dependencies": None if model.dependencies is None else model.dependencies.to_json(),
        "record": model.calibration.to_json(),
    }


def _skeleton(manifest: dict[str, Any]) -> Model:
    """A model with the right shapes; its numbers are still to be read."""
    if manifest.get("kind") == "student":
        inner: Any = _skeleton(manifest["model"])
        proof = Proof(tuple(manifest["proof"]["c2st"]), manifest["proof"]["bar"])
        return DistilledSampler(inner, Family(inner.layout, tuple(manifest["roles"])), manifest["evaluations"], proof)
    if manifest.get("kind") == "head":
        layout, sizes = Layout.from_json(manifest["layout"]), Sizes(**manifest["sizes"])
        mixture, family = MixtureDensity.blank(sizes, key=as_key(0)), Family(layout, tuple(manifest["roles"]))
        affine = ConditionalAffine.identity(family.where(LATENT)) if manifest.get("framed") else None
        scaling = dataclasses.replace(Scaling.identity(layout), affine=affine)
        return DistilledDensity(family, manifest["kl"], manifest["spread"], scaling, mixture)
    if manifest.get("kind") == "weighted":
        flow: Any = _skeleton(manifest["flow"])
        mixtures = [Sizes(**one) for one in manifest["sizes"]]
        likelihood = FactorizedLikelihood.blank(flow.layout, flow.dependencies if manifest["parts"] else None, mixtures)
        prior = None if manifest["prior"] is None else _distributions(manifest["prior"])
        return ImportanceSampledPosterior(flow, likelihood, prior, Record.from_json(manifest["record"]))
    if manifest.get("kind") == "hierarchical":
        layout, settings = Layout.from_json(manifest["layout"]), architecture_from_json(manifest["net"])
        if not isinstance(settings, PlateTransformer):
            raise FileError(f"the file names the network '{type(settings).__name__}' for sites, which reads none")
        whole = models.hierarchical(layout, net=settings, method=manifest["method"], counts=tuple(manifest["counts"]))
        parts: dict[str, Any] = {part: _skeleton(manifest[part]) for part in ("site", "shared")}
        if whole.own is not None:
            own: Any = _skeleton(manifest["own"])
            parts["own"] = dataclasses.replace(whole.own, flow=own)
        parts["surrogate"] = _surrogate_from_json(layout, manifest["surrogate"])
        return dataclasses.replace(whole, record=Record.from_json(manifest["record"]), **parts)
    layout, dependencies = Layout.from_json(manifest["layout"]), manifest.get("dependencies")
    model = models.joint(
        layout,
        net=architecture_from_json(manifest["net"]),
        path=_path_from_json(manifest["path"]),
        roles=_law(layout, manifest["roles"]),
        dependencies=None if dependencies is None else Dependencies.from_json(dependencies),
        balanced=manifest["balanced"],
        framed=manifest.get("framed", False),
    )
    record, law = Record.from_json(manifest["record"]), law_from_json(manifest["roles"])
    return dataclasses.replace(model, record=record, law=law)


def _law(layout: Layout, found: dict[str, Any]) -> AbstractRoleLaw:
    """A law of roles without what `joint` puts around it."""
    law = law_from_json(found)
    if layout.functions and isinstance(law, Known):
        law = law.law
    if isinstance(law, Thinned):
        law = law.law
    return law.law if isinstance(law, Observed) else law


def _surrogate_to_json(surrogate: models.Surrogate | models.SiteMixture) -> dict[str, Any]:
    if isinstance(surrogate, models.SiteMixture):
        return {"kind": "mixture", "sizes": surrogate.mixture.sizes._asdict()}
    return _manifest(surrogate.model)


def _surrogate_from_json(layout: Layout, found: dict[str, Any]) -> models.Surrogate | models.SiteMixture:
    if found.get("kind") == "mixture":
        return models.site_mixture_of(layout, Sizes(**found["sizes"]), key=as_key(0))
    model: Any = _skeleton(found)
    whole: Any = models.surrogate_of(layout, model.architecture, None, key=as_key(0))
    return dataclasses.replace(whole, model=model)


def _path_to_json(path: _paths.Path) -> dict[str, Any]:
    """Every part by its name in `retrodict.paths`, with its settings; noise by its name in numpyro."""
    found: dict[str, Any] = {"span": list(path.span), "source": None}
    for name in PARTS:
        part = getattr(path, name)
        _own(type(part), part)
        found[name] = {"name": type(part).__name__, **{f.name: getattr(part, f.name) for f in dataclasses.fields(part)}}
    for name in FUNCTIONS:
        part = getattr(path, name)
        _own(part, part)
        found[name] = part.__name__
    if path.source is not None:
        found["source"] = _distribution_to_json(path.source)
    return found


def _path_from_json(found: dict[str, Any]) -> _paths.Path:
    def made(settings: dict[str, Any]) -> Any:
        settings = dict(settings)
        return _known(settings.pop("name"))(**settings)

    source = found["source"]
    return _paths.Path(
        **{name: made(found[name]) for name in PARTS},
        **{name: _known(found[name]) for name in FUNCTIONS},
        span=tuple(found["span"]),
        source=None if source is None else _distribution(source),
    )


def _own(thing: Any, shown: Any) -> None:
    if getattr(_paths, getattr(thing, "__name__", ""), None) is not thing:
        raise FileError(f"{shown} is not one of retrodict's own; a file can name only these, so it cannot be saved")


def _known(name: str) -> Any:
    """One of the classes and functions of `paths`; a file may name nothing else."""
    thing = getattr(_paths, name, None)
    if not getattr(thing, "__module__", "").startswith(f"{_paths.__name__}."):
        raise FileError(f"the file names the path '{name}', which this version does not know")
    return thing


def _prior_to_json(prior: AbstractPrior | None) -> dict[str, Any] | None:
    """A product of distributions; of any other prior nothing, and whoever loads the file says it again."""
    if not isinstance(prior, Prior):
        return None
    try:
        found = {name: _distribution_to_json(entry) for name, entry in prior.distributions.items()}
        draw = prior.draw(as_key(0))
        same = np.allclose(_distributions(found).log_prob(draw), prior.log_prob(draw), rtol=1e-4, atol=1e-4)
    except (FileError, TypeError, ValueError, AttributeError):  # depends on others, or says more than its settings
        return None
    return found if same else None


def _distributions(found: dict[str, Any]) -> Prior:
    return Prior({name: _distribution(entry) for name, entry in found.items()})


def _distribution_to_json(law: Any) -> dict[str, Any]:
    """A distribution of numpyro by its name there, with its settings; one of several numbers by that of each."""
    import numpyro.distributions as dist

    name = type(law).__name__
    if isinstance(law, dist.Independent):
        return {"name": name, "base": _distribution_to_json(law.base_dist), "events": law.reinterpreted_batch_ndims}
    if isinstance(law, dist.ExpandedDistribution):
        return {"name": name, "base": _distribution_to_json(law.base_dist), "shape": list(law.batch_shape)}
    if getattr(dist, name, None) is not type(law):
        raise FileError(f"{law} is no distribution of numpyro; a file can name only these")
    settings = {k for k in law.arg_constraints if k in vars(law)}
    if "scale_tril" in settings:
        settings -= {"covariance_matrix", "precision_matrix"}  # the same, said again
    return {"name": name, **{k: np.asarray(getattr(law, k)).tolist() for k in sorted(settings)}}


def _distribution(settings: dict[str, Any]) -> Any:
    """The inverse of `_distribution_to_json`; a file may name nothing else."""
    import numpyro.distributions as dist

    settings = dict(settings)
    name = settings.pop("name")
    kind = getattr(dist, name, None)
    if not (isinstance(kind, type) and issubclass(kind, dist.Distribution)):
        raise FileError(f"the file names the distribution '{name}', which is none of numpyro's")
    if "base" in settings:
        base = _distribution(settings["base"])
        return base.to_event(settings["events"]) if kind is dist.Independent else base.expand(settings["shape"])
    return kind(**{k: jnp.asarray(v, float) if isinstance(v, list) else v for k, v in settings.items()})


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise FileError(f"there is no model file '{file}'")
    try:
        with safe_open(file, framework="numpy") as handle:
            metadata = handle.metadata() or {}
            arrays = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"'{file}' is truncated or no model file: {error}") from error
    if "retrodict" not in metadata:
        raise FileError(f"'{file}' is a safetensors file, but not one that retrodict wrote")
    try:
        manifest = json.loads(metadata["retrodict"])
        schema = int(manifest["schema"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"'{file}' has a manifest that cannot be read ({error}); it is damaged") from error
    if schema != SCHEMA:
        wrote = manifest.get("versions", {}).get("retrodict", "of another version")
        cure = "update it" if schema > SCHEMA else "train the model anew"
        raise FileError(
            f"'{file}' was written by retrodict {wrote} (schema {schema}); this version reads {SCHEMA}: {cure}"
        )
    return arrays, manifest
