"""Checks of an answer: arrays in, a small result out; nothing here knows a model or draws a picture."""

from retrodict.diagnostics._c2st import C2ST as C2ST
from retrodict.diagnostics._c2st import c2st as c2st
from retrodict.diagnostics._c2st import c2st_forest as c2st_forest
