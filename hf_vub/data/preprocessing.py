"""Rows made ready for a model: texts into tokens, images into pixels."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset


def tokenize(
    dataset: Dataset | IterableDataset, tokenizer: Any, max_length: int | None = None
) -> Dataset | IterableDataset:
    """Token ids for every text, truncated to ``max_length`` and not padded: the collator pads each batch.

    Returns:
        Columns ``input_ids``, ``attention_mask`` (and ``token_type_ids`` where the tokenizer makes them), ``labels``
        and ``length`` (tokens, for grouping by length). Texts go through `clean_text`; one without any token becomes
        a single end-of-sequence (or padding) token, since a model cannot read nothing.
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, but is {max_length}")
    if max_length is None and tokenizer.model_max_length < 1_000_000:  # huge numbers stand for "no limit"
        max_length = tokenizer.model_max_length
    options: dict[str, Any] = {"desc": "tokenizing"} if isinstance(dataset, Dataset) else {}
    return dataset.map(
        _encode,
        batched=True,
        remove_columns=dataset.column_names or ["text", "label"],
        fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
        **options,
    )


def clean_text(text: str) -> str:
    """The text as every tokenizer takes it: surrogate pairs joined, a lone surrogate replaced by U+FFFD.

    Everything else stays, NUL among it: tokenizers drop it (BERT) or have a token for it (byte-level BPE).
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class image_transform:
    """What ``dataset.set_transform`` calls to turn rows {"image", "label"} into {"pixel_values", "labels"}.

    With ``train=False`` the pixels are exactly those of ``processor``. With ``train=True`` the image is cropped at
    random first (up to 64 px: shifted by an eighth of its size over a black border, as is usual for CIFAR; larger: a
    quarter to all of its area in an aspect ratio of 3/4 to 4/3, as is usual for ImageNet) and mirrored half of the time
    (``flip=False`` for images such as digits, which have a left and a right). Randomness comes from torch's generator.
    Give the Trainer ``remove_unused_columns=False``: the image column is used here and not by the model.

    Example:
        >>> splits["train"].set_transform(image_transform(processor, train=True))  # doctest: +SKIP
    """

    def __init__(self, processor: Any, train: bool = False, flip: bool = True) -> None:
        self.processor, self.train, self.flip = processor, train, flip
        if train:
            try:
                import torchvision  # noqa: F401
            except ImportError as error:
                raise ImportError('image augmentation needs torchvision: pip install "hf_vub[vision]"') from error

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        """Pixels and labels of a batch of rows."""
        if "image" not in batch:
            raise ValueError(f'rows must have a column "image", but have {", ".join(batch) or "none"}')
        images = [to_rgb(image) for image in batch["image"]]
        if self.train:
            images = [self._augment(image) for image in images]
        result = {"pixel_values": self.processor(images, return_tensors="pt")["pixel_values"]}
        if "label" in batch:
            result["labels"] = [int(label) for label in batch["label"]]
        return result

    def _augment(self, image: Any) -> Any:
        import torch
        from torchvision.transforms import RandomCrop, RandomResizedCrop
        from torchvision.transforms import functional as F

        if max(image.size) <= 64:
            width, height = image.size
            image = RandomCrop((height, width), padding=(width // 8, height // 8))(image)
        else:
            image = F.crop(image, *RandomResizedCrop.get_params(image, [0.25, 1.0], [3 / 4, 4 / 3]))
        return F.hflip(image) if self.flip and torch.rand(()) < 0.5 else image


def to_rgb(image: Any) -> Any:
    """Any PIL image (or array of bytes) as upright 8-bit RGB: EXIF rotation applied, 16-bit and float values scaled.

    Alpha is dropped, and of an animation the current frame is taken. Sides under 4 px are stretched to 4: with fewer,
    image processors mistake rows for colour channels.
    """
    from PIL import Image as PillowImage
    from PIL import ImageOps

    if not isinstance(image, PillowImage.Image):
        image = PillowImage.fromarray(np.asarray(image, dtype=np.uint8))
    if image.mode != "RGB" or image.getexif():
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = 255.0 if 1 < values.max() <= 255 else 1.0 if values.max() <= 1 and image.mode == "F" else 65535.0
        image = PillowImage.fromarray(np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if min(image.size) < 4:
        image = image.resize((max(4, image.width), max(4, image.height)))
    return image


def disable_ghostscript() -> None:
    """Stop pillow from handing images to Ghostscript, a program, as it does with EPS under whatever file name."""
    with suppress(ImportError):
        from PIL import EpsImagePlugin

        EpsImagePlugin.gs_binary = False


def _encode(batch: Mapping[str, list[Any]], tokenizer: Any, max_length: int | None) -> dict[str, Any]:
    texts = [clean_text(text) for text in batch["text"]]
    encoded = dict(tokenizer(texts, truncation=max_length is not None, max_length=max_length))
    candidates = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    for row, ids in enumerate(encoded["input_ids"]):
        if not ids:
            encoded["input_ids"][row] = [next((token for token in candidates if token is not None), 0)]
            encoded["attention_mask"][row] = [1]
            if "token_type_ids" in encoded:
                encoded["token_type_ids"][row] = [0]
    if "label" in batch:
        encoded["labels"] = list(batch["label"])
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    return encoded
