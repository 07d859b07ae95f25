"""Reference data: some rows and the limits of the simulations, by which a model knows values that are unlike them.

Two comparisons in the model's coordinates z, whose levels add up to less than `LEVEL`, the rate of false alarms:

    alone      z_i outside its limits (`_limits`)
    together   the distance to the nearest reference row, whitened, against such distances of the rows to each other

Distances have an exponential tail, too. A member of a rare cluster is near others of it, and a runaway row near none.

Source: Angiulli and Pizzuti 2002 (distances to neighbors).
"""

import base64
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from retrodict._runtime.blocks import blocks
from retrodict.models._limits import (
    FAR,
    LEVEL,
    MAX_TAIL,
    MIN_TAIL,
    TOLERANCE,
    Tails,
    alone_level,
    tails_of,
    tails_of_columns,
    widened_tails,
)
from retrodict.transforms import Scaling
from retrodict.variables import Layout


TOGETHER = 0.2  # share of the level for elements together: tails are estimated
MAX_NUMBERS = 24_000  # of reference rows: a file grows by 130 kB at most
MAX_ROWS, MAX_ELEMENTS, MAX_LIMITS = 1_000, 64, 2_048
MIN_ROWS = 20  # to compare distances
ROWS_PER_ELEMENT = 10  # fewer could not tell how elements go together
MIN_HELD_OUT = 99  # rows that no step of training saw, from which p-values can be told
NEIGHBOR = 5  # the distance to the fifth nearest neighbor counts in p-values
RIDGE, FINE_RIDGE = 1e-3, 1e-7  # of variances near 1: for p-values; more than rounding
SAME = 1e-6  # difference of coordinates below which two rows are one: rounding
ROWS_PER_BLOCK = 2_048


def without_affine(scaling: Scaling) -> Scaling:
    """Returns the coordinates of elements one by one: an affine baseline needs all that a question gives."""
    return scaling if scaling.affine is None else dataclasses.replace(scaling, affine=None)


class Unusual(NamedTuple):
    """The judgment of m observations: which are unlike, and of the first its worst element and why.

    `outside` counts its elements outside their limits. If there are none, `ratio` is its distance to the nearest
    simulation in units of the usual one.
    """

    rows: Bool[np.ndarray, " m"]
    element: int
    outside: int
    ratio: float


@dataclasses.dataclass(frozen=True)
class ReferenceData:
    """Rows of simulations in the model's coordinates: `(n, k)` single-precision numbers of k tokens.

    The first `held_out` rows were not trained on; the others are of `simulations` that were. `ends` holds the `Tails`
    of the tokens `limited`, `(3, 2, q)` numbers.
    """

    rows: bytes = dataclasses.field(repr=False)
    tokens: tuple[int, ...] = dataclasses.field(repr=False)
    held_out: int = 0
    simulations: int = 0
    limited: tuple[int, ...] = dataclasses.field(default=(), repr=False)
    ends: bytes = dataclasses.field(default=b"", repr=False)

    @property
    def data(self) -> Float32[np.ndarray, "n k"]:
        return np.frombuffer(self.rows, np.float32).reshape(-1, max(1, len(self.tokens)))

    @classmethod
    def of(
        cls,
        scaling: Scaling,
        trained: Float[np.ndarray, "n d"],
        held_out: Float[np.ndarray, "h d"],
        rng: np.random.Generator,
    ) -> "ReferenceData":
        """Returns what a model keeps of simulations, rows in the user's units; NaN is not observed."""
        layout, scaling = scaling.layout, without_affine(scaling)
        trained, held_out = (scaling.of_rows(rows) if len(rows) else rows for rows in (trained, held_out))
        together = _spread_tokens(layout)
        capacity = min(MAX_ROWS, MAX_NUMBERS // max(1, len(together)))
        unseen, seen = (
            _some_complete_rows(_different(rows, together)[:, together], count, rng)
            for rows, count in ((held_out, capacity // 2), (trained, capacity))
        )
        rows = np.concatenate([unseen, seen])[:capacity]
        every = _different(np.concatenate([trained, held_out]), together)
        limited = np.unique(np.linspace(0, layout.size - 1, min(layout.size, MAX_LIMITS)).round().astype(int))
        tails = widened_tails(scaling, tails_of(layout, every, limited), limited)
        ends = np.asarray(tails, np.float32)
        tokens = tuple(together.tolist())
        return cls(_bytes(rows), tokens, len(unseen), len(trained), tuple(limited.tolist()), _bytes(ends))

    @property
    def unseen(self) -> "ReferenceData":
        """The rows that no step of training saw, if there are enough of them to compare with; else all."""
        if self.held_out < MIN_HELD_OUT:
            return self
        return ReferenceData(_bytes(self.data[: self.held_out]), self.tokens, self.held_out)

    @functools.cached_property
    def tails(self) -> Tails:
        """The limits of the tokens `limited`; of those of the rows, where a file has no limits."""
        if not self.ends:
            return tails_of_columns(np.asarray(self.data, np.float64), alone_level(len(self.tokens)))
        return Tails(*np.frombuffer(self.ends, np.float32).astype(np.float64).reshape(3, 2, -1))

    def resized(self, layout: Layout, other: Layout) -> "ReferenceData":
        """Returns the same for other numbers of points of the functions of a layout."""
        place = {int(old): new for new, old in reversed(list(enumerate(layout.spread(other))))}
        known = np.asarray(self._limited)
        nearest = np.abs(known[:, None] - layout.spread(other)).argmin(axis=0)
        ends = np.asarray(self.tails, np.float32)[:, :, nearest]
        return dataclasses.replace(
            self, tokens=tuple(place[t] for t in self.tokens), limited=tuple(range(other.size)), ends=_bytes(ends)
        )

    def judge(self, z: Float[np.ndarray, "m d"]) -> Unusual | None:
        """Returns which of m observations are unlike the simulations, NaN not observed; None if none is.

        Of many observations each has a level as many times smaller, or more of them than chance would have are
        beyond `LEVEL`: a Batch is as rarely called unlike as one observation.
        """
        beyond, allowed = self._beyond(z), np.log(len(z))
        apart = np.full(len(z), -np.inf)
        for pattern in np.unique(np.isfinite(z[:, self.tokens]), axis=0):
            if (neighbors := _neighbors(self, pattern.tobytes())) is not None:
                rows = np.flatnonzero((np.isfinite(z[:, self.tokens]) == pattern).all(axis=1))
                apart[rows] = neighbors.log_levels(z[rows], many=len(z) > 1)
        excess = np.maximum(beyond.max(axis=1, initial=-np.inf), apart)
        strange, expected = excess > 0.0, LEVEL * len(z)
        if not ((excess > allowed).any() or strange.sum() > 2 + expected + 4.0 * expected**0.5):
            return None
        first = int(np.argmax(strange))
        outside = int((beyond[first] > 0.0).sum())
        if outside:
            return Unusual(strange, self._limited[int(np.argmax(beyond[first]))], outside, 0.0)
        neighbors = _neighbors(self, np.isfinite(z[first, self.tokens]).tobytes())
        assert neighbors is not None
        element, ratio = neighbors.explained(z[first])
        return Unusual(strange, element, 0, ratio)

    @property
    def _limited(self) -> tuple[int, ...]:
        return self.limited or self.tokens

    def range_of(self, token: int) -> Float[np.ndarray, " 2"]:
        """Returns the simulated range of a token."""
        return np.asarray(self.tails.ends[:, self._limited.index(token)])

    def _beyond(self, z: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m q"]:
        """Returns by how many factors e the level would have to fall until values are inside; -inf where they are."""
        values, tails = z[:, self._limited].astype(np.float64), self.tails
        over = np.maximum(tails.limits[0] - values, values - tails.limits[1])
        scale = np.where(values < tails.limits[0], tails.scales[0], tails.scales[1])
        with np.errstate(invalid="ignore"):
            return np.where(over > 0.0, over / np.maximum(scale, TOLERANCE), -np.inf)

    def repeated(self, z: Float[np.ndarray, "n d"]) -> float:
        """Returns the share of rows that are training rows, estimated from those that were kept."""
        kept = self.data[self.held_out :]
        if not len(kept) or len(self.tokens) < 2 or not self.simulations:
            return 0.0
        sums, rows = kept.sum(axis=1), z[:, self.tokens].astype(np.float32)
        order = np.argsort(sums)
        nearest = np.searchsorted(sums[order], rows.sum(axis=1)).clip(1, len(kept) - 1)
        matches = np.zeros(len(rows), bool)
        for place in (nearest - 1, nearest):  # rounding decides on which side an equal row lies
            matches |= (np.abs(kept[order[place]] - rows) <= SAME * np.maximum(1.0, np.abs(rows))).all(axis=1)
        if matches.sum() < 2:
            return 0.0
        return float(min(1.0, matches.mean() * self.simulations / len(kept)))

    def p_value(self, z: Float[np.ndarray, " d"]) -> float | None:
        """Returns the probability of data at least as far from other data as `z`; None where nothing was observed.

        NaN in `z` is not observed. The observation is one more row. All rows are whitened by the covariance of all, and
        the distance to the fifth nearest other row is compared. Had the simulator made the observation, every row would
        be as likely to have the largest distance: the p-value is exact (Vovk et al. 2005, conformal prediction).
        """
        observation = z[list(self.tokens)]
        observed = np.isfinite(observation)
        if not observed.any():
            return None
        rows = np.concatenate([self.data[:, observed], observation[None, observed]]).astype(np.float64)
        distances = nearest_neighbor_distance(rows)
        return float((distances >= distances[-1]).mean())

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"rows": _text(self.rows), "tokens": list(self.tokens)}
        if self.ends:
            fields |= {"held_out": self.held_out, "simulations": self.simulations}
            fields |= {"limited": list(self.limited), "ends": _text(self.ends)}
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ReferenceData":
        def decoded(name: str) -> bytes:
            return base64.b64decode(fields.get(name, ""), validate=True)

        tokens, limited = (tuple(int(i) for i in fields.get(name, ())) for name in ("tokens", "limited"))
        held_out, simulations = (int(fields.get(name, 0)) for name in ("held_out", "simulations"))
        return cls(decoded("rows"), tokens, held_out, simulations, limited, decoded("ends"))


def nearest_neighbor_distance(rows: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """Returns the distance of every row, whitened, to its fifth nearest neighbor."""
    white = _whitener(rows, RIDGE)[1]
    distances = _squares(white, white)
    np.fill_diagonal(distances, -1.0)  # a row is the first of its neighbors
    k = min(NEIGHBOR, len(rows) - 1)
    return np.sqrt(np.maximum(np.partition(distances, k, axis=1)[:, k], 0.0))


# distances to rows ----------------------------------------------------------------------------------------------------


def _spread_tokens(layout: Layout) -> Int[np.ndarray, " k"]:
    """Returns the tokens that are compared together, at most `MAX_ELEMENTS`; functions have no elements of their own.

    Of more, parameters and data have half each or what they need. Data are pairs of neighbors, spread evenly: pairs
    know whether a series or an image is as rough as the simulations.
    """
    left_out = {*layout.functions, *layout.places}
    tokens = layout.tokens_of([name for name in layout.names if name not in left_out] or layout.names[:0])
    if len(tokens) <= MAX_ELEMENTS:
        return tokens
    parameters, data = (tokens[layout.is_parameter[tokens] == kind] for kind in (True, False))
    half = MAX_ELEMENTS // 2
    parameters = _evenly(parameters, max(half, MAX_ELEMENTS - len(data)))
    starts = _evenly(np.arange(max(0, len(data) - 1)), (MAX_ELEMENTS - len(parameters)) // 2)
    return np.concatenate([parameters, data[np.unique([starts, starts + 1])] if len(data) > 1 else data])


def _evenly(values: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` values, spread evenly."""
    if len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(int)]


def _different(rows: Float[np.ndarray, "n d"], tokens: Int[np.ndarray, " k"]) -> np.ndarray:
    """Returns the rows without copies of others: copies would tell nothing about what a new row may be."""
    keys = np.ascontiguousarray(rows[:, tokens], np.float32)
    if not keys.size:
        return rows
    _, first = np.unique(keys.view(np.dtype((np.void, keys.shape[1] * 4)))[:, 0], return_index=True)
    return rows if len(first) == len(rows) else rows[np.sort(first)]


def _some_complete_rows(rows: Float[np.ndarray, "n k"], count: int, rng: np.random.Generator) -> np.ndarray:
    complete = np.flatnonzero(np.isfinite(rows).all(axis=1))
    return rows[np.sort(rng.permutation(complete)[:count])]


class Neighbors(NamedTuple):
    """Reference rows for one pattern of observed elements, whitened, and their distances to each other, ascending."""

    tokens: Int[np.ndarray, " k"]
    center: Float64[np.ndarray, " k"]
    root: Float64[np.ndarray, "k k"]
    white: Float64[np.ndarray, "n k"]
    distances: Float64[np.ndarray, " n"]

    def log_levels(self, z: Float[np.ndarray, "m d"], *, many: bool) -> Float64[np.ndarray, " m"]:
        """Returns by how many factors e the level would have to fall until distances are inside; -inf where they are.

        Of one observation as many are called unlike as of the rows, if these are 1 in 1,000 at most: a single runaway
        row hides nothing. Of many none is that a row could be.
        """
        n = len(self.distances)
        r = max(MIN_TAIL, min(MAX_TAIL, n // 20))
        few = max(1, r // 5)  # the largest are left out: a row alone in its place is no tail
        base, scale = self.distances[-1 - r], self.distances[-few] - self.distances[-1 - r]
        scale = max(scale / np.log(r / few), TOLERANCE * max(1.0, base))
        largest = self.distances[-1 if many else -1 - int(n * LEVEL)]
        # in few dimensions a row may be far from all others by chance
        largest += max(0.5, 2.0 / len(self.tokens)) * (largest - self.distances[n // 2])
        limit = max(1.05 * largest, base + scale * np.log(r / (n * TOGETHER * LEVEL)))
        limit *= (1.0 + len(self.tokens) / n) ** 0.5  # rows are nearer in a scale that comes from themselves
        excess = (self._nearest(z)[0] - limit) / scale
        if len(self.tokens) == 1:  # beyond the rows its limits decide; a distance is for gaps between them
            white = self._white(z)[:, 0]
            excess[(white < self.white.min()) | (white > self.white.max())] = -np.inf
        return np.where(excess > 0.0, excess, -np.inf)

    def explained(self, z: Float[np.ndarray, " d"]) -> tuple[int, float]:
        """Returns the token that fits worst to the others, and the distance in units of the usual one."""
        distances, nearest = self._nearest(z[None])
        apart = (self.root @ (self._white(z[None])[0] - self.white[nearest[0]])) if len(self.root) else np.zeros(0)
        precision = np.linalg.inv(self.root @ self.root.T)
        residuals = np.abs(precision @ apart) / np.sqrt(np.diag(precision))
        usual = max(float(np.median(self.distances)), TOLERANCE)
        return int(self.tokens[np.argmax(residuals)]), float(distances[0] / usual)

    def _white(self, z: Float[np.ndarray, "m d"]) -> Float64[np.ndarray, "m k"]:
        return np.linalg.solve(self.root, (_folded(z[:, self.tokens]) - self.center).T).T

    def _nearest(self, z: Float[np.ndarray, "m d"]) -> tuple[np.ndarray, np.ndarray]:
        return _nearest(self._white(z), self.white)


@functools.lru_cache(maxsize=32)
def _neighbors(reference: ReferenceData, observed: bytes) -> Neighbors | None:
    """Returns the reference rows for a pattern of observed elements; None where there are too few to compare."""
    columns = np.flatnonzero(np.frombuffer(observed, bool))
    rows = _folded(reference.data[:, columns]) if len(columns) else np.zeros((0, 0))
    if len(rows) < MIN_ROWS:
        return None
    # an element that is hardly ever another has no scale; its limits know it
    varied = (rows != np.partition(rows, len(rows) // 2, axis=0)[len(rows) // 2]).sum(axis=0) >= MIN_TAIL
    columns = _evenly(columns[varied], max(1, len(rows) // ROWS_PER_ELEMENT))
    rows = np.unique(_folded(reference.data[:, columns]), axis=0)  # a row that is there twice has no distance
    if not len(columns) or len(rows) < MIN_ROWS:
        return None
    root, white = _whitener(rows, FINE_RIDGE)
    distances = np.sort(_nearest(white, white, same=True)[0])
    return Neighbors(np.asarray(reference.tokens)[columns], rows.mean(axis=0), root, white, distances)


def _folded(z: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"]:
    size = np.abs(np.asarray(z, np.float64))
    return np.sign(z) * (np.minimum(size, FAR) + np.log1p(np.maximum(size - FAR, 0.0)))


def _whitener(rows: Float64[np.ndarray, "n k"], ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the Cholesky factor of the covariance of rows, and the rows whitened by it."""
    centered = rows - rows.mean(axis=0)
    root = np.linalg.cholesky(centered.T @ centered / len(rows) + ridge * np.eye(rows.shape[1]))
    return root, np.linalg.solve(root, centered.T).T


def _squares(points: Float64[np.ndarray, "m k"], rows: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "m n"]:
    return (points**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1) - 2.0 * points @ rows.T


def _nearest(
    points: Float64[np.ndarray, "m k"], rows: Float64[np.ndarray, "n k"], *, same: bool = False
) -> tuple[Float64[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Returns the distance of every point to the nearest row, and which that is; of the `same` rows, to another."""
    distances, nearest = np.empty(len(points)), np.empty(len(points), int)
    for block in blocks(len(points), ROWS_PER_BLOCK):
        squares = _squares(points[block], rows)
        if same:
            squares[np.arange(len(block)), block] = np.inf
        nearest[block] = squares.argmin(axis=1)
        distances[block] = np.sqrt(np.maximum(squares.min(axis=1), 0.0))
    return distances, nearest


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, np.float32).tobytes()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
