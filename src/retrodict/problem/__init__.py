"""Problems: what a scientist brings, a prior and a simulator."""

from retrodict.problem._problem import AbstractPrior as AbstractPrior
from retrodict.problem._problem import Draw as Draw
from retrodict.problem._problem import Function as Function
from retrodict.problem._problem import NumpySimulator as NumpySimulator
from retrodict.problem._problem import Plate as Plate
from retrodict.problem._problem import Prior as Prior
from retrodict.problem._problem import Problem as Problem
from retrodict.problem._problem import Simulator as Simulator
from retrodict.problem._problem import numpy_simulator as numpy_simulator
