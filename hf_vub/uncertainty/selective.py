"""Selective prediction: how many errors remain when the least certain rows are not answered."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class RiskCoverage:
    """The risk-coverage curve of a confidence score.

    Attributes:
        coverage: share of rows answered, ascending, shape (points,).
        risk: share of errors among the answered rows, shape (points,).
        aurc: area under the curve: the mean of the risk over all numbers of rows answered, lower is better.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    aurc: float


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Answer rows in the order of their confidence and return the error rate at every coverage.

    Rows of equal confidence are answered together: within a tie each adds the tie's mean error, so that the order of
    the rows does not matter.

    Args:
        confidence: higher is more certain, shape (rows,).
        correct: whether the prediction is right, shape (rows,).

    Raises:
        ValueError: for no rows, shapes that differ, a confidence that is not a number, or a ``correct`` that holds
            anything but truth values (predictions, say).

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017.

    Example:
        >>> risk_coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, True]).risk.round(2).tolist()
        [0.0, 0.0, 0.33, 0.25]
    """
    scores, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct)
    if scores.ndim != 1 or scores.shape != right.shape or not len(scores):
        raise ValueError(
            f"confidence has shape {scores.shape} and correct {right.shape}; both must be (rows,), not empty"
        )
    if np.isnan(scores).any():
        raise ValueError("confidence must hold numbers, but holds NaN")
    if not np.isin(right, (0, 1)).all():
        raise ValueError(f"correct must hold True and False, but holds {right[~np.isin(right, (0, 1))][0]}")
    _, group = np.unique(-scores, return_inverse=True)
    sizes = np.bincount(group)
    mean_error = np.bincount(group, weights=right == 0) / sizes
    answered = np.arange(1, len(scores) + 1)
    risk = np.cumsum(np.repeat(mean_error, sizes)) / answered
    return RiskCoverage(answered / len(scores), risk, float(risk.mean()))
