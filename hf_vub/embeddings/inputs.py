"""Rows of a data set as inputs of a model: which columns, how long, how batched, and how they are identified."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from datasets.fingerprint import Hasher
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..data.columns import Kind, find_column, fits
from ..data.preprocessing import (
    Batch,
    Example,
    ImageProcessor,
    Tokens,
    encode_texts,
    image_transform,
    max_text_length,
    pad_tokens,
)
from ..runs.digests import digest, processing_digest, rows_digest

TOKEN_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")
PAIR_COLUMN = "text_pair"


class ModelInputs:
    """Inputs of one model from one data set; the arguments are those of :func:`hf_vub.embeddings.extract`.

    Raises:
        ValueError: for columns that are not there or not recognised, or texts or images without a processing class.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: datasets.Dataset,
        processing_class: PreTrainedTokenizerBase | ImageProcessor | None = None,
        max_length: int | None = None,
        text_column: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
    ):
        self.model, self.dataset, self.processing_class = model, dataset, processing_class
        self.tokenizer = processing_class if isinstance(processing_class, PreTrainedTokenizerBase) else None
        self.label_column = find_column(dataset, "label", label_column)
        self.kind: Kind | None = None  # of raw rows
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
        elif self.tokenizer is not None:
            self.kind = "text"
            self.columns = [_raw_column(dataset, "text", text_column)]
            self.columns += [PAIR_COLUMN] if self.columns == ["text"] and PAIR_COLUMN in dataset.column_names else []
            self.max_length = max_text_length(self.tokenizer, model, max_length)
        else:
            self.kind = "image"
            column = _raw_column(dataset, "image", image_column)
            self.columns, feature = [column], dataset.features[column]
            if not isinstance(feature, datasets.Image):
                raise ValueError(
                    f"image_column {column!r} holds {feature}, not images; use dataset.cast_column(..., "
                    "datasets.Image()) if you trust its paths"
                )

    @property
    def padding(self) -> dict[str, Any]:
        """Return the options of `pad_tokens`: a decoder finds the last token by its configuration's padding token."""
        config = getattr(self.model, "config", None)
        config = getattr(config, "backbone_config", None) or config
        token = getattr(config, "pad_token_id", None)
        if self.tokenizer is None:
            return {"pad_token_id": token}
        return {
            "pad_token_id": self.tokenizer.pad_token_id if token is None else token,
            "pad_token_type_id": self.tokenizer.pad_token_type_id,
            "side": self.tokenizer.padding_side,
        }

    def labels(self) -> np.ndarray:
        """Return the labels of all rows, shape (rows,), int64.

        Raises:
            ValueError: labels that are not one whole number per row.
        """
        labels = np.asarray(self.dataset.with_format("numpy", columns=[self.label_column])[self.label_column][:])
        if labels.ndim != 1 or labels.dtype.kind not in "iub":
            raise ValueError(f"label_column {self.label_column!r} must hold one whole number per row")
        return labels.astype(np.int64)

    def digest(self) -> str:
        """Return the sha256 of the rows' content and of everything that turns them into inputs."""
        transform = self.dataset.format["format_kwargs"] if self.dataset.format["type"] == "custom" else None
        content = rows_digest(self.dataset, [*self.columns, self.label_column])
        processing = None if self.kind is None else processing_digest(self.processing_class)
        return digest(content, self.columns, Hasher.hash(transform), processing, self.max_length, self.padding)

    def prepare(self) -> tuple[datasets.Dataset, np.ndarray | None]:
        """Return the data set to read batches from, and the tokens in each of its rows (None for images).

        Raises:
            ValueError: a row has more tokens than the model has positions for.
        """
        if self.dataset.format["type"] == "custom":
            return self.dataset, None
        rows = self.dataset.with_format(None).select_columns(self.columns)
        if self.kind == "text":
            rows = rows.map(
                self._encode, batched=True, remove_columns=self.columns, load_from_cache_file=False, desc="tokenize"
            )
        if "input_ids" not in rows.column_names:
            return rows, None
        lengths = _lengths(rows)
        try:
            max_text_length(None, self.model, wanted=max(1, int(lengths.max())))
        except ValueError as error:
            raise ValueError(
                f"row {int(lengths.argmax())} of dataset has {lengths.max()} tokens: {error}; truncate the rows"
            ) from error
        return rows, lengths

    def collate(self, rows: Sequence[Example]) -> dict[str, Tensor]:
        """Return one batch of inputs; tokens are padded no further than to the longest row."""
        if "input_ids" in rows[0]:
            names = [name for name in TOKEN_COLUMNS if name in rows[0]]
            return pad_tokens([{name: row[name] for name in names} for row in rows], **self.padding)
        if "pixel_values" in rows[0]:
            return {"pixel_values": torch.stack([torch.as_tensor(row["pixel_values"]) for row in rows])}
        assert self.processing_class is not None
        return image_transform(self.processing_class)({"image": [row[self.columns[0]] for row in rows]})

    def _encode(self, batch: Batch) -> Tokens:
        assert self.tokenizer is not None
        assert self.max_length is not None
        pairs = batch.get(PAIR_COLUMN)
        encoded = encode_texts(self.tokenizer, batch[self.columns[0]], self.max_length, pairs=pairs)
        return {name: encoded[name] for name in TOKEN_COLUMNS if name in encoded}


def _raw_column(dataset: datasets.Dataset, kind: Kind, named: str | None) -> str:
    column = find_column(dataset, kind, named)
    if not fits(dataset.features[column], kind):
        raise ValueError(f"{kind}_column {column!r} holds {dataset.features[column]}, not {kind}s")
    return column


def _lengths(rows: datasets.Dataset) -> np.ndarray:
    """Return the tokens in each row, padding not counted, read in blocks."""
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
