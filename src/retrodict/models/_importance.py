"""A posterior by importance sampling: a flow proposes, a likelihood and the prior weigh.

    w(theta) = p(theta) q(x | theta) / f(theta | x),      Z(x) = E_f w,      p(theta | x) = p(theta) q(x | theta) / Z(x)

f is a flow, q a learned likelihood (`_factorized_likelihood`). With q at hand the flow need not be right where flows
find it hard, as at ends of the prior that cut a posterior or along narrow ridges: it only proposes. The errors of q
stay. (Importance resampling: Rubin 1988; for posteriors that networks propose, Dax et al. 2023, arXiv 2210.05686.)
"""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from retrodict._errors import QueryError
from retrodict._runtime.precision import in_single_precision
from retrodict._types import Key, as_key
from retrodict.guidance import effective_size, resample
from retrodict.models._factorized_likelihood import FactorizedLikelihood
from retrodict.models._flow import FlowModel
from retrodict.models._flow_answers import propose
from retrodict.models._manifest import prior_from_json, prior_to_json
from retrodict.models._mixture_density import Sizes
from retrodict.models._model import AbstractModel, manifest_of, skeleton_of
from retrodict.models._record import Record
from retrodict.models._reference import ReferenceData
from retrodict.nets import AbstractArchitecture
from retrodict.paths import LogSNR
from retrodict.problem import AbstractPrior, Problem
from retrodict.query import ENOUGH, Batch, Query, ResampledTokens, unflatten
from retrodict.roles import AbstractRoleLaw
from retrodict.solvers import AbstractSolver, DPMSolver, Straightened
from retrodict.transforms import Scaling, supports
from retrodict.variables import Layout


# errors of its steps are part of the density of proposals; each step costs one evaluation of the network a parameter
PROPOSER = Straightened(DPMSolver(16, LogSNR()))
PROPOSALS_PER_DRAW, MAX_ROUNDS = 2, 4  # in a round; rounds
MAX_COPIES = 0.02  # share of draws that may be copies of others, before there is another round
EVIDENCE_PROPOSALS = 256


class WeightingWarning(UserWarning):
    """A warning that proposals are so poor that weighted draws are worth few independent ones."""


class ImportanceSampledPosterior(AbstractModel):
    """A posterior of all parameters given all data: a flow that proposes, a likelihood that weighs, and the prior.

    `rd.learn_posterior` makes it, where held-out simulations prefer it to the flow alone. `flow` is a `FlowModel` like
    any other, for what is not offered here: constraints, velocities, distillation.
    """

    flow: FlowModel
    likelihood: FactorizedLikelihood
    prior: AbstractPrior | None = eqx.field(static=True)
    record: Record = eqx.field(static=True, default=Record())
    evidence_proposals: int = eqx.field(static=True, default=EVIDENCE_PROPOSALS)
    kind: ClassVar[str] = "weighted"

    @property
    def layout(self) -> Layout:
        return self.flow.layout

    @property
    def coordinates(self) -> Scaling:
        return self.flow.scaling

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
    def description(self) -> dict[str, str]:
        factors = len(self.likelihood.factors.kind)
        likelihood = f"{factors} factor{'s' if factors > 1 else ''}, mixtures of Gaussians"
        return {**self.flow.description, "kind": type(self).__name__, "likelihood": likelihood}

    @property
    def reference(self) -> ReferenceData | None:
        return self.record.familiar or self.flow.reference

    @property
    def _cure(self) -> str:
        return "use `model.flow`, a model of `rd.posterior`, for that"

    def under(self, problem: Problem) -> "ImportanceSampledPosterior":
        """Returns the same under the prior of a problem: for one from a file that could not hold its prior."""
        return dataclasses.replace(self, prior=problem.prior)

    def refusal(self, query: Query) -> str | None:
        if query.guided:
            return "constraints are asked of the flow alone: `model.flow.sample(...)` with the same arguments"
        if self.prior is None:
            return "this posterior comes from a file that could not hold its prior; say `model.under(problem)` first"
        return self.flow.refusal(query)

    def learned_to_predict(self, targets: np.ndarray, inputs: np.ndarray) -> bool:
        return self.flow.learned_to_predict(targets, inputs)

    def _sample(self, query: Query, n: int, *, solver: AbstractSolver | None, key: PRNGKeyArray) -> ResampledTokens:
        """Weighs and resamples twice `n` proposals; more are added, up to eight times `n`, while more than 2 % of the
        draws would be copies of others."""
        parameters, effective_sizes = self._resampled(n, query.values, solver or PROPOSER, key)
        tokens = np.zeros((len(parameters), n, self.modeled.size))
        tokens[..., self.modeled.is_parameter] = parameters
        return ResampledTokens(tokens, effective_sizes)

    @in_single_precision
    def log_prob(
        self,
        values: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        solver: AbstractSolver | None = None,
        proposals: int = EVIDENCE_PROPOSALS,
        key: Key = 0,
    ) -> np.ndarray:
        """Returns the log density `(n,)` of all parameters `(n, *shape)` given all data, as `FlowModel.log_prob` does.

        The log evidence log Z of every observation comes from as many `proposals`, drawn by `key`, and is off by about
        the square root of (1 / share - 1) / proposals, with the share of proposals that is effective.

        Args:
            solver: of the proposals.

        Raises:
            QueryError: anything but all parameters given all data, or no prior.
            DataError: a value of the wrong shape or type.
        """
        model = dataclasses.replace(self, evidence_proposals=proposals)
        return super(ImportanceSampledPosterior, model).log_prob(values, given=given, solver=solver, key=key)

    def _log_prob(
        self, query: Query, rows: np.ndarray, *, solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> np.ndarray:
        self._refuse_part(query)
        data = ~self.layout.is_parameter
        _, first, observation = np.unique(rows[:, data], axis=0, return_index=True, return_inverse=True)
        _, log_weights = self._proposals(self.evidence_proposals, rows[first], solver or PROPOSER, key)
        log_evidence = np.logaddexp.reduce(log_weights, axis=1) - np.log(self.evidence_proposals)
        return self._log_target(rows) - log_evidence[observation.reshape(-1)]

    @in_single_precision
    def log_prob_of_truth(self, values: Mapping[str, Any], given: Batch, *, proposals: int, key: Key) -> np.ndarray:
        """Returns log densities `(n,)` of the parameters that n observations were made with, not better than they are.

        Few proposals tell log Z too low in the mean, so that `log_prob` flatters. Here the truth counts as one of them,
        by which log Z is too high instead (Grosse, Ghahramani and Adams 2015, arXiv 1511.02543: a draw of the posterior
        among proposals makes a stochastic upper bound). Models are compared so.
        """
        query, rows, _ = self._parse_values(values, given)
        self._refuse_part(self._accepted(query))
        _, log_weights = self._proposals(proposals, rows, PROPOSER, as_key(key))
        log_target = self._log_target(rows)
        log_weight = np.nan_to_num(log_target - self.flow.log_prob(values, given=given), nan=-np.inf)
        with_truth = np.concatenate([log_weights, log_weight[:, None]], axis=1)
        return log_target - (np.logaddexp.reduce(with_truth, axis=1) - np.log(proposals + 1))

    def to_manifest(self) -> dict[str, Any]:
        factors = self.likelihood.factors
        return {
            "flow": manifest_of(self.flow),
            "sizes": [mixture.sizes._asdict() for mixture in self.likelihood.mixtures],
            "parts": len(factors.kind) > 1 or factors.free,
            "prior": prior_to_json(self.prior),
            "record": self.calibration.to_json(),
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> "ImportanceSampledPosterior":
        flow: FlowModel = skeleton_of(manifest["flow"])
        sizes = [Sizes(**fields) for fields in manifest["sizes"]]
        dependencies = flow.dependencies if manifest["parts"] else None
        likelihood = FactorizedLikelihood.blank(flow.layout, dependencies, sizes)
        prior = None if manifest["prior"] is None else prior_from_json(manifest["prior"])
        return cls(flow, likelihood, prior, Record.from_json(manifest["record"]))

    def _refuse_part(self, query: Query) -> None:
        if (query.roles != self.law.fixed(self.layout)).any():
            raise QueryError(
                "this posterior has a density of all parameters given all data; give all of them in `values`"
            )

    def _log_target(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Returns log p(theta) q(x | theta), up to a function of the data where these are bent by a support."""
        assert self.prior is not None
        inside = supports.contains(rows, *self.layout.ends)
        values = {k: jnp.asarray(v) for k, v in unflatten(self.layout, rows, self.layout.parameters).items()}
        log_prior = np.asarray(_log_prior(self.prior, values), np.float64)
        log_target = log_prior + self.likelihood.log_prob(self.layout, rows)
        inside = np.all(inside | ~self.layout.is_parameter, axis=1)
        return np.where(inside & ~np.isnan(log_target), log_target, -np.inf)

    def _proposals(
        self, m: int, observations: Float[np.ndarray, "b d"], solver: AbstractSolver, key: PRNGKeyArray
    ) -> tuple[Float[np.ndarray, "b m p"], Float[np.ndarray, "b m"]]:
        """Returns `m` draws of the flow for every observation, and their log weights."""
        parameter = self.layout.is_parameter
        data = Batch(unflatten(self.layout, observations, self.layout.data))
        query = self.flow.parse(data, self.layout.parameters)
        draws, log_flow = propose(self.flow, query, m, solver, key)
        rows = np.where(parameter, draws, np.repeat(query.values, m, axis=0))
        log_weights = self._log_target(rows) - log_flow
        log_weights = np.where(log_weights < np.inf, log_weights, -np.inf)  # a draw that a solver lost
        return rows[:, parameter].reshape(-1, m, int(parameter.sum())), log_weights.reshape(-1, m)

    def _resampled(
        self, n: int, observations: Float[np.ndarray, "b d"], solver: AbstractSolver, key: PRNGKeyArray
    ) -> tuple[Float[np.ndarray, "b n p"], Float[np.ndarray, " b"]]:
        """Returns `n` parameters of equal weight for every observation, and what they are worth."""
        count = len(observations)
        proposals: list[list[np.ndarray]] = [[] for _ in range(count)]
        log_weights: list[np.ndarray] = [np.zeros(0) for _ in range(count)]
        unfinished = np.arange(count)
        for i in range(MAX_ROUNDS):
            rows, new_weights = self._proposals(
                PROPOSALS_PER_DRAW * n, observations[unfinished], solver, jr.fold_in(key, i)
            )
            for j, parameters, new in zip(unfinished, rows, new_weights, strict=True):
                proposals[j].append(parameters)
                log_weights[j] = np.concatenate([log_weights[j], new])
            unfinished = np.array([j for j in unfinished if _share_of_copies(log_weights[j], n) > MAX_COPIES], int)
            if not len(unfinished):
                break
        if any(not np.isfinite(weights.max()) for weights in log_weights):
            raise QueryError(
                "no proposal can have made the data: by the likelihood they are impossible wherever the flow looks; "
                "ask rd.unlike whether they are like the simulations, or `model.flow`"
            )
        effective_sizes = np.array([min(effective_size(weights), n) for weights in log_weights])
        _warn_of_poor(effective_sizes / n)
        rng = np.random.default_rng(np.asarray(jr.key_data(jr.fold_in(key, MAX_ROUNDS))))
        resampled = [
            np.concatenate(rows)[resample(weights, n, rng)]
            for rows, weights in zip(proposals, log_weights, strict=True)
        ]
        return np.stack(resampled), effective_sizes


def _share_of_copies(log_weights: Float[np.ndarray, " m"], n: int) -> float:
    """Returns the share of `n` resampled draws that are copies of others."""
    top = log_weights.max()
    if not np.isfinite(top):
        return 1.0
    weights = np.exp(log_weights - top)
    return float(np.maximum(n * weights / weights.sum() - 1.0, 0.0).sum() / n)


def _warn_of_poor(worths: Float[np.ndarray, " b"]) -> None:
    """Warns of observations whose draws are worth few independent ones; one of a hundred in a Batch is no news."""
    if len(poor := worths[worths < ENOUGH]) > len(worths) // 100:
        subject = "the observation" if len(worths) == 1 else f"{len(poor)} of {len(worths)} observations"
        warnings.warn(
            f"likelihood and flow disagree about {subject}: a weighted draw is worth {poor.min():.2g} independent ones "
            "(`draws.effective_size`), others are copies; ask for more draws, compare with draws of `model.flow`, or "
            "ask rd.unlike whether the data are like the simulations",
            WeightingWarning,
            stacklevel=6,
        )


@functools.partial(jax.jit, static_argnums=0)
def _log_prior(prior: AbstractPrior, values: Mapping[str, jax.Array]) -> jax.Array:
    return jax.vmap(prior.log_prob)(values)
