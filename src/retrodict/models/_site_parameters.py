"""What one site has for itself, given all else about it: in coordinates that follow what is given.

    r = (eta - m) / s,    [m, log s] = a . [1, known] + net(known),    known = shared parameters and the site's data
    log p(eta | known) = log p(r | known) - sum of log s

The own parameters of one site may be known a thousand times better than before its data, and those of its neighbor
hardly at all. A flow in coordinates of the prior must find where and how narrow they are, and errs by the same amount
everywhere; here center and width are said outright, trained by the Gaussian log density, so that what they get wrong is
of the order of the width, and a flow learns what is left. (A `PlateTransformer` does the same for what sites share.)
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
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout, Variable


WIDEST = 5.0  # a log width further from the usual one is not believed
REST, KNOWN = "rest", "known"


class SiteParameterModel(eqx.Module):
    """A model of the own parameters `(k,)` of a site, given everything else about it `(p,)`, all scaled."""

    layout: Layout = eqx.field(static=True)
    line: Float[Array, "q k"]  # of the center on 1 and what is known
    usual: Float[Array, " k"]  # log width of what it leaves
    net: eqx.nn.MLP
    flow: FlowModel

    @property
    def asked(self) -> np.ndarray:
        """Where the own parameters lie among the elements of a site."""
        return self.layout.is_parameter & self.layout.is_own

    def place(self, known: Float[Array, " p"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Center and width, of sites unlike all others within what a prior can hold."""
        bend, stretch = jnp.split(self.net(known), 2)
        log_width = self.usual + WIDEST * jnp.tanh(stretch / WIDEST)
        # in units of a width that is usual: a network starts at numbers of order one
        center = jnp.append(1.0, known) @ self.line + jnp.exp(self.usual) * bend
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
        """A draw of the own parameters `of`, `(n, *shape)` each, for every row of everything else."""
        rows = len(next(iter(given.values())))
        names = [name for name in self.layout.names if name not in given]
        holes = {name: np.full((rows, *self.layout[name].shape), np.nan) for name in names}
        z = self._scaled(scaling, {**given, **holes})
        known = z[:, ~self.asked]
        rest = self.flow.sample(1, given=Batch({KNOWN: known}), solver=solver, key=key)[REST][:, 0]
        center, width = _places(self, jnp.asarray(known))
        z[:, self.asked] = np.asarray(center) + np.asarray(width) * rest
        return unflatten(self.layout, np.asarray(scaling.inverse(z)), list(of))

    def density(
        self,
        scaling: Scaling,
        values: Mapping[str, np.ndarray],
        given: Mapping[str, np.ndarray],
        solver: AbstractSolver | None,
    ) -> Float[np.ndarray, " n"]:
        """Log density of all own parameters in every row, given the rest of it."""
        z = self._scaled(scaling, {**given, **values})
        known = z[:, ~self.asked]
        center, width = (np.asarray(part) for part in _places(self, jnp.asarray(known)))
        found = self.flow.log_prob(
            {REST: (z[:, self.asked] - center) / width}, given=Batch({KNOWN: known}), solver=solver
        )
        slope = np.asarray(scaling.log_slope(z))[:, self.asked]
        return found - np.log(width).sum(axis=1) - slope.sum(axis=1)

    def _scaled(self, scaling: Scaling, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.array(scaling.forward(flatten(self.layout, rows, self.layout.names, where="`given`")))


@eqx.filter_jit
def _places(narrow: SiteParameterModel, known: Array) -> tuple[Array, Array]:
    return jax.vmap(narrow.place)(known)


def site_parameter_model(layout: Layout, path: Path | None, *, key: PRNGKeyArray) -> SiteParameterModel | None:
    """An untrained model for one site; None where it has no own parameters, or functions, of which there may be any
    number of points."""
    own = layout.is_parameter & layout.is_own
    k, p = int(own.sum()), int((~own).sum())
    if not k or layout.functions:
        return None
    key_net, key_flow = jr.split(key)
    net = _network(p, k, key_net)
    # it starts from the line
    net = eqx.tree_at(lambda n: (n.layers[-1].weight, n.layers[-1].bias), net, replace_fn=jnp.zeros_like)
    inner = Layout((Variable(REST, (k,)), Variable(KNOWN, (p,), kind="data")))
    flow = posterior(inner, net=ResMLP(96, 2), path=path, key=key_flow)
    return SiteParameterModel(layout, jnp.zeros((p + 1, k)), jnp.zeros(k), net, flow)


@eqx.filter_jit
def _network(known: int, asked: int, key: PRNGKeyArray) -> eqx.nn.MLP:
    return eqx.nn.MLP(known, 2 * asked, 128, 3, jax.nn.silu, key=key)
