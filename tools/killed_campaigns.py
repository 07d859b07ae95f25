"""Campaigns that are killed (SIGKILL) at random moments and resumed until done, compared with ones never killed.

    python tools/killed_campaigns.py --rounds 100

Every round is a campaign of 2,000 rows in 40 batches, by turns in JAX, in Python, and in Python on two workers. It is
killed up to so many times (`--kills`), at a random moment of its whole run or shortly after a random batch, so that
creation, compilation, runs and writes are all hit. Afterwards every row must equal that of the store that was never
killed. Exits with 1 if one does not.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import numpyro.distributions as dist

import retrodict as rd


ROWS, BATCH = 2000, 50
KINDS = {"jax": None, "python": None, "workers": 2}


def problem(kind: str) -> rd.Problem:
    """Four numbers a row; some rows are not finite, and in Python some fail."""

    def in_jax(key: jax.Array, a: jax.Array) -> dict[str, jax.Array]:
        return {"y": jax.numpy.where(a > 0.9, jax.numpy.nan, a + jax.random.uniform(key, (3,)))}

    def in_python(rng: np.random.Generator, a: np.ndarray) -> dict[str, np.ndarray]:
        if a > 0.9:
            raise ValueError("too large")
        return {"y": np.where(a < 0.1, np.nan, a + rng.normal(size=3))}

    return rd.Problem({"a": dist.Uniform(0.0, 1.0)}, in_jax if kind == "jax" else rd.numpy_simulator(in_python))


def forked(work: object) -> int:
    """A child that does `work` and ends; made before JAX computes anything here, so that it may be made by a fork."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        code = int(work() or 0)  # type: ignore[operator]
    finally:
        sys.stdout.flush()
        os._exit(code)


def campaign(kind: str, where: Path) -> int:
    """The process of a campaign."""

    def work() -> None:
        rd.simulate(problem(kind), ROWS, key=5, store=where, batch=BATCH, executor=KINDS[kind], progress=False)

    return forked(work)


def ended(child: int, seconds: float) -> bool:
    """Whether a process ends within some seconds."""
    last = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert os.WIFEXITED(status), status
            assert os.WEXITSTATUS(status) == 0, status
            return True
        if time.monotonic() > last:
            return False
        time.sleep(0.001)


def written(where: Path) -> int:
    """How many batches are there."""
    chunks = where / "status" / "c"
    return sum(file.suffix == "" for file in chunks.iterdir()) if chunks.is_dir() else 0


def killed(kind: str, where: Path, rng: random.Random, usual: float, most: int) -> int:
    """Runs one campaign to its end and returns how often it was killed on the way."""
    for kills in range(most):
        child = campaign(kind, where)
        if rng.random() < 0.3:
            done = ended(child, rng.uniform(0.0, usual))
        else:
            target, done = rng.randint(min(written(where), ROWS // BATCH - 1), ROWS // BATCH - 1), False
            while not done and written(where) < target:
                done = ended(child, 0.0)
            done = done or ended(child, rng.uniform(0.0, 0.01))
        if done:
            return kills
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended(campaign(kind, where), 600.0)
    return most


def differing(truth: Path, where: Path) -> int:
    """How many rows of two stores differ."""
    stores = [rd.open_store(truth), rd.open_store(where)]
    assert [store.rows for store in stores] == [ROWS, ROWS]
    every = np.arange(ROWS)
    differ = stores[0].codes != stores[1].codes
    for name in ("a", "y", "seed"):
        one, two = (store.read(name, every).reshape(ROWS, -1) for store in stores)
        differ |= ~((one == two) | (np.isnan(one) & np.isnan(two))).all(axis=1)
    texts = [store.failed["error"].tolist() for store in stores]
    return int(differ.sum()) + (texts[0] != texts[1]) + len(stores[1].check())


def compare(truth: Path, where: Path) -> int:
    """The number of rows that differ, found out by a child."""
    _, status = os.waitpid(forked(lambda: min(differing(truth, where), 255)), 0)
    return os.waitstatus_to_exitcode(status)


def main() -> int:
    """Runs the rounds and tells of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    # programs this small are compiled longer than they run; read when JAX first computes, in the children
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    rng, bad, times = random.Random(chosen.seed), 0, {}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(chosen.rounds):
            kind, where = list(KINDS)[i % len(KINDS)], Path(folder) / "campaign"
            truth = Path(folder) / kind
            if kind not in times:
                begun = time.monotonic()
                assert ended(campaign(kind, truth), 600.0)
                times[kind] = time.monotonic() - begun
            kills = killed(kind, where, rng, times[kind], chosen.kills)
            differ = compare(truth, where)
            bad += differ != 0
            print(f"round {i}: {kind}, killed {kills} times, {differ} of {ROWS} rows differ", flush=True)
            shutil.rmtree(where)
    print(f"{chosen.rounds} campaigns, {bad} differ from the one never killed")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
