"""The command line: `retrodict demo | train | sample | check | report | gallery | bench`. Nothing is computed here.

Each command prints what it did and where it wrote; `--json` prints one machine-readable object (for `bench` one a line)
instead. A wrong argument exits with code 2 and one line that says what to type instead.
"""

import importlib.util
import json
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer

from retrodict._errors import DataError, FileError, RetrodictError, listed, unknown


if TYPE_CHECKING:  # a command loads what it needs, and --help nothing
    from retrodict.bench import Row

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
Task = Annotated[str | None, typer.Option(help="Simulate held-out rows of one of the benchmark's tasks instead.")]
Own = Annotated[str | None, typer.Option(help="Simulate held-out rows of your own problem instead, FILE.py:NAME.")]
HELD_OUT = 7919  # folded into the seed, so that rows to check on are never those that `train` drew from it


def main() -> None:
    """The entry point of the `retrodict` command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit code: 0, or 2 for a wrong argument or file, or 130 for Ctrl-C."""
    try:
        # without arguments the most useful thing to say is which commands there are
        found = app(arguments or ["--help"], standalone_mode=False, prog_name="retrodict")
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "retrodict"
        return _refuse(f"{error.format_message().rstrip('.')}; see `{command} --help`")
    except RetrodictError as error:
        return _refuse(str(error))
    return found if isinstance(found, int) else 0


def _refuse(sentence: str) -> int:
    print(f"retrodict: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path("runs/demo"),
    thorough: Annotated[bool, typer.Option("--thorough", help="Spend up to 20 minutes instead of 4.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The main job: what a century of pelts says about lynx and hare."""
    from retrodict import demo as job

    summary = job.run(out, thorough=thorough, seed=seed, progress=not as_json)
    print(json.dumps(summary) if as_json else job.tell(summary, out))


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The model file to write.")],
    task: Annotated[str | None, typer.Option(help="One of the benchmark's tasks, for instance two_moons.")] = None,
    problem: Annotated[str | None, typer.Option(help="A problem of your own, FILE.py:NAME.")] = None,
    simulations: Annotated[int, typer.Option(help="How many rows to simulate.")] = 10_000,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 10_000,
    query: Annotated[
        Literal["joint", "posterior", "likelihood", "unconditional"], typer.Option(help="What the model can be asked.")
    ] = "joint",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Simulate, train one model, and write it to a file."""
    import retrodict as rd

    if (task is None) == (problem is None):
        raise DataError("train needs one of --task NAME and --problem FILE.py:NAME")
    chosen = rd.tasks.get(task).problem if task is not None else _problem(str(problem))
    sims = rd.simulate(chosen, simulations, key=seed)
    model = getattr(rd, query)(sims.layout, key=seed)
    model, history = rd.fit(model, sims, key=seed + 1, steps=steps, progress=not as_json)
    rd.save(model, out)
    told = {
        "model": str(out),
        "simulations": {"drawn": sims.drawn, "kept": sims.kept, "failed": sims.n_failed},
        "steps": int(history.step[-1]),
        "validation_loss": history.best,
        "seconds": history.seconds,
        "ended": history.ended,
    }
    text = (
        f"{sims.drawn} simulations ({sims.n_failed} failed), {told['steps']} steps in {history.seconds:.0f} s "
        f"({history.ended}), validation loss {history.best:.4f}; wrote {out}"
    )
    print(json.dumps(told) if as_json else text)


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
    from retrodict.saving import write_npz
    from retrodict.summary import summarize

    known, asked = _given(given), _of(of)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        draws = rd.load(model).sample(n, given=known, of=asked, key=seed)
    doubts = [str(one.message) for one in told if issubclass(one.category, UserWarning)]
    if out is not None:
        write_npz(out, draws)
    summary = summarize(draws)
    if as_json:
        found = {"n": n, "summary": summary, "draws": None if out is None else str(out), "warnings": doubts}
        print(json.dumps(found))
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
    known = names if given is None else [name.strip() for name in given.split(",") if name.strip()]
    held_out = _held_out(sims, task, problem, 2 * observations, seed)
    loaded, found = rd.check(loaded, held_out, given=known, observations=observations, draws=draws, key=seed)
    out = rd.save(loaded, out or model)
    own = found.calibration
    if as_json:
        told = {"question": own.question, "ok": own.ok, "p_value": own.p_value, "p_values": dict(own.p_values)}
        print(
            json.dumps(
                {**told, "excess": dict(own.excess), "score": own.score, "seconds": found.seconds, "model": str(out)}
            )
        )
        return
    tests = ", ".join(f"{name} p = {p:.2g}" for name, p in own.p_values)
    print(f"{own.question}: {'passed' if own.ok else 'FAILED'} at {own.level:.0%} ({tests})")
    for label, more in own.excess:
        print(f"  {label}: regions hold the truth {more:+.1%} more often than they say")
    print(f"{own.simulations} simulations, {own.draws} draws each, {found.seconds:.0f} s; wrote {out}")


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
    from retrodict import referee

    loaded, observed = rd.load(model), _given(observation)
    held_out = _held_out(sims, task, problem, 600, seed)
    found = referee.examine(loaded, held_out, observed, seed=seed)
    written = referee.write(out, loaded, found, title=title)
    if as_json:
        print(json.dumps({**found.to_json(), "report": str(written)}))
        return
    print(f"{'all checks passed' if found.ok else 'NOT ALL CHECKS PASSED'}; {found.likeness.tell()}; wrote {written}")


@app.command()
def gallery(
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path("runs/gallery"),
    only: Annotated[str | None, typer.Option(help="Exhibits with commas; by default all.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make the figures of the gallery: intervals, scattered observations, functions, energy, influenza."""
    from retrodict import gallery as exhibits

    names = None if only is None else [name.strip() for name in only.split(",")]
    found = exhibits.run(out, only=names, seed=seed, progress=not as_json)
    if as_json:
        print(json.dumps({"out": str(out), "exhibits": found}))
        return
    print(exhibits.tell(found))
    print(f"page: {out / 'gallery.html'}; figures and gallery.json beside it")


@app.command()
def bench(
    tasks: Annotated[str, typer.Option(help="Names with commas.")] = "two_moons,gaussian_linear,gaussian_mixture,slcp",
    paths: Annotated[str, typer.Option(help="Names of paths with commas, or all; one model is trained for each.")] = (
        "flow_matching"
    ),
    solvers: Annotated[
        str, typer.Option(help="Names of solvers with commas, or all; default is what a model draws with.")
    ] = "default",
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="Evaluations of the network for every solver that does not adapt.")
    ] = None,
    simulations: Annotated[int, typer.Option(help="Rows to simulate for each task.")] = 10_000,
    observations: Annotated[str, typer.Option(help="Observations, such as 1-10 or 1,3,5.")] = "1-10",
    draws: Annotated[int, typer.Option(help="Draws to judge for each observation; at most 10000.")] = 10_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """How far the posteriors of one fixed configuration are from the references, by path and solver."""
    import retrodict as rd
    from retrodict import bench as benchmark

    methods: Mapping[str, Any] = rd.paths.METHODS
    known: Mapping[str, Any] = {**rd.solvers.SOLVERS, "default": lambda: benchmark.SAMPLER}
    routes = {name: methods[name]() for name in _chosen("--paths", paths, methods)}
    movers = {name: known[name]() for name in _chosen("--solvers", solvers, rd.solvers.SOLVERS, besides=["default"])}
    if evaluations is not None:
        movers = {name: benchmark.at_cost(solver, evaluations) for name, solver in movers.items()}
    which = _numbers(observations)
    # all that is wrong is told before anything is trained
    exams = [
        benchmark.Exam.of(name.strip(), simulations=simulations, observations=which, draws=draws, seed=seed)
        for name in tasks.split(",")
    ]
    for exam in exams:
        rows = []
        for row in benchmark.matrix(exam, routes, movers, progress=not as_json):
            print(json.dumps(row.to_json()) if as_json else _line(row, benchmark.DENSITIES), flush=True)
            rows.append(row)
        if len(rows) > 1 and not as_json:
            print(f"\n{matrix(rows)}\n", flush=True)


def matrix(rows: Sequence["Row"]) -> str:
    """The strict C2ST of one task as aligned text, solvers down and paths across, "-" where there is none."""
    cells = {(row.solver, row.path): "-" if row.c2st_mlp is None else f"{row.c2st_mlp.mean:.3f}" for row in rows}
    paths, corner = list(dict.fromkeys(path for _, path in cells)), f"{rows[0].task}, C2ST mlp"
    width = max(len(corner), *(len(solver) for solver, _ in cells))

    def line(head: str, texts: Iterable[str]) -> str:
        aligned = (f"  {text:>{max(len(path), 5)}}" for path, text in zip(paths, texts, strict=True))
        return f"{head:{width}}" + "".join(aligned)

    solvers = dict.fromkeys(solver for solver, _ in cells)
    return "\n".join([line(corner, paths), *(line(s, (cells[s, path] for path in paths)) for s in solvers)])


def _line(row: "Row", densities: int) -> str:
    pair = f"{row.task:18} {row.path:13} {row.solver:14}"
    if row.c2st_mlp is None or row.c2st_rf is None:
        return f"{pair} refused: {row.refused}"
    return (
        f"{pair} C2ST mlp {row.c2st_mlp.mean:.3f}, rf {row.c2st_rf.mean:.3f}; train {row.train_seconds:.0f} s, "
        f"{row.draws} draws {row.sample_seconds:.2f} s, log_prob of {densities} {row.log_prob_seconds:.2f} s"
    )


def table(summary: Mapping[str, Mapping[str, float]]) -> str:
    """A summary as aligned text, one row per element."""
    width = max(len(name) for name in summary)
    head = " " * width + "".join(f"{column:>11}" for column in next(iter(summary.values())))
    rows = (f"{name:{width}}" + "".join(f"{value:11.4g}" for value in row.values()) for name, row in summary.items())
    return "\n".join([head, *rows])


def _chosen(option: str, text: str, known: Iterable[str], *, besides: Sequence[str] = ()) -> list[str]:
    """The names in a list with commas, each once; `all` stands for all of `known`."""
    offered = [*known, *besides, "all"]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in offered:
            raise DataError(unknown(f"`{option}`", name, offered, owner="it takes"))
    return list(dict.fromkeys(one for name in names for one in (known if name == "all" else [name])))


def _problem(where: str) -> Any:
    file, _, name = where.rpartition(":")
    if not file or not name:
        raise DataError(f"--problem takes FILE.py:NAME, got '{where}'")
    if not Path(file).is_file():
        raise FileError(f"there is no file '{file}' to take the problem '{name}' from")
    spec = importlib.util.spec_from_file_location("_retrodict_problem", file)
    if spec is None or spec.loader is None:
        raise FileError(f"'{file}' is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [key for key, value in vars(module).items() if type(value).__name__ == "Problem"]
    if name not in found:
        raise DataError(f"'{file}' has no problem '{name}'; it has {listed(found) or 'none'}")
    return vars(module)[name]


def _held_out(sims: Path | None, task: str | None, problem: str | None, n: int, seed: int) -> Mapping[str, Any]:
    """Simulations that a model was not trained on: read, or made."""
    if sum(one is not None for one in (sims, task, problem)) != 1:
        raise DataError("this needs one of --sims FILE.npz, --task NAME and --problem FILE.py:NAME")
    if sims is not None:
        return _rows(sims)
    import jax

    import retrodict as rd

    chosen = rd.tasks.get(task).problem if task is not None else _problem(str(problem))
    return rd.simulate(chosen, n, key=jax.random.fold_in(jax.random.key(seed), HELD_OUT))


def _rows(where: Path) -> dict[str, np.ndarray]:
    """The rows of one .npz file, or of all in a folder, one after the other."""
    files = sorted(where.glob("*.npz")) if where.is_dir() else [where]
    if not files or not all(file.is_file() for file in files):
        raise FileError(f"--sims takes a .npz file or a folder of them, and there is none at '{where}'")
    parts = [_arrays(file) for file in files]
    for part, file in zip(parts, files, strict=True):
        if part.keys() != parts[0].keys():
            raise DataError(f"'{file}' has {listed(part)}, and '{files[0]}' {listed(parts[0])}: they must be alike")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError) as error:
        raise FileError(f"'{file}' is no .npz file of plain arrays: {error}") from error


def _of(text: str | None) -> Any:
    """Names, or a mapping from names to where functions are asked."""
    if text is None or not text.lstrip().startswith("{"):
        return None if text is None else [name.strip() for name in text.split(",")]
    from retrodict import At

    found = {name: None if value is None else _value(name, value) for name, value in _object("--of", text).items()}
    for name, value in found.items():
        if value is not None and not isinstance(value, At):
            raise DataError(
                f"--of takes {{\"points\": [...]}} where a function is asked and null for others; see '{name}'"
            )
    return found


def _given(text: str) -> dict[str, Any]:
    file = Path(text)
    if text.lstrip().startswith("{"):
        source, content = "--given", text
    elif not file.is_file():
        raise FileError(f"--given takes JSON or a file, and there is no file '{text}'")
    elif file.suffix == ".npz":
        return _arrays(file)
    else:
        source, content = f"'{text}'", file.read_text(errors="replace")
    return {name: _value(name, value) for name, value in _object(source, content).items()}


def _object(source: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{source} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{source} must be a JSON object from name to values, got {type(found).__name__}")
    return found


def _value(name: str, value: Any) -> Any:
    """Numbers, a function at points, or an interval."""
    from retrodict import At, Interval

    if not isinstance(value, dict):
        return np.asarray(_nulls(value), np.float32)
    parts = {key: None if part is None else np.asarray(_nulls(part), np.float32) for key, part in value.items()}
    if "points" in parts and set(parts) <= {"points", "values"}:
        return At(**parts)
    points = parts.pop("points", None)
    if parts and set(parts) <= {"low", "high"}:
        return Interval(**parts) if points is None else At(points, Interval(**parts))
    raise DataError(
        f'\'{name}\' must be numbers, {{"points": ..., "values": ...}} for a function, or '
        f'{{"low": ..., "high": ...}} for an interval; got {listed(parts) or "nothing"}'
    )


def _nulls(value: Any) -> Any:
    """JSON has no NaN: null says that an element was not observed."""
    if isinstance(value, list):
        return [_nulls(v) for v in value]
    if value is None:
        return np.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"--given takes numbers, lists of numbers and null, got {value!r}")
    return value


def _numbers(text: str) -> list[int]:
    try:
        parts = [part.split("-") for part in text.split(",")]
        found = [k for part in parts for k in range(int(part[0]), int(part[-1]) + 1)]
    except ValueError:
        found = []
    if not found:
        raise DataError(f"--observations takes numbers such as 1-10 or 1,3,5, got '{text}'")
    return found


if __name__ == "__main__":
    main()
