"""The law of roles, against its own definition. A wrong law trains without complaint, so its frequencies are tested.

Frequencies of n draws lie within 5 standard deviations of their expectation but for 6e-7 of the time; with fewer than
60 comparisons here the false-alarm rate is below 4e-5.
"""

import jax
import numpy as np
import pytest

import retrodict as rd
from retrodict.roles import ABSENT, GIVEN, LATENT, VARIES, Composed, Known, Observed, OneSite, Thinned, law_from_json
from retrodict.variables import Layout, Variable


N = 20_000
SIGMAS = 5.0


def draws(law, layout, n=N, seed=0):
    return np.asarray(jax.vmap(lambda k: law.draw(k, layout))(jax.random.split(jax.random.key(seed), n)))


def close(frequency, expected, n=N):
    return abs(frequency - expected) < SIGMAS * np.sqrt(expected * (1 - expected) / n) + 1e-12


def test_fixed_laws(gaussian_layout):
    assert (draws(rd.roles.Posterior(), gaussian_layout, 2) == [LATENT] * 3 + [GIVEN] * 3).all()
    assert (draws(rd.roles.Likelihood(), gaussian_layout, 2) == [GIVEN] * 3 + [LATENT] * 3).all()
    assert (draws(rd.roles.Unconditional(), gaussian_layout, 2) == LATENT).all()


def test_partial_per_token(gaussian_layout):
    """With p ~ U(0, 1) the number of given tokens is uniform on 0..d; all given becomes all latent."""
    found = draws(rd.roles.Partial(whole=0.0, absent=0.0), gaussian_layout)
    d = gaussian_layout.size
    counts = (found == GIVEN).sum(axis=1)
    for k in range(1, d):
        assert close(np.mean(counts == k), 1 / (d + 1))
    assert close(np.mean(counts == 0), 2 / (d + 1))
    assert not (found == ABSENT).any()
    for token in range(d):
        assert close(np.mean(found[:, token] == GIVEN), 0.5 - 1 / (d + 1))


def test_absent_tokens(gaussian_layout):
    """With p, q ~ U(0, 1) a token is given, absent and latent with 1/2, 1/4 and 1/4, but for the redrawn rows."""
    found = draws(rd.roles.Partial(whole=0.0, absent=1.0), gaussian_layout)
    # nothing latent: every token given or absent, E[(p + (1 - p) q)^6] = E[(1 - (1-p)(1-q))^6] by quadrature
    p, q = np.meshgrid(*[(np.arange(400) + 0.5) / 400] * 2)
    empty = np.mean((1 - (1 - p) * (1 - q)) ** 6)
    given_and_empty = np.mean(p * (1 - (1 - p) * (1 - q)) ** 5)
    absent_and_empty = np.mean((1 - p) * q * (1 - (1 - p) * (1 - q)) ** 5)
    assert close(np.mean((found == LATENT).all(axis=1)), empty + np.mean(((1 - p) * (1 - q)) ** 6))
    assert close(np.mean(found[:, 2] == GIVEN), 0.5 - given_and_empty)
    assert close(np.mean(found[:, 2] == ABSENT), 0.25 - absent_and_empty)


def test_whole_variables(gaussian_layout):
    found = draws(rd.roles.Partial(whole=1.0, absent=0.5), gaussian_layout, 2000)
    for where in gaussian_layout.slices.values():
        assert (found[:, where] == found[:, where][:, :1]).all()
    assert {ABSENT, LATENT, GIVEN} == set(np.unique(found))


def test_every_draw_asks_something_and_rows_differ(gaussian_layout):
    found = draws(rd.roles.random_roles(), gaussian_layout, 2000)
    assert (found == LATENT).any(axis=1).all()
    assert len(np.unique(found, axis=0)) > 50  # drawn per row, not once per batch


def test_the_mixture_has_its_weights(gaussian_layout):
    """Posterior with .15 and likelihood with .15, plus how often a partial draw happens to be one of them."""
    found = draws(rd.roles.random_roles(partial=rd.roles.Partial(whole=0.0, absent=0.0)), gaussian_layout)
    chance = 0.7 / 7 / 20  # three of six given (1/7), and just these three (1/20)
    posterior = [LATENT] * 3 + [GIVEN] * 3
    likelihood = [GIVEN] * 3 + [LATENT] * 3
    assert close(np.mean((found == posterior).all(axis=1)), 0.15 + chance)
    assert close(np.mean((found == likelihood).all(axis=1)), 0.15 + chance)


def test_missing_data(gaussian_layout):
    """Six elements, the last three data; with p ~ U(0, 1) the number of data given is uniform on 0..3."""
    law = rd.roles.Missing(absent=0.0, ahead=0.0)
    found = draws(law, gaussian_layout)
    assert (found[:, :3] == LATENT).all()
    counts = (found[:, 3:] == GIVEN).sum(axis=1)
    assert all(close(np.mean(counts == k), 1 / 4) for k in range(4))
    assert not (found == ABSENT).any()
    ahead = draws(rd.roles.Missing(absent=0.0, ahead=1.0), gaussian_layout)[:, 3:] == GIVEN
    assert (ahead[:, :-1] >= ahead[:, 1:]).all()  # what is given comes first
    assert close(np.mean(ahead.sum(axis=1) == 3), 1 / 6)  # the last of three lies at 5/6
    some = draws(rd.roles.Missing(absent=1.0, ahead=0.0), gaussian_layout)
    assert not (some[:, :3] == GIVEN).any()
    # of a datum: given 1/2, absent 1/4; of a parameter: absent 1/2, but for rows that had nothing left to ask
    assert close(np.mean(some[:, 4] == GIVEN), 1 / 2)
    assert close(np.mean(some[:, 4] == ABSENT), 1 / 4)
    p, q = np.meshgrid(*[(np.arange(400) + 0.5) / 400] * 2)
    redrawn = np.mean((q * (p + (1 - p) * q)) ** 3)  # all parameters absent, all data given or absent
    assert close(np.mean(some[:, 0] == ABSENT), 1 / 2 - redrawn)
    assert (some == LATENT).any(axis=1).all()


def test_points_of_functions_are_left_out():
    """The number of points that are there is six in half of the rows and uniform on zero to six in the other; each
    function has its own, what is no function is always there, and something is always asked."""
    curve = {"shape": (6,), "axes": 1}
    both = Layout((Variable("a"), Variable("f", **curve), Variable("y", kind="data", **curve)))
    found = draws(Thinned(rd.roles.Posterior()), both)
    assert (found[:, 0] == LATENT).all()
    assert set(np.unique(found[:, 1:7])) == {ABSENT, LATENT}
    assert set(np.unique(found[:, 7:])) == {ABSENT, GIVEN}
    counts = (found[:, 1:7] != ABSENT).sum(axis=1), (found[:, 7:] != ABSENT).sum(axis=1)
    for count in counts:
        for k in range(7):
            assert close(np.mean(count == k), 1 / 14 + (k == 6) / 2)
    assert close(np.mean((counts[0] == 0) & (counts[1] == 0)), 1 / 14**2)
    for point in range(1, 13):
        assert close(np.mean(found[:, point] != ABSENT), 3 / 4)
    alone = draws(Thinned(rd.roles.Likelihood()), Layout((Variable("a"), Variable("y", kind="data", **curve))))
    assert (alone[:, 0] == GIVEN).all()
    assert close(np.mean((alone[:, 1:] == LATENT).all(axis=1)), 1 / 2 + 2 / 14)  # those that had nothing left, too
    assert (alone == LATENT).any(axis=1).all()


@pytest.mark.parametrize(
    "law",
    [
        rd.roles.Posterior(),
        rd.roles.Partial(0.1, 0.2),
        rd.roles.Missing(0.1, 0.2),
        rd.roles.Query((0, 1, 2, 2, 2, 1)),
        rd.roles.random_roles(0.2, 0.3),
        Observed(rd.roles.random_roles(), ("c",), (1,)),
        Known(rd.roles.Missing(), ("c",)),
        Thinned(rd.roles.Posterior()),
        OneSite(0.4),
        Composed(),
    ],
    ids=lambda law: type(law).__name__,
)
def test_a_law_survives_json(law):
    assert law_from_json(law.to_json()) == law


def test_weights_must_add_up():
    with pytest.raises(rd.DataError, match=r"weights that add up to 1, got \(0.5, 0.6\)"):
        rd.roles.Mixture((rd.roles.Posterior(), rd.roles.Likelihood()), (0.5, 0.6))


LAWS = {
    "posterior": (rd.roles.Posterior(), [1, 1, 1, 2, 2, 2]),
    "likelihood": (rd.roles.Likelihood(), [2, 2, 2, 1, 1, 1]),
    "unconditional": (rd.roles.Unconditional(), [1] * 6),
    "query": (rd.roles.Query((0, 1, 2, 2, 2, 1)), [0, 1, 2, 2, 2, 1]),
    "partial": (rd.roles.Partial(), [VARIES] * 6),
    "random": (rd.roles.random_roles(), [VARIES] * 6),
    "of one kind": (rd.roles.Mixture((rd.roles.Posterior(), rd.roles.Query((1, 1, 0, 2, 2, 2))), (0.5, 0.5)), None),
    "embedded whole": (Observed(rd.roles.Posterior(), ("c",), (0,)), [1, 1, 1, 2, 2, 2]),
    "embedded in parts": (Observed(rd.roles.Posterior(), ("c",), (1,)), [1, 1, 1] + [VARIES] * 3),
    "known": (Known(rd.roles.Unconditional(), ("c",)), [1, 1, 1, 2, 2, 2]),
}


@pytest.mark.parametrize("name", LAWS)
def test_what_a_law_always_draws(name, gaussian_layout):
    """Said without drawing, and true of 500 draws; of what varies they show two roles or more."""
    law, expected = LAWS[name]
    told, found = law.fixed(gaussian_layout), draws(law, gaussian_layout, 500)
    assert told.tolist() == (expected or [1, 1, VARIES, 2, 2, 2])
    assert ((found == told) | (told == VARIES)).all()
    assert (found.min(axis=0) < found.max(axis=0))[told == VARIES].all()
