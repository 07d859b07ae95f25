"""Measures training: steps a second, and their floating-point operations as a share of the machine's rate.

    python tools/speed.py [--width 256] [--depth 4] [--batch 512] [--steps 1500]

One process runs on one core and one on two. Each multiplies matrices (1,024 x 1,024, single precision), then trains on
two moons; the second fit, which compiles nothing, is timed as a whole. A step has 6 operations for each weight of a
linear layer and each row of a batch: 2 forward and 4 backward.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np


SIDE, N_PRODUCTS = 1024, 40
DRAWS = 1_000


def matrices() -> float:
    """Returns floating-point operations a second of a matrix product, the best of five runs."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def products(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, N_PRODUCTS, lambda _, x: x @ a, a)

    a = jnp.eye(SIDE)
    products(a).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        products(a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2.0 * SIDE**3 * N_PRODUCTS / min(seconds)


def training(width: int, depth: int, batch: int, steps: int) -> tuple[dict[str, float], float]:
    """Returns steps a second, seconds to compile a fit and a draw, and operations a step."""
    import equinox as eqx
    import jax

    import retrodict as rd

    sims = rd.simulate(rd.tasks.get("two_moons").problem, 10_000, key=0)
    model = rd.joint(sims.layout, net=rd.nets.ResMLP(width, depth))
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.net) if eqx.is_array(leaf) and leaf.ndim == 2)
    settings = {"key": 0, "steps": steps, "batch_size": batch, "progress": False}
    start = time.perf_counter()
    rd.fit(model, sims, **settings)
    first_fit = time.perf_counter() - start
    trained, history = rd.fit(model, sims, **settings)
    observation, draw_seconds = {"x": sims["x"][0]}, []
    for _ in range(2):
        start = time.perf_counter()
        trained.sample(DRAWS, given=observation, key=0)
        draw_seconds.append(time.perf_counter() - start)
    return {
        "steps_per_second": steps / history.seconds,
        "compile_fit_seconds": first_fit - history.seconds,
        "compile_sample_seconds": draw_seconds[0] - draw_seconds[1],
    }, 6.0 * weights * batch


def main() -> None:
    """Prints a line for one core, one for two cores, and the ratio of their rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--cores", help="the cores to run on, such as 0,1; for one process")
    options = parser.parse_args()
    settings = (options.width, options.depth, options.batch, options.steps)
    if options.cores:
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
        rate = matrices()
        result, operations = training(*settings)
        rate = float(np.mean([rate, matrices()]))  # measured before and after, because it drifts
        share = result["steps_per_second"] * operations / rate
        print(json.dumps({"cores": options.cores, "gflops": rate / 1e9, "share": share, **result}))
        return
    cores, rows = sorted(os.sched_getaffinity(0)), []
    names = ("width", "depth", "batch", "steps")
    for subset in (cores[:1], cores[:2]):
        command = [sys.executable, __file__, "--cores", ",".join(map(str, subset))]
        command += [f"--{name}={value}" for name, value in zip(names, settings, strict=True)]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        print(line, flush=True)
        rows.append(json.loads(line))
    print(json.dumps({"second core": rows[1]["steps_per_second"] / rows[0]["steps_per_second"]}))


if __name__ == "__main__":
    main()
