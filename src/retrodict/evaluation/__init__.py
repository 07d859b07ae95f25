"""Trust: is a model right about a family of questions?

`check` asks one question about many held-out simulations, whose truth is known, and hands draws and truth to
`diagnostics`. What comes out is kept with the model: `model.sample` warns where a question or an observation is far
from what was checked.

Source: Talts et al. 2018, arXiv 1804.06788; the sources of the tests are in `diagnostics`.
"""

from retrodict.evaluation._check import Check as Check
from retrodict.evaluation._check import check as check
from retrodict.evaluation._check_rows import known_of as known_of
from retrodict.evaluation._check_rows import reference_data as reference_data
from retrodict.evaluation._check_rows import tokens_of as tokens_of
from retrodict.evaluation._settings import silent as silent
