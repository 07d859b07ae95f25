"""A student: draws of one family of questions by one or two evaluations of a network.

    x1 = Euler_k(x0) along the straight lines from noise to data, where its teacher's fine solver ends (`distillation`)

Where a student is on its way means nothing: it has no densities, no score, and no answer to any other question.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from retrodict._errors import QueryError, listed
from retrodict._types import Key, as_key
from retrodict.estimators import _answers
from retrodict.estimators._generative import Generative
from retrodict.paths import Uniform
from retrodict.roles import GIVEN, LATENT
from retrodict.solvers import AbstractSolver, Euler, Straightened
from retrodict.tokens import Batch, unflatten


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


class Student(eqx.Module):
    """What `rd.distill` gives: the teacher's variables and coordinates, a network of its own, and the proof."""

    model: Generative
    roles: tuple[int, ...] = eqx.field(static=True)
    evaluations: int = eqx.field(static=True)
    proof: Proof = eqx.field(static=True)

    @property
    def solver(self) -> AbstractSolver:
        """The only way from noise to draws that it knows."""
        return Straightened(Euler(self.evaluations, Uniform()))

    def elements(self, role: int) -> dict[str, np.ndarray]:
        """Variables that had a role in what it was taught, and which of their elements."""
        layout = self.model.layout
        held = unflatten(layout, np.array(self.roles) == role, layout.names)
        return {name: elements for name, elements in held.items() if np.any(elements)}

    def sample(
        self,
        n: int,
        *,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        key: Key,
    ) -> dict[str, np.ndarray]:
        """Draws `(n, *shape)`, or `(B, n, *shape)` with a `Batch` of B observations, as `Generative.sample` gives them.

        `of` is by default what it was taught to draw.

        Raises:
            QueryError: a question of another family than it was taught.
            DataError: a value of the wrong shape or type, or outside its support.
        """
        count = _answers.count(n)
        question = _answers.questioned(self.model, given, self.elements(LATENT) if of is None else of)
        if (question.roles != np.array(self.roles)).any():
            taught = [listed(self.elements(role)) for role in (LATENT, GIVEN)]
            raise QueryError(f"this student was taught to draw {taught[0]} given {taught[1]}; ask its teacher")
        draws = _answers.draw(self.model, question, count, self.solver, as_key(key))
        draws = draws.reshape(-1, count, self.model.modeled.size) if isinstance(given, Batch) else draws
        return unflatten(self.model.modeled, draws, question.of)
