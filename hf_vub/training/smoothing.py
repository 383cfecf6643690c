"""The noisy rows that the base classifier of a smoothed classifier is trained and evaluated on."""

from typing import Any, cast

import datasets
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..data.noise import Noise, parse_noise
from ..data.noisy_rows import ImageRows, NoisyImages, NoisyTexts, WordTokens
from ..data.preprocessing import AugmentedImages
from ..data.word_edits import EditedTexts
from ..embeddings.pixels import PixelModel
from .arguments import VUBTrainingArguments
from .types import Data, Processor


def noisy_rows(
    rows: Data,
    noise: Noise,
    network: nn.Module,
    processor: Processor,
    *,
    max_length: int | None = None,
    seed: int = 0,
    copies: int = 1,
) -> Data:
    """Return rows under noise: fresh draws in every epoch of training, the same ones in every evaluation.

    Args:
        rows: texts (columns text and label), or images as normalised ``pixel_values``; rows under noise stay as they
            are.
        noise: on texts or images.
        network: the classifier.
        processor: its tokenizer or image processor.
        max_length: tokens that a noisy text is cut to.
        seed: of the draws.
        copies: of each row in a batch: first one of all rows, then another of all rows.

    Raises:
        ValueError: the rows are of another medium, or tokenised already.
    """
    if isinstance(rows, (NoisyTexts, NoisyImages)):
        return rows
    if noise.medium == "text":
        if not isinstance(rows, datasets.Dataset) or "text" not in rows.column_names:
            raise ValueError(
                f"smoothing {noise} draws words, so its rows must be a datasets.Dataset with the columns text and label"
            )
        assert isinstance(processor, PreTrainedTokenizerBase)
        return NoisyTexts(rows, WordTokens(processor, max_length), noise, seed, copies)
    if isinstance(rows, datasets.Dataset) and rows.format["type"] != "custom" and "pixel_values" not in rows.features:
        raise ValueError(
            f"smoothing {noise} is noise on pixels, so its rows must give pixel_values: use image_transform"
        )
    return NoisyImages(cast(ImageRows, rows), noise, PixelModel(network, processor).std.flatten(), seed, copies)


def noisy_datasets(
    rows: object, *, args: VUBTrainingArguments, network: nn.Module | None, processor: Processor | None,
    training: bool = False,
) -> Any:  # fmt: skip
    """Return a data set of a trainer, or the data sets of an evaluation by name, under the noise of its arguments.

    The model's configuration gets the noise too.

    Raises:
        ValueError: there is no model or no tokenizer or image processor, or as for `noisy_rows`.
    """
    if network is None or processor is None:
        missing = "model" if network is None else "processing_class"
        raise ValueError(f"{missing} is None; smoothing {args.smoothing} needs it to draw noise as the model sees it")
    store_noise(getattr(network, "config", None), args.smoothing)
    if rows is None:
        return None
    if isinstance(rows, dict):
        return {
            name: noisy_datasets(each, args=args, network=network, processor=processor) for name, each in rows.items()
        }
    copies = 2 if training and args.consistency else 1
    noise = parse_noise(str(args.smoothing))
    return noisy_rows(cast(Data, rows), noise, network, processor, seed=args.seed, copies=copies)


def store_noise(config: PretrainedConfig | None, noise: str | None) -> None:
    """Write the noise of a training into the model's configuration, or take that of an earlier one away."""
    if config is not None and (noise is not None or getattr(config, "smoothing", None) is not None):
        config.smoothing = None if noise is None else {"noise": noise}


def source_rows(rows: object) -> object:
    """Return the rows under noise, edits or augmentation, of which a record can be made."""
    if isinstance(rows, NoisyImages):
        rows = rows.rows
    return rows.dataset if isinstance(rows, (NoisyTexts, EditedTexts, AugmentedImages)) else rows
