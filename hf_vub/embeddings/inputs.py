"""Rows of a data set as inputs of a model: which columns, how long, how batched, and what identifies them."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from datasets.fingerprint import Hasher
from torch import Tensor

from ..runs.digests import rows_digest, processing_digest, digest

TEXT_COLUMNS = ("text", "sentence", "content")
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("labels", "label")
TOKEN_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")


class ModelInputs:
    """The inputs that one model takes from one data set.

    Args:
        dataset: has a column of labels and either ``input_ids``, or a transform that gives ``pixel_values``, or raw
            texts or images.
        config: of the backbone: the longest row it takes and its padding token.
        processing_class: tokenizer or image processor, for raw texts or images.
        max_length: tokens that a raw text is cut to; by default what tokenizer and backbone can take.
        input_column: the raw column, where it is not called "text" or "image".
        label_column: the column of labels, where it is not called "labels" or "label".

    Raises:
        ValueError: when the columns do not say what to use.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        config: Any = None,
        processing_class: Any = None,
        max_length: int | None = None,
        input_column: str | None = None,
        label_column: str | None = None,
    ):
        self.dataset = dataset
        self.processing_class = processing_class
        self.longest: int | None = getattr(config, "max_position_embeddings", None)
        self.pad_token_id: int = getattr(config, "pad_token_id", None) or 0
        self.label_column = _choose(dataset, "label_column", label_column, LABEL_COLUMNS)
        self.raw_column: str | None = None
        self.max_length: int | None = None
        if "input_ids" in dataset.column_names:
            self.columns = [name for name in TOKEN_COLUMNS if name in dataset.column_names]
        elif dataset.format["type"] == "custom":  # a transform may read any column
            self.columns = [name for name in dataset.column_names if name != self.label_column]
        elif "pixel_values" in dataset.column_names:
            self.columns = ["pixel_values"]
        elif processing_class is None:
            raise ValueError(
                f"dataset has the columns {dataset.column_names}, without 'input_ids' or 'pixel_values'; "
                "give processing_class, a tokenizer or an image processor, for raw texts or images"
            )
        else:
            self.raw_column = _choose(dataset, "input_column", input_column, (*TEXT_COLUMNS, *IMAGE_COLUMNS))
            self.columns = [self.raw_column]
            self.max_length = (max_length or self._default_length()) if self.is_text else None

    @property
    def is_text(self) -> bool:
        """Whether the rows are raw texts, still to be tokenised."""
        return self.raw_column is not None and isinstance(self.dataset.features[self.raw_column], datasets.Value)

    def labels(self) -> np.ndarray:
        """The labels of all rows, shape (rows,), int64."""
        column = self.dataset.with_format("numpy", columns=[self.label_column])[self.label_column][:]
        labels = np.asarray(column)
        if labels.ndim != 1 or labels.dtype.kind not in "iub":
            raise ValueError(f"label_column {self.label_column!r} must hold one whole number per row")
        return labels.astype(np.int64)

    def digest(self) -> str:
        """sha256 of the rows' content and of everything that turns them into inputs."""
        transform = self.dataset.format["format_kwargs"] if self.dataset.format["type"] == "custom" else None
        content = rows_digest(self.dataset, [*self.columns, self.label_column])
        processing = processing_digest(self.processing_class) if self.raw_column is not None else None
        return digest(content, self.columns, Hasher.hash(transform), processing, self.max_length, self.pad_token_id)

    def prepare(self) -> tuple[datasets.Dataset, np.ndarray | None]:
        """The data set to read batches from, and the tokens in each of its rows (None for images).

        Raises:
            ValueError: when a row is longer than the backbone's table of positions.
        """
        if self.dataset.format["type"] == "custom":
            return self.dataset, None
        rows = self.dataset.with_format(None).select_columns(self.columns)
        if self.is_text:
            rows = rows.map(
                self._tokenise, batched=True, remove_columns=self.columns, load_from_cache_file=False, desc="tokenise"
            )
        if "input_ids" not in rows.column_names:
            return rows, None
        lengths = _lengths(rows)
        if self.longest is not None and int(lengths.max()) > self.longest:
            raise ValueError(
                f"row {int(lengths.argmax())} of dataset has {lengths.max()} tokens, more than the backbone's "
                f"max_position_embeddings={self.longest}; truncate the rows or lower max_length"
            )
        return rows, lengths

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One batch of inputs, tokens padded no further than to its longest row."""
        if "input_ids" in rows[0]:
            return self._pad(rows)
        if "pixel_values" in rows[0]:
            return {"pixel_values": torch.stack([torch.as_tensor(row["pixel_values"]) for row in rows])}
        images = [row[self.raw_column or ""] for row in rows]
        images = [image.convert("RGB") if hasattr(image, "convert") else image for image in images]
        return {"pixel_values": self.processing_class(images=images, return_tensors="pt")["pixel_values"]}

    def _default_length(self) -> int:
        allowed = getattr(self.processing_class, "model_max_length", None)
        if allowed is not None and allowed < 10**9:  # a tokenizer that knows no limit holds 10**30
            return int(allowed)
        if self.longest is None:
            raise ValueError("max_length is None, and neither tokenizer nor backbone says what it can take; set it")
        return self.longest

    def _tokenise(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = self.processing_class(batch[self.raw_column or ""], truncation=True, max_length=self.max_length)
        return {name: encoded[name] for name in TOKEN_COLUMNS if name in encoded}

    def _pad(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        masks = [torch.as_tensor(row.get("attention_mask", [1] * len(row["input_ids"]))) for row in rows]
        # Rows may come padded to a fixed length: what no row of the batch uses on the right is cut off again.
        width = max(int(mask.nonzero().max()) + 1 if mask.any() else 1 for mask in masks)
        batch = {}
        for name in TOKEN_COLUMNS:
            if name not in rows[0] and name != "attention_mask":
                continue
            values = masks if name == "attention_mask" else [torch.as_tensor(row[name]) for row in rows]
            batch[name] = torch.full((len(rows), width), self.pad_token_id if name == "input_ids" else 0)
            for padded, value in zip(batch[name], values, strict=True):
                padded[: len(value)] = value[:width]
        return batch


def _choose(dataset: datasets.Dataset, argument: str, named: str | None, usual: Sequence[str]) -> str:
    """The column called ``named``, or the only one with a usual name."""
    found = [name for name in usual if name in dataset.column_names] if named is None else [named]
    if len(found) != 1 or found[0] not in dataset.column_names:
        raise ValueError(f"{argument} is {named!r}; it must name one of the columns {dataset.column_names}")
    return found[0]


def _lengths(rows: datasets.Dataset) -> np.ndarray:
    """Tokens in each row, padding not counted, read in blocks."""
    column = "attention_mask" if "attention_mask" in rows.column_names else "input_ids"
    blocks = []
    for table in rows.select_columns([column]).with_format("arrow").iter(batch_size=4096):
        values = table[column].combine_chunks()
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        if column == "attention_mask":
            counted = np.cumsum(pc.list_flatten(values).to_numpy(zero_copy_only=False), dtype=np.int64)
            lengths = np.diff(np.concatenate([[0], counted])[np.cumsum(lengths)], prepend=0)
        blocks.append(lengths)
    return np.concatenate(blocks)
