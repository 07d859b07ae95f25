"""A generative model by a flow between noise and data, and any question about it.

With z the scaled tokens of one row, roles drawn from a law, t a time and x0 noise:

    training    z_t = path.mix(z, x0, t) at latent tokens, z at given ones, 0 at absent ones
                (interchangeable parts shuffled)
                loss = sum over latent i of w_i (prediction_i - target_i)^2 / sum over latent i of w_i
    sampling    start from noise at the latent tokens, hold the given ones, follow the velocity from t = 0 to 1
    density     the same flow backwards, with its divergence

With a `baseline` the flow leads from noise to the standardized residual of z at latent tokens (`joint_affine`).

(OneFlowSBI, arXiv 2601.22951, section 2.1.) Posterior, likelihood, joint and unconditional models are this one class
under four laws of roles.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict._runtime.precision import in_single_precision
from retrodict._types import Key, Roles, Scalar, Tokens, as_key
from retrodict.constraints import AbstractConstraint
from retrodict.densities import AbstractTrace, Exact, HutchPlusPlus
from retrodict.models import _flow_answers
from retrodict.models._flow_protocol import Ready
from retrodict.models._guided import Guided, ask_guided, sample_guided
from retrodict.models._manifest import flow_parts_from_json, path_to_json
from retrodict.models._model import AbstractModel
from retrodict.models._networks import built, structure_of
from retrodict.models._record import Record
from retrodict.nets import AbstractArchitecture, AbstractNet
from retrodict.paths import Denoised, Flow, Path
from retrodict.problem.dependencies import Dependencies
from retrodict.query import ONE_OBSERVATION, Query, count, unflatten
from retrodict.roles import ABSENT, GIVEN, LATENT, AbstractRoleLaw, Unconditional
from retrodict.solvers import AbstractSolver
from retrodict.transforms import JointAffine, Scaling
from retrodict.variables import Layout, places_of


MIN_WEIGHT = 1e-6  # of a row whose latent elements have no points
TIMES_PER_ROW = 8  # times and noises of one training row whose data are embedded
LAW_DRAWS = 64  # of roles, to see what a model was trained to predict


class FlowModel(AbstractModel):
    """A model of named variables by a flow; see `joint`, `posterior`, `likelihood`, `unconditional`."""

    layout: Layout = eqx.field(static=True)
    architecture: AbstractArchitecture = eqx.field(static=True)
    law: AbstractRoleLaw = eqx.field(static=True)
    record: Record = eqx.field(static=True)
    balanced: bool = eqx.field(static=True)
    dependencies: Dependencies | None = eqx.field(static=True)
    path: Path
    scaling: Scaling
    net: AbstractNet
    baseline: JointAffine | None = None
    chooses_baseline: bool = eqx.field(static=True, default=False)  # when its scaling is fitted
    kind: ClassVar[str] = "flow"

    @property
    def embedded(self) -> tuple[str, ...]:
        return self.architecture.embedded

    @property
    def _pieces(self) -> dict[str, int]:
        return {name: self.architecture.pieces(name) for name in self.embedded}

    @property
    def coordinates(self) -> Scaling:
        return self.scaling

    @property
    def description(self) -> dict[str, str]:
        law = getattr(self.law, "law", self.law)
        affine = {"affine baseline": "yes"} if self.scaling.affine is not None or self.baseline is not None else {}
        return {
            "kind": type(self).__name__,
            "network": str(self.architecture),
            "path": f"{type(self.path.schedule).__name__}, predicts the {self.path.parameterization.__name__}",
            "queries in training": type(law).__name__,
            **affine,
        }

    @property
    def kept(self) -> np.ndarray | slice:
        """The places of the tokens of `modeled` among all."""
        if self.embedded:
            return self.layout.tokens_of(self.modeled.names)
        return slice(self.modeled.size) if self.layout.places else slice(None)

    # one example at a time --------------------------------------------------------------------------------------------

    def ready(self, z: Tokens, roles: Roles) -> Ready:
        """Prepares scaled tokens and roles `(d,)`: the network computes once what stays the same along the flow."""
        prepared = self.net.prepare(jnp.where(roles == GIVEN, z, 0.0), roles)
        if self.baseline is None:
            return Ready(z[self.kept], roles[self.kept], prepared)
        ready = Ready(z, roles, prepared, *self.baseline.at(z, roles == GIVEN, roles == LATENT))
        return ready._replace(z=ready.unscaled(z))

    def predict(self, x: Tokens, ready: Ready, t: Scalar) -> Tokens:
        """Returns the network's prediction for noisy tokens `x` at time `t`, zero where not latent."""
        latent = ready.roles == LATENT
        fixed = jnp.where(ready.roles == GIVEN, ready.z, 0.0)

        def network(x: Tokens) -> Tokens:
            return self.net(jnp.where(latent, x, fixed), ready.roles, t, ready.prepared)

        return jnp.where(latent, self.path.predict(network, x, t), 0.0)

    def flow(self, z: Tokens, roles: Roles) -> Flow:
        """Returns the flow of latent tokens, the given ones held at `z`; all in the model's coordinates.

        With a `baseline` those of latent tokens are the residuals of this question, see `to_coordinates`. Velocity,
        score and denoised data and noise are functions `(x, t)` of the tokens of `modeled`, zero where not latent.
        """
        return self.flow_from(self.ready(z, roles))

    def flow_from(self, ready: Ready) -> Flow:
        """Returns `flow` from prepared tokens and roles."""
        latent = ready.roles == LATENT

        def guess(x: Tokens, t: Scalar) -> Denoised:
            x = jnp.where(latent, x, ready.z)
            denoised = self.path.guess(x, self.predict(x, ready, t), t)
            return Denoised(jnp.where(latent, denoised.data, 0.0), jnp.where(latent, denoised.noise, 0.0))

        return Flow(self.path, guess)

    def loss(self, z: Tokens, key: PRNGKeyArray, u: Scalar, key_roles: PRNGKeyArray | None = None) -> Scalar:
        """Returns the loss of one row of scaled tokens; `u`, uniform on (0, 1), sets the time.

        Rows with equal `key_roles` have equal roles.
        """
        key_row_roles, key_noise = jr.split(key)
        roles = self.law.draw(key_row_roles if key_roles is None else key_roles, self.layout)
        if self.dependencies is not None and self.dependencies.exchangeable:
            order, affine = self.dependencies.shuffle(self.layout)(jr.fold_in(key, 2)), self.scaling.affine
            z = z[order] if affine is None else affine.forward(affine.inverse(z)[order])  # it follows what is given
        if self.layout.functions:  # where a row has no point there is nothing to learn
            z, roles = jnp.nan_to_num(z), jnp.where(self._empty(z), ABSENT, roles)
        ready = self.ready(z, roles)

        def once(key: PRNGKeyArray, u: Scalar) -> Scalar:
            x0, t = self.path.noise(key, ready.z.shape), self.path.time(u)
            z_t = jnp.where(ready.roles == LATENT, self.path.mix(ready.z, x0, t), ready.z)
            error = self.predict(z_t, ready, t) - self.path.target(ready.z, x0, t)
            weight = jnp.where(ready.roles == LATENT, self._weights(), 0.0)
            total = jnp.sum(weight) if not self.layout.functions else jnp.maximum(jnp.sum(weight), MIN_WEIGHT)
            return self.path.weight(t) * jnp.sum(weight * error**2) / total

        if not self.embedded:
            return once(key_noise, u)
        # reading an image costs more than the rest: several times and noises share one reading
        return jnp.mean(
            jax.vmap(once)(jr.split(key_noise, TIMES_PER_ROW), (u + jnp.arange(TIMES_PER_ROW) / TIMES_PER_ROW) % 1.0)
        )

    def _empty(self, z: Tokens) -> Bool[Array, " d"]:
        """Returns the elements without a value, and those of functions without a place."""
        missing = jnp.isnan(z)
        for name in self.layout.functions:
            block, places = self.layout.slices[name], missing[self.layout.slices[places_of(name)]]
            missing = missing.at[block].max(jnp.any(places.reshape(block.stop - block.start, -1), axis=1))
        return missing

    def _weights(self) -> Tokens:
        parameter, size = self.modeled.is_parameter, self.modeled.size
        n = int(parameter.sum())
        if not self.balanced or n in (0, size):
            return jnp.ones(size)
        return jnp.where(parameter, (size - n) / n, 1.0)

    # queries ----------------------------------------------------------------------------------------------------------

    def refusal(self, query: Query) -> str | None:
        model = self._resized(query.layout)
        if reason := model.net.refusal(query.roles):
            return reason
        try:
            _flow_answers.widened(model, query.roles)
        except QueryError as error:
            return str(error)
        if query.guided and self.scaling.affine is not None:
            return "constraints act on single elements, which conditional_affine=True mixes; ask a model without it"
        if query.strength != 1.0 and not query.correct and self.baseline is not None:
            return "a strength needs correct=True in a model with an affine baseline; or train one without it"
        return None

    def learned_to_predict(self, targets: np.ndarray, inputs: np.ndarray) -> bool:
        keys = jr.split(jr.key(0), LAW_DRAWS)
        roles = np.asarray(jax.vmap(lambda key: self.law.draw(key, self.layout))(keys))
        latent, inputs_given = roles[:, targets] == LATENT, roles[:, inputs] == GIVEN
        return bool(np.any(latent.any(axis=1) & inputs_given.any(axis=1)))

    def _sample(self, query: Query, n: int, *, solver: AbstractSolver | None, key: PRNGKeyArray) -> Any:
        model = self._resized(query.layout)
        if query.guided:
            return sample_guided(model, query, n, solver=solver, key=key)
        return _flow_answers.sample(model, query, n, solver, key)

    @in_single_precision
    def guided(
        self,
        n: int,
        *,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        guide: Sequence[AbstractConstraint] = (),
        strength: float = 1.0,
        solver: AbstractSolver | None = None,
        key: Key,
    ) -> Guided:
        """Returns `n` guided draws with the weights that make them right, and their effective sample size.

        Arguments and errors are those of `sample`; the solver must be one of fixed steps without noise of its own.
        """
        query = self.parse(given, of, guide=guide, strength=strength)
        if query.batched:
            raise QueryError(ONE_OBSERVATION)
        return ask_guided(self._resized(query.layout), query, count(n), solver=solver, key=key)

    def _log_prob(
        self, query: Query, rows: np.ndarray, *, solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> np.ndarray:
        return self._density(query, rows, solver, Exact(), key).estimates[:, 0]

    def _density(
        self,
        query: Query,
        rows: np.ndarray,
        solver: AbstractSolver | None,
        trace: AbstractTrace,
        key: Key,
        *,
        slopes: bool = False,
    ) -> _flow_answers.Densities:
        return _flow_answers.density(self._resized(query.layout), query, rows, solver, trace, key, slopes=slopes)

    @in_single_precision
    def estimate_log_prob(
        self,
        values: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        trace: AbstractTrace | None = None,
        solver: AbstractSolver | None = None,
        key: Key,
    ) -> _flow_answers.Estimate:
        """Estimates a log density and its standard error, `(n,)` each, at a cost that does not grow with the elements.

        Unbiased up to the solver's error; `trace` is `rd.densities.HutchPlusPlus()` by default. Arguments and errors
        are otherwise those of `log_prob`.
        """
        query, rows, _ = self._parse_values(values, given)
        trace = trace or HutchPlusPlus()
        densities = self._density(self._accepted(query), rows, solver, trace, key)
        error = trace.error(densities.estimates, densities.latent)
        return _flow_answers.Estimate(densities.estimates.mean(axis=1), np.asarray(error))

    @in_single_precision
    def grad_log_prob(
        self,
        values: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        solver: AbstractSolver | None = None,
    ) -> _flow_answers.Gradient:
        """Returns log densities `(n,)` and their gradients by values and givens, `(n, *shape)` each by name.

        In the user's units; NaN where an element is neither asked nor given. Arguments and errors are those of
        `log_prob`; outside the supports gradients are NaN.
        """
        _flow_answers.refuse_functions(self, "grad_log_prob")
        query, rows, _ = self._parse_values(values, given)
        densities = self._density(self._accepted(query), rows, solver, Exact(), 0, slopes=True)
        slope = np.where(np.isfinite(densities.estimates), densities.slope, np.nan)

        def by_name(role: int, names: Iterable[str]) -> dict[str, np.ndarray]:
            return unflatten(self.layout, np.where(query.roles == role, slope, np.nan), names)

        return _flow_answers.Gradient(densities.estimates[:, 0], by_name(LATENT, values), by_name(GIVEN, given or {}))

    def velocity(
        self, values: Mapping[str, Any], t: float, *, given: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the velocity of noisy values `(n, *shape)` at time `t`, given the values `given` (in user's units).

        Noisy values have no units: they and their velocity are in the model's coordinates, unconstrained and
        standardized, see `to_coordinates` and `from_coordinates`. Inside JAX use `flow`.

        Raises:
            QueryError: a wrong name, or a time outside the path's span.
            DataError: a value of the wrong shape or type.
        """
        return self._field("velocity", values, t, given)

    def score(
        self, values: Mapping[str, Any], t: float, *, given: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the score, the gradient of the log density of noisy values; otherwise as `velocity`.

        Raises:
            QueryError: besides, where the path's noise is not Gaussian or there is none at `t`.
        """
        return self._field("score", values, t, given)

    @in_single_precision
    def _field(
        self, kind: str, values: Mapping[str, Any], t: float, given: Mapping[str, Any] | None
    ) -> dict[str, np.ndarray]:
        _flow_answers.refuse_functions(self, kind)
        query, rows, _ = self._parse_values(values, given)
        return unflatten(self.modeled, _flow_answers.field(self, kind, query, rows, t), values)

    def to_coordinates(
        self, values: Mapping[str, Any], *, given: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns values `(n, *shape)` in the model's coordinates: unconstrained and standardized.

        With a `baseline`, and `given`, in those of `velocity`, `score` and `flow`: the residuals of `values`. A model
        of one question with conditional_affine=True needs all variables in `values`, else there is a QueryError.
        """
        return self._converted(values, given, self.scaling.forward, _flow_answers.to_residuals)

    def from_coordinates(
        self, values: Mapping[str, Any], *, given: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the inverse of `to_coordinates`; `given` is in the user's units."""
        return self._converted(values, given, self.scaling.inverse, _flow_answers.from_residuals)

    @in_single_precision
    def _converted(self, values: Any, given: Any, plain: Callable[..., Any], residual: Callable[..., Any]) -> Any:
        if self.baseline is None or given is None:
            return _flow_answers.in_coordinates(self, values, plain)
        query, rows, _ = self._parse_values(values, given)
        return unflatten(self.layout, residual(self, query, rows), values)

    def _density_function(self, query: Query) -> Callable[[Array], Array]:
        return _flow_answers.density_function(self._resized(query.layout), query)

    def _sampler_function(self, query: Query) -> Callable[[PRNGKeyArray], Array]:
        return _flow_answers.sampler_function(self._resized(query.layout), query)

    def as_flow(self, method: str) -> "FlowModel":
        del method
        return self

    # other forms of the same model ------------------------------------------------------------------------------------

    def seen_at(self, layout: Layout) -> "FlowModel":
        """Returns the same model for other numbers of points of its functions, as `layout` has them."""
        if layout == self.layout:
            return self
        structure = structure_of(self.architecture, layout, self.law, self.dependencies)
        net = jax.tree.unflatten(structure, jax.tree.leaves(self.net))
        return dataclasses.replace(self, layout=layout, scaling=self.scaling.resized(layout), net=net)

    _resized = seen_at

    def with_net(self, architecture: AbstractArchitecture, *, key: Key) -> "FlowModel":
        """Returns the same variables and coordinates with another network, untrained."""
        net = built(architecture, self.layout, self.law, self.dependencies, as_key(key))
        return dataclasses.replace(self, architecture=architecture, net=net)

    def without_training_state(self) -> "FlowModel":
        """Returns the model without what only training knows, so that equal models share compiled code."""
        return dataclasses.replace(self, record=Record(), law=Unconditional(), balanced=False, chooses_baseline=False)

    core = without_training_state  # the name of earlier versions

    def to_manifest(self) -> dict[str, Any]:
        return {
            "layout": self.layout.to_json(),
            "net": self.architecture.to_json(),
            "path": path_to_json(self.path),
            "roles": self.law.to_json(),
            "balanced": self.balanced,
            "framed": self.scaling.affine is not None,
            "baseline": "to be chosen" if self.chooses_baseline else self.baseline is not None,
            "dependencies": None if self.dependencies is None else self.dependencies.to_json(),
            "record": self.calibration.to_json(),
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "FlowModel":
        parts = flow_parts_from_json(manifest)
        net = built(parts["architecture"], parts["layout"], parts["law"], parts["dependencies"], as_key(0))
        return cls(**parts, net=net)
