"""Constraints on an answer, in the user's names and units.

    Interval(.5, 1.)                            in `given`: this variable lies between two ends (either may be None)
    Inequality({"a": 1., "b": [1., 2.]}, high=3.)      low <= sum of coefficients times values <= high
    Equality({"a": 1., "b": [1., 2.]}, 3.)      the same sum is 3, up to a fiftieth of its standard deviation
    Soft({"x": values}, sd=.1)                  values that were observed with a normal error
    LogConstraint(f, of=["a"])                  any differentiable log factor, f({"a": ...}) -> number
    Prior({"a": dist.Normal(1, .3)}, old=problem)      a prior in place of the one that the model was trained under

A polytope is several inequalities. A constraint becomes a guide (`retrodict.guidance`), a function of tokens in the
model's coordinates. Scaling is monotone per element, so an interval stays an interval.
"""

from retrodict.constraints._base import AbstractConstraint as AbstractConstraint
from retrodict.constraints._base import Units as Units
from retrodict.constraints._base import View as View
from retrodict.constraints._factors import LogConstraint as LogConstraint
from retrodict.constraints._factors import ReplacedPrior as Prior  # noqa: F401 - the public name of `ReplacedPrior`
from retrodict.constraints._factors import ReplacedPrior as ReplacedPrior
from retrodict.constraints._factors import Soft as Soft
from retrodict.constraints._interval import Between as Between
from retrodict.constraints._sums import Equality as Equality
from retrodict.constraints._sums import Inequality as Inequality
from retrodict.query.interval import Interval as Interval
