"""PlateTransformer: summarizes any number n of sites for the inference of the parameters that they share.

    tokens of a site    its elements, without noise, each with value, role, identity and coordinates (see `_tokenizer`)
    site        phi_s  = mean of its transformed tokens                   no attention between sites
    all sites   pooled = [mean of phi_s, moments of z_s, log(1 + values of each element per site), log n]
    summary            = [center m, log width log s, features f]          one center and width per shared element

Sites are independent given the shared parameters. A mean over sites and their number can therefore carry all
information (Zaheer et al. 2017), at a cost linear in n. Sites have no order: the same weights read 10 sites or 1,000.
With `dense` the sites attend to each other before the mean, at a cost quadratic in n.

The posterior of shared parameters becomes narrow with many sites. A flow in the coordinates of the prior would need
most of its precision for center and width. Both are therefore predicted directly, trained by the Gaussian log density
of the shared values z, and the flow models a residual r of order one:

    r = (z - m) / s,    m = a . basis + s bend(pooled),    log s = b . [functions of n, basis] + stretch(pooled)
                        basis = functions of n times [1, moments of z_s, random features]

The coefficients a and b are regressions, fitted before training and then fixed, because they carry the precision.
Moments are means over sites, second moments and log variances: shared parameters mostly set the location and the
spread of sites. Random features are a layer with random weights; with them the regression also fits curved relations.
Errors of the trained `bend` and `stretch` are in units of the width. If few sites lie close together, moments resolve
their spread badly; the network alone then also reads log standard deviations and correlations (`near`).
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


Runs = tuple[tuple[int, int], ...]  # consecutive elements: the first, and the one after the last

MAX_STRETCH = 4.0  # of a log width, added by the network to the regression
N_NUMBER_FEATURES = 4  # functions of the number of sites
REFERENCE_SITES = 200.0  # scales the log of the number of sites to order one
N_RANDOM_FEATURES = 64
MAX_CENTER, MAX_LOG_WIDTH = 10.0, 2.0  # in units of the prior; larger ones are errors of extrapolation
MAX_STANDARDIZED_MOMENT = 4.0  # training has no sets beyond
MIN_SD = 1e-3  # of values, in standard deviations over all sites
MAX_PAIRED_RUNS = 12  # with more runs, products and correlations of two runs are left out


@dataclass(frozen=True)
class PlateTransformer(AbstractTransformer):
    """A network that summarizes the sites of a plate, for `rd.hierarchical(layout, net=...)`.

    `AbstractTransformer` describes the other settings.

    Args:
        depth: blocks of attention and MLP within a site.
        features: numbers for the flow of the shared parameters, in addition to their center and width.
        dense: whether sites attend to each other, through one more block.
        near: whether the network also reads log standard deviations and correlations of the sites; for few sites,
            which may lie much closer together than sites usually do.
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

    def reader(self, site_layout: Layout, shared: int, *, key: PRNGKeyArray) -> "SiteReader":
        """Builds the network for the layout of one site and a number of `shared` elements."""
        return SiteReader(self, site_layout, shared, key=key)


def runs_of(site_layout: Layout) -> Runs:
    """Returns the runs of elements with common moments: single elements, and all values of a function together."""
    runs: list[tuple[int, int]] = []
    for v in site_layout.variables:
        block = site_layout.slices[v.name]
        if v.axes:
            runs.append((block.start, block.stop))
        elif v.kind != "place":
            runs.extend((i, i + 1) for i in range(block.start, block.stop))
    return tuple(runs)


class SiteMoments(NamedTuple):
    """Statistics of a set of sites, computed without a network."""

    present: Array  # (s,), whether a site has a given value
    n: Array  # number of present sites
    moments: Array  # (m,): means, mean squares and log variances of runs; mean products of two runs
    counts: Array  # (r,), given values of each run
    correlations: Array  # (f,): log standard deviations of runs and correlations of two runs

    @property
    def number_features(self) -> Float[Array, " numbers"]:
        """Features of the number of sites n for the log width: 1, 1/(1+n), 1/sqrt(1+n), log(1+n).

        For large n the log width is linear in log n.
        """
        n = 1.0 * self.n
        log_n = jnp.log1p(n) / jnp.log1p(REFERENCE_SITES)
        return jnp.stack([jnp.ones_like(n), 1.0 / (1.0 + n), jax.lax.rsqrt(1.0 + n), log_n])

    @property
    def basis(self) -> Float[Array, " b"]:
        """Basis functions of the center: moments over sites, each times functions of the number of sites n.

        Beside a prior, the mean of n sites has a weight n / (n + c), so that all functions of n converge for large n.
        Second moments are multiplied by two of them only, because they are noisy and every coefficient costs precision.
        """
        root, r = jax.lax.rsqrt(1.0 + self.n), len(self.counts)
        powers = jnp.stack([jnp.ones_like(root), root, root**2, root**4])
        first = jnp.outer(powers, jnp.append(1.0, self.moments[:r])).ravel()
        return jnp.concatenate([first, jnp.outer(powers[:2], self.moments[r:]).ravel()])


def n_moments(runs: Runs) -> int:
    """Returns the number of moments in `SiteMoments`."""
    r = len(runs)
    return 3 * r + (r * (r - 1) // 2 if r <= MAX_PAIRED_RUNS else 0)


def n_correlations(runs: Runs) -> int:
    """Returns the number of log standard deviations and correlations in `SiteMoments`."""
    r = len(runs)
    return r + (r * (r - 1) // 2 if r <= MAX_PAIRED_RUNS else 0)


def site_moments(z: Float[Array, "s d"], roles: Int[Array, "s d"], runs: Runs) -> SiteMoments:
    """Computes moments over sites; absent sites have a weight of exactly zero, and moments of no sites are zero."""
    observed = roles == GIVEN
    z = jnp.where(observed, z, 0.0)
    present = jnp.any(observed[:, : runs[-1][1]], axis=1)
    site_counts = jnp.stack([jnp.sum(observed[:, a:b], axis=1) for a, b in runs], axis=1)
    counts = jnp.sum(site_counts, axis=0)
    means = jnp.stack([jnp.sum(z[:, a:b]) for a, b in runs]) / jnp.maximum(counts, 1)
    squares = jnp.stack([jnp.sum(z[:, a:b] ** 2) for a, b in runs]) / jnp.maximum(counts, 1)
    # the variance of few values is noisy: one more value at a distance of one regularizes it
    log_variances = jnp.log((counts * jnp.maximum(squares - means**2, 0.0) + 1.0) / (counts + 1.0))
    moments = [means, squares, log_variances]
    residuals = [jnp.where(observed, z - mean, 0.0)[:, a:b] for mean, (a, b) in zip(means, runs, strict=True)]
    residual_squares = jnp.stack([jnp.sum(residual**2) for residual in residuals])
    sds = jnp.sqrt(residual_squares / jnp.maximum(counts, 1) + MIN_SD**2)
    correlations = [jnp.log(sds)]
    if len(runs) <= MAX_PAIRED_RUNS:
        site_means = jnp.stack([jnp.sum(z[:, a:b], axis=1) for a, b in runs], axis=1) / jnp.maximum(site_counts, 1)
        has_run = (site_counts > 0).astype(z.dtype)
        n_pairs, upper = jnp.maximum(has_run.T @ has_run, 1.0), jnp.triu_indices(len(runs), 1)
        moments.append(((site_means.T @ site_means) / n_pairs)[upper])
        standardized = jnp.where(has_run > 0, site_means - means, 0.0) / sds
        correlations.append(((standardized.T @ standardized) / n_pairs)[upper])
    return SiteMoments(present, jnp.sum(present), jnp.concatenate(moments), counts, jnp.concatenate(correlations))


class RandomFeatures(eqx.Module):
    """Random functions `(f,)` of standardized moments: tanh of random linear combinations."""

    mean: Float[Array, " m"]
    std: Float[Array, " m"]
    weights: Float[Array, "m f"]
    bias: Float[Array, " f"]

    def __call__(self, moments: Float[Array, " m"], n: Array) -> Float[Array, " 2f"]:
        """Returns each function times 1 and times 1/sqrt(1+n), for n sites."""
        limit = MAX_STANDARDIZED_MOMENT
        inner = jnp.clip((moments - self.mean) / self.std, -limit, limit) @ self.weights + self.bias
        return jnp.outer(jnp.stack([jnp.ones(()), jax.lax.rsqrt(1.0 + n)]), jnp.tanh(inner)).ravel()

    def batch(self, moments: Float[Array, "n m"], n: Float[Array, " n"]) -> Float[Array, "n 2f"]:
        """Returns the features of several sets of sites."""
        return jax.vmap(self)(moments, n)


class SiteRegression(eqx.Module):
    """Linear regressions of center and log width of k shared elements on statistics of a set of sites.

    The features of the center are the basis and the random features; those of the log width are the same and the
    features of the number of sites.
    """

    center: Float[Array, "b k"]
    width: Float[Array, "w k"]
    narrowest: Float[Array, " k"]  # lower bound of the log width
    bumps: RandomFeatures

    @classmethod
    def blank(cls, site_layout: Layout, shared: int) -> "SiteRegression":
        """Returns the regression with center zero and width one, for the layout of one site and `shared` elements."""
        runs = runs_of(site_layout)
        r, m = len(runs), n_moments(runs)
        b = N_NUMBER_FEATURES * (1 + r) + 2 * (m - r) + 2 * N_RANDOM_FEATURES
        keys = jr.split(jr.key(0), 2)  # the same random features in every model
        weights = jr.normal(keys[0], (m, N_RANDOM_FEATURES)) * jax.lax.rsqrt(1.0 * m)
        bias = jr.uniform(keys[1], (N_RANDOM_FEATURES,), minval=-2.0, maxval=2.0)
        bumps = RandomFeatures(jnp.zeros(m), jnp.ones(m), weights, bias)
        center, width = jnp.zeros((b, shared)), jnp.zeros((N_NUMBER_FEATURES + b, shared))
        return cls(center, width, jnp.full(shared, -jnp.inf), bumps)

    def center_and_log_width(self, statistics: SiteMoments) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Predicts center and log width, within bounds that also hold for sets unlike those of training."""
        features = jnp.concatenate([statistics.basis, self.bumps(statistics.moments, statistics.n)])
        log_width = jnp.concatenate([statistics.number_features, features]) @ self.width
        center = jnp.clip(features @ self.center, -MAX_CENTER, MAX_CENTER)
        return center, jnp.clip(log_width, self.narrowest, MAX_LOG_WIDTH)


class Summary(eqx.Module):
    """A summary of a set of sites: center and width `(k,)` of the shared elements, and features for a flow."""

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

    def __init__(self, settings: PlateTransformer, site_layout: Layout, shared: int, *, key: PRNGKeyArray) -> None:
        keys = iter(jr.split(key, 6 + settings.depth))
        width, sizes = settings.across, (settings.across, settings.heads, settings.head_size, settings.widening)
        self.tokenizer = Tokenizer(settings, site_layout, None, key=next(keys))
        self.blocks = tuple(Sequential(*sizes, key=next(keys), half=settings.half) for _ in range(settings.depth))
        self.across = Sequential(*sizes, key=next(keys), half=settings.half) if settings.dense else None
        self.leave = Dense(width, width, key=next(keys))
        runs = runs_of(site_layout)
        self.near = settings.near
        pooled = width + n_moments(runs) + settings.near * n_correlations(runs) + len(runs) + 2
        self.plain = Dense(pooled, shared, key=next(keys), scale=0.0)
        self.hidden = Dense(pooled, 4 * width, key=next(keys))
        self.say = Dense(4 * width, 2 * shared + settings.features, key=next(keys))
        self.shared = shared

    def __call__(
        self, z: Float[Array, "s d"], roles: Int[Array, "s d"], runs: Runs, regression: SiteRegression
    ) -> Summary:
        """Summarizes scaled elements `(s, d)` of sites with their roles; absent sites have a weight of exactly zero.

        `runs` are those of `runs_of`, for the layout of these sites.
        """
        z = jnp.where(roles == GIVEN, z, 0.0)
        present, n, moments, counts, correlations = statistics = site_moments(z, roles, runs)
        phi = jax.vmap(self._site)(z, roles)
        if self.across is not None:
            mask = present[None, :] | jnp.eye(len(z), dtype=bool)
            phi = self.across(phi, jnp.zeros(TIME_WIDTH), mask, None)
        phi = jnp.sum(jnp.where(present[:, None], self.leave(phi), 0.0), axis=0) / jnp.maximum(n, 1)
        log_n = jnp.log1p(n) / jnp.log1p(REFERENCE_SITES)
        log_counts = jnp.log1p(counts / jnp.maximum(n, 1))
        correlations = correlations[: len(correlations) * self.near]
        pooled = jnp.concatenate([phi, moments, correlations, log_counts, jnp.stack([log_n, log_n**2])])
        output = self.say(jax.nn.silu(self.hidden(pooled)))
        bend, log_stretch = jnp.split(output[: 2 * self.shared], 2)
        stretch = MAX_STRETCH * jnp.tanh((log_stretch + self.plain(pooled)) / MAX_STRETCH)
        center, log_width = regression.center_and_log_width(statistics)
        width = jnp.exp(log_width + stretch)
        center = center + jax.lax.stop_gradient(width) * bend
        return Summary(center, width, normalize(output[2 * self.shared :]))

    def _site(self, z: Float[Array, " d"], roles: Int[Array, " d"]) -> Float[Array, " w"]:
        prepared = self.tokenizer.prepare(z, roles)
        values = self.tokenizer.modeled_elements.array
        h = self.tokenizer.read(z[values], roles[values], prepared)
        for block in self.blocks:
            h = block(h, jnp.zeros(TIME_WIDTH), prepared.mask, self.tokenizer.identity.angles)
        # the mean, like attention, leaves out absent tokens
        present = jnp.any(prepared.mask & ~jnp.eye(len(h), dtype=bool), axis=0) if len(h) > 1 else roles[:1] != ABSENT
        return jnp.sum(jnp.where(present[:, None], normalize(h), 0.0), axis=0) / jnp.maximum(jnp.sum(present), 1)
