"""Tuning: the solver that a model draws with, chosen once and kept with it.

`rd.solvers.Auto` chooses when a question is first asked, anew in every process, and by observations that the model
makes up itself. `tune` measures beforehand, on simulations if there are some, and the record carries what was found.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from retrodict._errors import QueryError, listed
from retrodict.evaluation import known_of, tokens_of
from retrodict.models import Choice, FlowModel
from retrodict.models._auto_solver import OBSERVATIONS, Asked, measured, typical
from retrodict.models._flow_answers import questioned
from retrodict.query.tokens import unflatten
from retrodict.roles import GIVEN
from retrodict.solvers import Auto, to_json


def tune(
    model: FlowModel,
    *,
    given: Iterable[str] | Mapping[str, Any],
    of: Iterable[str] | None = None,
    solver: Auto | None = None,
    kind: Literal["draws", "densities"] = "draws",
    sims: Mapping[str, Any] | None = None,
) -> tuple[FlowModel, Choice]:
    """Chooses a solver for one family of questions, as `rd.solvers.Auto` says; returns the model that keeps the choice.

    The choice is in `model.record.solvers`, which `rd.save` keeps: asked with the same `Auto`, this family of questions
    is measured no more. Further training, or any change of the weights, drops it.

    Args:
        given: names of what is known; or a mapping from name to booleans `shape`, the elements that are.
        of: names of what is asked; by default all that `given` does not name.
        solver: the error that is wanted, and the candidates; `rd.solvers.Auto()` by default.
        kind: "draws" for `sample`, "densities" for `log_prob` and its relatives.
        sims: simulations `{name: (n, *shape)}`, at least 50, to measure on; by default the model's own observations.

    Raises:
        QueryError: a question that this model cannot answer, a candidate that no file can name, or functions.
        DataError: simulations of the wrong names or shapes, or too few.
    """
    if not isinstance(model, FlowModel):
        raise QueryError(f"tune takes a model of `rd.joint` and its relatives, not a {type(model).__name__}")
    if model.layout.functions:
        raise QueryError(f"tune is not offered for models with functions ({listed(model.layout.functions)})")
    auto = Auto() if solver is None else solver
    if not isinstance(auto, Auto):
        raise QueryError(f"tune chooses for `rd.solvers.Auto(error=...)`, got {type(auto).__name__}")
    for candidate in auto.candidates:
        to_json(candidate)
    middle = model.scaling.inverse(np.zeros((1, model.layout.size)))
    rows = np.asarray(middle) if sims is None else _some(tokens_of(model, sims))
    question = questioned(model, known_of(model, given, unflatten(model.layout, rows, model.layout.names)), of)
    if sims is None:
        asked = typical(model, question.roles, question.values[0])
    else:
        z = np.where(question.roles == GIVEN, model.scaling.forward(question.values), 0.0)
        asked = Asked(z.astype(np.float32), question.roles)
    choice = measured(model, asked, auto, kind)
    return dataclasses.replace(model, record=model.record.tuned(choice)), choice


def _some(tokens: np.ndarray) -> np.ndarray:
    """Rows from the first to the last."""
    return tokens[np.linspace(0, len(tokens) - 1, OBSERVATIONS).astype(int)]
