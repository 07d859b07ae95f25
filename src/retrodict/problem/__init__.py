"""Problems: a prior and a simulator."""

from retrodict.problem._prior import AbstractPrior as AbstractPrior
from retrodict.problem._prior import Draw as Draw
from retrodict.problem._prior import Function as Function
from retrodict.problem._prior import Plate as Plate
from retrodict.problem._prior import Prior as Prior
from retrodict.problem._problem import NumpySimulator as NumpySimulator
from retrodict.problem._problem import Problem as Problem
from retrodict.problem._problem import Simulator as Simulator
from retrodict.problem._problem import numpy_simulator as numpy_simulator
