"""The record of a model: how it was trained, how it was checked, and some data of its simulations.

A *calibration* belongs to a family of queries (`query.family`). Two families whose distance is above 1/2 are far apart:
a variable changed its role, or most of its elements did. A calibration also belongs to the weights that were checked. A
fingerprint of all weights tells whether they are the same; a model that was changed or trained further has no
calibration.
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

from retrodict.query import Query, Shares, distance, words
from retrodict.roles import GIVEN
from retrodict.solvers import AbstractSolver
from retrodict.solvers import from_json as solver_from_json
from retrodict.solvers import to_json as solver_to_json
from retrodict.transforms import Scaling


FAR = 0.5  # the distance of two queries above which one says nothing about the other
STRANGE = 0.01  # the p-value below which an observation is unlike the simulations: 1 in 100 false alarms
MAX_OBSERVATIONS = 32  # of a Batch that are compared with simulations
NEIGHBOR = 5  # the distance to the fifth nearest neighbor counts
RIDGE = 1e-3  # of variances near 1: more than rounding, less than the noise of any data worth having


class CalibrationWarning(UserWarning):
    """A warning that the calibration of a model speaks against a query or an observation."""


@dataclasses.dataclass(frozen=True)
class ReferenceData:
    """Rows of simulated data in the model's coordinates: `(n, k)` single-precision numbers of k tokens."""

    rows: bytes = dataclasses.field(repr=False)
    tokens: tuple[int, ...]

    @property
    def data(self) -> Float32[np.ndarray, "n k"]:
        return np.frombuffer(self.rows, np.float32).reshape(-1, len(self.tokens))

    def p_value(self, z: Float[np.ndarray, " d"]) -> float | None:
        """Returns the probability of data at least as far from other data as `z`; None where nothing was observed.

        NaN in `z` is not observed. The observation is one more row. All rows are whitened by the covariance of all, and
        the distance to the fifth nearest other row is compared. Had the simulator made the observation, every row would
        be as likely to have the largest distance: the p-value is exact (Vovk et al. 2005, conformal prediction).
        """
        observation = z[list(self.tokens)]
        observed = np.isfinite(observation)
        if not observed.any():
            return None
        rows = np.concatenate([self.data[:, observed], observation[None, observed]]).astype(np.float64)
        distances = nearest_neighbor_distance(rows)
        return float((distances >= distances[-1]).mean())

    def to_json(self) -> dict[str, Any]:
        return {"rows": base64.b64encode(self.rows).decode("ascii"), "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ReferenceData":
        return cls(base64.b64decode(fields["rows"], validate=True), tuple(int(i) for i in fields["tokens"]))


def nearest_neighbor_distance(rows: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """Returns the distance of every row, whitened, to its fifth nearest neighbor."""
    centered = rows - rows.mean(axis=0)
    root = np.linalg.cholesky(centered.T @ centered / len(rows) + RIDGE * np.eye(rows.shape[1]))
    white = np.linalg.solve(root, centered.T).T
    squares = (white**2).sum(axis=1)
    distances = squares[:, None] + squares - 2.0 * white @ white.T
    np.fill_diagonal(distances, -1.0)  # a row is the first of its neighbors
    k = min(NEIGHBOR, len(rows) - 1)
    return np.sqrt(np.maximum(np.partition(distances, k, axis=1)[:, k], 0.0))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The outcome of a check of one family of queries: its roles, the number of simulations, and the tests.

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
    def from_json(cls, fields: Mapping[str, Any]) -> "Calibration":
        lists = {name: tuple(tuple(row) for row in fields[name]) for name in ("shares", "p_values", "excess")}
        return cls(**{**fields, **lists})


@dataclasses.dataclass(frozen=True)
class Choice:
    """The solver of one family of queries: its evaluations of the network, and its measured error.

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
        """Returns a short name for candidates, the same for the same ones."""
        return hashlib.sha256("; ".join(map(str, candidates)).encode()).hexdigest()[:16]

    @property
    def wish(self) -> tuple[str, Shares, float, str]:
        """The wish that this choice answers."""
        return self.kind, self.shares, self.wanted, self.among

    @property
    def question(self) -> str:
        """The family in words, such as `theta given x`."""
        return words(self.shares)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "solver": solver_to_json(self.solver)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Choice":
        shares = tuple(tuple(row) for row in fields["shares"])
        return cls(**{**fields, "shares": shares, "solver": solver_from_json(fields["solver"])})


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of training: simulations, steps, seconds, loss; and of checks and solvers since then."""

    simulations: int = 0
    steps: int = 0
    seconds: float = 0.0
    validation_loss: float | None = None
    calibrations: tuple[Calibration, ...] = ()
    familiar: ReferenceData | None = None
    solvers: tuple[Choice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns numbers, strings and lists, for the model file."""
        fields = dataclasses.asdict(dataclasses.replace(self, solvers=()))
        del fields["solvers"]  # a file without solvers stays as earlier versions know it
        solvers = {"solvers": [choice.to_json() for choice in self.solvers]} if self.solvers else {}
        return {**fields, "familiar": None if self.familiar is None else self.familiar.to_json(), **solvers}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Record":
        familiar = fields.get("familiar")
        return cls(
            **{
                **fields,
                "calibrations": tuple(Calibration.from_json(entry) for entry in fields.get("calibrations", ())),
                "familiar": None if familiar is None else ReferenceData.from_json(familiar),
                "solvers": tuple(Choice.from_json(entry) for entry in fields.get("solvers", ())),
            }
        )

    @property
    def training_text(self) -> str:
        """The training of the model in one line."""
        if not self.steps:
            return "not yet: rd.fit(model, sims, key=...)"
        loss = "" if self.validation_loss is None else f", validation loss {self.validation_loss:.4f}"
        return f"{self.simulations:,} simulations, {self.steps:,} steps, {self.seconds:.0f} s{loss}"

    def of(self, fingerprint: str) -> "Record":
        """Returns the record without calibrations and solvers of other weights."""
        calibrations = tuple(entry for entry in self.calibrations if entry.fingerprint == fingerprint)
        solvers = tuple(entry for entry in self.solvers if entry.fingerprint == fingerprint)
        return dataclasses.replace(
            self, calibrations=calibrations, familiar=self.familiar if calibrations else None, solvers=solvers
        )

    def checked(self, calibration: Calibration, familiar: ReferenceData | None) -> "Record":
        """Returns the record with one more calibration, which replaces an older one of the same family."""
        record = self.of(calibration.fingerprint)
        others_kept = tuple(entry for entry in record.calibrations if entry.shares != calibration.shares)
        return dataclasses.replace(record, calibrations=(*others_kept, calibration), familiar=familiar)

    def tuned(self, choice: Choice) -> "Record":
        """Returns the record with one more solver, which replaces an older one for the same wish."""
        record = self.of(choice.fingerprint)
        return dataclasses.replace(
            record, solvers=(*(entry for entry in record.solvers if entry.wish != choice.wish), choice)
        )


def fingerprint(model: object) -> str:
    """Returns 64 bits of a hash of all numbers of a model."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)):
        # scaling is kept in double precision, by files of earlier versions in single
        leaf = leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def doubts_about(record: Record, query: Query, coordinates: Scaling) -> list[str]:
    """Returns what the calibrations in a record have to say against a query, a sentence each."""
    return _doubts_about_family(record, query.shares) + _doubts_about_values(query, coordinates, record.familiar)


def _doubts_about_family(record: Record, shares: Shares) -> list[str]:
    if not record.calibrations:
        return []
    distances = ((distance(shares, calibration.shares), calibration) for calibration in record.calibrations)
    (apart, name), nearest = min(distances, key=lambda pair: pair[0][0])
    if apart > FAR:
        checked = "; ".join(calibration.question for calibration in record.calibrations)
        return [f"this question is far from those that were checked ({checked}) in the role of '{name}': rd.check it"]
    if nearest.ok:
        return []
    bar = nearest.level / len(nearest.p_values)
    failed = ", ".join(f"{test} p = {p:.2g}" for test, p in nearest.p_values if p <= bar)
    return [f"the check of {nearest.question} failed ({failed}): do not rely on these draws"]


def _doubts_about_values(query: Query, coordinates: Scaling, reference: ReferenceData | None) -> list[str]:
    if reference is None:
        return []
    values = np.where(query.roles == GIVEN, query.values, np.nan)[:MAX_OBSERVATIONS]
    p_values = [p for p in map(reference.p_value, np.asarray(coordinates.forward(values))) if p is not None]
    alarms = sum(p <= STRANGE for p in p_values)
    # of many observations a few are strange by chance: more than 1 + 3 sqrt(expected) in fewer than 1 of 100 Batches
    if alarms <= (0 if len(p_values) <= 1 else 1 + 3 * (STRANGE * len(p_values)) ** 0.5):
        return []
    subject = "the observation is" if len(p_values) == 1 else f"{alarms} of {len(p_values)} observations are"
    return [f"{subject} unlike the simulations (p = {min(p_values):.2g}): rd.unlike says which data do not fit"]
