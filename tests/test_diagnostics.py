"""Diagnostics against closed forms, the exact posterior, and posteriors that were made wrong on purpose."""

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import binom, chi2, norm

from retrodict import DataError
from retrodict import diagnostics as checks
from retrodict.diagnostics._uniform import UniformNull, counts_below, thresholds


# A problem whose posterior is exact: theta ~ N(0, I_2) is seen through x along its two diagonals, with unit noise and
# with noise of variance 1 / 17, so that the posterior has standard deviations of .527 and a correlation of .8. Besides,
# "side" = s u with s = +-1, u ~ N(3, 1), of which u alone is seen, as v = u + noise: two modes.
GAIN = np.array([1 / 2, 17 / 18])  # prior precision 1, data precisions 1 and 17
TURN = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)
FAULTS = ("none", "shift .5 sd", "sd x .7", "sd x 1.4", "mode lost", "correlation dropped")


def simulated(n, rng):
    theta, u = rng.normal(size=(n, 2)), 3.0 + rng.normal(size=n)
    x = theta @ TURN + rng.normal(size=(n, 2)) * np.sqrt([1.0, 1 / 17])
    v = u + 0.5 * rng.normal(size=n)
    return {"theta": theta, "side": rng.choice([-1.0, 1.0], n) * u}, {"x": x, "v": v}


def posterior(data, fault):
    """Mean and covariance factor of theta, and mean and sd of the two modes of side, with the fault built in."""
    cov = TURN @ np.diag([1 / 2, 1 / 18]) @ TURN
    mean = (data["x"] * GAIN) @ TURN
    middle, sd = (3.0 + 4.0 * data["v"]) / 5.0, np.sqrt(1 / 5)
    if fault == "shift .5 sd":
        mean, middle = mean + 0.5 * np.sqrt(cov[0, 0]), middle + 0.5 * sd
    if fault == "correlation dropped":
        cov = np.diag(np.diag(cov))
    factor = {"sd x .7": 0.7, "sd x 1.4": 1.4}.get(fault, 1.0)
    return mean, factor * np.linalg.cholesky(cov), middle, factor * sd


def drawn(data, fault, n_draws, rng):
    mean, root, middle, sd = posterior(data, fault)
    theta = mean[:, None] + rng.normal(size=(len(mean), n_draws, 2)) @ root.T
    side = middle[:, None] + sd * rng.normal(size=(len(mean), n_draws))
    return {"theta": theta, "side": side if fault == "mode lost" else side * rng.choice([-1.0, 1.0], side.shape)}


def log_prob(values, data, fault):
    """Log density of truth `(n, ...)` or draws `(n, n_draws, ...)`."""
    mean, root, middle, sd = posterior(data, fault)
    many = (slice(None), None) if values["side"].ndim == 2 else (slice(None),)
    z = (values["theta"] - mean[many]) @ np.linalg.inv(root).T
    one = -0.5 * (z**2).sum(-1) - np.log(2 * np.pi) - np.log(np.linalg.det(root))
    modes = [norm.logpdf(sign * values["side"], middle[many], sd) for sign in (1.0, -1.0)]
    return one + (modes[0] if fault == "mode lost" else logsumexp(modes, axis=0) - np.log(2.0))


def quadratic():
    """The best simple classifier here, and a fast one: logistic regression on products and absolute values."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    return make_pipeline(PolynomialFeatures(2), StandardScaler(), LogisticRegression(C=1.0, tol=1e-3))


def rejections(fault, n, seed, *, tests=None, n_draws=99, permutations=19):
    """Which tests, by default all, reject at a level of 5 %, each from all of one set of `n` simulations."""
    rng = np.random.default_rng(seed)
    truth, data = simulated(n, rng)
    draws = drawn(data, fault, n_draws, rng)
    logs = log_prob(truth, data, fault), log_prob(draws, data, fault)
    half = n // 2
    first = {**{k: v[:half] for k, v in truth.items()}, **{k: v[:half] for k, v in data.items()}}
    second = {**{k: v[half:, 0] for k, v in draws.items()}, **{k: v[half:] for k, v in data.items()}}
    x_o = {"x": np.array([[0.3, -0.4]]), "v": np.array([3.2])}
    of_x_o = drawn(x_o, fault, 300, rng)
    product = tuple({"product": both["theta"].prod(-1)} for both in (truth, draws))
    how = {"key": seed, "classifier": quadratic(), "permutations": permutations}
    p_values = {
        "sbc": lambda: checks.sbc(truth, draws).p_value,
        "sbc chi-square": lambda: min(1.0, 3 * min(checks.sbc(truth, draws).chi_square_p.values())),
        "sbc of a product": lambda: checks.sbc(*product).p_value,
        "coverage marginal": lambda: checks.coverage(truth, draws).p_value,
        "coverage joint": lambda: checks.coverage(truth, draws, log_probs=logs).p_values["joint"],
        "tarp box": lambda: checks.tarp(truth, draws, key=seed).p_value,
        "tarp drawn": lambda: checks.tarp(truth, draws, key=seed, references=checks.LastDraw()).p_value,
        "log prob": lambda: checks.expected_log_prob(*logs, key=seed).p_value,
        "mmd": lambda: checks.mmd(first, second, key=seed, permutations=199).p_value,
        "lc2st": lambda: checks.lc2st(truth, draws, data, x_o, of_x_o, **how).p_value,
    }
    return {test: p_values[test]() <= 0.05 for test in tests or p_values}


def power(repetitions, *, faults=FAULTS, n=500):
    """How often each test rejects, by fault and test; `none` is the false-alarm rate."""
    found = {}
    for fault in faults:
        rows = [rejections(fault, n, seed) for seed in range(repetitions)]
        found[fault] = {test: float(np.mean([row[test] for row in rows])) for test in rows[0]}
    return found


@pytest.mark.slow
def test_every_test_is_honest_and_every_fault_is_caught():
    """What `docs/trust.md` shows: 200 repetitions of 500 simulations, 8 minutes on one core."""
    table = power(200)
    for fault, row in table.items():
        print(f"{fault:20}", *(f"{test} {rate:.3f};" for test, rate in row.items()))
    for test, rate in table["none"].items():
        # the 99 % interval of the rejection rate (Clopper and Pearson's) contains the nominal 5 %
        seen = round(200 * rate)
        assert binom.sf(seen - 1, 200, 0.05) > 0.005, (test, rate)
        assert binom.cdf(seen, 200, 0.05) > 0.005, (test, rate)
    for fault in FAULTS[1:]:
        assert max(table[fault].values()) >= 0.9, (fault, table[fault])


# honesty, quickly ---------------------------------------------------------------------------------------------------


def test_false_alarms_are_no_more_frequent_than_stated():
    """40 repetitions: more than 10 rejections by any one of 10 tests at a true rate of 5 % are a chance of 3e-5."""
    alarms = power(40, faults=["none"], n=60)["none"]
    assert len(alarms) == 10
    assert max(alarms.values()) <= 10 / 40, alarms


# each of these had a power of 1.00 in 200 repetitions of 500 simulations
CATCHES = {
    "shift .5 sd": {"sbc", "coverage marginal", "log prob"},
    "sd x .7": {"sbc", "coverage marginal", "coverage joint", "tarp box", "tarp drawn", "log prob"},
    "sd x 1.4": {"sbc", "coverage marginal", "coverage joint", "tarp box", "tarp drawn", "log prob"},
    "mode lost": {"sbc", "sbc chi-square", "coverage marginal", "coverage joint", "tarp box", "log prob", "mmd"},
    "correlation dropped": {"sbc of a product", "lc2st"},
}


@pytest.mark.parametrize("fault", CATCHES)
def test_a_fault_is_caught(fault):
    found = rejections(fault, 500, seed=4, tests=sorted(CATCHES[fault]))
    assert all(found.values()), found


# closed forms -------------------------------------------------------------------------------------------------------


def test_p_value_and_band_are_those_of_all_outcomes():
    """All 5^5 ways in which 5 values can rank among 4 draws are as probable: what is computed is a share of them."""
    n, n_draws = 5, 4
    at = thresholds(n_draws)
    outcomes = np.stack(np.meshgrid(*[np.arange(n_draws + 1)] * n), -1).reshape(-1, n)
    counts, weights = np.unique([counts_below(row, at) for row in outcomes], axis=0, return_counts=True)
    z = at / (n_draws + 1)
    sides = np.minimum(binom.cdf(counts, n, z), binom.sf(counts - 1, n, z))
    extent = (2.0 * sides).min(axis=1)
    null = UniformNull(n, z)
    for row, own in zip(counts, extent, strict=True):
        share = weights[extent <= own * (1 + 1e-9)].sum() / len(outcomes)
        assert null.p_value(row) == pytest.approx(share, abs=1e-12)  # a handful of roundings
    for level in (0.05, 0.3):
        low, high = null.band(level)
        left = ((counts / n < low) | (counts / n > high)).any(axis=1)
        exact = [weights[extent <= e * (1 + 1e-9)].sum() / len(outcomes) for e in extent]
        # nothing leaves it but what has a p-value of at most `level`, and all of that does
        np.testing.assert_array_equal(left, np.array(exact) <= level)


def test_ranks_and_chi_square_of_a_handful():
    truth = {"a": np.arange(20.0) + 0.5}
    draws = {"a": np.tile(np.arange(20.0), (20, 1))}  # 20 draws, of which i + 1 lie below truth i
    found = checks.sbc(truth, draws)
    np.testing.assert_array_equal(found.ranks[:, 0], np.arange(1, 21))
    # two bins of 11 and 10 ranks: 10 found in each, expected 20 * 11 / 21 and 20 * 10 / 21
    expected = 20 * np.array([11, 10]) / 21
    square = ((10 - expected) ** 2 / expected).sum()
    assert found.chi_square["a"] == pytest.approx(square)
    assert found.chi_square_p["a"] == pytest.approx(chi2.sf(square, 1))
    assert found.ok


def test_ties_are_broken_evenly():
    """Counts of a posterior that is right: without a random order among ties their ranks would pile up, at p-values of
    zero. Two figures at 1e-5."""
    rng = np.random.default_rng(0)
    truth, draws = {"k": rng.poisson(0.5, 400)}, {"k": rng.poisson(0.5, (400, 30))}
    assert checks.sbc(truth, draws, key=1).p_value > 1e-5
    assert checks.coverage(truth, draws, key=1).p_value > 1e-5


def test_coverage_of_a_wrong_width_is_the_normal_one():
    rng = np.random.default_rng(1)
    n, spread = 3000, 1.5  # the truth is 1.5 times as far spread as the draws
    truth, draws = {"a": spread * rng.normal(size=(n, 2))}, {"a": rng.normal(size=(n, 400, 2))}
    logs = -0.5 * (truth["a"] ** 2).sum(-1), -0.5 * (draws["a"] ** 2).sum(-1)
    found = checks.coverage(truth, draws, log_probs=logs)
    assert not found.ok
    for size in (0.5, 0.9):
        marginal = 1 - 2 * norm.sf(norm.ppf((1 + size) / 2) / spread)
        joint = chi2.cdf(chi2.ppf(size, 2) / spread**2, 2)
        # 4 binomial sd of 3,000 truths, and 1 % for the 400 draws that stand in for an interval
        assert found.at(size)["a[0]"] == pytest.approx(marginal, abs=4 * 0.5 / np.sqrt(n) + 0.01)
        assert found.at(size)["joint"] == pytest.approx(joint, abs=4 * 0.5 / np.sqrt(n) + 0.01)
    assert max(found.excess.values()) < 0  # too sure of itself


def test_tarp_from_far_away_is_a_rank():
    """On a line, nearer to a point at minus a hundred means smaller."""
    rng = np.random.default_rng(2)
    truth, draws = {"a": rng.normal(size=50)}, {"a": rng.normal(size=(50, 20))}
    far = checks.tarp(truth, draws, key=0, references={"a": np.full(50, -100.0)})
    ranks = checks.sbc(truth, draws)
    np.testing.assert_array_equal(far.shares * 20, ranks.ranks[:, 0])
    np.testing.assert_allclose(far.ecp, ranks.ecdf[0])
    assert far.p_value == ranks.p_values["a"]


def test_bands_of_tarp_hold_the_curve():
    rng = np.random.default_rng(3)
    truth, draws = {"a": rng.normal(size=(300, 2))}, {"a": rng.normal(size=(300, 20, 2))}
    jeffreys = checks.tarp(truth, draws, key=0)
    bootstrap = checks.tarp(truth, draws, key=0, band=checks.Bootstrap(400))
    np.testing.assert_array_equal(jeffreys.ecp, bootstrap.ecp)
    # both are 1.96 sd to either side but for terms of order 1 / n, and noise of 400 resamples (7 % of a width)
    width = 2 * 1.96 * np.sqrt(jeffreys.ecp * (1 - jeffreys.ecp) / 300)
    np.testing.assert_allclose(jeffreys.high - jeffreys.low, width, rtol=0.1)
    np.testing.assert_allclose(bootstrap.high - bootstrap.low, width, rtol=0.35)
    assert np.all((jeffreys.low < jeffreys.ecp) & (jeffreys.ecp < jeffreys.high))


def test_points_of_others_are_never_ones_own():
    rng = np.random.default_rng(4)
    truth, draws = {"a": rng.normal(size=30)}, {"a": rng.normal(size=(30, 9))}
    points, pairs = checks.Others().points(checks._pairs.paired(truth, draws), rng)
    assert not np.any(points == pairs.truth)
    np.testing.assert_array_equal(np.sort(points, axis=0), np.sort(pairs.truth, axis=0))


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_gap_of_a_wrong_width_is_that_of_gaussians(factor):
    rng = np.random.default_rng(5)
    n = 4000
    truth, draws = rng.normal(size=n), factor * rng.normal(size=(n, 100))
    found = checks.expected_log_prob(norm.logpdf(truth, 0, factor), norm.logpdf(draws, 0, factor), key=0)
    entropy = 0.5 * np.log(2 * np.pi)
    # log q has variance 1 / (2 factor^4): 4.5 standard errors, six figures: a false alarm of 4e-5
    off = 4.5 / np.sqrt(2 * n) / factor**2
    assert found.score == pytest.approx(-entropy - np.log(factor) - 0.5 / factor**2, abs=off)
    assert found.gap == pytest.approx(0.5 - 0.5 / factor**2, abs=1.1 * off)
    if factor != 1.0:  # how often a right one fails is tested above
        assert not found.ok


def test_mmd_is_the_sum_over_pairs():
    rng = np.random.default_rng(6)
    p, q = rng.normal(size=(10, 2)), rng.normal(size=(12, 2)) + 1.0
    found = checks.mmd({"a": p}, {"a": q}, key=0, permutations=9)
    rows = np.concatenate([p, q])
    rows = (rows - rows.mean(0)) / rows.std(0)
    square = ((rows[:, None] - rows) ** 2).sum(-1)
    # what is zero is left out of the median: a row and itself
    kernel = sum(np.exp(-square / (2 * w**2 * np.median(square[square > 0]))) for w in (0.5, 1.0, 2.0))
    direct = kernel[:10, :10].mean() + kernel[10:, 10:].mean() - 2 * kernel[:10, 10:].mean()
    assert found.statistic == pytest.approx(direct, rel=1e-9)
    assert found.null.shape == (9,)


def test_lc2st_finds_where_a_posterior_is_wrong():
    """Right for x < 0 and twice too wide above: the observation at +1 fails, the one at -1 does not."""
    rng = np.random.default_rng(7)
    n, m = 800, 300
    x = rng.normal(size=n)
    width = np.where(x > 0, 2.0, 1.0)
    truth, draws = {"a": rng.normal(size=n)}, {"a": width[:, None] * rng.normal(size=(n, 5))}
    x_o = np.array([-1.0, 1.0])
    of_x_o = {"a": np.array([[1.0], [2.0]]) * rng.normal(size=(2, m))}
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(20, min_samples_leaf=40, random_state=0)
    found = checks.lc2st(truth, draws, {"x": x}, {"x": x_o}, of_x_o, key=0, classifier=forest, permutations=39)
    # at +1 the best classifier has .06; at -1 there are leaves of 40 rows and their noise, a few thousandths. A p-value
    # there would be below .05 in one of twenty seeds, and says no more
    assert found.statistic[0] < 0.5 * found.statistic[1]
    assert found.p_values[1] <= 0.025
    assert found.p_value <= 0.025
    assert not found.ok
    # d says where there is too much: far out, not in the middle
    far = np.abs(of_x_o["a"][1]) > 3.0
    near = np.abs(of_x_o["a"][1]) < 0.5
    assert found.probability[1][far].mean() > 0.6 > 0.5 > found.probability[1][near].mean()


def test_lc2st_needs_no_classifier_of_ones_own():
    rng = np.random.default_rng(8)
    truth, draws = {"a": rng.normal(size=200)}, {"a": 3.0 + rng.normal(size=(200, 1))}
    x, x_o = {"x": rng.normal(size=200)}, {"x": np.zeros(1)}
    found = checks.lc2st(truth, draws, x, x_o, {"a": 3.0 + rng.normal(size=(1, 50))}, key=0, permutations=9)
    assert found.p_value == 0.1  # the least that 9 permutations can say
    assert found.statistic[0] > 0.1


def test_predictive_counts_replicates_beyond():
    made = {"x": np.arange(99.0)}
    found = checks.predictive({"x": 97.5}, made)
    assert found.p_values == {"x": pytest.approx(2 * (1 + 1) / 100)}
    assert not found.ok
    assert checks.predictive({"x": 50.0}, made).p_value == 1.0


def test_predictive_leaves_out_what_was_not_observed():
    rng = np.random.default_rng(9)
    made = {"x": rng.normal(size=(200, 4)), "y": rng.normal(size=200)}
    made["x"][:, 2] += 1000.0
    seen = {"x": np.array([0.1, -0.2, np.nan, 0.3]), "y": 0.0}
    found = checks.predictive(seen, made)
    assert set(found.p_values) == {"mean of x", "sd of x", "least of x", "largest of x", "y"}
    assert found.ok
    seen["x"][3] = 9.0
    assert not checks.predictive(seen, made).ok


def test_predictive_hands_a_statistic_what_it_names():
    made = {"x": np.ones((20, 3)) * np.arange(20)[:, None], "y": np.arange(20.0)}
    statistics = {"range": lambda x: np.ptp(x), "difference": lambda x, y: x[0] - y}
    found = checks.predictive({"x": np.array([1.0, 2.0, 4.0]), "y": 0.5}, made, statistics=statistics)
    assert found.observed == {"range": 3.0, "difference": 0.5}
    np.testing.assert_array_equal(found.replicated["difference"], np.zeros(20))


def test_level_is_that_of_all_variables_together():
    """Twenty variables: Bonferroni, and `ok` where the whole band holds all curves."""
    rng = np.random.default_rng(10)
    truth, draws = {"a": rng.normal(size=(50, 20))}, {"a": rng.normal(size=(50, 19, 20))}
    found = checks.sbc(truth, draws)
    assert found.p_value == pytest.approx(min(1.0, 20 * min(found.p_values.values())))
    inside = (found.low <= found.ecdf + 1e-12) & (found.ecdf <= found.high + 1e-12)
    assert found.ok == inside.all()


def test_a_result_is_printed_in_one_line_and_as_an_escaped_table():
    rng = np.random.default_rng(15)
    truth, draws = {"<a>": rng.normal(size=(50, 2))}, {"<a>": rng.normal(size=(50, 19, 2))}
    logs = rng.normal(size=50), rng.normal(size=(50, 19))
    data, x_o, of_x_o = {"x": rng.normal(size=50)}, {"x": np.zeros(1)}, {"<a>": rng.normal(size=(1, 9, 2))}
    results = [
        checks.sbc(truth, draws),
        checks.coverage(truth, draws),
        checks.tarp(truth, draws, key=0),
        checks.expected_log_prob(*logs, key=0),
        checks.mmd(truth, {"<a>": draws["<a>"][:, 0]}, key=0, permutations=19),
        checks.lc2st(truth, draws, data, x_o, of_x_o, key=0, classifier=quadratic(), permutations=9),
        checks.predictive({"a": 0.0}, {"a": truth["<a>"][:, 0]}, statistics={"<a>": lambda a: a}),
        checks.C2ST(0.5, (), "mlp", rows=400),
    ]
    for result in results:
        outcome = f"{'passed' if result.ok else 'FAILED'}, p = {result.p_value:.2g} at a level of 0.05; "
        assert result.summary().startswith(outcome)
        assert repr(result) == f"{type(result).__name__}({result.summary()})"
        assert "\n" not in repr(result)
        assert result._repr_html_().startswith("<table><caption")
        assert f">{type(result).__name__}</caption>" in result._repr_html_()
        assert "<a>" not in result._repr_html_()
    assert "&lt;a&gt;[" in results[0]._repr_html_()
    assert "accuracy 0.5, classifier mlp, rows 400" in repr(results[-1])


def test_keys_may_be_numbers_or_those_of_jax():
    rng = np.random.default_rng(11)
    truth, draws = {"a": rng.normal(size=20)}, {"a": rng.normal(size=(20, 9))}
    first, again = (checks.tarp(truth, draws, key=jax.random.key(3)) for _ in range(2))
    number, same, other = (checks.tarp(truth, draws, key=key) for key in (3, np.int64(3), 4))
    np.testing.assert_array_equal(first.shares, again.shares)
    np.testing.assert_array_equal(number.shares, same.shares)
    assert np.any(number.shares != other.shares)


ROWS = np.random.default_rng(12).normal(size=(20, 2))
DRAWS = np.random.default_rng(13).normal(size=(20, 7, 2))
HOLE = np.where(np.arange(20)[:, None] == 3, np.nan, ROWS)


@pytest.mark.parametrize("check", [checks.sbc, checks.coverage, lambda *a: checks.tarp(*a, key=0)])
@pytest.mark.parametrize(
    ("truth", "draws", "message"),
    [
        ({"rate": ROWS}, {"rats": DRAWS}, "'rats'; `truth` has 'rate'. Did you mean 'rate'?"),
        ({"a": ROWS, "b": ROWS}, {"a": DRAWS}, "`truth` has 'b', which `draws` lacks"),
        ({"a": ROWS}, {"a": DRAWS[:, :, 0]}, "'a' has (20, 2) and (20, 7)"),
        ({"a": ROWS}, {"a": ROWS[:, 0]}, "the draws of 'a' must have at least 2 axes"),
        ({"a": ROWS[:9]}, {"a": DRAWS[:9]}, "at least 10 simulations, got 9"),
        ({"a": HOLE}, {"a": DRAWS}, "2 of the 40 numbers in the truth of 'a' are not finite"),
        ({"a": ROWS, "b": ROWS}, {"a": DRAWS, "b": DRAWS[:, :5]}, "the same numbers of simulations and draws"),
        ({}, {}, "`truth` must be a mapping"),
        (ROWS, DRAWS, "`truth` must be a mapping"),
        ({"a": ROWS + 0j}, {"a": DRAWS}, "must be an array of real numbers"),
    ],
)
def test_what_cannot_be_checked_is_refused(check, truth, draws, message):
    with pytest.raises(DataError) as caught:
        check(truth, draws)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_empty_region_and_the_whole_space_are_known():
    """Of 19 draws the largest region that is looked at is .9 of all."""
    rng = np.random.default_rng(14)
    found = checks.coverage({"a": rng.normal(size=50)}, {"a": rng.normal(size=(50, 19))})
    assert found.at(1.0) == {"a": 1.0}
    assert found.at(0.0) == {"a": 0.0}
    last = found.coverage["a"][-1]
    assert last < found.at(0.95)["a"] < 1.0


def refused():
    a, d = {"a": ROWS}, {"a": DRAWS}
    x, lps = {"x": ROWS[:, 0]}, (np.zeros(20), np.zeros((20, 7)))
    at = {"a": DRAWS[:1]}
    return {
        "level": (lambda: checks.sbc(a, d, level=5), "between 0 and 1, got 5"),
        "key": (lambda: checks.tarp(a, d, key="one"), "`key` must be"),
        "references": (lambda: checks.tarp(a, d, key=0, references={"a": ROWS[:3]}), "`references` has (3, 2)"),
        "one draw": (
            lambda: checks.tarp(a, {"a": DRAWS[:, :1]}, key=0, references=checks.LastDraw()),
            "at least 2 draws",
        ),
        "log shapes": (lambda: checks.coverage(a, d, log_probs=lps[::-1]), "must have the shapes (20,) (truth)"),
        "log nan": (lambda: checks.coverage(a, d, log_probs=(lps[0] + np.nan, lps[1])), "20 of the log densities"),
        "log flat": (lambda: checks.expected_log_prob(lps[0], lps[0], key=0), "draws must be (n, n_draws)"),
        "log infinite": (lambda: checks.expected_log_prob(lps[0] - np.inf, lps[1], key=0), "use `coverage` instead"),
        "mmd columns": (lambda: checks.mmd(a, {"a": ROWS[:, :1]}, key=0), "(2,) in `reference` and (1,)"),
        "one draw to cover": (lambda: checks.coverage(a, {"a": DRAWS[:, :1]}), "at least two draws"),
        "mmd rows": (lambda: checks.mmd(a, {"a": ROWS[:4]}, key=0), "got 20 and 4"),
        "mmd same": (lambda: checks.mmd({"a": 0 * ROWS}, {"a": 0 * ROWS}, key=0), "nothing to compare"),
        "lc2st data": (lambda: checks.lc2st(a, d, {"x": ROWS[:5, 0]}, {"x": ROWS[:1, 0]}, at, key=0), "5 rows"),
        "lc2st draws": (lambda: checks.lc2st(a, d, x, {"x": ROWS[:2, 0]}, at, key=0), "with B = 2"),
        "lc2st shape": (lambda: checks.lc2st(a, d, x, {"x": ROWS[:1]}, at, key=0), "() in `data` and (2,)"),
        "predictive shape": (lambda: checks.predictive({"a": ROWS}, {"a": ROWS}), "came as (20, 2)"),
        "predictive few": (lambda: checks.predictive({"a": 0.0}, {"a": np.zeros(3)}), "at least 10"),
        "statistic": (
            lambda: checks.predictive({"a": 0.0}, {"a": np.zeros(20)}, statistics={"top": lambda b: b}),
            "'top' takes 'b'; there are 'a'",
        ),
        "no number": (
            lambda: checks.predictive({"a": 0.0}, {"a": np.zeros(20)}, statistics={"top": lambda a: [a, a]}),
            "'top' must be one finite number",
        ),
    }


@pytest.mark.parametrize("case", refused())
def test_other_mistakes_are_one_clear_sentence(case):
    call, message = refused()[case]
    with pytest.raises(DataError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
