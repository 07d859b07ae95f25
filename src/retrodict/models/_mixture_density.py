"""Mixture density networks: densities of a few numbers given others, exact and cheap to draw from.

    p(y | x) = prod over i of p(y_i | x, e_1..i-1),        p(y_i | ...) = sum over c of w_c N(y_i; m_c, s_c)
    m_c = trend_i . [1, x] + cross_i . e + s_c (bend_c + slope . e),     e_i = (y_i - mean_i) / sd_i

Each conditional is a mixture of Gaussians whose parameters a network computes (mixture density networks, Bishop 1994),
one number after the other (RNADE, Uria et al. 2013). The baseline is a linear regression and the covariance of its
residual, a Gaussian that is exact if everything is linear. The network adds corrections in units of the width s_c, so
that its errors are small where y is narrow. Earlier numbers enter as e, each standardized by its own conditional.

Numbers that are independent given x are `free`: one evaluation of the network gives all their densities, without e. A y
that is known to lie between `low` and `high`, as an integer in its cell, has a probability in place of a density. Noise
that is `additive` has one density for all x, of which the network reads e alone. It is added to the regression or, with
a `curve`, to the regression and a second network of x.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import erfc
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict._runtime.blocks import in_blocks
from retrodict.models._integer_elements import ROOT_OFFSET
from retrodict.transforms.affine import least_squares, predict, residual_root


LOG_SD_RANGE = (-9.0, 3.0)  # in units of the baseline's width
MAX_STANDARDIZED = 5.0  # an `e` further out adds no information
MAX_END = 1e4  # stands for an infinite end of an interval, which has no gradient
TAIL = -6.0  # standard deviations, beyond which probabilities are computed by the asymptotic formula
NARROW = 0.02  # standard deviations, within which the density hardly changes: 6e-4 of it six of them from the mean
TINY = 1e-30  # keeps a width positive
SQRT_HALF = 0.5**0.5
HALF_LOG_TAU = 0.5 * np.log(2.0 * np.pi)
ROWS_PER_BLOCK = 16_384  # drawn together, always as many: one compiled shape
NOISE_WIDTH, NOISE_DEPTH = 32, 2  # of the network of additive noise, which does not read x
CURVE_NOISE_WIDTH, CURVE_NOISE_DEPTH = 64, 3  # of the same about a curve
CURVE_DEPTH = 3


class ConditionalRows(NamedTuple):
    """Training rows: inputs `(n, p)`, the kind of each row `(n,)`, y `(n, k)`, and the interval of y, `(n, k)` each.

    `low` equals `high` if y is known exactly. A y in an interval is the root of a count, see `IntegerElements`.
    """

    inputs: Array
    kind: Array
    y: Array
    low: Array
    high: Array


class GaussianMixture(NamedTuple):
    """A mixture of Gaussians on the real line: log weights, means and log standard deviations `(c,)`."""

    log_weights: Float[Array, " c"]
    means: Float[Array, " c"]
    log_sds: Float[Array, " c"]

    def log_prob(self, y: Array) -> Array:
        """Returns the log density of y."""
        u = (y - self.means) * jnp.exp(-self.log_sds)
        return jax.nn.logsumexp(self.log_weights - self.log_sds - 0.5 * u**2) - HALF_LOG_TAU

    def log_mass(self, low: Array, high: Array) -> Array:
        """Returns the log probability of an interval, which may be infinite on either side."""
        ends = [jnp.clip(end, -MAX_END, MAX_END) for end in (low, high)]
        a, b = ((end - self.means) * jnp.exp(-self.log_sds) for end in ends)
        return jax.nn.logsumexp(self.log_weights + jnp.where(b - a < NARROW, _log_narrow(a, b), _log_wide(a, b)))

    def draw(self, key: PRNGKeyArray) -> Array:
        """Draws one number."""
        key_component, key_y = jr.split(key)
        component = jr.categorical(key_component, self.log_weights)
        return self.means[component] + jnp.exp(self.log_sds[component]) * jr.normal(key_y)

    def moments(self) -> tuple[Array, Array]:
        """Returns mean and standard deviation."""
        weights = jnp.exp(self.log_weights)
        mean = weights @ self.means
        return mean, jnp.sqrt(weights @ (jnp.exp(2.0 * self.log_sds) + (self.means - mean) ** 2))

    def standardized(self, y: Array) -> Array:
        """Returns `y` standardized by this mixture's mean and sd, clipped to +-5, without gradient."""
        mean, sd = self.moments()
        return jax.lax.stop_gradient(jnp.clip((y - mean) / sd, -MAX_STANDARDIZED, MAX_STANDARDIZED))


def _log_narrow(a: Array, b: Array) -> Array:
    """Returns the log probability of a standard normal between two ends that are near each other: width by density."""
    return jnp.log(jnp.maximum(b - a, TINY)) - 0.125 * (a + b) ** 2 - HALF_LOG_TAU


def _log_wide(a: Array, b: Array) -> Array:
    """Returns the log probability of a standard normal between two ends that are not."""
    mirrored = a + b > 0  # left of the mean a small probability is not a difference of large ones
    a, b = jnp.where(mirrored, -b, a), jnp.where(mirrored, -a, b)
    upper = jnp.maximum(b, TAIL)
    lower = jnp.clip(a, TAIL - 10.0, upper - NARROW)
    log_central = jnp.log(0.5 * (erfc(-upper * SQRT_HALF) - erfc(-lower * SQRT_HALF)))
    # far out a Gaussian falls like an exponential (Mills' ratio)
    b = jnp.minimum(b, TAIL)
    decay = -b * jnp.clip(b - a, NARROW, 10.0)
    log_tail = -0.5 * b**2 - HALF_LOG_TAU - jnp.log(-b) + jnp.log(-jnp.expm1(-decay))
    return jnp.where(upper > TAIL, log_central, log_tail)


class Sizes(NamedTuple):
    """The shape of a `MixtureDensity`.

    Attributes:
        kinds: kinds of rows, which have baselines of their own.
        known: inputs p.
        numbers: numbers k of y.
        free: the numbers of y are independent given the inputs.
        whole: some of them are integers.
        additive: the residual of the regression, or of a curve, has the same density for all inputs.
        components: Gaussians in the mixture of each number.
        width: of the network.
        depth: of the network, in layers.
        curve: the width of the second network, 0 if there is none.
    """

    kinds: int
    known: int
    numbers: int
    free: bool = False
    whole: bool = False
    additive: bool = False
    components: int = 4
    width: int = 128
    depth: int = 3
    curve: int = 0


class LinearGaussian(NamedTuple):
    """The baseline of each kind: y is linear in the inputs, with Gaussian residuals.

    Center and width standardize y. In these units `trend` are the coefficients on [1, inputs], and `cross` and `log_sd`
    the root of the residual's covariance: below its diagonal, and the log of its diagonal. `largest` is the largest
    count, counted from the smallest, and -1 for a number that is no count.
    """

    center: Float[Array, "kinds k"]
    width: Float[Array, "kinds k"]
    trend: Float[Array, "kinds q k"]
    cross: Float[Array, "kinds k k"]
    log_sd: Float[Array, "kinds k"]
    largest: Float[Array, "kinds k"]

    @classmethod
    def standard(cls, sizes: Sizes) -> "LinearGaussian":
        """The baseline of standard normal numbers."""
        kinds, k = sizes.kinds, sizes.numbers
        zeros = jnp.zeros((kinds, k))
        trend, cross = jnp.zeros((kinds, 1 + sizes.known, k)), jnp.zeros((kinds, k, k))
        return cls(zeros, zeros + 1.0, trend, cross, zeros, zeros - 1.0)

    @classmethod
    def fit(cls, rows: ConditionalRows, sizes: Sizes) -> "LinearGaussian":
        """Fits the baseline of each kind to its rows."""
        arrays = [np.array(array, np.float64) for array in cls.standard(sizes)]
        center, width, trend, cross, log_sd, largest = arrays
        inputs, kind, y = (np.asarray(array, np.float64) for array in (rows.inputs, rows.kind, rows.y))
        in_interval = np.asarray(rows.low) < np.asarray(rows.high)
        for i in range(sizes.kinds):
            index = kind == i
            center[i], sd = y[index].mean(axis=0), y[index].std(axis=0)
            width[i] = np.where(sd > 0, sd, 1.0)
            trend[i], residual = least_squares(inputs[index], (y[index] - center[i]) / width[i])
            root = residual_root(residual, np.exp(2.0 * LOG_SD_RANGE[0]), independent=sizes.free)
            cross[i], log_sd[i] = np.tril(root, -1), np.log(np.diag(root))
            counts = np.round(y[index].max(axis=0) ** 2 - ROOT_OFFSET)
            largest[i] = np.where(in_interval[index].any(axis=0), counts, -1.0)
        return cls(*(jnp.asarray(array, jnp.float32) for array in arrays))


class MixtureDensity(eqx.Module):
    """The density of `(k,)` numbers of several kinds, given `(p,)` inputs of order one."""

    baseline: LinearGaussian
    net: eqx.nn.MLP
    curve: eqx.nn.MLP | None
    sizes: Sizes = eqx.field(static=True)

    @classmethod
    def blank(cls, sizes: Sizes, *, key: PRNGKeyArray) -> "MixtureDensity":
        """An untrained density, which is standard normal."""
        kinds, p, k = sizes.kinds, sizes.known, sizes.numbers
        n_inputs, n_outputs = p + k + kinds * k, k + 3 * sizes.components
        if sizes.free:
            n_inputs, n_outputs = p, 3 * sizes.components * k
        net = _zero_mlp(n_inputs, n_outputs, sizes.width, sizes.depth, key)
        curve = _zero_mlp(p, kinds * k, sizes.curve, CURVE_DEPTH, jr.fold_in(key, 1)) if sizes.curve else None
        return cls(LinearGaussian.standard(sizes), net, curve, sizes)

    def with_baseline(self, rows: ConditionalRows) -> "MixtureDensity":
        """Returns the same networks with the baseline of rows."""
        return dataclasses.replace(self, baseline=LinearGaussian.fit(rows, self.sizes))

    def baseline_only(self) -> "MixtureDensity":
        """Returns the baseline with a network of minimal size, untrained: a Gaussian about a straight line."""
        return self._with_sizes(self.sizes._replace(components=1, width=1, depth=1), jr.key(0))

    @property
    def is_baseline_only(self) -> bool:
        """Whether the network is that of `baseline_only`."""
        return (self.sizes.width, self.sizes.components) == (1, 1)

    def with_additive_noise(self, *, key: PRNGKeyArray) -> "MixtureDensity":
        """Returns the baseline with an untrained network of additive noise."""
        sizes = self.sizes._replace(additive=True, width=NOISE_WIDTH, depth=NOISE_DEPTH)
        return self._with_sizes(sizes, key)

    def with_curve(self, *, key: PRNGKeyArray) -> "MixtureDensity":
        """Returns the baseline with untrained networks of additive noise and of a curve that it is added to."""
        width, depth = CURVE_NOISE_WIDTH, CURVE_NOISE_DEPTH
        sizes = self.sizes._replace(additive=True, width=width, depth=depth, curve=self.sizes.width)
        return self._with_sizes(sizes, key)

    def _with_sizes(self, sizes: Sizes, key: PRNGKeyArray) -> "MixtureDensity":
        return dataclasses.replace(MixtureDensity.blank(sizes, key=key), baseline=self.baseline)

    def log_prob(self, row: ConditionalRows) -> Array:
        """Returns the log density of one row, or the log probability of its interval."""
        center, width = self.baseline.center[row.kind], self.baseline.width[row.kind]
        y, low, high = ((value - center) / width for value in (row.y, row.low, row.high))

        def log_density(mixture: GaussianMixture, i: Array) -> tuple[Array, Array]:
            density = mixture.log_prob(y[i]) - jnp.log(width[i])
            if not self.sizes.whole:
                return y[i], density
            exact = low[i] == high[i]
            mass = mixture.log_mass(jnp.where(exact, low[i] - 1.0, low[i]), high[i])
            return y[i], jnp.where(exact, density, mass)

        return jnp.sum(self._visit(row.inputs, row.kind, log_density))

    def log_probs(self, rows: ConditionalRows) -> Float[np.ndarray, " n"]:
        """Returns `log_prob` of each row."""
        return np.asarray(_log_probs(self, rows), np.float64)

    def draw(self, inputs: Float[Array, " p"], kind: Int[Array, ""], key: PRNGKeyArray) -> Float[Array, " k"]:
        """Draws y once."""
        keys = jr.split(key, self.sizes.numbers)

        def draw(mixture: GaussianMixture, i: Array) -> tuple[Array, Array]:
            y = mixture.draw(keys[i])
            y = y if self.sizes.free else self._rounded(y, kind, i)
            return y, y

        return self.baseline.center[kind] + self.baseline.width[kind] * self._visit(inputs, kind, draw)

    def sample(
        self, inputs: Float[np.ndarray, "n p"], kind: Int[np.ndarray, " n"], key: PRNGKeyArray
    ) -> Float[np.ndarray, "n k"]:
        """Draws y once for every row."""

        def block(index: np.ndarray, k: int) -> Array:
            seed = jr.fold_in(key, k * ROWS_PER_BLOCK)
            return _draws(self, jnp.asarray(inputs[index]), jnp.asarray(kind[index]), seed)

        return in_blocks(block, len(inputs), ROWS_PER_BLOCK)

    def _visit(self, inputs: Array, kind: Array, visit: Callable[[GaussianMixture, Array], tuple[Array, Any]]) -> Any:
        """Calls `visit(mixture, i)` for every number i and returns the results, stacked.

        `mixture` is the density of number i given the inputs and the numbers before it, in units of the baseline.
        `visit` returns the value of number i in these units, and its result.
        """
        indices = jnp.arange(self.sizes.numbers)
        if self.sizes.free:
            return jax.vmap(visit)(self._independent_mixtures(inputs), indices)[1]
        means = self._means(inputs, kind)

        def step(earlier: Array, i: Array) -> tuple[Array, Any]:
            mixture = self._conditional_mixture(inputs, kind, means, earlier, i)
            y, result = visit(mixture, i)
            return earlier.at[i].set(mixture.standardized(y)), result

        return jax.lax.scan(step, jnp.zeros(self.sizes.numbers), indices)[1]

    def _rounded(self, y: Array, kind: Array, i: Array) -> Array:
        """Rounds a drawn count, as the numbers after it were trained with integers."""
        center, width = self.baseline.center[kind, i], self.baseline.width[kind, i]
        largest = self.baseline.largest[kind, i]
        root = jnp.maximum(center + width * y, 0.0)
        count = jnp.clip(jnp.round(root**2 - ROOT_OFFSET), 0.0, jnp.maximum(largest, 0.0))
        return jnp.where(largest >= 0, (jnp.sqrt(count + ROOT_OFFSET) - center) / width, y)

    def _means(self, inputs: Array, kind: Array) -> Float[Array, " k"]:
        """Returns the mean of every number given the inputs, by regression and curve."""
        means = predict(self.baseline.trend[kind], inputs)
        if self.curve is None:
            return means
        return means + self.curve(inputs).reshape(self.baseline.center.shape)[kind]

    def _conditional_mixture(
        self, inputs: Array, kind: Array, means: Array, earlier: Array, i: Array
    ) -> GaussianMixture:
        """Returns the density of number i, given the earlier numbers in units of their own conditionals."""
        kinds, k = self.baseline.center.shape
        one_hot = jax.nn.one_hot(kind * k + i, kinds * k)
        outputs = self.net(jnp.concatenate([self._network_inputs(inputs), earlier, one_hot]))
        mean = means[i] + self.baseline.cross[kind, i] @ earlier
        return self._mixture(mean, self.baseline.log_sd[kind, i], outputs[k:], outputs[:k] @ earlier)

    def _independent_mixtures(self, inputs: Array) -> GaussianMixture:
        """Returns the densities of all numbers that are `free`, stacked."""
        outputs = self.net(self._network_inputs(inputs)).reshape(self.sizes.numbers, -1)
        means = self._means(inputs, jnp.array(0))
        return jax.vmap(self._mixture, in_axes=(0, 0, 0, None))(means, self.baseline.log_sd[0], outputs, 0.0)

    def _network_inputs(self, inputs: Array) -> Array:
        return jnp.zeros_like(inputs) if self.sizes.additive else inputs

    def _mixture(self, mean: Array, log_sd: Array, outputs: Array, shift: Array | float) -> GaussianMixture:
        """Returns the mixture about a mean that network outputs `(3 c,)` describe in units of the width."""
        logits, bend, log_sds = jnp.split(outputs, 3)
        log_sds = jnp.clip(log_sd + log_sds, *LOG_SD_RANGE)
        # components that begin alike would stay alike
        bend = bend + (jnp.linspace(-1.5, 1.5, self.sizes.components) if self.sizes.components > 1 else 0.0)
        return GaussianMixture(jax.nn.log_softmax(logits), mean + jnp.exp(log_sds) * (bend + shift), log_sds)


def _zero_mlp(n_inputs: int, n_outputs: int, width: int, depth: int, key: PRNGKeyArray) -> eqx.nn.MLP:
    """An MLP whose outputs are zero until it is trained."""
    net = eqx.nn.MLP(n_inputs, n_outputs, width, depth, jax.nn.silu, key=key)
    return eqx.tree_at(lambda n: (n.layers[-1].weight, n.layers[-1].bias), net, replace_fn=jnp.zeros_like)


@eqx.filter_jit
def _log_probs(mixture: MixtureDensity, rows: ConditionalRows) -> Array:
    return jax.vmap(mixture.log_prob)(rows)


@eqx.filter_jit
def _draws(mixture: MixtureDensity, inputs: Array, kind: Array, key: PRNGKeyArray) -> Array:
    return jax.vmap(mixture.draw)(inputs, kind, jr.split(key, len(inputs)))
