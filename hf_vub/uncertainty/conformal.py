"""Split conformal prediction: sets of classes that hold the label with a stated probability."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics.temperature import check_rows


@dataclass(frozen=True)
class ConformalThreshold:
    """A fitted threshold.

    Attributes:
        miscoverage: alpha, the largest share of rows whose set may miss the label.
        threshold: classes of at least this probability enter the set; 0 lets all in.
        rows: held-out rows that it was fitted on.
    """

    miscoverage: float
    threshold: float
    rows: int


def conformal_threshold(probabilities: ArrayLike, labels: ArrayLike, miscoverage: float = 0.05) -> ConformalThreshold:
    r"""Fit the threshold of least ambiguous sets on held-out rows.

    With n held-out rows, the threshold t is the k-th smallest probability of a true label,
    :math:`k = \lfloor\alpha(n+1)\rfloor`. For a new row exchangeable with them, the set :math:`\{y: p_y \ge t\}` holds
    the label with probability at least :math:`1-\alpha`. With too few rows (k = 0) no threshold can
    promise that, and every class enters.

    Args:
        probabilities: shape (rows, classes).
        labels: class numbers, shape (rows,).
        miscoverage: alpha, above 0 and below 1.

    Raises:
        ValueError: for no rows, values that are no probabilities, labels out of range, or a miscoverage out of range.

    Source: Sadinle et al., "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", JASA 2019.
    """
    values, classes = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    check_rows(values, classes)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"probabilities must be from 0 to 1, but go from {values.min():.4g} to {values.max():.4g}")
    if not 0 < miscoverage < 1:
        raise ValueError(f"miscoverage is {miscoverage}; it must be above 0 and below 1")
    own = np.sort(values[np.arange(len(classes)), classes])
    rank = math.floor(miscoverage * (len(own) + 1))
    return ConformalThreshold(miscoverage, float(own[rank - 1]) if rank else 0.0, len(own))


def prediction_sets(probabilities: ArrayLike, fitted: ConformalThreshold) -> NDArray[np.bool_]:
    """Return which classes each set holds, shape (rows, classes).

    A row is answered where its set holds one class; an empty set or several classes allow no answer.

    Raises:
        ValueError: for probabilities that are no numbers or have another shape.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or np.isnan(values).any():
        raise ValueError(f"probabilities have shape {values.shape}; they must be (rows, classes), without NaN")
    return values >= fitted.threshold
