"""Tasks: problems of which the answer is known.

A task is a `Problem` with observations, numbered k = 1, 2, ..., the parameters that made them, and draws of the exact
posterior given each of them. The three are read when they are asked for, never before. Where the problem has a plate,
an observation is that of many sites, and what each of them has for itself comes with a leading site axis.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array

from retrodict._errors import DataError
from retrodict._types import Key
from retrodict.problem import Problem
from retrodict.query.functions import joined


Rows = Mapping[str, np.ndarray]
Conditional = Callable[[Any, Any, int, Key], np.ndarray]
LogJoint = Callable[[Mapping[str, Any]], Array]

OBSERVATIONS = 10  # of a task that is simulated


@dataclass(frozen=True)
class Task:
    """A problem with numbered observations of which the posterior is known.

    Attributes:
        name: what `tasks.get` calls it.
        problem: the prior and the simulator.
        observations: reads all observations, name to `(K, *shape)`.
        truths: reads the parameters that made them, name to `(K, *shape)`.
        references: reads the reference posteriors, name to `(K, draws, *shape)`.
        log_likelihood: the log density of one draw of the data given one draw of the parameters, every variable
            passed by its name; `None` where no formula is known.
        conditional: `conditional(roles, values, n, key)`, n draws `(n, d)` of the latent tokens given the given ones,
            the absent ones integrated out; tokens are the elements of `theta`, then those of `x`. Given columns come
            back as given, absent ones as NaN. `None` where no exact sampler is known.
        structure: what depends on what, as `rd.Dependencies(**task.structure)` takes it: `parents`, child to the list
            of its parents, by name or by element ("x[3]"), where a child that names itself depends on its own earlier
            elements; and `exchangeable`, name to the number of equal parts that may change places. `None`: not said.
        sites: of a problem with a plate, how many sites every observation has; `log_likelihood` is that of one site.
        log_joint: of a problem with a plate, `log p(g) + sum_s [log p(eta_s | g) + log p(y_s | g, eta_s)]` of one
            mapping from every name to its value, with a leading site axis where a site has it for itself; minus
            infinity outside of the prior's support. `None` where no formula is known.
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
        """The number of observations, K."""
        return len(next(iter(self.observations().values())))

    def observation(self, k: int = 1) -> dict[str, Any]:
        """The k-th observation, name to `(*shape,)`, or to `rd.At`; `DataError` if there is no such k."""
        return self._row(self.observations, k)

    def true_parameters(self, k: int = 1) -> dict[str, np.ndarray]:
        """The parameters that made the k-th observation, functions on the grid of their prior.

        Raises:
            DataError: there is no such k, or nobody knows them.
        """
        return self._row(self.truths, k)

    def reference(self, k: int = 1) -> dict[str, np.ndarray]:
        """Draws `(n, *shape)` of the posterior given the k-th observation.

        Raises:
            DataError: there is no such k, or the task has no stored draws.
            FileError: the file that holds them is not here, or is damaged.
        """
        return self._row(self.references, k)

    def _row(self, read: Callable[[], Rows], k: int) -> dict[str, Any]:
        # asked first: a wrong k should not cost the reading of a file, nor be blamed on it
        if not 1 <= k <= self.count:
            numbers = f"k = 1 to {self.count}" if self.count > 1 else "k = 1"
            raise DataError(f"the observations of '{self.name}' have the numbers {numbers}, got {k}")
        return joined({name: rows[k - 1] for name, rows in read().items()})


def simulated_task(
    name: str, problem: Problem, *, seed: int, nuisances: int = 0, log_likelihood: Callable[..., Array] | None = None
) -> Task:
    """A task whose ten observations are drawn from its prior and a fixed seed, and whose posterior nobody knows: its
    likelihood is an integral over so many `nuisances`, or has the formula `log_likelihood`."""

    @functools.cache
    def drawn() -> tuple[Rows, Rows]:
        key_parameters, key_data = jr.split(jr.key(seed))
        truths = jax.vmap(problem.prior.draw)(jr.split(key_parameters, OBSERVATIONS))
        data = jax.jit(jax.vmap(problem.run))(jr.split(key_data, OBSERVATIONS), truths)
        observed, true = ({k: frozen(np.array(v, np.float32)) for k, v in rows.items()} for rows in (data, truths))
        return observed, true

    def no_references() -> Rows:
        some = f"{nuisances} nuisance{'s' * (nuisances != 1)}"
        why = "there is `task.log_likelihood`" if log_likelihood else f"its likelihood is an integral over {some}"
        raise DataError(
            f"'{name}' has no reference posterior: {why}; check a posterior with `retrodict.diagnostics`, against the "
            "true parameters of many simulations"
        )

    return Task(name, problem, lambda: drawn()[0], lambda: drawn()[1], no_references, log_likelihood)


def frozen(array: np.ndarray) -> np.ndarray:
    """The array itself, which nobody may write into any more: one array serves every caller."""
    array.setflags(write=False)
    return array
