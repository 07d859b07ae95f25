"""A surrogate of one site: its data given all parameters, cheap enough to be drawn from by the million.

A linear regression on the parameters is taken off the data before a network learns what is left,

    y = [1, parameters] . trend + residual,    residual ~ model(residual | parameters)

in the scaled coordinates of the model of one site. What is linear is exact up to least squares; a network would know
it to a few hundredths of a standard deviation, which many sites add up.

Where data are a few numbers, a `MixtureDensity` says them one after the other: in one look each, and a site that is a
thousand times narrower than another costs it nothing, which a flow blurs.

A surrogate whose network is a `PointMLP` takes the points of functions for independent given all parameters. Then it
also predicts them at any points once the parameters of a site are drawn: nobody else learned that law alone.
"""

import dataclasses
from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.models import _flow_answers
from retrodict.models._factories import likelihood
from retrodict.models._flow import FlowModel
from retrodict.models._flow_rows import solve_rows
from retrodict.models._mixture_density import IntegerElements, MixtureDensity, Pairs, Sizes, told
from retrodict.nets import AbstractArchitecture, PointMLP, ResMLP
from retrodict.paths import Path
from retrodict.query.functions import slots
from retrodict.query.tokens import Batch, flatten
from retrodict.roles import ABSENT, GIVEN, LATENT, Known, Likelihood
from retrodict.solvers import AbstractSolver
from retrodict.transforms.scaling import Scaling
from retrodict.variables import At, Layout


FEW = 32  # numbers that a site has, to be said one after the other
WIDTH, DEPTH = 64, 3  # of the network that says them
AT_ONCE = 8192  # single sites drawn together, always as many: one compiled shape


class Surrogate(eqx.Module):
    """A model of residuals `(d,)` given parameters, and the regression `(1 + p, d)`, zero but for data."""

    model: FlowModel
    trend: Float[Array, "p d"]

    def expected(self, z: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """What the regression on the parameters expects of every element."""
        p = len(self.trend) - 1
        return jnp.concatenate([jnp.ones((len(z), 1)), z[:, :p]], axis=1) @ self.trend

    @property
    def predicts(self) -> bool:
        """Whether other data of a site say nothing more about a datum once all parameters are known."""
        data = self.model.layout.data
        pointwise = isinstance(self.model.architecture, PointMLP) and self.model.trained
        return pointwise and set(data) <= set(self.model.layout.functions)

    def seen_at(self, layout: Layout) -> "Surrogate":
        """The same surrogate for other numbers of points of its functions, as `layout` has them."""
        trend = self.trend[:, self.model.layout.spread(layout)]
        return Surrogate(self.model.seen_at(_residuals(layout)), trend)

    def known(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n p"]:
        """What it is told of single sites `(n, d)`, scaled."""
        return z[:, self.model.layout.is_parameter]

    def shifted(self, by: Float[np.ndarray, "q d"]) -> "Surrogate":
        """The same with another regression."""
        return Surrogate(self.model, self.trend + jnp.asarray(by, jnp.float32))

    def draw(
        self, scaling: Scaling, given: Batch, of: Mapping[str, At], solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        """Functions `of` at points `(k,)`, a draw `(n, k)` for every row of all parameters, in the user's units."""
        asked = slots(scaling.layout, Batch({name: given[name] for name in scaling.layout.parameters}), of)
        layout, rows = asked.layout, len(next(iter(given.values())))
        empty = {name: np.zeros((rows, *layout[name].shape), np.float32) for name in layout.data}
        scaled = scaling.resized(layout)
        z = scaled.of_rows(flatten(layout, {**asked.given, **empty}, layout.names, where="`given`"))
        found = np.asarray(scaled.inverse(self.seen_at(layout).sample(z, key, solver)))
        return {name: found[:, layout.slices[name]][:, asked.answers[name]] for name in of}

    def sample(
        self, z: Float[np.ndarray, "n d"], key: PRNGKeyArray, solver: AbstractSolver | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Single sites `(n, d)`, scaled: their data drawn, all else as it is in `z`."""
        parts, core, solver = [], dataclasses.replace(self, model=self.model.core()), solver or _flow_answers.SAMPLER
        for start in range(0, len(z), AT_ONCE):
            block = jnp.asarray(z[start : start + AT_ONCE])
            padded = jnp.pad(block, ((0, AT_ONCE - len(block)), (0, 0)))
            parts.append(np.asarray(_drawn(core, solver, padded, jr.fold_in(key, start)))[: len(block)])
        return np.concatenate(parts)


class SiteMixture(eqx.Module):
    """The data of one site that are numbers, given its parameters; whole ones stay whole.

    `scaling` is that of the site's model, `seen` that of the parameters as the mixture is told them.
    """

    layout: Layout = eqx.field(static=True)
    scaling: Scaling
    seen: Scaling
    mixture: MixtureDensity
    whole: IntegerElements

    def known(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n p"]:
        """What it is told of single sites `(n, d)`, scaled."""
        return self.seen.of_rows(self.scaling.to_rows(z)[:, self.layout.is_parameter])

    def shifted(self, by: Float[np.ndarray, "q d"]) -> "SiteMixture":
        """The same with another regression; not of counts, which are known to intervals."""
        frame, data = self.mixture.frame, ~self.layout.is_parameter
        by = np.where(self.whole.which, 0.0, by)[:, data] / frame.width
        frame = frame._replace(trend=frame.trend + jnp.asarray(by, jnp.float32))
        return dataclasses.replace(self, mixture=dataclasses.replace(self.mixture, frame=frame))

    def pairs(self, rows: Float[np.ndarray, "n d"]) -> Pairs:
        """The data of sites `(n, d)`, in the user's units, beside their parameters."""
        own = self.layout.is_parameter
        z, line = self.scaling.of_rows(rows), self.whole.line(rows, self.layout.ends)
        # scaled, as tails may be heavy: a few outliers would be all that a standard deviation knows
        y, low, high = (jnp.asarray(np.where(self.whole.which, u, z)[:, ~own], jnp.float32) for u in line)
        return Pairs(jnp.asarray(self.known(z)), jnp.zeros(len(rows), jnp.int32), y, low, high)

    def sample(
        self, z: Float[np.ndarray, "n d"], key: PRNGKeyArray, solver: AbstractSolver | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Single sites `(n, d)`, scaled: their data drawn, all else as it is in `z`; there is nothing to solve."""
        del solver
        own, z = self.layout.is_parameter, np.array(z)
        u = np.zeros_like(z)
        u[:, ~own] = self.mixture.sample(self.known(z), np.zeros(len(z), np.int32), key)
        counted = self.scaling.of_rows(np.where(self.whole.which, self.whole.counted(u), 1.0))
        z[:, ~own] = np.where(self.whole.which, counted, u)[:, ~own]
        return z


def site_mixture_of(layout: Layout, sizes: Sizes, *, key: PRNGKeyArray) -> SiteMixture:
    """An untrained surrogate of the shape that a file tells."""
    nothing = jnp.zeros(layout.size)
    whole = IntegerElements(jnp.zeros(layout.size, bool), nothing, nothing)
    scaling, seen = (Scaling.identity(of) for of in (layout, told(layout)))
    return SiteMixture(layout, scaling, seen, MixtureDensity.blank(sizes, key=key), whole)


def surrogate_of(
    layout: Layout, net: AbstractArchitecture | None, path: Path | None, *, key: PRNGKeyArray
) -> Surrogate | SiteMixture:
    """An untrained surrogate of one site that has the variables of `layout`; without a network the one that suits."""
    known, numbers = int(layout.is_parameter.sum()), int((~layout.is_parameter).sum())
    if net is None and not layout.functions and numbers <= FEW:
        return site_mixture_of(layout, Sizes(1, known, numbers, width=WIDTH, depth=DEPTH), key=key)
    # drawn from by the million, and what is linear is taken off before: smaller than other networks
    net = net or (PointMLP(64, 3) if layout.functions else ResMLP(64, 2))
    trend = jnp.zeros((1 + int(layout.is_parameter.sum()), layout.size))
    model = likelihood(_residuals(layout), net=net, path=path, key=key)
    if isinstance(net, PointMLP):  # it draws point by point: how many there are is nothing to learn
        model = dataclasses.replace(model, law=Known(Likelihood(), tuple(layout.places)))
    return Surrogate(model, trend)


def _residuals(layout: Layout) -> Layout:
    """The layout of what a regression leaves of scaled elements, which is anywhere on the real line."""
    return Layout(tuple(dataclasses.replace(v, low=-np.inf, high=np.inf) for v in layout.variables))


@eqx.filter_jit
def _drawn(surrogate: Surrogate, solver: AbstractSolver, z: Array, key: PRNGKeyArray) -> Array:
    model, layout = surrogate.model, surrogate.model.layout
    roles = np.full(layout.size, GIVEN)
    roles[layout.tokens_of(layout.data)] = LATENT
    where = jnp.where(jnp.isnan(z), ABSENT, jnp.asarray(roles))
    for name in layout.functions:  # a value is drawn where there is a point
        block, there = layout.slices[name], z[:, layout.slices[f"{name}.at"]]
        empty = jnp.isnan(there.reshape(len(z), block.stop - block.start, -1)).any(axis=2)
        where = where.at[:, block].set(jnp.where(empty, ABSENT, roles[block]))
    known = jnp.where(where == LATENT, 0.0, jnp.nan_to_num(z))
    inner, which = model.scaling.forward(known), jnp.arange(len(z))
    drawn = solve_rows(model, solver, inner, where, len(z), which, key)
    kept = layout.tokens_of([name for name in layout.names if name not in layout.places])
    found = z.at[:, kept].set(jnp.where(where[:, kept] == LATENT, drawn, z[:, kept]))
    return jnp.where(where == LATENT, found + surrogate.expected(z), found)
