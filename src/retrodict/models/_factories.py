"""Flow models of a layout: one class, `FlowModel`, under four laws of roles."""

import dataclasses
from functools import partial

import numpy as np

from retrodict._errors import DataError, QueryError
from retrodict._runtime.compile_cache import ensure_cache
from retrodict._runtime.precision import in_single_precision
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


@in_single_precision
def joint(
    layout: Layout,
    *,
    net: AbstractArchitecture | None = None,
    path: Path | None = None,
    roles: AbstractRoleLaw | None = None,
    dependencies: Dependencies | None = None,
    balanced: bool = False,
    conditional_affine: bool = False,
    framed: bool = False,
    key: Key = 0,
) -> FlowModel:
    """Returns a model of the joint distribution that answers every question, untrained.

    Args:
        layout: the variables, as `sims.layout` or `problem.layout` tells them.
        net: the network; by default a residual MLP, or a Simformer where there are functions.
        path: the path between noise and data; by default flow matching.
        roles: the law of roles in training; by default `rd.roles.random_roles()`. A law of one question meets functions
            at fewer points, too, in half of the rows.
        dependencies: the edges between variables, and what is interchangeable: who attends to whom in transformers, and
            parts that are shuffled in training.
        balanced: weigh every parameter by d_data / d_parameters in the loss (OneFlowSBI, Eq. 4).
        conditional_affine: learn in coordinates that follow a line in what is given, see `transforms.affine`; for a law
            of roles with one question, such as that of `posterior`, whose answer is much narrower than the prior. Such
            a model takes no constraints.
        framed: the name of `conditional_affine` in earlier versions.
        key: seed of the first weights.

    Raises:
        DataError: `layout` is no layout, or net or dependencies do not fit it.
        QueryError: the network cannot be trained under this law of roles, or it has no single question.
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
    ensure_cache()
    scaling = Scaling.identity(layout)
    if conditional_affine or framed:
        scaling = dataclasses.replace(scaling, affine=_affine(layout, architecture, law))
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


def _affine(layout: Layout, architecture: AbstractArchitecture, law: AbstractRoleLaw) -> ConditionalAffine:
    roles = law.fixed(layout)
    if architecture.embedded or layout.functions or not np.isin(roles, (LATENT, GIVEN)).all():
        raise QueryError(
            "conditional_affine=True (framed) needs one question about all elements, and neither embeddings nor "
            "functions; use `rd.posterior` or `rd.likelihood`, or leave it out"
        )
    return ConditionalAffine.identity(roles == LATENT)


posterior = partial(joint, roles=Posterior())
posterior.__doc__ = "Returns a model of the parameters given all data; `joint` with one role assignment."
likelihood = partial(joint, roles=Likelihood())
likelihood.__doc__ = "Returns a model of the data given all parameters (an emulator); `joint` with one role assignment."
unconditional = partial(joint, roles=Unconditional())
unconditional.__doc__ = "Returns a model of parameters and data together; `joint` with nothing given."
