"""A density of the own parameters of one site, given its data and everything shared.

    r = (eta - m) / s,    [m, log s] = baseline + net(known),    known = shared parameters and the site's data
    log p(eta | known) = log p(r | known) - sum of log s

The data of one site may determine its parameters a thousand times better than the prior, and those of its neighbor
hardly at all. A flow in coordinates of the prior would have to find location and width, with the same error everywhere.
Here the center m and the width s are predicted directly, from a linear regression and a network that is trained by the
Gaussian log density, so that their errors are of the order of the width; a flow learns the standardized residual r. (A
`PlateTransformer` does the same for shared parameters.)
"""

from collections.abc import Iterable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.models._factories import posterior
from retrodict.models._flow import FlowModel
from retrodict.nets import ResMLP
from retrodict.nets._plate import MAX_CENTER, MAX_LOG_WIDTH
from retrodict.paths import Path
from retrodict.query.tokens import Batch, flatten, unflatten
from retrodict.solvers import AbstractSolver
from retrodict.transforms.affine import predict
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout, Variable


MAX_LOG_STRETCH = 5.0  # the network changes a log width by less than this
RESIDUAL, KNOWN = "rest", "known"  # variables of the flow, as files name them


class SiteParameterModel(eqx.Module):
    """A model of the own parameters `(k,)` of a site, given everything else about it `(p,)`, all scaled.

    The baseline: `coefficients` of the center on [1, known], and the log width of the residual.
    """

    layout: Layout = eqx.field(static=True)
    coefficients: Float[Array, "q k"]
    log_width: Float[Array, " k"]
    net: eqx.nn.MLP
    flow: FlowModel

    @property
    def latent(self) -> np.ndarray:
        """A mask of the own parameters among the elements of a site."""
        return self.layout.is_parameter & self.layout.is_own

    def center_and_width(self, known: Float[Array, " p"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Returns center and width, limited to what a prior can hold for sites unlike those of training."""
        bend, stretch = jnp.split(self.net(known), 2)
        log_width = self.log_width + MAX_LOG_STRETCH * jnp.tanh(stretch / MAX_LOG_STRETCH)
        # in units of the baseline's width: outputs of the network begin at order one
        center = predict(self.coefficients, known) + jnp.exp(self.log_width) * bend
        return jnp.clip(center, -MAX_CENTER, MAX_CENTER), jnp.exp(jnp.minimum(log_width, MAX_LOG_WIDTH))

    # rows of single sites by name, in the user's units ----------------------------------------------------------------

    def draw(
        self,
        scaling: Scaling,
        given: Mapping[str, np.ndarray],
        of: Iterable[str],
        solver: AbstractSolver | None,
        key: PRNGKeyArray,
    ) -> dict[str, np.ndarray]:
        """Draws the own parameters `of` once, `(n, *shape)` each, for every row of everything else."""
        rows = len(next(iter(given.values())))
        names = [name for name in self.layout.names if name not in given]
        missing = {name: np.full((rows, *self.layout[name].shape), np.nan) for name in names}
        z = self._scaled(scaling, {**given, **missing})
        batch = Batch({KNOWN: z[:, ~self.latent]})
        residual = self.flow.sample(1, given=batch, solver=solver, key=key)[RESIDUAL][:, 0]
        center, width = _centers_and_widths(self, jnp.asarray(batch[KNOWN]))
        z[:, self.latent] = np.asarray(center) + np.asarray(width) * residual
        return unflatten(self.layout, np.asarray(scaling.inverse(z)), list(of))

    def density(
        self,
        scaling: Scaling,
        values: Mapping[str, np.ndarray],
        given: Mapping[str, np.ndarray],
        solver: AbstractSolver | None,
    ) -> Float[np.ndarray, " n"]:
        """Returns the log density of all own parameters in every row, given everything else."""
        z = self._scaled(scaling, {**given, **values})
        batch = Batch({KNOWN: z[:, ~self.latent]})
        center, width = (np.asarray(array) for array in _centers_and_widths(self, jnp.asarray(batch[KNOWN])))
        residual = (z[:, self.latent] - center) / width
        log_prob = self.flow.log_prob({RESIDUAL: residual}, given=batch, solver=solver)
        slope = np.asarray(scaling.log_slope(z))[:, self.latent]
        return log_prob - np.log(width).sum(axis=1) - slope.sum(axis=1)

    def _scaled(self, scaling: Scaling, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.array(scaling.forward(flatten(self.layout, rows, self.layout.names, where="`given`")))


@eqx.filter_jit
def _centers_and_widths(model: SiteParameterModel, known: Array) -> tuple[Array, Array]:
    return jax.vmap(model.center_and_width)(known)


def site_parameter_model(layout: Layout, path: Path | None, *, key: PRNGKeyArray) -> SiteParameterModel | None:
    """Returns an untrained model for one site.

    It is None if the site has no own parameters, or functions, whose numbers of points vary.
    """
    latent = layout.is_parameter & layout.is_own
    k, p = int(latent.sum()), int((~latent).sum())
    if not k or layout.functions:
        return None
    key_net, key_flow = jr.split(key)
    net = _network(p, k, key_net)
    # training starts from the baseline
    net = eqx.tree_at(lambda n: (n.layers[-1].weight, n.layers[-1].bias), net, replace_fn=jnp.zeros_like)
    flow_layout = Layout((Variable(RESIDUAL, (k,)), Variable(KNOWN, (p,), kind="data")))
    flow = posterior(flow_layout, net=ResMLP(96, 2), path=path, conditional_affine=False, key=key_flow)
    return SiteParameterModel(layout, jnp.zeros((p + 1, k)), jnp.zeros(k), net, flow)


@eqx.filter_jit
def _network(inputs: int, parameters: int, key: PRNGKeyArray) -> eqx.nn.MLP:
    return eqx.nn.MLP(inputs, 2 * parameters, 128, 3, jax.nn.silu, key=key)
