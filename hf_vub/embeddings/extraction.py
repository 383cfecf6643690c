"""Features of a frozen backbone, computed once and kept in a cache on disk that is memory-mapped when read.

A cache is one safetensors file, named after the sha256 of all that decides its content: the backbone's weights and
configuration, the preprocessing, the rows themselves, the arithmetic and the batches. Whatever changes gives another
name, so a stale cache cannot be read. The file is filled in place under a temporary name, shard by shard; each shard
is flushed to disk before it is recorded as finished, so a killed run goes on from its last shard. A finished file holds
its CRC-32, which tells of any flipped bit.
"""

import hashlib
import logging
import os
import shutil
import warnings
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..compute.contexts import frozen, placed
from ..compute.kernels import FastKernels
from ..compute.memory import halving
from ..compute.precision import compute_dtype
from ..data.streams import materialize
from ..runs.digests import digest
from ..runs.files import append_record, read_records, replacing
from ..runs.processes import processes
from .cache import _alone, _checksum, _header, _read_header
from .inputs import ModelInputs

logger = logging.getLogger(__name__)

FORMAT = 2  # a part of every key: raise it when the code below would give other numbers under the same key
SHARD_BATCHES = 16

Shard = list[list[int]]
"""Batches, each the numbers of its rows."""


@dataclass(frozen=True)
class Features:
    """Cached features, mapped from disk and read-only: a page is loaded when it is touched.

    Attributes:
        features: shape (rows, feature_size), float32, in the order of the data set.
        labels: shape (rows,), int64.
        path: the safetensors file that holds both by these names.
        key: sha256 of everything the features depend on.
    """

    features: Tensor
    labels: Tensor
    path: Path
    key: str

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def load(cls, path: str | Path) -> "Features":
        """Map a finished cache file.

        Each process compares the file once, block by block, with its checksum. That took 0.45 s for each GB on a disk
        that takes 0.3 s to read it, and 0.2 s where the system still held it. Files of earlier versions have none.

        Raises:
            ValueError: it is no cache, not a whole one, or damaged.
        """
        path = Path(path)
        header, start = _read_header(path)
        status = path.stat()
        if status.st_size != start + header["labels"]["data_offsets"][1]:
            raise ValueError(f"{path} is not whole; delete it to extract the features again")
        checksum = header["__metadata__"].get("crc32")
        if checksum not in (None, _checksum(path, status.st_size, status.st_mtime_ns)):
            raise ValueError(f"{path} is damaged, its checksum is not {checksum}; delete it to extract them again")
        tensors = []
        for name, dtype in (("features", np.float32), ("labels", np.int64)):
            offset = start + header[name]["data_offsets"][0]
            array = np.memmap(path, dtype, "r", offset=offset, shape=tuple(header[name]["shape"]))
            with warnings.catch_warnings():
                # Read-only is the point: such a map needs no memory behind it, and nobody can write into the cache.
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                tensors.append(torch.from_numpy(array))
        features, labels = tensors
        return cls(features, labels, path, header["__metadata__"]["key"])


def extract(
    model: nn.Module,
    dataset: datasets.Dataset | datasets.IterableDataset,
    cache_dir: str | Path,
    *,
    processing_class: Any = None,
    max_length: int | None = None,
    dtype: str = "auto",
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    input_column: str | None = None,
    label_column: str | None = None,
    device: str | torch.device | None = None,
    num_workers: int = 0,
) -> Features:
    """Features of every row in one pass of the model in evaluation mode, or from the cache where it has them.

    Texts are batched by length under a budget of tokens, so that little is spent on padding. Under ``accelerate
    launch`` the processes share out the batches of one common plan: their number changes no bit of the result. When
    two jobs want the same features, one computes and the other waits for it.

    Args:
        model: has ``features(**inputs) -> (batch, feature_size)``, like the VUB models. It is left as it was. Weights
            outside ``model.backbone`` do not count for the key.
        dataset: a ``datasets.Dataset`` with a column of labels and either ``input_ids`` (and what else the tokenizer
            gave), or a transform that gives ``pixel_values``, or raw texts or images (then with ``processing_class``).
            Of a stream (``IterableDataset``) a copy is kept on disk meanwhile.
        cache_dir: folder of the caches, for all data sets and models.
        processing_class: tokenizer or image processor for raw texts or images.
        max_length: tokens that a raw text is cut to; by default what tokenizer and backbone can take.
        dtype: arithmetic of the pass (its weights too): "float32", "bfloat16", or "auto", which is bfloat16 on hardware
            that multiplies it faster, else float32. Features are stored in float32 either way.
        batch_size: most rows in a batch; by default 32 on a CPU and 256 on an accelerator.
        batch_tokens: most tokens in a batch, padding included; by default 2,048 on a CPU and 65,536 on an accelerator.
        input_column: the column of raw texts or images, where it has no usual name.
        label_column: the column of labels, where it has no usual name.
        device: where to compute; by default the accelerator of this process, if there is one.
        num_workers: processes that load (and decode) rows ahead of the model.

    Returns:
        The features, memory-mapped, rows in the order of ``dataset``.

    Raises:
        TypeError: for a model without ``features``, or another kind of data set.
        ValueError: for a data set without usable columns, too long rows, or features that are not finite.
        OSError: when the disk has no room for the features.

    Example:
        >>> cached = extract(model, dataset, "cache", processing_class=tokenizer, max_length=256)  # doctest: +SKIP
        >>> cached.features.shape  # doctest: +SKIP
        torch.Size([25000, 384])
    """
    if not callable(getattr(model, "features", None)):
        raise TypeError(f"model is a {type(model).__name__} without features(**inputs); load it as a VUB model")
    dataset = materialize(dataset)
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(f"dataset is a {type(dataset).__name__}; it must be a datasets.Dataset or IterableDataset")
    if len(dataset) == 0:
        raise ValueError("dataset is empty; there is nothing to extract features from")
    state = processes()
    device = torch.device(device or state.device)
    on_cpu = device.type == "cpu"
    arithmetic = compute_dtype(dtype, device)
    batch_size = _positive("batch_size", batch_size, 32 if on_cpu else 256)
    batch_tokens = _positive("batch_tokens", batch_tokens, 2048 if on_cpu else 65536)
    config = getattr(model, "config", None)
    config = getattr(config, "backbone_config", config)
    inputs = ModelInputs(dataset, config, processing_class, max_length, input_column, label_column)
    plan = {"batch_size": batch_size, "batch_tokens": batch_tokens, "dtype": str(arithmetic)}
    key = digest(FORMAT, plan, _backbone_digest(model, config), inputs.digest())
    path = Path(cache_dir) / f"{key}.safetensors"
    with _alone(path, state):
        if not path.exists():
            rows, lengths = inputs.prepare()
            shards = _shards(len(rows), lengths, batch_size, batch_tokens)
            with frozen(placed(model, device, arithmetic)) as backbone:
                _Pass(path, backbone, device, rows, inputs, shards, state, num_workers).run()
    return Features.load(path)


class _Pass:
    """One pass over the rows that this process has to do, into the unfinished cache file."""

    def __init__(
        self,
        path: Path,
        model: Any,
        device: torch.device,
        rows: datasets.Dataset,
        inputs: ModelInputs,
        shards: list[Shard],
        state: PartialState,
        num_workers: int,
    ):
        self.path, self.partial = path, path.with_suffix(".partial")
        self.model, self.device = model, device
        self.rows, self.inputs, self.shards = rows, inputs, shards
        self.state, self.num_workers = state, num_workers
        self.kernels = FastKernels()

    def run(self) -> None:
        """Fill what is missing; the main process then gives the file its name."""
        if self.state.is_main_process and not self.partial.exists():
            self._create()
        self.state.wait_for_everyone()
        finished = {record["shard"] for log in self._logs() for record in read_records(log)}
        mine = range(self.state.process_index, len(self.shards), self.state.num_processes)
        self._fill([number for number in mine if number not in finished])
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            self._seal()
            os.replace(self.partial, self.path)
            for log in self._logs():
                log.unlink()
        self.state.wait_for_everyone()

    def _logs(self) -> list[Path]:
        return list(self.path.parent.glob(f"{self.path.stem}.*.jsonl"))

    def _create(self) -> None:
        """The file at its full size, with header and labels; its blocks are taken as the features arrive."""
        for log in self._logs():  # of a file that somebody deleted
            log.unlink()
        labels = self.inputs.labels()
        size = self._features([self.shards[-1][-1][-1]]).shape[1]
        header = _header(self.path.stem, [len(labels), size])
        needed = len(header) + len(labels) * (4 * size + 8)
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise OSError(
                f"cache_dir {self.path.parent} has {free / 2**30:.1f} GiB free; the features of {len(labels)} rows "
                f"take {needed / 2**30:.1f} GiB"
            )
        with replacing(self.partial) as temporary, open(temporary, "wb") as file:
            file.write(header)
            file.truncate(needed - labels.nbytes)
            file.seek(0, os.SEEK_END)
            file.write(labels.tobytes())

    def _seal(self) -> None:
        """Write the checksum of the finished file into its header."""
        header, _ = _read_header(self.partial)
        status = self.partial.stat()
        checksum = _checksum(self.partial, status.st_size, status.st_mtime_ns)
        with open(self.partial, "r+b") as file:
            file.write(_header(self.path.stem, header["features"]["shape"], checksum))
            file.flush()
            os.fsync(file.fileno())

    def _fill(self, numbers: list[int]) -> None:
        header, start = _read_header(self.partial)
        row_bytes = 4 * header["features"]["shape"][1]
        log = self.path.with_suffix(f".{self.state.process_index}.jsonl")
        batches = list(chain.from_iterable(self.shards[number] for number in numbers))
        loader = iter(self._loader(batches))
        progress = tqdm(
            total=sum(map(len, batches)),
            desc="extract",
            unit="row",
            disable=None if self.state.is_main_process else True,
        )
        with open(self.partial, "r+b") as file, progress:
            for number in numbers:
                for batch in self.shards[number]:
                    features = self._forward(next(loader), batch).numpy()
                    for row, values in zip(batch, features, strict=True):
                        file.seek(start + row * row_bytes)
                        file.write(values.tobytes())
                    progress.update(len(batch))
                file.flush()
                os.fsync(file.fileno())
                append_record(log, {"shard": number})

    def _loader(self, batches: Shard) -> DataLoader:
        return DataLoader(
            self.rows,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=self.inputs.collate,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _features(self, batch: list[int]) -> Tensor:
        return self._forward(next(iter(self._loader([batch]))), batch)

    def _forward(self, inputs: dict[str, Tensor], batch: list[int]) -> Tensor:
        """Return the features of a batch, computed in smaller parts if memory is short."""

        def compute(rows: slice) -> Tensor:
            return self._compute({name: tensor[rows] for name, tensor in inputs.items()}, batch[rows])

        return torch.cat(halving(compute, len(batch)))

    @torch.inference_mode()
    def _compute(self, inputs: dict[str, Tensor], batch: list[int]) -> Tensor:
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()}
        dtype = next(self.model.parameters()).dtype
        with self.kernels:
            features: Tensor = self.model.features(
                **{k: v.to(dtype) if v.is_floating_point() else v for k, v in moved.items()}
            )
        if features.shape[:1] != (len(batch),) or features.ndim != 2:
            raise ValueError(
                f"model.features gave shape {tuple(features.shape)} for {len(batch)} rows; it must be "
                "(rows, feature_size)"
            )
        features = features.float().cpu()
        finite = features.isfinite().all(dim=1)
        if not finite.all():
            raise ValueError(
                f"the features of row {batch[int(finite.int().argmin())]} are not finite in {dtype}; look at that row, "
                "or try dtype='float32'"
            )
        return features


def _shards(num_rows: int, lengths: np.ndarray | None, batch_size: int, batch_tokens: int) -> list[Shard]:
    """The common plan: batches of rows of similar length, the longest first, in shards of some batches.

    It depends on the rows alone, not on how many processes share it out.
    """
    if lengths is None:
        batches = [list(range(first, min(first + batch_size, num_rows))) for first in range(0, num_rows, batch_size)]
    else:
        batches = [[]]
        for row in np.argsort(-lengths, kind="stable").tolist():
            longest = int(lengths[batches[-1][0]]) if batches[-1] else int(lengths[row])
            if len(batches[-1]) == batch_size or ((len(batches[-1]) + 1) * longest > batch_tokens and batches[-1]):
                batches.append([])
            batches[-1].append(row)
    return [batches[first : first + SHARD_BATCHES] for first in range(0, len(batches), SHARD_BATCHES)]


def _positive(name: str, value: int | None, default: int) -> int:
    if value is not None and value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return default if value is None else value


def _backbone_digest(model: nn.Module, config: Any) -> str:
    """sha256 of the backbone's kind, configuration and weights, whatever file they came from."""
    backbone = getattr(model, "backbone", model)
    content = hashlib.sha256(f"{type(model).__name__} {type(backbone).__name__}".encode())
    if hasattr(config, "to_dict"):
        passing = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "id2label", "label2id")
        content.update(digest({k: v for k, v in config.to_dict().items() if k not in passing}).encode())
        content.update(str(getattr(config, "_attn_implementation", None)).encode())
    for name, tensor in backbone.state_dict().items():
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()
