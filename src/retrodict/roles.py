"""Roles: what is given, what is asked, what is left out.

In any question each token has one of three roles:

    GIVEN    observed, held at its value
    LATENT   to be inferred
    ABSENT   neither asked nor known: integrated out

A *law* of roles draws an assignment `(d,)` for one training row. A model answers the questions that its law makes
likely: `Posterior` alone trains a posterior; `RandomRoles` trains one model that answers them all (OneFlowSBI,
Nautiyal et al. 2026, arXiv 2601.22951, section 2.1 of which mixes posterior, likelihood and random partial masks).
"""

import abc
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from retrodict._errors import DataError, FileError
from retrodict._types import Roles
from retrodict.variables import Layout


ABSENT, LATENT, GIVEN = 0, 1, 2
VARIES = -1  # the role of a token that a law gives several


class AbstractRoleLaw(abc.ABC):
    """A distribution over assignments of roles; every draw has at least one latent token."""

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        """One assignment of roles, `(d,)` integers."""

    def fixed(self, layout: Layout) -> np.ndarray:
        """The roles `(d,)` of tokens that have the same one in every draw, `VARIES` of the others."""
        return np.full(layout.size, VARIES)

    def to_json(self) -> dict[str, Any]:
        """Name and settings, for the model file."""
        return {"name": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


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
    """Every unit given with probability p ~ U(0, 1), and of the others absent with probability q.

    A unit is a token or, with probability `whole`, a whole variable (all of its tokens share one draw), since that is
    how people ask. q ~ U(0, 1) with probability `absent`, and 0 otherwise. An assignment with nothing latent becomes
    the one with everything latent.
    """

    whole: float = 0.25
    absent: float = 0.3

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        key_p, key_q, key_some, key_whole, key_given, key_absent = jr.split(key, 6)
        units = jnp.where(jr.bernoulli(key_whole, self.whole), layout.owner, jnp.arange(layout.size))
        given = jr.uniform(key_given, (layout.size,))[units] < jr.uniform(key_p)
        q = jnp.where(jr.bernoulli(key_some, self.absent), jr.uniform(key_q), 0.0)
        left_out = jr.uniform(key_absent, (layout.size,))[units] < q
        roles = jnp.where(given, GIVEN, jnp.where(left_out, ABSENT, LATENT))
        return jnp.where(jnp.any(roles == LATENT), roles, LATENT)


@dataclass(frozen=True)
class Missing(AbstractRoleLaw):
    """Parameters never given, and data given in part: the posterior, forecasts and predictions where data are missing.

    A share p ~ U(0, 1) of the data is given: with probability `ahead` the first elements of every variable, so that the
    others lie ahead of them, and otherwise each element with probability p. Elements that are not given, parameters
    too, are absent with probability q, where q ~ U(0, 1) with probability `absent`, and 0 otherwise. An assignment with
    nothing latent becomes the one with all parameters latent.
    """

    absent: float = 0.5
    ahead: float = 0.25

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        key_p, key_q, key_some, key_ahead, key_given, key_absent = jr.split(key, 6)
        place = np.concatenate([(np.arange(v.size) + 0.5) / v.size for v in layout.variables])
        random = jr.uniform(key_given, (layout.size,))
        given = jnp.where(jr.bernoulli(key_ahead, self.ahead), place, random) < jr.uniform(key_p)
        given = given & ~layout.is_parameter
        q = jnp.where(jr.bernoulli(key_some, self.absent), jr.uniform(key_q), 0.0)
        left_out = jr.uniform(key_absent, (layout.size,)) < q
        roles = jnp.where(given, GIVEN, jnp.where(left_out, ABSENT, LATENT))
        return jnp.where(~jnp.any(roles == LATENT) & layout.is_parameter, LATENT, roles)


@dataclass(frozen=True)
class Query(AbstractRoleLaw):
    """One fixed question: `roles` names GIVEN (2), LATENT (1) or ABSENT (0) per token."""

    roles: tuple[int, ...]

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        if len(self.roles) != layout.size:
            raise DataError(f"the query has roles for {len(self.roles)} elements; this layout has {layout.size}")
        return jnp.asarray(self.roles)

    def fixed(self, layout: Layout) -> np.ndarray:
        return np.array(self.roles)


@dataclass(frozen=True)
class Observed(AbstractRoleLaw):
    """Another law, under which the variables `names` are given or absent, and never latent.

    They are given where the law gives their first element. Of one with `pieces` above zero parts may be missing: of the
    elements along its first `pieces` axes `_some` are left.
    """

    law: AbstractRoleLaw
    names: tuple[str, ...]
    pieces: tuple[int, ...]

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        key_law, key_some, key_share, key_which = jr.split(key, 4)
        roles, others = self.law.draw(key_law, layout), np.ones(layout.size, bool)
        for i, (name, axes) in enumerate(zip(self.names, self.pieces, strict=True)):
            block = layout.slices[name]
            others[block] = False
            shown = jnp.ones(layout[name].size, bool)
            if axes:
                n = math.prod(layout[name].shape[:axes])
                keys = (jr.fold_in(key, i) for key in (key_some, key_share, key_which))
                shown = jnp.repeat(_some(n, *keys), layout[name].size // n)
            given = (roles[block.start] == GIVEN) & shown
            roles = roles.at[block].set(jnp.where(given, GIVEN, ABSENT))
        return jnp.where(others & ~jnp.any(roles == LATENT), LATENT, roles)

    def fixed(self, layout: Layout) -> np.ndarray:
        roles = self.law.fixed(layout)
        for name, axes in zip(self.names, self.pieces, strict=True):
            block = layout.slices[name]
            first = roles[block.start]
            roles[block] = VARIES if axes or first == VARIES else GIVEN if first == GIVEN else ABSENT
        return roles

    def to_json(self) -> dict[str, Any]:
        return {
            "name": "Observed",
            "law": self.law.to_json(),
            "names": list(self.names),
            "pieces": list(self.pieces),
        }


@dataclass(frozen=True)
class Thinned(AbstractRoleLaw):
    """Another law, under which points of functions may be absent: of those of each function `_some` are left.

    A model of one question is so asked about any number of points, which is no other question: `fixed` tells the roles
    of the points that are there.
    """

    law: AbstractRoleLaw

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        roles = self.law.draw(key, layout)
        left = roles
        for i, name in enumerate(layout.functions):
            block = layout.slices[name]
            keys = jr.split(jr.fold_in(key, i), 3)
            left = left.at[block].set(jnp.where(_some(layout[name].size, *keys), left[block], ABSENT))
        return jnp.where(jnp.any(left == LATENT), left, roles)

    def fixed(self, layout: Layout) -> np.ndarray:
        return self.law.fixed(layout)

    def to_json(self) -> dict[str, Any]:
        return {"name": "Thinned", "law": self.law.to_json()}


def _some(n: int, key_some: PRNGKeyArray, key_share: PRNGKeyArray, key_which: PRNGKeyArray) -> Bool[Array, " n"]:
    """All of n in half of the cases; else each with a probability that is uniform on (0, 1), so that their number is
    uniform, too."""
    return (jr.uniform(key_which, (n,)) < jr.uniform(key_share)) | jr.bernoulli(key_some)


@dataclass(frozen=True)
class OneSite(AbstractRoleLaw):
    """Of one site of a plate: what all sites share is given, its own parameters are latent, and so are its data with
    probability `predicted`, else given."""

    predicted: float = 0.25

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        data = jnp.where(jr.bernoulli(key, self.predicted), LATENT, GIVEN)
        roles = jnp.where(layout.is_parameter, jnp.where(layout.is_own, LATENT, GIVEN), data)
        return jnp.where(jnp.any(roles == LATENT), roles, jnp.where(layout.is_own, LATENT, GIVEN))


@dataclass(frozen=True)
class Composed(AbstractRoleLaw):
    """Of one site of a plate: what all sites share is latent, its own parameters are absent, its data are given with
    probability one half, else absent. These are the scores that composition adds up."""

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        data = jnp.where(jr.bernoulli(key), GIVEN, ABSENT)
        return jnp.where(layout.is_parameter, jnp.where(layout.is_own, ABSENT, LATENT), data)


@dataclass(frozen=True)
class Known(AbstractRoleLaw):
    """Another law, for the other variables: those of `names`, the last ones, are always given."""

    law: AbstractRoleLaw
    names: tuple[str, ...]

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        inner = layout.without(self.names)
        return jnp.pad(self.law.draw(key, inner), (0, layout.size - inner.size), constant_values=GIVEN)

    def fixed(self, layout: Layout) -> np.ndarray:
        inner = layout.without(self.names)
        return np.pad(self.law.fixed(inner), (0, layout.size - inner.size), constant_values=GIVEN)

    def to_json(self) -> dict[str, Any]:
        return {"name": "Known", "law": self.law.to_json(), "names": list(self.names)}


@dataclass(frozen=True)
class Mixture(AbstractRoleLaw):
    """One of several laws, drawn afresh for every row with the probabilities `weights`."""

    laws: tuple[AbstractRoleLaw, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.laws) != len(self.weights) or min(self.weights) < 0 or not np.isclose(sum(self.weights), 1.0):
            raise DataError(
                f"a mixture of {len(self.laws)} laws needs as many weights that add up to 1, got {self.weights}"
            )

    def draw(self, key: PRNGKeyArray, layout: Layout) -> Roles:
        key_which, key_roles = jr.split(key)
        which = jr.choice(key_which, len(self.laws), p=jnp.asarray(self.weights))
        # all laws draw from the same key: only one of the draws is used
        return jnp.stack([law.draw(key_roles, layout) for law in self.laws])[which]

    def fixed(self, layout: Layout) -> np.ndarray:
        each = np.stack([law.fixed(layout) for law in self.laws])
        return np.where((each == each[0]).all(axis=0), each[0], VARIES)

    def to_json(self) -> dict[str, Any]:
        return {"name": "Mixture", "laws": [law.to_json() for law in self.laws], "weights": list(self.weights)}


def random_roles(alpha: float = 0.15, beta: float = 0.15, partial: Partial | None = None) -> Mixture:
    """The posterior with probability `alpha`, the likelihood with `beta`, partial assignments for the rest."""
    return Mixture((Posterior(), Likelihood(), partial or Partial()), (alpha, beta, 1.0 - alpha - beta))


def one_site_roles(*, composed: bool) -> Mixture:
    """What a model of one site is asked: mostly its own parameters given what is shared, and everything else."""
    laws = (OneSite(), Likelihood(), Posterior(), Partial(), Composed())
    return Mixture(laws, (0.3, 0.1, 0.1, 0.1, 0.4) if composed else (0.5, 0.1, 0.1, 0.3, 0.0))


def shared_roles(elements: int) -> AbstractRoleLaw:
    """What a model of shared parameters is asked: all of them; where there are several, in a quarter of rows a part."""
    return Unconditional() if elements == 1 else Mixture((Unconditional(), Partial()), (0.75, 0.25))


_LAWS: dict[str, type[AbstractRoleLaw]] = {
    law.__name__: law for law in (Posterior, Likelihood, Unconditional, Partial, Missing, Query, OneSite, Composed)
}


def law_from_json(found: Mapping[str, Any]) -> AbstractRoleLaw:
    """The inverse of `to_json`.

    Raises:
        FileError: the name is none of this version's laws.
    """
    settings = dict(found)
    name = settings.pop("name")
    if name == "Mixture":
        return Mixture(tuple(law_from_json(law) for law in settings["laws"]), tuple(settings["weights"]))
    if name == "Observed":
        return Observed(law_from_json(settings["law"]), tuple(settings["names"]), tuple(settings["pieces"]))
    if name == "Thinned":
        return Thinned(law_from_json(settings["law"]))
    if name == "Known":
        return Known(law_from_json(settings["law"]), tuple(settings["names"]))
    if name not in _LAWS:
        raise FileError(f"the file names the law of roles '{name}', which this version does not know")
    return _LAWS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
