"""The kinds of model that a layout has: one class, `FlowModel`, under four laws of roles."""

import dataclasses
from functools import partial

import numpy as np

from retrodict._errors import DataError, QueryError
from retrodict._types import Key, as_key
from retrodict.models._flow import FlowModel, built
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
    framed: bool = False,
    key: Key = 0,
) -> FlowModel:
    """A model of the joint distribution that answers every question, untrained.

    Args:
        layout: the variables, as `sims.layout` or `problem.layout` tells them.
        net: the network; by default a residual MLP, or a Simformer where there are functions.
        path: the path between noise and data; by default flow matching.
        roles: the law of roles in training; by default `rd.roles.random_roles()`. One with a single question meets
            functions at fewer points, too, in half of the rows.
        dependencies: what depends on what, and what is interchangeable: who attends to whom in transformers, and parts
            that are shuffled in training.
        balanced: weigh every parameter by d_data / d_parameters in the loss (OneFlowSBI, Eq. 4). Off: on SLCP the
            negative log posterior of held-out pairs was 3.71 with it (8,000 steps) and 3.66 without (10,000).
        framed: learn in coordinates that follow a line in what is given, see `rd.frame`; for a law of roles with one
            question, such as that of `posterior`, whose answer is much narrower than the prior. It then knows no
            constraints.
        key: seed of the first weights.

    Raises:
        DataError: `layout` is no layout, or net or dependencies do not fit it.
        QueryError: the network cannot be trained under this law of roles, or the law has no one question to frame.
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
    if dependencies is not None:
        # says what is wrong with them, whether or not the network looks at edges
        dependencies.adjacency(layout.without(layout.places))
    scaling = Scaling.identity(layout)
    if framed:
        scaling = dataclasses.replace(scaling, affine=_frame(layout, architecture, law))
    return FlowModel(
        layout=layout,
        architecture=architecture,
        law=law,
        record=Record(),
        balanced=balanced,
        dependencies=dependencies,
        path=path or flow_matching(),
        scaling=scaling,
        net=built(architecture, layout, law, dependencies, as_key(key)),
    )


def _frame(layout: Layout, architecture: AbstractArchitecture, law: AbstractRoleLaw) -> ConditionalAffine:
    roles = law.fixed(layout)
    if architecture.embedded or layout.functions or not np.isin(roles, (LATENT, GIVEN)).all():
        raise QueryError(
            "a frame needs one question about all elements, and neither embeddings nor functions; use `rd.posterior` "
            "or `rd.likelihood`, or leave `framed` out"
        )
    return ConditionalAffine.identity(roles == LATENT)


posterior = partial(joint, roles=Posterior())
posterior.__doc__ = "A model of the parameters given all data; `joint` with one role assignment."
likelihood = partial(joint, roles=Likelihood())
likelihood.__doc__ = "A model of the data given all parameters (an emulator); `joint` with one role assignment."
unconditional = partial(joint, roles=Unconditional())
unconditional.__doc__ = "A model of parameters and data together; `joint` with nothing given."
