"""Guidance: flows under constraints on the data, and log weights that correct their draws.

    guided(flow, guide)                 the flow of the data under a constraint, for any path with Gaussian noise
    strengthened(flow, other, w)        classifier-free guidance: the difference of two flows, w times
    Renoised(solver, repeats, ...)      a solver that goes back and forth, and can fix known values (RePaint)
    carried(flow, solver, x, ...)       the draw that a solver makes of noise x, and its log density

These functions work in the coordinates of the flow. `retrodict.constraints` has the same in names and units.
"""

from retrodict.guidance._flow import PrincipalAxes as PrincipalAxes
from retrodict.guidance._flow import PrincipalAxes as Spread  # noqa: F401 - its name in earlier versions
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
