"""Posterior predictive checks. Does the model, once it has seen the data, make data like them?

    p(T) = 2 min( P(T(x_rep) >= T(x_obs)), P(T(x_rep) <= T(x_obs)) ),     x_rep ~ p(x_rep | x_obs)

for statistics T that somebody cares about: a mean, a maximum, a number of peaks. Because the data are used twice these
p-values gather around the middle where all is well (Meng 1994), so the stated rate of false alarms is not exceeded;
a small one means that the model cannot make what was seen. Several statistics are read together by Bonferroni.

Source: Gelman, Meng and Stern 1996, Statistica Sinica 6, 733-807.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from retrodict._errors import DataError, listed
from retrodict.diagnostics._pairs import FEWEST, Named, numbers, same_names
from retrodict.diagnostics._score import two_sided
from retrodict.diagnostics._uniform import Verdict, checked_level, least


Statistic = Callable[..., Any]
USUAL: dict[str, Callable[[np.ndarray], Any]] = {"mean": np.mean, "sd": np.std, "least": np.min, "largest": np.max}


@dataclass(frozen=True, repr=False)
class Predictive(Verdict):
    """By the name of a statistic: its value `observed`, its values `replicated` `(n,)`, and its two-sided p-value."""

    observed: dict[str, float]
    replicated: dict[str, Float64[np.ndarray, " n"]]
    p_values: dict[str, float]
    p_value: float
    level: float


def predictive(
    observed: Named, replicated: Named, *, statistics: Mapping[str, Statistic] | None = None, level: float = 0.05
) -> Predictive:
    """Compares statistics of an observation with those of data that were simulated from its posterior.

    `observed` is `{name: shape}`, `replicated` is `{name: (n, *shape)}`. A statistic takes the variables that its
    arguments name, `{"range": lambda x: x.max() - x.min()}`, and returns one number; by default mean, standard
    deviation, least and largest of every variable. Elements that are NaN in `observed` were not observed: they are NaN
    in every replicate, too, and the default statistics leave them out.

    Raises:
        DataError: names or shapes that do not fit, fewer than ten replicates, a statistic that is no finite number.

    Source: Gelman, Meng and Stern 1996, Statistica Sinica 6, 733-807.
    """
    level = checked_level(level)
    same_names(observed, replicated, ("`observed`", "`replicated`"))
    seen, made = _aligned(observed, replicated)
    chosen = _usual(seen) if statistics is None else dict(statistics)
    if not chosen:
        raise DataError("`statistics` is empty: there is nothing to check")
    n = len(next(iter(made.values())))
    at_seen: dict[str, float] = {}
    at_made: dict[str, np.ndarray] = {}
    for label, statistic in chosen.items():
        names = _arguments(label, statistic, seen)
        at_seen[label] = _one(label, statistic(**{name: seen[name] for name in names}))
        values = [_one(label, statistic(**{name: made[name][i] for name in names})) for i in range(n)]
        at_made[label] = np.array(values)
    p_values = {label: two_sided(at_seen[label], at_made[label]) for label in chosen}
    return Predictive(at_seen, at_made, p_values, least(p_values), level)


def _aligned(observed: Named, replicated: Named) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    seen, made = {}, {}
    for name in observed:
        seen[name] = numbers(observed[name], f"'{name}' of `observed`", finite=False)
        made[name] = numbers(replicated[name], f"'{name}' of `replicated`", axes=1).copy()
        if made[name].shape[1:] != seen[name].shape:
            raise DataError(
                f"'{name}' was observed with the shape {seen[name].shape}; replicates (n, *shape) came as "
                f"{made[name].shape}"
            )
        made[name][:, np.isnan(seen[name])] = np.nan
    counts = {name: len(array) for name, array in made.items()}
    if len(set(counts.values())) > 1 or min(counts.values()) < FEWEST:
        raise DataError(f"all variables need the same number of replicates, at least {FEWEST}, got {counts}")
    return seen, made


def _usual(seen: Mapping[str, np.ndarray]) -> dict[str, Statistic]:
    """The default statistics of every variable with something observed; of single numbers, the number."""
    found: dict[str, Statistic] = {}
    for name, value in seen.items():
        known = ~np.isnan(value)
        if known.sum() > 1:
            found |= {f"{what} of {name}": _of(name, known, function) for what, function in USUAL.items()}
        elif known.any():
            found[name] = _of(name, known, np.mean)
    return found


def _of(name: str, known: np.ndarray, function: Callable[[np.ndarray], Any]) -> Statistic:
    def statistic(**values: np.ndarray) -> Any:
        return function(values[name][known])

    statistic.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)]
    )
    return statistic


def _arguments(label: str, statistic: Statistic, known: Mapping[str, Any]) -> list[str]:
    names = list(inspect.signature(statistic).parameters)
    if strange := [name for name in names if name not in known]:
        raise DataError(f"the statistic '{label}' takes {listed(strange)}; there are {listed(known)}")
    return names


def _one(label: str, value: Any) -> float:
    array = np.asarray(value, np.float64)
    if array.size != 1 or not np.isfinite(array).all():
        raise DataError(f"the statistic '{label}' must be one finite number, got {value!r}")
    return float(array.reshape(()))
