"""A posterior set right by a likelihood: draws of a flow, weighted and resampled.

    w(theta) = p(theta) q(x | theta) / f(theta | x),      Z(x) = E_f w,      p(theta | x) = p(theta) q(x | theta) / Z(x)

f is a flow that learned from what a surrogate q of the likelihood made, see `synthesis`. With q at hand the flow need
not be right where flows find it hard, as at ends of the prior that cut a posterior or along narrow ridges: it only
proposes. What q gets wrong stays. (Importance resampling: Rubin 1988; for posteriors that networks propose, Dax et al.
2023, arXiv 2210.05686.)
"""

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict._types import Key, as_key
from retrodict.constraints import AbstractConstraint
from retrodict.guidance import effective_size, resample
from retrodict.models._factorized_likelihood import FactorizedLikelihood
from retrodict.models._flow import FlowModel
from retrodict.models._flow_answers import completed, count, pairs, propose, questioned
from retrodict.models._guided import is_guided
from retrodict.models._record import CalibrationWarning, Record, concerns, fingerprint
from retrodict.nets import AbstractArchitecture
from retrodict.paths import LogSNR
from retrodict.problem import AbstractPrior, Problem
from retrodict.query.tokens import Batch, unflatten
from retrodict.roles import LATENT, AbstractRoleLaw
from retrodict.solvers import AbstractSolver, DPMSolver, Straightened
from retrodict.transforms import supports
from retrodict.transforms.scaling import Scaling
from retrodict.variables import Layout


# what its steps get wrong is part of the density of proposals; each step costs one look of the network a parameter
PROPOSER = Straightened(DPMSolver(16, LogSNR()))
ROUND, ROUNDS = 2, 4  # proposals for a draw and round, and rounds at most
COPIES = 0.02  # share of draws that may be copies of others, before there is another round
POOR = 0.1  # independent draws that a draw is worth, below which `sample` warns
EVIDENCE = 256  # proposals that tell Z


class WeightingWarning(UserWarning):
    """Proposals so far from what is wanted that weighted draws are worth few independent ones."""


class ImportanceSampledPosterior(eqx.Module):
    """A posterior of all parameters given all data: a flow that proposes, a likelihood that weighs, and the prior.

    `rd.learn_posterior` makes it, where held-out simulations prefer it to the flow alone. `flow` is a `FlowModel` like
    any other, for what is not offered here: constraints, velocities, students.
    """

    flow: FlowModel
    likelihood: FactorizedLikelihood
    prior: AbstractPrior | None = eqx.field(static=True)
    record: Record = eqx.field(static=True, default=Record())

    @property
    def layout(self) -> Layout:
        return self.flow.layout

    @property
    def modeled(self) -> Layout:
        return self.flow.modeled

    @property
    def scaling(self) -> Scaling:
        return self.flow.scaling

    @property
    def law(self) -> AbstractRoleLaw:
        return self.flow.law

    @property
    def architecture(self) -> AbstractArchitecture:
        return self.flow.architecture

    @property
    def embedded(self) -> tuple[str, ...]:
        return self.flow.embedded

    @property
    def calibration(self) -> Record:
        """The record without what was found out about other weights."""
        return self.record.of(fingerprint(self)) if self.record.calibrations else self.record

    def under(self, problem: Problem) -> "ImportanceSampledPosterior":
        """The same under the prior of a problem: for one that comes from a file which could not hold its prior."""
        return dataclasses.replace(self, prior=problem.prior)

    def sample(
        self,
        n: int,
        *,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        guide: Sequence[AbstractConstraint] = (),
        strength: float = 1.0,
        solver: AbstractSolver | None = None,
        key: Key,
    ) -> dict[str, np.ndarray]:
        """Draws `(n, *shape)`, or `(B, n, *shape)` with a `Batch` of B observations, as `FlowModel.sample` gives them.

        Twice `n` proposals are weighted and resampled; more are added, up to eight times `n`, while more than 2 % of
        the draws would be copies of others.

        Raises:
            QueryError: anything but parameters given all data, constraints, or no prior.
            DataError: a value of the wrong shape or type, or outside its support.

        Warns:
            WeightingWarning: all proposals together are worth less than a tenth of `n` independent draws.
            CalibrationWarning: as `FlowModel.sample`.
        """
        if is_guided(given, guide, strength):
            raise QueryError(
                "constraints are asked of the flow alone: `model.flow.sample(...)` with the same arguments"
            )
        n = count(n)
        question = questioned(self.flow, given, of)
        completed(self.flow, question.roles)  # refuses what the flow would
        for sentence in self.concerns(given, of) if self.record.calibrations else ():
            warnings.warn(sentence, CalibrationWarning, stacklevel=3)  # equinox wraps methods
        batch = given if isinstance(given, Batch) else Batch({k: np.asarray(v)[None] for k, v in (given or {}).items()})
        chosen = self._resampled(n, batch, solver or PROPOSER, as_key(key))
        values = np.zeros((len(chosen), n, self.modeled.size), np.float32)
        values[..., self.modeled.is_parameter] = chosen
        latent = (question.roles == LATENT)[:, None, self.flow.kept]
        draws = np.where(latent, values, np.nan)
        return unflatten(self.modeled, draws if isinstance(given, Batch) else draws[0], question.of)

    def concerns(
        self, given: Mapping[str, Any] | None = None, of: Iterable[str] | Mapping[str, Any] | None = None
    ) -> list[str]:
        """What the calibration has to say against a question, a sentence each; `sample` warns of them."""
        return concerns(self.calibration, self, questioned(self.flow, given, of))

    def log_prob(
        self,
        values: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        solver: AbstractSolver | None = None,
        proposals: int = EVIDENCE,
        key: Key = 0,
    ) -> np.ndarray:
        """Log density `(n,)` of parameters `(n, *shape)`, given data, as of `FlowModel.log_prob`.

        Every observation's log Z comes from as many `proposals`, drawn by `key`, and is off by about the square root of
        (1 / share - 1) / proposals, with the share of proposals that is effective.

        Args:
            solver: of the proposals.

        Raises:
            QueryError: anything but all parameters given all data, or no prior.
            DataError: a value of the wrong shape or type.
        """
        rows, which, first = self._paired(values, given)
        each = Batch(unflatten(self.layout, rows[first], self.layout.data))
        _, log_weights = self._proposed(proposals, each, solver or PROPOSER, as_key(key))
        evidence = np.logaddexp.reduce(log_weights, axis=1) - np.log(proposals)
        return self._log_target(rows) - evidence[which]

    def log_prob_of_truth(self, values: Mapping[str, Any], given: Batch, *, proposals: int, key: Key) -> np.ndarray:
        """Log densities `(n,)` of the parameters that n observations were made with, not better than they are.

        Few proposals tell log Z too low in the mean, so that `log_prob` flatters. Here the truth counts as one of them,
        by which it is too high instead (Grosse, Ghahramani and Adams 2015, arXiv 1511.02543: a draw of the posterior
        among proposals makes a stochastic upper bound). Models are compared so.
        """
        rows = pairs(self.flow, values, given)[0]
        _, log_weights = self._proposed(proposals, given, PROPOSER, as_key(key))
        target = self._log_target(rows)
        own = target - self.flow.log_prob(values, given=given)
        whole = np.concatenate([log_weights, np.nan_to_num(own, nan=-np.inf)[:, None]], axis=1)
        return target - (np.logaddexp.reduce(whole, axis=1) - np.log(proposals + 1))

    def _paired(
        self, values: Mapping[str, Any], given: Mapping[str, Any] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of parameters and data, which observation is each one's, and a row of each observation."""
        rows, _, latent = pairs(self.flow, values, given)
        _, first, which = np.unique(rows[:, ~latent], axis=0, return_index=True, return_inverse=True)
        return rows, which.reshape(-1), first

    def _log_target(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """log p(theta) q(x | theta); where data are bent by a support, but for what depends on them alone."""
        if self.prior is None:
            raise QueryError(
                "this posterior comes from a file that could not hold its prior; say `model.under(problem)` first"
            )
        own = self.layout.is_parameter
        inside = supports.contains(rows, *(end.astype(np.float32) for end in self.layout.ends))
        values = {k: jnp.asarray(v) for k, v in unflatten(self.layout, rows, self.layout.parameters).items()}
        log_prior = np.asarray(_log_prior(self.prior, values), np.float64)
        found = log_prior + self.likelihood.log_prob(self.layout, rows)
        return np.where(np.all(inside | ~own, axis=1) & ~np.isnan(found), found, -np.inf)

    def _proposed(
        self, m: int, given: Batch, solver: AbstractSolver, key: PRNGKeyArray
    ) -> tuple[Float[np.ndarray, "b m p"], Float[np.ndarray, "b m"]]:
        """`m` draws of the flow for every observation, and their log weights."""
        own = self.layout.is_parameter
        question = questioned(self.flow, given, self.layout.parameters)
        draws, log_flow = propose(self.flow, question, m, solver, key)
        rows = np.where(own, draws, np.repeat(question.values, m, axis=0))
        log_weights = self._log_target(rows) - log_flow
        log_weights = np.where(log_weights < np.inf, log_weights, -np.inf)  # a draw that a solver lost
        return rows[:, own].reshape(-1, m, int(own.sum())), log_weights.reshape(-1, m)

    def _resampled(self, n: int, given: Batch, solver: AbstractSolver, key: PRNGKeyArray) -> Float[np.ndarray, "b n p"]:
        """`n` parameters of equal weight for every observation."""
        observations = len(next(iter(given.values())))
        drawn: list[list[np.ndarray]] = [[] for _ in range(observations)]
        logs: list[np.ndarray] = [np.zeros(0) for _ in range(observations)]
        left = np.arange(observations)
        for i in range(ROUNDS):
            some = Batch({name: np.asarray(v)[left] for name, v in given.items()})
            proposed, log_weights = self._proposed(ROUND * n, some, solver, jr.fold_in(key, i))
            for j, rows, new in zip(left, proposed, log_weights, strict=True):
                drawn[j].append(rows)
                logs[j] = np.concatenate([logs[j], new])
            left = np.array([j for j in left if _copies(logs[j], n) > COPIES], int)
            if not len(left):
                break
        if any(not np.isfinite(one.max()) for one in logs):
            raise QueryError(
                "no proposal can have made the data: by the likelihood they are impossible wherever the flow looks; "
                "ask rd.unlike whether they are like the simulations, or `model.flow`"
            )
        _warn_of([effective_size(one) / n for one in logs])
        rng = np.random.default_rng(np.asarray(jr.key_data(jr.fold_in(key, ROUNDS))))
        return np.stack([np.concatenate(rows)[resample(one, n, rng)] for rows, one in zip(drawn, logs, strict=True)])


def _copies(log_weights: Float[np.ndarray, " m"], n: int) -> float:
    """The share of `n` resampled draws that are copies of others."""
    top = log_weights.max()
    if not np.isfinite(top):
        return 1.0
    weights = np.exp(log_weights - top)
    return float(np.maximum(n * weights / weights.sum() - 1.0, 0.0).sum() / n)


def _warn_of(worth: list[float]) -> None:
    """Speaks of observations whose draws are worth too few independent ones, each."""
    if poor := [one for one in worth if one < POOR]:
        which = "the observation" if len(worth) == 1 else f"{len(poor)} of {len(worth)} observations"
        warnings.warn(
            f"likelihood and flow disagree about {which}: a weighted draw is worth {min(poor):.2g} independent ones; "
            "ask rd.unlike whether the data are like the simulations, and compare with draws of `model.flow`",
            WeightingWarning,
            stacklevel=5,
        )


@functools.partial(jax.jit, static_argnums=0)
def _log_prior(prior: AbstractPrior, values: Mapping[str, jax.Array]) -> jax.Array:
    return jax.vmap(prior.log_prob)(values)
