"""Variables: what a simulator touches, by name.

A model speaks of *named variables*, each with a shape and a support. Laid end to end in one fixed order, parameters
first, their scalar elements are the `d` *tokens* on which every network works; the `Layout` is that order.

A support is an interval (low, high) per element, either end of which may be infinite: the real line, a half-line,
a bounded interval. It is read off a `numpyro` distribution.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from retrodict._errors import DataError, RetrodictError, listed, unknown


Bound = float | tuple[float, ...]
Kind = Literal["parameter", "data"]


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
    """One named variable: its shape, the ends of its support, and whether it is a parameter or data."""

    name: str
    shape: tuple[int, ...] = ()
    low: Bound = -math.inf
    high: Bound = math.inf
    kind: Kind = "parameter"

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if isinstance(end, tuple) and len(end) != self.size:
                raise DataError(f"'{self.name}' has {self.size} elements, but a bound for {len(end)} of them")
        if np.any(np.asarray(self.low) >= np.asarray(self.high)):
            raise DataError(f"'{self.name}' has an empty support: low {self.low} is not below high {self.high}")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the support, one per element, flat."""
        return tuple(np.broadcast_to(np.asarray(end, float), self.size) for end in (self.low, self.high))  # type: ignore[return-value]


@dataclass(frozen=True)
class Layout:
    """The variables of a model in their fixed order, parameters before data.

    Raises:
        DataError: two variables share a name, or there is none.
    """

    variables: tuple[Variable, ...]

    def __post_init__(self) -> None:
        if not self.variables:
            raise DataError("a layout needs at least one variable")
        if len(set(self.names)) != len(self.names):
            raise DataError(f"every variable needs a name of its own, got {listed(self.names)}")
        ordered = sorted(self.variables, key=lambda v: v.kind == "data")
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
    def owner(self) -> np.ndarray:
        """`(d,)` integers: the index of the variable that each token belongs to."""
        return np.concatenate([np.full(v.size, i) for i, v in enumerate(self.variables)])

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """`(d,)` lower and `(d,)` upper ends of the supports."""
        low, high = zip(*(v.ends for v in self.variables), strict=True)
        return np.concatenate(low), np.concatenate(high)

    def without(self, names: Iterable[str]) -> "Layout":
        """The layout of the other variables."""
        left = set(names)
        return self if not left else Layout(tuple(v for v in self.variables if v.name not in left))

    def tokens_of(self, names: Iterable[str]) -> np.ndarray:
        """Where the elements of some variables lie among the tokens, `(k,)`."""
        return np.concatenate([np.arange(self.size)[self.slices[name]] for name in names])

    def __getitem__(self, name: str) -> Variable:
        for variable in self.variables:
            if variable.name == name:
                return variable
        raise DataError(unknown("the question", name, self.names))

    def to_json(self) -> list[dict[str, Any]]:
        """Plain numbers and strings; infinite ends become `None`."""
        return [
            {"name": v.name, "shape": list(v.shape), "low": _plain(v.low), "high": _plain(v.high), "kind": v.kind}
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
