"""Distilled models: one family of queries, answered fast by a small network that learned from a flow model.

    DistilledSampler    draws, x1 = Euler_k(x0) along straight lines from noise to the ends of the model's solver
    DistilledDensity    densities of the model's draws, a `MixtureDensity` in the model's coordinates

The states of a distilled sampler on its way mean nothing: it has no density, no score, and no other answer.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict._errors import QueryError, listed
from retrodict._runtime.blocks import block_size, in_blocks
from retrodict._types import Scalar, as_key
from retrodict.models import _flow_answers
from retrodict.models._flow import FlowModel
from retrodict.models._mixture_density import ConditionalRows, MixtureDensity, Sizes
from retrodict.models._model import AbstractModel, manifest_of, skeleton_of
from retrodict.models._record import Record
from retrodict.models._reference import ReferenceData
from retrodict.paths import Uniform
from retrodict.query import Query, elements
from retrodict.roles import GIVEN, LATENT
from retrodict.solvers import AbstractSolver, Euler, Straightened
from retrodict.transforms import ConditionalAffine, Scaling, supports
from retrodict.variables import Layout


ROWS_PER_BLOCK = 16_384  # densities


class Proof(NamedTuple):
    """C2ST of a sampler's draws against the model's, one for every observation; a mean above `bar` is no pass."""

    c2st: tuple[float, ...]
    bar: float

    @property
    def mean(self) -> float:
        """The mean over observations, which decides."""
        return float(np.mean(self.c2st))

    @property
    def ok(self) -> bool:
        """Whether the sampler passed."""
        return self.mean <= self.bar


class Family(NamedTuple):
    """The queries that a distilled model answers: the role of every element `(d,)`."""

    layout: Layout
    roles: tuple[int, ...]

    def where(self, role: int) -> np.ndarray:
        """Returns which elements have a role, `(d,)`."""
        return np.array(self.roles) == role

    def elements(self, role: int) -> dict[str, np.ndarray]:
        """Returns the variables that have a role, and the mask of their elements."""
        return elements(self.layout, self.where(role))


class AbstractDistilled(AbstractModel):
    """A model of one family of queries, which a flow model taught it."""

    if TYPE_CHECKING:  # a field of a subclass

        @property
        def family(self) -> Family: ...
    else:
        family: eqx.AbstractVar[Family]

    @property
    def layout(self) -> Layout:
        return self.family.layout

    @property
    def _cure(self) -> str:
        return "ask the model that it was distilled from"

    def _default_of(self, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return self.family.elements(LATENT)

    def refusal(self, query: Query) -> str | None:
        if reason := super().refusal(query):
            return reason
        if (query.roles == np.array(self.family.roles)).all():
            return None
        latent, inputs = (listed(self.family.elements(role)) for role in (LATENT, GIVEN))
        return f"a {type(self).__name__} answers {latent} given {inputs}, and nothing else; {self._cure}"


class DistilledSampler(AbstractDistilled):
    """Fast draws of one family of queries; `rd.distill` makes it, with a proof of how near they are."""

    model: FlowModel
    family: Family = eqx.field(static=True)
    evaluations: int = eqx.field(static=True)
    proof: Proof = eqx.field(static=True)
    record: Record = eqx.field(static=True, default=Record())
    kind: ClassVar[str] = "student"

    @property
    def coordinates(self) -> Scaling:
        return self.model.scaling

    @property
    def description(self) -> dict[str, str]:
        proof = f"C2ST {self.proof.mean:.3f} against its model" if self.proof.c2st else "none"
        return {
            "kind": type(self).__name__,
            "network": str(self.model.architecture),
            "evaluations a draw": str(self.evaluations),
            "proof": proof,
        }

    @property
    def reference(self) -> ReferenceData | None:
        return self.record.familiar or self.model.reference

    @property
    def trained(self) -> bool:
        return bool(self.proof.c2st)

    @property
    def solver(self) -> AbstractSolver:
        """The solver that it was trained with, the only way from noise to draws."""
        return Straightened(Euler(self.evaluations, Uniform()))

    def _sample(self, query: Query, n: int, *, solver: AbstractSolver | None, key: PRNGKeyArray) -> np.ndarray:
        if solver not in (None, self.solver):
            raise QueryError(
                f"a DistilledSampler draws by the solver it was trained with, {self.solver}; leave `solver` out"
            )
        return _flow_answers.draw(self.model, query, n, self.solver, key)

    def _sampler_function(self, query: Query) -> Callable[[PRNGKeyArray], Array]:
        return _flow_answers.sampler_function(self.model, query, self.solver)

    def to_manifest(self) -> dict[str, Any]:
        return {
            "model": manifest_of(self.model),
            "roles": list(self.family.roles),
            "evaluations": self.evaluations,
            "proof": self.proof._asdict(),
            "record": self.calibration.to_json(),
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "DistilledSampler":
        model: FlowModel = skeleton_of(manifest["model"])
        proof = Proof(tuple(manifest["proof"]["c2st"]), manifest["proof"]["bar"])
        family = Family(model.layout, tuple(manifest["roles"]))
        return cls(model, family, manifest["evaluations"], proof, _record_in(manifest))


class DistilledDensity(AbstractDistilled):
    """Fast densities of one family of queries; `rd.distill_density` makes it.

    `kl` is the mean of log p(model) - log p(density) over held-out draws of the model, in nats, an estimate of their
    Kullback-Leibler divergence; `spread` is the standard deviation of the same.
    """

    family: Family = eqx.field(static=True)
    kl: float = eqx.field(static=True)
    spread: float = eqx.field(static=True)
    scaling: Scaling
    mixture: MixtureDensity
    record: Record = eqx.field(static=True, default=Record())
    kind: ClassVar[str] = "head"

    @property
    def coordinates(self) -> Scaling:
        return self.scaling

    @property
    def description(self) -> dict[str, str]:
        error = f"{self.kl:.3f} nats in the mean, sd {self.spread:.3f}"
        return {"kind": type(self).__name__, "density": "a mixture of Gaussians", "error": error}

    @property
    def has_draws(self) -> bool:
        return False

    @property
    def trained(self) -> bool:
        return self.kl != 0.0 or self.spread != 0.0

    def _sample(self, query: Query, n: int, *, solver: AbstractSolver | None, key: PRNGKeyArray) -> np.ndarray:
        raise QueryError(f"a DistilledDensity has densities, but no draws; {self._cure}")

    def _log_prob(
        self, query: Query, rows: np.ndarray, *, solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> np.ndarray:
        if solver is not None:
            raise QueryError("a DistilledDensity needs no solver; leave `solver` out")

        near, latent = self.scaling.density_point(rows), self.family.where(LATENT)
        z = self.scaling.of_rows(np.where(latent, near.point, rows))

        def block(index: np.ndarray, k: int) -> Array:
            return _densities(self, jnp.asarray(z[index]))

        log_probs = in_blocks(block, len(rows), block_size(len(rows), ROWS_PER_BLOCK))
        return log_probs + near.log_ratio[:, latent].sum(axis=1)

    def log_density(self, tokens: Any = None, **query: Any) -> Any:
        """Returns the log density as a function for JAX, see `AbstractModel.log_density`.

        With one row of all elements, `tokens` `(d,)` in the user's units and the layout's order, the number itself.
        """
        return super().log_density(**query) if tokens is None else self.log_density_of_row(tokens)

    def _density_function(self, query: Query) -> Callable[[Array], Array]:
        return self.log_density_of_row

    def to_manifest(self) -> dict[str, Any]:
        return {
            "layout": self.layout.to_json(),
            "roles": list(self.family.roles),
            "sizes": self.mixture.sizes._asdict(),
            "framed": self.scaling.affine is not None,
            "kl": self.kl,
            "spread": self.spread,
            "record": self.calibration.to_json(),
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "DistilledDensity":
        layout, sizes = Layout.from_json(manifest["layout"]), Sizes(**manifest["sizes"])
        mixture, family = MixtureDensity.blank(sizes, key=as_key(0)), Family(layout, tuple(manifest["roles"]))
        affine = ConditionalAffine.identity(family.where(LATENT)) if manifest.get("framed") else None
        scaling = dataclasses.replace(Scaling.identity(layout), affine=affine)
        return cls(family, manifest["kl"], manifest["spread"], scaling, mixture, _record_in(manifest))

    def log_density_of_row(self, tokens: Float[Array, " d"]) -> Scalar:
        """Returns the log density of one row of all elements, in the user's units and the layout's order."""
        near, latent = self.scaling.density_point(tokens), self.family.where(LATENT)
        inside = jnp.all(supports.contains(tokens, *self.layout.ends)[latent])
        density = self._log_density_of(self.scaling.forward(jnp.where(latent, near.point, tokens)))
        return jnp.where(inside, density + jnp.sum(near.log_ratio[latent]), -jnp.inf)

    def _log_density_of(self, z: Float[Array, " d"]) -> Scalar:
        """Returns the same, in the user's units, of one row of scaled tokens."""
        latent, inputs = self.family.where(LATENT), self.family.where(GIVEN)
        y = z[latent]
        density = self.mixture.log_prob(ConditionalRows(z[inputs], jnp.zeros((), int), y, y, y))
        return density - jnp.sum(self.scaling.log_slope(z)[latent])


def _record_in(manifest: Mapping[str, Any]) -> Record:
    """Returns the record of a distilled model; files of schema 2 have none."""
    return Record.from_json(manifest["record"]) if "record" in manifest else Record()


@eqx.filter_jit
def _densities(model: DistilledDensity, z: Array) -> Array:
    return jax.vmap(model._log_density_of)(z)
