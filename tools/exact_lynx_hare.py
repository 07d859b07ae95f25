"""Makes `src/retrodict_bench/tasks/lynx_hare_exact.json`: exact answers to three questions about hares and lynxes.

    python tools/exact_lynx_hare.py [--draws 5000] [--only full forecast missing] [--out FILE]

Each question is a run of NUTS, four chains of `--draws` after the warm-up: two to five minutes on one core.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from retrodict_bench.tasks import lynx_hare
from retrodict_bench.tasks._nuts import MAX_R_HAT, MIN_ESS, convergence


OUT = Path(lynx_hare.__file__).with_name("lynx_hare_exact.json")
Counts = dict[str, tuple[int, ...]]  # indices of counts of each species
FUTURE = tuple(range(lynx_hare.FORECAST, len(lynx_hare.YEARS)))
PREDICTED: dict[str, Counts] = {  # the counts that a question predicts
    "full": {},
    "forecast": {"hare": FUTURE, "lynx": FUTURE},
    "missing": {"lynx": lynx_hare.MISSING},
}


def summary(draws: np.ndarray) -> dict[str, Any]:
    """Returns seven statistics of every column of `(n, ...)` draws, rounded to six digits."""
    x = np.asarray(draws, np.float64)
    figures = {"mean": x.mean(0), "sd": x.std(0), "log_mean": np.log(x).mean(0), "log_sd": np.log(x).std(0)}
    figures |= {f"q{q:02d}": np.quantile(x, q / 100, axis=0) for q in (5, 50, 95)}
    return {name: np.vectorize(lambda v: float(f"{v:.6g}"))(figure).tolist() for name, figure in figures.items()}


def answer(given: dict[str, np.ndarray], predicted: Counts, *, seed: int, draws: int) -> dict[str, Any]:
    """Returns the posterior of the parameters, with its r_hat and ess, and of the predicted counts."""
    key_chains, key_pelts = jax.random.split(jax.random.key(seed))
    start = time.perf_counter()
    chains = lynx_hare.exact_chains(given, key_chains, draws=draws)
    seconds = time.perf_counter() - start
    numbers = convergence(chains)
    r_hat, ess = max(row["r_hat"] for row in numbers.values()), min(row["ess"] for row in numbers.values())
    print(f"  {seconds:.0f} s, largest r_hat {r_hat:.4f}, smallest ess {ess:.0f}", flush=True)
    if not (r_hat < MAX_R_HAT and ess > MIN_ESS):
        raise SystemExit("not converged: nothing was written")
    flat = {name: chain.ravel() for name, chain in chains.items()}
    row: dict[str, Any] = {
        "parameters": {
            name: {**summary(value), "r_hat": round(numbers[name]["r_hat"], 5), "ess": round(numbers[name]["ess"])}
            for name, value in flat.items()
        }
    }
    counts = lynx_hare.pelts(key_pelts, flat) if predicted else {}
    for name, years in predicted.items():
        row[name] = {"index": list(years), **summary(np.asarray(counts[name])[:, list(years)])}
    return row


def main() -> None:
    """Answers the questions and writes the answers into the file, beside those that it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5000, help="of each of the four chains")
    parser.add_argument("--only", nargs="+", choices=list(PREDICTED), default=list(PREDICTED))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    table = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    for seed, (name, given) in enumerate(lynx_hare.questions().items()):
        if name in options.only:
            print(name, flush=True)
            table[name] = answer(given, PREDICTED[name], seed=seed, draws=options.draws)
    options.out.write_text(json.dumps({name: table[name] for name in PREDICTED if name in table}, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
