from .columns import find_column
from .labels import align_labels
from .preprocessing import AugmentedImages, image_transform, tokenize
from .record import TrainingRecord, row_digests
from .splits import (
    Evaluation,
    Splits,
    check_labels,
    label_names,
    load_evaluation,
    load_splits,
    read_labels,
    subset,
)

__all__ = [
    "AugmentedImages",
    "Evaluation",
    "Splits",
    "TrainingRecord",
    "align_labels",
    "check_labels",
    "find_column",
    "image_transform",
    "label_names",
    "load_evaluation",
    "load_splits",
    "read_labels",
    "row_digests",
    "subset",
    "tokenize",
]
