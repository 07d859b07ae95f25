"""Distillation: a student that draws with one or two evaluations of a small network.

    teacher    x1(x0) where a fine solver carries the noise x0, given what is given
    student    a network of its own, trained until k steps land there:  mean (Euler_k(x0) - x1)^2

(Luhman and Luhman 2021, arXiv 2101.02388, who take one step.) Nothing is simulated: what is given comes from
simulations, and pairs of noise and end are made by the teacher, once. A strict classifier has the last word: draws of
student and teacher that it tells apart better than `bar` are no pass. Densities are taught apart, by the same ends.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from retrodict._errors import DataError, QueryError
from retrodict._types import Key, Scalar, as_key
from retrodict.diagnostics import c2st
from retrodict.evaluation import known_of, silent, tokens_of
from retrodict.models import (
    SAMPLER,
    ConditionalRows,
    DistilledDensity,
    DistilledSampler,
    Family,
    FlowModel,
    MixtureDensity,
    Proof,
    Record,
    Sizes,
)
from retrodict.models._flow_answers import completed
from retrodict.models._flow_rows import ends_of
from retrodict.nets import AbstractArchitecture, ResMLP
from retrodict.query.tokens import Batch, ask, unflatten
from retrodict.roles import GIVEN, LATENT
from retrodict.solvers import AbstractSolver
from retrodict.training import History, TrainingBudget, fit_mixture
from retrodict.training._loop import Trainer


PAIRS = 2**18
JUDGES = 4096  # pairs that only validate
BAR = 0.52


class DistillationWarning(UserWarning):
    """A student whose draws can be told from its teacher's."""


class DistillationLoss(eqx.Module):
    """The mean squared distance between where a student's steps end and where the teacher's did."""

    form: FlowModel
    solver: AbstractSolver

    def __call__(self, weights: Any, rows: Any, key: PRNGKeyArray) -> Scalar:
        del key
        model = dataclasses.replace(self.form, net=eqx.combine(weights, self.form.net))

        def one(z: Array, roles: Array, noise: Array, end: Array) -> Scalar:
            ready = model.ready(z, roles)
            latent = ready.roles == LATENT
            found = self.solver(model.flow_from(ready), jnp.where(latent, noise, 0.0), *model.path.span)
            return jnp.sum(jnp.where(latent, (found - end) ** 2, 0.0)) / jnp.sum(latent)

        return jnp.mean(jax.vmap(one)(*rows))


def distill(
    model: FlowModel,
    sims: Mapping[str, Any],
    *,
    given: Iterable[str] | Mapping[str, Any],
    of: Iterable[str] | None = None,
    net: AbstractArchitecture | None = None,
    evaluations: int = 1,
    steps: int = 10_000,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    solver: AbstractSolver | None = None,
    observations: int = 10,
    draws: int = 5_000,
    bar: float = BAR,
    key: Key,
    progress: bool = True,
) -> tuple[DistilledSampler, History]:
    """A student of a trained model for one family of questions, with proof of how near it came, and its history.

    Args:
        sims: simulations `{name: (n, *shape)}`, at least 50: what is given comes from them, nine tenths to learn from,
            the rest to judge by.
        given: names of what is known; or a mapping from name to booleans `shape`, the elements that are.
        of: names of what is asked; by default all that `given` does not name.
        net: the student's network, by default a residual MLP of a quarter of the usual work.
        evaluations: of the network for every draw.
        solver: of the teacher, without noise of its own.
        observations: about so many the classifier is asked.
        draws: of each, for either side.

    Raises:
        DataError: simulations of the wrong names or shapes, or too few.
        QueryError: a question that this model cannot answer, or a solver that cannot follow its path.

    Warns:
        DistillationWarning: the student did not pass; `student.proof` says by how much.
    """
    if evaluations < 1:
        raise QueryError(f"a student needs at least one evaluation, got {evaluations}")
    keys = jr.split(as_key(key), 7)
    lesson = _Lesson.of(model, sims, given, of, solver or SAMPLER, observations)
    pupil = dataclasses.replace(model.with_net(net or ResMLP(128, 3), key=keys[0]), record=Record())
    student = DistilledSampler(pupil, lesson.family, evaluations, Proof((), bar))
    weights, form = eqx.partition(pupil.net, eqx.is_inexact_array)
    loss = DistillationLoss(dataclasses.replace(pupil.core(), net=form), student.solver)
    pace = TrainingBudget(steps, batch_size, learning_rate)
    train, judge = (lesson.pairs(*part) for part in lesson.parts(keys[1:3]))
    trainer = Trainer(weights, loss, train, judge, pace)
    found, history = trainer.run(keys[3], keys[4], patience=steps, shown=progress, what="student")
    student = dataclasses.replace(student, model=dataclasses.replace(pupil, net=eqx.combine(found, pupil.net)))
    student = dataclasses.replace(student, proof=Proof(_judged(lesson, student, observations, draws, keys[5:]), bar))
    if not student.proof.ok:
        warnings.warn(
            f"the student did not pass: its draws are told from the teacher's at {student.proof.mean:.3f}, the bar is "
            f"{bar}; allow more steps, a larger network or another evaluation",
            DistillationWarning,
            stacklevel=2,
        )
    return student, history


def distill_density(
    model: FlowModel,
    sims: Mapping[str, Any],
    *,
    given: Iterable[str] | Mapping[str, Any],
    of: Iterable[str] | None = None,
    components: int = 8,
    width: int = 128,
    depth: int = 3,
    steps: int = 10_000,
    solver: AbstractSolver | None = None,
    observations: int = 200,
    key: Key,
    progress: bool = True,
) -> tuple[DistilledDensity, History]:
    """Densities of one family of questions for whoever needs a million of them (MCMC, evidence), and their history.

    A `MixtureDensity` learns by maximum likelihood what the model draws, and is compared with the model's own exact
    density at one draw for each of some held-out observations: `head.kl` and `head.spread`, in nats.

    Args:
        components: Gaussians of a number given those before.
        width: of the network.
        depth: of the network, in blocks.
        observations: whose draws are compared.

    Other arguments and errors are those of `distill`.
    """
    keys = jr.split(as_key(key), 6)
    lesson = _Lesson.of(model, sims, given, of, solver or SAMPLER, observations)
    latent, known = lesson.family.where(LATENT), lesson.family.where(GIVEN)

    def rows(pairs: Any) -> ConditionalRows:
        z, _, _, ends = pairs
        y = jnp.asarray(ends)[:, latent[model.kept]]
        return ConditionalRows(z[:, known], jnp.zeros(len(z), jnp.int32), y, y, y)

    train, judge = (rows(lesson.pairs(*part)) for part in lesson.parts(keys[:2]))
    sizes = Sizes(1, int(known.sum()), int(latent.sum()), components=components, width=width, depth=depth)
    start = MixtureDensity.blank(sizes, key=keys[2]).with_baseline(train)
    mixture, history = fit_mixture(
        start, train, judge, TrainingBudget(steps), key=keys[3], patience=steps, progress=progress
    )
    head = DistilledDensity(lesson.family, 0.0, 0.0, model.scaling, mixture)
    held = lesson.tokens[:observations]
    observed, asked = lesson.observed(held), lesson.family.elements(LATENT)
    draws = silent(model).sample(1, given=observed, of=asked, solver=lesson.teacher, key=keys[4])
    values = {name: found[:, 0] for name, found in draws.items()}
    gaps = silent(model).log_prob(values, given=observed) - head.log_prob(values, given=observed)
    return dataclasses.replace(head, kl=float(gaps.mean()), spread=float(gaps.std())), history


class _Lesson(NamedTuple):
    """What a teacher teaches: one family of questions about simulations, of which the first `held` judge."""

    model: FlowModel
    family: Family
    teacher: AbstractSolver
    tokens: np.ndarray
    held: int

    @classmethod
    def of(
        cls,
        model: FlowModel,
        sims: Mapping[str, Any],
        given: Iterable[str] | Mapping[str, Any],
        of: Iterable[str] | None,
        teacher: AbstractSolver,
        observations: int,
    ) -> "_Lesson":
        """Raises what `distill` says."""
        if not isinstance(model, FlowModel) or model.layout.functions or model.embedded:
            raise QueryError(
                "only models of `rd.joint` and its relatives, without functions or embeddings, have students"
            )
        if reason := teacher.refusal(model.path):
            raise QueryError(reason)
        tokens = tokens_of(model, sims)
        held = max(observations, len(tokens) // 10)
        if held > len(tokens) // 2:
            raise DataError(f"{observations} observations to judge by need {2 * observations} simulations or more")
        known = known_of(model, given, unflatten(model.layout, tokens[:1], model.layout.names))
        if not known:
            raise QueryError(
                "`given` names nothing; what is taught are answers to what was observed, such as given=['y']"
            )
        asked = tuple(of) if of is not None else tuple(name for name in model.modeled.names if name not in known)
        question = ask(model.layout, known, asked).roles
        roles = completed(model, question)[0]
        if (roles != question).any():
            raise QueryError("this model was trained for one question; leave `of` out, to teach all of it")
        return cls(model, Family(model.layout, tuple(roles.tolist())), teacher, tokens, held)

    def parts(self, keys: Array) -> tuple[tuple[np.ndarray, int, PRNGKeyArray], ...]:
        """Simulations to learn from and to judge by, and how many pairs are made of each."""
        return (self.tokens[self.held :], PAIRS, keys[0]), (self.tokens[: self.held], JUDGES, keys[1])

    def pairs(self, tokens: np.ndarray, n: int, key: PRNGKeyArray) -> tuple[Array, ...]:
        """Scaled rows, roles, noise, and where the teacher carries it."""
        core, z = silent(self.model).core(), self.model.scaling.of_rows(tokens)
        some = jnp.asarray(z[np.asarray(jr.randint(key, (n,), 0, len(z)))])
        where = jnp.broadcast_to(jnp.asarray(self.family.roles), some.shape)
        return (some, where, *ends_of(core, self.teacher, some, where, jr.fold_in(key, 1)))

    def observed(self, tokens: np.ndarray) -> Batch:
        """What is given of rows."""
        known = np.where(self.family.where(GIVEN), tokens, np.nan)
        return Batch(unflatten(self.family.layout, known, list(self.family.elements(GIVEN))))


def _judged(
    lesson: _Lesson, student: DistilledSampler, observations: int, draws: int, keys: Array
) -> tuple[float, ...]:
    """C2ST of draws by both, one for every observation."""
    given, asked = lesson.observed(lesson.tokens[:observations]), lesson.family.elements(LATENT)
    theirs = silent(lesson.model).sample(draws, given=given, of=asked, solver=lesson.teacher, key=keys[0])
    its = student.sample(draws, given=given, key=keys[1])

    def there(values: Mapping[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
        return {name: values[name][i].reshape(draws, -1)[:, np.ravel(mask)] for name, mask in asked.items()}

    return tuple(float(c2st(there(theirs, i), there(its, i))) for i in range(observations))
