"""Tuning: the solver of a model, chosen once and kept with it.

`rd.solvers.Auto` chooses when a query is first asked, anew in every process, and by observations that the model makes
up itself. `tune` measures beforehand, on simulations if there are some, and the record keeps the choice.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from retrodict._errors import QueryError, listed
from retrodict._runtime.precision import in_single_precision
from retrodict.evaluation._check_rows import given_in_rows, held_out_tokens
from retrodict.models import AbstractModel, Choice, FlowModel, model_for
from retrodict.models._auto_solver import OBSERVATIONS, Observations, measured, typical
from retrodict.query import unflatten
from retrodict.roles import GIVEN
from retrodict.solvers import Auto, to_json


@in_single_precision
def tune(
    model: AbstractModel,
    *,
    given: Iterable[str] | Mapping[str, Any],
    of: Iterable[str] | None = None,
    solver: Auto | None = None,
    kind: Literal["draws", "densities"] = "draws",
    sims: Mapping[str, Any] | None = None,
) -> tuple[FlowModel, Choice]:
    """Chooses a solver for one family of queries, as `rd.solvers.Auto` says; the returned model keeps the choice.

    The choice is in `model.record.solvers`, which `rd.save` keeps: with the same `Auto`, this family of queries is not
    measured again. Further training, or any change of the weights, drops it.

    Args:
        given: names of what is given; or a mapping from name to booleans `shape`, the elements that are.
        of: names of what is asked; by default all that `given` does not name.
        solver: the wanted error and the candidates; `rd.solvers.Auto()` by default.
        kind: "draws" for `sample`, "densities" for `log_prob` and its relatives.
        sims: simulations `{name: (n, *shape)}`, at least 50, to measure on; by default the model's own observations.

    Raises:
        QueryError: a question that this model cannot answer, a candidate that no file can name, or functions.
        DataError: simulations of the wrong names or shapes, or too few.
    """
    flow = model_for("tune", model).as_flow("tune")
    if flow.layout.functions:
        raise QueryError(f"tune is not offered for models with functions ({listed(flow.layout.functions)})")
    auto = Auto() if solver is None else solver
    if not isinstance(auto, Auto):
        raise QueryError(f"tune chooses for `rd.solvers.Auto(error=...)`, got {type(auto).__name__}")
    for candidate in auto.candidates:
        to_json(candidate)
    middle = flow.scaling.inverse(np.zeros((1, flow.layout.size)))
    rows = np.asarray(middle) if sims is None else _spread(held_out_tokens(flow, sims))
    observed = given_in_rows(flow.layout, given, unflatten(flow.layout, rows, flow.layout.names))
    query = flow.parse(observed, of)
    if sims is None:
        observations = typical(flow, query.roles, query.values[0])
    else:
        z = np.where(query.roles == GIVEN, flow.scaling.forward(query.values), 0.0)
        observations = Observations(z.astype(np.float32), query.roles)
    choice = measured(flow, observations, auto, kind)
    return dataclasses.replace(flow, record=flow.record.tuned(choice)), choice


def _spread(tokens: np.ndarray) -> np.ndarray:
    """Returns rows spread evenly from the first to the last."""
    return tokens[np.linspace(0, len(tokens) - 1, OBSERVATIONS).astype(int)]
