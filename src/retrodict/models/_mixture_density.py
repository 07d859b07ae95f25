"""The density of numbers given others: exact, and cheap to draw from.

    p(y | x) = prod over i of p(y_i | x, e_1..i-1),        p(y_i | ...) = sum over c of w_c N(y_i; m_c, s_c)
    m_c = trend_i . [1, x] + cross_i . e + s_c (bend_c + slope . e),     e_i = (y_i - mean_i) / sd_i

(Mixture density networks, Bishop 1994; one number after the other, Uria et al. 2013, RNADE.) The frame is a regression
and the covariance of what it leaves, a Gaussian that is exact where everything is linear; the network says the rest in
units of the width: what it gets wrong is small where y is narrow. What was drawn before is seen as `e`, in units of its
own law. Numbers that are independent given x are `free`: one look at x says all their laws, without e. Where y is
known to lie between `low` and `high`, as a whole number between its halves, its probability takes the place of a
density. Noise that is `additive` has one law everywhere, the network sees e alone: about the regression or, with a
`curve`, a second network's share of what x says, about that.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import erfc
from jaxtyping import Array, Float, Int, PRNGKeyArray

from retrodict.transforms import supports
from retrodict.variables import Layout, Variable


ROOT = 0.375  # a count is looked at as sqrt(n + 3/8), whose spread hardly depends on its mean (Anscombe 1948)
INFINITE = 1e4  # an end of an interval
FAR = -6.0  # standard deviations beyond which probabilities are those of a tail
LEAST = 1e-4  # width of an interval, in standard deviations
SQRT_HALF = 0.5**0.5
WIDTHS = (-9.0, 3.0)  # log widths, where all of y has one
EXPECTED = 5.0  # an `e` further out says no more
HALF_LOG_TAU = 0.5 * np.log(2.0 * np.pi)
AT_ONCE = 16_384  # drawn together, always as many: one compiled shape
WIDTH_OF_NOISE, DEPTH_OF_NOISE = 32, 2  # of the network that has nothing to say of x
WIDTH_ABOUT, DEPTH_ABOUT = 64, 3  # of the same about a curve
DEPTH_OF_CURVE = 3


Elements: TypeAlias = Array | np.ndarray


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


class IntegerElements(NamedTuple):
    """Which elements `(d,)` were whole numbers in all simulations, and their range.

    A count n is looked at as sqrt(n - least + 3/8), see `Pairs`.
    """

    which: Elements
    least: Elements
    most: Elements

    @classmethod
    def of(cls, rows: np.ndarray, alike: Iterable[np.ndarray]) -> "IntegerElements":
        """What rows `(n, d)` tell of groups of elements, which share a range; of others nothing."""
        which, (least, most) = np.zeros(rows.shape[1], bool), np.zeros((2, rows.shape[1]))
        for tokens in alike:
            values = rows[:, tokens]
            which[tokens] = (values == np.round(values)).all()
            least[tokens], most[tokens] = values.min(), values.max()
        return cls(which, least, most)

    def line(self, rows: np.ndarray, ends: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows on the real line, and where they begin and end: as whole numbers do half-way to the next."""
        rows = np.where(self.which, np.clip(rows, self.least, self.most), rows)
        plain = np.asarray(supports.unconstrain(rows, *ends))
        u, low, high = (np.where(self.which, self.evened(rows + step), plain) for step in (0.0, -0.5, 0.5))
        low[self.which & (rows <= self.least)] = -np.inf
        high[self.which & (rows >= self.most)] = np.inf
        return u, low, high

    def units(self, u: np.ndarray, ends: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The inverse of `line`."""
        return np.where(self.which, self.counted(u), np.asarray(supports.constrain(u, *ends)))

    def evened(self, rows: np.ndarray) -> np.ndarray:
        """Rows whose counts are looked at so."""
        return np.where(self.which, np.sqrt(np.maximum(rows - self.least + ROOT, 0.0)), rows)

    def counted(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of `evened`, whole and within what was seen."""
        counts = np.round(self.least + np.maximum(rows, 0.0) ** 2 - ROOT)
        return np.where(self.which, np.clip(counts, self.least, self.most), rows)


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

    def moments(self) -> tuple[Array, Array]:
        """Mean and standard deviation."""
        share = jnp.exp(self.share)
        mean = share @ self.center
        return mean, jnp.sqrt(share @ (jnp.exp(2.0 * self.width) + (self.center - mean) ** 2))

    def standing(self, y: Array) -> Array:
        """`y` in units of this law, of which the network that said it learns nothing."""
        mean, sd = self.moments()
        return jax.lax.stop_gradient(jnp.clip((y - mean) / sd, -EXPECTED, EXPECTED))


def told(layout: Layout) -> Layout:
    """Parameters as they are told: in an interval as they are, as a support bends what lies near its ends. What is
    drawn needs that; seen through it, data that are a straight line in a parameter are none."""

    def straight(variable: Variable) -> Variable:
        low, high = variable.ends
        inside = np.isfinite(low) & np.isfinite(high)
        low, high = np.where(inside, -np.inf, low), np.where(inside, np.inf, high)
        return dataclasses.replace(variable, low=tuple(low.tolist()), high=tuple(high.tolist()))

    return Layout(tuple(straight(layout[name]) for name in layout.parameters))


class Sizes(NamedTuple):
    """What a mixture density is of: kinds, numbers that are known, numbers of y; whether these are `free`, whether
    there are `whole` ones, and whether what the regression leaves is `additive` noise, one law for all that is known;
    Gaussians of each, the network's width and depth, and the width of a curve's, 0 where there is none."""

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


class ConditionalAffine(NamedTuple):
    """What regressions tell: center and width of y, the coefficients of y in their units, of the covariance L L^T that
    they leave what L has below its diagonal and the log of that, and the largest count, -1 where there are none."""

    center: Float[Array, "kinds k"]
    width: Float[Array, "kinds k"]
    trend: Float[Array, "kinds q k"]
    cross: Float[Array, "kinds k k"]
    left: Float[Array, "kinds k"]
    most: Float[Array, "kinds k"]

    @classmethod
    def standard(cls, sizes: Sizes) -> "ConditionalAffine":
        """That of standard normal numbers."""
        kinds, k = sizes.kinds, sizes.numbers
        nothing = jnp.zeros((kinds, k))
        trend, cross = jnp.zeros((kinds, 1 + sizes.known, k)), jnp.zeros((kinds, k, k))
        return cls(nothing, nothing + 1.0, trend, cross, nothing, nothing - 1.0)

    @classmethod
    def of(cls, rows: Pairs, sizes: Sizes) -> "ConditionalAffine":
        """That of rows."""
        center, width, trend, cross, left, most = (np.array(part, np.float64) for part in cls.standard(sizes))
        known, kind, y = (np.asarray(part, np.float64) for part in (rows.known, rows.kind, rows.y))
        design = np.concatenate([np.ones((len(known), 1)), known], axis=1)
        intervals = np.asarray(rows.low) < np.asarray(rows.high)
        for i in range(sizes.kinds):
            own = kind == i
            center[i], sd = y[own].mean(axis=0), y[own].std(axis=0)
            width[i] = np.where(sd > 0, sd, 1.0)
            u = (y[own] - center[i]) / width[i]
            trend[i] = np.linalg.lstsq(design[own], u, rcond=None)[0]
            u -= design[own] @ trend[i]
            covariance = u.T @ u / len(u) + np.exp(2.0 * WIDTHS[0]) * np.eye(u.shape[1])
            lower = np.linalg.cholesky(np.diag(np.diag(covariance)) if sizes.free else covariance)
            cross[i], left[i] = np.tril(lower, -1), np.log(np.diag(lower))
            most[i] = np.where(intervals[own].any(axis=0), np.round(y[own].max(axis=0) ** 2 - ROOT), -1.0)
        return cls(*(jnp.asarray(part, jnp.float32) for part in (center, width, trend, cross, left, most)))


class MixtureDensity(eqx.Module):
    """Densities of `(k,)` numbers of several kinds, given `(p,)` others of order one."""

    frame: ConditionalAffine
    net: eqx.nn.MLP
    curve: eqx.nn.MLP | None
    sizes: Sizes = eqx.field(static=True)

    @classmethod
    def blank(cls, sizes: Sizes, *, key: PRNGKeyArray) -> "MixtureDensity":
        """An untrained network that knows no rows: everything is standard normal."""
        kinds, p, k = sizes.kinds, sizes.known, sizes.numbers
        inside, out = (p, 3 * sizes.components * k) if sizes.free else (p + k + kinds * k, k + 3 * sizes.components)
        key_curve = jr.fold_in(key, 1)
        net = _silent(inside, out, sizes.width, sizes.depth, key)
        curve = _silent(p, kinds * k, sizes.curve, DEPTH_OF_CURVE, key_curve) if sizes.curve else None
        return cls(ConditionalAffine.standard(sizes), net, curve, sizes)

    def beside(self, rows: Pairs) -> "MixtureDensity":
        """The same in the frame that rows tell."""
        return dataclasses.replace(self, frame=ConditionalAffine.of(rows, self.sizes))

    def alone(self) -> "MixtureDensity":
        """The frame without a network: a Gaussian about a straight line."""
        return self._anew(self.sizes._replace(components=1, width=1, depth=1), jr.key(0))

    @property
    def is_alone(self) -> bool:
        """Whether there is a frame and no network."""
        return (self.sizes.width, self.sizes.components) == (1, 1)

    def of_noise(self, *, key: PRNGKeyArray) -> "MixtureDensity":
        """An untrained network of additive noise in the same frame."""
        sizes = self.sizes._replace(additive=True, width=WIDTH_OF_NOISE, depth=DEPTH_OF_NOISE)
        return self._anew(sizes, key)

    def about_a_curve(self, *, key: PRNGKeyArray) -> "MixtureDensity":
        """The same about a curve."""
        sizes = self.sizes._replace(additive=True, width=WIDTH_ABOUT, depth=DEPTH_ABOUT, curve=self.sizes.width)
        return self._anew(sizes, key)

    def _anew(self, sizes: Sizes, key: PRNGKeyArray) -> "MixtureDensity":
        return dataclasses.replace(MixtureDensity.blank(sizes, key=key), frame=self.frame)

    def log_prob(self, row: Pairs) -> Array:
        """Log density of one row, or the log probability of its interval."""
        center, width = self.frame.center[row.kind], self.frame.width[row.kind]
        y, low, high = ((part - center) / width for part in (row.y, row.low, row.high))

        def of(law: Law, i: Array) -> Array:
            density = law.log_prob(y[i]) - jnp.log(width[i])
            if not self.sizes.whole:
                return density
            exact = low[i] == high[i]
            return jnp.where(exact, density, law.log_mass(jnp.where(exact, low[i] - 1.0, low[i]), high[i]))

        lines = self._lines(row.known, row.kind)

        def one(before: Array, i: Array) -> tuple[Array, Array]:
            law = self._law(row.known, row.kind, lines, before, i)
            return before.at[i].set(law.standing(y[i])), of(law, i)

        every = jnp.arange(len(y))
        if self.sizes.free:
            return jnp.sum(jax.vmap(of)(self._laws(row.known), every))
        return jnp.sum(jax.lax.scan(one, jnp.zeros(len(y)), every)[1])

    def log_probs(self, rows: Pairs) -> Float[np.ndarray, " n"]:
        """`log_prob` of many rows."""
        return np.asarray(_scored(self, rows), np.float64)

    def moments(self, row: Pairs) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Mean and standard deviation of every number of one row, given those before."""
        center, width = self.frame.center[row.kind], self.frame.width[row.kind]
        y, lines = (row.y - center) / width, self._lines(row.known, row.kind)

        def one(before: Array, i: Array) -> tuple[Array, tuple[Array, Array]]:
            law = self._law(row.known, row.kind, lines, before, i)
            return before.at[i].set(law.standing(y[i])), law.moments()

        every = jnp.arange(len(y))
        if self.sizes.free:
            mean, sd = jax.vmap(Law.moments)(self._laws(row.known))
        else:
            mean, sd = jax.lax.scan(one, jnp.zeros(len(y)), every)[1]
        return center + width * mean, width * sd

    def draw(self, known: Float[Array, " p"], kind: Int[Array, ""], key: PRNGKeyArray) -> Float[Array, " k"]:
        """One draw."""
        k = self.frame.center.shape[1]
        keys, lines = jr.split(key, k), self._lines(known, kind)

        def one(before: Array, row: tuple[Array, PRNGKeyArray]) -> tuple[Array, Array]:
            i, key = row
            law = self._law(known, kind, lines, before, i)
            y = self._settled(law.draw(key), kind, i)
            return before.at[i].set(law.standing(y)), y

        if self.sizes.free:
            y = jax.vmap(Law.draw)(self._laws(known), keys)
        else:
            y = jax.lax.scan(one, jnp.zeros(k), (jnp.arange(k), keys))[1]
        return self.frame.center[kind] + self.frame.width[kind] * y

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
        center, width, most = self.frame.center[kind, i], self.frame.width[kind, i], self.frame.most[kind, i]
        count = jnp.clip(jnp.round(jnp.maximum(center + width * y, 0.0) ** 2 - ROOT), 0.0, jnp.maximum(most, 0.0))
        return jnp.where(most >= 0, (jnp.sqrt(count + ROOT) - center) / width, y)

    def _lines(self, known: Array, kind: Array) -> Float[Array, " k"]:
        """What is expected of all numbers, knowing none of them."""
        line = jnp.append(1.0, known) @ self.frame.trend[kind]
        return line if self.curve is None else line + self.curve(known).reshape(self.frame.center.shape)[kind]

    def _law(self, known: Array, kind: Array, lines: Array, before: Array, i: Array) -> Law:
        kinds, k = self.frame.center.shape
        which = jax.nn.one_hot(kind * k + i, kinds * k)
        said = self.net(jnp.concatenate([self._seen(known), before, which]))
        line = lines[i] + self.frame.cross[kind, i] @ before
        return self._said(line, self.frame.left[kind, i], said[k:], said[:k] @ before)

    def _laws(self, known: Array) -> Law:
        """Those of all numbers that are free."""
        said = self.net(self._seen(known)).reshape(self.frame.center.shape[1], -1)
        lines = self._lines(known, jnp.array(0))
        return jax.vmap(self._said, in_axes=(0, 0, 0, None))(lines, self.frame.left[0], said, 0.0)

    def _seen(self, known: Array) -> Array:
        """What the network sees of what is known."""
        return jnp.zeros_like(known) if self.sizes.additive else known

    def _said(self, line: Array, left: Array, said: Array, shift: Array | float) -> Law:
        share, bend, width = jnp.split(said, 3)
        width = jnp.clip(left + width, *WIDTHS)
        # components that begin alike would stay alike
        bend = bend + (jnp.linspace(-1.5, 1.5, self.sizes.components) if self.sizes.components > 1 else 0.0)
        return Law(jax.nn.log_softmax(share), line + jnp.exp(width) * (bend + shift), width)


def _silent(inside: int, out: int, width: int, depth: int, key: PRNGKeyArray) -> eqx.nn.MLP:
    """A network that says nothing before it is trained."""
    net = eqx.nn.MLP(inside, out, width, depth, jax.nn.silu, key=key)
    return eqx.tree_at(lambda n: (n.layers[-1].weight, n.layers[-1].bias), net, replace_fn=jnp.zeros_like)


@eqx.filter_jit
def _scored(mixture: MixtureDensity, rows: Pairs) -> Array:
    return jax.vmap(mixture.log_prob)(rows)


@eqx.filter_jit
def _drawn(mixture: MixtureDensity, known: Array, kind: Array, key: PRNGKeyArray) -> Array:
    return jax.vmap(mixture.draw)(known, kind, jr.split(key, len(known)))
