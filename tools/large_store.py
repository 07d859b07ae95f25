"""Training from a store that does not fit in memory: peak memory, and steps a second beside those from memory.

    python tools/large_store.py DIR [--gigabytes 4] [--steps 1500]

Makes the store DIR, of rows of 200 numbers, if it is not there. Each run is a process of its own, and they take turns,
twice each; the rate is that of the steps after the first chunk, which compiles.
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
IN_MEMORY = 200_000  # rows of the run that holds all of them


def simulate(key: jax.Array, theta: jax.Array) -> dict[str, jax.Array]:
    """Noise around a sum of two waves."""
    t = jax.numpy.linspace(0.0, 6.0, NUMBERS - 2)
    x = theta[0] * jax.numpy.sin(t) + theta[1] * jax.numpy.cos(t)
    return {"x": x + 0.1 * jax.random.normal(key, x.shape)}


PROBLEM = rd.Problem({"theta": dist.Normal(0.0, 1.0).expand([2]).to_event(1)}, simulate)


def run(path: Path, how: str, steps: int) -> None:
    """Trains, and prints peak memory and the rate as JSON."""
    import resource

    sims = rd.open_store(path).sims()
    if how == "memory":
        sims = {name: values.copy() for name, values in sims.part(0, IN_MEMORY).items()}
    times: list[float] = []
    _loop.Trainer.validate = timed(_loop.Trainer.validate, times)  # type: ignore[method-assign, assignment]
    rd.fit(rd.joint(PROBLEM.layout, net=rd.nets.ResMLP(128, 3)), sims, key=0, steps=steps, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate = (steps - 250) / (times[-1] - times[0])
    print(json.dumps({"how": how, "peak_gib": peak, "steps_per_second": rate}))


def timed(validate: object, times: list[float]) -> object:
    """The same function, noting when it was called."""

    def noting(*args: object) -> object:
        times.append(time.monotonic())
        return validate(*args)  # type: ignore[operator]

    return noting


def main() -> None:
    """Makes the store, runs both in turns, prints what they took."""
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
    for how in ("stream", "memory") * 2:
        command = [sys.executable, __file__, str(options.path), "--how", how, "--steps", str(options.steps)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
