"""Posterior predictive checks. Does the simulator, under the posterior, make data like the observed ones?

    p(T) = 2 min( P(T(x_rep) >= T(x_obs)), P(T(x_rep) <= T(x_obs)) ),     x_rep ~ p(x_rep | x_obs)

for statistics T of interest: a mean, a maximum, a number of peaks. Because the data are used twice, these p-values
concentrate around the middle for a right model (Meng 1994), so the rate of false alarms stays below the stated one. A
small p-value means that the model cannot make the observed data. Several statistics are read together by Bonferroni.

Source: Gelman, Meng and Stern 1996, Statistica Sinica 6, 733-807.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from retrodict._errors import DataError, listed
from retrodict.diagnostics._pairs import MIN_SIMULATIONS, Named, numbers, same_names
from retrodict.diagnostics._score import two_sided
from retrodict.diagnostics._verdict import Verdict, bonferroni, checked_level, lowest


Statistic = Callable[..., Any]
DEFAULT_STATISTICS: dict[str, Callable[[np.ndarray], Any]] = {
    "mean": np.mean,
    "sd": np.std,
    "least": np.min,
    "largest": np.max,
}


@dataclass(frozen=True, repr=False)
class Predictive(Verdict):
    """The values of every statistic, `observed` and `replicated` `(n,)`, and its two-sided p-value, by name."""

    observed: dict[str, float]
    replicated: dict[str, Float64[np.ndarray, " n"]]
    p_values: dict[str, float]
    p_value: float
    level: float

    def figures(self) -> dict[str, float | str]:
        return {"replicates": len(next(iter(self.replicated.values()))), **lowest(self.p_values)}


def predictive(
    observed: Named, replicated: Named, *, statistics: Mapping[str, Statistic] | None = None, level: float = 0.05
) -> Predictive:
    """Compares statistics of an observation with those of data that were simulated from its posterior.

    Args:
        observed: the observation `{name: shape}`. NaN elements were not observed: they are set to NaN in every
            replicate, and the default statistics leave them out.
        replicated: simulated data `{name: (n, *shape)}`.
        statistics: functions by name, such as `{"range": lambda x: x.max() - x.min()}`. Each takes the variables that
            its arguments name, and returns one number. By default mean, standard deviation, minimum and maximum of
            every variable.
        level: the probability that any statistic fails although the model is right.

    Raises:
        DataError: names or shapes that do not fit, fewer than ten replicates, a statistic that is no finite number.

    Source: Gelman, Meng and Stern 1996, Statistica Sinica 6, 733-807.
    """
    level = checked_level(level)
    same_names(observed, replicated, ("`observed`", "`replicated`"))
    x_obs, x_rep = _checked(observed, replicated)
    functions = _default_statistics(x_obs) if statistics is None else dict(statistics)
    if not functions:
        raise DataError("`statistics` is empty: there is nothing to check")
    n = len(next(iter(x_rep.values())))
    observed_values: dict[str, float] = {}
    replicated_values: dict[str, np.ndarray] = {}
    for label, statistic in functions.items():
        names = _arguments(label, statistic, x_obs)
        observed_values[label] = _number(label, statistic(**{name: x_obs[name] for name in names}))
        values = [_number(label, statistic(**{name: x_rep[name][i] for name in names})) for i in range(n)]
        replicated_values[label] = np.array(values)
    p_values = {label: two_sided(observed_values[label], replicated_values[label]) for label in functions}
    return Predictive(observed_values, replicated_values, p_values, bonferroni(p_values), level)


def _checked(observed: Named, replicated: Named) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns observation and replicates as arrays; elements that were not observed are NaN in both."""
    x_obs, x_rep = {}, {}
    for name in observed:
        x_obs[name] = numbers(observed[name], f"'{name}' of `observed`", finite=False)
        x_rep[name] = numbers(replicated[name], f"'{name}' of `replicated`", axes=1).copy()
        if x_rep[name].shape[1:] != x_obs[name].shape:
            raise DataError(
                f"'{name}' was observed with the shape {x_obs[name].shape}; replicates (n, *shape) came as "
                f"{x_rep[name].shape}"
            )
        x_rep[name][:, np.isnan(x_obs[name])] = np.nan
    counts = {name: len(array) for name, array in x_rep.items()}
    if len(set(counts.values())) > 1 or min(counts.values()) < MIN_SIMULATIONS:
        raise DataError(f"all variables need the same number of replicates, at least {MIN_SIMULATIONS}, got {counts}")
    return x_obs, x_rep


def _default_statistics(x_obs: Mapping[str, np.ndarray]) -> dict[str, Statistic]:
    """Returns the default statistics of every observed variable; of a single number, the number itself."""
    statistics: dict[str, Statistic] = {}
    for name, value in x_obs.items():
        mask = ~np.isnan(value)
        if mask.sum() > 1:
            for label, function in DEFAULT_STATISTICS.items():
                statistics[f"{label} of {name}"] = _of_elements(name, mask, function)
        elif mask.any():
            statistics[name] = _of_elements(name, mask, np.mean)
    return statistics


def _of_elements(name: str, mask: np.ndarray, function: Callable[[np.ndarray], Any]) -> Statistic:
    """Returns `function` of the elements in `mask` as a statistic of the variable `name`."""

    def statistic(**values: np.ndarray) -> Any:
        return function(values[name][mask])

    statistic.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)]
    )
    return statistic


def _arguments(label: str, statistic: Statistic, variables: Mapping[str, Any]) -> list[str]:
    """Returns the names of the variables that a statistic takes.

    Raises:
        DataError: it takes a variable that does not exist.
    """
    names = list(inspect.signature(statistic).parameters)
    if unknown_names := [name for name in names if name not in variables]:
        raise DataError(f"the statistic '{label}' takes {listed(unknown_names)}; there are {listed(variables)}")
    return names


def _number(label: str, value: Any) -> float:
    """Returns the value of a statistic as a float.

    Raises:
        DataError: it is not one finite number.
    """
    array = np.asarray(value, np.float64)
    if array.size != 1 or not np.isfinite(array).all():
        raise DataError(f"the statistic '{label}' must be one finite number, got {value!r}")
    return float(array.reshape(()))
