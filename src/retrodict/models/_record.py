"""The record of a model: how it was trained, how it was checked, and some data of its simulations.

A *calibration* belongs to a family of queries (`query.family`) and to the weights that were checked. A fingerprint of
all weights tells whether they are the same; a model that was changed or trained further has no calibration. A check
that failed stays until the weights change, or until one passes that is at least as strong.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np

from retrodict.models._reference import ReferenceData
from retrodict.query import Shares, words
from retrodict.solvers import AbstractSolver
from retrodict.solvers import from_json as solver_from_json
from retrodict.solvers import to_json as solver_to_json


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

    def settles(self, other: "Calibration") -> bool:
        """Whether this check takes the place of another: it passed, or is at least as strong as one that failed."""
        if self.shares != other.shares:
            return False
        tests = {name for name, _ in other.p_values} <= {name for name, _ in self.p_values}
        strong = self.simulations >= other.simulations and self.draws >= other.draws and self.level >= other.level
        return other.ok or (tests and strong)

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
    quiet: bool = False  # the model does not warn; files do not know it

    def to_json(self) -> dict[str, Any]:
        """Returns numbers, strings and lists, for the model file."""
        fields = dataclasses.asdict(dataclasses.replace(self, solvers=(), familiar=None))
        del fields["solvers"], fields["quiet"]  # a file without solvers stays as earlier versions know it
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
        """Returns the record without calibrations and solvers of other weights; reference data stay."""
        calibrations = tuple(entry for entry in self.calibrations if entry.fingerprint == fingerprint)
        solvers = tuple(entry for entry in self.solvers if entry.fingerprint == fingerprint)
        return dataclasses.replace(self, calibrations=calibrations, solvers=solvers)

    def checked(self, calibration: Calibration, familiar: ReferenceData | None) -> "Record":
        """Returns the record with one more calibration, in the place of those that it settles."""
        record = self.of(calibration.fingerprint)
        kept = tuple(entry for entry in record.calibrations if not calibration.settles(entry))
        familiar = record.familiar or familiar
        return dataclasses.replace(record, calibrations=(*kept, calibration), familiar=familiar)

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
