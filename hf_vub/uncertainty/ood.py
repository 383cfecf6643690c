"""Scores for inputs unlike the training data, from one forward pass, and how well they tell such inputs apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import rankdata

from ..metrics.classification import Floats


def ood_scores(
    logits: ArrayLike, rate: ArrayLike | None = None, draws: ArrayLike | None = None
) -> dict[str, NDArray[np.float64]]:
    r"""Return scores per row by name; for each, higher means less like the training data.

    ``max_probability`` is :math:`1 - \max_y p_y`; ``entropy`` is H(p) in nats; ``energy`` is
    :math:`-\log\sum_y e^{l_y}` in nats; ``rate`` is the KL of the posterior from the prior in nats;
    ``mutual_information`` is :math:`H(\bar p) - \overline{H(p)}` over draws of z, in nats.

    Args:
        logits: shape (rows, classes).
        rate: shape (rows,), of a bottleneck; None leaves "rate" out.
        draws: logits per draw, shape (draws, rows, classes); None leaves "mutual_information" out.

    Raises:
        ValueError: for shapes that do not fit, or values that are not finite.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"logits have shape {values.shape}; they must be (rows, classes)")
    scores = {
        "max_probability": 1.0 - softmax(values, axis=1).max(axis=1),
        "entropy": _entropy(values),
        "energy": -logsumexp(values, axis=1),
    }
    if rate is not None:
        scores["rate"] = np.asarray(rate, dtype=np.float64)
    if draws is not None:
        sampled = np.asarray(draws, dtype=np.float64)
        if sampled.ndim != 3 or sampled.shape[1:] != values.shape or not len(sampled):
            raise ValueError(
                f"draws have shape {sampled.shape}; they must be (draws, {values.shape[0]}, {values.shape[1]})"
            )
        mean = logsumexp(log_softmax(sampled, axis=2), axis=0) - np.log(len(sampled))
        scores["mutual_information"] = np.maximum(0.0, _entropy(mean) - _entropy(sampled).mean(axis=0))
    for name, column in scores.items():
        if column.shape != (len(values),):
            raise ValueError(f"{name} has shape {column.shape}; it must be ({len(values)},)")
        if not np.isfinite(column).all():
            raise ValueError(f"{name} is not finite in row {int((~np.isfinite(column)).argmax())}: give finite values")
    return scores


def feature_distances(
    train_features: ArrayLike, train_labels: ArrayLike, features: ArrayLike, neighbours: int = 10
) -> dict[str, NDArray[np.float64]]:
    """Return two distances per row from training features; higher means less like the training data.

    ``mahalanobis`` is the least squared distance to a class mean under the covariance shared by the classes (shrunk by
    Ledoit and Wolf's rule); ``knn`` is the distance to the k-th nearest training row after scaling rows to length 1.

    Args:
        train_features: shape (rows, feature_size).
        train_labels: class numbers, shape (rows,).
        features: rows to score, shape (rows, feature_size).
        neighbours: k.

    Raises:
        ValueError: for fewer training rows than ``neighbours``, or shapes that do not fit.
        ImportError: without scikit-learn, with the command to install it.

    Source: Lee et al., NeurIPS 2018 (Mahalanobis); Sun et al., ICML 2022 (nearest neighbours).
    """
    try:
        from sklearn.covariance import ledoit_wolf
        from sklearn.neighbors import NearestNeighbors
    except ImportError as error:
        raise ImportError('distances of features need scikit-learn: pip install "hf_vub[report]"') from error
    known, rows = np.asarray(train_features, dtype=np.float64), np.asarray(features, dtype=np.float64)
    classes = np.asarray(train_labels)
    if known.ndim != 2 or rows.shape[1:] != known.shape[1:] or classes.shape != known.shape[:1]:
        shapes = f"{known.shape}, {classes.shape} and {rows.shape}"
        raise ValueError(f"train_features, train_labels and features have the shapes {shapes}, which do not fit")
    if not 1 <= neighbours <= len(known):
        raise ValueError(
            f"neighbours is {neighbours}; it must be at least 1 and at most the {len(known)} training rows"
        )
    means = np.stack([known[classes == label].mean(axis=0) for label in np.unique(classes)])
    centred = known - means[np.searchsorted(np.unique(classes), classes)]
    precision = np.linalg.inv(ledoit_wolf(centred, assume_centered=True)[0])
    squared = [np.einsum("ij,jk,ik->i", rows - mean, precision, rows - mean, optimize=True) for mean in means]
    index = NearestNeighbors(n_neighbors=neighbours).fit(_unit(known))
    return {"mahalanobis": np.min(squared, axis=0), "knn": index.kneighbors(_unit(rows))[0][:, -1]}


@dataclass(frozen=True)
class Detection:
    """How well a score tells unfamiliar rows from familiar ones.

    Attributes:
        auroc: probability that an unfamiliar row scores higher than a familiar one, ties counting half.
        fpr95: share of unfamiliar rows taken for familiar at the threshold that keeps 95% of the familiar ones.
    """

    auroc: float
    fpr95: float


def detection_metrics(familiar: ArrayLike, unfamiliar: ArrayLike) -> Detection:
    """Return AUROC and FPR95 of a score that is higher for unfamiliar rows.

    Args:
        familiar: scores of test rows of the training distribution, shape (rows,).
        unfamiliar: scores of other rows, shape (rows,).

    Raises:
        ValueError: where either is empty or holds NaN.

    Example:
        >>> detection_metrics([0.1, 0.2, 0.3], [0.4, 0.5])
        Detection(auroc=1.0, fpr95=0.0)
    """
    inside, outside = np.asarray(familiar, dtype=np.float64), np.asarray(unfamiliar, dtype=np.float64)
    if not len(inside) or not len(outside):
        raise ValueError(f"familiar has {len(inside)} rows and unfamiliar {len(outside)}; both need at least one")
    if np.isnan(inside).any() or np.isnan(outside).any():
        raise ValueError("familiar and unfamiliar must hold numbers, but hold NaN")
    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    auroc = (ranks.sum() - len(outside) * (len(outside) + 1) / 2) / (len(inside) * len(outside))
    threshold = np.quantile(inside, 0.95, method="higher")
    return Detection(float(auroc), float(np.mean(outside <= threshold)))


def _entropy(logits: Floats) -> Floats:
    log_p = log_softmax(logits, axis=-1)
    entropy: Floats = -np.sum(np.exp(log_p) * log_p, axis=-1)
    return entropy


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
