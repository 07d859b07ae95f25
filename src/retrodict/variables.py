"""Variables: what a simulator touches, by name.

A model speaks of *named variables*, each with a shape and a support. Laid end to end in one fixed order, parameters
first, their scalar elements are the `d` *tokens* on which every network works; the `Layout` is that order.

A support is an interval (low, high) per element, either end of which may be infinite: the real line, a half-line,
a bounded interval. It is read off a `numpyro` distribution.

A variable may be a *function* (of time, of place), seen at points that differ from row to row. Its elements are values
at such points, and where they lie is a variable of its own, the `places` of "counts" being "counts.at": always known,
never asked. What is NaN there is no point at all, so that rows may have different numbers of them.

A variable may live in a *plate*: there is one of it for every site (patient, school, trial), and sites are alike and
independent given the variables that they share. A layout describes ONE site, however many there are in the end.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from retrodict._errors import DataError, RetrodictError, listed, unknown


Bound = float | tuple[float, ...]
Kind = Literal["parameter", "data", "place"]
KINDS = ("parameter", "data", "place")


class At(NamedTuple):
    """Values of a function `(k,)` at points `(k,)`, or `(k, axes)` for several coordinates; no values to ask for them.

    A simulator returns it, `given` and `of` take it. Points that are NaN are none. In `given` the values may be an
    `rd.Interval`, one for all points or one per point.
    """

    points: Any
    values: Any = None


def places_of(name: str) -> str:
    """The name of the variable that says where the values of a function lie."""
    return f"{name}.at"


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
    """One named variable: its shape, the ends of its support, and what it is.

    That is a parameter, data, or the place of a function; `axes` is a function's number of coordinates, else 0;
    `plate` names the plate that it lives in, one of it per site, or is empty.
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
        """The ends of the support, one per element, flat."""
        return tuple(np.broadcast_to(np.asarray(end, float), self.size) for end in (self.low, self.high))  # type: ignore[return-value]


@dataclass(frozen=True)
class Layout:
    """The variables of a model in their fixed order, parameters before data, and where functions lie at the end.

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
        """The variables that say where functions lie."""
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
        """The variables that every site has for itself."""
        return [v.name for v in self.variables if v.plate]

    @property
    def only_own(self) -> "Layout":
        """The layout of what every site has for itself."""
        return self.without(self.shared)

    @property
    def size(self) -> int:
        """The number of tokens, `d`."""
        return sum(v.size for v in self.variables)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each variable's elements lie among the tokens."""
        ends = np.cumsum([v.size for v in self.variables])
        return {v.name: slice(int(e) - v.size, int(e)) for v, e in zip(self.variables, ends, strict=True)}

    @cached_property
    def is_parameter(self) -> np.ndarray:
        """`(d,)` booleans: which tokens belong to a parameter."""
        return np.concatenate([np.full(v.size, v.kind == "parameter") for v in self.variables])

    @cached_property
    def is_own(self) -> np.ndarray:
        """`(d,)` booleans: which tokens belong to what every site has for itself."""
        return np.concatenate([np.full(v.size, bool(v.plate)) for v in self.variables])

    @cached_property
    def owner(self) -> np.ndarray:
        """`(d,)` integers: the index of the variable that each token belongs to."""
        return np.concatenate([np.full(v.size, i) for i, v in enumerate(self.variables)])

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """`(d,)` lower and `(d,)` upper ends of the supports."""
        low, high = zip(*(v.ends for v in self.variables), strict=True)
        return np.concatenate(low), np.concatenate(high)

    def seen_at(self, points: Mapping[str, int]) -> "Layout":
        """The layout with so many points of each function, one of those that are not named."""

        def cut(v: Variable) -> Variable:
            name = v.name.removesuffix(".at") if v.kind == "place" else v.name
            if name not in self.functions:
                return v
            count = points.get(name, 1)
            low, high = (float(end[0]) for end in v.ends)
            return dataclasses.replace(v, shape=(count, *v.shape[1:]), low=low, high=high)

        return Layout(tuple(map(cut, self.variables)))

    def without(self, names: Iterable[str]) -> "Layout":
        """The layout of the other variables."""
        left = set(names)
        return self if not left else Layout(tuple(v for v in self.variables if v.name not in left))

    def tokens_of(self, names: Iterable[str]) -> np.ndarray:
        """Where the elements of some variables lie among the tokens, `(k,)`."""
        return np.concatenate([np.arange(self.size)[self.slices[name]] for name in names])

    def spread(self, other: "Layout") -> np.ndarray:
        """Of every element of a layout with other numbers of points, one of ours that shares its scale, `(k,)`: its own
        where the numbers are the same, the first of the function where they are not."""
        found = []
        for v in other.variables:
            start, size = self.slices[v.name].start, self[v.name].size
            found.append(start + (np.arange(size) if size == v.size else np.zeros(v.size, int)))
        return np.concatenate(found)

    def __getitem__(self, name: str) -> Variable:
        for variable in self.variables:
            if variable.name == name:
                return variable
        raise DataError(unknown("the question", name, self.names))

    def to_json(self) -> list[dict[str, Any]]:
        """Plain numbers and strings; infinite ends become `None`."""
        return [
            {
                "name": v.name,
                "shape": list(v.shape),
                "low": _plain(v.low),
                "high": _plain(v.high),
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
                    _unplain(row["low"], -math.inf),
                    _unplain(row["high"], math.inf),
                    row["kind"],
                    row.get("axes", 0),
                    row.get("plate", ""),
                )
                for row in rows
            )
        )


def _plain(end: Bound) -> Any:
    if isinstance(end, tuple):
        return [_plain(e) for e in end]
    return end if math.isfinite(end) else None


def _unplain(end: Any, default: float) -> Bound:
    if isinstance(end, list):
        return tuple(_unplain(e, default) for e in end)  # type: ignore[misc]
    return default if end is None else float(end)
