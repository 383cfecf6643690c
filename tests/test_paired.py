"""Paired comparisons against scipy, by hand, and by simulation of their level and power."""

import numpy as np
import pytest
from scipy import stats

from hf_vub.metrics import equivalent, holm, mcnemar, paired_bootstrap


@pytest.mark.parametrize(("only_first", "only_second"), [(33, 1), (31, 1), (2, 0), (5, 5), (0, 7), (0, 0)])
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(only_first: int, only_second: int) -> None:
    first = [True] * only_first + [False] * only_second + [True] * 9 + [False] * 11
    second = [False] * only_first + [True] * only_second + [True] * 9 + [False] * 11
    total = only_first + only_second
    expected = stats.binomtest(only_first, total).pvalue if total else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(second, first) == pytest.approx(expected)


def test_mcnemar_refuses_what_is_no_pair_of_outcomes() -> None:
    for first, second, words in (
        ([True], [True, False], "1 and 2"),
        ([], [], "first"),
        ([0, 1, 2], [0, 1, 1], "first"),
        ([[True]], [[True]], "first"),
    ):
        with pytest.raises(ValueError, match=words):
            mcnemar(first, second)


def outcomes(rng: np.random.Generator, seeds: int, examples: int, gain: float, noise: float) -> list[np.ndarray]:
    """Return successes (seeds, examples) against two classifiers that share the ease of examples and differ by seed."""
    ease = rng.normal(size=examples)
    tables = []
    for shift in (gain, 0.0):
        own = rng.normal(scale=noise, size=(seeds, 1)) + rng.normal(scale=0.5, size=(1, examples))
        tables.append(ease + own + shift + rng.normal(scale=0.5, size=(seeds, examples)) > 0)
    return tables


@pytest.mark.parametrize(("seeds", "examples", "noise"), [(1, 40, 0.0), (5, 16, 0.3), (10, 13, 0.3)])
def test_paired_bootstrap_keeps_its_level_and_has_power(seeds: int, examples: int, noise: float) -> None:
    rng = np.random.default_rng(0)
    rejected = {0.0: 0, 1.5: 0}
    for gain in rejected:
        for _ in range(150):
            first, second = outcomes(rng, seeds, examples, gain, noise)
            rejected[gain] += paired_bootstrap(first, second, resamples=500).p_value < 0.05
    assert rejected[0.0] <= 15  # 7.5 are expected; a binomial exceeds 15 in 1 case of 200
    assert rejected[1.5] >= 120


def test_ten_seeds_on_the_same_examples_are_not_ten_samples() -> None:
    """A test of independent rows calls chance a difference in most draws here."""
    rng = np.random.default_rng(1)
    naive = honest = 0
    for _ in range(60):
        first, second = outcomes(rng, 10, 13, 0.0, 0.0)
        naive += stats.ttest_rel(1.0 * first.ravel(), 1.0 * second.ravel()).pvalue < 0.05
        honest += paired_bootstrap(first, second, resamples=500).p_value < 0.05
    assert naive > 15
    assert honest <= 6


def test_paired_bootstrap_by_hand() -> None:
    first, second = np.array([[1.0, 1, 0, 1], [1, 0, 0, 1]]), np.array([[0.0, 1, 0, 0], [0, 0, 0, 1]])
    found = paired_bootstrap(first, second)
    assert found.difference == pytest.approx(3 / 8)
    assert (found.seeds, found.examples) == (2, 4)
    assert found.interval[0] <= found.difference <= found.interval[1]
    swapped = paired_bootstrap(second, first)
    assert swapped.difference == -found.difference
    assert swapped.p_value == pytest.approx(found.p_value, abs=0.02)
    # Two examples differ: even if both favour one side, a sign test cannot go below 1/2.
    assert found.p_value >= 0.5
    assert paired_bootstrap(first, first).p_value == 1.0


def test_a_value_that_a_run_lacks_is_left_out() -> None:
    first, second = np.array([[1.0, np.nan, 1], [1, 1, np.nan]]), np.array([0.0, 1, np.nan])
    found = paired_bootstrap(first, second)
    assert found.difference == pytest.approx(2 / 3)  # of the pairs (1, 0), (1, 0) and (1, 1)
    assert (found.seeds, found.examples) == (2, 2)
    with pytest.raises(ValueError, match="no example in common"):
        paired_bootstrap([np.nan], [1.0])
    with pytest.raises(ValueError, match="3 and 2 examples"):
        paired_bootstrap([1, 0, 1], [1, 0])
    with pytest.raises(ValueError, match="3 and 2"):
        paired_bootstrap(np.zeros((3, 4)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        paired_bootstrap([np.inf], [1.0])
    with pytest.raises(ValueError, match="confidence"):
        paired_bootstrap([1.0, 0], [0, 1.0], confidence=1.0)
    with pytest.raises(ValueError, match="resamples"):
        paired_bootstrap([1.0, 0], [0, 1.0], resamples=0)


def test_equivalence_needs_enough_examples_to_see_the_margin() -> None:
    same = [1, 0, 1, 0]
    few, many = equivalent(same, same, 0.05), equivalent(same * 30, same * 30, 0.05)
    assert (few.holds, many.holds) == (False, True)
    assert few.p_value == pytest.approx(0.95**4)
    assert many.margin == 0.05


def test_equivalence_is_of_one_side_or_both() -> None:
    first, second = np.zeros(200), np.zeros(200)
    first[:40] = 1  # first is 0.2 above second
    assert equivalent(first, second, 0.1, side="below").holds
    assert not equivalent(first, second, 0.1, side="above").holds
    assert not equivalent(first, second, 0.1).holds
    assert equivalent(first, second, 0.3).holds
    low, high = equivalent(first, second, 0.3).interval
    assert 0.1 < low < 0.2 < high < 0.3
    for margin, side, words in ((0.0, "both", "margin"), (float("nan"), "both", "margin"), (0.1, "left", "side")):
        with pytest.raises(ValueError, match=words):
            equivalent(first, second, margin, side=side)


def test_equivalence_keeps_its_level_where_the_difference_is_the_margin() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(150):
        second = rng.random(150) < 0.4
        first = second | (rng.random(150) < 1 / 6)  # 0.6 / 6: above by the margin on average
        held += equivalent(first, second, 0.1, side="above", resamples=500).holds
    assert held <= 15


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
