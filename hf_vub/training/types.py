"""The types of what trainers take: rows, batches and what prepares them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import datasets
from torch.utils.data import Dataset
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

Data: TypeAlias = Dataset[Any] | datasets.Dataset | datasets.IterableDataset
Processor: TypeAlias = PreTrainedTokenizerBase | BaseImageProcessor
Rows: TypeAlias = Mapping[str, Data]
"""Training, validation and test rows by the name of their split, as a Trainer takes them."""
Collator: TypeAlias = Callable[..., dict[str, object]]
