"""Trust: is a model right about a family of questions?

`check` asks one question about many held-out simulations, whose truth is known, and hands draws and truth to
`diagnostics`. What comes out is kept with the model: `model.sample` warns where a question or an observation is far
from what was checked.

Source: Talts et al. 2018, arXiv 1804.06788; the sources of the tests are in `diagnostics`.
"""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax.random as jr
import numpy as np
from jaxtyping import Float

from retrodict import diagnostics
from retrodict._errors import DataError, QueryError, unknown
from retrodict._types import Key, as_key
from retrodict.diagnostics import TARP, Coverage, ExpectedLogProb, coverage, expected_log_prob, sbc, tarp
from retrodict.diagnostics._pairs import generator
from retrodict.estimators import Calibration, Familiar, Generative, Record, fingerprint, shares_of
from retrodict.roles import LATENT
from retrodict.solvers import AbstractSolver
from retrodict.summary import labels_of
from retrodict.tokens import Batch, ask, flatten, unflatten
from retrodict.variables import places_of
from retrodict.weighting import Weighted


KEPT, WIDEST = 500, 256  # rows and elements of simulated data that a model carries: half a megabyte at most
MOST_DENSITIES = 64  # latent elements: the exact density of more takes minutes
FEWEST = 50  # held-out simulations
Rows = Mapping[str, np.ndarray]
M = TypeVar("M", bound=Generative | Weighted)


@dataclasses.dataclass(frozen=True)
class Check:
    """What the tests say about one family of questions; elements are named as in `theta[0]`.

    `log_prob` is None where densities were not looked at. `p_value` is that of all tests together, by Bonferroni.
    """

    calibration: Calibration
    sbc: diagnostics.SBC
    coverage: Coverage
    tarp: TARP
    log_prob: ExpectedLogProb | None
    seconds: float

    @property
    def p_value(self) -> float:
        return self.calibration.p_value

    @property
    def ok(self) -> bool:
        """Whether all tests passed together, at a rate `calibration.level` of false alarms."""
        return self.calibration.ok

    def tell(self) -> str:
        """The outcome in one line."""
        own = self.calibration
        each = ", ".join(f"{name} {p:.2g}" for name, p in own.p_values)
        outcome = f"{'passed' if self.ok else 'FAILED'}, p = {self.p_value:.2g} at a level of {own.level:g} ({each})"
        return f"{outcome}; {own.simulations} simulations, {own.draws} draws, {self.seconds:.0f} s"

    def __repr__(self) -> str:
        return f"Check({self.tell()})"


def check(
    model: M,
    sims: Mapping[str, Any],
    *,
    given: Iterable[str] | Mapping[str, Any],
    of: Iterable[str] | None = None,
    observations: int = 300,
    draws: int = 500,
    densities: int = 25,
    solver: AbstractSolver | None = None,
    level: float = 0.05,
    key: Key,
) -> tuple[M, Check]:
    """Checks the answers to one family of questions on simulations that the model was not trained on.

    Returns the model with the outcome in its record, which `rd.save` keeps and `model.sample` heeds, and the outcome.
    Another check of the same family replaces it; further training, or any change of the weights, drops it.

    Args:
        sims: held-out simulations `{name: (n, *shape)}`, at least 50.
        given: names of what is known; or a mapping from name to booleans `shape`, the elements that are.
        of: names of what is asked; by default all that `given` does not name. A function is given, and asked, at the
            points of each simulation.
        observations: how many of the simulations are asked about.
        draws: for each of them.
        densities: draws of each whose log density is computed, for joint regions and the expected log probability; 0
            for none. Left out where more than 64 elements are asked.
        level: the probability that any test fails although the model is right.

    Raises:
        DataError: simulations of the wrong names or shapes, or too few, or a function is asked of which some
            simulations have fewer points.
        QueryError: a question that this model cannot answer.
    """
    begun = time.monotonic()
    if not isinstance(model, Generative | Weighted):
        raise QueryError(f"check takes a model of `rd.joint` and its relatives, not a {type(model).__name__}")
    key_rows, key_draws, key_tests = jr.split(as_key(key), 3)
    rows, familiar = _chosen(model, sims, observations, key_rows)
    known = known_of(model, given, rows)
    if not known:
        raise QueryError("`given` names nothing; a check is of answers to what was observed, such as given=['y']")
    asked = tuple(of) if of is not None else tuple(name for name in model.modeled.names if name not in known)
    _whole(model, asked, rows)
    roles = ask(model.layout, known, asked).roles
    found = silent(model).sample(draws, given=known, of=asked, solver=solver, key=key_draws)
    latent = unflatten(model.layout, roles[0] == LATENT, asked)
    truth, drawn = _elements(rows, latent, axes=1), _elements(found, latent, axes=2)
    few = densities if int((roles[0] == LATENT).sum()) <= MOST_DENSITIES else 0
    logs = _log_densities(model, rows, found, known, latent, min(few, draws)) if few else None
    tests = _tested(truth, drawn, logs, jr.split(key_tests, 4), level)
    calibration = _calibration(model, roles, draws, level, tests)
    seconds = time.monotonic() - begun
    outcome = Check(calibration, tests["sbc"], tests["coverage"], tests["tarp"], tests.get("log_prob"), seconds)
    return dataclasses.replace(model, record=model.record.checked(calibration, familiar)), outcome


def _calibration(
    model: Generative | Weighted, roles: Any, draws: int, level: float, tests: Mapping[str, Any]
) -> Calibration:
    """What a model keeps of its tests."""
    p_values = {name: test.p_value for name, test in tests.items()}
    return Calibration(
        fingerprint=fingerprint(model),
        shares=shares_of(model.layout, roles),
        simulations=len(roles),
        draws=draws,
        level=level,
        p_value=min(1.0, len(p_values) * min(p_values.values())),
        p_values=tuple(p_values.items()),
        excess=tuple(tests["coverage"].excess.items()),
        score=tests["log_prob"].score if "log_prob" in tests else None,
    )


def _tested(truth: Any, drawn: Any, logs: Any, keys: Any, level: float) -> dict[str, Any]:
    """All tests, each at a rate of false alarms that leaves `level` to all of them."""
    dense = logs is not None and all(np.isfinite(part).all() for part in logs)
    own = level / (4 if dense else 3)
    many = max(999, round(4 / own))  # fewer could not fail at this level
    tests: dict[str, Any] = {
        "sbc": sbc(truth, drawn, key=keys[0], level=own),
        "coverage": coverage(truth, drawn, log_probs=logs, key=keys[1], level=own),
        "tarp": tarp(truth, drawn, key=keys[2], level=own),
    }
    return (
        {**tests, "log_prob": expected_log_prob(*logs, key=keys[3], level=own, permutations=many)} if dense else tests
    )


def _chosen(model: Generative | Weighted, sims: Mapping[str, Any], n: int, key: Any) -> tuple[Rows, Familiar | None]:
    """`n` simulations to ask about, and what data look like."""
    tokens = tokens_of(model, sims)
    order = generator(key).permutation(len(tokens))
    chosen = tokens[order[:n]]
    return unflatten(model.layout, chosen, model.layout.names), familiar_of(model, tokens[order[-KEPT:]])


def tokens_of(model: Generative | Weighted, sims: Mapping[str, Any]) -> Float[np.ndarray, "n d"]:
    """Held-out simulations as rows of tokens."""
    if not isinstance(sims, Mapping):
        raise DataError(f"simulations are a mapping from name to array, got {type(sims).__name__}")
    tokens = flatten(model.layout, sims, model.layout.names, where="the simulations")
    exact = model.layout.tokens_of([v.name for v in model.layout.variables if not v.axes and v.kind != "place"])
    if bad := int((~np.isfinite(tokens[:, exact])).any(axis=1).sum()):
        raise DataError(f"{bad} of {len(tokens)} simulations are not finite: take these rows out")
    if len(tokens) < FEWEST:
        raise DataError(f"a check needs at least {FEWEST} held-out simulations, got {len(tokens)}")
    return tokens


def familiar_of(model: Generative | Weighted, tokens: Float[np.ndarray, "n d"]) -> Familiar | None:
    """What a model keeps of simulated data, unless it has none."""
    data = np.flatnonzero(~np.asarray(model.layout.is_parameter))
    if not data.size or model.layout.functions:  # seen at other points they are not alike
        return None
    kept = data[np.unique(np.linspace(0, len(data) - 1, min(len(data), WIDEST)).round().astype(int))]
    z = np.asarray(model.scaling.forward(tokens), np.float32)[:, kept]
    return Familiar(np.ascontiguousarray(z).tobytes(), tuple(int(i) for i in kept))


def known_of(model: Generative | Weighted, given: Iterable[str] | Mapping[str, Any], rows: Rows) -> Batch:
    """The simulations' values of what is given, NaN where it is not, and where their functions lie."""
    if isinstance(given, str):
        raise QueryError(f"`given` must be a list of names or a mapping from name to booleans, got '{given}'")
    known = {}
    for name in given:
        if name not in model.layout.names:
            raise QueryError(unknown("`given`", name, model.layout.names))
        mask = np.ones(model.layout[name].shape, bool)
        if isinstance(given, Mapping):
            mask = np.asarray(given[name])
            if mask.dtype != bool or mask.shape != model.layout[name].shape:
                raise DataError(f"'{name}' in `given` must be booleans of the shape {model.layout[name].shape}")
        known[name] = np.where(mask & _there(model, name, rows), rows[name], np.nan).astype(np.float32)
    if known:
        known |= {place: np.nan_to_num(rows[place]) for place in model.layout.places}
    return Batch(known)


def _there(model: Generative | Weighted, name: str, rows: Rows) -> np.ndarray:
    """Which elements of a variable there are; a function has as many as points."""
    if name not in model.layout.functions:
        return np.ones(rows[name].shape, bool)
    places = rows[places_of(name)]
    return np.asarray(np.isfinite(places.reshape(*rows[name].shape, -1)).all(axis=2))


def _whole(model: Generative | Weighted, asked: Iterable[str], rows: Rows) -> None:
    """Refuses functions of which some simulations have fewer points: there would be no truth to compare with."""
    for name in asked:
        if name in model.layout.functions and not (_there(model, name, rows) & np.isfinite(rows[name])).all():
            raise DataError(
                f"'{name}' has fewer points in some simulations, and cannot be checked there: leave it out of `of`, or "
                "hand in the simulations that have all of its points"
            )


def silent(model: M) -> M:
    """The model with nothing in its record but solvers, so that it does not warn."""
    return dataclasses.replace(model, record=Record(solvers=model.record.solvers))


def _elements(values: Rows, latent: Rows, *, axes: int) -> dict[str, np.ndarray]:
    """What was asked, one entry per scalar element: `{"theta[0]": (n,)}` or, with two axes, `(n, n_draws)`."""
    found: dict[str, np.ndarray] = {}
    for name, mask in latent.items():
        columns = values[name].reshape(*values[name].shape[:axes], -1)
        labels = np.array(labels_of(name, np.shape(mask)))
        found |= {labels[i]: columns[..., i] for i in np.flatnonzero(mask)}
    return found


def _log_densities(
    model: Generative | Weighted, rows: Rows, found: Rows, known: Batch, latent: Rows, few: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n few"]]:
    """Log densities of the truth and of a few draws of each simulation."""
    n = len(next(iter(rows.values())))

    def values(of: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.where(mask, of[name], np.nan) for name, mask in latent.items()}

    at_truth = model.log_prob(values(rows), given=known)
    some = {name: found[name][:, :few].reshape(n * few, *found[name].shape[2:]) for name in latent}
    repeated = Batch({name: np.repeat(value, few, axis=0) for name, value in known.items()})
    at_draws = model.log_prob(values(some), given=repeated).reshape(n, few)
    # where the flow back went astray there is next to no density
    return np.nan_to_num(at_truth, nan=-np.inf), np.nan_to_num(at_draws, nan=-np.inf)
