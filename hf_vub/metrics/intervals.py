"""Confidence intervals and tests: is a difference between runs more than chance?"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .classification import Floats, _to_numpy

_EXACT_ROWS = 50  # Up to here the exact null distribution of ranks is counted: sums of counts stay exact in float64.


def share_interval(shares: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a rate whose observations are shares, such as of the draws that misread one example.

    Bootstrap over the observations; Wilson's where they are all alike and a bootstrap would have no width.

    Args:
        shares: in [0, 1], one per example.
    """
    if len(set(shares)) > 1:
        return bootstrap_interval(shares, resamples=2000)
    return wilson_interval(round(sum(shares)), len(shares))


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a proportion that also holds near 0 and 1; (0, 1) where ``total`` is 0.

    Source: Wilson (1927): ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``.
    """
    from scipy.stats import norm

    _check_confidence(confidence)
    if not 0 <= successes <= total:
        raise ValueError(f"successes must lie between 0 and total = {total}, but is {successes}")
    if total == 0:
        return 0.0, 1.0
    z, p = float(norm.ppf(0.5 + confidence / 2)), successes / total
    centre = p + z * z / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == total else (centre + half) / scale
    return low, high


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of ``statistic(values, axis=...)``.

    Source: Efron (1987). Where the acceleration does not exist (a statistic that no value moves) the plain percentiles
    are given; equal values give an interval of width 0.
    """
    from scipy.stats import bootstrap

    _check_confidence(confidence)
    sample = _sample("values", values)
    if np.all(sample == sample[0]):
        centre = float(statistic(sample, axis=0))
        return centre, centre
    options: dict[str, Any] = {"n_resamples": resamples, "confidence_level": confidence, "vectorized": True}
    options["batch"] = max(1, 4_000_000 // len(sample))  # bounds the memory for resampled indices
    with np.errstate(all="ignore"):
        for method in ("BCa", "percentile"):
            found = bootstrap((sample,), statistic, rng=np.random.default_rng(seed), method=method, **options)
            low, high = map(float, found.confidence_interval)
            if math.isfinite(low) and math.isfinite(high):
                break
    return low, high


def rank_sum_test(a: ArrayLike, b: ArrayLike) -> dict[str, Any]:
    """Two-sided Wilcoxon rank-sum (Mann-Whitney) test that two independent samples come from one distribution.

    Returns:
        ``statistic``: U of ``a``, the number of pairs in which ``a`` is larger, ties counting one half; ``p_value``;
        ``method``: "exact" up to 50 values in all (the permutation distribution of the midranks, so ties are exact
        too), "asymptotic" (normal, corrected for ties and continuity) beyond.

    Source: Wilcoxon (1945); Lehmann, Nonparametrics (1975), section 1.4 for ties. The paper's test: five runs against
    five reach p = 0.008 at the least.

    Example:
        >>> round(rank_sum_test([1, 2, 3, 4, 5], [6, 7, 8, 9, 10])["p_value"], 4)
        0.0079
    """
    from scipy.stats import mannwhitneyu, rankdata

    first, second = _sample("a", a), _sample("b", b)
    n, m = len(first), len(second)
    ranks = rankdata(np.concatenate([first, second]))
    rank_sum = float(np.sum(ranks[:n]))
    statistic = rank_sum - n * (n + 1) / 2
    if n + m > _EXACT_ROWS:
        p_value = float(mannwhitneyu(first, second, method="asymptotic").pvalue)
        return {"statistic": statistic, "p_value": p_value if math.isfinite(p_value) else 1.0, "method": "asymptotic"}
    # Midranks are halves: doubled they are integers, and the subsets of n of them can be counted by their sum.
    doubled = np.rint(2 * ranks).astype(int)
    counts = np.zeros((n + 1, int(doubled.sum()) + 1))
    counts[0, 0] = 1
    for rank in doubled:
        counts[1:, rank:] += counts[:-1, :-rank]
    return {"statistic": statistic, "p_value": _two_sided(counts[n], round(2 * rank_sum)), "method": "exact"}


def paired_tests(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> dict[str, Any]:
    """Two-sided tests that the differences ``a - b`` of pairs (the same seed, the same input) lie around zero.

    Returns:
        ``n`` pairs, ``nonzero`` differences, and three p-values: ``signed_rank_p`` (Wilcoxon, zeros dropped, exact up
        to 50 differences, ties included), ``sign_p`` (binomial, exact), ``permutation_p`` (every flip of signs of the
        mean difference up to 20 pairs, 100,000 random flips drawn with ``seed`` beyond).

    Source: Wilcoxon (1945); Fisher, The Design of Experiments (1935). Five pairs cannot go below p = 0.0625.
    """
    from scipy.stats import binomtest, rankdata, wilcoxon

    first, second = _sample("a", a), _sample("b", b)
    if len(first) != len(second):
        raise ValueError(f"a and b must be pairs, but have {len(first)} and {len(second)} values")
    differences = first - second
    kept = differences[differences != 0]
    result: dict[str, Any] = {"n": len(differences), "nonzero": len(kept)}
    if not len(kept):
        return result | {"signed_rank_p": 1.0, "sign_p": 1.0, "permutation_p": 1.0}
    if len(kept) > _EXACT_ROWS:
        signed_rank_p = float(wilcoxon(kept, method="asymptotic", correction=True).pvalue)
    else:
        doubled = np.rint(2 * rankdata(np.abs(kept))).astype(int)
        counts = np.zeros(int(doubled.sum()) + 1)
        counts[0] = 1
        for rank in doubled:
            counts[rank:] += counts[:-rank]
        signed_rank_p = _two_sided(counts, int(doubled[kept > 0].sum()))
    sign_p = float(binomtest(int(np.sum(kept > 0)), len(kept)).pvalue)
    return result | {"signed_rank_p": signed_rank_p, "sign_p": sign_p, "permutation_p": _sign_flips(kept, seed)}


def holm(p_values: Sequence[float] | ArrayLike) -> list[float]:
    """P-values adjusted so that rejecting those under alpha keeps the chance of any false rejection under alpha.

    Source: Holm (1979): sorted upwards, the i-th of m is multiplied by m - i + 1, made monotone and cut at 1.
    """
    p = np.asarray(_to_numpy(p_values), dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p_values must be a flat list of numbers between 0 and 1, but are {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """``P(a > b) - P(a < b)`` over all pairs, between -1 and 1. Source: Cliff (1993)."""
    first, second = _sample("a", a), np.sort(_sample("b", b))
    smaller, not_larger = (np.searchsorted(second, first, side=side) for side in ("left", "right"))
    return float(np.mean(smaller + not_larger) / len(second) - 1.0)


def vargha_delaney(a: ArrayLike, b: ArrayLike) -> float:
    """``P(a > b) + P(a = b) / 2``, between 0 and 1; 0.5 is no effect. Source: Vargha and Delaney (2000)."""
    return (cliffs_delta(a, b) + 1.0) / 2.0


def cohens_dz(a: ArrayLike, b: ArrayLike) -> float:
    """Mean of the paired differences ``a - b`` over their standard deviation (n - 1). Source: Cohen (1988).

    Equal differences that are not zero give an infinite effect, all zeros give 0.
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
    array = np.asarray(_to_numpy(values), dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be a flat list of at least one finite number, but is {array.tolist()}")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, but is {confidence}")


def _two_sided(counts: Floats, observed: int) -> float:
    """Twice the smaller tail of a null distribution given as counts over 0, 1, 2, ..., at most 1."""
    tail = min(counts[: observed + 1].sum(), counts[observed:].sum())
    return float(min(1.0, 2 * tail / counts.sum()))


def _sign_flips(differences: Floats, seed: int) -> float:
    """Share of sign flips whose sum is at least as far from zero as the one observed."""
    sums = np.zeros(1)
    if len(differences) <= 20:
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        extra = 0
    else:
        rng = np.random.default_rng(seed)
        chunks = [rng.choice([-1.0, 1.0], (1000, len(differences))) @ differences for _ in range(100)]
        sums, extra = np.concatenate(chunks), 1  # the observed assignment counts as one of the draws
    tolerance = 1e-12 * float(np.sum(np.abs(differences)))
    far = int(np.sum(np.abs(sums) >= abs(float(np.sum(differences))) - tolerance))
    return (far + extra) / (len(sums) + extra)
