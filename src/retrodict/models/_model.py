"""The protocol of all models: named variables in, a query in tokens, named draws or densities out.

    given, of  --parse-->  Query  --refusal?-->  _sample, _log_prob  (tokens)  -->  draws, densities by name

A subclass implements `_sample`, and `_log_prob` where it has a density, for a parsed `Query`. Names, shapes, batches,
warnings, calibration records and files are handled here, once.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from retrodict._errors import FileError, QueryError, listed
from retrodict._runtime.precision import in_single_precision
from retrodict._runtime.tables import html_table
from retrodict._types import Key, as_key
from retrodict.constraints import AbstractConstraint
from retrodict.models._description import rows_about
from retrodict.models._doubts import TRAINABLE, answering, doubts_about
from retrodict.models._manifest import field_from_json, field_to_json
from retrodict.models._pure_functions import density_by_name, refuse_many
from retrodict.models._record import Calibration, Record, fingerprint
from retrodict.models._reference import ReferenceData
from retrodict.query import Batch, Query, count, parse, parse_values, unflatten
from retrodict.roles import GIVEN, LATENT
from retrodict.solvers import AbstractSolver
from retrodict.transforms import Scaling
from retrodict.variables import Layout


KINDS: dict[str, type["AbstractModel"]] = {}  # the name of a kind in files -> its class


class AbstractModel(eqx.Module):
    """A model that answers queries about named variables.

    Subclasses implement `_sample`, `_log_prob` where they have a density, and `refusal`, why they cannot answer.
    """

    if TYPE_CHECKING:  # fields or properties of a subclass

        @property
        def layout(self) -> Layout: ...
        @property
        def record(self) -> Record: ...
    else:
        layout: eqx.AbstractVar[Layout]
        record: eqx.AbstractVar[Record]
    kind: ClassVar[str] = ""
    of_sites: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("Abstract"):
            KINDS[cls.__dict__.get("kind") or cls.__name__] = cls

    @abc.abstractmethod
    def _sample(self, query: Query, n: int, *, solver: AbstractSolver | None, key: PRNGKeyArray) -> Any:
        """Returns `n` draws for each of m observations, tokens `(m, n, k)` of `query.answers` in the user's units.

        Tokens that are given or were not asked may be anything. Resampled draws are `ResampledTokens`.
        """

    def _log_prob(
        self, query: Query, rows: Float[np.ndarray, "n d"], *, solver: AbstractSolver | None, key: PRNGKeyArray
    ) -> Float[np.ndarray, " n"]:
        """Returns the log density `(n,)` of the latent tokens of every row, in the user's units.

        Rows hold latent and given elements; `query.roles` are `(1, d)`, or `(n, d)` where row i has observation i.
        """
        raise QueryError(f"a {type(self).__name__} has draws, but no density; {self._cure}")

    def refusal(self, query: Query) -> str | None:
        """Returns why this model cannot answer a query, in one sentence with the cure; None if it can."""
        if query.guided:
            return f"a {type(self).__name__} takes no constraints; {self._cure}"
        return None

    def _density_function(self, query: Query) -> Callable[[Array], Array]:
        """Returns the log density of one row of tokens `(d,)`, a function for JAX."""
        del query
        raise QueryError(f"a {type(self).__name__} has no density inside JAX; {self._cure}")

    def _sampler_function(self, query: Query) -> Callable[[PRNGKeyArray], Array]:
        """Returns the function from a key to one draw, tokens `(k,)` of `query.answers`, for JAX."""
        del query
        raise QueryError(f"a {type(self).__name__} has no draws inside JAX; {self._cure}")

    def _default_of(self, given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Returns what is asked where a question does not say it; None for all that `given` does not mention."""
        del given
        return None

    def as_flow(self, method: str) -> Any:
        """Returns the flow model that a method works on: this model.

        Raises:
            QueryError: this kind of model is no single flow.
        """
        raise QueryError(
            f"{method} takes a model of `rd.joint` and its relatives, not a {type(self).__name__}; {self._cure}"
        )

    @property
    def _cure(self) -> str:
        return "ask a model of `rd.joint`"

    @property
    def has_draws(self) -> bool:
        """Whether this kind of model has draws."""
        return True

    @property
    def has_density(self) -> bool:
        """Whether this kind of model has densities."""
        return type(self)._log_prob is not AbstractModel._log_prob

    @property
    def embedded(self) -> tuple[str, ...]:
        """The variables that a network reads as a whole; they can be given, not asked."""
        return ()

    @property
    def _pieces(self) -> dict[str, int]:
        """By embedded variable, the number of its axes along which parts may be missing."""
        return dict.fromkeys(self.embedded, 0)

    @property
    def coordinates(self) -> Scaling:
        """The map between the user's units and numbers of order one."""
        return Scaling.identity(self.layout)

    @property
    def description(self) -> dict[str, str]:
        """The parts it is made of, for reports and `print`."""
        return {"kind": type(self).__name__}

    def learned_to_predict(self, targets: np.ndarray, inputs: np.ndarray) -> bool:
        """Whether training asked for any of the elements `targets` given any of `inputs`, booleans `(d,)` each."""
        roles = np.where(targets, LATENT, np.where(inputs, GIVEN, 0)).astype(np.int32)[None]
        query = Query(self.layout, self.modeled, roles, np.zeros(roles.shape), ())
        return bool((roles == LATENT).any()) and self.refusal(query) is None

    @property
    def modeled(self) -> Layout:
        """The layout of the variables that can be asked."""
        return self.layout.without((*self.embedded, *self.layout.places))

    @property
    def trained(self) -> bool:
        """Whether `fit` has seen this model."""
        return self.record.steps > 0

    @property
    def calibration(self) -> Record:
        """The record, with the checks and solvers alone that belong to the present weights."""
        return self.record.of(fingerprint(self)) if self.record.calibrations or self.record.solvers else self.record

    @property
    def reference(self) -> ReferenceData | None:
        """Simulated rows and limits, by which it knows values that are unlike them."""
        return self.record.familiar

    def without_warnings(self) -> Self:
        """Returns the model with nothing in its record but solvers, so that it does not warn."""
        return self._with_record(Record(solvers=self.record.solvers, quiet=True))

    def with_calibration(self, calibration: Calibration, reference: ReferenceData | None) -> Self:
        """Returns the model with the outcome of a check in its record, see `Record.checked`."""
        return self._with_record(self.record.checked(calibration, reference))

    def _with_record(self, record: Record) -> Self:
        return dataclasses.replace(self, record=record)  # type: ignore[call-arg]

    def parse(
        self,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        *,
        guide: Sequence[AbstractConstraint] = (),
        strength: float = 1.0,
        correct: bool = True,
        sites: int | None = None,
    ) -> Query:
        """Turns a question in names into a `Query` that this model can answer; arguments are those of `sample`.

        Raises:
            QueryError, DataError: as `sample`.
        """
        if sites is not None:
            raise QueryError("`sites` is for a model of many sites: rd.hierarchical")
        of = self._default_of(given) if of is None else of
        query = parse(self.layout, given, of, guide=guide, strength=strength, correct=correct, embedded=self._pieces)
        return self._accepted(query)

    def _accepted(self, query: Query) -> Query:
        if reason := self.refusal(query):
            raise QueryError(reason)
        return query

    @in_single_precision
    def sample(
        self,
        n: int,
        *,
        given: Mapping[str, Any] | None = None,
        of: Iterable[str] | Mapping[str, Any] | None = None,
        guide: Sequence[AbstractConstraint] = (),
        strength: float = 1.0,
        correct: bool = True,
        sites: int | None = None,
        solver: AbstractSolver | None = None,
        key: Key,
    ) -> dict[str, np.ndarray]:
        """Draws the variables `of`, `(n, *shape)` each, given the values `given`.

        NaN in `given` means not observed. `of` defaults to the variables that `given` does not mention; where it
        mentions all, to those with missing elements. Variables in neither are integrated out. `of={name: mask}` asks
        for some elements, and the others come back as NaN. With `given=rd.Batch({...})` of B observations the draws
        are `(B, n, *shape)`.

        A function is given as `rd.At(points, values)` and asked by `of={name: rd.At(points)}`; its values may be an
        `rd.Interval`. In a Batch, both have a leading axis, NaN where an observation has fewer points.

        Args:
            guide: constraints on the answer, besides `rd.Interval`s in `given`. Draws are then guided, weighted by
                what guidance got wrong, and resampled, with their `.effective_size`; `guided` shows the weights.
            strength: above 1, what is given counts more than once (classifier-free guidance).
            correct: False for the draws of guidance alone, by any solver.
            sites: of a model of many sites, their number; the last ones are new where fewer are given.
            solver: from noise to draws; by default the model's choice.

        Raises:
            QueryError: a wrong name, nothing left to ask, `n` below 1, or a query that this model cannot answer.
            DataError: a value of the wrong shape or type, or outside its support.

        Warns:
            CalibrationWarning: checks speak against the query, values are unlike the simulations, or it is untrained.
            GuidanceWarning, WeightingWarning, SolverWarning: draws are half copies, or no solver is good enough.
        """
        n = count(n)
        query = self.parse(given, of, guide=guide, strength=strength, correct=correct, sites=sites)
        with answering(lambda: self._doubts(query)):
            draws = query.named(self._sample(query, n, solver=solver, key=as_key(key)))
        draws |= {name: self.coordinates.rounded(query.layout[name], values) for name, values in draws.items()}
        return draws

    @in_single_precision
    def log_prob(
        self,
        values: Mapping[str, Any],
        *,
        given: Mapping[str, Any] | None = None,
        solver: AbstractSolver | None = None,
        key: Key = 0,
    ) -> np.ndarray:
        """Returns the log density `(n,)` of values `(n, *shape)`, in the user's units, given the values `given`.

        One value `shape` has one density, `()`. Variables in neither are integrated out, and so are elements that are
        NaN in every row. With `given=rd.Batch({...})` of n observations, row i of `values` is paired with observation
        i. Outside the supports the log density is minus infinity.

        Raises:
            QueryError: a wrong name, a name both asked and given, or a query that this model cannot answer.
            DataError: a value of the wrong shape or type, or NaN in some rows only.
        """
        query, rows, single = self._parse_values(values, given)
        query = self._accepted(query)
        with answering(lambda: self._doubts(query, draws=False)):
            everywhere = self._log_prob(query, rows, solver=solver, key=as_key(key))
        log_probs = np.where(query.inside(rows), everywhere, -np.inf)
        return log_probs[0] if single else log_probs

    def _parse_values(
        self, values: Mapping[str, Any], given: Mapping[str, Any] | None
    ) -> tuple[Query, np.ndarray, bool]:
        return parse_values(self.layout, values, given, embedded=self._pieces)

    def doubts(
        self, given: Mapping[str, Any] | None = None, of: Iterable[str] | Mapping[str, Any] | None = None
    ) -> list[str]:
        """Returns what the calibration has to say against a query, a sentence each; `sample` warns of them."""
        return self._doubts(self.parse(given, of))

    concerns = doubts  # the name of earlier versions

    def _doubts(self, query: Query, *, draws: bool = True) -> list[str]:
        blank = type(self).kind in TRAINABLE and not (self.trained or self.record.calibrations)
        return doubts_about(self.calibration, query, self.reference, self.coordinates, untrained=blank, draws=draws)

    def predictive(self, draws: Mapping[str, Any], *, key: Key = 0) -> dict[str, np.ndarray]:
        """Draws the posterior predictive: for every draw of the parameters, `(n, *shape)` each, one draw of all data.

        The data come from this model; `rd.simulate_at(problem, draws)` runs the simulator instead.
        """
        if missing := [name for name in self.layout.parameters if name not in draws]:
            raise QueryError(f"`draws` lacks {listed(missing)}; the posterior predictive needs all parameters")
        parameters = {name: draws[name] for name in self.layout.parameters}
        data = [name for name in self.modeled.data if name not in self.layout.functions]
        data_draws = self.without_warnings().sample(1, given=Batch(parameters), of=data, key=key)
        return {name: values[:, 0] for name, values in data_draws.items()}

    # inside JAX -----------------------------------------------------------------------------------------------------

    @in_single_precision
    def log_density(
        self, *, given: Mapping[str, Any] | None = None, of: Iterable[str] | None = None
    ) -> Callable[[Mapping[str, Any]], Float[Array, ""]]:
        """Returns the log density of one value of every variable in `of`, a pure function for `jit`, `grad` and `vmap`.

        It maps `{name: shape}` to a number, minus infinity outside the supports. `given` is one observation.

        Raises:
            QueryError: a query that this model cannot answer, or a kind of model without such a function.
            DataError: a value of the wrong shape or type.
        """
        query = self.parse(given, of)
        refuse_many(query)
        return density_by_name(query, self._density_function(query))

    @in_single_precision
    def sampler(
        self, *, given: Mapping[str, Any] | None = None, of: Iterable[str] | None = None
    ) -> Callable[[PRNGKeyArray], dict[str, Array]]:
        """Returns the function from a key to one draw `{name: shape}`, pure; errors are those of `log_density`."""
        query = self.parse(given, of)
        refuse_many(query)
        draw = in_single_precision(self._sampler_function(query))
        return lambda key: unflatten(query.answers, draw(key), query.of)

    # files ----------------------------------------------------------------------------------------------------------

    def to_manifest(self) -> dict[str, Any]:
        """Returns everything about this model that is no array, as JSON; by default field by field.

        Raises:
            FileError: a field that files do not know; a kind with such fields has methods of its own.
        """
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value: Any = self.calibration if field.name == "record" else getattr(self, field.name)
            if isinstance(value, AbstractModel):
                fields[field.name] = {"model": manifest_of(value)}
            else:
                fields[field.name] = field_to_json(type(self).__name__, field.name, value)
        return fields

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Returns a model of the same shape; its numbers are still to be read."""
        values = {field.name: manifest[field.name] for field in dataclasses.fields(cls)}
        nested = {k: value["model"] for k, value in values.items() if isinstance(value, dict) and "model" in value}
        plain = {name: field_from_json(value) for name, value in values.items() if name not in nested}
        return cls(**plain, **{name: skeleton_of(value) for name, value in nested.items()})

    def _rows(self) -> list[tuple[str, str]]:
        return rows_about(self.layout, self.description, self.calibration, trained=self.trained)

    def __repr__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join([type(self).__name__, *(f"  {name:{width}}  {value}" for name, value in rows)])

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self._rows())


def manifest_of(model: AbstractModel) -> dict[str, Any]:
    """Returns the manifest of a model, with the name of its kind."""
    return {"kind": type(model).kind or type(model).__name__, **model.to_manifest()}


def skeleton_of(manifest: Mapping[str, Any]) -> Any:
    """Returns a model of the right shapes; its numbers are still to be read.

    Raises:
        FileError: a kind that this version does not know.
    """
    kind = manifest.get("kind", "flow")  # files of schema 2 do not name it
    if kind not in KINDS:
        raise FileError(f"the file holds a model of the kind '{kind}', which this version does not know")
    return KINDS[kind].from_manifest(manifest)


def model_for(method: str, model: object) -> AbstractModel:
    """Returns the model that a method was handed.

    Raises:
        QueryError: it is no model.
    """
    if not isinstance(model, AbstractModel):
        raise QueryError(f"{method} takes a model such as rd.joint(sims.layout), got {type(model).__name__}")
    return model
