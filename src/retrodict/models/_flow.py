"""One generative model of everything the simulator touches, and any question about it.

With z the scaled tokens of one row, roles drawn from a law, t a time and x0 noise:

    training    z_t = path.mix(z, x0, t) at latent tokens, z at given ones, 0 at absent ones
                (interchangeable parts shuffled)
                loss = sum over latent i of w_i (prediction_i - target_i)^2 / sum over latent i of w_i
    sampling    start from noise at the latent tokens, hold the given ones, follow the velocity from t = 0 to 1
    density     the same flow backwards, with its divergence

(OneFlowSBI, arXiv 2601.22951, section 2.1.) Posterior, likelihood, joint and unconditional models are this one class
under four laws of roles.
"""

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from retrodict._types import Key, Roles, Scalar, Tokens, as_key
from retrodict.constraints import AbstractConstraint, Interval
from retrodict.densities import AbstractTrace, Exact, HutchPlusPlus
from retrodict.models import _flow_answers
from retrodict.models._guided import Guided, ask_guided, is_guided, sample_guided
from retrodict.models._record import CalibrationWarning, Record, concerns, fingerprint
from retrodict.nets import AbstractArchitecture, AbstractNet
from retrodict.paths import Denoised, Flow, Path
from retrodict.problem.dependencies import Dependencies
from retrodict.query.tokens import Batch, unflatten
from retrodict.roles import ABSENT, GIVEN, LATENT, AbstractRoleLaw, Unconditional
from retrodict.solvers import AbstractSolver
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout, places_of


LEAST = 1e-6  # the weight of a row whose latent elements have no points
TIMES = 8  # times and noises of one training row whose data are embedded


class Estimate(NamedTuple):
    """A log density that was found by random probes, and its standard error."""

    value: np.ndarray
    standard_error: np.ndarray


class Gradient(NamedTuple):
    """A log density and its gradients with respect to the values and to what was given, by name."""

    log_prob: np.ndarray
    values: dict[str, np.ndarray]
    given: dict[str, np.ndarray]


class Ready(NamedTuple):
    """Scaled tokens `z` and `roles` of what can be asked, and what the network prepared."""

    z: Tokens
    roles: Roles
    prepared: Any


class FlowModel(eqx.Module):
    """A trained or untrained model; see `joint`, `posterior`, `likelihood`, `unconditional`."""

    layout: Layout = eqx.field(static=True)
    architecture: AbstractArchitecture = eqx.field(static=True)
    law: AbstractRoleLaw = eqx.field(static=True)
    record: Record = eqx.field(static=True)
    balanced: bool = eqx.field(static=True)
    dependencies: Dependencies | None = eqx.field(static=True)
    path: Path
    scaling: Scaling
    net: AbstractNet

    @property
    def trained(self) -> bool:
        """Whether `fit` has seen this model."""
        return self.record.steps > 0

    @property
    def calibration(self) -> Record:
        """The record, with those checks and solvers alone that belong to the numbers that the model has now."""
        return self.record.of(fingerprint(self)) if self.record.calibrations or self.record.solvers else self.record

    @property
    def embedded(self) -> tuple[str, ...]:
        """Variables that the network reads as a whole; they can be given or left out, not asked."""
        return self.architecture.embedded

    @property
    def modeled(self) -> Layout:
        """The layout of the variables that can be asked."""
        return self.layout.without((*self.embedded, *self.layout.places))

    @property
    def kept(self) -> np.ndarray | slice:
        """Where the tokens of `modeled` lie among all."""
        if self.embedded:
            return self.layout.tokens_of(self.modeled.names)
        return slice(self.modeled.size) if self.layout.places else slice(None)

    # one example at a time --------------------------------------------------------------------------------------------

    def ready(self, z: Tokens, roles: Roles) -> Ready:
        """Scaled tokens and roles of the whole layout, made ready for a way along the path.

        The network prepares what stays the same. Variables that it reads as a whole are then done with: what follows
        works with the tokens of `modeled`, the layout without them.
        """
        prepared = self.net.prepare(jnp.where(roles == GIVEN, z, 0.0), roles)
        return Ready(z[self.kept], roles[self.kept], prepared)

    def predict(self, x: Tokens, ready: Ready, t: Scalar) -> Tokens:
        """The network's prediction about noisy tokens `x` at time `t`, zero where not latent."""
        latent = ready.roles == LATENT
        held = jnp.where(ready.roles == GIVEN, ready.z, 0.0)

        def network(x: Tokens) -> Tokens:
            return self.net(jnp.where(latent, x, held), ready.roles, t, ready.prepared)

        return jnp.where(latent, self.path.predict(network, x, t), 0.0)

    def flow(self, z: Tokens, roles: Roles) -> Flow:
        """The flow of latent tokens, the given ones held at `z`; all in the model's coordinates.

        This is what guidance, composition and MCMC build on: a velocity, a score and a guess of data and noise as plain
        functions `(x, t)` of the tokens of `modeled`, zero where not latent.
        """
        return self.flow_from(self.ready(z, roles))

    def flow_from(self, ready: Ready) -> Flow:
        """`flow`, from what was made ready before."""
        latent = ready.roles == LATENT

        def guess(x: Tokens, t: Scalar) -> Denoised:
            x = jnp.where(latent, x, ready.z)
            found = self.path.guess(x, self.predict(x, ready, t), t)
            return Denoised(jnp.where(latent, found.data, 0.0), jnp.where(latent, found.noise, 0.0))

        return Flow(self.path, guess)

    def loss(self, z: Tokens, key: PRNGKeyArray, u: Scalar) -> Scalar:
        """The loss of one row of scaled tokens; `u`, uniform on (0, 1), sets the time."""
        key_roles, key_noise = jr.split(key)
        roles = self.law.draw(key_roles, self.layout)
        if self.dependencies is not None and self.dependencies.exchangeable:
            order, frame = self.dependencies.shuffle(self.layout)(jr.fold_in(key, 2)), self.scaling.affine
            z = z[order] if frame is None else frame.forward(frame.inverse(z)[order])  # which follows what it sees
        if self.layout.functions:  # where a row has no point there is nothing to learn
            z, roles = jnp.nan_to_num(z), jnp.where(self._empty(z), ABSENT, roles)
        ready = self.ready(z, roles)

        def once(key: PRNGKeyArray, u: Scalar) -> Scalar:
            x0, t = self.path.noise(key, ready.z.shape), self.path.time(u)
            z_t = jnp.where(ready.roles == LATENT, self.path.mix(ready.z, x0, t), ready.z)
            error = self.predict(z_t, ready, t) - self.path.target(ready.z, x0, t)
            weight = jnp.where(ready.roles == LATENT, self._weights(), 0.0)
            total = jnp.sum(weight) if not self.layout.functions else jnp.maximum(jnp.sum(weight), LEAST)
            return self.path.weight(t) * jnp.sum(weight * error**2) / total

        if not self.embedded:
            return once(key_noise, u)
        # reading a whole image costs more than all that follows: several times and noises share one reading
        return jnp.mean(jax.vmap(once)(jr.split(key_noise, TIMES), (u + jnp.arange(TIMES) / TIMES) % 1.0))

    def _empty(self, z: Tokens) -> Bool[Array, " d"]:
        """Elements without a value, and those of functions without a place."""
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

    # questions in names -----------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        *,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        guide: Sequence[AbstractConstraint] = (),
        strength: float = 1.0,
        correct: bool = True,
        solver: AbstractSolver | None = None,
        key: Key,
    ) -> dict[str, np.ndarray]:
        """Draws of the variables `of`, `(n, *shape)` each, given the values `given`.

        NaN in `given` means not observed. `of` defaults to the variables that `given` does not name; those in neither
        are integrated out. `of={name: mask}` asks for some elements only, the others come back as NaN; `{name: None}`
        is the name alone. With `given=rd.Batch({...})` of B observations the draws are `(B, n, *shape)`.

        A function is given as `rd.At(points, values)`, any number of them, and asked by `of={name: rd.At(points)}`, at
        which points its draws are; its values may be an `rd.Interval`. In a Batch, points and values have a leading
        axis, NaN where an observation has fewer of them.

        What else must hold comes as `rd.Interval` in `given` and as constraints in `guide`; `strength` above 1 trusts
        what is given more than once (classifier-free guidance). Such draws are guided, weighted by what guidance got
        wrong, and resampled: proposals are added until they are worth half of `n`, at most four times `n`; see `guided`
        for the weights. With `correct=False` they are what guidance alone gives, by any solver.

        Raises:
            QueryError: a name that this model does not have, nothing left to ask, `n` below 1, a solver that cannot
                follow this model's path, or constraints that no draw satisfies.
            DataError: a value of the wrong shape or type, or outside its support.

        Warns:
            GuidanceWarning: guided proposals are worth less than a tenth of their number.
            SolverWarning: `solver` is `rd.solvers.Auto`, and nothing that it tried reaches the wanted error.
            CalibrationWarning: the model was checked by `rd.check`, but not for questions like this one, or it failed
                there, or what is given is unlike the simulations.
        """
        count = _flow_answers.count(n)
        for sentence in self.concerns(given, of) if self.record.calibrations else ():
            warnings.warn(sentence, CalibrationWarning, stacklevel=3)  # equinox wraps methods
        model, given, of, answers = _flow_answers.at_points(self, given, of)
        if is_guided(given, guide, strength):
            rest: dict[str, Any] = {"solver": solver, "correct": correct, "key": key}
            draws = sample_guided(model, count, given=given, guide=guide, of=of, strength=strength, **rest)
        else:
            draws = _flow_answers.sample(model, count, given, of, solver or _flow_answers.SAMPLER, as_key(key))
        return {k: v[..., answers[k]] if k in answers else v for k, v in draws.items()}

    def concerns(
        self, given: Mapping[str, Any] | None = None, of: Iterable[str] | Mapping[str, Any] | None = None
    ) -> list[str]:
        """What the model's calibration has to say against a question, a sentence each; `sample` warns of them."""
        model, known, of, _ = _flow_answers.at_points(self, given, of)
        if isinstance(known, Mapping) and not isinstance(known, Batch):
            known = {name: value for name, value in known.items() if not isinstance(value, Interval)}
        return concerns(self.calibration, model, _flow_answers.questioned(model, known, of))

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
        """`n` guided draws with the weights that make them right, and how many independent draws they are worth.

        Arguments and errors are those of `sample`; the solver must be one of fixed steps without noise of its own.
        """
        count = _flow_answers.count(n)
        model, given, of, answers = _flow_answers.at_points(self, given, of)
        found = ask_guided(model, count, given=given, guide=guide, of=of, strength=strength, solver=solver, key=key)
        draws = {k: v[..., answers[k]] if k in answers else v for k, v in found.draws.items()}
        return dataclasses.replace(found, draws=draws)

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
        it is minus infinity. The divergence is exact; for hundreds of latent elements see `estimate_log_prob`.

        Raises:
            QueryError: a name that this model does not have, one both asked and given, or a solver without densities.
            DataError: a value of the wrong shape or type, or NaN in some rows only.
        """
        return _flow_answers.density(self, values, given, solver, Exact(), 0).estimates[:, 0]

    def estimate_log_prob(
        self,
        values: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        trace: AbstractTrace | None = None,
        solver: AbstractSolver | None = None,
        key: Key,
    ) -> Estimate:
        """Log density and its standard error, `(n,)` each, at a cost that does not grow with the latent elements.

        Unbiased up to the solver's error; `trace` is `rd.densities.HutchPlusPlus()` by default. Arguments and errors
        are otherwise those of `log_prob`.
        """
        trace = trace or HutchPlusPlus()
        found = _flow_answers.density(self, values, given, solver, trace, key)
        return Estimate(found.estimates.mean(axis=1), np.asarray(trace.error(found.estimates, found.latent)))

    def grad_log_prob(
        self,
        values: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        solver: AbstractSolver | None = None,
    ) -> Gradient:
        """Log density `(n,)` with its gradients with respect to values and givens, `(n, *shape)` each by name.

        In the user's units; NaN where an element is neither asked nor given. Arguments and errors are those of
        `log_prob`; outside the supports gradients are NaN.
        """
        _flow_answers.no_functions(self, "grad_log_prob")
        found = _flow_answers.density(self, values, given, solver, Exact(), 0, slopes=True)
        slope = np.where(np.isfinite(found.estimates), found.slope, np.nan)

        def of(role: int, names: Iterable[str]) -> dict[str, np.ndarray]:
            return unflatten(self.layout, np.where(found.roles == role, slope, np.nan), names)

        return Gradient(found.estimates[:, 0], of(LATENT, values), of(GIVEN, given or {}))

    def velocity(
        self, values: Mapping[str, Any], t: float, *, given: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """The velocity of noisy values `(n, *shape)` at time `t`, given the values `given` (in the user's units).

        Noisy values have no units: they and their velocity are in the model's coordinates, unconstrained and
        standardized, see `to_coordinates` and `from_coordinates`. Inside JAX use `flow`.

        Raises:
            QueryError: a wrong name, or a time outside the path's span.
            DataError: a value of the wrong shape or type.
        """
        return _flow_answers.field(self, "velocity", values, t, given)

    def score(
        self, values: Mapping[str, Any], t: float, *, given: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """The score, the gradient of the log density of noisy values; otherwise as `velocity`.

        Raises:
            QueryError: besides, where the path's noise is not Gaussian or there is none at `t`.
        """
        return _flow_answers.field(self, "score", values, t, given)

    def to_coordinates(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Values `(n, *shape)` in the user's units in the model's coordinates: unconstrained and standardized.

        A framed model follows what is given, so that it needs values of all variables; else there is a QueryError.
        """
        return _flow_answers.in_coordinates(self, values, self.scaling.forward)

    def from_coordinates(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The inverse of `to_coordinates`."""
        return _flow_answers.in_coordinates(self, values, self.scaling.inverse)

    def seen_at(self, layout: Layout) -> "FlowModel":
        """The same model for other numbers of points of its functions, as `layout` has them."""
        if layout == self.layout:
            return self
        net = jax.tree.unflatten(
            _structure(self.architecture, layout, self.law, self.dependencies), jax.tree.leaves(self.net)
        )
        return dataclasses.replace(self, layout=layout, scaling=self.scaling.resized(layout), net=net)

    def with_net(self, architecture: AbstractArchitecture, *, key: Key) -> "FlowModel":
        """The same variables and coordinates with another network, untrained."""
        net = built(architecture, self.layout, self.law, self.dependencies, as_key(key))
        return dataclasses.replace(self, architecture=architecture, net=net)

    def core(self) -> "FlowModel":
        """The model without what only training knows, which must not decide whether compiled code is used again."""
        return dataclasses.replace(self, record=Record(), law=Unconditional(), balanced=False)


@functools.lru_cache(maxsize=64)
def _structure(
    architecture: AbstractArchitecture, layout: Layout, law: AbstractRoleLaw, dependencies: Dependencies | None
) -> Any:
    """How the network for a layout is built, without its numbers."""
    return jax.tree.structure(eqx.filter_eval_shape(built, architecture, layout, law, dependencies, jr.key(0)))


@eqx.filter_jit
def built(
    architecture: AbstractArchitecture,
    layout: Layout,
    law: AbstractRoleLaw,
    dependencies: Dependencies | None,
    key: PRNGKeyArray,
) -> AbstractNet:
    return architecture.build(layout, law=law, dependencies=dependencies, key=key)
