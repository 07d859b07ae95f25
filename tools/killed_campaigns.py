"""Compares campaigns that are killed (SIGKILL) at random moments and resumed with campaigns never killed.

    python tools/killed_campaigns.py --rounds 100

Every round is a campaign of 2,000 rows in 40 batches, in turn in JAX, in Python, and in Python on two workers. It is
killed up to `--kills` times, at a random moment of its run or shortly after a random batch, so that creation,
compilation, runs and writes are all hit. Then every row must equal that of the store that was never killed. The exit
status is 1 if a row does not.
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
    """Returns a problem of four numbers a row; some rows are not finite, and in Python some fail."""

    def in_jax(key: jax.Array, a: jax.Array) -> dict[str, jax.Array]:
        return {"y": jax.numpy.where(a > 0.9, jax.numpy.nan, a + jax.random.uniform(key, (3,)))}

    def in_python(rng: np.random.Generator, a: np.ndarray) -> dict[str, np.ndarray]:
        if a > 0.9:
            raise ValueError("too large")
        return {"y": np.where(a < 0.1, np.nan, a + rng.normal(size=3))}

    return rd.Problem({"a": dist.Uniform(0.0, 1.0)}, in_jax if kind == "jax" else rd.numpy_simulator(in_python))


def forked(work: object) -> int:
    """Forks a child process that does `work` and ends. Call it before JAX computes anything in this process."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        code = int(work() or 0)  # type: ignore[operator]
    finally:
        sys.stdout.flush()
        os._exit(code)


def campaign(kind: str, store: Path) -> int:
    """Starts the process of a campaign and returns its id."""

    def work() -> None:
        rd.simulate(problem(kind), ROWS, key=5, store=store, batch=BATCH, executor=KINDS[kind], progress=False)

    return forked(work)


def ends_within(child: int, seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.WIFEXITED(status), status
            assert os.WEXITSTATUS(status) == 0, status
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)


def n_batches(store: Path) -> int:
    """Returns the number of batches in a store."""
    chunks = store / "status" / "c"
    return sum(file.suffix == "" for file in chunks.iterdir()) if chunks.is_dir() else 0


def run_with_kills(kind: str, store: Path, rng: random.Random, usual_seconds: float, max_kills: int) -> int:
    """Runs one campaign to its end and returns the number of times that it was killed."""
    for kills in range(max_kills):
        child = campaign(kind, store)
        if rng.random() < 0.3:
            finished = ends_within(child, rng.uniform(0.0, usual_seconds))
        else:
            target = rng.randint(min(n_batches(store), ROWS // BATCH - 1), ROWS // BATCH - 1)
            finished = False
            while not finished and n_batches(store) < target:
                finished = ends_within(child, 0.0)
            finished = finished or ends_within(child, rng.uniform(0.0, 0.01))
        if finished:
            return kills
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ends_within(campaign(kind, store), 600.0)
    return max_kills


def n_differences(truth: Path, path: Path) -> int:
    """Returns the number of rows in which two stores differ."""
    stores = [rd.open_store(truth), rd.open_store(path)]
    assert [store.rows for store in stores] == [ROWS, ROWS]
    rows = np.arange(ROWS)
    differ = stores[0].codes != stores[1].codes
    for name in ("a", "y", "seed"):
        a, b = (store.read(name, rows).reshape(ROWS, -1) for store in stores)
        differ |= ~((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=1)
    texts = [store.failed["error"].tolist() for store in stores]
    return int(differ.sum()) + (texts[0] != texts[1]) + len(stores[1].check())


def compare(truth: Path, store: Path) -> int:
    """Returns the number of rows that differ, at most 255, counted by a child process."""
    _, status = os.waitpid(forked(lambda: min(n_differences(truth, store), 255)), 0)
    return os.waitstatus_to_exitcode(status)


def main() -> int:
    """Runs the rounds and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # these small programs take longer to compile than to run; JAX reads this at its first computation, in the children
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    rng, n_bad, times = random.Random(options.seed), 0, {}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(options.rounds):
            kind, store = list(KINDS)[i % len(KINDS)], Path(folder) / "campaign"
            truth = Path(folder) / kind
            if kind not in times:
                start = time.monotonic()
                assert ends_within(campaign(kind, truth), 600.0)
                times[kind] = time.monotonic() - start
            kills = run_with_kills(kind, store, rng, times[kind], options.kills)
            differ = compare(truth, store)
            n_bad += differ != 0
            print(f"round {i}: {kind}, killed {kills} times, {differ} of {ROWS} rows differ", flush=True)
            shutil.rmtree(store)
    print(f"{options.rounds} campaigns, {n_bad} differ from the one never killed")
    return int(n_bad > 0)


if __name__ == "__main__":
    sys.exit(main())
