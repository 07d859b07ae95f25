"""Rows of a benchmark as text for a terminal."""

from collections.abc import Iterable, Sequence

from retrodict_bench.benchmark._evaluate import N_DENSITIES, Row


def table_text(rows: Sequence[Row]) -> str:
    """Returns the strict C2ST of one task as aligned text: a line a solver, a column a path, "-" for no score."""
    cells = {(row.solver, row.path): "-" if row.c2st_mlp is None else f"{row.c2st_mlp.mean:.3f}" for row in rows}
    paths, corner = list(dict.fromkeys(path for _, path in cells)), f"{rows[0].task}, C2ST mlp"
    width = max(len(corner), *(len(solver) for solver, _ in cells))

    def aligned(head: str, texts: Iterable[str]) -> str:
        columns = (f"  {text:>{max(len(path), 5)}}" for path, text in zip(paths, texts, strict=True))
        return f"{head:{width}}" + "".join(columns)

    solvers = dict.fromkeys(solver for solver, _ in cells)
    lines = (aligned(s, (cells.get((s, path), "-") for path in paths)) for s in solvers)
    return "\n".join([aligned(corner, paths), *lines])


def row_text(row: Row) -> str:
    """Returns the scores and times of a row, or why it has none, on one line."""
    pair = f"{row.task:18} {row.path:13} {row.solver:14}"
    if row.c2st_mlp is None or row.c2st_rf is None:
        return f"{pair} refused: {row.refused}"
    return (
        f"{pair} C2ST mlp {row.c2st_mlp.mean:.3f}, rf {row.c2st_rf.mean:.3f}; train {row.train_seconds:.0f} s, "
        f"{row.draws} draws {row.sample_seconds:.2f} s, log_prob of {N_DENSITIES} {row.log_prob_seconds:.2f} s"
    )
