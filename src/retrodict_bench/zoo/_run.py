"""Runs of cases: simulate, train, ask as a user would by defaults, and compare with the exact answer.

    off     root mean square over observations and elements of (mean - exact mean) / exact sd
    ratio   sd / exact sd, the geometric mean over observations, of the element where it is farthest from one

An answer is right if off <= .15, .87 <= ratio <= 1.15, and at most 1 % of draws lie outside the support. Warnings and
refusals are kept as they were said; a sentence counts if it names a variable.
"""

import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

import retrodict as rd
from retrodict_bench.zoo._case import Case
from retrodict_bench.zoo._exact import Moments


# width and depth of the network and steps by the way to learn; a residual MLP of (256, 3) and 10,000 are the library's
SMALL = {"posterior": (64, 2, 2_000), "joint": (96, 3, 4_000), "hierarchical": (0, 0, 1_000)}
MAX_SITES = 20  # of a set in training, unless more are asked; 200 are the library's
MAX_OFF, MIN_RATIO, MAX_RATIO, MAX_OUTSIDE = 0.15, 0.87, 1.15, 0.01
DRAWS = 2_000
SITE_DRAWS = 1_000
DENSITIES = 20  # draws whose log density must be finite
FAILED_VERDICTS = ("SILENT AND WRONG", "SAID WITHOUT A NAME", "NOTHING SAID", "FALSE WARNING", "RAW ERROR")
T = TypeVar("T")


@dataclass
class Outcome:
    """The outcome of a case.

    Attributes:
        off: as the module says; None where nothing was drawn or no exact answer is known.
        ratio: as the module says.
        worst: the largest deviation of a mean, in exact sds.
        said: warnings, each with the stage at which it came.
        refused: the sentence of a refusal, with its stage.
        error: an error that is no sentence of the library, with its stage.
        infinite: the share of draws of the model whose log density is not finite; None where none was asked.
        outside: the share of draws outside the true support.
    """

    name: str
    kind: str
    text: str
    bar: str
    off: float | None = None
    ratio: float | None = None
    worst: float | None = None
    said: list[str] = field(default_factory=list)
    refused: str = ""
    error: str = ""
    infinite: float | None = None
    outside: float = 0.0
    seconds: float = 0.0
    verdict: str = ""

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        off, ratio = self.off, self.ratio
        if off is None or ratio is None:
            return False
        return off <= MAX_OFF and MIN_RATIO <= ratio <= MAX_RATIO and self.outside <= MAX_OUTSIDE

    def judged(self, names: tuple[str, ...]) -> str:
        """Returns the verdict; a sentence must have one of these names."""
        sentences = [*self.said, self.refused] if self.refused else self.said
        named = any(re.search(_pattern(name), text) for name in names for text in sentences)
        if self.error:
            return "RAW ERROR"
        if self.bar == "silent":
            return "FALSE WARNING" if sentences else "silent"
        if self.bar == "right or said" and self.right:
            return "right"
        if not sentences:
            return "NOTHING SAID" if self.bar == "said" else "SILENT AND WRONG"
        if not named:
            return "SAID WITHOUT A NAME"
        return "refused" if self.refused else "warned"


def _pattern(name: str) -> str:
    return r"'a'|\ba[\[:]" if name == "a" else rf"\b{re.escape(name)}\b"  # "a" is a word, too


def run(case: Case, *, by_defaults: bool = False) -> Outcome:
    """Runs a case in this process, or in another one if JAX has another precision there.

    With `by_defaults` networks and steps are the library's own, not the small ones of the zoo.
    """
    if case.x64 != (jnp.zeros(()).dtype == jnp.float64):
        return _elsewhere(case, by_defaults=by_defaults)
    outcome, start = Outcome(case.name, case.kind, case.text, case.bar), time.monotonic()
    stage = ["simulate"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _run(case, outcome, stage, by_defaults=by_defaults)
        except rd.RetrodictError as error:
            outcome.refused = f"{stage[0]}: {error}"
        except Exception as error:  # whatever a user would see
            outcome.error = f"{stage[0]}: {type(error).__name__}: {str(error)[:300]}"
    texts = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    outcome.said = [*outcome.said, *dict.fromkeys(texts)]
    outcome.seconds = time.monotonic() - start
    outcome.verdict = outcome.judged(case.blame or tuple(case.variables().names))
    return outcome


def _run(case: Case, outcome: Outcome, stage: list[str], *, by_defaults: bool) -> None:
    sims = case.training()
    observations = case.asked()
    stage[0] = "train"
    model = _trained(case, sims, by_defaults=by_defaults)
    stage[0] = "ask"
    asked: Any = case.spoil_observations(observations) if case.spoil_observations else observations
    draws = _drawn(case, model, asked)
    stage[0] = "compare"
    if case.exact is not None:
        count = len(next(iter(observations.values())))
        exact = [case.exact({name: values[k] for name, values in observations.items()}) for k in range(count)]
        outcome.off, outcome.ratio, outcome.worst = compared(draws, exact)
    first_draws = next(iter(draws.values()))
    outcome.outside = float(((first_draws < case.inside[0]) | (first_draws > case.inside[1])).mean())
    if case.learn != "hierarchical":
        stage[0] = "log_prob"
        first = {name: values[0, :DENSITIES] for name, values in draws.items()}
        log_probs = model.log_prob(first, given={name: values[0] for name, values in asked.items()})
        outcome.infinite = float(1.0 - np.isfinite(log_probs).mean())


def _trained(case: Case, sims: Any, *, by_defaults: bool) -> Any:
    layout = case.variables()
    if case.learn == "learn_posterior":
        return rd.learn_posterior(sims, failed=case.failed, key=1, progress=False)[0]
    width, depth, steps = SMALL[case.learn]
    settings: dict[str, Any] = {} if by_defaults else {"steps": case.steps or steps}
    if case.learn == "hierarchical":
        sites = (1, 200) if by_defaults else (2, max(MAX_SITES, case.sites))
        model: rd.AbstractModel = rd.hierarchical(layout, n_sites=sites)
    else:
        net = None if by_defaults else rd.nets.ResMLP(case.width or width, depth)
        model = (rd.joint if case.learn == "joint" else rd.posterior)(layout, net=net)
    return rd.fit(model, sims, key=1, failed=case.failed, progress=False, **settings)[0]


def _drawn(case: Case, model: rd.AbstractModel, observations: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns draws of all parameters, `(K, n, *shape)`."""
    if case.learn != "hierarchical":
        return dict(model.sample(DRAWS, given=rd.Batch(observations), of=case.variables().parameters, key=2))
    each = [
        model.sample(SITE_DRAWS, given={name: values[k] for name, values in observations.items()}, key=2)
        for k in range(len(next(iter(observations.values()))))
    ]
    return {name: np.stack([draws[name] for draws in each]) for name in each[0]}


def compared(draws: Mapping[str, np.ndarray], exact: list[Moments]) -> tuple[float, float, float]:
    """Returns off, ratio, and the largest deviation of a mean, for draws `(K, n, *shape)` and K exact answers."""
    off, log_ratio = [], []
    for name in exact[0]:
        values = np.asarray(draws[name], np.float64)
        values = values.reshape(*values.shape[:2], -1)
        mean, sd = (np.stack([np.ravel(moments[name][i]) for moments in exact]) for i in (0, 1))
        with np.errstate(all="ignore"):
            center = values[:, :1]  # means of numbers far from zero keep their digits
            off.append((center[:, 0] - mean + (values - center).mean(axis=1)) / sd)
            log_ratio.append(np.log(np.maximum((values - center).std(axis=1) / sd, 1e-12)))
    deviations, ratios = np.concatenate(off, axis=1), np.concatenate(log_ratio, axis=1).mean(axis=0)
    if not (np.isfinite(deviations).all() and np.isfinite(ratios).all()):
        return np.inf, np.inf, np.inf
    farthest = ratios[np.argmax(abs(ratios))]
    return float(np.sqrt((deviations**2).mean())), float(np.exp(farthest)), float(abs(deviations).max())


def _elsewhere(case: Case, *, by_defaults: bool) -> Outcome:
    """Runs a case in a process of the other precision."""
    code = (
        "import json, sys; from dataclasses import asdict; from retrodict_bench.zoo import CASES, run; "
        f"print(json.dumps(asdict(run(CASES[{case.name!r}], by_defaults={by_defaults}))))"
    )
    environment = {**os.environ, "JAX_ENABLE_X64": str(int(case.x64))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        error = f"a process of its own: {done.stderr.strip().splitlines()[-1][:300]}"
        return Outcome(case.name, case.kind, case.text, case.bar, error=error, verdict="RAW ERROR")
    return Outcome(**json.loads(done.stdout.strip().splitlines()[-1]))
