"""Hierarchical two moons: sites scattered in a square, each with a posterior of two crescents.

    loc ~ U(-1, 1)^2,   scale ~ U(.1, 3)^2
    theta_s ~ N(loc, diag scale^2) truncated to (-1, 1)^2,   x_s as `two_moons` draws it given theta_s

The two crescents lie on both sides of the line theta_0 + theta_1 = 0. The shared law of the sites makes their weights
unequal.
"""

from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Plate, Problem
from retrodict_bench.tasks import two_moons
from retrodict_bench.tasks._sites import sites_task, truncated_normal
from retrodict_bench.tasks._task import Task


REACH, SCALES = 1.0, (0.1, 3.0)


def simulate(
    key: PRNGKeyArray, loc: Float[Array, "2"], scale: Float[Array, "2"], theta: Float[Array, "2"]
) -> dict[str, Array]:
    """Draws `x` (2,) of one site."""
    return two_moons.simulate(key, theta)


def log_likelihood(
    *, loc: Float[Array, "2"], scale: Float[Array, "2"], theta: Float[Array, "2"], x: Float[Array, "2"]
) -> Array:
    """Returns log p(x | theta) of one site; minus infinity left of the half circle."""
    return two_moons.log_likelihood(theta, x)


def task() -> Task:
    """Returns the task: `loc` and `scale` (2,), and for each of fifty sites `theta` and `x` (2,); no references."""
    import numpyro.distributions as dist

    prior = {
        "loc": dist.Uniform(-REACH, REACH).expand((2,)).to_event(1),
        "scale": dist.Uniform(*SCALES).expand((2,)).to_event(1),
        "site": Plate("site", {"theta": truncated_normal(REACH)}),
    }
    return sites_task("h_two_moons", Problem(prior, simulate), log_likelihood, seed=140)
