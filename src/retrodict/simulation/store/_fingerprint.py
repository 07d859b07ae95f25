"""What a store is of: the problem, told so that two versions of it can be told apart.

    variables    names, shapes, kinds and supports
    prior        every entry as text
    simulator    its name and a hash of its source, of the functions of its own module that it calls, and of the numbers
                 that it sees around it; None where no source can be had
    key          of the campaign

Comments and the way that code is laid out do not count. What a library does that the simulator calls is not seen.
"""

import ast
import functools
import hashlib
import inspect
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from retrodict.problem import AbstractPrior, Function, NumpySimulator, Prior, Problem


PLAIN = (type(None), bool, int, float, complex, str, bytes)


def fingerprint(problem: Problem, key: jax.Array) -> dict[str, Any]:
    """The problem and the key of its campaign, as JSON."""
    numpy = isinstance(problem.simulator, NumpySimulator)
    simulator = problem.simulator.function if isinstance(problem.simulator, NumpySimulator) else problem.simulator
    return {
        "variables": problem.layout.to_json(),
        "prior": _prior(problem.prior),
        "simulator": {"name": _name(simulator), "hash": digest(simulator)},
        "key": np.asarray(jax.random.key_data(key)).ravel().tolist(),
        "precision": "float32" if numpy else str(np.dtype(jax.numpy.zeros(()).dtype)),
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between the problem of a store and the one at hand, one clause each."""
    found = []
    if there["variables"] != here["variables"]:
        found.append(f"its variables are {_shapes(there['variables'])}, and here {_shapes(here['variables'])}")
    for name in {**there["prior"], **here["prior"]}:
        old, new = there["prior"].get(name, "missing"), here["prior"].get(name, "missing")
        if old != new:
            found.append(f"the prior of '{name}' is {old} there and {new} here")
    old, new = there["simulator"], here["simulator"]
    if None not in (old["hash"], new["hash"]) and old["hash"] != new["hash"]:
        names = f"'{new['name']}'" if old["name"] == new["name"] else f"'{old['name']}' there and '{new['name']}' here,"
        found.append(f"the simulator {names} has other source code")
    if there["key"] != here["key"]:
        found.append(f"its key is {there['key']} and not {here['key']}")
    if there["precision"] != here["precision"]:
        found.append(f"its numbers are {there['precision']} and here {here['precision']}")
    return found


def digest(thing: Any) -> str | None:
    """A hash of what a function or an object does, or None where that cannot be had."""
    told = "\n".join(_told(thing, set()))
    return hashlib.sha256(told.encode()).hexdigest()[:16] if told else None


def _shapes(rows: list[dict[str, Any]]) -> str:
    ends = ("low", "high")
    told = []
    for row in rows:
        support = "" if all(row[end] is None for end in ends) else f" in ({row['low']}, {row['high']})"
        told.append(f"'{row['name']}' {tuple(row['shape'])}{support}")
    return ", ".join(told)


def _name(simulator: Any) -> str:
    return getattr(simulator, "__qualname__", type(simulator).__qualname__)


def _prior(prior: AbstractPrior) -> dict[str, str]:
    if isinstance(prior, Prior):
        return {name: _entry(entry) for name, entry in prior.distributions.items()}
    whole = f"{type(prior).__name__} {digest(prior)}"
    return {v.name: whole for v in prior.variables}


def _entry(entry: Any) -> str:
    """One entry of a prior as text."""
    if isinstance(entry, Function):
        where = hashlib.sha256(np.asarray(entry.at).tobytes()).hexdigest()[:8]
        return f"a function ({_entry(entry.law)} on grid {where}, {entry.points} points)"
    if not hasattr(entry, "log_prob"):
        return f"given others ({digest(entry)})"
    kind = type(entry).__name__
    settings = {name: np.asarray(getattr(entry, name)) for name in getattr(entry, "arg_constraints", {})}
    if settings and all(value.size <= 8 for value in settings.values()):
        return f"{kind}({', '.join(f'{name}={value.tolist()}' for name, value in settings.items())})"
    leaves = "\n".join(t for leaf in jax.tree_util.tree_leaves(entry) for t in _told(leaf, set()))
    return f"{kind} {hashlib.sha256(leaves.encode()).hexdigest()[:16]}"


def _told(thing: Any, seen: set[int]) -> Iterator[str]:
    """Whatever decides what `thing` does, as text; nothing where it cannot be had."""
    thing = inspect.unwrap(thing) if callable(thing) else thing
    if isinstance(thing, PLAIN):
        yield repr(thing)
    elif isinstance(thing, np.ndarray | np.generic | jax.Array):
        array = np.asarray(jax.random.key_data(thing) if isinstance(thing, jax.Array) and _is_key(thing) else thing)
        yield f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
    elif id(thing) in seen or isinstance(thing, types.ModuleType):
        return
    else:
        seen.add(id(thing))
        yield from _parts(thing, seen)


def _is_key(thing: jax.Array) -> bool:
    return bool(jax.numpy.issubdtype(thing.dtype, jax.dtypes.prng_key))


def _parts(thing: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield repr(key)
            yield from _told(value, seen)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from _told(value, seen)
    elif isinstance(thing, functools.partial):
        yield from _told([thing.func, thing.args, thing.keywords], seen)
    elif isinstance(thing, types.MethodType):
        yield from _told([thing.__func__, thing.__self__], seen)
    elif isinstance(thing, types.FunctionType):
        yield _source(thing)
        yield from _told([thing.__defaults__, thing.__kwdefaults__], seen)
        around = inspect.getclosurevars(thing)
        yield from _told(dict(around.nonlocals), seen)
        for name, value in around.globals.items():
            if isinstance(value, (*PLAIN, np.ndarray, tuple, list, dict)) or _same_home(value, thing):
                yield name
                yield from _told(value, seen)
    elif isinstance(thing, type):
        yield f"{thing.__module__}.{thing.__qualname__}"
        if not thing.__module__.startswith(("builtins", "jax", "numpy")):
            yield _source(thing)
    elif hasattr(thing, "__dict__"):
        yield from _told([type(thing), dict(vars(thing))], seen)


def _same_home(value: Any, thing: Any) -> bool:
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
