"""Temperature scaling: one parameter, fitted on held-out rows (Guo et al., 2017)."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from .classification import Floats

_RANGE = (-7.0, 7.0)  # of log T: from 0.0009 to 1,097


def fit_temperature(log_scores: ArrayLike, labels: ArrayLike) -> float:
    r"""Return the temperature T that minimises the NLL of :math:`\mathrm{softmax}(s / T)` on held-out rows.

    The NLL is convex in 1/T, so the minimum is the only one. T > 1 means that the classifier was too confident.

    Args:
        log_scores: logits or log-probabilities, shape (rows, classes), not used in training.
        labels: class numbers, shape (rows,), of at least two classes.

    Raises:
        ValueError: for no rows, shapes that do not fit, scores that are not finite, or labels of one class only.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Example:
        >>> scores = np.log([[0.9, 0.1]] * 4 + [[0.1, 0.9]] * 4)
        >>> fit_temperature(scores, [0, 0, 0, 1, 1, 1, 1, 0]) > 1  # 75% right, 90% sure
        True
    """
    scores = np.asarray(log_scores, dtype=np.float64)
    classes = np.asarray(labels)
    check_rows(scores, classes)
    if len(np.unique(classes)) < 2:
        raise ValueError(
            f"labels hold class {classes[0]} only; a temperature needs held-out rows of at least two classes"
        )
    own = scores[np.arange(len(classes)), classes]

    def nll(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.mean(logsumexp(scores * inverse, axis=1) - own * inverse))

    found = minimize_scalar(nll, bounds=_RANGE, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def cross_fitted(log_scores: ArrayLike, labels: ArrayLike, seed: int = 0) -> tuple[Floats, tuple[float, float]]:
    """Divide the scores of each random half of the rows by the temperature fitted on the other half.

    Args:
        log_scores: logits or log-probabilities, shape (rows, classes), not used in training.
        labels: class numbers, shape (rows,), of at least two classes in each half.
        seed: of the division.

    Returns:
        The scores (rows, classes), and the two temperatures.

    Raises:
        ValueError: as :func:`fit_temperature`, for either half.
    """
    scores, classes = np.asarray(log_scores, dtype=np.float64), np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(classes))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    temperatures = fit_temperature(scores[first], classes[first]), fit_temperature(scores[second], classes[second])
    scaled = np.empty_like(scores)
    scaled[first], scaled[second] = scores[first] / temperatures[1], scores[second] / temperatures[0]
    return scaled, temperatures


def check_rows(scores: Floats, labels: np.ndarray) -> None:
    """Raise ValueError unless scores (rows, classes) are finite and labels (rows,) are class numbers in range."""
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(f"scores have shape {scores.shape}; they must be (rows, classes) with at least two classes")
    if not len(scores):
        raise ValueError("scores have no rows; give held-out rows that were not used in training")
    if labels.shape != (len(scores),) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; they must be {len(scores)} class numbers")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels span {labels.min()} to {labels.max()}, but the scores have {scores.shape[1]} classes")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite numbers")
