"""The part of a flow model that compiled functions, solvers and guidance need."""

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from retrodict._types import Roles, Tokens
from retrodict.models._record import Record
from retrodict.nets import AbstractNet
from retrodict.paths import Flow, Path
from retrodict.roles import GIVEN, LATENT, AbstractRoleLaw
from retrodict.transforms.joint_affine import JointAffine, Residual
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


class Ready(NamedTuple):
    """Tokens in the flow's coordinates and `roles` of what can be asked, and what the network computed from them once.

    For a model with a baseline `residual` leads from the scaled tokens with the numbers `index` to these coordinates;
    without one they are the scaled tokens.
    """

    z: Tokens
    roles: Roles
    prepared: Any
    index: Any = None
    residual: Residual | None = None

    def scaled(self, x: Tokens) -> Tokens:
        """Returns the scaled tokens of latent ones `x` in the flow's coordinates, beside those that are given."""
        z = x if self.residual is None else x.at[self.index].set(self.residual.inverse(x[self.index]))
        return jnp.where(self.roles == LATENT, z, jnp.where(self.roles == GIVEN, self.z, 0.0))

    def unscaled(self, z: Tokens) -> Tokens:
        """Returns the inverse of `scaled` for latent tokens, beside `z`."""
        if self.residual is None:
            return z
        return jnp.where(self.roles == LATENT, z.at[self.index].set(self.residual.forward(z[self.index])), z)

    def log_slope(self, x: Tokens) -> Tokens | float:
        """Returns numbers whose sum is `log |dz/dx|` for scaled tokens z and latent ones x of the flow."""
        if self.residual is None:
            return 0.0
        return jnp.zeros_like(x).at[self.index].set(self.residual.log_slope(x[self.index]))


class FlowLike(Protocol):
    """A flow between noise and the tokens of named variables; see `FlowModel`."""

    @property
    def layout(self) -> Layout: ...
    @property
    def modeled(self) -> Layout: ...
    @property
    def kept(self) -> np.ndarray | slice: ...
    @property
    def law(self) -> AbstractRoleLaw: ...
    @property
    def record(self) -> Record: ...
    @property
    def calibration(self) -> Record: ...
    @property
    def path(self) -> Path: ...
    @property
    def scaling(self) -> Scaling: ...
    @property
    def net(self) -> AbstractNet: ...
    @property
    def baseline(self) -> JointAffine | None: ...
    def ready(self, z: Tokens, roles: Roles) -> Ready: ...
    def flow(self, z: Tokens, roles: Roles) -> Flow: ...
    def flow_from(self, ready: Ready) -> Flow: ...
    def without_training_state(self) -> Any: ...
    def seen_at(self, layout: Layout) -> Any: ...
