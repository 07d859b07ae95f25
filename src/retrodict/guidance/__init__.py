"""Guidance: a flow bent towards what must also hold, and the weights that make it right.

    guided(flow, guide)                 a `Flow` again, for any path with Gaussian noise and any solver
    strengthened(flow, other, w)        what `flow` knows beyond `other`, w times over
    Renoised(solver, repeats, ...)      a solver that goes back and forth, and can hold known values (RePaint)
    carried(flow, solver, x, ...)       where a solver carries noise, and the log density of arriving there

Pure mathematics in the flow's own coordinates; `retrodict.constraints` says the same in names and units.
"""

from retrodict.guidance._flow import Spread as Spread
from retrodict.guidance._flow import guided as guided
from retrodict.guidance._flow import strengthened as strengthened
from retrodict.guidance._guides import AbstractGuide as AbstractGuide
from retrodict.guidance._guides import Linear as Linear
from retrodict.guidance._guides import Near as Near
from retrodict.guidance._guides import Product as Product
from retrodict.guidance._guides import Response as Response
from retrodict.guidance._guides import Tilt as Tilt
from retrodict.guidance._guides import Within as Within
from retrodict.guidance._renoised import Renoised as Renoised
from retrodict.guidance._weights import carried as carried
from retrodict.guidance._weights import effective_size as effective_size
from retrodict.guidance._weights import refusal as refusal
from retrodict.guidance._weights import resample as resample
