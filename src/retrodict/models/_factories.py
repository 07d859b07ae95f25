"""Flow models of a layout: one class, `FlowModel`, under four laws of roles."""

import dataclasses
from functools import partial
from typing import NamedTuple

import numpy as np

from retrodict._errors import DataError, QueryError
from retrodict._runtime.compile_cache import ensure_cache
from retrodict._types import Key, as_key
from retrodict.models._flow import FlowModel
from retrodict.models._manifest import blank_baseline
from retrodict.models._networks import built
from retrodict.models._record import Record
from retrodict.nets import AbstractArchitecture, ResMLP, Simformer
from retrodict.paths import Path, flow_matching
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import (
    GIVEN,
    LATENT,
    VARIES,
    AbstractRoleLaw,
    Known,
    Likelihood,
    Observed,
    Posterior,
    Thinned,
    Unconditional,
    random_roles,
)
from retrodict.transforms.affine import ConditionalAffine
from retrodict.transforms.joint_affine import JointAffine
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


def joint(
    layout: Layout,
    *,
    net: AbstractArchitecture | None = None,
    path: Path | None = None,
    roles: AbstractRoleLaw | None = None,
    dependencies: Dependencies | None = None,
    balanced: bool = False,
    conditional_affine: bool | None = None,
    framed: bool | None = None,
    key: Key = 0,
) -> FlowModel:
    """Returns a model of the joint distribution that answers every question, untrained.

    Args:
        layout: the variables, as `sims.layout` or `problem.layout` tells them.
        net: the network; by default a residual MLP, or a Simformer where there are functions.
        path: the path between noise and data; by default flow matching.
        roles: the law of roles in training; by default `rd.roles.random_roles()`. A law of one question meets
            functions at fewer points, too, in half of the rows.
        dependencies: the edges between variables, and what is interchangeable: who attends to whom in transformers, and
            parts that are shuffled in training.
        balanced: weigh every parameter by d_data / d_parameters in the loss (OneFlowSBI, Eq. 4).
        conditional_affine: learn what a linear regression on what is given leaves, for narrow answers and for data that
            are nearly linear and Gaussian. By default `fit` chooses by the rows, see `transforms.joint_affine`. True
            for one question, such as that of `posterior`, is the map of `transforms.affine` without constraints.
        framed: the name of `conditional_affine` in earlier versions.
        key: seed of the first weights.

    Raises:
        DataError: `layout` is no layout, or net or dependencies do not fit it.
        QueryError: the network cannot be trained under this law of roles, or has embeddings or functions to regress.
    """
    if not isinstance(layout, Layout):
        raise DataError(f"a model is made for a layout, such as `sims.layout`, got {type(layout).__name__}")
    architecture, law = net or (Simformer() if layout.functions else ResMLP()), roles or random_roles()
    if architecture.embedded:
        law = Observed(law, architecture.embedded, tuple(map(architecture.pieces, architecture.embedded)))
    if layout.functions:
        inner = layout.without(layout.places)
        always = (law.fixed(inner)[inner.tokens_of(inner.functions)] != VARIES).all()
        law = Known(Thinned(law) if always else law, tuple(layout.places))
    if dependencies is not None:  # says what is wrong with them, whether or not the network looks at edges
        dependencies.adjacency(layout.without(layout.places))
    ensure_cache()
    wanted = framed if conditional_affine is None else conditional_affine
    regression = _Regression.of(layout, architecture, law, wanted=wanted)
    return FlowModel(
        layout=layout,
        architecture=architecture,
        law=law,
        record=Record(),
        balanced=balanced,
        dependencies=dependencies,
        path=path or flow_matching(),
        scaling=dataclasses.replace(Scaling.identity(layout), affine=regression.of_one_question),
        net=built(architecture, layout, law, dependencies, as_key(key)),
        baseline=regression.of_any,
        chooses_baseline=regression.open,
    )


class _Regression(NamedTuple):
    """The affine baseline of a new model, as `conditional_affine` wants it."""

    of_one_question: ConditionalAffine | None = None
    of_any: JointAffine | None = None
    open: bool = False

    @classmethod
    def of(
        cls, layout: Layout, architecture: AbstractArchitecture, law: AbstractRoleLaw, *, wanted: bool | None
    ) -> "_Regression":
        possible = not architecture.embedded and not layout.functions
        if wanted is None:
            return cls(open=possible)
        if not wanted:
            return cls()
        if not possible:
            raise QueryError(
                "conditional_affine=True (framed) regresses single elements on each other, and a model with embeddings "
                "or functions has others; leave it out"
            )
        roles = law.fixed(layout)
        if np.isin(roles, (LATENT, GIVEN)).all() and (roles == LATENT).any() and (roles == GIVEN).any():
            return cls(of_one_question=ConditionalAffine.identity(roles == LATENT))
        return cls(of_any=blank_baseline(layout, law))


posterior = partial(joint, roles=Posterior())
posterior.__doc__ = "Returns a model of the parameters given all data; `joint` with one role assignment."
likelihood = partial(joint, roles=Likelihood())
likelihood.__doc__ = "Returns a model of the data given all parameters (an emulator); `joint` with one role assignment."
unconditional = partial(joint, roles=Unconditional(), conditional_affine=False)  # so that `repaint` can hold elements
unconditional.__doc__ = "Returns a model of parameters and data together; `joint` with nothing given."
