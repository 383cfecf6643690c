"""Features of a frozen backbone, computed once and cached on disk.

A cache is one safetensors file, named after the sha256 of everything that decides its content: the backbone's weights
and configuration, the preprocessing, the rows themselves, the arithmetic and the batches. Any change gives another
name, so a stale cache cannot be read. :mod:`hf_vub.embeddings.cache` has the files: an extraction that was killed
resumes after its last shard, and a flipped bit is noticed.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..compute.contexts import frozen, placed
from ..compute.kernels import FastKernels
from ..compute.memory import halving
from ..compute.precision import compute_dtype
from ..data.noise import parse_noise
from ..data.noisy_rows import noisy_copies
from ..data.preprocessing import Example, ImageProcessor
from ..data.streams import materialize
from ..data.word_edits import edited_copies, parse_edits
from ..runs.digests import backbone_digest, digest
from ..runs.processes import processes
from .cache import Features, UnfinishedFeatures, cache_lock
from .inputs import ModelInputs

logger = logging.getLogger(__name__)

FORMAT = 3  # a part of every key: raise it when the code below would give other numbers under the same key
SHARD_BATCHES = 16

Batch = list[int]
"""Row numbers."""
Shard = list[Batch]
"""Batches that are flushed to disk together."""


def extract(
    model: nn.Module,
    dataset: datasets.Dataset | datasets.IterableDataset,
    cache_dir: str | Path,
    *,
    processing_class: PreTrainedTokenizerBase | ImageProcessor | None = None,
    max_length: int | None = None,
    dtype: str = "auto",
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    device: str | torch.device | None = None,
    num_workers: int = 0,
    noise: str | None = None,
    copies: int = 1,
    noise_seed: int = 0,
    perturb: str | None = None,
) -> Features:
    """Return the features of every row, from the cache or from one pass of the model in evaluation mode.

    Texts are batched by length under a budget of tokens, so that little time goes into padding. Under ``accelerate
    launch`` the processes share the batches of one common plan: their number changes no bit of the result. When two
    jobs want the same features, one computes and the other waits for it.

    Args:
        model: has ``features(**inputs) -> (batch, feature_size)``, as the VUB models do. It is left as it was. Weights
            outside ``model.backbone`` do not count for the key.
        dataset: has a column of labels and either ``input_ids`` (and the tokenizer's other columns), or a transform
            that gives ``pixel_values``, or raw texts or images (then with ``processing_class``). A stream is copied to
            disk first.
        cache_dir: folder of the caches, for all data sets and models.
        processing_class: tokenizer or image processor for raw texts or images.
        max_length: tokens that a raw text is cut to; by default as many as tokenizer and model can take.
        dtype: of the pass and of its weights: "float32", "bfloat16", or "auto", which is bfloat16 on hardware that
            multiplies it faster, else float32. Features are stored in float32 in any case.
        batch_size: most rows in a batch; by default 32 on a CPU and 256 on an accelerator.
        batch_tokens: most tokens in a batch, padding included; by default 2,048 on a CPU and 65,536 on an accelerator.
        text_column, image_column, label_column: columns of raw texts, raw images and labels with unusual names.
        device: where to compute; by default the accelerator of this process, if there is one.
        num_workers: processes that load (and decode) rows ahead of the model.
        noise: take noisy copies of the texts, "delete:0.95" or "mask:0.7", for the heads of a smoothed classifier.
        copies: of each text; the features are those of the first copy of every row, then of the second, and so on.
        noise_seed: of the copies.
        perturb: take copies of the texts with random edits instead, "typos:0.15" or "synonyms:0.2", for heads that have
            seen them.

    Returns:
        The features, memory-mapped, rows in the order of ``dataset``.

    Raises:
        TypeError: a model without ``features``, or another kind of data set.
        ValueError: a data set without usable columns, rows that are too long, or features that are not finite.
        OSError: the disk has no room for the features.

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
    if perturb is not None:
        if noise is not None:
            raise ValueError("noise and perturb are both set; take copies of one kind")
        dataset = edited_copies(dataset, parse_edits(perturb), copies, noise_seed, column=text_column)
    if noise is not None:
        mask = getattr(processing_class, "mask_token", None) or "[MASK]"
        dataset = noisy_copies(dataset, parse_noise(noise), copies, noise_seed, column=text_column, mask=mask)
    state = processes()
    device = torch.device(device or state.device)
    on_cpu = device.type == "cpu"
    arithmetic = compute_dtype(dtype, device)
    batch_size = _positive("batch_size", batch_size, 32 if on_cpu else 256)
    batch_tokens = _positive("batch_tokens", batch_tokens, 2048 if on_cpu else 65536)
    inputs = ModelInputs(model, dataset, processing_class, max_length, text_column, image_column, label_column)
    plan = {"batch_size": batch_size, "batch_tokens": batch_tokens, "dtype": str(arithmetic)}
    key = digest(FORMAT, plan, backbone_digest(model), inputs.digest())
    path = Path(cache_dir) / f"{key}.safetensors"
    with cache_lock(path, state):
        unfinished = UnfinishedFeatures(path)
        if not path.exists():
            labels = inputs.labels()
            rows, lengths = inputs.prepare()
            shards = _shards(len(rows), lengths, batch_size, batch_tokens)
            with frozen(placed(model, device, arithmetic)) as backbone:
                extraction = _Extraction(backbone, device, rows, inputs.collate, num_workers)
                _fill(unfinished, extraction, shards, len(rows))
            if state.is_main_process:
                unfinished.finish(key, labels)
            state.wait_for_everyone()
        elif state.is_main_process:
            unfinished.remove()  # if the last job was killed after the finished file was written
    return Features.load(path)


def _fill(unfinished: UnfinishedFeatures, extraction: "_Extraction", shards: Sequence[Shard], num_rows: int) -> None:
    """Compute the shards of this process that are not on disk yet; return when those of all processes are."""
    state = processes()
    if state.is_main_process and not unfinished.exists():
        (probe,) = extraction.run([shards[-1][-1][-1:]])
        unfinished.create(num_rows, probe.shape[1])
    state.wait_for_everyone()
    done = unfinished.done()
    numbers = [n for n in range(state.process_index, len(shards), state.num_processes) if n not in done]
    batches = [batch for number in numbers for batch in shards[number]]
    features = extraction.run(batches)
    total, hidden = sum(map(len, batches)), None if state.is_main_process else True
    progress = tqdm(total=total, desc="extract", unit="row", disable=hidden)
    with unfinished.open(state.process_index) as writer, progress:
        for number in numbers:
            for batch in shards[number]:
                writer.write(batch, next(features).numpy())
                progress.update(len(batch))
            writer.finish_shard(number)
    state.wait_for_everyone()


class _Extraction:
    """The pass of a frozen model over rows of a data set."""

    def __init__(
        self,
        model: Any,  # a module with features(**inputs)
        device: torch.device,
        rows: datasets.Dataset,
        collate: Callable[[Sequence[Example]], dict[str, Tensor]],
        num_workers: int,
    ):
        self.model, self.device, self.rows, self.collate = model, device, rows, collate
        self.num_workers = num_workers
        self.kernels = FastKernels()

    def run(self, batches: Shard) -> Iterator[Tensor]:
        """Yield the features of each batch, shape (rows, feature_size), float32, on the CPU."""
        loader = DataLoader(
            self.rows,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        for batch, inputs in zip(batches, loader, strict=True):
            yield torch.cat(halving(partial(self._compute, inputs, batch), len(batch)))

    @torch.inference_mode()
    def _compute(self, inputs: dict[str, Tensor], batch: Batch, part: slice) -> Tensor:
        batch = batch[part]
        moved = {name: tensor[part].to(self.device, non_blocking=True) for name, tensor in inputs.items()}
        dtype = next(self.model.parameters()).dtype
        with self.kernels:
            features: Tensor = self.model.features(
                **{name: x.to(dtype) if x.is_floating_point() else x for name, x in moved.items()}
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
    """Return the common plan: batches of rows of similar length, the longest first, grouped into shards.

    It depends on the rows alone, not on how many processes share it.
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
