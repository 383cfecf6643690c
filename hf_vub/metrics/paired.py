"""Comparisons of two classifiers on the same examples: is one better, or are they equally good?

The unit of a robustness result is the attacked example. Ten heads on the same thirteen texts are not 130 samples: what
two heads share, an easy text for instance, counts once. Rows of a table are seeds and columns are examples here; the
same place in two tables is the same example, attacked in the same way.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .classification import Floats, to_numpy
from .intervals import check_confidence
from .robustness import booleans

_BLOCK = 4_000_000  # bounds the memory of resamples, in numbers


class PairedDifference(NamedTuple):
    """The mean of ``first - second`` over seeds and examples.

    Attributes:
        difference: in the unit of the values.
        interval: its confidence interval.
        p_value: two-sided, of no difference.
        examples: pairs were compared on so many examples.
        seeds: on each example at most so many pairs were compared.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    examples: int
    seeds: int


class Equivalence(NamedTuple):
    """Result of ``equivalent``.

    Attributes:
        holds: ``p_value`` is below the level.
        p_value: of a difference as large as the margin.
        margin: the largest difference that counts as none.
        difference: mean of ``first - second``.
        interval: of the difference; it lies inside the margin where the result holds.
    """

    holds: bool
    p_value: float
    margin: float
    difference: float
    interval: tuple[float, float]


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Return the exact two-sided p-value that two outcomes are equally likely on the same examples.

    Args:
        first: bool (examples,), such as whether an attack fooled the first classifier.
        second: bool (examples,), the same examples in the same order.

    Returns:
        Of the b + c examples on which the outcomes differ, the binomial probability (at one half) of a split at least
        as uneven as b to c; 1 where they differ on none.

    Raises:
        ValueError: for values other than true and false, no examples, or a different number of them.

    Source: McNemar (1947), in the exact form.

    Example:
        >>> round(mcnemar([True] * 8 + [False] * 4, [False] * 8 + [False] * 4), 4)
        0.0078
    """
    from scipy.stats import binomtest

    one, other = booleans("first", first), booleans("second", second)
    if not len(one) == len(other) > 0:
        raise ValueError(f"first and second must be pairs, but have {len(one)} and {len(other)} examples")
    only_first, only_second = int(np.sum(one & ~other)), int(np.sum(other & ~one))
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two classifiers over examples and seeds at once: both are resampled, and examples stay paired.

    Args:
        first: values (seeds, examples), or (examples,) of a single run; NaN where a run has no value of an example.
        second: the same examples in the same order. A single run is compared with every seed of the other.
        confidence: of the interval.
        resamples: bootstrap resamples.
        seed: of the resamples.

    Returns:
        Mean difference, percentile interval and two-sided p-value. The p-value is at least that of a sign test on
        which all examples that differ agree. With one seed it says nothing about other seeds.

    Raises:
        ValueError: for values that are not finite, tables that do not fit, or without a single pair.

    Source: the pigeonhole bootstrap of Owen (2007) for crossed samples, which is conservative.

    Example:
        >>> paired_bootstrap([1, 1, 1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0, 0]).difference
        0.75
    """
    differences = _differences(first, second)
    means = _resampled_means(differences, confidence, resamples, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    below, above = _share(means <= 0), _share(means >= 0)
    unequal = int(np.sum(np.any(np.nan_to_num(differences) != 0, axis=0)))
    p_value = min(1.0, max(2 * min(below, above), 2.0 ** (1 - unequal)))
    rows, examples = differences.shape
    return PairedDifference(float(np.nanmean(differences)), (float(low), float(high)), p_value, examples, rows)


def equivalent(
    first: ArrayLike,
    second: ArrayLike,
    margin: float,
    *,
    side: Literal["both", "above", "below"] = "both",
    level: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
) -> Equivalence:
    """Test if two classifiers differ by less than a margin: "no difference was found" is not enough for "no worse".

    Args:
        first: values (seeds, examples) or (examples,), as for `paired_bootstrap`.
        second: the same examples in the same order.
        margin: the largest difference that counts as none, in the unit of the values; above 0.
        side: "both" asks for ``-margin < first - second < margin``; "above" only that ``first`` does not exceed
            ``second`` by the margin, "below" that it does not fall short by it.
        level: of the test.
        resamples: bootstrap resamples.
        seed: of the resamples.

    Returns:
        The verdict, its p-value (of two one-sided tests the larger), and the interval with confidence 1 - 2 level.
        Where values are shares, p is at least (1 - margin)^examples: so many examples may hide a difference as large.

    Raises:
        ValueError: as for `paired_bootstrap`, or the margin is not above 0.

    Source: Schuirmann (1987), the two one-sided tests, on resamples of `paired_bootstrap`.

    Example:
        >>> equivalent([0, 1] * 100, [0, 1] * 100, margin=0.05).holds
        True
    """
    if not margin > 0:
        raise ValueError(f"margin must be above 0, but is {margin}")
    if side not in ("both", "above", "below"):
        raise ValueError(f"side must be 'both', 'above' or 'below', but is {side!r}")
    differences = _differences(first, second)
    means = _resampled_means(differences, 1 - 2 * level, resamples, seed)
    tests = {"above": _share(means >= margin), "below": _share(means <= -margin)}
    p_value = max(tests.values()) if side == "both" else tests[side]
    if margin < 1 and _are_shares(first) and _are_shares(second):
        p_value = max(p_value, (1 - margin) ** differences.shape[1])
    low, high = np.quantile(means, [level, 1 - level])
    return Equivalence(p_value < level, p_value, margin, float(np.nanmean(differences)), (float(low), float(high)))


def holm(p_values: Sequence[float] | ArrayLike) -> list[float]:
    """Adjust p-values so that rejecting those below alpha keeps the chance of any false rejection below alpha.

    Source: Holm (1979): sorted upwards, the i-th of m is multiplied by m - i + 1, made monotone and cut at 1.
    """
    p = np.asarray(to_numpy(p_values), dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p_values must be a flat list of numbers between 0 and 1, but are {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


def _resampled_means(differences: Floats, confidence: float, resamples: int, seed: int) -> Floats:
    """Return the mean difference of every resample of rows and columns; resamples without a pair are left out."""
    check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, but is {resamples}")
    rng = np.random.default_rng(seed)
    rows, columns = differences.shape
    # Examples with the same differences are drawn together: most of thousands of them have none at all.
    both = np.vstack([np.nan_to_num(differences), np.isfinite(differences)])
    kinds, counts = np.unique(both, axis=1, return_counts=True)
    values, known = kinds[:rows], kinds[rows:]
    means = []
    for start in range(0, resamples, block := max(1, _BLOCK // kinds.shape[1])):
        size = min(block, resamples - start)
        by_row = rng.multinomial(rows, np.full(rows, 1 / rows), size=size).astype(np.float64)
        by_column = rng.multinomial(columns, counts / columns, size=size)
        totals = np.sum((by_row @ values) * by_column, axis=1)
        pairs = np.sum((by_row @ known) * by_column, axis=1)
        means.append(totals[pairs > 0] / pairs[pairs > 0])
    return np.concatenate(means)


def _share(hits: NDArray[np.bool_]) -> float:
    """Return a share of resamples that is never 0, as the sample itself is one of them."""
    return (float(np.sum(hits)) + 1) / (len(hits) + 1)


def _differences(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return ``first - second`` (seeds, examples), without examples that have no pair."""
    one, other = _table("first", first), _table("second", second)
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"first and second must be pairs, but have {one.shape[1]} and {other.shape[1]} examples")
    if len({len(one), len(other)} - {1}) > 1:
        raise ValueError(f"first and second must have equally many seeds or one, but have {len(one)} and {len(other)}")
    differences = one - other
    differences = differences[:, np.any(np.isfinite(differences), axis=0)]
    if not differences.size:
        raise ValueError("first and second have no example in common")
    return differences


def _table(name: str, values: ArrayLike) -> Floats:
    table = np.atleast_2d(np.asarray(to_numpy(values), dtype=np.float64))
    if table.ndim != 2 or not table.size or np.any(np.isinf(table)):
        raise ValueError(f"{name} must be finite numbers of shape (examples,) or (seeds, examples), but is {table}")
    return table


def _are_shares(values: ArrayLike) -> bool:
    table = _table("values", values)
    return bool(np.all(np.isnan(table) | ((table >= 0) & (table <= 1))))
