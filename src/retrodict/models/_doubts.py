"""Doubts: what the record of a model has to say against a question and the values that it gives, a sentence each.

    untrained     no `fit` and no check that passed
    family        the question is far from every family that was checked, or the check of the nearest failed
    values        what is given is unlike the simulations (`_reference`)

A question is warned of once, at the call of the user: models that ask other models, or themselves, stay silent.
"""

import contextlib
import contextvars
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

from retrodict.diagnostics.summary import labels_of
from retrodict.models._record import Record
from retrodict.models._reference import ReferenceData, Unusual, without_affine
from retrodict.query import Query, Shares, SiteQuery, distance
from retrodict.roles import ABSENT, GIVEN
from retrodict.transforms import Scaling
from retrodict.variables import Layout


FAR_APART = 0.5  # the distance of two queries above which one says nothing about the other
TRAINABLE = ("flow", "hierarchical")  # kinds that mean nothing before `fit`
UNTRAINED = "this model is untrained, so that its draws and densities mean nothing: train it with rd.fit"
CURE = "check its units and order, or let prior and simulator reach it"
_answering: contextvars.ContextVar[bool] = contextvars.ContextVar("answering", default=False)


class CalibrationWarning(UserWarning):
    """A warning that the calibration of a model speaks against a query or an observation."""


class UntrainedWarning(CalibrationWarning):
    """A warning that a model was asked that was never trained."""


@contextlib.contextmanager
def answering(doubts: Callable[[], list[str]]) -> Iterator[None]:
    """Warns of doubts, unless an answer is under way already: models that ask others are silent."""
    if not _answering.get():
        for sentence in doubts():
            category = UntrainedWarning if sentence == UNTRAINED else CalibrationWarning
            warnings.warn(sentence, category, stacklevel=6)  # contextlib, `in_single_precision` and equinox wrap
    token = _answering.set(True)
    try:
        yield
    finally:
        _answering.reset(token)


def doubts_about(
    record: Record,
    query: Query,
    reference: ReferenceData | None,
    coordinates: Scaling,
    *,
    untrained: bool,
    draws: bool,
) -> list[str]:
    """Returns all doubts about a query, a sentence each; checks are about draws."""
    if record.quiet:
        return []
    family = _doubts_about_family(record, query.shares) if draws else []
    return [UNTRAINED] * untrained + family + _doubts_about_values(reference, coordinates, query)


def _doubts_about_family(record: Record, shares: Shares) -> list[str]:
    """Returns the doubt that checks leave about a family of queries, if there is one."""
    if not record.calibrations:
        return []
    distances = ((distance(shares, calibration.shares), calibration) for calibration in record.calibrations)
    (apart, name), nearest = min(distances, key=lambda pair: (pair[0][0], pair[1].ok))
    if apart > FAR_APART:
        checked = "; ".join(dict.fromkeys(calibration.question for calibration in record.calibrations))
        return [f"this question is far from those that were checked ({checked}) in the role of '{name}': rd.check it"]
    if nearest.ok:
        return []
    bar = nearest.level / len(nearest.p_values)
    failed = ", ".join(f"{test} p = {p:.2g}" for test, p in nearest.p_values if p <= bar)
    return [f"the check of {nearest.question} failed ({failed}): do not rely on these draws"]


def _doubts_about_values(reference: ReferenceData | None, coordinates: Scaling, query: Query) -> list[str]:
    if reference is None:
        return []
    groups = [_site_rows(site_query) for site_query in query.sites] or [(query.layout, query.values, query.roles)]
    layout, asked = coordinates.layout, groups[0][0]
    values, roles = (np.concatenate([group[i] for group in groups]) for i in (1, 2))
    values = np.where(roles == GIVEN, values, np.nan)
    if np.isnan(values).all():
        return []
    if asked != layout:
        coordinates, reference = coordinates.resized(asked), reference.resized(layout, asked)
    coordinates = without_affine(coordinates)
    z = np.where(np.isfinite(values), np.asarray(coordinates.forward(values)), np.nan)
    unusual = reference.judge(z)
    if unusual is None:
        return []
    observed = np.isfinite(values)[:, ~asked.is_parameter].any()
    noun = "site" if query.sites else "observation" if observed else "given value"
    return [_sentence(reference, coordinates, unusual, values, noun)]


def _sentence(
    reference: ReferenceData, coordinates: Scaling, unusual: Unusual, values: Float[np.ndarray, "m d"], noun: str
) -> str:
    """Returns which observations are unlike, of the first its worst element and how far it is, and the cure."""
    cure = CURE if noun == "site" or coordinates.layout.functions else f"{CURE}; rd.unlike says more"
    layout, token, first = coordinates.layout, unusual.element, int(np.argmax(unusual.rows))
    variable = layout.variables[layout.owner[token]]
    label = labels_of(variable.name, variable.shape)[token - layout.slices[variable.name].start]
    if unusual.outside:
        z = np.zeros((2, layout.size))
        z[:, token] = reference.range_of(token)
        low, high = np.asarray(coordinates.inverse(z))[:, token]
        more = f", as {unusual.outside - 1} more" if unusual.outside > 1 else ""
        digits = 4 if f"{low:.4g}" != f"{high:.4g}" else 12  # next to a large offset
        value, low, high = (f"{number:.{digits}g}" for number in (values[first, token], low, high))
        reason = f"'{label}' = {value} lies outside all of them ({low} to {high}){more}"
    else:
        reason = (
            f"its values never go together so, most of all '{label}', and the nearest of them is {unusual.ratio:.2g} "
            "times as far as usual"
        )
    if len(values) == 1:
        return f"the {noun} is unlike the simulations, {reason}: {cure}"
    count = int(unusual.rows.sum())
    verb = "is" if count == 1 else "are"
    return f"{count} of {len(values)} {noun}s {verb} unlike the simulations, first number {first}, {reason}: {cure}"


def _site_rows(query: SiteQuery) -> tuple[Layout, Float[np.ndarray, "S d"], Int[np.ndarray, "S d"]]:
    """Returns layout, values and roles of a row for every site, with all that is given of it and of all sites."""
    layout, own = query.layout, query.layout.tokens_of(query.layout.own)
    values = np.zeros((query.count, layout.size))
    roles = np.full(values.shape, ABSENT, np.int32)
    values[:, own], roles[:, own] = query.values, query.roles
    for name, value in query.shared.items():
        values[:, layout.slices[name]] = np.ravel(value)
        roles[:, layout.slices[name]] = np.where(np.isfinite(np.ravel(value)), GIVEN, ABSENT)
    return layout, values, roles
