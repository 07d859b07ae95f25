"""The density of numbers given others: exact, and cheap to draw from.

    p(y | x) = prod over i of p(y_i | x, e_1..i-1),        p(y_i | ...) = sum over c of w_c N(y_i; m_c, s_c)
    m_c = trend_i . [1, x] + s_c (bend_c + slope . e),     e_i = (y_i - mean_i) / sd_i

(Mixture density networks, Bishop 1994; one number after the other, Uria et al. 2013, RNADE.) A regression knows what is
linear, the network says the rest in units of the width: what it gets wrong is small where y is narrow. What was drawn
before is seen as `e`, in units of its own law, so that a Gaussian of any correlation is a product and not something to
be learned. Numbers that are independent given x are `free`: one look at x says all their laws, without e. Where y is
known to lie between `low` and `high`, as a whole number between its halves, its probability takes the place of a
density.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import erfc
from jaxtyping import Array, Float, Int, PRNGKeyArray


ROOT = 0.375  # a count is looked at as sqrt(n + 3/8), whose spread hardly depends on its mean (Anscombe 1948)
INFINITE = 1e4  # an end of an interval
FAR = -6.0  # standard deviations beyond which probabilities are those of a tail
LEAST = 1e-4  # width of an interval, in standard deviations
SQRT_HALF = 0.5**0.5
WIDTHS = (-9.0, 3.0)  # log widths, where all of y has one
EXPECTED = 5.0  # an `e` further out says no more
HALF_LOG_TAU = 0.5 * np.log(2.0 * np.pi)
AT_ONCE = 16_384  # drawn together, always as many: one compiled shape


class Pairs(NamedTuple):
    """Rows to learn from: what is known `(n, p)`, the kind of thing y is `(n,)`, y `(n, k)`, and the ends of the
    interval that it lies in `(n, k)`, alike where it is known exactly.

    A y that lies in intervals is the root of a count, sqrt(n + 3/8).
    """

    known: Array
    kind: Array
    y: Array
    low: Array
    high: Array


class Law(NamedTuple):
    """A mixture of Gaussians: log shares, centers and log widths `(c,)`."""

    share: Float[Array, " c"]
    center: Float[Array, " c"]
    width: Float[Array, " c"]

    def log_prob(self, y: Array) -> Array:
        """The log density."""
        u = (y - self.center) * jnp.exp(-self.width)
        return jax.nn.logsumexp(self.share - self.width - 0.5 * u**2) - HALF_LOG_TAU

    def log_mass(self, low: Array, high: Array) -> Array:
        """The log probability of an interval, which may be infinite on either side."""
        ends = [jnp.clip(end, -INFINITE, INFINITE) for end in (low, high)]  # infinity has no slope
        a, b = ((end - self.center) * jnp.exp(-self.width) for end in ends)
        right = a + b > 0  # on the left a small probability is no difference of large ones
        a, b = jnp.where(right, -b, a), jnp.where(right, -a, b)
        near = jnp.maximum(b, FAR)
        below = jnp.clip(a, FAR - 10.0, near - LEAST)
        inside = jnp.log(0.5 * (erfc(-near * SQRT_HALF) - erfc(-below * SQRT_HALF)))
        # far out a Gaussian falls like an exponential (Mills' ratio)
        b = jnp.minimum(b, FAR)
        slope = -b * jnp.clip(b - a, LEAST, 10.0)
        tail = -0.5 * b**2 - HALF_LOG_TAU - jnp.log(-b) + jnp.log(-jnp.expm1(-slope))
        return jax.nn.logsumexp(self.share + jnp.where(near > FAR, inside, tail))

    def draw(self, key: PRNGKeyArray) -> Array:
        """One draw."""
        key_which, key_y = jr.split(key)
        which = jr.categorical(key_which, self.share)
        return self.center[which] + jnp.exp(self.width[which]) * jr.normal(key_y)

    def standing(self, y: Array) -> Array:
        """`y` in units of this law, of which the network that said it learns nothing."""
        share = jnp.exp(self.share)
        mean = share @ self.center
        variance = share @ (jnp.exp(2.0 * self.width) + (self.center - mean) ** 2)
        return jax.lax.stop_gradient(jnp.clip((y - mean) * jax.lax.rsqrt(variance), -EXPECTED, EXPECTED))


class MixtureDensity(eqx.Module):
    """Densities of `(k,)` numbers of several kinds, given `(p,)` others of order one."""

    center: Float[Array, "kinds k"]
    width: Float[Array, "kinds k"]
    trend: Float[Array, "kinds q k"]
    most: Float[Array, "kinds k"]  # the largest count, -1 where there are none
    net: eqx.nn.MLP
    components: int = eqx.field(static=True)
    free: bool = eqx.field(static=True)
    whole: bool = eqx.field(static=True)  # there are intervals

    @classmethod
    def of(
        cls,
        rows: Pairs,
        *,
        free: bool = False,
        components: int = 4,
        width: int = 128,
        depth: int = 3,
        key: PRNGKeyArray,
    ) -> "MixtureDensity":
        """An untrained network beside the regressions that these rows tell; `free` numbers are of one kind."""
        known, kind, y = (np.asarray(part, np.float64) for part in (rows.known, rows.kind, rows.y))
        kinds, (p, k) = int(kind.max()) + 1, (known.shape[1], y.shape[1])
        center, scale, trend = np.zeros((kinds, k)), np.ones((kinds, k)), np.zeros((kinds, 1 + p, k))
        design = np.concatenate([np.ones((len(known), 1)), known], axis=1)
        for i in range(kinds):
            some = y[kind == i]
            center[i], sd = some.mean(axis=0), some.std(axis=0)
            scale[i] = np.where(sd > 0, sd, 1.0)
            trend[i] = np.linalg.lstsq(design[kind == i], (some - center[i]) / scale[i], rcond=None)[0]
        sizes = (p, 3 * components * k) if free else (p + k + kinds * k, k + 3 * components)
        net = eqx.nn.MLP(*sizes, width, depth, jax.nn.silu, key=key)
        net = eqx.tree_at(lambda n: (n.layers[-1].weight, n.layers[-1].bias), net, replace_fn=jnp.zeros_like)
        counted, most = np.asarray(rows.low) < np.asarray(rows.high), np.full((kinds, k), -1.0)
        for i in range(kinds):
            largest = np.round(y[kind == i].max(axis=0) ** 2 - ROOT)
            most[i] = np.where(counted[kind == i].any(axis=0), largest, -1.0)
        frame = [jnp.asarray(part, jnp.float32) for part in (center, scale, trend, most)]
        return cls(frame[0], frame[1], frame[2], frame[3], net, components, free, bool(counted.any()))

    def log_prob(self, row: Pairs) -> Array:
        """Log density of one row, or the log probability of its interval."""
        center, width = self.center[row.kind], self.width[row.kind]
        y, low, high = ((part - center) / width for part in (row.y, row.low, row.high))

        def of(law: Law, i: Array) -> Array:
            density = law.log_prob(y[i]) - jnp.log(width[i])
            if not self.whole:
                return density
            exact = low[i] == high[i]
            return jnp.where(exact, density, law.log_mass(jnp.where(exact, low[i] - 1.0, low[i]), high[i]))

        def one(before: Array, i: Array) -> tuple[Array, Array]:
            law = self._law(row.known, row.kind, before, i)
            return before.at[i].set(law.standing(y[i])), of(law, i)

        every = jnp.arange(len(y))
        if self.free:
            return jnp.sum(jax.vmap(of)(self._laws(row.known), every))
        return jnp.sum(jax.lax.scan(one, jnp.zeros(len(y)), every)[1])

    def draw(self, known: Float[Array, " p"], kind: Int[Array, ""], key: PRNGKeyArray) -> Float[Array, " k"]:
        """One draw."""
        k = self.center.shape[1]
        keys = jr.split(key, k)

        def one(before: Array, row: tuple[Array, PRNGKeyArray]) -> tuple[Array, Array]:
            i, key = row
            law = self._law(known, kind, before, i)
            y = self._settled(law.draw(key), kind, i)
            return before.at[i].set(law.standing(y)), y

        if self.free:
            y = jax.vmap(Law.draw)(self._laws(known), keys)
        else:
            y = jax.lax.scan(one, jnp.zeros(k), (jnp.arange(k), keys))[1]
        return self.center[kind] + self.width[kind] * y

    def sample(
        self, known: Float[np.ndarray, "n p"], kind: Int[np.ndarray, " n"], key: PRNGKeyArray
    ) -> Float[np.ndarray, "n k"]:
        """A draw for every row."""
        found = []
        for start in range(0, len(known), AT_ONCE):
            some, of = known[start : start + AT_ONCE], kind[start : start + AT_ONCE]
            less = AT_ONCE - len(some)
            padded = jnp.asarray(np.pad(some, ((0, less), (0, 0)))), jnp.asarray(np.pad(of, (0, less)))
            found.append(np.asarray(_drawn(self, *padded, jr.fold_in(key, start)))[: len(some)])
        return np.concatenate(found)

    def _settled(self, y: Array, kind: Array, i: Array) -> Array:
        """A count as rows have it: what comes after has learned from whole ones."""
        center, width, most = self.center[kind, i], self.width[kind, i], self.most[kind, i]
        count = jnp.clip(jnp.round(jnp.maximum(center + width * y, 0.0) ** 2 - ROOT), 0.0, jnp.maximum(most, 0.0))
        return jnp.where(most >= 0, (jnp.sqrt(count + ROOT) - center) / width, y)

    def _law(self, known: Array, kind: Array, before: Array, i: Array) -> Law:
        kinds, k = self.center.shape
        which = jax.nn.one_hot(kind * k + i, kinds * k)
        said = self.net(jnp.concatenate([known, before, which]))
        line = jnp.append(1.0, known) @ self.trend[kind, :, i]
        return self._said(line, said[k:], said[:k] @ before)

    def _laws(self, known: Array) -> Law:
        """Those of all numbers that are free."""
        said = self.net(known).reshape(self.center.shape[1], -1)
        return jax.vmap(self._said, in_axes=(0, 0, None))(jnp.append(1.0, known) @ self.trend[0], said, 0.0)

    def _said(self, line: Array, said: Array, shift: Array | float) -> Law:
        share, bend, width = jnp.split(said, 3)
        width = jnp.clip(width, *WIDTHS)
        # components that begin alike would stay alike
        bend = bend + (jnp.linspace(-1.5, 1.5, self.components) if self.components > 1 else 0.0)
        return Law(jax.nn.log_softmax(share), line + jnp.exp(width) * (bend + shift), width)


@eqx.filter_jit
def _drawn(mixture: MixtureDensity, known: Array, kind: Array, key: PRNGKeyArray) -> Array:
    return jax.vmap(mixture.draw)(known, kind, jr.split(key, len(known)))
