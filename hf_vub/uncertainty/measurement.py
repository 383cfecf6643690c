"""What a calibration changes: metrics before and after, and how often conformal sets allow an answer."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ..metrics.calibration import calibration_metrics
from ..metrics.classification import Floats, reliability_bins
from ..runs.schema import Abstention, CalibrationMeasurement, CalibrationMetrics, Interval, Reliability
from .conformal import ConformalThreshold, conformal_threshold, prediction_sets

logger = logging.getLogger(__name__)


def fit_thresholds(
    scores: Floats, labels: NDArray[np.int64], miscoverage: Sequence[float]
) -> tuple[ConformalThreshold, ...]:
    """Return a threshold for each miscoverage, and warn of those that there are too few rows for.

    Args:
        scores: calibrated log-probabilities, shape (rows, classes).
        labels: class numbers, shape (rows,).
        miscoverage: shares of rows whose set may miss the label.
    """
    p = softmax(scores, axis=1)
    fitted = tuple(conformal_threshold(p, labels, share) for share in sorted(set(miscoverage)))
    for each in fitted:
        if each.threshold == 0:
            logger.warning(
                "%d rows are too few for sets that miss at most %g of the labels: no threshold is stored for it",
                each.rows,
                each.miscoverage,
            )
    return tuple(each for each in fitted if each.threshold > 0)


def measure(
    split: str,
    described: str,
    logits: Floats,
    scores: Floats,
    labels: NDArray[np.int64],
    fitted: Sequence[ConformalThreshold] = (),
) -> CalibrationMeasurement:
    """Return the metrics of a classifier on some rows before and after its calibration.

    Args:
        split, described: which rows these are.
        logits: training logits, shape (rows, classes).
        scores: calibrated log-probabilities, same shape.
        labels: class numbers, shape (rows,).
        fitted: thresholds, if they were fitted on other rows.
    """
    p = softmax(scores, axis=1)
    return CalibrationMeasurement(
        split=split,
        data_rows=described,
        num_examples=len(labels),
        before=_metrics(logits, labels),
        after=_metrics(scores, labels),
        abstention=tuple(_abstention(p, labels, each) for each in fitted) or None,
    )


def _metrics(scores: Floats, labels: NDArray[np.int64]) -> CalibrationMetrics:
    intervals: Mapping[str, Interval] = {
        name: Interval(value=each.value, low=each.low, high=each.high)
        for name, each in calibration_metrics(scores, labels).items()
    }
    bins: dict[str, Any] = {name: values.tolist() for name, values in reliability_bins(scores, labels).items()}
    bins |= {name: [None if np.isnan(v) else v for v in bins[name]] for name in ("confidence", "accuracy")}
    return CalibrationMetrics(**intervals, reliability=Reliability(**{name: tuple(v) for name, v in bins.items()}))


def _abstention(p: Floats, labels: NDArray[np.int64], fitted: ConformalThreshold) -> Abstention:
    sets = prediction_sets(p, fitted)
    answered = sets.sum(axis=1) == 1
    wrong = p.argmax(axis=1) != labels
    return Abstention(
        miscoverage=fitted.miscoverage,
        coverage=float(sets[np.arange(len(labels)), labels].mean()),
        answered=float(answered.mean()),
        error_answered=float(wrong[answered].mean()) if answered.any() else None,
    )
