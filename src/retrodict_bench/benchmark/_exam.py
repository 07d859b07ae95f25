"""One cell of the benchmark: a task, a budget and a seed, and how far the posteriors are from the references.

For each task: simulate once, train one model by the rule or per path, let every solver draw from it, and for every
observation compare 10,000 draws with 10,000 of the reference posterior by two classifiers. `c2st_mlp` is the strict
one, on the scale of the SBI benchmark (Lueckmann et al., 2021); `c2st_rf` a random forest, more lenient. .5 is perfect,
1 is useless. What is trained is `learn_posterior`, or, where a path is named, the joint model as it comes; both know
simulations alone and never these figures. `rule` tells their version, and counts up when they change.
"""

import dataclasses
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np

from retrodict._errors import DataError, QueryError
from retrodict._runtime.progress import Progress
from retrodict.diagnostics import c2st, c2st_forest
from retrodict.models import FlowModel, joint
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.paths import Path
from retrodict.problem.dependencies import Dependencies
from retrodict.simulation._simulate import simulate
from retrodict.solvers import AbstractSolver
from retrodict.training import History, fit
from retrodict.training._learn_posterior import RULE, SelectionReport, learn_posterior
from retrodict_bench import tasks


BY_RULE = "rule"  # in the place of the name of a path: `learn_posterior`
JOINT_RULE = 1  # joint() and fit() as they come: the same network and steps for every task and budget
TASKS = (
    "two_moons",
    "gaussian_linear",
    "gaussian_linear_uniform",
    "gaussian_mixture",
    "slcp",
    "slcp_distractors",
    "bernoulli_glm",
    "bernoulli_glm_raw",
    "sir",
    "lotka_volterra",
)  # those of the SBI benchmark
DRAWS = 10_000
DENSITIES = 1_000
FEWEST = 10  # draws that a classifier can be trained on and judged by
T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """One figure per observation, with its mean and standard deviation."""

    mean: float
    sd: float
    each: list[float]

    @classmethod
    def of(cls, each: Sequence[float]) -> "Spread":
        """The summary of some figures."""
        return cls(float(np.mean(each)), float(np.std(each)), [float(e) for e in each])


@dataclass(frozen=True)
class Row:
    """The result of one task, path and solver; seconds are those of a second call, but training includes compilation.

    `refused` says why there are no figures: the solver cannot follow the path, or its draws cannot be judged.
    `evaluations` is `None` where the solver adapts its steps; `log_prob_seconds` belongs to the path alone.
    """

    task: str
    path: str
    solver: str
    simulations: int
    draws: int
    seed: int
    observations: list[int]
    c2st_mlp: Spread | None
    c2st_rf: Spread | None
    train_seconds: float
    sample_seconds: float | None
    evaluations: int | None
    log_prob_seconds: float
    validation_loss: float
    refused: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    rule: int = JOINT_RULE

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Row":
        """What `to_json` gave."""
        spreads = {name: told[name] and Spread(**told[name]) for name in ("c2st_mlp", "c2st_rf")}
        return cls(**{**told, **spreads})


@dataclass(frozen=True)
class Exam:
    """What is asked about a task: its observations, and by number the reference draws that answers are held against."""

    task: tasks.Task
    simulations: int
    references: Mapping[int, Mapping[str, np.ndarray]]
    draws: int
    seed: int

    @classmethod
    def of(
        cls, name: str, *, simulations: int, observations: Sequence[int], draws: int = DRAWS, seed: int = 0
    ) -> "Exam":
        """An exam about the task of this name, each reference thinned to `draws` rows; whatever is amiss shows here.

        Raises:
            DataError: an unknown task or observation, or a number of draws that its reference cannot match.
            FileError: a reference that is not here.
            QueryError: no observation.
        """
        if not observations:
            raise QueryError("a benchmark needs at least one observation")
        task = tasks.get(name)
        if task.sites:
            raise DataError(f"'{name}' has sites, and this benchmark trains models of one observation without any")
        references = {k: _thinned(task.reference(k), draws, name) for k in observations}
        return cls(task, simulations, references, draws, seed)


def matrix(
    exam: Exam,
    paths: Mapping[str, Path | None],
    solvers: Mapping[str, AbstractSolver],
    *,
    done: Container[tuple[str, str]] = (),
    progress: bool = True,
    jobs: int = 2,
) -> Iterator[Row]:
    """Benchmarks every solver on every path, by the names they are given; a row as soon as it is judged.

    `None` in the place of a path is `learn_posterior`, with the structure that the task declares. Pairs of a path and a
    solver in `done` are left out.
    """
    left = {path: [solver for solver in solvers if (path, solver) not in done] for path in paths}
    if not any(left.values()):
        return
    sims = simulate(exam.task.problem, exam.simulations, key=exam.seed)
    for path_name, path in paths.items():
        if not left[path_name]:
            continue
        trained = _train(exam, sims, path, progress=progress)
        for solver_name in left[path_name]:
            solver = solvers[solver_name]
            row = trained.row(exam, path_name, solver_name, solver)
            yield row if row.refused else _judged(row, exam, trained.model, solver, progress=progress, jobs=jobs)


def rule_of(path: Path | None) -> int:
    """The version of what is trained."""
    return RULE if path is None else JOINT_RULE


@dataclass(frozen=True)
class _Trained:
    model: FlowModel | ImportanceSampledPosterior
    history: History
    account: SelectionReport | None
    train_seconds: float
    log_prob_seconds: float

    def row(self, exam: Exam, path: str, name: str, solver: AbstractSolver) -> Row:
        """What is known before the solver has drawn."""
        flow = self.model.flow if isinstance(self.model, ImportanceSampledPosterior) else self.model
        return Row(
            task=exam.task.name,
            path=path,
            solver=name,
            simulations=exam.simulations,
            draws=exam.draws,
            seed=exam.seed,
            observations=list(exam.references),
            c2st_mlp=None,
            c2st_rf=None,
            train_seconds=self.train_seconds,
            sample_seconds=None,
            evaluations=solver.evaluations,
            log_prob_seconds=self.log_prob_seconds,
            validation_loss=self.history.best,
            refused=solver.refusal(flow.path),
            settings={
                "net": self.model.architecture.to_json(),
                "steps": int(self.history.step[-1]),
                "roles": self.model.law.to_json(),
                "solver": str(solver),
                **({} if self.account is None else {"way": self.account.chosen, "losses": dict(self.account.losses)}),
            },
            rule=JOINT_RULE if self.account is None else RULE,
        )


def _train(exam: Exam, sims: Any, path: Path | None, *, progress: bool) -> _Trained:
    def trained() -> tuple[FlowModel | ImportanceSampledPosterior, History, SelectionReport | None]:
        if path is None:
            structure = None if exam.task.structure is None else Dependencies(**exam.task.structure)
            model, account = learn_posterior(
                sims, dependencies=structure, failed="given", key=exam.seed, progress=progress
            )
            return model, account.histories[account.chosen], account
        untrained = joint(sims.layout, path=path, key=exam.seed)
        return *fit(untrained, sims, key=exam.seed + 1, failed="given", progress=progress), None

    (model, history, account), train_seconds = _timed(trained)
    given = exam.task.observation(next(iter(exam.references)))
    some = model.sample(DENSITIES, given=given, key=0)
    model.log_prob(some, given=given)  # compiles
    _, log_prob_seconds = _timed(lambda: model.log_prob(some, given=given))
    return _Trained(model, history, account, train_seconds, log_prob_seconds)


def _judged(
    row: Row,
    exam: Exam,
    model: FlowModel | ImportanceSampledPosterior,
    solver: AbstractSolver,
    *,
    progress: bool,
    jobs: int,
) -> Row:
    """The row with its figures, or with the reason why its draws cannot be judged."""

    def sample(k: int, key: int) -> Mapping[str, np.ndarray]:
        return model.sample(exam.draws, given=exam.task.observation(k), solver=solver, key=key)

    draws = {k: sample(k, exam.seed + 1 + k) for k in exam.references}
    _, sample_seconds = _timed(lambda: sample(row.observations[0], 0))
    row = dataclasses.replace(row, sample_seconds=sample_seconds)
    strict, lenient = [], []
    with Progress(f"{row.task}, {row.path}, {row.solver}: judging", len(draws), shown=progress) as judging:
        for done, (k, reference) in enumerate(exam.references.items(), start=1):
            try:
                strict.append(float(c2st(reference, draws[k], jobs=jobs)))
                lenient.append(float(c2st_forest(reference, draws[k], jobs=jobs)))
            except DataError as error:  # a solver that left the rails must not end a benchmark of hours
                return dataclasses.replace(row, refused=f"observation {k}: {error}")
            judging.at(done, f"observation {k}: {strict[-1]:.3f}")
    return dataclasses.replace(row, c2st_mlp=Spread.of(strict), c2st_rf=Spread.of(lenient))


def _thinned(reference: Mapping[str, np.ndarray], draws: int, name: str) -> dict[str, np.ndarray]:
    """As many rows of a reference as there will be draws, evenly spread: else chance would not be .5."""
    rows = min(len(values) for values in reference.values())
    if not FEWEST <= draws <= rows:
        raise DataError(f"the number of draws must lie between {FEWEST} and {rows}, as '{name}' has, got {draws}")
    which = np.arange(draws) * rows // draws
    return {variable: values[which] for variable, values in reference.items()}


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    begun = time.perf_counter()
    return call(), time.perf_counter() - begun
