"""The benchmark: one fixed configuration for every task, and how far its posteriors are from the reference.

For each task: simulate, train one joint model, and for every observation compare 10,000 of its draws with 10,000 of
the reference posterior by two classifiers. `c2st_mlp` is the strict one, on the scale of the SBI benchmark (Lueckmann
et al., 2021); `c2st_rf` a random forest, more lenient. .5 is perfect, 1 is useless. Settings are the defaults of
`joint` and `fit`, chosen by validation likelihood on held-out simulations, never by these figures.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from retrodict import tasks
from retrodict._errors import QueryError
from retrodict.diagnostics import c2st, c2st_forest
from retrodict.estimators import SAMPLER, joint
from retrodict.progress import Progress
from retrodict.simulate import simulate
from retrodict.training import fit


DRAWS = 10_000
DENSITIES = 1_000


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
    """The result of one task; seconds are those of a second call, but for training, which includes compilation."""

    task: str
    simulations: int
    seed: int
    observations: list[int]
    c2st_mlp: Spread
    c2st_rf: Spread
    train_seconds: float
    sample_seconds: float
    evaluations: int | None
    log_prob_seconds: float
    validation_loss: float
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and strings."""
        return asdict(self)


def run(
    name: str, *, simulations: int, observations: Sequence[int], seed: int = 0, progress: bool = True, jobs: int = 2
) -> Row:
    """Benchmarks one task; `jobs` classifiers are trained at once.

    Raises:
        DataError: an unknown task or observation.
        QueryError: no observation.
    """
    if not observations:
        raise QueryError("a benchmark needs at least one observation")
    task = tasks.get(name)
    references = {k: task.reference(k) for k in observations}  # a missing file is found before training, not after
    sims = simulate(task.problem, simulations, key=seed)
    begun = time.perf_counter()
    model, history = fit(joint(sims.layout, key=seed), sims, key=seed + 1, progress=progress)
    train_seconds = time.perf_counter() - begun
    draws = {k: model.sample(DRAWS, given=task.observation(k), key=seed + 1 + k) for k in observations}
    first = observations[0]
    some = {name: value[:DENSITIES] for name, value in draws[first].items()}
    sample_seconds = _seconds(lambda: model.sample(DRAWS, given=task.observation(first), key=0))
    log_prob_seconds = _seconds(lambda: model.log_prob(some, given=task.observation(first)))
    strict, lenient = [], []
    with Progress(f"{name}: judging", len(observations), shown=progress) as judging:
        for done, k in enumerate(observations, start=1):
            strict.append(float(c2st(references[k], draws[k], jobs=jobs)))
            lenient.append(float(c2st_forest(references[k], draws[k], jobs=jobs)))
            judging.at(done, f"observation {k}: {strict[-1]:.3f}")
    return Row(
        task=name,
        simulations=simulations,
        seed=seed,
        observations=list(observations),
        c2st_mlp=Spread.of(strict),
        c2st_rf=Spread.of(lenient),
        train_seconds=train_seconds,
        sample_seconds=sample_seconds,
        evaluations=SAMPLER.evaluations,
        log_prob_seconds=log_prob_seconds,
        validation_loss=history.best,
        settings={"net": model.architecture.to_json(), "steps": int(history.step[-1]), "roles": model.law.to_json()},
    )


def _seconds(call: Callable[[], Any]) -> float:
    call()  # compiles
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
