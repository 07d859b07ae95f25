"""How near training comes to the speed of the machine: steps a second, and what they compute over what it can.

    python tools/speed.py [--width 256] [--depth 4] [--batch 512] [--steps 1500]

One process on one core and one on two, each of which first multiplies matrices (1,024 x 1,024, single precision) and
then trains on two moons: the second run, which compiles nothing, with all that a run does. A step computes 6 times as
many numbers as there are weights of linear layers and rows in a batch: forward 2, backward 4.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np


SIDE, TIMES = 1024, 40
DRAWS = 1_000


def matrices() -> float:
    """Floating-point operations a second of a product of matrices, the best of five runs."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def products(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, TIMES, lambda _, x: x @ a, a)

    a = jnp.eye(SIDE)
    products(a).block_until_ready()
    spent = []
    for _ in range(5):
        begun = time.perf_counter()
        products(a).block_until_ready()
        spent.append(time.perf_counter() - begun)
    return 2.0 * SIDE**3 * TIMES / min(spent)


def training(width: int, depth: int, batch: int, steps: int) -> tuple[dict[str, float], float]:
    """Steps a second, what compiling a fit and a draw takes, in seconds, and operations a step."""
    import equinox as eqx
    import jax

    import retrodict as rd

    sims = rd.simulate(rd.tasks.get("two_moons").problem, 10_000, key=0)
    model = rd.joint(sims.layout, net=rd.nets.ResMLP(width, depth))
    weights = sum(part.size for part in jax.tree.leaves(model.net) if eqx.is_array(part) and part.ndim == 2)
    how = {"key": 0, "steps": steps, "batch_size": batch, "progress": False}
    begun = time.perf_counter()
    rd.fit(model, sims, **how)
    first = time.perf_counter() - begun
    trained, history = rd.fit(model, sims, **how)
    given, draws = {"x": sims["x"][0]}, []
    for _ in range(2):
        begun = time.perf_counter()
        trained.sample(DRAWS, given=given, key=0)
        draws.append(time.perf_counter() - begun)
    told = {"steps_per_second": steps / history.seconds, "compile_fit_seconds": first - history.seconds}
    return {**told, "compile_sample_seconds": draws[0] - draws[1]}, 6.0 * weights * batch


def main() -> None:
    """Prints a line for one core, one for two, and what the second is worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--cores", help="the cores to run on, such as 0,1; for one process")
    options = parser.parse_args()
    what = (options.width, options.depth, options.batch, options.steps)
    if options.cores:
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
        before = matrices()
        found, work = training(*what)
        machine = float(np.mean([before, matrices()]))  # the machine's own rate wanders
        share = found["steps_per_second"] * work / machine
        print(json.dumps({"cores": options.cores, "gflops": machine / 1e9, "share": share, **found}))
        return
    cores, rows = sorted(os.sched_getaffinity(0)), []
    for some in (cores[:1], cores[:2]):
        command = [sys.executable, __file__, "--cores", ",".join(map(str, some))]
        command += [f"--{name}={value}" for name, value in zip(("width", "depth", "batch", "steps"), what, strict=True)]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        print(line, flush=True)
        rows.append(json.loads(line))
    print(json.dumps({"second core": rows[1]["steps_per_second"] / rows[0]["steps_per_second"]}))


if __name__ == "__main__":
    main()
