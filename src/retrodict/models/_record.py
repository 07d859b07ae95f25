"""What a model remembers: how it was trained, how it was checked, and what its simulations looked like.

A *calibration* belongs to a family of questions, which roles tell apart: of every variable the shares of its elements
that are given, latent and absent. Two questions are as far apart as their variable that differs most, where an element
that is given in one of them alone counts 1, and one that is latent in one and absent in the other 1/2. Beyond 1/2 they
are far: a variable was exchanged, or most of its elements.

It also belongs to the numbers that were checked. A fingerprint of all weights tells whether they are still the same; a
model that was changed or trained further has no calibration, whatever it carries along.
"""

import base64
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, Float32, Float64

from retrodict.query.family import Shares, distance, shares_of, words
from retrodict.query.tokens import Question
from retrodict.roles import GIVEN
from retrodict.solvers import AbstractSolver
from retrodict.solvers import from_json as solver_from_json
from retrodict.solvers import to_json as solver_to_json


FAR = 0.5  # of two questions: the distance above which one says nothing about the other
STRANGE = 0.01  # the p-value below which an observation is unlike the simulations: 1 in 100 false alarms
LOOKED_AT = 32  # observations of a Batch
NEIGHBOR = 5  # the distance to the how-manieth neighbor
RIDGE = 1e-3  # of variances near 1: more than rounding, less than the noise of any data worth having


class CalibrationWarning(UserWarning):
    """A question, or an observation, about which the calibration of a model says nothing good."""


@dataclasses.dataclass(frozen=True)
class ReferenceData:
    """Rows of simulated data in the model's coordinates: `(n, k)` single-precision numbers of k tokens."""

    rows: bytes = dataclasses.field(repr=False)
    tokens: tuple[int, ...]

    @property
    def data(self) -> Float32[np.ndarray, "n k"]:
        return np.frombuffer(self.rows, np.float32).reshape(-1, len(self.tokens))

    def p_value(self, z: Float[np.ndarray, " d"]) -> float | None:
        """How probable data at least as lonely as `z` (NaN where not observed) are; None where nothing was observed.

        The observation is one more row. All rows are whitened by the covariance of all, and the distance to the fifth
        nearest of the others says how lonely a row is. Had the simulator made the observation, any row would be as
        likely to be the loneliest: the p-value is exact (Vovk et al. 2005, conformal prediction).
        """
        own = z[list(self.tokens)]
        seen = np.isfinite(own)
        if not seen.any():
            return None
        rows = np.concatenate([self.data[:, seen], own[None, seen]]).astype(np.float64)
        lonely = nearest_neighbor_distance(rows)
        return float((lonely >= lonely[-1]).mean())

    def to_json(self) -> dict[str, Any]:
        return {"rows": base64.b64encode(self.rows).decode("ascii"), "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "ReferenceData":
        return cls(base64.b64decode(found["rows"], validate=True), tuple(int(i) for i in found["tokens"]))


def nearest_neighbor_distance(rows: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """The distance of every row, whitened, to its fifth nearest neighbor."""
    centered = rows - rows.mean(axis=0)
    root = np.linalg.cholesky(centered.T @ centered / len(rows) + RIDGE * np.eye(rows.shape[1]))
    white = np.linalg.solve(root, centered.T).T
    squares = (white**2).sum(axis=1)
    apart = squares[:, None] + squares - 2.0 * white @ white.T
    np.fill_diagonal(apart, -1.0)  # a row is first among its own neighbors
    k = min(NEIGHBOR, len(rows) - 1)
    return np.sqrt(np.maximum(np.partition(apart, k, axis=1)[:, k], 0.0))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How one family of questions was checked: its roles, on how much, and what came out.

    `shares` holds (name, share given, share latent); `p_values` (test, p-value); `excess` (label, mean of coverage less
    credibility). `score` is the mean log density of the truth, where densities were looked at.
    """

    fingerprint: str
    shares: Shares
    simulations: int
    draws: int
    level: float
    p_value: float
    p_values: tuple[tuple[str, float], ...]
    excess: tuple[tuple[str, float], ...]
    score: float | None = None

    @property
    def ok(self) -> bool:
        """Whether all tests passed together, at a rate `level` of false alarms."""
        return self.p_value > self.level

    @property
    def question(self) -> str:
        """The family in words, such as `theta given x`."""
        return words(self.shares)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Calibration":
        lists = {name: tuple(tuple(row) for row in found[name]) for name in ("shares", "p_values", "excess")}
        return cls(**{**found, **lists})


@dataclasses.dataclass(frozen=True)
class Choice:
    """The solver that was chosen for one family of questions: its evaluations of the network, and its measured error.

    `kind` is "draws", whose error is in units of their spread, or "densities", in nats; `wanted` is the error that was
    asked for, and `among` a name for the candidates. Where `error` is above `wanted`, none of them reached it.
    """

    fingerprint: str
    shares: Shares
    kind: str
    wanted: float
    among: str
    solver: AbstractSolver
    evaluations: int
    error: float

    @staticmethod
    def named(candidates: Iterable[AbstractSolver]) -> str:
        """A short name for candidates, the same for the same ones."""
        return hashlib.sha256("; ".join(map(str, candidates)).encode()).hexdigest()[:16]

    @property
    def wish(self) -> tuple[str, Shares, float, str]:
        """What it answers."""
        return self.kind, self.shares, self.wanted, self.among

    @property
    def question(self) -> str:
        """The family in words, such as `theta given x`."""
        return words(self.shares)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "solver": solver_to_json(self.solver)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Choice":
        shares = tuple(tuple(row) for row in found["shares"])
        return cls(**{**found, "shares": shares, "solver": solver_from_json(found["solver"])})


@dataclasses.dataclass(frozen=True)
class Record:
    """What training left behind: how long, on how much, how well; how the model was checked since, and which solvers
    were chosen for it."""

    simulations: int = 0
    steps: int = 0
    seconds: float = 0.0
    validation_loss: float | None = None
    calibrations: tuple[Calibration, ...] = ()
    familiar: ReferenceData | None = None
    solvers: tuple[Choice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings and lists, for the model file."""
        found = dataclasses.asdict(dataclasses.replace(self, solvers=()))
        del found["solvers"]  # only what is there is told: other files stay as earlier versions know them
        chosen = {"solvers": [one.to_json() for one in self.solvers]} if self.solvers else {}
        return {**found, "familiar": None if self.familiar is None else self.familiar.to_json(), **chosen}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Record":
        familiar = found.get("familiar")
        return cls(
            **{
                **found,
                "calibrations": tuple(Calibration.from_json(one) for one in found.get("calibrations", ())),
                "familiar": None if familiar is None else ReferenceData.from_json(familiar),
                "solvers": tuple(Choice.from_json(one) for one in found.get("solvers", ())),
            }
        )

    def of(self, fingerprint: str) -> "Record":
        """The record without calibrations and solvers of other weights, and what goes with them."""
        kept = tuple(one for one in self.calibrations if one.fingerprint == fingerprint)
        solvers = tuple(one for one in self.solvers if one.fingerprint == fingerprint)
        return dataclasses.replace(self, calibrations=kept, familiar=self.familiar if kept else None, solvers=solvers)

    def checked(self, calibration: Calibration, familiar: ReferenceData | None) -> "Record":
        """The record with one more calibration, in the place of an older one of the same family."""
        kept = self.of(calibration.fingerprint)
        rest = tuple(one for one in kept.calibrations if one.shares != calibration.shares)
        return dataclasses.replace(kept, calibrations=(*rest, calibration), familiar=familiar)

    def tuned(self, choice: Choice) -> "Record":
        """The record with one more choice of a solver, in the place of an older one for the same wish."""
        kept = self.of(choice.fingerprint)
        return dataclasses.replace(kept, solvers=(*(one for one in kept.solvers if one.wish != choice.wish), choice))


def fingerprint(model: eqx.Module) -> str:
    """64 bits of a hash of all numbers of a model."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def concerns(record: Record, model: Any, question: Question) -> list[str]:
    """What the calibrations in a model's record have to say against a question, a sentence each."""
    return of_family(record, shares_of(model.layout, question.roles)) + _strangers(model, question, record.familiar)


def of_family(record: Record, own: Shares) -> list[str]:
    """What they have to say against a family of questions."""
    if not record.calibrations:
        return []
    (far, name), nearest = min(((distance(own, one.shares), one) for one in record.calibrations), key=lambda f: f[0][0])
    if far > FAR:
        checked = "; ".join(one.question for one in record.calibrations)
        return [f"this question is far from those that were checked ({checked}) in the role of '{name}': rd.check it"]
    if nearest.ok:
        return []
    bar = nearest.level / len(nearest.p_values)
    failed = ", ".join(f"{test} p = {p:.2g}" for test, p in nearest.p_values if p <= bar)
    return [f"the check of {nearest.question} failed ({failed}): do not rely on these draws"]


def _strangers(model: Any, question: Question, familiar: ReferenceData | None) -> list[str]:
    if familiar is None:
        return []
    values = np.where(question.roles == GIVEN, question.values, np.nan)[:LOOKED_AT]
    p_values = [p for p in map(familiar.p_value, np.asarray(model.scaling.forward(values))) if p is not None]
    alarms = sum(p <= STRANGE for p in p_values)
    # of many observations a few are strange by chance: more than 1 + 3 sqrt(expected) in fewer than 1 of 100 Batches
    if alarms <= (0 if len(p_values) <= 1 else 1 + 3 * (STRANGE * len(p_values)) ** 0.5):
        return []
    which = "the observation is" if len(p_values) == 1 else f"{alarms} of {len(p_values)} observations are"
    return [f"{which} unlike the simulations (p = {min(p_values):.2g}): rd.unlike says which data do not fit"]
