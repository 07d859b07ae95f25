"""An evaluation: a task, a budget and a seed, and how far trained posteriors are from the references.

The task is simulated once. One model is trained by `learn_posterior`, or one joint model for each named path. Every
solver draws from the model. For every observation two classifiers compare 10,000 draws with 10,000 of the reference
posterior: `c2st_mlp` is strict and on the scale of the SBI benchmark (Lueckmann et al., 2021), `c2st_rf` is a random
forest and more lenient. .5 is perfect, 1 is useless. Training sees simulations alone, never these scores. `rule` is the
version of the training procedure; it counts up when the procedure changes.
"""

import dataclasses
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np

from retrodict import DataError, Dependencies, QueryError, Simulations, fit, joint, learn_posterior, simulate
from retrodict._runtime.progress import Progress
from retrodict.diagnostics import c2st, c2st_forest
from retrodict.models import FlowModel
from retrodict.models._importance import ImportanceSampledPosterior
from retrodict.paths import Path
from retrodict.solvers import AbstractSolver
from retrodict.training import History
from retrodict.training._learn_posterior import RULE, SelectionReport
from retrodict_bench import tasks


BY_RULE = "rule"  # stands for `learn_posterior` where the name of a path is expected
JOINT_RULE = 1  # joint() and fit() with their defaults: the same network and steps for every task and budget
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
N_DENSITIES = 1_000  # draws whose log density is timed
MIN_DRAWS = 10  # a classifier cannot be trained and tested on fewer
T = TypeVar("T")
Posterior: TypeAlias = FlowModel | ImportanceSampledPosterior


@dataclass(frozen=True)
class ScoreSummary:
    """The scores of all observations, with their mean and standard deviation."""

    mean: float
    sd: float
    each: list[float]

    @classmethod
    def of(cls, scores: Sequence[float]) -> "ScoreSummary":
        """Returns the summary of scores, one for each observation."""
        return cls(float(np.mean(scores)), float(np.std(scores)), [float(score) for score in scores])


@dataclass(frozen=True)
class Row:
    """The result for one task, path and solver.

    Seconds are those of a second call, without compilation; `train_seconds` includes it. `refused` is the reason why
    there are no scores: the solver cannot follow the path, or its draws cannot be compared. `evaluations` is `None`
    where the solver adapts its steps. `log_prob_seconds` belongs to the path alone.
    """

    task: str
    path: str
    solver: str
    simulations: int
    draws: int
    seed: int
    observations: list[int]
    c2st_mlp: ScoreSummary | None
    c2st_rf: ScoreSummary | None
    train_seconds: float
    sample_seconds: float | None
    evaluations: int | None
    log_prob_seconds: float
    validation_loss: float
    refused: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    rule: int = JOINT_RULE

    def to_json(self) -> dict[str, Any]:
        """Returns the row as plain numbers, lists and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Row":
        """Returns the row that `to_json` wrote."""
        scores = {name: content[name] and ScoreSummary(**content[name]) for name in ("c2st_mlp", "c2st_rf")}
        return cls(**{**content, **scores})


@dataclass(frozen=True)
class Evaluation:
    """A task, its budget and seed, and the reference draws of its observations, by their number."""

    task: tasks.Task
    simulations: int
    references: Mapping[int, Mapping[str, np.ndarray]]
    draws: int
    seed: int

    @classmethod
    def of(
        cls, name: str, *, simulations: int, observations: Sequence[int], draws: int = DRAWS, seed: int = 0
    ) -> "Evaluation":
        """Returns the evaluation of the task of this name, each reference thinned to `draws` rows.

        Raises:
            DataError: an unknown task or observation, or more or fewer draws than its reference can match.
            FileError: the file of a reference is missing.
            QueryError: no observation.
        """
        if not observations:
            raise QueryError("a benchmark needs at least one observation")
        task = tasks.get(name)
        if task.sites:
            raise DataError(f"'{name}' has sites, and this benchmark trains models of one observation without any")
        references = {k: _thin(task.reference(k), draws, name) for k in observations}
        return cls(task, simulations, references, draws, seed)


def matrix(
    evaluation: Evaluation,
    paths: Mapping[str, Path | None],
    solvers: Mapping[str, AbstractSolver],
    *,
    done: Container[tuple[str, str]] = (),
    progress: bool = True,
    jobs: int = 2,
) -> Iterator[Row]:
    """Evaluates every solver on every path, both by their names, and yields each row as soon as it has its scores.

    `None` in place of a path stands for `learn_posterior`, with the structure that the task declares. Pairs of a path
    and a solver in `done` are left out.
    """
    pending = {path: [solver for solver in solvers if (path, solver) not in done] for path in paths}
    if not any(pending.values()):
        return
    sims = simulate(evaluation.task.problem, evaluation.simulations, key=evaluation.seed)
    for path_name, path in paths.items():
        if not pending[path_name]:
            continue
        trained = _train(evaluation, sims, path, progress=progress)
        for solver_name in pending[path_name]:
            solver = solvers[solver_name]
            row = trained.row(evaluation, path_name, solver_name, solver)
            yield row if row.refused else _score(row, evaluation, trained.model, solver, progress=progress, jobs=jobs)


def rule_of(path: Path | None) -> int:
    """Returns the version of the training procedure."""
    return RULE if path is None else JOINT_RULE


@dataclass(frozen=True)
class _Trained:
    model: Posterior
    history: History
    selection: SelectionReport | None
    train_seconds: float
    log_prob_seconds: float

    def row(self, evaluation: Evaluation, path: str, name: str, solver: AbstractSolver) -> Row:
        """Returns the row of a solver without scores: it has not drawn yet."""
        selection = self.selection
        return Row(
            task=evaluation.task.name,
            path=path,
            solver=name,
            simulations=evaluation.simulations,
            draws=evaluation.draws,
            seed=evaluation.seed,
            observations=list(evaluation.references),
            c2st_mlp=None,
            c2st_rf=None,
            train_seconds=self.train_seconds,
            sample_seconds=None,
            evaluations=solver.evaluations,
            log_prob_seconds=self.log_prob_seconds,
            validation_loss=self.history.best,
            refused=solver.refusal(_path_of(self.model)),
            settings={
                "net": self.model.architecture.to_json(),
                "steps": int(self.history.step[-1]),
                "roles": self.model.law.to_json(),
                "solver": str(solver),
                **({} if selection is None else {"way": selection.chosen, "losses": dict(selection.losses)}),
            },
            rule=JOINT_RULE if selection is None else RULE,
        )


def _path_of(model: Posterior) -> Path:
    """Returns the path that a solver follows: the model's own, or that of the flow that proposes its draws."""
    return model.path if hasattr(model, "path") else model.flow.path


def _train(evaluation: Evaluation, sims: Simulations, path: Path | None, *, progress: bool) -> _Trained:
    seed, structure = evaluation.seed, evaluation.task.structure

    def trained() -> tuple[Posterior, History, SelectionReport | None]:
        if path is None:
            dependencies = None if structure is None else Dependencies(**structure)
            model, selection = learn_posterior(
                sims, dependencies=dependencies, failed="ignore", key=seed, progress=progress
            )
            return model, selection.histories[selection.chosen], selection
        untrained = joint(sims.layout, path=path, key=seed)
        return *fit(untrained, sims, key=seed + 1, failed="ignore", progress=progress), None

    (model, history, selection), train_seconds = _timed(trained)
    observation = evaluation.task.observation(next(iter(evaluation.references)))
    draws = model.sample(N_DENSITIES, given=observation, key=0)
    model.log_prob(draws, given=observation)  # compiles
    _, log_prob_seconds = _timed(lambda: model.log_prob(draws, given=observation))
    return _Trained(model, history, selection, train_seconds, log_prob_seconds)


def _score(
    row: Row, evaluation: Evaluation, model: Posterior, solver: AbstractSolver, *, progress: bool, jobs: int
) -> Row:
    """Returns the row with its scores, or with the reason why its draws cannot be compared."""

    def sample(k: int, key: int) -> Mapping[str, np.ndarray]:
        return model.sample(evaluation.draws, given=evaluation.task.observation(k), solver=solver, key=key)

    draws = {k: sample(k, evaluation.seed + 1 + k) for k in evaluation.references}
    _, sample_seconds = _timed(lambda: sample(row.observations[0], 0))
    row = dataclasses.replace(row, sample_seconds=sample_seconds)
    strict, lenient = [], []
    with Progress(f"{row.task}, {row.path}, {row.solver}: scoring", len(draws), shown=progress) as bar:
        for number, (k, reference) in enumerate(evaluation.references.items(), start=1):
            try:
                strict.append(float(c2st(reference, draws[k], jobs=jobs)))
                lenient.append(float(c2st_forest(reference, draws[k], jobs=jobs)))
            except DataError as error:  # a solver that diverged must not end a benchmark of hours
                return dataclasses.replace(row, refused=f"observation {k}: {error}")
            bar.at(number, f"observation {k}: {strict[-1]:.3f}")
    return dataclasses.replace(row, c2st_mlp=ScoreSummary.of(strict), c2st_rf=ScoreSummary.of(lenient))


def _thin(reference: Mapping[str, np.ndarray], draws: int, name: str) -> dict[str, np.ndarray]:
    """Returns `draws` rows of a reference, evenly spread: classes of unequal size would move chance away from .5."""
    rows = min(len(values) for values in reference.values())
    if not MIN_DRAWS <= draws <= rows:
        raise DataError(f"the number of draws must lie between {MIN_DRAWS} and {rows}, as '{name}' has, got {draws}")
    index = np.arange(draws) * rows // draws
    return {variable: values[index] for variable, values in reference.items()}


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start
