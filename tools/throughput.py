"""Measures campaigns: rows a second into a store, the speedup of a second worker, and the time to resume.

    python tools/throughput.py [--rows 2000000] [--folder DIR]

jax       a trivial simulator in JAX, 20 numbers a row with its parameter, into a store, without compilation
python    a simulator in Python of 10 ms a row, 1,000 rows by one worker and by two
resume    a call that adds one row to a store that holds all others, with the batch of that row
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist

import retrodict as rd


PRIOR = {"a": dist.Uniform(0.0, 1.0)}


def in_jax(key: jax.Array, a: jax.Array) -> dict[str, jax.Array]:
    """Draws nineteen numbers."""
    return {"y": a + jax.random.normal(key, (19,))}


def in_python(rng: np.random.Generator, a: np.ndarray) -> dict[str, np.ndarray]:
    """Draws three numbers in ten milliseconds."""
    time.sleep(0.01)
    return {"y": a + rng.normal(size=3)}


def seconds(problem: rd.Problem, rows: int, store: Path, **settings: Any) -> float:
    """Returns the seconds of one call of `rd.simulate`."""
    start = time.perf_counter()
    rd.simulate(problem, rows, key=0, store=store, progress=False, **settings)
    return time.perf_counter() - start


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        fast, slow = rd.Problem(PRIOR, in_jax), rd.Problem(PRIOR, rd.numpy_simulator(in_python))
        seconds(fast, 8192, folder / "compiled")
        jax_seconds = seconds(fast, options.rows, folder / "jax")
        resumed = seconds(fast, options.rows + 1, folder / "jax")
        python_seconds = [seconds(slow, 1000, folder / f"python{n}", executor=n) for n in (1, 2)]
        result = {
            "rows per second, JAX": round(options.rows / jax_seconds),
            "two workers over one": round(python_seconds[0] / python_seconds[1], 2),
            "seconds to go on": round(resumed, 2),
        }
        print(json.dumps(result))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
