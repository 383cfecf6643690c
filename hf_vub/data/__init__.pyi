from .preprocessing import image_transform, tokenize
from .splits import check_labels, label_names, load_splits, read_labels, subset

__all__ = ["check_labels", "image_transform", "label_names", "load_splits", "read_labels", "subset", "tokenize"]
