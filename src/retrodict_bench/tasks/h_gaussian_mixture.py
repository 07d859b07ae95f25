"""Hierarchical Gaussian mixture: sites scattered in a box, each observed with small or large noise.

    loc ~ U(-10, 10)^2,   scale ~ HalfNormal(1)^2
    theta_s ~ N(loc, diag scale^2) truncated to (-10, 10)^2,   x_s ~ 1/2 N(theta_s, I) + 1/2 N(theta_s, .01 I)

One coin is thrown for both elements of x_s.
"""

from jaxtyping import Array, Float, PRNGKeyArray

from retrodict import Plate, Problem
from retrodict_bench.tasks import gaussian_mixture
from retrodict_bench.tasks._sites import sites_task, truncated_normal
from retrodict_bench.tasks._task import Task


REACH = 10.0


def simulate(
    key: PRNGKeyArray, loc: Float[Array, "2"], scale: Float[Array, "2"], theta: Float[Array, "2"]
) -> dict[str, Array]:
    """Draws `x` (2,) of one site."""
    return gaussian_mixture.simulate(key, theta)


def log_likelihood(
    *, loc: Float[Array, "2"], scale: Float[Array, "2"], theta: Float[Array, "2"], x: Float[Array, "2"]
) -> Array:
    """Returns log p(x | theta) of one site."""
    return gaussian_mixture.log_likelihood(theta, x)


def task() -> Task:
    """Returns the task: `loc` and `scale` (2,), and for each of fifty sites `theta` and `x` (2,); no references."""
    import numpyro.distributions as dist

    prior = {
        "loc": dist.Uniform(-REACH, REACH).expand((2,)).to_event(1),
        "scale": dist.HalfNormal(1.0).expand((2,)).to_event(1),
        "site": Plate("site", {"theta": truncated_normal(REACH)}),
    }
    return sites_task("h_gaussian_mixture", Problem(prior, simulate), log_likelihood, seed=130)
