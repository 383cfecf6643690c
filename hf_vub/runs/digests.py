"""Digests (sha256) of rows, processors and weights, which identify runs and cached features."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import datasets
import pyarrow as pa
import torch
from datasets.fingerprint import Hasher
from torch import Tensor, nn


def weights_digest(model: nn.Module | None) -> str:
    """A short hash of all weights, so that records of a model that was trained further are never resumed."""
    digest = hashlib.blake2b(digest_size=8)
    tensors: dict[str, Tensor] = {} if model is None else model.state_dict()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest(*parts: Any) -> str:
    """sha256 of the parts, which must be what JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _content_digest(dataset: datasets.Dataset, columns: Sequence[str]) -> str:
    """sha256 of the rows as they are in Arrow; of an image that is a path to a file, its size and time of change."""
    content = hashlib.sha256()
    content.update(str({name: dataset.features[name] for name in columns}).encode())
    for table in dataset.select_columns(list(columns)).with_format("arrow").iter(batch_size=256):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
            stream.write_table(table.replace_schema_metadata().combine_chunks())
        content.update(sink.getvalue())
        for column in columns:
            if isinstance(dataset.features[column], datasets.Image):
                for image in table[column].to_pylist():
                    if image and image["bytes"] is None and image["path"] and os.path.exists(image["path"]):
                        status = os.stat(image["path"])
                        content.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return content.hexdigest()


def _processing_digest(processing_class: Any) -> str:
    """sha256 of a tokenizer's or an image processor's whole configuration."""
    backend = getattr(processing_class, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        # Left behind by the last call, and set again by every one of ours.
        state.pop("truncation", None)
        state.pop("padding", None)
        return digest(type(processing_class).__name__, state)
    if hasattr(processing_class, "get_vocab"):
        return digest(type(processing_class).__name__, processing_class.get_vocab(), processing_class.init_kwargs)
    if hasattr(processing_class, "to_dict"):
        return digest(type(processing_class).__name__, processing_class.to_dict())
    return str(Hasher.hash(processing_class))
