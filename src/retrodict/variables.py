"""Variables: the named parameters and data of a simulator.

A model speaks of *named variables*, each with a shape and a support. Laid end to end in a fixed order, parameters
first, their scalar elements are the `d` *tokens* on which every network works; the `Layout` is that order.

A support is an interval (low, high) per element, either end of which may be infinite: the real line, a half-line,
a bounded interval. It is read off a `numpyro` distribution.

A variable may be a *function* (of time, of place), observed at points that differ from row to row. Its elements are
values at such points. The points themselves are a second variable, "counts.at" for "counts": always given, never asked.
A point that is NaN does not exist, so that rows may have different numbers of points.

A variable may live in a *plate*: every site (patient, school, trial) has a value of it, and sites are alike and
independent given the variables that they share. A layout describes ONE site, whatever the number of sites.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from retrodict._errors import DataError, RetrodictError, listed, unknown


Bound = float | tuple[float, ...]
Kind = Literal["parameter", "data", "place"]
KINDS = ("parameter", "data", "place")


class At(NamedTuple):
    """Values `(k,)` of a function at points `(k,)`, or `(k, axes)` for several coordinates; without values, a question.

    A simulator returns it, `given` and `of` take it. Points that are NaN do not count. In `given` the values may be an
    `rd.Interval`, either a single one for all points or one per point.
    """

    points: Any
    values: Any = None


def places_of(name: str) -> str:
    """The name of the variable that holds the points of a function."""
    return f"{name}.at"


def names_of(names: str | Iterable[str]) -> list[str]:
    """A name or several as a list."""
    return [names] if isinstance(names, str) else list(names)


def bounds_of(support: Any, name: str) -> tuple[Bound, Bound]:
    """The ends (low, high) of a `numpyro` constraint, each a number or one number per element.

    Raises:
        RetrodictError: the constraint is not an interval of the reals (a simplex, integers, ...).
    """
    base = support
    while getattr(base, "base_constraint", None) is not None:
        base = base.base_constraint
    low, high = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
    if getattr(base, "is_discrete", False) or (low is None and high is None and type(base).__name__ != "_Real"):
        raise RetrodictError(
            f"'{name}' has the support {base}; only the reals, half-lines and intervals are modeled: "
            "write it as a function of variables that have one of these"
        )
    return _bound(low, -math.inf), _bound(high, math.inf)


def _bound(value: Any, default: float) -> Bound:
    if value is None:
        return default
    array = np.asarray(value, dtype=float)
    return float(array) if array.ndim == 0 else tuple(array.ravel().tolist())


@dataclass(frozen=True)
class Variable:
    """A named variable.

    Attributes:
        name: its name.
        shape: of a value; `(k,)` for a function at k points.
        low: the lower end of the support, for all elements or per element, flat.
        high: the upper end.
        kind: "parameter", "data", or "place" for the points of a function.
        axes: the number of coordinates of a function, else 0.
        plate: the plate whose sites have a value each, or empty.

    Raises:
        DataError: the support is empty or does not fit the shape, or a function has another shape than `(k,)`.
    """

    name: str
    shape: tuple[int, ...] = ()
    low: Bound = -math.inf
    high: Bound = math.inf
    kind: Kind = "parameter"
    axes: int = 0
    plate: str = ""

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if isinstance(end, tuple) and len(end) != self.size:
                raise DataError(f"'{self.name}' has {self.size} elements, but a bound for {len(end)} of them")
        if np.any(np.asarray(self.low) >= np.asarray(self.high)):
            raise DataError(f"'{self.name}' has an empty support: low {self.low} is not below high {self.high}")
        if self.axes and len(self.shape) != 1:
            raise DataError(f"a function is values at points, of the shape (k,); '{self.name}' has {self.shape}")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the support, low and high, each with a number per element, flat."""
        return tuple(np.broadcast_to(np.asarray(end, float), self.size) for end in (self.low, self.high))  # type: ignore[return-value]

    @property
    def support(self) -> str:
        """The support in words and numbers: "real", "> 0", "in (0, 1.5)"."""
        if self.kind == "place":
            return f"points of '{self.name.removesuffix('.at')}'"
        low, high = (_bound_text(end) for end in (self.low, self.high))
        if high == "inf":
            return "real" if low == "-inf" else f"> {low}"
        return f"< {high}" if low == "-inf" else f"in ({low}, {high})"

    def __repr__(self) -> str:
        words = [self.kind, f"shape {self.shape}" if self.shape else "", self.support]
        words += [f"function (axes={self.axes})" if self.axes else "", f"per {self.plate}" if self.plate else ""]
        return f"Variable('{self.name}': {', '.join(filter(None, words))})"


@dataclass(frozen=True)
class Layout:
    """The variables of a model in their fixed order: parameters, data, points of functions.

    Raises:
        DataError: two variables share a name, there is none, or they live in different plates.
    """

    variables: tuple[Variable, ...]

    def __post_init__(self) -> None:
        if not self.variables:
            raise DataError("a layout needs at least one variable")
        if len(set(self.names)) != len(self.names):
            raise DataError(f"every variable needs a name of its own, got {listed(self.names)}")
        if len(plates := sorted({v.plate for v in self.variables if v.plate})) > 1:
            raise DataError(f"a model has one plate, and plates in plates are not offered yet; got {listed(plates)}")
        ordered = sorted(self.variables, key=lambda v: KINDS.index(v.kind))
        object.__setattr__(self, "variables", tuple(ordered))

    @property
    def names(self) -> list[str]:
        return [v.name for v in self.variables]

    @property
    def parameters(self) -> list[str]:
        return [v.name for v in self.variables if v.kind == "parameter"]

    @property
    def data(self) -> list[str]:
        return [v.name for v in self.variables if v.kind == "data"]

    @property
    def functions(self) -> list[str]:
        return [v.name for v in self.variables if v.axes]

    @property
    def places(self) -> list[str]:
        """The variables that hold the points of functions."""
        return [v.name for v in self.variables if v.kind == "place"]

    @property
    def plate(self) -> str:
        """The name of the plate that some variables live in; empty if there is none."""
        return next((v.plate for v in self.variables if v.plate), "")

    @property
    def shared(self) -> list[str]:
        """The variables that all sites share; all variables, where there is no plate."""
        return [v.name for v in self.variables if not v.plate]

    @property
    def own(self) -> list[str]:
        """The variables of which every site has its own value."""
        return [v.name for v in self.variables if v.plate]

    @property
    def only_own(self) -> "Layout":
        """The layout of the variables of which every site has its own value."""
        return self.without(self.shared)

    @property
    def size(self) -> int:
        """The number of tokens, `d`."""
        return sum(v.size for v in self.variables)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The tokens of each variable, as a slice."""
        ends = np.cumsum([v.size for v in self.variables])
        return {v.name: slice(int(e) - v.size, int(e)) for v, e in zip(self.variables, ends, strict=True)}

    @cached_property
    def is_parameter(self) -> np.ndarray:
        """Whether each token belongs to a parameter, `(d,)`."""
        return np.concatenate([np.full(v.size, v.kind == "parameter") for v in self.variables])

    @cached_property
    def is_own(self) -> np.ndarray:
        """Whether each token belongs to a variable of which every site has its own value, `(d,)`."""
        return np.concatenate([np.full(v.size, bool(v.plate)) for v in self.variables])

    @cached_property
    def owner(self) -> np.ndarray:
        """The index of the variable that each token belongs to, `(d,)` integers."""
        return np.concatenate([np.full(v.size, i) for i, v in enumerate(self.variables)])

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The lower and the upper ends of the supports, `(d,)` each."""
        low, high = zip(*(v.ends for v in self.variables), strict=True)
        return np.concatenate(low), np.concatenate(high)

    def seen_at(self, points: Mapping[str, int]) -> "Layout":
        """The layout with `points[name]` points of each function, and a single point of functions not named."""

        def resized(v: Variable) -> Variable:
            name = v.name.removesuffix(".at") if v.kind == "place" else v.name
            if name not in self.functions:
                return v
            count = points.get(name, 1)
            low, high = (float(end[0]) for end in v.ends)
            return dataclasses.replace(v, shape=(count, *v.shape[1:]), low=low, high=high)

        return Layout(tuple(map(resized, self.variables)))

    def without(self, names: Iterable[str]) -> "Layout":
        """The layout without some variables."""
        removed = set(names)
        return self if not removed else Layout(tuple(v for v in self.variables if v.name not in removed))

    def tokens_of(self, names: Iterable[str]) -> np.ndarray:
        """The indices of the tokens of some variables, `(k,)`."""
        return np.concatenate([np.arange(self.size)[self.slices[name]] for name in names])

    def spread(self, layout: "Layout") -> np.ndarray:
        """For every token of a layout with other numbers of points, the token here that has the same scale, `(k,)`.

        That is the same element where the numbers are equal, and the first point of the function where they differ.
        """
        indices = []
        for v in layout.variables:
            start, size = self.slices[v.name].start, self[v.name].size
            indices.append(start + (np.arange(size) if size == v.size else np.zeros(v.size, int)))
        return np.concatenate(indices)

    def __getitem__(self, name: str) -> Variable:
        for variable in self.variables:
            if variable.name == name:
                return variable
        raise DataError(unknown("the question", name, self.names))

    def __repr__(self) -> str:
        groups = {"parameters": self.parameters, "data": self.data, "places": self.places}
        parts = [f"{kind} {', '.join(self._short(n) for n in names)}" for kind, names in groups.items() if names]
        return f"Layout({'; '.join(parts)})"

    def _short(self, name: str) -> str:
        v = self[name]
        words = [name, f"{v.shape}" if v.shape else "", "" if v.support == "real" or v.kind == "place" else v.support]
        words += ["as a function" if v.axes else "", f"per {v.plate}" if v.plate else ""]
        return " ".join(filter(None, words))

    def to_json(self) -> list[dict[str, Any]]:
        """Plain numbers and strings; infinite ends become `None`."""
        return [
            {
                "name": v.name,
                "shape": list(v.shape),
                "low": _bound_to_json(v.low),
                "high": _bound_to_json(v.high),
                "kind": v.kind,
                "axes": v.axes,
                "plate": v.plate,
            }
            for v in self.variables
        ]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> "Layout":
        """The inverse of `to_json`."""
        return cls(
            tuple(
                Variable(
                    row["name"],
                    tuple(row["shape"]),
                    _bound_from_json(row["low"], -math.inf),
                    _bound_from_json(row["high"], math.inf),
                    row["kind"],
                    row.get("axes", 0),
                    row.get("plate", ""),
                )
                for row in rows
            )
        )


def _bound_text(end: Bound) -> str:
    """An end of a support: a number, or numbers of which the first and the last are shown."""
    values = np.unique(end)
    if len(values) == 1:
        return f"{values[0]:.6g}"
    numbers = [f"{value:.6g}" for value in np.ravel(end)]
    return f"({', '.join(numbers if len(numbers) <= 6 else [*numbers[:3], '...', *numbers[-2:]])})"


def _bound_to_json(end: Bound) -> Any:
    return as_lists(end, lambda number: number if math.isfinite(number) else None)


def _bound_from_json(end: Any, default: float) -> Bound:
    return as_tuples(end, lambda number: default if number is None else float(number))


def as_lists(value: Any, to_json: Callable[[Any], Any]) -> Any:
    """A value as JSON: tuples, at any depth, as lists, and what they hold as `to_json` says."""
    return [as_lists(item, to_json) for item in value] if isinstance(value, tuple) else to_json(value)


def as_tuples(value: Any, from_json: Callable[[Any], Any]) -> Any:
    """The inverse of `as_lists`, if `from_json` is that of `to_json`."""
    return tuple(as_tuples(item, from_json) for item in value) if isinstance(value, list) else from_json(value)
