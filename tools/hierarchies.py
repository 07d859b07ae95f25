"""The table of hierarchical tasks: four methods at equal numbers of simulated sites, in docs/hierarchies.md.

    python tools/hierarchies.py run [--tasks h_sir ...] [--budgets 1000 ...] [--methods direct ...] [--out FILE]
    python tools/hierarchies.py table [--out FILE]

Each cell trains one model and asks it about fresh observations of 50 sites: the shared parameters, and those of the
first site. There is one JSON line per cell; cells in the file are not run again. A cell takes two minutes on one core;
seconds are those of the processor.

    sites simulated   "direct" has budget / 50 simulations of 50 sites, "posterior" simulations of 1 to 50 sites that
                      add up to the budget, the others single sites
    L-C2ST            statistic over the mean of its null, p-value: 1 is perfect (arXiv 2306.03580)
    TARP, SBC         p-values of calibration of everything together, and of the worst element
    coverage          of central 90 % regions, mean over elements
    sharpness         sd of the posterior over that of the prior, mean over elements
    reverse KL        E_q[log q - log p(theta) - log p(y | theta)] of all 50 sites: less is better, -log p(y) is best
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import retrodict as rd
from retrodict import diagnostics
from retrodict.models import HierarchicalModel


TASKS = ("h_gaussian_linear", "h_gaussian_linear_uniform", "h_gaussian_mixture", "h_two_moons", "h_slcp", "h_sir")
BUDGETS = (1_000, 5_000, 10_000)
METHODS = ("likelihood", "direct", "posterior", "composition")
SITES = 50
STEPS = 600
# fresh observations, and draws of each
SIZES = {"likelihood": (150, 64), "direct": (150, 64), "posterior": (150, 64), "composition": (36, 16)}
KL_SIZES = 5, 16  # those of the reverse KL
OUT = Path("runs/hierarchies.jsonl")


def simulations(problem: rd.Problem, method: str, budget: int) -> rd.Simulations:
    """Returns simulations with `budget` sites in all."""
    if method == "direct":
        return rd.simulate(problem, budget // SITES, key=0, sites=SITES)
    if method == "posterior":
        # log-uniform numbers of sites that add up to the budget
        rng, counts = np.random.default_rng(0), []
        while sum(counts) < budget:
            counts.append(int(np.exp(rng.uniform(0.0, np.log(SITES + 1.0)))))
        counts[-1] -= sum(counts) - budget
        return rd.simulate(problem, len(counts), key=0, sites=np.array(counts))
    return rd.simulate(problem, budget, key=0)


def cell(name: str, budget: int, method: str) -> dict[str, Any]:
    """Trains one model and returns one row of the table."""
    task = rd.tasks.get(name)
    problem, layout = task.problem, task.problem.layout
    sims, start = simulations(problem, method, budget), time.process_time()
    untrained = rd.hierarchical(layout, method=method, counts=(1, SITES))
    model, _ = rd.fit(untrained, sims, key=1, steps=STEPS, progress=False)
    seconds, (n, n_draws) = time.process_time() - start, SIZES[method]
    test, start = rd.simulate(problem, n, key=2, sites=SITES), time.process_time()
    first_site = {v: np.arange(SITES) == 0 for v in layout.own if layout[v].kind == "parameter"}
    latent = {**dict.fromkeys(layout.shared), **first_site}
    answers = [
        model.sample(n_draws, given={v: test[v][i] for v in layout.data}, of=latent, key=jax.random.key(i))
        for i in range(n)
    ]
    sampling = (time.process_time() - start) / n
    draws = {v: np.stack([answer[v][:, 0] if v in first_site else answer[v] for answer in answers]) for v in latent}
    truth = {v: np.asarray(test[v][:, 0] if v in first_site else test[v]) for v in latent}
    # the data as a classifier sees them: mean and sd over sites, and the first site
    data = {v: np.asarray(test[v], float) for v in layout.data}
    features = {
        f"{v}.{k}": f for v, x in data.items() for k, f in zip("msf", (x.mean(1), x.std(1), x[:, 0]), strict=True)
    }
    split = min(10, n // 6)  # observations before it are tested, the others train the classifier
    local = diagnostics.lc2st(
        {v: x[split:] for v, x in truth.items()},
        {v: x[split:] for v, x in draws.items()},
        {k: x[split:] for k, x in features.items()},
        {k: x[:split] for k, x in features.items()},
        {v: x[:split] for v, x in draws.items()},
        key=3,
        permutations=50,
    )
    coverage = diagnostics.coverage(truth, draws, key=4)
    return {
        "task": name,
        "budget": budget,
        "method": method,
        "rows": len(np.asarray(sims[layout.names[0]])),
        "training_seconds": seconds,
        "seconds_per_question": sampling,
        "lc2st": float(local.statistic.mean() / local.null.mean()),
        "lc2st_p": local.p_value,
        "tarp_p": diagnostics.tarp(truth, draws, key=5).p_value,
        "sbc_p": diagnostics.sbc(truth, draws, key=6).p_value,
        "coverage_90": float(np.mean(list(coverage.at(0.9).values()))),
        "sharpness": float(np.mean([np.mean(draws[v].std(1) / truth[v].std(0)) for v in latent])),
        "reverse_kl": None if method == "composition" else reverse_kl(task, model, test),
    }


def reverse_kl(task: rd.tasks.Task, model: HierarchicalModel, test: rd.Simulations) -> float | None:
    """Returns E_q[log q - log joint] in nats, of all parameters together; the median over a few observations."""
    if task.log_joint is None:
        return None
    layout, values = task.problem.layout, []
    latent = [v for v in layout.names if layout[v].kind == "parameter"]
    n, n_draws = KL_SIZES
    joint = jax.jit(jax.vmap(task.log_joint, in_axes=({v: None if v in layout.data else 0 for v in layout.names},)))
    for i in range(n):
        y = {v: np.asarray(test[v][i]) for v in layout.data}
        draws = model.sample(n_draws, given=y, of=latent, key=i)
        values.append(np.mean(model.log_prob(draws, given=y) - np.asarray(joint({**draws, **y}))))
    return float(np.median(values))


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as Markdown, the tasks in the order of the paper."""
    titles = (
        "task", "sites simulated", "method", "L-C2ST / null", "p", "TARP p", "SBC p", "cover .9", "sd / prior",
        "reverse KL", "train s", "ask s",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    order = {name: i for i, name in enumerate((*TASKS, *METHODS))}
    for row in sorted(rows, key=lambda r: (order[r["task"]], r["budget"], order[r["method"]])):
        kl = "" if row["reverse_kl"] is None else f"{row['reverse_kl']:.1f}"
        lines.append(
            f"| {row['task']} | {row['budget']:,} | {row['method']} | {row['lc2st']:.2f} | {row['lc2st_p']:.2f} "
            f"| {row['tarp_p']:.3f} | {row['sbc_p']:.3f} | {row['coverage_90']:.2f} | {row['sharpness']:.2f} | {kl} "
            f"| {row['training_seconds']:.0f} | {row['seconds_per_question']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the cells that are not in the file, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.command == "table":
        print(table(rows))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    finished = {(row["task"], row["budget"], row["method"]) for row in rows}
    for name in options.tasks:
        for method in options.methods:
            for budget in options.budgets:  # all share their compiled code
                if (name, budget, method) not in finished:
                    line = json.dumps(cell(name, budget, method))
                    with options.out.open("a") as file:
                        file.write(line + "\n")
                    print(line, flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main()
