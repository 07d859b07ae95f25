"""The zoo of ordinary data: exact answers against rows of the simulators, verdicts, and, slow, every case."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from retrodict_bench.zoo import CASES, FAILED_VERDICTS, Outcome, run
from retrodict_bench.zoo._page import page
from retrodict_bench.zoo._run import compared


ROWS, SITE_ROWS = 150, 12
EXACT = [n for n, c in CASES.items() if c.exact is not None and not (n.startswith("task_") or c.x64)]
OTHER_ROWS = {  # the answer is for data, or for a prior, that plain rows of the simulator do not have
    "offset_lost_in_jax", "frozen_noise", "reweighted", "reweighted_unreachable",
}  # fmt: skip


def test_the_zoo_is_large_and_its_names_are_its_own():
    kinds = {case.kind for case in CASES.values()}
    assert len(CASES) >= 95
    assert len(kinds) >= 20
    assert sum(case.kind == "plain" for case in CASES.values()) == 40


@pytest.mark.parametrize("name", [name for name in EXACT if name not in OTHER_ROWS])
def test_an_exact_answer_fits_rows_of_the_simulator(name):
    """Over draws of parameters and data together, z = (theta - mean(x)) / sd(x) has mean 0 and mean square 1.

    That is so for the exact mean and sd of any problem, and knows nothing of how they were computed. Six standard
    errors: false alarms below 1e-7 for each number, allowing for squares with heavy tails by their own spread.
    """
    case = CASES[name]
    rows, data = case.fresh(SITE_ROWS if case.sites else ROWS, seed=123), case.variables().data
    n = len(rows[data[0]])
    answers = [case.exact({name: np.asarray(rows[name])[i] for name in data}) for i in range(n)]
    for parameter in answers[0]:
        truth = np.asarray(rows[parameter], np.float64).reshape(n, -1)
        mean, sd = (np.stack([np.ravel(answer[parameter][i]) for answer in answers]) for i in (0, 1))
        assert (sd > 0).all()
        z = ((truth - mean) / sd).T.ravel() if case.sites else (truth - mean) / sd
        z = z.reshape(len(z), -1)
        error = 6.0 / np.sqrt(len(z))
        assert (abs(z.mean(axis=0)) < error).all(), parameter
        squares = np.minimum(z**2, 50.0)  # an overflow of a wrong answer must not widen its own bar
        assert (abs(squares.mean(axis=0) - 1.0) < error * np.maximum(squares.std(axis=0), 0.3)).all(), parameter
