"""Confidence intervals and tests: is a difference between runs more than chance?

scipy computes all but one thing: with tied ranks its exact tests pretend that there are no ties, and its permutation
tests list every arrangement, 126 trillion for 25 against 25 values. ``_tied_null`` counts arrangements by their sum.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .classification import Floats, to_numpy

_EXACT_ROWS = 50  # up to here the counts of arrangements stay exact in float64
_FLIPS = 100_000


class RankSum(TypedDict):
    """Result of ``rank_sum_test``."""

    statistic: float
    p_value: float
    method: str


class PairedTests(TypedDict):
    """Result of ``paired_tests``."""

    n: int
    nonzero: int
    signed_rank_p: float
    sign_p: float
    permutation_p: float


def share_interval(shares: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a rate whose observations are shares, such as of the draws that misread an example.

    By the bootstrap over observations, or Wilson's interval where they are all equal and a bootstrap has no width.
    """
    if len(set(shares)) > 1:
        return bootstrap_interval(shares, resamples=2000)
    return wilson_interval(round(sum(shares)), len(shares))


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a proportion, which also holds near 0 and 1; (0, 1) where ``total`` is 0.

    Source: Wilson (1927): ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``.
    """
    from scipy.stats import binomtest

    check_confidence(confidence)
    if not 0 <= successes <= total:
        raise ValueError(f"successes must lie between 0 and total = {total}, but is {successes}")
    if total == 0:
        return 0.0, 1.0
    low, high = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., NDArray[np.floating] | np.floating] = np.mean,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of ``statistic(values, axis=...)``.

    Source: Efron (1987). Where the acceleration does not exist (a statistic that no value moves) the interval is that
    of plain percentiles; equal values give an interval of width 0.
    """
    from scipy.stats import bootstrap

    check_confidence(confidence)
    sample = _sample("values", values)
    if np.all(sample == sample[0]):
        centre = float(statistic(sample, axis=0))
        return centre, centre
    with np.errstate(all="ignore"):
        for method in ("BCa", "percentile"):
            found = bootstrap(
                (sample,),
                statistic,
                n_resamples=resamples,
                batch=max(1, 4_000_000 // len(sample)),  # bounds memory
                vectorized=True,
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            )
            low, high = map(float, found.confidence_interval)
            if math.isfinite(low) and math.isfinite(high):
                break
    return low, high


def rank_sum_test(a: ArrayLike, b: ArrayLike) -> RankSum:
    """Test, two-sided, if two independent samples come from one distribution (Wilcoxon rank-sum, Mann-Whitney).

    Returns:
        ``statistic``: U of ``a``, the number of pairs in which ``a`` is larger, ties counting one half; ``p_value``;
        ``method``: "exact" up to 50 values in all (the permutation distribution of the midranks, so ties are exact
        too), "asymptotic" (normal, corrected for ties and continuity) beyond.

    Source: Wilcoxon (1945); Lehmann, Nonparametrics (1975), section 1.4 for ties. The paper's test: with five runs
    against five the smallest p is 0.008.

    Example:
        >>> round(rank_sum_test([6, 7, 8, 9, 10], [1, 2, 3, 4, 5])["p_value"], 4)
        0.0079
    """
    from scipy.stats import mannwhitneyu, rankdata

    first, second = _sample("a", a), _sample("b", b)
    pooled = np.concatenate([first, second])
    exact = len(pooled) <= _EXACT_ROWS
    method = "exact" if exact else "asymptotic"
    found = mannwhitneyu(first, second, method=method)
    p_value = float(found.pvalue)
    if exact and len(set(pooled)) < len(pooled):
        doubled = np.rint(2 * rankdata(pooled)).astype(int)
        p_value = _two_sided(_tied_null(doubled)[len(first)], int(doubled[: len(first)].sum()))
    # Without any difference between values the normal approximation divides zero by zero.
    return {
        "statistic": float(found.statistic),
        "p_value": p_value if math.isfinite(p_value) else 1.0,
        "method": method,
    }


def paired_tests(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> PairedTests:
    """Test, two-sided, if the differences ``a - b`` of pairs (the same seed, the same input) lie around zero.

    Returns:
        ``n`` pairs, ``nonzero`` differences, and three p-values: ``signed_rank_p`` (Wilcoxon, zeros dropped, exact up
        to 50 differences, ties included), ``sign_p`` (binomial, exact), ``permutation_p`` (the mean difference under
        every flip of signs up to 16 nonzero differences, under 100,000 random flips drawn with ``seed`` beyond).

    Source: Wilcoxon (1945); Fisher, The Design of Experiments (1935). Five pairs cannot go below p = 0.0625.
    """
    from scipy.stats import binomtest

    first, second = _sample("a", a), _sample("b", b)
    if len(first) != len(second):
        raise ValueError(f"a and b must be pairs, but have {len(first)} and {len(second)} values")
    kept = (first - second)[first != second]
    some = len(kept) > 0
    return {
        "n": len(first),
        "nonzero": len(kept),
        "signed_rank_p": _signed_rank(kept) if some else 1.0,
        "sign_p": float(binomtest(int(np.sum(kept > 0)), len(kept)).pvalue) if some else 1.0,
        "permutation_p": _sign_flips(kept, seed) if len(kept) > 1 else 1.0,
    }


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """Return ``P(a > b) - P(a < b)`` over all pairs, between -1 and 1. Source: Cliff (1993)."""
    first, second = _sample("a", a), np.sort(_sample("b", b))
    smaller, not_larger = (np.searchsorted(second, first, side=side) for side in ("left", "right"))
    return float(np.mean(smaller + not_larger) / len(second) - 1.0)


def vargha_delaney(a: ArrayLike, b: ArrayLike) -> float:
    """Return ``P(a > b) + P(a = b) / 2``, between 0 and 1; 0.5 is no effect. Source: Vargha and Delaney (2000)."""
    return (cliffs_delta(a, b) + 1.0) / 2.0


def cohens_dz(a: ArrayLike, b: ArrayLike) -> float:
    """Return the mean of the paired differences ``a - b`` over their standard deviation (n - 1). Source: Cohen (1988).

    Equal differences give an infinite effect, or 0 where all are zero.
    """
    first, second = _sample("a", a), _sample("b", b)
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"a and b must be at least 2 pairs, but have {len(first)} and {len(second)} values")
    differences = first - second
    mean, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if deviation == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / deviation


def _sample(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(to_numpy(values), dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be a flat list of at least one finite number, but is {array.tolist()}")
    return array


def check_confidence(confidence: float) -> None:
    """Raise ValueError for a confidence outside 0 to 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, but is {confidence}")


def _signed_rank(differences: Floats) -> float:
    """Return the p-value of Wilcoxon's signed-rank test of differences that are not zero."""
    from scipy.stats import rankdata, wilcoxon

    sizes = np.abs(differences)
    exact = len(sizes) <= _EXACT_ROWS
    if exact and len(set(sizes)) < len(sizes):
        doubled = np.rint(2 * rankdata(sizes)).astype(int)
        return _two_sided(_tied_null(doubled).sum(axis=0), int(doubled[differences > 0].sum()))
    return float(wilcoxon(differences, method="exact" if exact else "asymptotic", correction=True).pvalue)


def _tied_null(doubled_ranks: NDArray[np.int64]) -> Floats:
    """Count the subsets of ranks by their size (first axis) and their sum; midranks are halves, doubled whole."""
    counts = np.zeros((len(doubled_ranks) + 1, int(doubled_ranks.sum()) + 1))
    counts[0, 0] = 1
    for rank in doubled_ranks:
        counts[1:, rank:] += counts[:-1, :-rank]
    return counts


def _two_sided(counts: Floats, observed: int) -> float:
    """Return twice the smaller tail of a null distribution given as counts over 0, 1, 2, ..., at most 1."""
    tail = min(counts[: observed + 1].sum(), counts[observed:].sum())
    return float(min(1.0, 2 * tail / counts.sum()))


def _sign_flips(differences: Floats, seed: int) -> float:
    """Return the share of sign flips whose mean is at least as far from zero as the one observed."""
    from scipy.stats import permutation_test

    largest = float(np.sum(np.abs(differences)))
    # scipy takes two statistics for equal if they differ by less than 1e-14 of the observed one, which rounding exceeds
    # where differences nearly cancel (its p is then off by up to 0.09): far from zero that is 1e-12 of the largest sum.
    found = permutation_test(
        (differences,),
        lambda flipped, axis: 100 + np.sum(flipped, axis=axis) / largest,
        permutation_type="samples",
        n_resamples=_FLIPS,
        batch=10_000,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
