"""Attributes may have better names than the arrays of a model file: these keep the names that schema 2 gave them."""

import equinox as eqx
import jax
import numpy as np
import pytest
from safetensors import safe_open

import retrodict as rd
from retrodict.models import Sizes
from retrodict.models._factorized_likelihood import FactorizedLikelihood
from retrodict.models._importance import ImportanceSampledPosterior


ROBUST = ("tails.center", "tails.heavy", "tails.mean", "tails.std", "tails.width", "tails.far")
SCALING = (*ROBUST, "powers")
BASELINE = ("frame.center", "frame.cross", "frame.left", "frame.most", "frame.trend", "frame.width")
INTEGERS = ("whole.least", "whole.most", "whole.which")
SMALL = {"net": rd.nets.PlateTransformer(heads=1, head_size=8, features=4), "flow": rd.nets.ResMLP(8, 1)}


def conditional_affine(sims):
    return rd.posterior(sims.layout, net=rd.nets.ResMLP(8, 1), framed=True)


def hierarchical(sims):
    return rd.hierarchical(rd.tasks.get("h_conjugate").problem.layout, **SMALL)


def with_flow_of_residuals(sims):
    return rd.hierarchical(rd.tasks.get("h_conjugate").problem.layout, site=rd.nets.ResMLP(8, 1), **SMALL)


def weighted(sims):
    layout = sims.layout
    sizes = Sizes(1, int(layout.is_parameter.sum()), int((~layout.is_parameter).sum()), width=8, depth=1)
    flow = rd.posterior(layout, net=rd.nets.ResMLP(8, 1))
    return ImportanceSampledPosterior(flow, FactorizedLikelihood.blank(layout, None, [sizes]), None)


NAMES = {
    conditional_affine: {
        ".scaling.": (*SCALING, "frame.line", "frame.root", *(f"frame.{name}" for name in ROBUST)),
    },
    hierarchical: {
        ".own.": ("line", "usual", *(f"flow.scaling.{name}" for name in SCALING)),
        ".surrogate.": (
            *(f"{scaling}.{name}" for scaling in ("scaling", "seen") for name in SCALING),
            *(f"mixture.{name}" for name in BASELINE),
            *INTEGERS,
        ),
        ".line.": (
            "center", "width", "narrowest", "bumps.mean", "bumps.std", "bumps.weights", "bumps.bias",
        ),
    },
    with_flow_of_residuals: {".surrogate.": ("trend", *(f"model.scaling.{name}" for name in SCALING))},
    weighted: {
        ".likelihood.": (
            "shares",
            *(f"parts.{name}" for name in ("kind", "parameters", "parents", "tokens")),
            *(f"scaling.{name}" for name in SCALING),
            *(f"mixtures[0].{name}" for name in BASELINE),
            *INTEGERS,
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize("build", NAMES, ids=lambda build: build.__name__)
def test_arrays_are_written_by_the_names_of_schema_2(build, sims, tmp_path):
    """And read by them: of a model whose numbers are no longer those of a new one, all come back."""
    model = build(sims)
    model = jax.tree.map(lambda leaf: leaf + np.float32(0.5) if is_float(leaf) else leaf, model)
    file = rd.save(model, tmp_path / "model")
    with safe_open(file, framework="numpy") as content:
        written = [name for name in content.keys() if ".net." not in name]  # noqa: SIM118 - no mapping
        assert len(content.keys()) == len(jax.tree.leaves(eqx.filter(model, eqx.is_array))), "two are written alike"
    for prefix, names in NAMES[build].items():
        assert {name for name in written if name.startswith(prefix)} == {f"{prefix}{name}" for name in names}
    for before, after in zip(jax.tree.leaves(model), jax.tree.leaves(rd.load(file)), strict=True):
        np.testing.assert_array_equal(before, after)


def is_float(leaf):
    return isinstance(leaf, jax.Array) and leaf.dtype == np.float32
