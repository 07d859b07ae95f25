"""Two inverse problems with many data: how far off posterior means are, by network evaluations, noise and gaps.

    python tools/high_dimension.py [--tasks vilar ...] [--rows 10000] [--steps N] [--noisy] [--folder DIR] [--out FILE]

Each task has a process of its own, whose peak memory counts, trains one joint model and asks it about 200 simulations
that it has not seen. An embedding reads the data, so that they are given, in whole or in part, and never asked: the
model is joint in the parameters, of which any may be given, too. A field of 20,200 numbers as so many tokens would be
sensible for no network here. Rows that are too many for memory are simulated into a store and read as they are needed.

One JSON line a task:

    error        of the posterior mean, root mean square over simulations and parameters, in sds of the prior (1 is what
                 the prior itself would be off by), by what was done to the data and by evaluations of the network
    each         the same, parameter by parameter, with complete data and the fine solver
    cover_90, cover_50    share of central intervals that hold the truth, all parameters together, by what was done
    noise_s      s % of the standard deviation of each row's own data was added; missing_s: s % were taken out

With `--noisy` rows to learn from have noise of a random share of up to `MOST` added, the share a parameter more, which
questions leave out: the model then knows noise, and should stay calibrated under it.
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
from retrodict.solvers import AbstractSolver


TASKS = ("reaction_diffusion", "vilar")
FRESH, DRAWS = 200, 64
MOST = 0.5
DONE = {"complete": (), "noise_10": ("noise", 0.1), "noise_30": ("noise", 0.3)} | {
    f"missing_{s}": ("missing", s / 100) for s in (10, 30, 60)
}
SOLVERS: dict[str, AbstractSolver] = {str(n): rd.solvers.Euler(n) for n in (1, 2, 3, 5, 10)} | {
    "fine": rd.solvers.Midpoint(16)
}
RESIDENT = 2**28  # bytes of simulations that are held in memory
HOW: dict[str, dict[str, Any]] = {
    "reaction_diffusion": {"steps": 3_000, "batch_size": 128, "weight_decay": 1.0},
    "vilar": {"steps": 6_000, "batch_size": 256, "weight_decay": 1.0},
}


def network(name: str) -> rd.nets.ResMLP:
    """A network for the task: patches of 4 x 4 of the noisy field, windows of 8 times of the clock."""
    if name == "vilar":
        return rd.nets.ResMLP(128, 3, embed={"counts": rd.nets.CNN1d()})
    cnn = rd.nets.CNN2d(channels=(32, 64, 64), kernel=4, stride=4, tokens=4)
    return rd.nets.ResMLP(128, 3, embed={"field": cnn})


def added(key: jax.Array, x: jax.Array, share: jax.Array, channels: int) -> jax.Array:
    """Data with noise of a share of their standard deviation, each of the channels of the last axis by itself."""
    sd = jnp.std(x, axis=tuple(range(x.ndim - channels)), keepdims=True)
    return x + share * sd * jax.random.normal(key, x.shape)


def noisy(problem: rd.Problem, channels: int) -> rd.Problem:
    """The same problem, its data seen with more noise, whose share of their sd is the parameter `added`."""
    layout = problem.layout
    prior = {name: dist.Uniform(*(float(end[0]) for end in layout[name].ends)) for name in layout.parameters}

    def simulate(key: jax.Array, **rates: jax.Array) -> dict[str, jax.Array]:
        key_run, key_noise = jax.random.split(key)
        share = rates.pop("added")
        return {name: added(key_noise, x, share, channels) for name, x in problem.simulator(key_run, **rates).items()}

    return rd.Problem({**prior, "added": dist.Uniform(0.0, MOST)}, simulate)


def changed(x: np.ndarray, what: tuple[Any, ...], channels: int) -> np.ndarray:
    """Rows of data to which something was done; where channels are missing, all of a place are."""
    if not what:
        return x
    kind, share = what
    if kind == "noise":
        keys = jax.random.split(jax.random.key(5), len(x))
        return np.asarray(jax.vmap(lambda key, row: added(key, row, share, channels))(keys, x))
    places = x.shape[: x.ndim - channels]
    gone = np.random.default_rng(6).random(places) < share
    return np.where(gone.reshape(*places, *(1,) * channels), np.nan, x)


def asked(model: Any, task: rd.tasks.Task, data: str, channels: int, fresh: int) -> dict[str, Any]:
    """Errors and coverage on simulations that the model has not seen."""
    names = task.problem.layout.parameters
    test = rd.simulate(task.problem, fresh, key=99)
    low, high = (np.array([task.problem.layout[v].ends[i][0] for v in names]) for i in (0, 1))
    sd = (high - low) / np.sqrt(12)  # all priors are uniform
    truth = np.stack([test[v] for v in names], -1)
    found: dict[str, Any] = {"error": {}, "cover_90": {}, "cover_50": {}}
    for what, how in DONE.items():
        seen = rd.Batch({data: changed(test[data], how, channels)})
        errors = {}
        for evaluations, solver in SOLVERS.items():
            draws = model.sample(DRAWS, given=seen, of=names, solver=solver, key=3)
            both = np.stack([draws[v] for v in names], -1)
            off = (both.mean(1) - truth) / sd
            errors[evaluations] = round(float(np.sqrt(np.mean(off**2))), 4)
        found["error"][what] = errors
        for size in (90, 50):  # of the fine solver, the last
            ends = np.quantile(both, [0.5 - size / 200, 0.5 + size / 200], axis=1)
            found[f"cover_{size}"][what] = round(float(np.mean((ends[0] <= truth) & (truth <= ends[1]))), 3)
        if not how:
            found["each"] = {v: round(float(e), 4) for v, e in zip(names, np.sqrt(np.mean(off**2, 0)), strict=True)}
    return found


def one(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One line: simulate, train, ask."""
    task, how = rd.tasks.get(name), dict(HOW[name])
    (data,) = task.problem.layout.data
    channels = len(task.problem.layout[data].shape) - network(name).pieces(data)
    problem = noisy(task.problem, channels) if options.noisy else task.problem
    begun = time.monotonic()
    large = 4 * problem.layout.size * options.rows > RESIDENT
    folder = {"store": options.folder / f"{name}{'_noisy' * options.noisy}", "progress": False} if large else {}
    sims = rd.simulate(problem, options.rows, key=0, **folder)
    simulating, begun = time.monotonic() - begun, time.monotonic()
    how["steps"] = options.steps or how["steps"]
    model, history = rd.fit(rd.joint(problem.layout, net=network(name)), sims, key=1, progress=False, **how)
    training, begun = time.monotonic() - begun, time.monotonic()
    answers = asked(model, task, data, channels, options.fresh)
    return {
        "task": name,
        "rows": options.rows,
        "noisy": options.noisy,
        "steps": how["steps"],
        "validation_loss": round(float(history.best), 4),
        "failed": sims.n_failed,
        **answers,
        "simulation_seconds": round(simulating, 1),
        "training_seconds": round(training, 1),
        "asking_seconds": round(time.monotonic() - begun, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """A process for each task, a line for each process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=0, help="of training; by default the task's own number")
    parser.add_argument("--fresh", type=int, default=FRESH, help="simulations to ask about")
    parser.add_argument("--noisy", action="store_true")
    parser.add_argument("--folder", type=Path, help="of stores, which are kept; by default one that is removed")
    parser.add_argument("--out", type=Path, default=Path("runs/high_dimension.jsonl"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(one(options.tasks[0], options)))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in options.tasks:
            command = [sys.executable, __file__, "--inside", "--tasks", name, "--folder", str(folder)]
            for what in ("rows", "steps", "fresh"):
                command += [f"--{what}", str(getattr(options, what))]
            command += ["--noisy"] * options.noisy
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            with options.out.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
