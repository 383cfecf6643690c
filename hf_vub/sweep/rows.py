"""Rows of features and labels, checked before any work."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

BLOCK_ROWS = 1024
"""Rows that are read at once, so that memory-mapped features stay on disk."""

Rows = Tensor | ArrayLike
"""A tensor, an array (memory-mapped or not) or nested lists."""


def check_rows(features: Rows, labels: Rows, num_labels: int, prefix: str = "") -> tuple[Tensor, Tensor]:
    """Return features and labels as tensors that fit each other.

    Args:
        features: shape (rows, feature_size), floats.
        labels: shape (rows,), whole numbers in [0, num_labels).
        num_labels: classes.
        prefix: of the argument names in error messages, such as "eval_".

    Raises:
        ValueError: shapes, dtypes or values that do not fit.
    """
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    if features.ndim != 2 or not features.is_floating_point() or 0 in features.shape:
        raise ValueError(
            f"{prefix}features are {features.dtype} of shape {tuple(features.shape)}; they must be floats of shape "
            "(rows, feature_size)"
        )
    if labels.shape != features.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"{prefix}labels are {labels.dtype} of shape {tuple(labels.shape)}; they must be whole numbers, one for "
            f"each of the {len(features)} rows of {prefix}features"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_labels:
        raise ValueError(
            f"{prefix}labels span {low} to {high}; with num_labels={num_labels} they must be 0 to {num_labels - 1}"
        )
    for number, block in enumerate(features.split(BLOCK_ROWS)):
        finite = block.isfinite().all(1)
        if not finite.all():
            row = number * BLOCK_ROWS + int(finite.int().argmin())
            raise ValueError(f"{prefix}features are not finite in row {row}")
    return features, labels.long()


def check_held_out(
    features: Tensor, held_out_features: Rows | None, held_out_labels: Rows | None, num_labels: int, prefix: str
) -> tuple[Tensor, Tensor] | None:
    """Return held-out features and labels as tensors that fit ``features``, or None where neither is given.

    Raises:
        ValueError: one is given without the other, or they do not fit.
    """
    if held_out_features is None and held_out_labels is None:
        return None
    if held_out_features is None or held_out_labels is None:
        raise ValueError(f"{prefix}features and {prefix}labels must be given together")
    rows, labels = check_rows(held_out_features, held_out_labels, num_labels, prefix)
    if rows.shape[1] != features.shape[1]:
        raise ValueError(f"{prefix}features have {rows.shape[1]} columns, but features have {features.shape[1]}")
    return rows, labels
