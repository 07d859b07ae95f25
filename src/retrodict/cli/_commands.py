"""The command line: `retrodict demo | simulate | train | sample | check | report | gallery | bench`.

Nothing is computed here. Each command prints what it did and where it wrote; `--json` prints one machine-readable
object (for `bench` one a line) instead. A wrong argument exits with code 2 and one line that says what to type instead.
"""

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from retrodict._errors import DataError, RetrodictError
from retrodict.cli.arguments import (
    asked_in,
    executor_in,
    given_in,
    held_out,
    module_in,
    problem_of,
)


app = typer.Typer(
    help="Turn a simulator round: one generative model, any question.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
UsageError: Any = typer.BadParameter.__mro__[1]  # typer does not export the parent of its errors of usage

Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable object and nothing else.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


Sims = Annotated[
    Path | None, typer.Option(help="Held-out simulations: a .npz file, or a folder of them, name to (n, *shape).")
]
Task = Annotated[str | None, typer.Option(help="Simulate held-out rows of one of retrodict's tasks instead.")]
Own = Annotated[str | None, typer.Option(help="Simulate held-out rows of your own problem instead, FILE.py:NAME.")]


def main() -> None:
    """The entry point of the `retrodict` command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit code: 0, or 2 for a wrong argument or file, or 130 for Ctrl-C."""
    try:
        # without arguments the most useful thing to say is which commands there are
        code = app(arguments or ["--help"], standalone_mode=False, prog_name="retrodict")
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "retrodict"
        return _refuse(f"{error.format_message().rstrip('.')}; see `{command} --help`")
    except RetrodictError as error:
        return _refuse(str(error))
    return code if isinstance(code, int) else 0


def _refuse(sentence: str) -> int:
    print(f"retrodict: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


@app.callback()
def options(
    modules: Annotated[
        list[Path] | None,
        typer.Option("--import", help="A Python file that defines a kind of model of your own; may be repeated."),
    ] = None,
) -> None:
    """Turn a simulator round: one generative model, any question."""
    for module in modules or ():
        module_in(module)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path("runs/demo"),
    thorough: Annotated[bool, typer.Option("--thorough", help="Spend up to 20 minutes instead of 4 to 8.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The main job: what a century of pelts says about lynx and hare."""
    from retrodict_bench import demo as job

    summary = job.run(out, thorough=thorough, seed=seed, progress=not as_json)
    print(json.dumps(summary) if as_json else job.summary_text(summary, out))


@app.command()
def simulate(
    task: Annotated[str | None, typer.Option(help="One of retrodict's tasks, for instance two_moons.")] = None,
    problem: Annotated[str | None, typer.Option(help="A problem of your own, FILE.py:NAME.")] = None,
    simulations: Annotated[int, typer.Option(help="How many rows there are to be in the end.")] = 10_000,
    store: Annotated[Path | None, typer.Option(help="The directory to keep rows in; the same command goes on.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .npz file for the rows that ended well.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes for a simulator in Python.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a row in Python may take.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="dask for a cluster on this machine, dask:ADDRESS to join one.")
    ] = None,
    accept_changed: Annotated[
        bool, typer.Option("--accept-changed", help="Go on with a store of another prior, seed or simulator.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run a simulator many times, and lose none of it: into a store, a file, or both."""
    import retrodict as rd
    from retrodict._runtime.atomic_files import write_npz

    chosen = problem_of("simulate", task, problem)
    if store is None and out is None:
        raise DataError("simulate needs a place for the rows: --store DIR, --out FILE.npz, or both")
    if store is None and any(option is not None for option in (workers, timeout, executor)):
        raise DataError("--workers, --timeout and --executor write rows as they come: add --store DIR")
    with executor_in(executor, workers) as runner:
        settings: dict[str, Any] = {"executor": runner, "timeout": timeout, "accept_changed": accept_changed}
        sims = _simulated(chosen, simulations, key=seed, store=store, progress=not as_json, **settings)
    if out is not None:
        write_npz(out, sims)
    written = [str(place) for place in (store, out) if place is not None]
    if as_json:
        status = None if store is None else rd.open_store(store).status
        places = {"store": store and str(store), "out": out and str(out)}
        print(json.dumps({"simulations": sims.counts, "status": status, **places}))
        return
    print(f"{sims.drawn} simulations ({sims.n_failed} failed); wrote {' and '.join(written)}")


def _simulated(problem: Any, n: int, **how: Any) -> Any:
    """The rows; what a campaign says when Ctrl-C ends it is told here, since typer keeps the exit code alone."""
    import retrodict as rd

    try:
        return rd.simulate(problem, n, **how)
    except KeyboardInterrupt as stopped:
        if str(stopped):
            print(f"retrodict: {stopped}", file=sys.stderr)
        raise


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The model file to write.")],
    task: Annotated[str | None, typer.Option(help="One of retrodict's tasks, for instance two_moons.")] = None,
    problem: Annotated[str | None, typer.Option(help="A problem of your own, FILE.py:NAME.")] = None,
    simulations: Annotated[int, typer.Option(help="How many rows to simulate.")] = 10_000,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 10_000,
    query: Annotated[
        Literal["joint", "posterior", "likelihood", "unconditional"], typer.Option(help="What the model can be asked.")
    ] = "joint",
    store: Annotated[Path | None, typer.Option(help="A directory to keep rows in; those it has stay.")] = None,
    failed: Annotated[
        Literal["ignore", "reweight", "given", "corrected"],
        typer.Option(
            help="What runs that failed mean: nothing once data are finite (ignore; earlier: given), or a fault to "
            "correct for (reweight; earlier: corrected)."
        ),
    ] = "ignore",
    checkpoint: Annotated[Path | None, typer.Option(help="A folder; after a kill the same command goes on.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Simulate, train one model, and write it to a file."""
    import retrodict as rd

    chosen = problem_of("train", task, problem)
    sims = _simulated(chosen, simulations, key=seed, store=store, progress=not as_json)
    model = getattr(rd, query)(sims.layout, key=seed)
    settings: dict[str, Any] = {"checkpoint": checkpoint, "failed": failed, "progress": not as_json}
    model, history = rd.fit(model, sims, key=seed + 1, steps=steps, **settings)
    rd.save(model, out)
    outcome = {
        "model": str(out),
        "simulations": sims.counts,
        "steps": int(history.step[-1]),
        "validation_loss": history.best,
        "seconds": history.seconds,
        "ended": history.ended,
    }
    text = (
        f"{sims.drawn} simulations ({sims.n_failed} failed), {outcome['steps']} steps in {history.seconds:.0f} s "
        f"({history.ended}), validation loss {history.best:.4f}; wrote {out}"
    )
    print(json.dumps(outcome) if as_json else text)


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="A model file that `retrodict train` wrote.")],
    given: Annotated[
        str,
        typer.Option(
            help="What is known: JSON such as '{\"x\": [0.1, null]}', or a .json or .npz file; "
            '\'{"points": [...], "values": [...]}\' for a function, \'{"low": 0, "high": 1}\' for an interval.'
        ),
    ] = "{}",
    of: Annotated[
        str | None,
        typer.Option(
            help="Names with commas, by default all that is not given; "
            '\'{"f": {"points": [...]}, "a": null}\' where there are functions.'
        ),
    ] = None,
    n: Annotated[int, typer.Option(help="How many draws.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="A .npz file for the draws.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Ask a trained model: draws of what is not known, given what is."""
    import retrodict as rd
    from retrodict._runtime.atomic_files import write_npz
    from retrodict.diagnostics.summary import summarize

    observed, requests = given_in(given), asked_in(of)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always", UserWarning)
        draws = rd.load(model).sample(n, given=observed, of=requests, key=seed)
    doubts = [str(warning.message) for warning in messages if issubclass(warning.category, UserWarning)]
    if out is not None:
        write_npz(out, draws)
    summary = summarize(draws)
    if as_json:
        outcome = {"n": n, "summary": summary, "draws": None if out is None else str(out), "warnings": doubts}
        print(json.dumps(outcome))
        return
    for doubt in doubts:
        print(f"retrodict: warning: {doubt}", file=sys.stderr)
    print(table(summary))
    print(f"{n} draws" + (f"; wrote {out}" if out is not None else ""))


@app.command()
def check(
    model: Annotated[Path, typer.Argument(help="A model file that `retrodict train` wrote.")],
    sims: Sims = None,
    task: Task = None,
    problem: Own = None,
    given: Annotated[str | None, typer.Option(help="Names of what is known, with commas; by default all data.")] = None,
    observations: Annotated[int, typer.Option(help="How many simulations to ask about.")] = 300,
    draws: Annotated[int, typer.Option(help="Draws for each of them.")] = 500,
    out: Annotated[Path | None, typer.Option(help="Where to write the checked model; by default where it was.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Check a model on held-out simulations, and keep the outcome in its file."""
    import retrodict as rd

    loaded = rd.load(model)
    names = [v.name for v in loaded.layout.variables if v.kind == "data"]
    names_given = names if given is None else [name.strip() for name in given.split(",") if name.strip()]
    rows = held_out(sims, task, problem, 2 * observations, seed)
    loaded, result = rd.check(loaded, rows, given=names_given, observations=observations, draws=draws, key=seed)
    out = rd.save(loaded, out or model)
    calibration = result.calibration
    if as_json:
        outcome = {
            "question": calibration.question,
            "ok": calibration.ok,
            "p_value": calibration.p_value,
            "p_values": dict(calibration.p_values),
        }
        print(
            json.dumps(
                {
                    **outcome,
                    "excess": dict(calibration.excess),
                    "score": calibration.score,
                    "seconds": result.seconds,
                    "model": str(out),
                }
            )
        )
        return
    print(f"{calibration.question}: {result.summary()}")
    for label, gap in calibration.excess:
        print(f"  {label}: regions hold the truth {abs(gap):.1%} {'more' if gap > 0 else 'less'} often than they say")
    print(f"wrote {out}")


@app.command()
def report(
    model: Annotated[Path, typer.Argument(help="A model file that `retrodict train` wrote.")],
    observation: Annotated[str, typer.Option(help="What was observed: JSON, or a .json or .npz file.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    sims: Sims = None,
    task: Task = None,
    problem: Own = None,
    title: Annotated[str, typer.Option(help="The title of the page.")] = "",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write one page for a referee: data checks, posterior, predictive checks, calibration."""
    import retrodict as rd
    from retrodict.report import posterior_report

    loaded, observed = rd.load(model), given_in(observation, "--observation")
    rows = held_out(sims, task, problem, 600, seed)
    findings = posterior_report.examine(loaded, rows, observed, seed=seed)
    written = posterior_report.write(out, loaded, findings, title=title)
    if as_json:
        print(json.dumps({**findings.to_json(), "report": str(written)}))
        return
    verdict = "all checks passed" if findings.ok else "NOT ALL CHECKS PASSED"
    print(f"{verdict}; {findings.likeness.summary()}; wrote {written}")


@app.command()
def gallery(
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("runs/gallery"),
    only: Annotated[str | None, typer.Option(help="Exhibits with commas; by default all.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make the figures of the gallery: intervals, scattered observations, functions, energy, influenza, sites."""
    from retrodict_bench import gallery as exhibits

    names = None if only is None else [name.strip() for name in only.split(",")]
    results = exhibits.run(out, only=names, seed=seed, progress=not as_json)
    if as_json:
        print(json.dumps({"out": str(out), "exhibits": results}))
        return
    print(exhibits.summary_text(results))
    print(f"page: {out / 'gallery.html'}; figures and gallery.json beside it")


@app.command()
def bench(
    tasks: Annotated[str, typer.Option(help="Names with commas; all are the ten of the SBI benchmark.")] = "all",
    paths: Annotated[
        str, typer.Option(help="Names of paths with commas, or all: a joint model for each. rule is learn_posterior.")
    ] = "rule",
    solvers: Annotated[
        str, typer.Option(help="Names with commas, or all; default is what a model draws with, auto what it chooses.")
    ] = "default",
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="Evaluations of the network for every solver that does not adapt.")
    ] = None,
    simulations: Annotated[str, typer.Option(help="Numbers of rows to simulate, with commas.")] = "10000",
    observations: Annotated[str, typer.Option(help="Observations, such as 1-10 or 1,3,5.")] = "1-10",
    draws: Annotated[int, typer.Option(help="Draws to judge for each observation; at most 10000.")] = 10_000,
    seed: Annotated[str, typer.Option(help="Seeds, such as 0 or 0-2.")] = "0",
    out: Annotated[
        Path | None, typer.Option(help="File of JSON lines to go on with: what it holds is left out.")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Run nothing: show --out beside published figures, in Markdown.")
    ] = False,
    page: Annotated[Path | None, typer.Option(help="With --table: write it as an HTML page, too.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the distance of posteriors from references: of one rule, or of the joint model by path and solver."""
    from retrodict.cli import _bench

    if table or page:
        _bench.show_leaderboard(out, page, as_json=as_json)
        return
    cells = _bench.cells_of(tasks, simulations, seed, observations, draws)
    routes, movers = _bench.routes_of(paths), _bench.movers_of(solvers, evaluations)
    _bench.run_cells(cells, routes, movers, out, as_json=as_json)


def table(summary: Mapping[str, Mapping[str, float]]) -> str:
    """A summary as aligned text, one row per element."""
    width = max(len(name) for name in summary)
    head = " " * width + "".join(f"{column:>11}" for column in next(iter(summary.values())))
    rows = (f"{name:{width}}" + "".join(f"{value:11.4g}" for value in row.values()) for name, row in summary.items())
    return "\n".join([head, *rows])


if __name__ == "__main__":
    main()
