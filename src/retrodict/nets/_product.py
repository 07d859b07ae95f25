"""The product of rows and a matrix, `x W`, with gradients that a CPU computes as fast as the product itself.

    y = x W          dx = dy W'          dW = x' dy, summed over rows

On a CPU, XLA computes `x' dy` slowly, because it reads x along the slow axis; here x is transposed in memory first.
Networks are written for one row and batched by `vmap`, and JAX offers no rule for gradients after `vmap`. The product
is therefore a primitive. It is bilinear, and so differentiable in every mode and to every order.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from retrodict._runtime.compile_cache import loops_are_cheap


_product = Primitive("rows_times_matrix")


def product(x: Float[Array, "*n i"], matrix: Float[Array, "i o"]) -> Float[Array, "*n o"]:
    """Multiplies `x` by `matrix`, over the last axis of `x`."""
    dtype = jnp.result_type(x, matrix)
    return _product.bind(x.astype(dtype), matrix.astype(dtype))


def _multiply(x: Array, matrix: Array) -> Array:
    return jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())))


def _gradient_by_rows(cotangent: Array, x: Any, matrix: Array) -> Array:
    """Returns the gradient by x; `x` itself is no array here."""
    del x
    return product(cotangent, matrix.T)


def _gradient_by_matrix(cotangent: Array, x: Array, matrix: Any) -> Array:
    """Returns the gradient by the matrix; `matrix` itself is no array here."""
    del matrix
    transposed = x.reshape(-1, x.shape[-1]).T
    if jax.default_backend() == "cpu" and loops_are_cheap():
        transposed = jax.lax.optimization_barrier(transposed)  # else XLA merges it into the product again
    return product(transposed, cotangent.reshape(-1, cotangent.shape[-1]))


def _batched(arrays: tuple[Array, Array], axes: tuple[int | None, int | None]) -> tuple[Array, int]:
    """Batches the product: a batch of rows is one product of more rows, a batch of matrices is a product for each."""
    (x, matrix), (x_axis, matrix_axis) = arrays, axes
    if matrix_axis is None and x_axis is not None:
        return product(jnp.moveaxis(x, x_axis, 0), matrix), 0
    return jax.vmap(_multiply, (x_axis, matrix_axis))(x, matrix), 0


_product.def_impl(jax.jit(_multiply))
_product.def_abstract_eval(lambda x, matrix: jax.core.ShapedArray((*x.shape[:-1], matrix.shape[1]), x.dtype))
mlir.register_lowering(_product, mlir.lower_fun(_multiply, multiple_results=False))
batching.primitive_batchers[_product] = _batched
ad.defbilinear(_product, _gradient_by_rows, _gradient_by_matrix)
