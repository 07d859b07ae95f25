"""Two inverse problems with many data: errors of posterior means by network evaluations, noise and missing data.

    python tools/high_dimension.py [--tasks vilar ...] [--rows 10000] [--steps N] [--noisy] [--folder DIR] [--out FILE]

Each task runs in a separate process, whose peak memory is reported. It trains one joint model and asks it about 200 new
simulations. An embedding reads the data, so the data are always given, completely or in part; the model is joint in the
parameters, any of which may be given. No network here could take a field of 20,200 numbers as 20,200 tokens. If the
rows do not fit in memory, they are simulated into a store and streamed from it.

One JSON line a task:

    error        of the posterior mean, root mean square over simulations and parameters, in sds of the prior (1 is the
                 error of the prior itself), by corruption of the data and by evaluations of the network
    each         the same, parameter by parameter, with complete data and the fine solver
    cover_90, cover_50    share of central intervals that hold the truth, all parameters together, by corruption
    noise_s      noise of s % of the standard deviation of each row's data was added; missing_s: s % were removed

With `--noisy`, training rows have additional noise. Its share of the sd is up to `MAX_SHARE`, and is an additional
parameter that questions leave out: the model should then stay calibrated under noise.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import retrodict as rd
from retrodict.models import FlowModel
from retrodict.solvers import AbstractSolver


TASKS = ("reaction_diffusion", "vilar")
FRESH, DRAWS = 200, 64
MAX_SHARE = 0.5  # of the sd of the data, of the noise that `--noisy` adds
CORRUPTIONS = {"complete": (), "noise_10": ("noise", 0.1), "noise_30": ("noise", 0.3)} | {
    f"missing_{s}": ("missing", s / 100) for s in (10, 30, 60)
}
SOLVERS: dict[str, AbstractSolver] = {str(n): rd.solvers.Euler(n) for n in (1, 2, 3, 5, 10)} | {
    "fine": rd.solvers.Midpoint(16)
}
MAX_BYTES = 2**28  # of simulations in memory
TRAINING: dict[str, dict[str, Any]] = {
    "reaction_diffusion": {"steps": 3_000, "batch_size": 128, "weight_decay": 1.0},
    "vilar": {"steps": 6_000, "batch_size": 256, "weight_decay": 1.0},
}


def network(name: str) -> rd.nets.ResMLP:
    """Returns the network of a task: patches of 4 x 4 of the noisy field, windows of 8 times of the clock."""
    if name == "vilar":
        return rd.nets.ResMLP(128, 3, embed={"counts": rd.nets.CNN1d()})
    cnn = rd.nets.CNN2d(channels=(32, 64, 64), kernel=4, stride=4, tokens=4)
    return rd.nets.ResMLP(128, 3, embed={"field": cnn})


def add_noise(key: jax.Array, x: jax.Array, share: jax.Array, channels: int) -> jax.Array:
    """Adds noise of this share of the data's standard deviation, separately for each channel of the last axis."""
    sd = jnp.std(x, axis=tuple(range(x.ndim - channels)), keepdims=True)
    return x + share * sd * jax.random.normal(key, x.shape)


def noisy(problem: rd.Problem, channels: int) -> rd.Problem:
    """Returns the problem with noise added to its data; the noise's share of the sd is the parameter `added`."""
    layout = problem.layout
    prior = {name: dist.Uniform(*(float(end[0]) for end in layout[name].ends)) for name in layout.parameters}

    def simulate(key: jax.Array, **rates: jax.Array) -> dict[str, jax.Array]:
        key_run, key_noise = jax.random.split(key)
        share = rates.pop("added")
        return {
            name: add_noise(key_noise, x, share, channels) for name, x in problem.simulator(key_run, **rates).items()
        }

    return rd.Problem({**prior, "added": dist.Uniform(0.0, MAX_SHARE)}, simulate)


def corrupt(x: np.ndarray, corruption: tuple[Any, ...], channels: int) -> np.ndarray:
    """Returns rows of data with noise added or places removed; a removed place loses all its channels."""
    if not corruption:
        return x
    kind, share = corruption
    if kind == "noise":
        keys = jax.random.split(jax.random.key(5), len(x))
        return np.asarray(jax.vmap(lambda key, row: add_noise(key, row, share, channels))(keys, x))
    places = x.shape[: x.ndim - channels]
    removed = np.random.default_rng(6).random(places) < share
    return np.where(removed.reshape(*places, *(1,) * channels), np.nan, x)


def score(model: FlowModel, task: rd.tasks.Task, data: str, channels: int, fresh: int) -> dict[str, Any]:
    """Returns errors and coverage on `fresh` new simulations."""
    names = task.problem.layout.parameters
    test = rd.simulate(task.problem, fresh, key=99)
    low, high = (np.array([task.problem.layout[v].ends[i][0] for v in names]) for i in (0, 1))
    sd = (high - low) / np.sqrt(12)  # all priors are uniform
    truth = np.stack([test[v] for v in names], -1)
    scores: dict[str, Any] = {"error": {}, "cover_90": {}, "cover_50": {}}
    for label, corruption in CORRUPTIONS.items():
        observed = rd.Batch({data: corrupt(test[data], corruption, channels)})
        rms = {}
        for evaluations, solver in SOLVERS.items():
            draws = model.sample(DRAWS, given=observed, of=names, solver=solver, key=3)
            parameters = np.stack([draws[v] for v in names], -1)
            error = (parameters.mean(1) - truth) / sd
            rms[evaluations] = round(float(np.sqrt(np.mean(error**2))), 4)
        scores["error"][label] = rms
        for size in (90, 50):  # of the last solver, the fine one
            ends = np.quantile(parameters, [0.5 - size / 200, 0.5 + size / 200], axis=1)
            scores[f"cover_{size}"][label] = round(float(np.mean((ends[0] <= truth) & (truth <= ends[1]))), 3)
        if not corruption:
            scores["each"] = {v: round(float(e), 4) for v, e in zip(names, np.sqrt(np.mean(error**2, 0)), strict=True)}
    return scores


def run_task(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Simulates, trains and scores one task, and returns its line."""
    task, settings = rd.tasks.get(name), dict(TRAINING[name])
    (data,) = task.problem.layout.data
    channels = len(task.problem.layout[data].shape) - network(name).pieces(data)
    problem = noisy(task.problem, channels) if options.noisy else task.problem
    start = time.monotonic()
    is_large = 4 * problem.layout.size * options.rows > MAX_BYTES
    store = {"store": options.folder / f"{name}{'_noisy' * options.noisy}", "progress": False} if is_large else {}
    sims = rd.simulate(problem, options.rows, key=0, **store)
    simulation_seconds, start = time.monotonic() - start, time.monotonic()
    settings["steps"] = options.steps or settings["steps"]
    model, history = rd.fit(rd.joint(problem.layout, net=network(name)), sims, key=1, progress=False, **settings)
    training_seconds, start = time.monotonic() - start, time.monotonic()
    scores = score(model, task, data, channels, options.fresh)
    return {
        "task": name,
        "rows": options.rows,
        "noisy": options.noisy,
        "steps": settings["steps"],
        "validation_loss": round(float(history.best), 4),
        "failed": sims.n_failed,
        **scores,
        "simulation_seconds": round(simulation_seconds, 1),
        "training_seconds": round(training_seconds, 1),
        "asking_seconds": round(time.monotonic() - start, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Runs a process for each task, and appends and prints its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=0, help="of training; by default the task's own number")
    parser.add_argument("--fresh", type=int, default=FRESH, help="simulations to ask about")
    parser.add_argument("--noisy", action="store_true")
    parser.add_argument("--folder", type=Path, help="of stores, which stay; by default one that is removed")
    parser.add_argument("--out", type=Path, default=Path("runs/high_dimension.jsonl"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(run_task(options.tasks[0], options)))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in options.tasks:
            command = [sys.executable, __file__, "--inside", "--tasks", name, "--folder", str(folder)]
            for option in ("rows", "steps", "fresh"):
                command += [f"--{option}", str(getattr(options, option))]
            command += ["--noisy"] * options.noisy
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            with options.out.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
