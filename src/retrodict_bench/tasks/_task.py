"""Tasks: problems with known answers.

A task is a `Problem` with observations, numbered k = 1, 2, ..., the parameters behind them, and draws of the exact
posterior given each of them. All three are read on first use. If the problem has a plate, an observation is that of
many sites, and variables of a site have a leading site axis.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array

from retrodict import DataError, Problem
from retrodict._types import Key
from retrodict.query.functions import joined


Rows = Mapping[str, np.ndarray]
Conditional = Callable[[Any, Any, int, Key], np.ndarray]
LogJoint = Callable[[Mapping[str, Any]], Array]

OBSERVATIONS = 10  # of a task that is simulated


@dataclass(frozen=True)
class Task:
    """A problem with numbered observations whose posterior is known.

    Attributes:
        name: the name for `tasks.get`.
        problem: the prior and the simulator.
        observations: reads all observations, name to `(K, *shape)`.
        truths: reads the parameters behind them, name to `(K, *shape)`.
        references: reads the reference posteriors, name to `(K, draws, *shape)`.
        log_likelihood: the log density of one draw of the data given one draw of the parameters, every variable
            passed by its name; `None` if no formula is known.
        conditional: `conditional(roles, values, n, key)` draws n rows `(n, d)` of the latent tokens given the given
            ones, with the absent ones integrated out. Tokens are the elements of `theta`, then those of `x`. Given
            columns keep their values, absent ones are NaN. `None` if no exact sampler is known.
        structure: the keyword arguments of `rd.Dependencies`: `parents`, child to the list of its parents, by name or
            by element ("x[3]"), where a child that names itself depends on its earlier elements; and `exchangeable`,
            name to the number of equal parts whose order does not matter. `None` if nothing is declared.
        sites: the number of sites of every observation if the problem has a plate, else 0; `log_likelihood` is that
            of one site.
        log_joint: `log p(g) + sum_s [log p(eta_s | g) + log p(y_s | g, eta_s)]` of a problem with a plate. It takes a
            mapping from every name to its value, with a leading site axis for variables of a site. Minus infinity
            outside the prior's support. `None` if no formula is known.
    """

    name: str
    problem: Problem
    observations: Callable[[], Rows]
    truths: Callable[[], Rows]
    references: Callable[[], Rows]
    log_likelihood: Callable[..., Array] | None = None
    conditional: Conditional | None = None
    structure: Mapping[str, Any] | None = None
    sites: int = 0
    log_joint: LogJoint | None = None

    @property
    def count(self) -> int:
        """Returns the number of observations, K."""
        return len(next(iter(self.observations().values())))

    def observation(self, k: int = 1) -> dict[str, Any]:
        """Returns the k-th observation, name to `(*shape,)` or to `rd.At`; raises `DataError` if there is no such k."""
        return self._row(self.observations, k)

    def true_parameters(self, k: int = 1) -> dict[str, np.ndarray]:
        """Returns the parameters behind the k-th observation, functions on the grid of their prior.

        Raises:
            DataError: there is no such k, or the data are real and the parameters unknown.
        """
        return self._row(self.truths, k)

    def reference(self, k: int = 1) -> dict[str, np.ndarray]:
        """Returns draws `(n, *shape)` of the posterior given the k-th observation.

        Raises:
            DataError: there is no such k, or the task has no stored draws.
            FileError: their file is missing or damaged.
        """
        return self._row(self.references, k)

    def _row(self, read: Callable[[], Rows], k: int) -> dict[str, Any]:
        # checked first: a wrong k should not cost the reading of a file, nor look like a fault of the file
        if not 1 <= k <= self.count:
            numbers = f"k = 1 to {self.count}" if self.count > 1 else "k = 1"
            raise DataError(f"the observations of '{self.name}' have the numbers {numbers}, got {k}")
        return joined({name: rows[k - 1] for name, rows in read().items()})


def simulated_task(
    name: str, problem: Problem, *, seed: int, nuisances: int = 0, log_likelihood: Callable[..., Array] | None = None
) -> Task:
    """Returns a task with ten observations simulated from its prior and a fixed seed, without reference posteriors.

    Args:
        name: the name for `tasks.get`.
        problem: the prior and the simulator.
        seed: of the observations.
        nuisances: the number of nuisances over which the likelihood is an integral, for the error message.
        log_likelihood: the formula of the likelihood, if there is one.
    """

    @functools.cache
    def simulations() -> tuple[Rows, Rows]:
        key_parameters, key_data = jr.split(jr.key(seed))
        truths = jax.vmap(problem.prior.draw)(jr.split(key_parameters, OBSERVATIONS))
        data = jax.jit(jax.vmap(problem.run))(jr.split(key_data, OBSERVATIONS), truths)
        observed, true = ({k: frozen(np.array(v, np.float32)) for k, v in rows.items()} for rows in (data, truths))
        return observed, true

    def no_references() -> Rows:
        integral = f"its likelihood is an integral over {nuisances} nuisance{'s' * (nuisances != 1)}"
        reason = "there is `task.log_likelihood`" if log_likelihood else integral
        raise DataError(
            f"'{name}' has no reference posterior: {reason}; check a posterior with `retrodict.diagnostics`, against "
            "the true parameters of many simulations"
        )

    return Task(name, problem, lambda: simulations()[0], lambda: simulations()[1], no_references, log_likelihood)


def frozen(array: np.ndarray) -> np.ndarray:
    """Returns the array itself, made read-only: one array serves every caller."""
    array.setflags(write=False)
    return array
