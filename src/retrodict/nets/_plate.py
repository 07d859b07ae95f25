"""PlateTransformer: any number of sites in, a few numbers about what they share out.

    tokens of a site      its elements, clean, each with value, role, identity and coordinates (see `_tokenizer`)
    site        phi_s   = mean over its tokens of the transformed ones            sites do not see each other
    all sites   pooled  = [mean of phi_s, moments of z_s, log(1 + values of each element per site), log of their number]
    summary             = [center m, log width log s, features f]           one center and width per shared element

Given what they share sites are independent, so that a mean over them and their number can carry all they say together
(Zaheer et al. 2017), at a cost that is linear in their number. A site has no number of its own: a set of 10 and one of
1,000 are read by the same weights, in any order. With `dense` the sites look at each other before the mean, at a cost
that is quadratic.

The posterior of what is shared narrows with the sites, by a factor of 14 from 1 to 200. Were a network to find it in
coordinates of the prior, most of its precision would be spent on where and how wide it is. So center and width are
said outright, trained by the Gaussian log density of the shared values; what is left to a flow is of order one,

    r = (z - m) / s,    m = a . basis + s bend(pooled),    basis = functions of S times [1, moments of z_s, bumps]
                        log s = b . [functions of S, basis] + stretch(pooled)

a and b, the line, are regressions, made before training and not trained: these coefficients carry the precision.
Moments are means over sites, second moments, and log variances: what is shared is mostly where sites lie and how much
they differ. Bumps are a layer of a network with random weights: what bends is fitted as exactly as what is straight.
What the trained network gets wrong it gets wrong in units of the width. Where few sites lie near each other, their
moments tell hardly how near; log standard deviations and correlations do (`near`), which the network reads alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict._errors import DataError
from retrodict.nets._base import AbstractNet
from retrodict.nets._blocks import TIME_WIDTH, Dense, Sequential, normalize
from retrodict.nets._tokenizer import AbstractTransformer, Tokenizer
from retrodict.problem.dependencies import Dependencies
from retrodict.roles import ABSENT, GIVEN, AbstractRoleLaw
from retrodict.variables import Layout


Runs = tuple[tuple[int, int], ...]  # where elements lie, first and beyond the last

WIDEST = 4.0  # a log width further from the line is not believed
NUMBERS = 4  # functions of the number of sites
PLENTY = 200.0  # a number of sites whose log is of order one
BUMPS = 64
FARTHEST, BROADEST = 10.0, 2.0  # center and log width, in the prior's: beyond what it can hold
FAR = 4.0  # standard deviations of a moment beyond which nothing was seen
FINEST = 1e-3  # standard deviation of values, in that of all sites
PAIRED = 12  # runs up to which the second moments are those of pairs, too


@dataclass(frozen=True)
class PlateTransformer(AbstractTransformer):
    """Reads the sites of a plate, for `rd.hierarchical(layout, net=...)`; see `AbstractTransformer` for other settings.

    Args:
        depth: blocks of attention and MLP within a site.
        features: numbers that the flow of the shared parameters reads, besides their center and width.
        dense: sites look at each other, through one more block.
        near: log standard deviations and correlations of the sites are read, too: for few sites, which may lie a
            hundred times nearer to each other than sites do elsewhere.
    """

    heads: int = 2
    widening: int = 2
    depth: int = 1
    features: int = 32
    dense: bool = False
    near: bool = False

    def build(
        self, layout: Layout, *, law: AbstractRoleLaw, dependencies: Dependencies | None, key: PRNGKeyArray
    ) -> AbstractNet:
        raise DataError(
            "PlateTransformer reads many sites: use rd.hierarchical(layout, net=rd.nets.PlateTransformer())"
        )

    def reader(self, own: Layout, shared: int, *, key: PRNGKeyArray) -> "SiteReader":
        """The network for sites that have the variables `own`, and `shared` elements to say something about."""
        return SiteReader(self, own, shared, key=key)


def runs_of(own: Layout) -> Runs:
    """Where elements of own variables lie that are averaged as they are, all points of a function together."""
    runs: list[tuple[int, int]] = []
    for v in own.variables:
        block = own.slices[v.name]
        if v.axes:
            runs.append((block.start, block.stop))
        elif v.kind != "place":
            runs.extend((i, i + 1) for i in range(block.start, block.stop))
    return tuple(runs)


class SiteMoments(NamedTuple):
    """What is said of sites without a network: which there are `(s,)`, how many, moments `(m,)` over them, the number
    of the given values of every run `(r,)`, and `(f,)` how they lie together, however near."""

    there: Array
    n: Array
    moments: Array
    counts: Array
    fine: Array

    @property
    def of_number(self) -> Float[Array, " numbers"]:
        """What a log width depends on the number of sites by: in the end it falls with its log."""
        n = 1.0 * self.n
        return jnp.stack([jnp.ones_like(n), 1.0 / (1.0 + n), jax.lax.rsqrt(1.0 + n), jnp.log1p(n) / jnp.log1p(PLENTY)])

    @property
    def basis(self) -> Float[Array, " b"]:
        """What the center is a combination of: moments over sites, each times functions of the number of sites.

        A mean of n counts n / (n + c) beside a prior, so that all functions settle where there are many. Second moments
        have fewer of them: what they say is rough, and every coefficient costs precision.
        """
        root, r = jax.lax.rsqrt(1.0 + self.n), len(self.counts)
        settling = jnp.stack([jnp.ones_like(root), root, root**2, root**4])
        first = jnp.outer(settling, jnp.append(1.0, self.moments[:r])).ravel()
        return jnp.concatenate([first, jnp.outer(settling[:2], self.moments[r:]).ravel()])


def moments_of(runs: Runs) -> int:
    """How many moments there are."""
    r = len(runs)
    return 3 * r + (r * (r - 1) // 2 if r <= PAIRED else 0)


def fine_of(runs: Runs) -> int:
    """How many numbers say how values lie together."""
    r = len(runs)
    return r + (r * (r - 1) // 2 if r <= PAIRED else 0)


def plain(z: Float[Array, "s d"], roles: Int[Array, "s d"], runs: Runs) -> SiteMoments:
    """Moments over sites; absent sites count exactly nothing, and every moment of nothing is zero."""
    given = roles == GIVEN
    z = jnp.where(given, z, 0.0)
    there = jnp.any(given[:, : runs[-1][1]], axis=1)
    each = jnp.stack([jnp.sum(given[:, a:b], axis=1) for a, b in runs], axis=1)  # values of every site and run
    counts = jnp.sum(each, axis=0)
    means = jnp.stack([jnp.sum(z[:, a:b]) for a, b in runs]) / jnp.maximum(counts, 1)
    squares = jnp.stack([jnp.sum(z[:, a:b] ** 2) for a, b in runs]) / jnp.maximum(counts, 1)
    # a variance of a few values says little: it counts as one more value at a distance of one
    variances = jnp.log((counts * jnp.maximum(squares - means**2, 0.0) + 1.0) / (counts + 1.0))
    moments = [means, squares, variances]
    off = [jnp.where(given, z - mean, 0.0)[:, a:b] for mean, (a, b) in zip(means, runs, strict=True)]
    apart = jnp.stack([jnp.sum(part**2) for part in off])
    sds = jnp.sqrt(apart / jnp.maximum(counts, 1) + FINEST**2)
    fine = [jnp.log(sds)]
    if len(runs) <= PAIRED:
        of_site = jnp.stack([jnp.sum(z[:, a:b], axis=1) for a, b in runs], axis=1) / jnp.maximum(each, 1)
        pairs = (each > 0).astype(z.dtype)
        products = (of_site.T @ of_site) / jnp.maximum(pairs.T @ pairs, 1.0)
        moments.append(products[jnp.triu_indices(len(runs), 1)])
        alike = jnp.where(pairs > 0, of_site - means, 0.0) / sds
        fine.append(((alike.T @ alike) / jnp.maximum(pairs.T @ pairs, 1.0))[jnp.triu_indices(len(runs), 1)])
    return SiteMoments(there, jnp.sum(there), jnp.concatenate(moments), counts, jnp.concatenate(fine))


class RandomFeatures(eqx.Module):
    """Random functions `(f,)` of moments: tanh of combinations of them, in units of how they vary."""

    mean: Float[Array, " m"]
    std: Float[Array, " m"]
    weights: Float[Array, "m f"]
    bias: Float[Array, " f"]

    def __call__(self, moments: Float[Array, " m"], n: Array) -> Float[Array, " 2f"]:
        """Each for many sites, and as much of it as falls with their number."""
        inner = jnp.clip((moments - self.mean) / self.std, -FAR, FAR) @ self.weights + self.bias
        return jnp.outer(jnp.stack([jnp.ones(()), jax.lax.rsqrt(1.0 + n)]), jnp.tanh(inner)).ravel()

    def many(self, moments: Float[Array, "n m"], n: Float[Array, " n"]) -> Float[Array, "n 2f"]:
        """Those of many sets."""
        return jax.vmap(self)(moments, n)


class SiteRegression(eqx.Module):
    """Regressions of the k shared elements: of their centers on the basis and bumps, of their log widths on these and
    functions of the number of sites."""

    center: Float[Array, "b k"]
    width: Float[Array, "w k"]
    narrowest: Float[Array, " k"]  # log width
    bumps: RandomFeatures

    @classmethod
    def nothing(cls, own: Layout, shared: int) -> "SiteRegression":
        """Center zero and width one, for sites that have the variables `own`."""
        r, m = len(runs_of(own)), moments_of(runs_of(own))
        b = NUMBERS * (1 + r) + 2 * (m - r) + 2 * BUMPS
        keys = jr.split(jr.key(0), 2)  # always the same: what is random here is no part of a model
        weights = jr.normal(keys[0], (m, BUMPS)) * jax.lax.rsqrt(1.0 * m)
        bias = jr.uniform(keys[1], (BUMPS,), minval=-2.0, maxval=2.0)
        bumps = RandomFeatures(jnp.zeros(m), jnp.ones(m), weights, bias)
        return cls(jnp.zeros((b, shared)), jnp.zeros((NUMBERS + b, shared)), jnp.full(shared, -jnp.inf), bumps)

    def place(self, seen: SiteMoments) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Center and log width, of sites unlike those of training no farther, no wider and no narrower than can be."""
        features = jnp.concatenate([seen.basis, self.bumps(seen.moments, seen.n)])
        log_width = jnp.concatenate([seen.of_number, features]) @ self.width
        center = jnp.clip(features @ self.center, -FARTHEST, FARTHEST)
        return center, jnp.clip(log_width, self.narrowest, BROADEST)


class Summary(eqx.Module):
    """What a set of sites says: center and width `(k,)` of every shared element, and features for a flow."""

    center: Float[Array, " k"]
    width: Float[Array, " k"]
    features: Float[Array, " f"]


class SiteReader(eqx.Module):
    """A `PlateTransformer` with its weights."""

    tokenizer: Tokenizer
    blocks: tuple[Sequential, ...]
    across: Sequential | None
    leave: Dense
    plain: Dense
    hidden: Dense
    say: Dense
    shared: int = eqx.field(static=True)
    near: bool = eqx.field(static=True)

    def __init__(self, settings: PlateTransformer, own: Layout, shared: int, *, key: PRNGKeyArray) -> None:
        keys = iter(jr.split(key, 6 + settings.depth))
        width, sizes = settings.across, (settings.across, settings.heads, settings.head_size, settings.widening)
        self.tokenizer = Tokenizer(settings, own, None, key=next(keys))
        self.blocks = tuple(Sequential(*sizes, key=next(keys), half=settings.half) for _ in range(settings.depth))
        self.across = Sequential(*sizes, key=next(keys), half=settings.half) if settings.dense else None
        self.leave = Dense(width, width, key=next(keys))
        runs = runs_of(own)
        self.near = settings.near
        pooled = width + moments_of(runs) + settings.near * fine_of(runs) + len(runs) + 2
        self.plain = Dense(pooled, shared, key=next(keys), scale=0.0)
        self.hidden = Dense(pooled, 4 * width, key=next(keys))
        self.say = Dense(4 * width, 2 * shared + settings.features, key=next(keys))
        self.shared = shared

    def __call__(self, z: Float[Array, "s d"], roles: Int[Array, "s d"], runs: Runs, line: SiteRegression) -> Summary:
        """The summary of scaled elements `(s, d)` of sites, with their roles; absent sites count exactly nothing.

        `runs` are where the elements lie that are averaged as they are, those of a function together.
        """
        z = jnp.where(roles == GIVEN, z, 0.0)
        there, n, moments, counts, fine = seen = plain(z, roles, runs)
        phi = jax.vmap(self._site)(z, roles)
        if self.across is not None:
            mask = there[None, :] | jnp.eye(len(z), dtype=bool)
            phi = self.across(phi, jnp.zeros(TIME_WIDTH), mask, None)
        phi = jnp.sum(jnp.where(there[:, None], self.leave(phi), 0.0), axis=0) / jnp.maximum(n, 1)
        many = jnp.log1p(n) / jnp.log1p(PLENTY)
        each = jnp.log1p(counts / jnp.maximum(n, 1))
        pooled = jnp.concatenate([phi, moments, fine[: len(fine) * self.near], each, jnp.stack([many, many**2])])
        found = self.say(jax.nn.silu(self.hidden(pooled)))
        bend, wide = jnp.split(found[: 2 * self.shared], 2)
        stretch = WIDEST * jnp.tanh((wide + self.plain(pooled)) / WIDEST)
        center, log_width = line.place(seen)
        width = jnp.exp(log_width + stretch)
        center = center + jax.lax.stop_gradient(width) * bend
        return Summary(center, width, normalize(found[2 * self.shared :]))

    def _site(self, z: Float[Array, " d"], roles: Int[Array, " d"]) -> Float[Array, " w"]:
        prepared = self.tokenizer.prepare(z, roles)
        values = self.tokenizer.kept.array
        h = self.tokenizer.read(z[values], roles[values], prepared)
        for block in self.blocks:
            h = block(h, jnp.zeros(TIME_WIDTH), prepared.mask, self.tokenizer.identity.angles)
        # nobody sees an absent token, and neither does the mean
        seen = jnp.any(prepared.mask & ~jnp.eye(len(h), dtype=bool), axis=0) if len(h) > 1 else roles[:1] != ABSENT
        return jnp.sum(jnp.where(seen[:, None], normalize(h), 0.0), axis=0) / jnp.maximum(jnp.sum(seen), 1)
