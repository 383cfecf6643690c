"""Calibration of a classifier with bootstrap intervals: how far its probabilities are from the observed frequencies."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from .classification import Floats, bin_of, checked
from .intervals import check_confidence

BINS = 15
"""Bins of confidence, of equal width (Guo et al., 2017)."""

_BLOCK = 2_000_000  # counts in memory at once
_HIGHEST = {"accuracy": 1.0, "nll": np.inf, "brier": 2.0, "ece": 1.0, "classwise_ece": 1.0}


@dataclass(frozen=True)
class Estimate:
    """A metric (``value``, on the rows as they are) with the ends of its bootstrap interval."""

    value: float
    low: float
    high: float


def classwise_calibration_error(logits: ArrayLike, labels: ArrayLike, bins: int = BINS) -> float:
    r"""Return the classwise expected calibration error of logits, between 0 and 1.

    .. math:: \frac1K\sum_k\sum_b \frac{|B_{bk}|}{n}\,\bigl|\mathrm{freq}_k(B_{bk}) - \overline{p_k}(B_{bk})\bigr|

    where :math:`B_{bk}` holds the rows whose probability of class k is in bin b. Unlike the ECE, it looks at the
    probabilities of all classes.

    Raises:
        ValueError: as :func:`hf_vub.metrics.accuracy`.

    Source: Kull et al., "Beyond temperature scaling", NeurIPS 2019.
    """
    scores, classes = checked(logits, labels)
    gaps = _classwise_gaps(np.exp(log_softmax(scores, axis=1)), classes, bins)
    return float(np.abs(gaps.sum(axis=1)).sum() / scores.size)


def calibration_metrics(
    logits: ArrayLike, labels: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Return accuracy, nll (nats), brier (0 to 2), ece and classwise_ece (15 bins), each with a bootstrap interval.

    The intervals are those of the basic bootstrap over rows, ``2 value - quantile``, cut to the possible values. They
    correct the upward bias of a calibration error once: noise in a bin counts as miscalibration, and more so in a
    resample. An interval may therefore lie below its value.

    Args:
        logits: logits or log-probabilities, shape (rows, classes).
        labels: class numbers, shape (rows,).
        confidence: of the intervals, between 0 and 1.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: as :func:`hf_vub.metrics.accuracy`, or for a confidence outside 0 to 1.

    Source: Davison and Hinkley, "Bootstrap Methods and their Application" (1997), section 5.2.

    Example:
        >>> calibration_metrics([[2.0, 0.0], [0.0, 2.0]], [0, 1])["accuracy"]
        Estimate(value=1.0, low=1.0, high=1.0)
    """
    check_confidence(confidence)
    scores, classes = checked(logits, labels)
    statistics = _Statistics(log_softmax(scores, axis=1), classes)
    values = statistics(np.ones((len(classes), 1)))[:, 0]
    drawn = np.concatenate([statistics(counts) for counts in _resampled(len(classes), resamples, seed)], axis=1)
    tail = (1 - confidence) / 2
    upper, lower = np.quantile(drawn, [1 - tail, tail], axis=1)
    ends = zip(_HIGHEST.items(), values, 2 * values - upper, 2 * values - lower, strict=True)
    return {
        name: Estimate(float(value), *(float(np.clip(end, 0.0, highest)) for end in (low, high)))
        for (name, highest), value, low, high in ends
    }


class _Statistics:
    """All metrics as functions of how often each row counts."""

    def __init__(self, log_p: Floats, labels: NDArray[np.int64]):
        p, rows = np.exp(log_p), np.arange(len(labels))
        correct = p.argmax(axis=1) == labels
        self.classes = p.shape[1]
        squares = np.square(p).sum(axis=1) - 2 * p[rows, labels] + 1
        self.means = np.stack([correct, -log_p[rows, labels], squares]).astype(np.float64)
        confidence = p.max(axis=1)
        self.gaps = csr_matrix((correct - confidence, (bin_of(confidence, BINS), rows)), shape=(BINS, len(rows)))
        self.classwise = _classwise_gaps(p, labels, BINS)

    def __call__(self, counts: Floats) -> Floats:
        """Return the metrics (5, resamples) for counts of shape (rows, resamples)."""
        n = len(counts)
        ece = np.abs(self.gaps @ counts).sum(axis=0) / n
        classwise = np.abs(self.classwise @ counts).sum(axis=0) / (n * self.classes)
        metrics: Floats = np.vstack([self.means @ counts / n, ece, classwise])
        return metrics


def _classwise_gaps(p: Floats, labels: NDArray[np.int64], bins: int) -> csr_matrix:
    """Return per class and bin (classes * bins) the gaps of its rows (rows): observed minus predicted."""
    n, classes = p.shape
    rows, columns = np.divmod(np.arange(p.size), classes)
    observed = labels[rows] == columns
    groups = columns * bins + bin_of(p.ravel(), bins)
    return csr_matrix((observed - p.ravel(), (groups, rows)), shape=(classes * bins, n))


def _resampled(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each row is drawn, in blocks of shape (rows, some of the resamples)."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // rows)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield rng.multinomial(rows, np.full(rows, 1 / rows), size=size).T.astype(np.float64)
