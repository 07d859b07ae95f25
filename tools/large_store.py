"""Measures training from a store larger than memory: peak memory, and steps a second, beside training from memory.

    python tools/large_store.py DIR [--gigabytes 4] [--steps 1500]

Makes the store DIR, with rows of 200 numbers, if it does not exist. Each run is a separate process; the two kinds take
turns, twice each. The rate is that of the steps after the first chunk, which compiles.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpyro.distributions as dist

import retrodict as rd
from retrodict.training import _loop


NUMBERS = 200
ROWS_IN_MEMORY = 200_000  # of the run from memory


def simulate(key: jax.Array, theta: jax.Array) -> dict[str, jax.Array]:
    """Draws noise around a sum of two waves."""
    t = jax.numpy.linspace(0.0, 6.0, NUMBERS - 2)
    x = theta[0] * jax.numpy.sin(t) + theta[1] * jax.numpy.cos(t)
    return {"x": x + 0.1 * jax.random.normal(key, x.shape)}


PROBLEM = rd.Problem({"theta": dist.Normal(0.0, 1.0).expand([2]).to_event(1)}, simulate)


def run(path: Path, source: str, steps: int) -> None:
    """Trains from the store or from memory, and prints peak memory and rate as JSON."""
    import resource

    sims = rd.open_store(path).sims()
    if source == "memory":
        sims = {name: values.copy() for name, values in sims.part(0, ROWS_IN_MEMORY).items()}
    times: list[float] = []
    _loop.Trainer.validate = timed(_loop.Trainer.validate, times)  # type: ignore[method-assign, assignment]
    rd.fit(rd.joint(PROBLEM.layout, net=rd.nets.ResMLP(128, 3)), sims, key=0, steps=steps, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate = (steps - 250) / (times[-1] - times[0])
    print(json.dumps({"how": source, "peak_gib": peak, "steps_per_second": rate}))


def timed(validate: object, times: list[float]) -> object:
    """Returns the same function, which appends the time of each call to `times`."""

    def recording(*args: object) -> object:
        times.append(time.monotonic())
        return validate(*args)  # type: ignore[operator]

    return recording


def main() -> None:
    """Makes the store, runs both kinds in turn, and prints their memory and rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--how", choices=("stream", "memory"))
    options = parser.parse_args()
    if options.how:
        run(options.path, options.how, options.steps)
        return
    rows = int(options.gigabytes * 1e9 / (4 * NUMBERS))
    rd.simulate(PROBLEM, rows, key=0, store=options.path)
    for source in ("stream", "memory") * 2:
        command = [sys.executable, __file__, str(options.path), "--how", source, "--steps", str(options.steps)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
