"""C2ST against the Bayes classifier's accuracy, sbibm's recipe written out, and what must not matter."""

import subprocess
import sys

import joblib
import numpy as np
import pytest
from scipy.stats import norm

from retrodict._errors import DataError
from retrodict.diagnostics import C2ST, OutlierWarning, c2st, c2st_forest, mmd
from retrodict.diagnostics._c2st import _z_scored
from retrodict.diagnostics._scales import dominated, robust_scores


TESTS = pytest.mark.parametrize("test", [c2st, c2st_forest])


def gaussians(n, mu, seed=0):
    """`n` rows of N(0, I) and of N((mu, 0), I) in two dimensions."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + np.array([mu, 0.0])


@TESTS
def test_alike_sets_cannot_be_told_apart(test):
    # Four times 1.3 binomial standard deviations (the factor is in the module's first lines): a false alarm in about
    # 16,000 seeds.
    n = 400
    assert abs(float(test(*gaussians(n, 0.0))) - 0.5) < 4 * 1.3 * 0.5 / np.sqrt(2 * n)


# What a finite training set costs each classifier here, from a few seeds: at most .02 and .07 below Bayes.
@pytest.mark.parametrize(("test", "loss"), [(c2st, 0.02), (c2st_forest, 0.07)])
@pytest.mark.parametrize("mu", [1.0, 2.5])
def test_accuracy_of_two_gaussians_is_the_bayes_accuracy(test, loss, mu):
    n, bayes = 600, norm.cdf(mu / 2)
    sd = np.sqrt(bayes * (1 - bayes) / (2 * n))
    # No classifier beats Bayes but by luck: 4 sd, one false alarm in 30,000 seeds.
    assert bayes - loss - 4 * sd < float(test(*gaussians(n, mu))) < bayes + 4 * sd


def test_p_values_are_those_of_the_null_that_was_measured():
    """.6 of 400 guesses: .1 is 3.08 standard deviations of 1.3 x .5 / 20; .5 is half of the null."""
    result = C2ST(0.6, (), "mlp", rows=400)
    assert result.p_value == pytest.approx(norm.sf(0.1 / 0.0325))
    assert not result.ok
    assert C2ST(0.5, (), "mlp", rows=400).p_value == 0.5
    assert C2ST(0.5, (), "mlp", rows=400).ok


@TESTS
def test_disjoint_sets_are_always_told_apart(test):
    x = np.linspace(0.0, 1.0, 50)[:, None]
    assert test(x, x + 5.0).folds == (1.0,) * 5


def test_strict_one_is_the_recipe_of_sbibm():
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    x, y = gaussians(150, 1.5)
    x, y = 3.0 * x + 7.0, 3.0 * y + 7.0
    mean, sd = x.mean(0), x.std(0, ddof=1)  # ddof: torch's default
    rows = np.concatenate([(x - mean) / sd, (y - mean) / sd]).astype(np.float32)
    labels = np.concatenate([np.zeros(150), np.ones(150)])
    net = MLPClassifier(activation="relu", hidden_layer_sizes=(20, 20), max_iter=10000, solver="adam", random_state=4)
    scores = cross_val_score(net, rows, labels, cv=KFold(5, shuffle=True, random_state=4), scoring="accuracy")
    result = c2st(x, y, seed=4)
    assert result == C2ST(scores.mean(), tuple(scores), "mlp", rows=300)
    assert float(result) == result.accuracy


def test_reference_alone_sets_origin_and_units():
    x, y = gaussians(12, 4.0)
    rows = _z_scored(x, y)
    # float32: relative 6e-8 a value
    np.testing.assert_allclose(rows[:12].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(rows[:12].std(0, ddof=1), 1, rtol=1e-6)
    np.testing.assert_allclose(rows[12:], (y - x.mean(0)) / x.std(0, ddof=1), rtol=1e-6)


@TESTS
def test_units_and_origin_do_not_matter(test):
    x, y = gaussians(200, 2.0)
    scale, shift = np.array([1e-4, 1e4]), np.array([30.0, -5e5])
    # Rounding moves a few rows by an ulp, which may turn single guesses (of 400) around, not more than a handful.
    assert abs(float(test(x, y)) - float(test(scale * x + shift, scale * y + shift))) < 0.015


def test_names_are_flattened_and_put_in_the_order_of_the_reference():
    x, y = gaussians(60, 1.0)
    extra = np.random.default_rng(1).normal(size=(2, 60, 2, 3))
    p = {"a": x[:, 0], "b": extra[0], "c": x[:, 1:]}
    q = {"c": y[:, 1], "a": y[:, :1], "b": extra[1].tolist()}
    plain = [np.concatenate([z[:, :1], e.reshape(60, 6), z[:, 1:]], axis=1) for z, e in ((x, extra[0]), (y, extra[1]))]
    assert c2st_forest(p, q) == c2st_forest(*plain)


def test_seed_decides_and_jobs_do_not():
    x, y = gaussians(40, 1.0)
    alone = c2st_forest(x, y, seed=3)
    with joblib.parallel_config(backend="threading"):  # starting processes costs more than this whole file
        assert c2st_forest(x, y, seed=3, jobs=2) == alone
    assert c2st_forest(x, y, seed=4).folds != alone.folds


GOOD = np.random.default_rng(2).normal(size=(20, 2))
HOLE = np.where(np.arange(20)[:, None] == 3, np.nan, GOOD)
FAR = np.where(np.arange(20)[:, None] == 3, 1e60, GOOD)


@TESTS
@pytest.mark.parametrize(
    ("reference", "draws", "message"),
    [
        (GOOD, GOOD[:15], "the reference has 20 rows and the draws have 15: take equally many"),
        (GOOD, GOOD[:, :1], "the reference has 2 columns and the draws have 1"),
        (GOOD[:9], GOOD[:9], "at least 10 rows of each set, got 9"),
        (GOOD[:, :0], GOOD[:, :0], "the reference has 0 columns"),
        (GOOD, HOLE, "1 of the 20 rows of the draws are not finite"),
        (HOLE, GOOD, "1 of the 20 rows of the reference are not finite"),
        (GOOD, FAR, "more than 1e38 standard deviations"),
        (np.full((20, 2), 0.1), GOOD, "column 0 of the reference is constant"),
        (GOOD, {"a": GOOD}, "both sets as arrays or both as mappings"),
        ({"rate": GOOD}, {"rats": GOOD}, "'rats'; the reference has 'rate'. Did you mean 'rate'?"),
        ({"rate": GOOD, "b": GOOD}, {"rate": GOOD}, "the reference has 'b', which the draws lack"),
        ({"rate": GOOD, "b": GOOD}, {"rate": GOOD, "b": GOOD[:, 0]}, "'b' has 2 elements in the reference and 1"),
        ({"rate": GOOD}, {"rate": GOOD[:, 0]}, "'rate' has 2 elements"),
        ({"a": GOOD, "b": GOOD[:7]}, {"a": GOOD, "b": GOOD[:7]}, "different numbers of rows: {'a': 20, 'b': 7}"),
        ({}, {}, "names no variable"),
        (GOOD, 3.0, "must have at least 1 axis"),
        (GOOD, [["one", "two"]], "must be an array of real numbers"),
        (GOOD, GOOD + 0j, "must be an array of real numbers"),
    ],
)
def test_what_cannot_be_compared_is_refused(test, reference, draws, message):
    with pytest.raises(DataError) as caught:
        test(reference, draws)
    assert message in str(caught.value)


def test_neither_classifiers_nor_plots_are_imported_before_they_are_needed():
    code = "import sys, retrodict.diagnostics; sys.exit(bool({'sklearn', 'matplotlib'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def apart(n=1000, far=1e4):
    """Two normals two standard deviations apart, with one far row in the reference."""
    reference, draws = gaussians(n, 2.0)
    reference[17, 0] = far
    return reference, draws


def test_one_far_row_hides_a_difference_and_is_told():
    """sbibm's scale is that of the far row; Bayes finds .84."""
    reference, draws = apart()
    with pytest.warns(OutlierWarning, match=r"^column\[0\] of the reference has values up to 1e\+04 .* robust=True$"):
        hidden = float(c2st(reference, draws))
    assert hidden < 0.6
    found = float(c2st({"a": reference[:, 0], "b": reference[:, 1]}, {"a": draws[:, 0], "b": draws[:, 1]}, robust=True))
    assert found == pytest.approx(norm.cdf(1.0), abs=0.05)


def test_a_forest_and_the_discrepancy_see_it_anyway(recwarn):
    reference, draws = apart()
    assert float(c2st_forest(reference, draws)) > 0.7
    assert mmd({"theta": reference[:300]}, {"theta": draws[:300]}, key=0, permutations=99).p_value == 0.01
    assert not recwarn


LAWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.uniform(size=shape),
    "log-normal": lambda rng, shape: rng.lognormal(size=shape),
    "Student's t of three degrees": lambda rng, shape: rng.standard_t(3.0, size=shape),
    "nine zeros in ten": lambda rng, shape: rng.exponential(size=shape) * (rng.random(shape) < 0.1),
    "two clusters": lambda rng, shape: rng.normal(size=shape) + 30.0 * (rng.random(shape) < 0.05),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_ordinary_laws_are_no_outliers(law, n):
    """Robust scores are then those of sbibm."""
    rows = LAWS[law](np.random.default_rng(3), (n, 20))
    assert not dominated(rows).any()
    np.testing.assert_allclose(robust_scores(rows), (rows - rows.mean(axis=0)) / rows.std(axis=0), atol=1e-12)
