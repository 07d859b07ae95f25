"""Scaling: from the user's units to numbers of order one, and back.

    u = unconstrain(x)         off the support, onto the real line
    z = tame(u)                zero mean, unit variance over the training rows, heavy tails folded (`robust_scaling`)

and, of a model for one question, in the conditional affine map of what is given. The log-determinant turns a
density of z into a density of x.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from retrodict._errors import DataError
from retrodict.transforms import supports
from retrodict.transforms.affine import ConditionalAffine
from retrodict.transforms.robust_scaling import RobustScaling
from retrodict.variables import Layout, Variable


AT_ONCE = 8192  # rows that are scaled together, at most
NUMBERS = 2**21  # in these rows, at most: a few rows of images are not padded to gigabytes
SAMPLE = 1_000_000  # numbers that tell the scale of a variable whose elements share it


class Scaling(eqx.Module):
    """The chain of the module's first lines, per token.

    `fit` reads it off training rows; a fresh one leaves the unconstrained values as they are.
    """

    layout: Layout = eqx.field(static=True)
    tails: RobustScaling
    frame: ConditionalAffine | None = None

    @classmethod
    def identity(cls, layout: Layout) -> "Scaling":
        """No scaling but the supports."""
        return cls(layout, RobustScaling.identity(layout.size))

    def only(self, layout: Layout) -> "Scaling":
        """The scaling of some of the variables."""
        if layout is self.layout or layout == self.layout:
            return self
        return self._of(layout, self.layout.tokens_of(layout.names))

    def resized(self, layout: Layout) -> "Scaling":
        """The scaling of a layout that has other numbers of points, all of which share a scale."""
        return self._of(layout, self.layout.spread(layout))

    def _of(self, layout: Layout, which: np.ndarray) -> "Scaling":
        if self.frame is not None:
            raise DataError("a frame belongs to all variables of its layout together; use a model without one")
        return Scaling(layout, jax.tree.map(lambda part: part[which], self.tails))

    @classmethod
    def fit(cls, layout: Layout, rows: np.ndarray, together: Iterable[str] = ()) -> "Scaling":
        """Reads center, width, tails, mean and standard deviation off rows `(n, d)` of tokens in the user's units.

        The elements of each variable in `together` share theirs: a network that reads an image or a series as a whole
        should see it undistorted.

        Raises:
            DataError: a parameter is the same in every row, so that there is nothing to learn about it.

        Warns:
            UserWarning: data are (a count at the start of an epidemic); their width is their value, or one at zero.
        """
        shared = [layout.slices[name] for name in together]
        if shared:
            return cls._shared(layout, rows, shared)
        u = np.asarray(cls.identity(layout).of_rows(rows), np.float64)
        still = np.flatnonzero(u.std(axis=0) == 0)
        if still.size:
            _constant(layout, still, len(rows))
        return cls(layout, RobustScaling.fit(u))

    @classmethod
    def _shared(cls, layout: Layout, rows: np.ndarray, shared: list[slice]) -> "Scaling":
        """One number stands for a shared variable: its elements one under the other, a sample of them."""
        scalings = []
        for v in layout.variables:
            block = layout.slices[v.name]
            if block not in shared:
                scalings.append(cls.fit(Layout((v,)), rows[:, block]))
                continue
            sample = rows[:: max(1, rows[:, block].size // SAMPLE), block].reshape(-1, 1)
            sample = sample[np.isfinite(sample[:, 0])]  # a function has no value where it has no point
            one = cls.fit(Layout((Variable(v.name, (), min(v.ends[0]), max(v.ends[1]), v.kind),)), sample)
            scalings.append(
                cls(Layout((v,)), jax.tree.map(lambda part, v=v: jnp.broadcast_to(part, v.size), one.tails))
            )
        return cls(layout, jax.tree.map(lambda *parts: jnp.concatenate(parts), *(own.tails for own in scalings)))

    def forward(self, x: ArrayLike) -> Float[Array, "*n d"]:
        """Tokens `(*n, d)` in the user's units to scaled ones."""
        z = self.tails.tame(supports.unconstrain(x, *self.layout.ends))
        return z if self.frame is None else self.frame.enter(z)

    def framed(self, frame: ConditionalAffine | None, rows: np.ndarray) -> "Scaling":
        """The same, in a frame fitted to training rows `(n, d)` in the user's units, if there is to be one."""
        return self if frame is None else dataclasses.replace(self, frame=frame.fit(self.of_rows(rows)))

    def of_rows(self, rows: np.ndarray) -> Float[np.ndarray, "n d"]:
        """`forward` of any number of rows `(n, d)`, by the same compiled code."""
        return self._in_blocks(_forward, rows)

    def to_rows(self, z: np.ndarray) -> Float[np.ndarray, "n d"]:
        """`inverse` of any number of rows `(n, d)`, by the same compiled code."""
        return self._in_blocks(_inverse, z)

    def _in_blocks(self, of: Callable[["Scaling", Array], Array], rows: np.ndarray) -> np.ndarray:
        parts, size = [], max(1, min(AT_ONCE, NUMBERS // self.layout.size))
        # on the processor, so that rows get ready while an accelerator is at work
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            for start in range(0, len(rows), size):
                block = rows[start : start + size]
                padded = np.pad(block, ((0, size - len(block)), (0, 0)), mode="edge")
                parts.append(np.asarray(of(self, jnp.asarray(padded)))[: len(block)])
        return np.concatenate(parts)

    def unscale(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """Scaled tokens `(*n, d)` to the real line before `constrain`."""
        return self.tails.free(self._out_of_frame(z))

    def inverse(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """Scaled tokens `(*n, d)` back to the user's units, always inside the supports."""
        return supports.constrain(self.unscale(z), *self.layout.ends)

    def log_slope(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """`log |dx/dz|` per token, so that log p(x) = log p(z) - the sum over what is asked."""
        slope = supports.log_slope(self.unscale(z), *self.layout.ends)
        own = slope + self.tails.log_slope(self._out_of_frame(z))
        return own if self.frame is None else own + self.frame.log_slope(z)

    def _out_of_frame(self, z: ArrayLike) -> Float[Array, "*n d"]:
        return jnp.asarray(z) if self.frame is None else self.frame.leave(z)


@eqx.filter_jit
def _forward(scaling: Scaling, rows: Array) -> Array:
    return scaling.forward(rows)


@eqx.filter_jit
def _inverse(scaling: Scaling, rows: Array) -> Array:
    return scaling.inverse(rows)


def _constant(layout: Layout, tokens: np.ndarray, rows: int) -> None:
    """Refuses parameters that are the same in all rows, and warns of data that are."""
    for variable in layout.variables:
        block = layout.slices[variable.name]
        count = int(((tokens >= block.start) & (tokens < block.stop)).sum())
        if count and variable.kind == "parameter":
            raise DataError(
                f"'{variable.name}' has an element that is the same in all {rows} rows, from which nothing can be "
                "learned about it; draw it from a prior, or write it into the simulator"
            )
        if count:
            warnings.warn(
                f"'{variable.name}' has {count} of {variable.size} elements that are the same in all {rows} rows: what "
                "never varies says nothing; leave it out of the simulator's output, or run more simulations",
                stacklevel=2,
            )
