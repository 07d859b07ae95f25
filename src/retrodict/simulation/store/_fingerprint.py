"""The fingerprint of a problem, by which a store knows whether it is continued with the same one.

    variables    names, shapes, kinds and supports
    prior        every entry as text
    simulator    its name and a hash of its source, of the functions of its own module that it calls, and of the numbers
                 that it uses from around it; None where no source is available
    key          of the campaign
    types        of numbers of data that are wider than `precision`, by name

Comments and layout of code do not count. Code of libraries is not seen; classes of ours count by their names.
"""

import ast
import functools
import hashlib
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from retrodict.problem import AbstractPrior, Function, Prior, Problem


PLAIN = (type(None), bool, int, float, complex, str, bytes)


def fingerprint(problem: Problem, key: jax.Array) -> dict[str, Any]:
    """The problem and the key of its campaign, as JSON."""
    function = problem.python_function
    simulator = problem.simulator if function is None else function
    return {
        "variables": problem.layout.to_json(),
        "prior": _prior(problem.prior),
        "simulator": {"name": _name(simulator), "hash": digest(simulator)},
        "key": np.asarray(jax.random.key_data(key)).ravel().tolist(),
        "types": problem.types,
        "precision": "float32" if function is not None else str(np.dtype(jax.numpy.zeros(()).dtype)),
    }


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The differences between the problem of a store and the current one, a clause each."""
    clauses = []
    if stored["variables"] != current["variables"]:
        clauses.append(f"its variables are {_shapes(stored['variables'])}, and here {_shapes(current['variables'])}")
    for name in {**stored["prior"], **current["prior"]}:
        old, new = stored["prior"].get(name, "missing"), current["prior"].get(name, "missing")
        if old != new:
            clauses.append(f"the prior of '{name}' is {old} there and {new} here")
    old, new = stored["simulator"], current["simulator"]
    if None not in (old["hash"], new["hash"]) and old["hash"] != new["hash"]:
        names = f"'{new['name']}'" if old["name"] == new["name"] else f"'{old['name']}' there and '{new['name']}' here,"
        clauses.append(f"the simulator {names} has other source code")
    if stored["key"] != current["key"]:
        clauses.append(f"its key is {stored['key']} and not {current['key']}")
    if stored["precision"] != current["precision"]:
        clauses.append(f"its numbers are {stored['precision']} and here {current['precision']}")
    return clauses


def digest(thing: Any) -> str | None:
    """A hash of the code and the settings of a function or an object, or None where they are not available."""
    text = "\n".join(_texts(thing, {}))
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else None


def _shapes(rows: list[dict[str, Any]]) -> str:
    bounds = ("low", "high")
    variables = []
    for row in rows:
        support = "" if all(row[bound] is None for bound in bounds) else f" in ({row['low']}, {row['high']})"
        variables.append(f"'{row['name']}' {tuple(row['shape'])}{support}")
    return ", ".join(variables)


def _name(simulator: Any) -> str:
    return getattr(simulator, "__qualname__", type(simulator).__qualname__)


def _prior(prior: AbstractPrior) -> dict[str, str]:
    if isinstance(prior, Prior):
        return {name: _entry(entry) for name, entry in prior.distributions.items()}
    text = f"{type(prior).__name__} {digest(prior)}"
    return {v.name: text for v in prior.variables}


def _entry(entry: Any) -> str:
    """An entry of a prior as text."""
    if isinstance(entry, Function):
        grid = hashlib.sha256(np.asarray(entry.at).tobytes()).hexdigest()[:8]
        return f"a function ({_entry(entry.law)} on grid {grid}, {entry.points} points)"
    if not hasattr(entry, "log_prob"):
        return f"given others ({digest(entry)})"
    kind = type(entry).__name__
    settings = {name: np.asarray(getattr(entry, name)) for name in getattr(entry, "arg_constraints", {})}
    if settings and all(value.size <= 8 for value in settings.values()):
        return f"{kind}({', '.join(f'{name}={value.tolist()}' for name, value in settings.items())})"
    leaves = "\n".join(text for leaf in _leaves(entry) for text in _texts(leaf, {}))
    return f"{kind} {hashlib.sha256(leaves.encode()).hexdigest()[:16]}"


def _leaves(value: Any) -> list[Any]:
    """The arrays of a distribution in the order of the names of its fields.

    numpyro keeps these names in a set, whose order, and with it that of `tree_leaves`, differs from process to process.
    """
    names: Iterable[str] = getattr(type(value), "gather_pytree_data_fields", tuple)()
    fields = [vars(value).get(name) for name in sorted(names)] if names else value
    if isinstance(fields, list | tuple):
        return [leaf for field in fields for leaf in _leaves(field)]
    return jax.tree_util.tree_leaves(fields)


def _texts(thing: Any, visited: dict[int, Any]) -> Iterator[str]:
    """The code and the settings of an object and of all that it refers to, as texts; none where not available."""
    thing = inspect.unwrap(thing) if callable(thing) else thing
    if isinstance(thing, PLAIN):
        yield repr(thing)
    elif isinstance(thing, np.ndarray | np.generic | jax.Array):
        array = np.asarray(jax.random.key_data(thing) if isinstance(thing, jax.Array) and _is_key(thing) else thing)
        yield f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
    elif id(thing) in visited or isinstance(thing, types.ModuleType):
        return
    else:
        visited[id(thing)] = thing  # kept, as the place in memory of a freed object may be another's next
        yield from _texts_inside(thing, visited)


def _is_key(thing: jax.Array) -> bool:
    return bool(jax.numpy.issubdtype(thing.dtype, jax.dtypes.prng_key))


def _texts_inside(thing: Any, visited: dict[int, Any]) -> Iterator[str]:
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield repr(key)
            yield from _texts(value, visited)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from _texts(value, visited)
    elif isinstance(thing, functools.partial):
        yield from _texts([thing.func, thing.args, thing.keywords], visited)
    elif isinstance(thing, types.MethodType):
        yield from _texts([thing.__func__, thing.__self__], visited)
    elif isinstance(thing, types.FunctionType):
        yield _source(thing)
        yield from _texts([thing.__defaults__, thing.__kwdefaults__], visited)
        variables = inspect.getclosurevars(thing)
        yield from _texts(dict(variables.nonlocals), visited)
        for name, value in variables.globals.items():
            if isinstance(value, (*PLAIN, np.ndarray, tuple, list, dict)) or _is_of_module(value, thing):
                yield name
                yield from _texts(value, visited)
    elif isinstance(thing, type):
        yield from _class_texts(thing)
    elif hasattr(thing, "__dict__"):
        yield from _texts([type(thing), dict(vars(thing))], visited)


def _class_texts(thing: type) -> Iterator[str]:
    package = thing.__module__.partition(".")[0]
    if package == "retrodict":  # by name alone: a store outlives versions of ours, whose files and words may change
        yield f"retrodict.{thing.__qualname__}"
        return
    yield f"{thing.__module__}.{thing.__qualname__}"
    if not package.startswith(("builtins", "jax", "numpy")):
        yield _source(thing)


def _is_of_module(value: Any, thing: Any) -> bool:
    """Whether a global is written in the module of the function that uses it."""
    return getattr(value, "__module__", None) == thing.__module__ and callable(value)


def _source(thing: Any) -> str:
    """The source without comments and layout; of a function without source its code."""
    try:
        text = textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        return _code(thing.__code__) if isinstance(thing, types.FunctionType) else ""
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # a lambda in the middle of a line
        return text


def _code(code: types.CodeType) -> str:
    constants = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
