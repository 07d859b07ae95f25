"""One generative model of everything the simulator touches, and any question about it.

With z the scaled tokens of one row, roles drawn from a law, t a time and x0 noise:

    training    z_t = path.mix(z, x0, t) at latent tokens, z at given ones, 0 at absent ones
                loss = sum over latent i of w_i (prediction_i - target_i)^2 / sum over latent i of w_i
    sampling    start from noise at the latent tokens, hold the given ones, follow the velocity from t = 0 to 1
    density     the same flow backwards, with its divergence

(OneFlowSBI, arXiv 2601.22951, section 2.1.) Posterior, likelihood, joint and unconditional models are this one class
under four laws of roles.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict import supports
from retrodict._errors import DataError, QueryError, unknown
from retrodict._types import Key, Roles, Scalar, Tokens, as_key
from retrodict.likelihood import pull_back
from retrodict.nets import AbstractArchitecture, AbstractNet, ResMLP
from retrodict.paths import Path, flow_matching
from retrodict.roles import GIVEN, LATENT, AbstractRoleLaw, Likelihood, Posterior, Unconditional, random_roles
from retrodict.scaling import Scaling
from retrodict.solvers import AbstractSolver, AdamsBashforth, Midpoint
from retrodict.tokens import Batch, Question, ask, flatten, unflatten
from retrodict.variables import Layout


SAMPLER = AdamsBashforth(steps=16)
INTEGRATOR = Midpoint(steps=24)
ROWS = 8192  # rows solved per dispatch: memory stays bounded however many draws are asked for


@dataclasses.dataclass(frozen=True)
class Record:
    """What training left behind: how long, on how much, how well."""

    simulations: int = 0
    steps: int = 0
    seconds: float = 0.0
    validation_loss: float | None = None


class Generative(eqx.Module):
    """A trained or untrained model; see `joint`, `posterior`, `likelihood`, `unconditional`."""

    layout: Layout = eqx.field(static=True)
    architecture: AbstractArchitecture = eqx.field(static=True)
    law: AbstractRoleLaw = eqx.field(static=True)
    record: Record = eqx.field(static=True)
    balanced: bool = eqx.field(static=True)
    path: Path
    scaling: Scaling
    net: AbstractNet

    @property
    def trained(self) -> bool:
        """Whether `fit` has seen this model."""
        return self.record.steps > 0

    # one example at a time --------------------------------------------------------------------------------------------

    def predict(self, z: Tokens, roles: Roles, t: Scalar) -> Tokens:
        """The network's prediction about scaled tokens `z` at time `t`, zero where not latent."""
        latent, given = roles == LATENT, roles == GIVEN

        def network(x: Tokens) -> Tokens:
            return self.net(jnp.where(latent, x, jnp.where(given, z, 0.0)), roles, t)

        return jnp.where(latent, self.path.predict(network, z, t), 0.0)

    def flow(self, z: Tokens, roles: Roles, t: Scalar) -> Tokens:
        """The velocity of scaled tokens `z` at time `t`, zero where not latent."""
        guess = self.path.guess(z, self.predict(z, roles, t), t)
        return jnp.where(roles == LATENT, self.path.velocity(guess, t), 0.0)

    def loss(self, z: Tokens, key: PRNGKeyArray, u: Scalar) -> Scalar:
        """The loss of one row of scaled tokens; `u`, uniform on (0, 1), sets the time."""
        key_roles, key_noise = jr.split(key)
        roles = self.law.draw(key_roles, self.layout)
        x0, t = jr.normal(key_noise, z.shape), self.path.time_law(u)
        z_t = jnp.where(roles == LATENT, self.path.mix(z, x0, t), z)
        error = self.predict(z_t, roles, t) - self.path.target(z, x0, t)
        weight = jnp.where(roles == LATENT, self._weights(), 0.0)
        return jnp.sum(weight * error**2) / jnp.sum(weight)

    def _weights(self) -> Tokens:
        n = int(self.layout.is_parameter.sum())
        if not self.balanced or n in (0, self.layout.size):
            return jnp.ones(self.layout.size)
        return jnp.where(self.layout.is_parameter, (self.layout.size - n) / n, 1.0)

    # questions in names -----------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        *,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        solver: AbstractSolver | None = None,
        key: Key,
    ) -> dict[str, np.ndarray]:
        """Draws of the variables `of`, `(n, *shape)` each, given the values `given`.

        NaN in `given` means not observed. `of` defaults to the variables that `given` does not name; those in neither
        are integrated out. `of={name: mask}` asks for some elements only; the others come back as NaN. With
        `given=rd.Batch({...})` of B observations the draws are `(B, n, *shape)`.

        Raises:
            QueryError: a name that this model does not have, nothing left to ask, or `n` below 1.
            DataError: a value of the wrong shape or type, or outside its support.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise QueryError(f"the number of draws must be a positive whole number, got {n!r}")
        question = ask(self.layout, given, of)
        draws = self._draw(question, int(n), solver or SAMPLER, as_key(key))
        draws = draws.reshape(-1, n, self.layout.size) if isinstance(given, Batch) else draws
        return unflatten(self.layout, draws, question.of)

    def log_prob(
        self,
        values: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        solver: AbstractSolver | None = None,
    ) -> np.ndarray:
        """Log density `(n,)` of values `(n, *shape)`, in the user's units, given the values `given`.

        Variables in neither are integrated out, and so are elements that are NaN in every row of `values`. With
        `given=rd.Batch({...})` of n observations, row i of `values` is paired with observation i. Outside the supports
        it is minus infinity.

        Raises:
            QueryError: a name that this model does not have, or one both asked and given.
            DataError: a value of the wrong shape or type, or NaN in some rows only.
        """
        question, tokens = self._density_question(values, given)
        latent = question.roles[0] == LATENT
        inside = supports.contains(tokens, *(end.astype(np.float32) for end in self.layout.ends))
        inside = np.all(inside | ~latent, axis=1)
        found = self._density(question, tokens, solver or INTEGRATOR)
        return np.where(inside, found, -np.inf)

    def _draw(self, question: Question, n: int, solver: AbstractSolver, key: PRNGKeyArray) -> np.ndarray:
        m, d = question.roles.shape
        size = min(ROWS, 1 << (m * n - 1).bit_length())
        z, where = self.scaling.forward(question.values), jnp.asarray(question.roles)
        parts, core = [], self._core()
        for start in range(0, m * n, size):
            which = (start + np.arange(size)) // n % m if m > 1 else None
            noise = jr.normal(jr.fold_in(key, start // size), (size, d))
            parts.append(_solve_rows(core, solver, z, where, noise, which))
        draws = np.concatenate([np.asarray(part) for part in parts])[: m * n]
        roles = np.repeat(question.roles, n, axis=0)
        known = np.where(roles == GIVEN, np.repeat(question.values, n, axis=0), np.nan)
        return np.where(roles == LATENT, draws, known)

    def _density_question(
        self, values: Mapping[str, Any], given: Mapping[str, Any] | None
    ) -> tuple[Question, np.ndarray]:
        if not isinstance(values, Mapping) or not values:
            raise QueryError("`values` must map at least one name to its values")
        for name in values:
            if name not in self.layout.names:
                raise QueryError(unknown("`values`", name, self.layout.names))
        tokens = flatten(self.layout, values, values, where="`values`")
        asked = ~np.isnan(tokens)
        if (asked != asked[0]).any():
            raise DataError("`values` has NaN in some rows only; NaN leaves an element out, in every row or in none")
        question = ask(self.layout, given, unflatten(self.layout, asked[0], values))
        if isinstance(given, Batch) and len(question.roles) != len(tokens):
            raise DataError(
                f"`values` has {len(tokens)} rows and the Batch {len(question.roles)} observations; "
                "they are paired row by row"
            )
        return question, tokens

    def _density(self, question: Question, tokens: np.ndarray, solver: AbstractSolver) -> np.ndarray:
        d, n = self.layout.size, len(tokens)
        directions = np.eye(d, dtype=np.float32)[question.roles[0] == LATENT]
        rows = np.where(question.roles == LATENT, tokens, question.values)
        size = min(ROWS // 8, 1 << (n - 1).bit_length())
        parts, core = [], self._core()
        for start in range(0, n, size):
            which = np.arange(start, start + size) % n
            z = self.scaling.forward(rows[which])
            roles = jnp.asarray(np.broadcast_to(question.roles, (n, d))[which])
            parts.append(_density_rows(core, solver, z, roles, jnp.asarray(directions)))
        return np.concatenate([np.asarray(part) for part in parts])[:n]

    def _core(self) -> "Generative":
        """The model without what only training knows, which must not decide whether compiled code is used again."""
        return dataclasses.replace(self, record=Record(), law=Unconditional(), balanced=False)


@eqx.filter_jit
def _solve_rows(
    model: Generative,
    solver: AbstractSolver,
    z: Float[Array, "m d"],
    roles: Int[Array, "m d"],
    noise: Float[Array, "n d"],
    which: Int[Array, " n"] | None,
) -> Float[Array, "n d"]:
    """Draws in the user's units; row i answers question `which[i]` (the only one, for None)."""

    def one(z: Tokens, roles: Roles, noise: Tokens) -> Tokens:
        start = jnp.where(roles == LATENT, noise, jnp.where(roles == GIVEN, z, 0.0))
        return solver(lambda x, t: model.flow(x, roles, t), start, *model.path.span)

    if which is None:
        found = jax.vmap(partial(one, z[0], roles[0]))(noise)
    else:
        found = jax.vmap(one)(z[which], roles[which], noise)
    return model.scaling.inverse(found)


@eqx.filter_jit
def _density_rows(
    model: Generative,
    solver: AbstractSolver,
    z: Float[Array, "n d"],
    roles: Int[Array, "n d"],
    directions: Float[Array, "k d"],
) -> Float[Array, " n"]:
    """Log densities in the user's units."""

    def one(z: Tokens, roles: Roles) -> Scalar:
        latent = roles == LATENT
        start = jnp.where(latent | (roles == GIVEN), z, 0.0)
        noise, gain = pull_back(lambda x, t: model.flow(x, roles, t), start, directions, solver, model.path.span)
        own = jnp.where(latent, norm.logpdf(noise) - model.scaling.log_slope(z), 0.0)
        return jnp.sum(own) + gain

    return jax.vmap(one)(z, roles)


def joint(
    layout: Layout,
    *,
    net: AbstractArchitecture | None = None,
    path: Path | None = None,
    roles: AbstractRoleLaw | None = None,
    balanced: bool = False,
    key: Key = 0,
) -> Generative:
    """A model of the joint distribution that answers every question, untrained.

    Args:
        layout: the variables, as `sims.layout` or `problem.layout` tells them.
        net: the network; by default a residual MLP.
        path: the path between noise and data; by default flow matching.
        roles: the law of roles in training; by default `rd.roles.random_roles()`.
        balanced: weigh every parameter by d_data / d_parameters in the loss (OneFlowSBI, Eq. 4). Off: on SLCP the
            negative log posterior of held-out pairs was 3.71 with it (8,000 steps) and 3.66 without (10,000).
        key: seed of the first weights.

    Raises:
        DataError: `layout` is no layout.
    """
    if not isinstance(layout, Layout):
        raise DataError(f"a model is made for a layout, such as `sims.layout`, got {type(layout).__name__}")
    architecture = net or ResMLP()
    return Generative(
        layout=layout,
        architecture=architecture,
        law=roles or random_roles(),
        record=Record(),
        balanced=balanced,
        path=path or flow_matching(),
        scaling=Scaling.identity(layout),
        net=eqx.filter_jit(architecture.build)(layout, key=as_key(key)),
    )


posterior = partial(joint, roles=Posterior())
posterior.__doc__ = "A model of the parameters given all data; `joint` with one role assignment."
likelihood = partial(joint, roles=Likelihood())
likelihood.__doc__ = "A model of the data given all parameters (an emulator); `joint` with one role assignment."
unconditional = partial(joint, roles=Unconditional())
unconditional.__doc__ = "A model of parameters and data together; `joint` with nothing given."
