"""The noisy rows that the base classifier of a smoothed classifier is trained and evaluated on."""

from typing import cast

import datasets
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..data.noise import Noise
from ..data.noisy_rows import ImageRows, NoisyImages, NoisyTexts, WordTokens
from ..data.preprocessing import AugmentedImages
from ..data.word_edits import EditedTexts
from ..embeddings.pixels import PixelModel
from .types import Data, Processor


def noisy_rows(
    rows: Data,
    noise: Noise,
    network: nn.Module,
    processor: Processor,
    *,
    max_length: int | None = None,
    seed: int = 0,
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
        return NoisyTexts(rows, WordTokens(processor, max_length), noise, seed)
    if isinstance(rows, datasets.Dataset) and rows.format["type"] != "custom" and "pixel_values" not in rows.features:
        raise ValueError(
            f"smoothing {noise} is noise on pixels, so its rows must give pixel_values: use image_transform"
        )
    return NoisyImages(cast(ImageRows, rows), noise, PixelModel(network, processor).std.flatten(), seed)


def source_rows(rows: object) -> object:
    """Return the rows under noise, edits or augmentation, of which a record can be made."""
    if isinstance(rows, NoisyImages):
        rows = rows.rows
    return rows.dataset if isinstance(rows, (NoisyTexts, EditedTexts, AugmentedImages)) else rows
