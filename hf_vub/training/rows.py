"""The rows of a training: tokens, pixels or cached features, and the record of which rows they are."""

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub import constants
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from ..data.columns import find_column
from ..data.noise import parse_noise
from ..data.preprocessing import AugmentedImages, image_transform, tokenize
from ..data.record import TrainingRecord, row_digests
from ..data.word_edits import EditedTexts, parse_edits
from ..embeddings.extraction import extract
from ..model.loading import Task
from .arguments import DataArguments, VUBTrainingArguments
from .frozen_stock import StockFeatures, without_classifier
from .smoothing import noisy_rows, source_rows
from .types import Collator, Data, Processor, Rows


class FeatureRows(Dataset[dict[str, Tensor]]):
    """Cached features and labels as rows that a VUB classifier takes instead of tokens or pixels.

    Attributes:
        features: shape (rows, feature_size).
        labels: shape (rows,), int64.
        source: the texts or images that the features are of, if known.
    """

    def __init__(self, features: Tensor, labels: Tensor, source: datasets.Dataset | None = None):
        self.features, self.labels, self.source = features, labels, source

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"features": self.features[row], "labels": self.labels[row]}


def feature_rows(
    model: PreTrainedModel,
    dataset: datasets.Dataset,
    *,
    processing_class: Processor | None = None,
    cache_dir: str | Path | None = None,
    max_length: int | None = None,
    dtype: str = "float32",
) -> FeatureRows:
    """Compute the features of a frozen backbone once, as rows to train and evaluate its head on.

    With ``freeze_backbone=True`` a Trainer would run the backbone on every row in every epoch, for the same features
    each time. Training on these rows gives the same head at a small fraction of the time.

    Args:
        model: a VUB classifier with ``freeze_backbone=True``.
        dataset: rows with texts or images and labels, or tokenised rows, as :func:`hf_vub.embeddings.extract` takes.
        processing_class: tokenizer or image processor, for raw texts or images.
        cache_dir: folder of the cached features; in the Hugging Face home by default.
        max_length: tokens per text; longer texts are cut.
        dtype: arithmetic of the backbone: "float32", "bfloat16" or "auto".

    Raises:
        ValueError: the backbone is not frozen, or ``extract`` cannot read the rows.

    Example:
        >>> rows = feature_rows(model, splits["train"], processing_class=tokenizer)  # doctest: +SKIP
        >>> VUBTrainer(model=model, args=arguments, train_dataset=rows).train()  # doctest: +SKIP
    """
    if any(parameter.requires_grad for parameter in getattr(model, "backbone", model).parameters()):
        raise ValueError("the backbone trains, so its features change: load the model with freeze_backbone=True")
    return _extract(model, dataset, processing_class, cache_dir, max_length, dtype)


def prepare_rows(
    task: Task,
    network: PreTrainedModel,
    processor: Processor,
    splits: Mapping[str, datasets.Dataset],
    data: DataArguments,
    training: VUBTrainingArguments,
    *,
    frozen: bool,
) -> tuple[Rows, Collator]:
    """Return the rows of every split as the network takes them, and the collator of their batches.

    Args:
        task: "text" or "image".
        network: the classifier to train.
        processor: its tokenizer or image processor.
        splits: with the columns of `load_splits`.
        data: how texts are cut and images augmented, and where features are cached.
        training: noise, edits and adversary; its seed draws them.
        frozen: give cached features, unless rows are drawn anew in every epoch or attacked.
    """
    changing = data.augment or training.smoothing or training.perturb or training.adversary
    if frozen and not changing:
        return _cached_features(network, processor, splits, data), default_data_collator
    rows: dict[str, Data] = dict(splits)
    if task == "image":
        plain = image_transform(processor)
        rows = {name: split.with_transform(plain) for name, split in splits.items()}
        if data.augment:
            rows["train"] = AugmentedImages(splits["train"], processor, training.seed, flip=data.dataset != "digits")
    elif training.smoothing is None:
        assert isinstance(processor, PreTrainedTokenizerBase)
        rows = {name: tokenize(split, processor, data.max_length) for name, split in splits.items()}
        if training.perturb is not None:
            rows["train"] = edited_rows(splits["train"], processor, training, data.max_length)
    if training.smoothing is not None:
        noise, length = parse_noise(training.smoothing), data.max_length
        rows = {
            name: noisy_rows(
                split,
                noise,
                network,
                processor,
                max_length=length,
                seed=training.seed,
                copies=2 if name == "train" and training.consistency else 1,
            )
            for name, split in rows.items()
        }
    if isinstance(processor, PreTrainedTokenizerBase):
        return rows, DataCollatorWithPadding(processor)
    return rows, default_data_collator


def edited_rows(
    rows: object, tokenizer: Processor | None, training: VUBTrainingArguments, max_length: int | None = None
) -> EditedTexts:
    """Return texts with the random edits of ``training.perturb``; rows that are so already stay as they are.

    Raises:
        ValueError: the rows are no texts with labels, or there is no tokenizer.
    """
    if isinstance(rows, EditedTexts):
        return rows
    if not isinstance(rows, datasets.Dataset) or not {"text", "label"} <= set(rows.column_names):
        raise ValueError(
            f"perturb {training.perturb} edits words, so train_dataset must be a datasets.Dataset with the columns "
            "text and label"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"perturb {training.perturb} edits words, so processing_class must be the model's tokenizer")
    edits = parse_edits(training.perturb or "")
    return EditedTexts(rows, tokenizer, edits, max_length=max_length, seed=training.seed, both=training.consistency > 0)


def record_of(train: object, selected: object = None) -> TrainingRecord | None:
    """Return the record of the rows of a Trainer's data sets, or None where they have no texts or images any more.

    Args:
        train: ``train_dataset``.
        selected: ``eval_dataset``, where the best checkpoint is chosen on it.
    """
    train_digests, selected_digests = _digests_of(train), _digests_of(selected)
    if train_digests is None:
        return None
    rows = {"train": len(train_digests), "validation": 0 if selected_digests is None else len(selected_digests)}
    return TrainingRecord(
        hub_name(train) or "a data set in memory",
        digest="",
        origin={"train": "train_dataset", "validation": "eval_dataset"},
        rows=rows,
        train=train_digests,
        validation=np.empty(0, np.int64) if selected_digests is None else selected_digests,
    )


def hub_name(dataset: object) -> str | None:
    """Return the Hub name of a data set that was loaded from there, else None."""
    files = getattr(getattr(getattr(dataset, "source", dataset), "info", None), "download_checksums", None) or {}
    first = str(next(iter(files), ""))
    return first.removeprefix("hf://datasets/").partition("@")[0] if first.startswith("hf://datasets/") else None


def _cached_features(
    network: PreTrainedModel, processor: Processor, splits: Mapping[str, datasets.Dataset], data: DataArguments
) -> Rows:
    ours = hasattr(network, "features")
    with nullcontext() if ours else without_classifier(network):
        model: nn.Module = network if ours else StockFeatures(network)
        return {
            name: _extract(model, split, processor, data.feature_cache, data.max_length, data.feature_dtype)
            for name, split in splits.items()
        }


def _extract(
    model: nn.Module,
    dataset: datasets.Dataset,
    processor: Processor | None,
    cache: str | Path | None,
    max_length: int | None,
    dtype: str,
) -> FeatureRows:
    folder = cache or Path(constants.HF_HOME) / "hf_vub" / "features"
    features = extract(model, dataset, folder, processing_class=processor, max_length=max_length, dtype=dtype)
    return FeatureRows(features.features, features.labels, dataset)


def _digests_of(dataset: object) -> NDArray[np.int64] | None:
    """Return the sorted row digests of a data set with a column of texts or images, else None."""
    rows = dataset.source if isinstance(dataset, FeatureRows) else dataset
    rows = source_rows(rows)
    if not isinstance(rows, datasets.Dataset) or len(rows) == 0:
        return None
    for kind in ("image", "text"):
        with suppress(ValueError):
            return np.sort(row_digests(rows, find_column(rows, kind)))
    return None
