"""SLCP with distractors: the eight numbers of `slcp` among 92 that do not depend on theta.

    d ~ 1/20 sum_c T(m_c, L_c L_c'),    c = 1, ..., 20,  Student's t with two degrees of freedom in 92 dimensions
    x = (eight numbers of slcp, then d), permuted

m, L and the permutation are those of sbibm, in `slcp_distractors.npz`. d is independent of theta, hence the posterior
is that of slcp.
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Problem
from retrodict_bench.tasks import slcp
from retrodict_bench.tasks._sbibm import sbibm_task, small
from retrodict_bench.tasks._task import Task


COMPONENTS, DISTRACTORS, FREEDOM = 20, 92, 2.0
FILE = "slcp_distractors.npz"


def _scales() -> Float[np.ndarray, "20 92 92"]:
    """Returns L; the file holds its lower triangles."""
    scales = np.zeros((COMPONENTS, DISTRACTORS, DISTRACTORS), np.float32)
    scales[(slice(None), *np.tril_indices(DISTRACTORS))] = small("tril", FILE)
    return scales


def simulate(key: PRNGKeyArray, theta: Float[Array, "5"]) -> dict[str, Array]:
    """Draws `x` (100,) given `theta` (5,)."""
    key_slcp, key_component, key_normal, key_chi = jr.split(key, 4)
    component = jr.randint(key_component, (), 0, COMPONENTS)
    # one length for the whole vector: chi^2 with two degrees of freedom is twice an exponential
    length = jnp.sqrt(FREEDOM / (2.0 * jr.exponential(key_chi)))
    z = jr.normal(key_normal, (DISTRACTORS,))
    # L z of all twenty components: choosing L first would copy a matrix for every row of a batch
    d = jnp.asarray(small("loc", FILE))[component] + length * (_scales() @ z)[component]
    return {"x": jnp.concatenate([slcp.simulate(key_slcp, theta)["x"], d])[_places()]}


def informative() -> np.ndarray:
    """Returns the indices in x of the eight numbers of slcp, in their order."""
    return small("order", FILE)[: 2 * slcp.POINTS].astype(int)


def _places() -> np.ndarray:
    return np.argsort(small("order", FILE))


def log_likelihood(theta: Float[Array, "5"], x: Float[Array, "100"]) -> Float[Array, ""]:
    """Returns log p(x | theta) up to log p(d), which does not depend on theta."""
    return slcp.log_likelihood(theta, x[informative()])


def task() -> Task:
    """Returns the task of sbibm: theta ~ U(-3, 3)^5 and x (100,). Its `structure` does not declare the distractors."""
    problem = Problem(slcp.prior(), simulate)
    structure = {"parents": {"x": ["theta", "x"]}}
    return sbibm_task("slcp_distractors", problem, log_likelihood, reference="slcp", structure=structure)
