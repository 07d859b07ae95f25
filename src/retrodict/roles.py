"""Roles: the elements that a question gives, asks for, or leaves out.

In a question each token has one of three roles:

    GIVEN    observed, held at its value
    LATENT   to be inferred
    ABSENT   neither asked nor known: integrated out

A *law* of roles draws an assignment `(d,)` for a training row. A model answers the questions that its law makes
likely: `Posterior` alone trains a posterior; `random_roles` trains a model of all questions (OneFlowSBI, Nautiyal et
al. 2026, arXiv 2601.22951, section 2.1, mixes posterior, likelihood and random partial masks).
"""

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from retrodict._errors import DataError, FileError
from retrodict._types import Roles
from retrodict.variables import Layout, as_lists, as_tuples


ABSENT, LATENT, GIVEN = 0, 1, 2
VARIES = -1  # stands for the role of a token whose role differs from draw to draw


class AbstractRoleLaw(abc.ABC):
    """A distribution over assignments of roles. Every draw has at least one latent token."""

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        """Draws an assignment of roles, `(d,)` integers."""

    def fixed(self, layout: Layout) -> np.ndarray:
        """The role of every token that has the same role in all draws, else `VARIES`; `(d,)`."""
        return np.full(layout.size, VARIES)

    def to_json(self) -> dict[str, Any]:
        """Name and settings, for the model file."""
        settings = {f.name: _to_json(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]
        return {"name": type(self).__name__, **settings}


@dataclass(frozen=True)
class Posterior(AbstractRoleLaw):
    """Data given, parameters latent."""

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        return jnp.asarray(self.fixed(layout))

    def fixed(self, layout: Layout) -> np.ndarray:
        return np.where(layout.is_parameter, LATENT, GIVEN)


@dataclass(frozen=True)
class Likelihood(AbstractRoleLaw):
    """Parameters given, data latent."""

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        return jnp.asarray(self.fixed(layout))

    def fixed(self, layout: Layout) -> np.ndarray:
        return np.where(layout.is_parameter, GIVEN, LATENT)


@dataclass(frozen=True)
class Unconditional(AbstractRoleLaw):
    """Everything latent."""

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        return jnp.asarray(self.fixed(layout))

    def fixed(self, layout: Layout) -> np.ndarray:
        return np.full(layout.size, LATENT)


@dataclass(frozen=True)
class Partial(AbstractRoleLaw):
    """Each unit is given with probability p ~ U(0, 1); a unit that is not given is absent with probability q.

    A unit is a token or, with probability `whole`, a whole variable (all of its tokens share a draw), because people
    ask for whole variables. q ~ U(0, 1) with probability `absent`, and 0 otherwise. An assignment without a latent
    token is replaced by the one in which all are latent.
    """

    whole: float = 0.25
    absent: float = 0.3

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        key_p, key_q, key_some, key_whole, key_given, key_absent = jr.split(key, 6)
        units = jnp.where(jr.bernoulli(key_whole, self.whole), layout.owner, jnp.arange(layout.size))
        is_given = jr.uniform(key_given, (layout.size,))[units] < jr.uniform(key_p)
        q = jnp.where(jr.bernoulli(key_some, self.absent), jr.uniform(key_q), 0.0)
        is_absent = jr.uniform(key_absent, (layout.size,))[units] < q
        roles = jnp.where(is_given, GIVEN, jnp.where(is_absent, ABSENT, LATENT))
        return jnp.where(jnp.any(roles == LATENT), roles, LATENT)


@dataclass(frozen=True)
class Missing(AbstractRoleLaw):
    """Parameters are never given and data are given in part: posteriors, forecasts, predictions of missing data.

    A share p ~ U(0, 1) of the data is given: with probability `ahead` the first elements of every variable, so that the
    remaining elements lie ahead, and otherwise each element with probability p. An element that is not given, also of a
    parameter, is absent with probability q, where q ~ U(0, 1) with probability `absent`, and 0 otherwise. In an
    assignment without a latent token all parameters become latent.
    """

    absent: float = 0.5
    ahead: float = 0.25

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        key_p, key_q, key_some, key_ahead, key_given, key_absent = jr.split(key, 6)
        position = np.concatenate([(np.arange(v.size) + 0.5) / v.size for v in layout.variables])
        random = jr.uniform(key_given, (layout.size,))
        is_given = jnp.where(jr.bernoulli(key_ahead, self.ahead), position, random) < jr.uniform(key_p)
        is_given = is_given & ~layout.is_parameter
        q = jnp.where(jr.bernoulli(key_some, self.absent), jr.uniform(key_q), 0.0)
        is_absent = jr.uniform(key_absent, (layout.size,)) < q
        roles = jnp.where(is_given, GIVEN, jnp.where(is_absent, ABSENT, LATENT))
        return jnp.where(~jnp.any(roles == LATENT) & layout.is_parameter, LATENT, roles)


@dataclass(frozen=True)
class Query(AbstractRoleLaw):
    """A fixed question: `roles` is GIVEN (2), LATENT (1) or ABSENT (0) for each token."""

    roles: tuple[int, ...]

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        if len(self.roles) != layout.size:
            raise DataError(f"the query has roles for {len(self.roles)} elements; this layout has {layout.size}")
        return jnp.asarray(self.roles)

    def fixed(self, layout: Layout) -> np.ndarray:
        return np.array(self.roles)


@dataclass(frozen=True)
class Observed(AbstractRoleLaw):
    """A law under which the variables `names` are given or absent, never latent; all else follows `law`.

    A variable is given if `law` gives its first element. If its entry of `pieces` is above zero, a random part of it is
    absent: `_random_part` draws the elements along its first `pieces` axes that stay.
    """

    law: AbstractRoleLaw
    names: tuple[str, ...]
    pieces: tuple[int, ...]

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        key_law, key_all, key_share, key_elements = jr.split(key, 4)
        roles, may_be_latent = self.law.draw(key_law, layout), np.ones(layout.size, bool)
        for i, (name, axes) in enumerate(zip(self.names, self.pieces, strict=True)):
            block = layout.slices[name]
            may_be_latent[block] = False
            present = jnp.ones(layout[name].size, bool)
            if axes:
                n = math.prod(layout[name].shape[:axes])
                keys = (jr.fold_in(key, i) for key in (key_all, key_share, key_elements))
                present = jnp.repeat(_random_part(n, *keys), layout[name].size // n)
            is_given = (roles[block.start] == GIVEN) & present
            roles = roles.at[block].set(jnp.where(is_given, GIVEN, ABSENT))
        return jnp.where(may_be_latent & ~jnp.any(roles == LATENT), LATENT, roles)

    def fixed(self, layout: Layout) -> np.ndarray:
        roles = self.law.fixed(layout)
        for name, axes in zip(self.names, self.pieces, strict=True):
            block = layout.slices[name]
            first = roles[block.start]
            roles[block] = VARIES if axes or first == VARIES else GIVEN if first == GIVEN else ABSENT
        return roles


@dataclass(frozen=True)
class Thinned(AbstractRoleLaw):
    """A law under which points of functions may be absent: `_random_part` of each function stays, else `law` holds.

    A model of a fixed question thereby learns it for any number of points, which counts as the same question: `fixed`
    tells the roles of points that are present.
    """

    law: AbstractRoleLaw

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        roles = self.law.draw(key, layout)
        thinned = roles
        for i, name in enumerate(layout.functions):
            block = layout.slices[name]
            keys = jr.split(jr.fold_in(key, i), 3)
            present = _random_part(layout[name].size, *keys)
            thinned = thinned.at[block].set(jnp.where(present, thinned[block], ABSENT))
        return jnp.where(jnp.any(thinned == LATENT), thinned, roles)

    def fixed(self, layout: Layout) -> np.ndarray:
        return self.law.fixed(layout)


def _random_part(
    n: int, key_all: PRNGKeyArray, key_share: PRNGKeyArray, key_elements: PRNGKeyArray
) -> Bool[Array, " n"]:
    """Draws a part of n elements: all of them in half of the cases, else each with the same probability ~ U(0, 1).

    The number of elements is then uniform, too.
    """
    return (jr.uniform(key_elements, (n,)) < jr.uniform(key_share)) | jr.bernoulli(key_all)


@dataclass(frozen=True)
class OneSite(AbstractRoleLaw):
    """For a site of a plate: shared parameters given, its own parameters latent, its data latent or given.

    The data are latent with probability `predicted`.
    """

    predicted: float = 0.25

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        data = jnp.where(jr.bernoulli(key, self.predicted), LATENT, GIVEN)
        roles = jnp.where(layout.is_parameter, jnp.where(layout.is_own, LATENT, GIVEN), data)
        return jnp.where(jnp.any(roles == LATENT), roles, jnp.where(layout.is_own, LATENT, GIVEN))


@dataclass(frozen=True)
class Composed(AbstractRoleLaw):
    """For a site of a plate: shared parameters latent, its own parameters absent, its data given or absent.

    The data are given with probability one half. Composition adds up scores of these two questions.
    """

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        data = jnp.where(jr.bernoulli(key), GIVEN, ABSENT)
        return jnp.where(layout.is_parameter, jnp.where(layout.is_own, ABSENT, LATENT), data)


@dataclass(frozen=True)
class Known(AbstractRoleLaw):
    """A law under which the variables `names`, the last of the layout, are always given; all else follows `law`."""

    law: AbstractRoleLaw
    names: tuple[str, ...]

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        inner = layout.without(self.names)
        return jnp.pad(self.law.draw(key, inner), (0, layout.size - inner.size), constant_values=GIVEN)

    def fixed(self, layout: Layout) -> np.ndarray:
        inner = layout.without(self.names)
        return np.pad(self.law.fixed(inner), (0, layout.size - inner.size), constant_values=GIVEN)


@dataclass(frozen=True)
class Mixture(AbstractRoleLaw):
    """A mixture: every row follows a law drawn from `laws` with the probabilities `weights`."""

    laws: tuple[AbstractRoleLaw, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.laws) != len(self.weights) or min(self.weights) < 0 or not np.isclose(sum(self.weights), 1.0):
            raise DataError(
                f"a mixture of {len(self.laws)} laws needs as many weights that add up to 1, got {self.weights}"
            )

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        key_law, key_roles = jr.split(key)
        index = jr.choice(key_law, len(self.laws), p=jnp.asarray(self.weights))
        # all laws draw from the same key: only one of the draws is used
        return jnp.stack([law.draw(key_roles, layout) for law in self.laws])[index]

    def fixed(self, layout: Layout) -> np.ndarray:
        roles = np.stack([law.fixed(layout) for law in self.laws])
        return np.where((roles == roles[0]).all(axis=0), roles[0], VARIES)


def random_roles(alpha: float = 0.15, beta: float = 0.15, partial: Partial | None = None) -> Mixture:
    """The law of a model of all questions: posterior with probability `alpha`, likelihood with `beta`, else partial."""
    return Mixture((Posterior(), Likelihood(), partial or Partial()), (alpha, beta, 1.0 - alpha - beta))


def one_site_roles(*, composed: bool) -> Mixture:
    """The law of a model of a single site: mostly its own parameters given the shared ones, sometimes anything else."""
    laws = (OneSite(), Likelihood(), Posterior(), Partial(), Composed())
    return Mixture(laws, (0.3, 0.1, 0.1, 0.1, 0.4) if composed else (0.5, 0.1, 0.1, 0.3, 0.0))


def shared_roles(elements: int) -> AbstractRoleLaw:
    """The law of a model of shared parameters: all of them or, of several, a part in a quarter of the rows."""
    return Unconditional() if elements == 1 else Mixture((Unconditional(), Partial()), (0.75, 0.25))


_LAWS: dict[str, type[AbstractRoleLaw]] = {
    law.__name__: law
    for law in (
        *(Posterior, Likelihood, Unconditional, Partial, Missing, Query),
        *(Observed, Thinned, OneSite, Composed, Known, Mixture),
    )
}


def law_from_json(entry: Mapping[str, Any]) -> AbstractRoleLaw:
    """Reads a law that `to_json` wrote.

    Raises:
        FileError: the name is none of this version's laws.
    """
    settings = dict(entry)
    name = settings.pop("name")
    if name not in _LAWS:
        raise FileError(f"the file names the law of roles '{name}', which this version does not know")
    return _LAWS[name](**{key: _from_json(value) for key, value in settings.items()})


def _to_json(value: Any) -> Any:
    """A setting of a law as JSON: laws by their names and settings, tuples as lists."""
    return as_lists(value, lambda item: item.to_json() if isinstance(item, AbstractRoleLaw) else item)


def _from_json(value: Any) -> Any:
    return as_tuples(value, lambda item: law_from_json(item) if isinstance(item, Mapping) else item)
