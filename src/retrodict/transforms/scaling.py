"""Scaling: from the user's units to numbers of order one, and back.

    u = unconstrain(x)         from the support onto the real line (`supports`)
    v = robust(u)              zero mean, unit variance over the training rows, heavy tails folded (`robust_scaling`)
    z = affine(v)              for some models of one question: latent elements follow the given ones (`affine`)

The log-determinant of the chain turns a density of z into a density of x.

NumPy arrays are mapped in double precision, so that an offset never costs digits: of a time such as 1.7e9 only its
distance from the center, in units of the width, is rounded to single precision. Inside JAX the same functions work in
the precision of their input.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float64

from retrodict._errors import DataError
from retrodict._runtime.blocks import in_blocks
from retrodict.transforms import supports
from retrodict.transforms.affine import ConditionalAffine
from retrodict.transforms.robust_scaling import MIN_GAIN, MIN_GAIN_OF_PRIOR, RobustScaling
from retrodict.variables import Layout, Variable


MAX_ROWS_PER_BLOCK = 8192
MAX_NUMBERS_PER_BLOCK = 2**21  # a few rows of images are not padded to gigabytes
MAX_ROUNDING = 1e-4  # of a variable's width
SAMPLED_NUMBERS = 1_000_000  # from which the scale of a variable is fitted if all its elements share it


class Scaling(eqx.Module):
    """The chain of the module's first lines, for the tokens of a layout."""

    layout: Layout = eqx.field(static=True)
    robust: RobustScaling
    affine: ConditionalAffine | None = None
    powers: Float64[np.ndarray, "d 2"] | None = None  # of densities next to their ends, see `supports`

    @classmethod
    def identity(cls, layout: Layout) -> "Scaling":
        """The map onto the real line alone."""
        return cls(layout, RobustScaling.identity(layout.size), powers=np.zeros((layout.size, 2)))

    def only(self, layout: Layout) -> "Scaling":
        """The scaling of the variables in `layout`, which are some of these."""
        if layout is self.layout or layout == self.layout:
            return self
        return self._selected(layout, self.layout.tokens_of(layout.names))

    def resized(self, layout: Layout) -> "Scaling":
        """The scaling of the same functions at other numbers of points; all points of a function share a scale."""
        return self._selected(layout, self.layout.spread(layout))

    def _selected(self, layout: Layout, tokens: np.ndarray) -> "Scaling":
        if self.affine is not None:
            raise DataError(
                "a conditional affine map belongs to all variables of its layout together; use a model without one"
            )
        robust, powers = jax.tree.map(lambda array: array[tokens], (self.robust, self.powers))
        return Scaling(layout, robust, powers=powers)

    @classmethod
    def fit(cls, layout: Layout, rows: np.ndarray, together: Iterable[str] = ()) -> "Scaling":
        """Fits the robust scaling to rows `(n, d)` of tokens in the user's units.

        The elements of each variable in `together` share a scale: a network that reads an image or a series as a whole
        should see it undistorted.

        Raises:
            DataError: a parameter is the same in every row, so that there is nothing to learn about it.

        Warns:
            UserWarning: a datum is (a count at the start of an epidemic); its width is its value, or one at zero.
        """
        shared = [layout.slices[name] for name in together]
        if shared:
            return cls._fit_shared(layout, rows, shared)
        u = supports.unconstrain(np.asarray(rows, np.float64), *layout.ends)
        constant = np.flatnonzero(np.ptp(u, axis=0) == 0)
        if constant.size:
            _refuse_constant(layout, constant, len(rows))
        half_line = np.isfinite(layout.ends[0]) ^ np.isfinite(layout.ends[1])
        min_gain = np.where(layout.is_parameter & half_line, MIN_GAIN_OF_PRIOR, MIN_GAIN)
        return cls(layout, RobustScaling.fit(u, min_gain), powers=supports.end_powers(rows, *layout.ends))

    @classmethod
    def _fit_shared(cls, layout: Layout, rows: np.ndarray, shared: list[slice]) -> "Scaling":
        """Fits one scale to a sample of all elements of each shared variable, and one to each other element."""
        scalings = []
        for v in layout.variables:
            block = layout.slices[v.name]
            if block not in shared:
                scalings.append(cls.fit(Layout((v,)), rows[:, block]).robust)
                continue
            sample = rows[:: max(1, rows[:, block].size // SAMPLED_NUMBERS), block].reshape(-1, 1)
            sample = sample[np.isfinite(sample[:, 0])]  # a function has no value where it has no point
            scalar = Layout((Variable(v.name, (), min(v.ends[0]), max(v.ends[1]), v.kind),))
            robust = cls.fit(scalar, sample).robust
            scalings.append(jax.tree.map(lambda array, v=v: np.broadcast_to(array, v.size), robust))
        robust = jax.tree.map(lambda *arrays: np.concatenate(arrays), *scalings)
        return cls(layout, robust, powers=supports.end_powers(rows, *layout.ends))

    def with_affine(self, affine: ConditionalAffine | None, rows: np.ndarray) -> "Scaling":
        """Returns this scaling with `affine`, if not None, fitted to training rows `(n, d)` in the user's units."""
        return self if affine is None else dataclasses.replace(self, affine=affine.fit(self.of_rows(rows)))

    def forward(self, x: ArrayLike) -> Float[Array, "*n d"]:
        """Maps tokens `(*n, d)` in the user's units to scaled ones, in single precision."""
        with np.errstate(all="ignore"):  # tokens that were not asked may be anything
            z = self.robust.forward(supports.unconstrain(x, *self.layout.ends)).astype(np.float32)
        return z if self.affine is None else _affine(self.affine.forward, z)

    def inverse(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """Maps scaled tokens `(*n, d)` back to the user's units, always inside the supports."""
        with np.errstate(all="ignore"):
            return supports.constrain(self.robust.inverse(self._without_affine(z)), *self.layout.ends)

    def log_slope(self, z: ArrayLike) -> Float[Array, "*n d"]:
        """Returns `log |dx/dz|` per token; log p(x) is log p(z) minus its sum over the latent tokens."""
        slope = self._elementwise_log_slope(self._without_affine(z))
        return slope if self.affine is None else slope + self.affine.log_slope(z)

    def density_point(self, x: ArrayLike, shares: ArrayLike = 1.0) -> supports.DensityPoint:
        """Returns where to evaluate the density of tokens, and what to add to the log of each, see `supports`.

        `shares` of the widths of elements are left by what is given, by which the region at an end is narrower, too.
        """
        near = supports.NEAR_END * np.asarray(shares) * (1.0 if self.affine is None else self.affine.shares)
        return supports.density_point(x, *self.layout.ends, self.powers, near)

    def gradient(self, z: Float[np.ndarray, "n d"], slope: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Returns the gradient by tokens in the user's units from `slope`, the gradient by scaled ones, at `z`."""
        v = self._without_affine(z)
        if self.affine is not None:
            slope = np.asarray(jax.vjp(self.affine.forward, jnp.asarray(v))[1](jnp.asarray(slope))[0])
        return slope * np.exp(-np.asarray(self._elementwise_log_slope(v), np.float64))

    def of_rows(self, rows: np.ndarray) -> Float[np.ndarray, "n d"]:
        """Returns `forward` of any number of rows `(n, d)`, computed in blocks of one shape."""
        return self._in_blocks(self.forward, rows)

    def to_rows(self, z: np.ndarray) -> Float[np.ndarray, "n d"]:
        """Returns `inverse` of any number of rows `(n, d)` in double precision, computed in blocks of one shape."""
        return self._in_blocks(self.inverse, z)

    def rounded(self, variable: Variable, values: np.ndarray) -> np.ndarray:
        """Returns values of a variable in single precision, unless that would cost more than 1e-4 of its width."""
        z = np.zeros(self.layout.size)
        rounding = np.finfo(np.float32).eps * np.abs(self.inverse(z))
        too_coarse = rounding > MAX_ROUNDING * np.exp(np.asarray(self.log_slope(z), np.float64))
        if too_coarse[self.layout.slices[variable.name]].any():
            return np.asarray(values, np.float64)
        # a function may have any number of points
        ends = (end[:1] if variable.axes else end.reshape(variable.shape) for end in variable.ends)
        return supports.single_precision(values, *ends)

    def _elementwise_log_slope(self, v: ArrayLike) -> Any:
        with np.errstate(all="ignore"):
            return supports.log_slope(self.robust.inverse(v), *self.layout.ends) + self.robust.log_slope(v)

    def _without_affine(self, z: ArrayLike) -> Any:
        return z if self.affine is None else _affine(self.affine.inverse, z)

    def _in_blocks(self, transform: Callable[[Any], Any], rows: np.ndarray) -> np.ndarray:
        size = max(1, min(MAX_ROWS_PER_BLOCK, MAX_NUMBERS_PER_BLOCK // self.layout.size))
        return in_blocks(lambda index, _: transform(rows[index]), len(rows), size)


def network_input_layout(layout: Layout) -> Layout:
    """Returns the layout of parameters used as network *inputs*: bounded parameters stay in the user's units.

    Mapping them to the real line would bend a linear dependence on them. Only sampled variables need that map.
    """

    def unbounded(variable: Variable) -> Variable:
        low, high = variable.ends
        bounded = np.isfinite(low) & np.isfinite(high)
        low, high = np.where(bounded, -np.inf, low), np.where(bounded, np.inf, high)
        return dataclasses.replace(variable, low=tuple(low.tolist()), high=tuple(high.tolist()))

    return Layout(tuple(unbounded(layout[name]) for name in layout.parameters))


def _affine(transform: Callable[[Array], Array], z: Any) -> Any:
    """Returns a map of the affine baseline, of NumPy arrays as NumPy arrays."""
    if not isinstance(z, np.ndarray):
        return transform(z)
    # on the processor, so that rows get ready while an accelerator is at work
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(_compiled(transform, jnp.asarray(z, jnp.float32)))


@eqx.filter_jit
def _compiled(transform: Callable[[Array], Array], z: Array) -> Array:
    return transform(z)


def _refuse_constant(layout: Layout, tokens: np.ndarray, rows: int) -> None:
    """Refuses constant parameters and warns of constant data; `tokens` are the same in all rows."""
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
                f"'{variable.name}' has {count} of {variable.size} elements that are the same in all {rows} rows and "
                "carry no information; leave them out of the simulator's output, or run more simulations",
                stacklevel=2,
            )
