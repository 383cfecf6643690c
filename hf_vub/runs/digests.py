"""Digests of tensors, weights, rows and processors: the one home of what identifies runs and cached features."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence

import datasets
import pyarrow as pa
import torch
from datasets.fingerprint import Hasher
from torch import Tensor, nn
from transformers import PretrainedConfig

_ROWS = 8192
"""Rows that are read at once, so that memory-mapped tensors stay on disk."""


def digest(*parts: object) -> str:
    """Return the sha256 of parts that JSON can hold; others count as their string."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def examples_digest(*parts: object) -> str:
    """Return a short sha256 of the row numbers, inputs and labels of a sample, as result JSON holds it (``rows``)."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def tensor_digest(first: Tensor, *others: Tensor) -> str:
    """Return the sha256 of the first tensor's dtype and shape and of all values, read in blocks of rows."""
    content = hashlib.sha256(f"{first.dtype} {tuple(first.shape)}".encode())
    for tensor in (first, *others):
        for block in _blocks(tensor):
            content.update(block)
    return content.hexdigest()


def weights_digest(model: nn.Module | None) -> str:
    """Return a short BLAKE2b of the names and values of all weights, which tells a model that was trained further."""
    content = hashlib.blake2b(digest_size=8)
    for name, tensor in ({} if model is None else model.state_dict()).items():
        content.update(name.encode())
        for block in _blocks(tensor.detach()):
            content.update(block)
    return content.hexdigest()


def backbone_digest(model: nn.Module) -> str:
    """Return the sha256 of the backbone's kind, pooling, configuration and weights, whatever file they came from."""
    backbone = getattr(model, "backbone", model)
    config = getattr(model, "config", None)
    pooling, side = getattr(config, "pooling", None), getattr(config, "enlarge_to", None)
    config = getattr(config, "backbone_config", config)
    content = hashlib.sha256(f"{type(model).__name__} {type(backbone).__name__} {pooling}".encode())
    content.update(b"" if side is None else f"enlarged to {side}".encode())
    if isinstance(config, PretrainedConfig):
        passing = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "id2label", "label2id")
        content.update(digest({k: v for k, v in config.to_dict().items() if k not in passing}).encode())
        content.update(str(getattr(config, "_attn_implementation", None)).encode())
    for name, tensor in backbone.state_dict().items():
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for block in _blocks(tensor.detach()):
            content.update(block)
    return content.hexdigest()


def _blocks(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor."""
    for block in tensor.split(_ROWS) if tensor.ndim else (tensor,):
        yield block.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def rows_digest(dataset: datasets.Dataset, columns: Sequence[str]) -> str:
    """Return the sha256 of the columns as they are in Arrow; an image file counts by its size and modification time."""
    content = hashlib.sha256()
    content.update(str({name: dataset.features[name] for name in columns}).encode())
    images = [name for name in columns if isinstance(dataset.features[name], datasets.Image)]
    for table in dataset.select_columns(list(columns)).with_format("arrow").iter(batch_size=256):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
            stream.write_table(table.replace_schema_metadata().combine_chunks())
        content.update(sink.getvalue())
        for image in (image for name in images for image in table[name].to_pylist()):
            if image and image["bytes"] is None and image["path"] and os.path.exists(image["path"]):
                status = os.stat(image["path"])
                content.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return content.hexdigest()


def processing_digest(processing_class: object) -> str:
    """Return the sha256 of the whole configuration of a tokenizer or an image processor."""
    name = type(processing_class).__name__
    backend = getattr(processing_class, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        # The last call leaves these behind, and every call of ours sets them anew.
        state.pop("truncation", None)
        state.pop("padding", None)
        return digest(name, state)
    if hasattr(processing_class, "get_vocab") and hasattr(processing_class, "init_kwargs"):
        return digest(name, processing_class.get_vocab(), processing_class.init_kwargs)
    if hasattr(processing_class, "to_dict"):
        return digest(name, processing_class.to_dict())
    return str(Hasher.hash(processing_class))
