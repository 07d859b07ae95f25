"""Measures the house: how long, how tangled and how plainly worded the source of a checkout is.

The source is parsed, never imported, so a checkout of any age can be measured, and two side by side:

    python tools/house.py                        # this checkout, as a Markdown table
    python tools/house.py ../old ../new          # two checkouts: before and after
    python tools/house.py --list locals          # the places behind one figure, as file:line
    python tools/house.py --json                 # the figures as an object

The library is `src/retrodict`. What concerns single lines of code is counted in `src/retrodict_bench` as well, which
was part of the library once. Imports by a string (`importlib.import_module`) cannot be seen here.
"""

import argparse
import ast
import functools
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


FACE = "retrodict"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST_FUNCTION = 60  # lines from `def` to the end, without decorators
PRONOUN_OPENINGS = words("What How One Those Of Where Which")
WEAK_OPENINGS = words("It That They As To So Some Who Whose Why Whatever Whoever This These There Such Another")
# Function words and participles that stood for a noun among the 300 most frequent locals of the old tree, where they
# were 14 % of all, as an earlier count had found. `given` and `of` are public keywords: they count as locals only.
VAGUE_NAMES = words(
    "own found whole left part seen known there which of told asked made some each this that it its here where what "
    "how who same such much more most few many one ones other others another rest enough kept held drawn shown given"
)
ALSO_VAGUE = words(  # on no bar: a vague name should not be traded for one of these
    "said chosen wanted done begun ended judged filled used named bent learned taken looked got put gone came both all "
    "every nothing before after later near far above below inside within between beyond at by out off about why when "
    "apart alone across less least as to so they them these those"
)
ALLOWED_PARAMETERS = words("self cls given of")
MODEL_CLASSES = words(
    "Generative Weighted Hierarchical Student Head FlowModel ImportanceSampledPosterior HierarchicalModel "
    "DistilledSampler DistilledDensity AbstractModel"
)
MODEL_ROOMS = ("models", "estimators")  # `estimators` in the old tree
MODEL_NOUNS = words("model site teacher student flow")
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Source:
    """A parsed file: its path under `src`, its dotted name as a module, its syntax tree."""

    path: str
    module: str
    lines: int
    tree: ast.Module

    @classmethod
    def read(cls, file: Path, src: Path) -> "Source":
        path, text = file.relative_to(src), file.read_text(encoding="utf-8")
        parts = path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts
        return cls(path.as_posix(), ".".join(parts), len(text.splitlines()), ast.parse(text))

    @functools.cached_property
    def imports(self) -> list[tuple[str, bool]]:
        return list(imports_of(self.tree))

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (node for node in self.nodes if isinstance(node, FUNCTIONS))

    @property
    def room(self) -> str:
        """The top-level entry of the library that the file lies in; the benchmark is one room."""
        package, *inner = self.module.split(".")
        return package if package != FACE else (inner or ["__init__"])[0]

    @property
    def folder(self) -> str:
        """The folder of the file at any depth; a file at the root of a package stands for itself."""
        is_alone = self.path.endswith("/__init__.py") or self.module.count(".") == 1
        return self.module if is_alone else self.module.rpartition(".")[0]

    def place(self, line: int, text: str = "") -> str:
        return f"src/{self.path}:{line}  {text}".rstrip()


class Finding(NamedTuple):
    """A figure and the places behind it."""

    figure: float
    places: list[str]


class House:
    """The parsed source of a checkout."""

    def __init__(self, root: Path) -> None:
        src = root / "src"
        if not (src / FACE / "__init__.py").exists():
            raise SystemExit(f"{root} is no checkout of retrodict: it has no src/{FACE}/__init__.py")
        self.library = [Source.read(file, src) for file in sorted((src / FACE).rglob("*.py"))]
        self.bench = [Source.read(file, src) for file in sorted((src / f"{FACE}_bench").rglob("*.py"))]
        self.sources = self.library + self.bench
        self.modules = {source.module: source for source in self.sources}
        self.nodes = [(source, node) for source in self.sources for node in source.nodes]

    def graph(self, sources: list[Source], label: Callable[[Source], str], *, lazy: bool) -> Graph:
        """The imports among rooms, folders or files; those inside functions or for type checkers only if `lazy`."""
        graph: Graph = {label(source): set() for source in sources}
        for source in sources:
            for name, waits in source.imports:
                end = self.modules.get(name) or self.modules.get(name.rpartition(".")[0])
                if end and (lazy or not waits):
                    graph[label(source)].add(label(end))
        return {node: ends - {node} for node, ends in graph.items()}


def imports_of(node: ast.AST, *, waits: bool = False) -> Iterator[tuple[str, bool]]:
    """Dotted names that a file imports, the last part a module or a name within one; and whether an import waits for a
    call of a function or is made for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            prefix = f"{child.module}." if isinstance(child, ast.ImportFrom) else ""
            yield from ((prefix + alias.name, waits) for alias in child.names)
        else:
            for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from imports_of(child, waits=waits or for_types or isinstance(child, FUNCTIONS))


def names_in(node: ast.AST) -> set[str]:
    """The words of an expression: its names, and those of its strings."""
    return set(re.findall(r"\w+", ast.unparse(node)))


def calls(nodes: Iterable[ast.AST], *names: str) -> Iterator[ast.Call]:
    """The nodes that call a function of one of these names."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def scope(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions and classes defined in it; lambdas belong to it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, (*FUNCTIONS, ast.ClassDef)):
            yield from scope(child)


def reachable(graph: Graph) -> Graph:
    """For every node, the nodes that a chain of arrows leads to."""
    closure: Graph = {}
    for start in graph:
        closure[start], stack = set(), [start]
        while stack:
            new = graph.get(stack.pop(), set()) - closure[start]
            closure[start] |= new
            stack += new
    return closure


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """Groups of two or more nodes that reach each other."""
    ends = reachable(graph)
    groups = {tuple(sorted(b for b in ends[a] if a in ends.get(b, ()))) for a in ends}
    return sorted(group for group in groups if group)


def floors_of(graph: Graph) -> dict[str, int]:
    """The number of nodes on the longest chain that starts at each node, where a circle counts as one node."""
    leader = {node: group[0] for group in circles(graph) for node in group}
    condensed: Graph = defaultdict(set)
    for node, ends in graph.items():
        condensed[leader.get(node, node)] |= {leader.get(end, end) for end in ends}

    @functools.cache
    def floor(node: str) -> int:
        return 1 + max((floor(end) for end in condensed[node] - {node}), default=0)

    return {node: floor(leader.get(node, node)) for node in graph}


def counted(places: Iterable[str]) -> Finding:
    """A finding whose figure is its number of places."""
    places = list(places)
    return Finding(len(places), places)


def lines(sources: list[Source], figure: Callable[[Iterable[int]], float]) -> Finding:
    """The sum, median or maximum of the lines of files; the longest files first."""
    longest_first = sorted(sources, key=lambda source: -source.lines)
    places = [source.place(1, f"{source.lines} lines") for source in longest_first]
    return Finding(figure([source.lines for source in sources] or [0]), places)


def long_functions(house: House) -> Finding:
    """Functions of more than sixty lines, counted from `def` on, without decorators."""
    lengths = [(s, f, (f.end_lineno or f.lineno) - f.lineno + 1) for s in house.sources for f in s.functions]
    return counted(s.place(f.lineno, f"{f.name}, {n} lines") for s, f, n in lengths if n > LONGEST_FUNCTION)


def isinstance_calls(house: House) -> Finding:
    """Calls of `isinstance` per 1,000 lines."""
    places = [s.place(call.lineno) for s in house.sources for call in calls(s.nodes, "isinstance")]
    return Finding(1000 * len(places) / sum(source.lines for source in house.sources), places)


def openings(house: House, vocabulary: frozenset[str]) -> Finding:
    """The share of docstrings, of modules too, whose first word is one of these."""
    nodes = [(s, node) for s, node in house.nodes if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Module))]
    texts = [(s, node.body[0].lineno, text) for s, node in nodes if (text := ast.get_docstring(node))]
    weak = [triple for triple in texts if triple[2].split()[0].strip(":,;.") in vocabulary]
    return Finding(len(weak) / len(texts), [s.place(line, text.splitlines()[0]) for s, line, text in weak])


def parameters_of(function: ast.AST) -> dict[str, int]:
    """Names of the parameters of a function and of its lambdas with their lines, without those that must be so."""
    arguments = [node for node in scope(function) if isinstance(node, ast.arg)]
    return {node.arg: node.lineno for node in arguments if node.arg not in ALLOWED_PARAMETERS}


def locals_of(function: ast.AST) -> dict[str, int]:
    """Names that a function binds itself: assigned, looped over, bound by `with`, `:=` or a comprehension."""
    parameters = {node.arg for node in scope(function) if isinstance(node, ast.arg)}
    bound = [node for node in scope(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return {node.id: node.lineno for node in reversed(bound) if node.id not in parameters}


def vague(house: House, kind: Callable[[ast.AST], dict[str, int]], vocabulary: frozenset[str]) -> Finding:
    """The share of distinct (function, name) pairs whose name is one of these words."""
    names = [(s, f.name, name, line) for s in house.sources for f in s.functions for name, line in kind(f).items()]
    places = [s.place(line, f"{name}  in {function}") for s, function, name, line in names if name in vocabulary]
    return Finding(len(places) / len(names), places)


def rooms(house: House) -> Finding:
    """Entries of the library's root: modules and folders."""
    return counted(sorted({source.room for source in house.library} - {"__init__"}))


def floors(house: House, *, lazy: bool) -> Finding:
    """The longest chain of imports from room to room; the face, which imports all, is its top."""
    levels = floors_of(house.graph(house.library, lambda source: source.room, lazy=lazy))
    places = [f"floor {level:2}: {room}" for room, level in sorted(levels.items(), key=lambda pair: pair[::-1])]
    return Finding(max(levels.values()), places)


def arrows(house: House, label: Callable[[Source], str]) -> Finding:
    """Distinct pairs of rooms or folders of which one imports from the other, anywhere in its files."""
    graph = house.graph(house.library, label, lazy=True)
    return counted(f"{start} -> {end}" for start, ends in sorted(graph.items()) for end in sorted(ends))


def file_circles(house: House, *, lazy: bool) -> Finding:
    """Circles of files. The face is left out if imports are lazy: it names everything, and anything may ask it."""
    sources = [source for source in house.sources if not (lazy and source.module == FACE)]
    return counted(" <-> ".join(group) for group in circles(house.graph(sources, lambda s: s.module, lazy=lazy)))


def untyped_models(house: House) -> Finding:
    """Parameters and fields named after a model (`model`, `new_model`, `teacher`, ...) whose annotation is `Any`."""
    places = []
    for source, node in house.nodes:
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            name = node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)
            types = {text.strip(" '\"") for text in ast.unparse(node.annotation).split("|")}
            if name.split("_")[-1] in MODEL_NOUNS and types & {"Any", "typing.Any"}:
                places.append(source.place(node.lineno, f"{name}: Any"))
    return counted(places)


def model_unions(house: House) -> Finding:
    """Unions of two or more model classes, outside `isinstance`."""
    places = []
    for source in house.sources:
        unions = [n for n in source.nodes if isinstance(n, ast.BinOp) and len(names_in(n) & MODEL_CLASSES) > 1]
        outer: list[ast.AST] = [*unions, *calls(source.nodes, "isinstance", "issubclass")]
        inner = {id(child) for node in outer for child in ast.walk(node) if child is not node}
        places += [source.place(node.lineno, ast.unparse(node)) for node in unions if id(node) not in inner]
    return counted(places)


def type_tests(house: House, *, outside: bool) -> Finding:
    """Calls of `isinstance` that ask for a model class; `outside` of the models' room only."""
    sources = [source for source in house.sources if not (outside and source.room in MODEL_ROOMS)]
    tests = [(s, call) for s in sources for call in calls(s.nodes, "isinstance", "issubclass")]
    return counted(s.place(c.lineno, ast.unparse(c)) for s, c in tests if names_in(c.args[1]) & MODEL_CLASSES)


def parsers(house: House, *, modules: bool) -> Finding:
    """Functions of the library that refuse an unknown name in `given` or `of`, and so turn names into roles; or the
    modules they lie in."""
    refusals = [(s, f, c) for s in house.library for f in s.functions for c in calls(scope(f), "unknown")]
    parsing = [(s, f) for s, f, c in refusals if ast.unparse(c.args[0]).strip("'\"").startswith(("`given`", "`of`"))]
    return counted(dict.fromkeys(s.path if modules else s.place(f.lineno, f.name) for s, f in parsing))


def strided_loops(house: House, *, blocks: bool) -> Finding:
    """Loops over `range(start, end, step)`: those that compute `start + step`, to cut a block; or all others."""
    places = []
    for source, node in house.nodes:
        for loop in [node] if isinstance(node, ast.For) else getattr(node, "generators", []):
            for call in calls([loop.iter], "range"):
                block_end = f"{ast.unparse(loop.target)} + {ast.unparse(call.args[-1])}"
                sums = {ast.unparse(child) for child in ast.walk(node) if isinstance(child, ast.BinOp)}
                if len(call.args) == 3 and (block_end in sums) == blocks:
                    places.append(source.place(call.lineno, ast.unparse(call)))
    return counted(places)


def public_names(house: House) -> Finding:
    """Names of `dir(retrodict)` without an underscore: imports of the face and its tables of lazy names."""
    nodes = house.modules[FACE].nodes
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("_NAMES", "_ROOMS"):
            table = ast.literal_eval(node.value)
            pairs = table.items() if isinstance(table, dict) else [(name, "") for name in table]
            names |= {name for key, value in pairs for name in ([key] if isinstance(value, str) else value)}
    return counted(sorted(name for name in names if not name.startswith("_")))


class Measure(NamedTuple):
    """A row of the table."""

    title: str
    bar: str
    form: str
    finding: Callable[[House], Finding]


COUNT, RATE, SHARE = "{:,.0f}", "{:.1f}", "{:.1%}"
MEASURES = {
    "lines": Measure("lines of the library", "<= 20,000", COUNT, lambda h: lines(h.library, sum)),
    "bench-lines": Measure("lines of retrodict_bench", "", COUNT, lambda h: lines(h.bench, sum)),
    "files": Measure("files", "", COUNT, lambda h: counted(s.place(1) for s in h.sources)),
    "median-file": Measure("median file, lines", "", COUNT, lambda h: lines(h.sources, statistics.median)),
    "longest-file": Measure("longest file, lines", "", COUNT, lambda h: lines(h.sources, max)),
    "long-functions": Measure("functions over 60 lines", "0", COUNT, long_functions),
    "isinstance": Measure("`isinstance` per 1,000 lines", "<= 5", RATE, isinstance_calls),
    "openings": Measure("docstrings from What/How/One/...", "<= 1 %", SHARE, lambda h: openings(h, PRONOUN_OPENINGS)),
    "weak-openings": Measure("docstrings from It/That/As/So/...", "", SHARE, lambda h: openings(h, WEAK_OPENINGS)),
    "locals": Measure("locals that are vague words", "<= 2 %", SHARE, lambda h: vague(h, locals_of, VAGUE_NAMES)),
    "more-locals": Measure("locals that are others such", "", SHARE, lambda h: vague(h, locals_of, ALSO_VAGUE)),
    "parameters": Measure("parameters that are vague words", "", SHARE, lambda h: vague(h, parameters_of, VAGUE_NAMES)),
    "rooms": Measure("rooms at the root", "<= 24", COUNT, rooms),
    "floors": Measure("floors, with lazy imports", "<= 12", COUNT, lambda h: floors(h, lazy=True)),
    "import-floors": Measure("floors at import time", "", COUNT, lambda h: floors(h, lazy=False)),
    "arrows": Measure("arrows between rooms", "<= 140", COUNT, lambda h: arrows(h, lambda s: s.room)),
    "folder-arrows": Measure("arrows between folders", "", COUNT, lambda h: arrows(h, lambda s: s.folder)),
    "circles": Measure("circles of files at import time", "0", COUNT, lambda h: file_circles(h, lazy=False)),
    "hidden-circles": Measure("circles, with lazy imports", "0", COUNT, lambda h: file_circles(h, lazy=True)),
    "any": Measure("models annotated `Any`", "0", COUNT, untyped_models),
    "unions": Measure("unions of model classes", "", COUNT, model_unions),
    "type-tests": Measure("type tests on model classes", "", COUNT, lambda h: type_tests(h, outside=False)),
    "outer-type-tests": Measure("... outside models/", "0", COUNT, lambda h: type_tests(h, outside=True)),
    "parsers": Measure("functions that parse a question", "", COUNT, lambda h: parsers(h, modules=False)),
    "parser-modules": Measure("modules that parse a question", "1", COUNT, lambda h: parsers(h, modules=True)),
    "blocks": Measure("copies of the block loop", "1", COUNT, lambda h: strided_loops(h, blocks=True)),
    "strided": Measure("other strided loops", "", COUNT, lambda h: strided_loops(h, blocks=False)),
    "public": Measure("public names", "", COUNT, public_names),
}


def table(houses: dict[str, House]) -> Iterator[str]:
    """The lines of a Markdown table: a row for every measure, a column for every house, the bar last."""
    yield f"| | {' | '.join(houses)} | bar |"
    yield "|---|" + "---:|" * (len(houses) + 1)
    for measure in MEASURES.values():
        figures = [measure.finding(house).figure for house in houses.values()]
        cells = [measure.form.format(figure) for figure in figures]
        yield f"| {measure.title} | {' | '.join(cells)} | {measure.bar} |"


def main() -> None:
    """Prints the table, an object, or the places behind one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="*", metavar="ROOT", type=Path, default=[Path(__file__).resolve().parents[1]])
    parser.add_argument("--json", action="store_true", help="print the figures as an object")
    parser.add_argument("--list", choices=MEASURES, metavar="MEASURE", help="print places: " + ", ".join(MEASURES))
    options = parser.parse_args()
    headings = {1: ["today"], 2: ["before", "after"]}.get(len(options.roots), map(str, options.roots))
    houses = {heading: House(root) for heading, root in zip(headings, options.roots, strict=True)}
    if options.list:
        for heading, house in houses.items():
            places = MEASURES[options.list].finding(house).places
            print("\n".join([f"# {heading}: {len(places)} of {options.list}", *places]))
    elif options.json:
        figures = {h: {key: m.finding(house).figure for key, m in MEASURES.items()} for h, house in houses.items()}
        print(json.dumps(figures, indent=2))
    else:
        print("\n".join(table(houses)))


if __name__ == "__main__":
    main()
