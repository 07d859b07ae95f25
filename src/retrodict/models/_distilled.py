"""Students: one family of questions, answered fast by a small network that was taught by a model (`distillation`).

    Student    draws,    x1 = Euler_k(x0) along the straight lines from noise to data, where its teacher's solver ends
    Head       densities of what its teacher draws, a `MixtureDensity` in its teacher's coordinates

Where a student is on its way means nothing: it has no densities, no score, and no answer to any other question.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from retrodict._errors import QueryError, listed
from retrodict._types import Key, Scalar, as_key
from retrodict.models import _flow_answers
from retrodict.models._flow import FlowModel
from retrodict.models._mixture_density import ConditionalRows, MixtureDensity
from retrodict.paths import Uniform
from retrodict.query.tokens import Batch, ask, elements, unflatten
from retrodict.roles import GIVEN, LATENT
from retrodict.solvers import AbstractSolver, Euler, Straightened
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


AT_ONCE = 16_384  # densities


class Proof(NamedTuple):
    """C2ST of a student's draws against its teacher's, one for every observation that was asked about: .5 is perfect,
    and a mean above `bar` is no pass."""

    c2st: tuple[float, ...]
    bar: float

    @property
    def mean(self) -> float:
        """What decides."""
        return float(np.mean(self.c2st))

    @property
    def ok(self) -> bool:
        """Whether the student passed."""
        return self.mean <= self.bar


class Family(NamedTuple):
    """The questions that are answered: the role of every element `(d,)`."""

    layout: Layout
    roles: tuple[int, ...]

    def where(self, role: int) -> np.ndarray:
        """Which elements have a role, `(d,)`."""
        return np.array(self.roles) == role

    def elements(self, role: int) -> dict[str, np.ndarray]:
        """Variables that have a role, and which of their elements."""
        return elements(self.layout, self.where(role))

    def check(self, roles: np.ndarray) -> None:
        """Refuses roles `(n, d)` of other questions.

        Raises:
            QueryError: they are.
        """
        if (roles != np.array(self.roles)).any():
            taught = [listed(self.elements(role)) for role in (LATENT, GIVEN)]
            raise QueryError(f"what was taught is {taught[0]} given {taught[1]}, and nothing else; ask the teacher")


class DistilledSampler(eqx.Module):
    """What `rd.distill` gives: the teacher's variables and coordinates, a network of its own, and the proof."""

    model: FlowModel
    family: Family = eqx.field(static=True)
    evaluations: int = eqx.field(static=True)
    proof: Proof = eqx.field(static=True)

    @property
    def solver(self) -> AbstractSolver:
        """The only way from noise to draws that it knows."""
        return Straightened(Euler(self.evaluations, Uniform()))

    def sample(
        self,
        n: int,
        *,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        key: Key,
    ) -> dict[str, np.ndarray]:
        """Draws `(n, *shape)`, or `(B, n, *shape)` with a `Batch` of B observations, as `FlowModel.sample` gives them.

        `of` is by default what it was taught to draw.

        Raises:
            QueryError: a question of another family than it was taught.
            DataError: a value of the wrong shape or type, or outside its support.
        """
        count = _flow_answers.count(n)
        question = _flow_answers.questioned(self.model, given, self.family.elements(LATENT) if of is None else of)
        self.family.check(question.roles)
        draws = _flow_answers.draw(self.model, question, count, self.solver, as_key(key))
        draws = draws.reshape(-1, count, self.model.modeled.size) if isinstance(given, Batch) else draws
        return unflatten(self.model.modeled, draws, question.of)


class DistilledDensity(eqx.Module):
    """What `rd.distill_density` gives: densities of one family of questions, and what they are off by.

    `kl` is the mean of log p(teacher) - log p(head) over held-out draws of the teacher, in nats, an estimate of their
    Kullback-Leibler divergence; `spread` the standard deviation of the same.
    """

    family: Family = eqx.field(static=True)
    kl: float = eqx.field(static=True)
    spread: float = eqx.field(static=True)
    scaling: Scaling
    mixture: MixtureDensity

    def log_prob(self, values: Mapping[str, Any], *, given: Mapping[str, Any] | None = None) -> np.ndarray:
        """Log density `(n,)` of values `(n, *shape)` as `FlowModel.log_prob` gives it.

        Raises:
            QueryError: a question of another family than it was taught.
            DataError: a value of the wrong shape or type.
        """
        tokens, roles, _ = _flow_answers.pairs(self, values, given, lambda head, *question: ask(head.layout, *question))
        self.family.check(roles)
        found = []
        size = min(AT_ONCE, 1 << (len(tokens) - 1).bit_length())
        for start in range(0, len(tokens), size):
            block = tokens[start : start + size]
            padded = np.pad(block, ((0, size - len(block)), (0, 0)), mode="edge")
            found.append(np.asarray(_densities(self, jnp.asarray(padded)))[: len(block)])
        return np.concatenate(found)

    def log_density(self, tokens: Float[Array, " d"]) -> Scalar:
        """The same of one row of all elements, in the user's units and the layout's order: a function for JAX, with
        gradients, for MCMC."""
        latent, given = self.family.where(LATENT), self.family.where(GIVEN)
        z = self.scaling.forward(tokens)
        y = z[latent]
        density = self.mixture.log_prob(ConditionalRows(z[given], jnp.zeros((), int), y, y, y))
        low, high = (end.astype(np.float32) for end in self.layout.ends)
        inside = jnp.all(((low <= tokens) & (tokens <= high))[latent])
        return jnp.where(inside, density - jnp.sum(self.scaling.log_slope(z)[latent]), -jnp.inf)

    @property
    def layout(self) -> Layout:
        """The variables of its teacher."""
        return self.family.layout


@eqx.filter_jit
def _densities(head: DistilledDensity, tokens: Array) -> Array:
    return jax.vmap(head.log_density)(tokens)
