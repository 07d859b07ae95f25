"""The query: what is given, what is asked, and what else must hold, in tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int32

from retrodict.query._draws import ResampledDraws, ResampledTokens
from retrodict.query._sites import SiteQuery
from retrodict.query.family import Shares, shares_of, words
from retrodict.query.interval import Interval
from retrodict.query.tokens import unflatten
from retrodict.roles import GIVEN, LATENT
from retrodict.transforms import supports
from retrodict.variables import Layout


@dataclass(frozen=True, eq=False)
class Query:
    """A question in tokens, about m observations.

    Attributes:
        layout: the variables, functions with as many points as the question has.
        answers: those of them that can be asked, in the order in which a model returns their tokens `(m, n, k)`.
        roles: GIVEN, LATENT or ABSENT, `(m, d)` integers.
        values: in the user's units, zero where nothing is given, `(m, d)`; in double precision where an observation is.
        of: the variables whose values come back.
        batched: whether the answer has an axis of observations.
        places: by function, the points at which it is asked.
        intervals: variables that lie between two ends.
        constraints: what else must hold.
        strength: the exponent of classifier-free guidance.
        correct: whether guided draws are weighted by their density.
        sites: the sites of every observation, of a model of many sites.
    """

    layout: Layout
    answers: Layout
    roles: Int32[np.ndarray, "m d"]
    values: Float[np.ndarray, "m d"]
    of: tuple[str, ...]
    batched: bool = False
    places: Mapping[str, slice] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    constraints: tuple[Any, ...] = ()
    strength: float = 1.0
    correct: bool = True
    sites: tuple[SiteQuery, ...] = ()

    @property
    def shares(self) -> Shares:
        """The shares given and latent of every variable."""
        return self.sites[0].shares if self.sites else shares_of(self.layout, self.roles)

    @property
    def family(self) -> str:
        """The family of this query in words, such as `theta given x`."""
        return words(self.shares)

    @property
    def guided(self) -> bool:
        """Whether anything must hold besides what is given."""
        return bool(self.constraints or self.intervals) or self.strength != 1.0

    def inside(self, rows: np.ndarray) -> np.ndarray:
        """Returns whether the latent tokens of rows lie in their supports, `(n,)`."""
        if self.sites:
            return np.ones(len(rows), bool)
        return np.all(supports.contains(rows, *self.layout.ends) | (self.roles != LATENT), axis=1)

    def named(self, tokens: Any) -> dict[str, Any]:
        """Returns draws by name, `(n, *shape)` or `(m, n, *shape)`, from tokens `(m, n, k)` of `answers`.

        Given elements come back as given, in the precision of the tokens, and elements that were not asked as NaN.
        Draws of `ResampledTokens` come with their effective sample size.
        """
        if isinstance(tokens, ResampledTokens):
            sizes = tokens.effective_sizes
            return ResampledDraws(self.named(tokens.tokens), sizes if self.batched else float(sizes[0]))
        if not self.sites:
            columns = self.layout.tokens_of(self.answers.names)
            roles, values = self.roles[:, None, columns], self.values[:, None, columns].astype(tokens.dtype)
            tokens = np.where(roles == LATENT, tokens, np.where(roles == GIVEN, values, np.nan))
        draws = unflatten(self.answers, tokens if self.batched else tokens[0], self.of)
        return {name: value[..., self.places[name]] if name in self.places else value for name, value in draws.items()}
