"""Accuracy and calibration of scores.

Pure functions of arrays (or tensors on any device), in float64 inside. Scores are logits of shape (rows, classes);
with ``probabilities=True`` they are rows of probabilities. A metric that does not exist is None.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

Floats = NDArray[np.float64]


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of rows whose highest score is the label's; of equal scores the first class wins.

    Raises:
        ValueError: for shapes that do not fit, no rows, NaN scores, or labels outside 0..classes-1.
    """
    values, classes = checked(scores, labels)
    return float(np.mean(values.argmax(axis=1) == classes))


def negative_log_likelihood(scores: ArrayLike, labels: ArrayLike, *, probabilities: bool = False) -> float:
    """Return the mean of -log p(label) in nats, which is infinite where a label has probability 0.

    Raises:
        ValueError: as for ``accuracy``, or where rows of probabilities are not distributions.
    """
    values, classes = checked(scores, labels)
    with np.errstate(divide="ignore"):
        log_p = np.log(_probabilities(values, given=True)) if probabilities else log_softmax(values, axis=1)
    return float(-np.mean(log_p[np.arange(len(classes)), classes]))


def brier_score(scores: ArrayLike, labels: ArrayLike, *, probabilities: bool = False) -> float:
    """Return the mean squared error of probabilities, ``mean_i sum_k (p_ik - [k = label_i])^2``, between 0 and 2.

    Source: Brier (1950), for any number of classes; with two it is twice the one-sided score.
    """
    values, classes = checked(scores, labels)
    errors = _probabilities(values, probabilities).copy()
    errors[np.arange(len(classes)), classes] -= 1.0
    return float(np.mean(np.sum(errors**2, axis=1)))


def reliability_bins(
    scores: ArrayLike, labels: ArrayLike, bins: int = 15, *, probabilities: bool = False
) -> dict[str, Floats | NDArray[np.int64]]:
    """Sort rows into ``bins`` equally wide bins of confidence, as a calibration diagram draws them.

    Returns:
        Arrays of shape (bins,): ``lower`` and ``upper`` edge (a bin holds its upper edge), ``count`` of rows, their
        mean ``confidence`` (highest probability) and ``accuracy``; the last two are NaN for an empty bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, but is {bins}")
    values, classes = checked(scores, labels)
    p = _probabilities(values, probabilities)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == classes
    edges, place = np.linspace(0.0, 1.0, bins + 1), bin_of(confidence, bins)
    count = np.bincount(place, minlength=bins)
    per_row = np.where(count > 0, count, np.nan)
    return {
        "lower": edges[:-1],
        "upper": edges[1:],
        "count": count,
        "confidence": np.bincount(place, weights=confidence, minlength=bins) / per_row,
        "accuracy": np.bincount(place, weights=correct, minlength=bins) / per_row,
    }


def expected_calibration_error(
    scores: ArrayLike, labels: ArrayLike, bins: int = 15, *, probabilities: bool = False
) -> float:
    """Return the mean gap of confidence and accuracy, ``sum_b |B_b|/n |acc(B_b) - conf(B_b)|`` over equally wide bins.

    Source: Guo et al. (2017), eq. 3, with their 15 bins.
    """
    found = reliability_bins(scores, labels, bins, probabilities=probabilities)
    gaps = np.nan_to_num(np.abs(found["accuracy"] - found["confidence"]))
    return float(np.average(gaps, weights=found["count"]))


def classification_metrics(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return ``accuracy``, ``nll`` (nats), ``brier`` (0..2) and ``ece`` (15 bins) of logits.

    Example:
        >>> classification_metrics([[2.0, 0.0], [0.0, 2.0]], [0, 1])["accuracy"]
        1.0
    """
    return {
        "accuracy": accuracy(logits, labels),
        "nll": negative_log_likelihood(logits, labels),
        "brier": brier_score(logits, labels),
        "ece": expected_calibration_error(logits, labels),
    }


def to_numpy(values: ArrayLike) -> ArrayLike:
    """Return a tensor on any device as an array, floats in float64 (numpy has no bfloat16), and the rest unchanged."""
    detach = getattr(values, "detach", None)
    if detach is None:
        return values
    tensor = detach().cpu()
    array: NDArray[np.generic] = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    return array


def bin_of(p: Floats, bins: int) -> NDArray[np.int64]:
    """Return which of ``bins`` equally wide bins each probability is in; a bin holds its upper edge."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    return np.clip(np.searchsorted(edges, p, side="left") - 1, 0, bins - 1)


def checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Return scores in float64 and labels as whole numbers; raise ValueError as :func:`accuracy` says."""
    values = np.asarray(to_numpy(scores), dtype=np.float64)
    classes = np.asarray(to_numpy(labels))
    if values.ndim != 2 or classes.shape != values.shape[:1]:
        raise ValueError(
            f"scores must be of shape (rows, classes) and labels (rows,), but are {values.shape} and {classes.shape}"
        )
    if not values.size:
        raise ValueError(f"scores must have rows and classes, but their shape is {values.shape}")
    if np.any(np.isnan(values)) or np.any(np.isposinf(values)) or np.any(np.all(np.isneginf(values), axis=1)):
        row = int(np.argmin(np.isfinite(values.max(axis=1))))
        raise ValueError(f"scores must be numbers below infinity, but row {row} is {values[row][:8].tolist()}")
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"labels must be integers, but are of type {classes.dtype}")
    if classes.min() < 0 or classes.max() >= values.shape[1]:
        raise ValueError(
            f"labels must lie between 0 and {values.shape[1] - 1}, but go from {classes.min()} to {classes.max()}"
        )
    return values, classes.astype(np.int64)


def _probabilities(values: Floats, given: bool) -> Floats:
    if given and (np.any(values < 0) or np.any(np.abs(values.sum(axis=1) - 1.0) > 1e-3)):
        raise ValueError("scores given as probabilities must be rows of numbers from 0 to 1 that sum to 1")
    return values if given else np.asarray(np.exp(log_softmax(values, axis=1)))
