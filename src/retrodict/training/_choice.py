"""Choice by losses of held-out rows: a row without a finite loss counts as infinitely bad.

A comparison with NaN is False, so that a candidate that fails on one row could win or lose by its place in a list. Here
the fewest lost rows come first, and only then the lowest mean over the other rows.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float


def lost_rows(losses: Float[np.ndarray, " n"]) -> int:
    """Returns the number of rows whose loss is NaN or infinite."""
    return int((~np.isfinite(losses)).sum())


def rank(losses: Float[np.ndarray, " n"]) -> tuple[int, float]:
    """Returns what candidates are sorted by, the best first: lost rows, then the mean loss of the other rows."""
    finite = np.isfinite(losses)
    return lost_rows(losses), float(np.mean(losses, where=finite)) if finite.any() else float("inf")


def best_of(losses: Mapping[str, Float[np.ndarray, " n"]], names: Iterable[str] | None = None) -> str:
    """Returns the name of the best candidate, of all or of some `names`."""
    return min(losses if names is None else names, key=lambda name: rank(losses[name]))


def mean_loss(losses: Float[np.ndarray, " n"]) -> float:
    """Returns the mean loss, infinite if a row is lost."""
    return float("inf") if lost_rows(losses) else float(losses.mean())


def is_better(losses: Float[np.ndarray, " n"], others: Float[np.ndarray, " n"], standard_errors: float) -> bool:
    """Returns whether a candidate loses fewer rows than another or, at as many, less by so many standard errors."""
    if lost_rows(losses) != lost_rows(others):
        return lost_rows(losses) < lost_rows(others)
    in_both = np.isfinite(losses) & np.isfinite(others)
    gain = others[in_both] - losses[in_both]
    return len(gain) > 0 and bool(gain.mean() > standard_errors * gain.std() / len(gain) ** 0.5)
