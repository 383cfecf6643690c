"""Every metric against a value by hand, or against scipy and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_vub import metrics
from hf_vub.metrics import intervals


@pytest.fixture(scope="module")
def predictions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return 3 * rng.normal(size=(400, 5)), rng.integers(0, 5, size=400)


def test_classification_by_hand() -> None:
    logits = np.log([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
    found = metrics.classification_metrics(logits, [0, 1, 1, 0])
    assert found["accuracy"] == 0.75
    assert found["nll"] == pytest.approx(-np.mean(np.log([0.8, 0.4, 0.7, 0.9])))
    assert found["brier"] == pytest.approx(2 * np.mean([0.04, 0.36, 0.09, 0.01]))
    # Four rows in four different bins of 1/15: the mean of |1 - .8|, |0 - .6|, |1 - .7|, |1 - .9|.
    assert found["ece"] == pytest.approx((0.2 + 0.6 + 0.3 + 0.1) / 4)


def test_classification_agrees_with_scikit_learn(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    oracle = pytest.importorskip("sklearn.metrics")
    logits, labels = predictions
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert metrics.accuracy(logits, labels) == oracle.accuracy_score(labels, p.argmax(axis=1))
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(oracle.log_loss(labels, p))
    assert metrics.negative_log_likelihood(p, labels, probabilities=True) == pytest.approx(oracle.log_loss(labels, p))
    one_hot = np.eye(5)[labels]
    assert metrics.brier_score(p, labels, probabilities=True) == pytest.approx(5 * np.mean((p - one_hot) ** 2))
    binary = labels == 0
    two = np.stack([1 - p[:, 0], p[:, 0]], axis=1)
    one_sided = oracle.brier_score_loss(binary, p[:, 0])
    assert metrics.brier_score(two, binary.astype(int), probabilities=True) == pytest.approx(2 * one_sided)


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Return the error by its definition, bin by bin."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = 0.0
    for k in range(bins):
        inside = (p.max(axis=1) > k / bins) & (p.max(axis=1) <= (k + 1) / bins)
        if inside.any():
            correct = (p.argmax(axis=1) == labels)[inside]
            error += inside.mean() * abs(correct.mean() - p.max(axis=1)[inside].mean())
    return error


def test_calibration_error_by_the_definition(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    expected = calibration_error(*predictions, bins=10)
    assert metrics.expected_calibration_error(*predictions, bins=10) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_has_15_bins(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    expected = calibration_error(*predictions, bins=15)
    assert all(abs(calibration_error(*predictions, bins=bins) - expected) > 1e-4 for bins in (10, 14, 16, 20))
    assert metrics.expected_calibration_error(*predictions) == pytest.approx(expected, abs=1e-12)
    assert metrics.classification_metrics(*predictions)["ece"] == pytest.approx(expected, abs=1e-12)
    assert len(metrics.reliability_bins(*predictions)["count"]) == 15


def test_bins_hold_their_upper_edge_and_empty_ones_are_nan() -> None:
    bins = metrics.reliability_bins([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]], [0, 1, 0], bins=4, probabilities=True)
    assert bins["count"].tolist() == [0, 1, 1, 1]
    assert bins["lower"].tolist() == [0, 0.25, 0.5, 0.75]
    np.testing.assert_array_equal(bins["accuracy"], [math.nan, 1, 0, 1])
    np.testing.assert_array_equal(bins["confidence"], [math.nan, 0.5, 0.75, 1])


def test_a_perfectly_calibrated_model_has_no_calibration_error() -> None:
    p = np.tile([0.8, 0.2], (10, 1))
    error = metrics.expected_calibration_error(p, [0] * 8 + [1] * 2, probabilities=True)
    assert error == pytest.approx(0, abs=1e-12)


def test_huge_logits_are_exact() -> None:
    found = metrics.classification_metrics([[1e4, -1e4], [1e4, -1e4]], [0, 1])
    assert found == {"accuracy": 0.5, "nll": 1e4, "brier": 1.0, "ece": 0.5}


def test_a_masked_class_has_probability_zero() -> None:
    assert metrics.negative_log_likelihood([[0.0, -math.inf]], [0]) == 0
    assert metrics.negative_log_likelihood([[0.0, -math.inf]], [1]) == math.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_are_taken(dtype: torch.dtype) -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=dtype, requires_grad=True)
    assert metrics.accuracy(logits, torch.tensor([0, 0])) == 0.5


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, math.nan]], [0], "row 0"),
        ([[0.0, 1.0], [0.0, math.inf]], [0, 0], "row 1"),
        ([[-math.inf, -math.inf]], [0], "row 0"),
        ([[0.0, 1.0]], [2], "labels must lie between 0 and 1, but go from 2 to 2"),
        ([[0.0, 1.0]], [-1], "labels must lie between 0 and 1"),
        ([[0.0, 1.0]], [0.0], "labels must be integers"),
        ([[0.0, 1.0]], [0, 1], r"\(1, 2\) and \(2,\)"),
        ([0.0, 1.0], [0, 1], "must be of shape"),
        (np.zeros((0, 2)), np.zeros(0, int), "must have rows and classes"),
    ],
)
def test_bad_predictions_are_refused(logits: object, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.classification_metrics(logits, labels)


def test_what_is_no_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        metrics.brier_score([[2.0, 3.0]], [0], probabilities=True)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        metrics.reliability_bins([[2.0, 3.0]], [0], bins=0)


def test_attack_summary_by_hand() -> None:
    #        still correct, misclassified, not attacked, wrong, wrong and then correct
    before = [True, True, True, False, False]
    after = [True, False, False, False, True]
    tried = [True, True, False, True, True]
    assert metrics.attack_summary(before, after, tried) == {
        "num_examples": 5,
        "num_attacked": 2,
        "num_successes": 1,
        "clean_accuracy": 0.6,
        "accuracy_under_attack": 0.4,
        "attack_success_rate": 0.5,
    }


def test_a_targeted_attack_counts_its_own_goal() -> None:
    found = metrics.attack_summary([True] * 4, [False, False, True, True], success=[True, False, False, False])
    assert (found["attack_success_rate"], found["accuracy_under_attack"]) == (0.25, 0.5)


def test_no_attackable_input_gives_no_rate() -> None:
    found = metrics.attack_summary([False, False], [False, True])
    assert found["attack_success_rate"] is None
    assert found["accuracy_under_attack"] == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_the_three_rates_belong_together(rows: list[tuple[bool, bool]]) -> None:
    found = metrics.attack_summary(*zip(*rows, strict=True))
    rate = found["attack_success_rate"] or 0.0
    assert found["accuracy_under_attack"] == pytest.approx(found["clean_accuracy"] * (1 - rate))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([True], [True, False]), "the same length, but have 1, 2, 1 and 2"),
        (([], []), "must have at least one entry"),
        (([2], [1]), "correct_before must be a flat list of true and false"),
    ],
)
def test_bad_outcomes_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.attack_summary(*arguments)


def test_failures_never_enter_a_distance() -> None:
    found = metrics.l2_summary([1.0, math.nan, 2.0, 0.0, 6.0], [1, 0, 1, 0, 1])
    assert found == {"l2_mean": 3.0, "l2_median": 2.0}
    assert metrics.l2_summary([1.0], [False]) == {"l2_mean": None, "l2_median": None}
    with pytest.raises(ValueError, match="finite"):
        metrics.l2_summary([math.nan], [True])
    with pytest.raises(ValueError, match="same shape"):
        metrics.l2_summary([1.0, 2.0], [True])


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (3, 10), (10, 10), (199, 200)])
def test_wilson_agrees_with_scipy(successes: int, total: int) -> None:
    oracle = stats.binomtest(successes, total).proportion_ci(0.9, method="wilson")
    assert metrics.wilson_interval(successes, total, 0.9) == pytest.approx(tuple(oracle), abs=1e-12)


def test_interval_edges() -> None:
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)
    assert metrics.bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="successes must lie between 0 and total = 3, but is 4"):
        metrics.wilson_interval(4, 3)
    with pytest.raises(ValueError, match="confidence"):
        metrics.bootstrap_interval([1.0, 2.0], confidence=95)


def test_bootstrap_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(5, 2, size=200)
    low, high = metrics.bootstrap_interval(values, resamples=2000)
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.06)
    assert (low, high) == metrics.bootstrap_interval(values, resamples=2000)
    low, high = metrics.bootstrap_interval([1, 2, 3, 4, 5], np.median, resamples=500)
    assert 1 <= low <= 3 <= high <= 5


@pytest.mark.parametrize("sizes", [(5, 5), (4, 9), (10, 10), (1, 3)])
def test_rank_sum_is_the_exact_mann_whitney_test(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(sizes))
    a, b = rng.normal(size=sizes[0]), rng.normal(0.5, size=sizes[1])
    oracle = stats.mannwhitneyu(a, b, method="exact")
    found = metrics.rank_sum_test(a, b)
    assert found == {"statistic": oracle.statistic, "p_value": pytest.approx(oracle.pvalue), "method": "exact"}


def test_rank_sum_with_ties_counts_every_arrangement() -> None:
    a, b = [1, 2, 2, 5], [2, 3, 3, 5, 6]
    ranks = stats.rankdata(a + b)
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, 4)]
    observed = ranks[:4].sum()
    smaller = min(np.mean([s <= observed for s in sums]), np.mean([s >= observed for s in sums]))
    found = metrics.rank_sum_test(a, b)
    assert found["p_value"] == pytest.approx(min(1, 2 * smaller))
    assert found["statistic"] == stats.mannwhitneyu(a, b).statistic


def test_rank_sum_of_large_samples_is_asymptotic() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 20, 60), rng.integers(1, 22, 40)
    oracle = stats.mannwhitneyu(a, b, method="asymptotic")
    found = metrics.rank_sum_test(a, b)
    assert (found["p_value"], found["method"]) == (oracle.pvalue, "asymptotic")
    assert metrics.rank_sum_test([1] * 60, [1] * 40)["p_value"] == 1.0


def test_the_smallest_p_values_of_five_runs() -> None:
    a, b = [6, 7, 8, 9, 10], [1, 2, 3, 4, 5]
    assert metrics.rank_sum_test(a, b)["p_value"] == pytest.approx(2 / 252)
    found = metrics.paired_tests(a, b)
    assert found["signed_rank_p"] == found["sign_p"] == found["permutation_p"] == 0.0625


def test_paired_tests_agree_with_scipy() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=12), rng.normal(0.4, size=12)
    found = metrics.paired_tests(a, b)
    assert found["signed_rank_p"] == pytest.approx(stats.wilcoxon(a, b, method="exact").pvalue)
    assert found["sign_p"] == pytest.approx(stats.binomtest(int(np.sum(a > b)), 12).pvalue)
    oracle = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=math.inf)
    assert found["permutation_p"] == pytest.approx(oracle.pvalue)


def test_paired_tests_with_ties_and_zeros_count_every_sign() -> None:
    a, b = np.array([3, 5, 2, 2, 8, 4]), np.array([2, 4, 2, 3, 5, 6])
    kept = (a - b)[a != b]
    ranks = stats.rankdata(abs(kept))
    sums = [np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=5)]
    observed = ranks[kept > 0].sum()
    smaller = min(np.mean([s <= observed for s in sums]), np.mean([s >= observed for s in sums]))
    found = metrics.paired_tests(a, b)
    assert (found["n"], found["nonzero"]) == (6, 5)
    assert found["signed_rank_p"] == pytest.approx(min(1, 2 * smaller))


@pytest.mark.parametrize(("size", "others"), [(5, 5), (3, 11), (20, 30)])
def test_counting_arrangements_agrees_with_scipy_without_ties(size: int, others: int) -> None:
    rng = np.random.default_rng(size)
    a, b = rng.normal(size=size), rng.normal(0.3, size=others)
    doubled = 2 * stats.rankdata(np.concatenate([a, b])).astype(int)
    counts = intervals._tied_null(doubled)
    expected = stats.mannwhitneyu(a, b, method="exact").pvalue
    assert intervals._two_sided(counts[size], doubled[:size].sum()) == pytest.approx(expected, abs=1e-12)
    doubled = 2 * stats.rankdata(abs(a)).astype(int)
    counts = intervals._tied_null(doubled).sum(axis=0)
    expected = stats.wilcoxon(a, method="exact").pvalue
    assert intervals._two_sided(counts, doubled[a > 0].sum()) == pytest.approx(expected, abs=1e-12)


def test_permutation_counts_sums_that_differ_by_rounding_as_equal() -> None:
    differences = np.array([0.1, 0.2, -0.3, 0.4, -0.4])
    assert abs(differences.sum()) < 1e-15
    assert metrics.paired_tests(differences, np.zeros(5))["permutation_p"] == 1.0
    differences = np.array([1, 3, -2, 2, 4, -1]) / 10
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    sums = abs(signs @ np.array([1, 3, 2, 2, 4, 1]))
    found = metrics.paired_tests(differences, np.zeros(6))["permutation_p"]
    assert found == pytest.approx(np.mean(sums >= 7), abs=1e-12)


def test_paired_tests_of_many_pairs_and_of_equals() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=80)
    b = a + rng.normal(0.3, 1, size=80)
    found = metrics.paired_tests(a, b)
    assert found["signed_rank_p"] == pytest.approx(stats.wilcoxon(a, b, method="asymptotic", correction=True).pvalue)
    assert found["permutation_p"] == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.2)
    assert found == metrics.paired_tests(a, b)
    equal = metrics.paired_tests([1.0, 2.0], [1.0, 2.0])
    assert equal == {"n": 2, "nonzero": 0, "signed_rank_p": 1.0, "sign_p": 1.0, "permutation_p": 1.0}
    assert metrics.paired_tests([1.0], [0.0])["permutation_p"] == 1.0


def test_holm_by_hand() -> None:
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.holm([0.1, math.nan])


samples = st.lists(st.integers(-5, 5), min_size=1, max_size=12)


@settings(max_examples=50)
@given(samples, samples)
def test_effect_sizes_are_what_they_say(a: list[int], b: list[int]) -> None:
    pairs = [(x > y) - (x < y) for x in a for y in b]
    assert metrics.cliffs_delta(a, b) == pytest.approx(np.mean(pairs))
    assert metrics.vargha_delaney(a, b) == pytest.approx(metrics.rank_sum_test(a, b)["statistic"] / len(pairs))
    assert 0 < metrics.rank_sum_test(a, b)["p_value"] <= 1


def test_cohens_dz_by_hand() -> None:
    assert metrics.cohens_dz([1, 2, 6], [0, 0, 0]) == pytest.approx(3 / math.sqrt(7))
    assert metrics.cohens_dz([1, 2], [0, 1]) == math.inf
    assert metrics.cohens_dz([1, 2], [1, 2]) == 0
    with pytest.raises(ValueError, match="at least 2 pairs"):
        metrics.cohens_dz([1], [2])


@pytest.mark.parametrize("values", [[], [math.nan], [[1.0]]])
def test_bad_samples_are_refused(values: list) -> None:
    with pytest.raises(ValueError, match="a must be a flat list"):
        metrics.rank_sum_test(values, [1.0])
