"""Evaluation: is a model right about a family of queries, and is an observation like the simulations?

`check` asks one question about many held-out simulations, whose truth is known, and hands draws and truth to
`diagnostics`. The outcome is kept with the model: `model.sample` warns where a question or an observation is far from
what was checked. `misspecification` compares an observation with simulations; `solver_tuning` chooses a solver.

Source: Talts et al. 2018, arXiv 1804.06788; the sources of the tests are in `diagnostics`.
"""

from retrodict.evaluation._check import Check as Check
from retrodict.evaluation._check import check as check
from retrodict.evaluation._check_rows import given_in_rows as given_in_rows
from retrodict.evaluation._check_rows import held_out_tokens as held_out_tokens
from retrodict.evaluation._check_rows import reference_data as reference_data
