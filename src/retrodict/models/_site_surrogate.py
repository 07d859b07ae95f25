"""A surrogate of one site: its data given all parameters, cheap enough to be drawn from millions of times.

    y = [1, parameters] . trend + residual,    residual ~ model(residual | parameters)

The trend is a linear regression in the scaled coordinates of the model of one site; a flow learns the residual. Linear
dependence is then exact up to least squares. A network would know it to a few hundredths of a standard deviation, an
error that many sites add up.

If the data of a site are a few numbers, a `MixtureDensity` takes the place of the flow. It draws them one after the
other, with one evaluation of a network each, and a site whose data are a thousand times narrower than those of another
costs it nothing, whereas a flow blurs them.

A surrogate whose network is a `PointMLP` treats the points of functions as independent given all parameters. It also
predicts functions at new points, once the parameters of a site are drawn, as no other model learns that density alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict._runtime.blocks import in_blocks
from retrodict._types import as_key
from retrodict.models import _flow_answers
from retrodict.models._auto_solver import followed
from retrodict.models._factories import likelihood
from retrodict.models._flow import FlowModel
from retrodict.models._flow_rows import solve_rows
from retrodict.models._integer_elements import IntegerElements
from retrodict.models._mixture_density import ConditionalRows, MixtureDensity, Sizes
from retrodict.models._model import manifest_of, skeleton_of
from retrodict.nets import AbstractArchitecture, PointMLP, ResMLP
from retrodict.paths import Path
from retrodict.query.functions import slots
from retrodict.query.tokens import Batch, flatten
from retrodict.roles import ABSENT, GIVEN, LATENT, Known, Likelihood
from retrodict.solvers import AbstractSolver
from retrodict.transforms.affine import predict
from retrodict.transforms.scaling import Scaling, network_input_layout
from retrodict.variables import At, Layout


MAX_MIXTURE_NUMBERS = 32  # data of a site that a mixture density draws one after the other
MIXTURE_WIDTH, MIXTURE_DEPTH = 64, 3  # of its network
SITES_PER_BLOCK = 8192  # drawn together, always as many: one compiled shape


class Surrogate(eqx.Module):
    """A flow of residuals `(d,)` given parameters, and the regression `trend`, which is zero for parameters."""

    model: FlowModel
    trend: Float[Array, "q d"]
    is_baseline_only: ClassVar[bool] = False

    def prediction(self, z: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Returns the regression on the parameters of single sites, for every element."""
        return predict(self.trend, z[:, : len(self.trend) - 1])

    @property
    def predicts(self) -> bool:
        """Whether a datum depends on other data of its site through the parameters alone."""
        data = self.model.layout.data
        pointwise = self.model.architecture.pointwise and self.model.trained
        return pointwise and set(data) <= set(self.model.layout.functions)

    def seen_at(self, layout: Layout) -> "Surrogate":
        """Returns the same surrogate for the numbers of points of functions in `layout`."""
        trend = self.trend[:, self.model.layout.spread(layout)]
        return Surrogate(self.model.seen_at(_residual_layout(layout)), trend)

    def inputs(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n p"]:
        """Returns the parameters of single sites `(n, d)`, scaled, as the regression reads them."""
        return z[:, self.model.layout.is_parameter]

    def with_correction(self, correction: Float[np.ndarray, "q d"]) -> "Surrogate":
        """Returns the same surrogate with `correction` added to its trend."""
        return Surrogate(self.model, self.trend + jnp.asarray(correction, jnp.float32))

    def draw(
        self, scaling: Scaling, given: Batch, of: Mapping[str, At], solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> dict[str, np.ndarray]:
        """Draws functions `of` at points `(k,)` once, `(n, k)`, for each row of all parameters, in the user's units."""
        at_points = slots(scaling.layout, Batch({name: given[name] for name in scaling.layout.parameters}), of)
        layout, rows = at_points.layout, len(next(iter(given.values())))
        empty = {name: np.zeros((rows, *layout[name].shape), np.float32) for name in layout.data}
        resized = scaling.resized(layout)
        z = resized.of_rows(flatten(layout, {**at_points.given, **empty}, layout.names, where="`given`"))
        draws = np.asarray(resized.inverse(self.seen_at(layout).sample(z, key, solver)))
        return {name: draws[:, layout.slices[name]][:, at_points.answers[name]] for name in of}

    def sample(
        self, z: Float[np.ndarray, "n d"], key: PRNGKeyArray, solver: AbstractSolver | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Draws the data of single sites `(n, d)`, scaled, given their parameters; returns `z` with these data."""
        core = dataclasses.replace(self, model=self.model.without_training_state())
        way = followed(solver or _flow_answers.SAMPLER, self.model.path)

        def block(index: np.ndarray, k: int) -> Array:
            seed = jr.fold_in(key, k * SITES_PER_BLOCK)
            return _draws(core, way, jnp.asarray(z[index]), seed)

        return in_blocks(block, len(z), SITES_PER_BLOCK)

    def to_manifest(self) -> dict[str, Any]:
        return manifest_of(self.model)


class SiteMixture(eqx.Module):
    """The density of the data of one site, a few numbers, given its parameters; integers stay integers.

    `scaling` is that of the model of one site, `input_scaling` that of the parameters as network inputs.
    """

    layout: Layout = eqx.field(static=True)
    scaling: Scaling
    input_scaling: Scaling
    mixture: MixtureDensity
    integers: IntegerElements

    def inputs(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n p"]:
        """Returns the parameters of single sites `(n, d)`, scaled, as network inputs."""
        return self.input_scaling.of_rows(self.scaling.to_rows(z)[:, self.layout.is_parameter])

    def with_correction(self, correction: Float[np.ndarray, "q d"]) -> "SiteMixture":
        """Returns the same density with `correction` added to its trend, except for counts, known up to intervals."""
        baseline, data = self.mixture.baseline, ~self.layout.is_parameter
        change = np.where(self.integers.is_integer, 0.0, correction)[:, data] / baseline.width
        baseline = baseline._replace(trend=baseline.trend + jnp.asarray(change, jnp.float32))
        return dataclasses.replace(self, mixture=dataclasses.replace(self.mixture, baseline=baseline))

    def rows(self, values: Float[np.ndarray, "n d"]) -> ConditionalRows:
        """Returns training rows from sites `(n, d)` in the user's units."""
        data, is_integer = ~self.layout.is_parameter, self.integers.is_integer
        z = self.scaling.of_rows(values)
        # scaled, as heavy tails would otherwise leave a standard deviation to a few outliers
        y, low, high = (
            jnp.asarray(np.where(is_integer, u, z)[:, data], jnp.float32)
            for u in self.integers.unconstrain(values, self.layout.ends)
        )
        return ConditionalRows(jnp.asarray(self.inputs(z)), jnp.zeros(len(values), jnp.int32), y, low, high)

    def sample(
        self, z: Float[np.ndarray, "n d"], key: PRNGKeyArray, solver: AbstractSolver | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Draws as `Surrogate.sample` does; there is nothing to solve."""
        del solver
        data, is_integer, z = ~self.layout.is_parameter, self.integers.is_integer, np.array(z)
        u = np.zeros_like(z)
        u[:, data] = self.mixture.sample(self.inputs(z), np.zeros(len(z), np.int32), key)
        counts = self.scaling.of_rows(np.where(is_integer, self.integers.to_integers(u), 1.0))
        z[:, data] = np.where(is_integer, counts, u)[:, data]
        return z

    @property
    def is_baseline_only(self) -> bool:
        """Whether the density is the regression itself, without a network."""
        return self.mixture.is_baseline_only

    def to_manifest(self) -> dict[str, Any]:
        return {"kind": "mixture", "sizes": self.mixture.sizes._asdict()}


def site_mixture_of(layout: Layout, sizes: Sizes, *, key: PRNGKeyArray) -> SiteMixture:
    """Returns an untrained density of the given sizes for one site that has the variables of `layout`."""
    scaling, input_scaling = Scaling.identity(layout), Scaling.identity(network_input_layout(layout))
    mixture = MixtureDensity.blank(sizes, key=key)
    return SiteMixture(layout, scaling, input_scaling, mixture, IntegerElements.none(layout.size))


def surrogate_of(
    layout: Layout, net: AbstractArchitecture | None, path: Path | None, *, key: PRNGKeyArray
) -> Surrogate | SiteMixture:
    """Returns an untrained surrogate of a site that has the variables of `layout`, by default of the kind that fits."""
    parameters, numbers = int(layout.is_parameter.sum()), int((~layout.is_parameter).sum())
    if net is None and not layout.functions and numbers <= MAX_MIXTURE_NUMBERS:
        sizes = Sizes(1, parameters, numbers, width=MIXTURE_WIDTH, depth=MIXTURE_DEPTH)
        return site_mixture_of(layout, sizes, key=key)
    # drawn from millions of times, and only for residuals: smaller than other networks
    net = net or (PointMLP(64, 3) if layout.functions else ResMLP(64, 2))
    model = likelihood(_residual_layout(layout), net=net, path=path, conditional_affine=False, key=key)
    if net.pointwise:  # it draws point by point, so that their number need not vary in training
        model = dataclasses.replace(model, law=Known(Likelihood(), tuple(layout.places)))
    return Surrogate(model, jnp.zeros((1 + parameters, layout.size)))


def _residual_layout(layout: Layout) -> Layout:
    """Returns the layout of residuals of scaled elements, which lie anywhere on the real line."""
    return Layout(tuple(dataclasses.replace(v, low=-np.inf, high=np.inf) for v in layout.variables))


@eqx.filter_jit
def _draws(surrogate: Surrogate, solver: AbstractSolver, z: Array, key: PRNGKeyArray) -> Array:
    model, layout = surrogate.model, surrogate.model.layout
    trained_roles = np.full(layout.size, GIVEN)
    trained_roles[layout.tokens_of(layout.data)] = LATENT
    roles = jnp.where(jnp.isnan(z), ABSENT, jnp.asarray(trained_roles))
    for name in layout.functions:  # a value is drawn if its point is given
        block, points = layout.slices[name], z[:, layout.slices[f"{name}.at"]]
        empty = jnp.isnan(points.reshape(len(z), block.stop - block.start, -1)).any(axis=2)
        roles = roles.at[:, block].set(jnp.where(empty, ABSENT, trained_roles[block]))
    latent = roles == LATENT
    residual_z = model.scaling.forward(jnp.where(latent, 0.0, jnp.nan_to_num(z)))
    index = jnp.arange(len(z))
    scaling = model.scaling.only(model.modeled)
    residuals = scaling.inverse(solve_rows(model, solver, residual_z, roles, len(z), index, key))
    modeled = layout.tokens_of([name for name in layout.names if name not in layout.places])
    values = z.at[:, modeled].set(jnp.where(latent[:, modeled], residuals, z[:, modeled]))
    return jnp.where(latent, values + surrogate.prediction(z), values)


def surrogate_from_json(layout: Layout, fields: dict[str, Any]) -> Surrogate | SiteMixture:
    """Returns a surrogate of the same shape; its numbers are still to be read."""
    if fields.get("kind") == "mixture":
        return site_mixture_of(layout, Sizes(**fields["sizes"]), key=as_key(0))
    model: FlowModel = skeleton_of(fields)
    surrogate: Any = surrogate_of(layout, model.architecture, None, key=as_key(0))
    return dataclasses.replace(surrogate, model=model)
