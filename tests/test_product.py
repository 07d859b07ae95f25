"""The product of rows and a matrix: the same numbers as `x @ W`, in every mode of differentiation."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from retrodict.nets._product import product


X = jr.normal(jr.key(0), (7, 3, 5))
W = jr.normal(jr.key(1), (5, 4))
V = jr.normal(jr.key(2), (4, 2))


def at_once(multiply):
    return lambda x, w: multiply(jnp.tanh(multiply(x, w)), V).sum(-1)


def row_by_row(multiply):
    """As networks are written."""
    return jax.vmap(at_once(multiply), (0, None))


QUESTIONS = {
    "values": lambda f: f(X, W),
    "gradient": lambda f: jax.grad(lambda x, w: (f(x, w) ** 2).sum(), (0, 1))(X, W),
    "slope along": lambda f: jax.jvp(f, (X, W), (X[::-1], W[::-1])),
    "slope of gradient": lambda f: jax.jvp(
        jax.grad(lambda x, w: (f(x, w) ** 2).sum(), (0, 1)), (X, W), (X[::-1], 0.3 * W)
    ),
    "gradient of slope": lambda f: jax.grad(lambda w: (jax.jvp(f, (X, w), (X[::-1], w))[1] ** 2).sum())(W),
    "matrices": lambda f: jax.vmap(f, (None, 0))(X, jnp.stack([W, -W])),
    "matrices and rows": lambda f: jax.vmap(f, (1, 2))(X, jnp.stack([W, -W, 2 * W], axis=2)),
    "gradient by matrices": lambda f: jax.vmap(jax.grad(lambda w: (f(X, w) ** 2).sum()))(jnp.stack([W, -W])),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "compiled"])
def test_it_answers_as_the_product_of_the_library_does(question, around):
    for written in (at_once, row_by_row):
        ours, theirs = (around(partial(QUESTIONS[question], written(multiply)))() for multiply in (product, jnp.matmul))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), ours, theirs)


@pytest.mark.parametrize("flags", ["", "--xla_backend_optimization_level=0"])
def test_the_gradient_by_the_matrix_reads_rows_that_were_turned_where_turning_is_cheap(flags, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    slope = jax.jit(jax.grad(lambda w: (row_by_row(product)(X, w) ** 2).sum()))
    assert ("optimization_barrier" in slope.lower(W).as_text()) == (jax.default_backend() == "cpu" and not flags)


def test_numbers_of_two_kinds_are_promoted():
    assert product(jnp.arange(3), jnp.ones((3, 2))).tolist() == [3.0, 3.0]
