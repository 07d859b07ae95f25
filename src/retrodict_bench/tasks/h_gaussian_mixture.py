"""Hierarchical Gaussian mixture: sites scattered in a box, each seen well or badly.

    loc ~ U(-10, 10)^2,   scale ~ HalfNormal(1)^2
    theta_s ~ N(loc, diag scale^2) cut to (-10, 10)^2,   x_s ~ 1/2 N(theta_s, I) + 1/2 N(theta_s, .01 I)

One coin is thrown for both elements of x_s.
"""

from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from retrodict.problem import Plate, Problem
from retrodict_bench.tasks import gaussian_mixture
from retrodict_bench.tasks._sites import sites_task
from retrodict_bench.tasks._task import Task


REACH = 10.0


def simulate(
    key: PRNGKeyArray, loc: Float[Array, "2"], scale: Float[Array, "2"], theta: Float[Array, "2"]
) -> dict[str, Array]:
    """One draw of `x` (2,) of one site."""
    return gaussian_mixture.simulate(key, theta)


def log_likelihood(
    *, loc: Float[Array, "2"], scale: Float[Array, "2"], theta: Float[Array, "2"], x: Float[Array, "2"]
) -> Array:
    """log p(x | theta) of one site."""
    return gaussian_mixture.log_likelihood(theta, x)


def own(loc: Float[Array, "2"], scale: Float[Array, "2"]) -> Any:
    """The law of a site's `theta`; its support does not move."""
    import numpyro.distributions as dist

    return dist.TruncatedNormal(loc, scale, low=-REACH, high=REACH).to_event(1)


def task() -> Task:
    """`loc` and `scale` (2,), and of every site `theta` and `x` (2,); fifty sites, no references."""
    import numpyro.distributions as dist

    prior = {
        "loc": dist.Uniform(-REACH, REACH).expand((2,)).to_event(1),
        "scale": dist.HalfNormal(1.0).expand((2,)).to_event(1),
        "site": Plate("site", {"theta": own}),
    }
    return sites_task("h_gaussian_mixture", Problem(prior, simulate), log_likelihood, seed=130)
