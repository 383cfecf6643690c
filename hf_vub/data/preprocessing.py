"""Rows made ready for a model: texts into tokens, images into pixels.

Whoever tokenises does it here, so that a text is the same input in training, embedding and attack: `max_text_length`
decides how many tokens are kept, `encode_texts` makes them, `pad_tokens` makes a batch of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Batch = Mapping[str, list[Any]]
"""Rows: a list per column."""
Example = dict[str, Any]
"""One row, or a batch, as a model takes it."""
Tokens = dict[str, list[list[int]]]
"""Columns of a tokenizer, one list per row."""
ImageProcessor = Callable[..., Mapping[str, Any]]

_NO_LIMIT = 1_000_000  # tokenizers without a limit have a model_max_length of 1e30
_DEFAULT_LENGTH = 512
_MOST_CHARACTERS = 1_000_000


def tokenize(
    dataset: Dataset | IterableDataset, tokenizer: "PreTrainedTokenizerBase", max_length: int | None = None
) -> Dataset | IterableDataset:
    """Return the token ids of every text, cut to ``max_length`` and not padded: the collator pads each batch.

    Args:
        dataset: columns text, text_pair (if texts are pairs) and label.
        tokenizer: of the model.
        max_length: tokens kept; by default what the tokenizer says (`max_text_length`).

    Returns:
        Columns ``input_ids``, ``attention_mask`` (and ``token_type_ids`` where the tokenizer makes them), ``labels``
        and ``length`` (tokens, for grouping by length); see `encode_texts`.

    Raises:
        ValueError: ``max_length`` is less than 1.
    """
    options: dict[str, Any] = {"desc": "tokenizing"} if isinstance(dataset, Dataset) else {}
    return dataset.map(
        _encode_rows,
        batched=True,
        remove_columns=dataset.column_names or ["text", "label"],
        fn_kwargs={"tokenizer": tokenizer, "max_length": max_text_length(tokenizer, wanted=max_length)},
        **options,
    )


def max_text_length(
    tokenizer: "PreTrainedTokenizerBase | None",
    model: "nn.Module | PretrainedConfig | None" = None,
    wanted: int | None = None,
) -> int:
    """Return the number of tokens that a text is cut to.

    This is ``wanted``, else the lesser of the tokenizer's limit and the model's number of positions as far as they are
    given, else 512 where neither has a limit.

    Raises:
        ValueError: ``wanted`` is less than 1 or more than the model has positions for.
    """
    positions = _positions(model)
    if wanted is None:
        stated = getattr(tokenizer, "model_max_length", None) or _NO_LIMIT
        limits = [int(limit) for limit in (stated, positions) if limit is not None and limit < _NO_LIMIT]
        return min(limits, default=_DEFAULT_LENGTH)
    if wanted < 1:
        raise ValueError(f"max_length must be at least 1, but is {wanted}")
    if positions is not None and wanted > positions:
        raise ValueError(f"max_length is {wanted}, but the model has positions for {positions} tokens only")
    return wanted


def encode_texts(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    max_length: int,
    *,
    pairs: Sequence[str] | None = None,
    attention_mask: bool = True,
) -> Tokens:
    """Return the token ids of texts, or of pairs of texts, cut to ``max_length`` tokens and not padded.

    Texts go through `clean_text` first. A text without any token becomes a single end-of-sequence token (or separator,
    padding or unknown token, whichever the tokenizer has), since models cannot read an empty sequence. Only
    the first 1,000,000 characters of a text (or 100 per token of ``max_length``, if that is more) are tokenized; of the
    texts of a pair, 100 per token.

    Args:
        tokenizer: of the model.
        texts: one per row.
        max_length: tokens kept per row; of a pair the longer text is cut first.
        pairs: the second text of each row, if texts are pairs.
        attention_mask: return the column ``attention_mask`` too.
    """
    # tokenizers keeps what it cuts off, and of a pair every piece of one text with every piece of the other.
    most = max(_MOST_CHARACTERS if pairs is None else 0, 100 * max_length)
    second = None if pairs is None else [clean_text(text[:most]) for text in pairs]
    with _same_backend(tokenizer):
        encoded = tokenizer(
            [clean_text(text[:most]) for text in texts],
            second,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=attention_mask,
        )
    columns: Tokens = dict(encoded)
    for row, ids in enumerate(columns["input_ids"]):
        if not ids:
            special = (getattr(tokenizer, f"{kind}_token_id") for kind in ("eos", "sep", "pad", "unk"))
            blank = {"input_ids": next((token for token in special if token is not None), 0), "attention_mask": 1}
            for name in columns:
                columns[name][row] = [blank.get(name, 0)]
    return columns


@contextmanager
def _same_backend(tokenizer: object) -> Iterator[None]:
    """Leave no truncation or padding behind: a saved tokenizer.json must not depend on what was tokenized before."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)


def pad_tokens(
    rows: Sequence[Mapping[str, Any]],
    *,
    pad_token_id: int | None = None,
    pad_token_type_id: int = 0,
    side: str = "right",
) -> dict[str, Tensor]:
    """Return rows of tokens as one batch, padded no further than to its longest row.

    Args:
        rows: ``input_ids`` and other columns of tokens, each a sequence (tokens,); all rows have the same columns.
            Without ``attention_mask`` all tokens count; with it, rows may be padded already, and columns at the end
            that are padding in every row are dropped.
        pad_token_id: of the tokenizer; 0 if None.
        pad_token_type_id: of the tokenizer.
        side: "right" or "left", the tokenizer's ``padding_side``.

    Returns:
        int64 tensors (rows, longest) on the CPU, ``attention_mask`` among them.
    """
    masks = [np.asarray(row.get("attention_mask", np.ones(len(row["input_ids"])))) for row in rows]
    used = [int(mask.nonzero()[0].max(initial=0)) + 1 for mask in masks]
    padding = {"input_ids": pad_token_id or 0, "token_type_ids": pad_token_type_id}
    batch = {}
    for name in dict.fromkeys([*rows[0], "attention_mask"]):
        values = masks if name == "attention_mask" else [np.asarray(row[name]) for row in rows]
        padded = np.full((len(rows), max(used)), padding.get(name, 0), dtype=np.int64)
        for place, (value, width) in enumerate(zip(values, used, strict=True)):
            cells = slice(max(used) - width, None) if side == "left" else slice(width)
            padded[place, cells] = value[:width]
        batch[name] = torch.from_numpy(padded)
    return batch


def clean_text(text: str) -> str:
    """Return the text as every tokenizer takes it: surrogate pairs joined, a lone surrogate replaced by U+FFFD.

    Everything else stays, NUL among it: tokenizers drop it (BERT) or have a token for it (byte-level BPE).
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class image_transform:
    """Turn rows {"image", "label"} into {"pixel_values", "labels"}, as ``dataset.set_transform`` wants it.

    The pixels are those of the processor, unchanged; `AugmentedImages` crops and mirrors. Give the Trainer
    ``remove_unused_columns=False``: the image column is used here and not by the model.

    Example:
        >>> splits["test"].set_transform(image_transform(processor))  # doctest: +SKIP
    """

    def __init__(self, processor: ImageProcessor) -> None:
        self.processor = processor

    def __call__(self, batch: Batch) -> Example:
        """Return pixels (rows, channels, height, width) and labels of a batch of rows."""
        if "image" not in batch:
            raise ValueError(f'rows must have a column "image", but have {", ".join(batch) or "none"}')
        images = [to_rgb(image) for image in batch["image"]]
        result: Example = {"pixel_values": self.processor(images, return_tensors="pt")["pixel_values"]}
        if "label" in batch:
            result["labels"] = [int(label) for label in batch["label"]]
        return result


class EpochRows(torch.utils.data.Dataset[Example]):
    """Rows with random changes that are a function of seed, epoch and row alone.

    Because nothing else decides, neither prefetching, worker processes nor resuming changes a row. `VUBTrainer` calls
    `set_epoch`; any other training loop has to, before each epoch.
    """

    def __init__(self, rows: Sized, seed: int) -> None:
        self.seed, self._rows, self._epoch = seed, rows, torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the random changes of this epoch (from 0), in worker processes too."""
        self._epoch.fill_(epoch)

    def key(self, row: int) -> list[int]:
        """Return what decides the changes of a row in this epoch, as a seed for numpy."""
        return [self.seed, int(self._epoch), row]

    def torch_seed(self, row: int) -> int:
        """Return the same as a seed for torch."""
        return int(np.random.SeedSequence(self.key(row)).generate_state(1, np.uint64)[0]) >> 1

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Example:
        return self.__getitems__([row])[-1]

    def __getitems__(self, rows: Sequence[int]) -> list[Example]:
        """Return several rows, prepared together, the changed ones last; PyTorch's loader asks for them this way."""
        return self._prepare([range(len(self))[row] for row in rows])

    def _prepare(self, numbers: list[int]) -> list[Example]:
        raise NotImplementedError


class AugmentedImages(EpochRows):
    """Training images, cropped at random and mirrored, as a function of seed, epoch and row alone (`EpochRows`).

    Images of up to 64 px are shifted by up to an eighth of their size over a black border, as is usual for CIFAR.
    Larger ones are cut to a quarter to all of their area in an aspect ratio of 3/4 to 4/3, as is usual for ImageNet.

    Args:
        dataset: columns image and label.
        processor: image processor of the model.
        seed: of all random choices.
        flip: mirror half of the images; False for images such as digits, which have a left and a right.

    Raises:
        ImportError: torchvision is not installed.

    Example:
        >>> rows = AugmentedImages(splits["train"], processor, seed=0)  # doctest: +SKIP
        >>> rows[0]["pixel_values"].shape  # doctest: +SKIP
        torch.Size([3, 224, 224])
    """

    def __init__(self, dataset: Dataset, processor: ImageProcessor, seed: int = 0, flip: bool = True) -> None:
        try:
            import torchvision  # noqa: F401
        except ImportError as error:
            raise ImportError('image augmentation needs torchvision: pip install "hf_vub[vision]"') from error
        super().__init__(dataset, seed)
        self.dataset, self.flip, self.transform = dataset.with_format(None), flip, image_transform(processor)

    def _prepare(self, numbers: list[int]) -> list[Example]:
        batch = self.dataset[numbers]
        images = [self._augment(image, row) for image, row in zip(batch["image"], numbers, strict=True)]
        ready = self.transform({**batch, "image": images})
        return [dict(zip(ready, values, strict=True)) for values in zip(*ready.values(), strict=True)]

    def _augment(self, image: "Image", row: int) -> "Image":
        from torchvision.transforms import RandomCrop, RandomResizedCrop
        from torchvision.transforms import functional as F

        image = to_rgb(image)
        # The CPU's generator alone, and as it was afterwards: a model draws its noise from the same one.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.torch_seed(row))
            if max(image.size) <= 64:
                width, height = image.size
                image = RandomCrop((height, width), padding=(width // 8, height // 8))(image)
            else:
                image = F.crop(image, *RandomResizedCrop.get_params(image, [0.25, 1.0], [3 / 4, 4 / 3]))
            return F.hflip(image) if self.flip and torch.rand(()) < 0.5 else image


def to_rgb(image: object) -> "Image":
    """Return any PIL image (or array of bytes) as upright 8-bit RGB: EXIF rotation applied, 16-bit and floats scaled.

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
    image = image if image.mode == "RGB" else image.convert("RGB")
    if min(image.size) < 4:
        image = image.resize((max(4, image.width), max(4, image.height)))
    return image


def disable_ghostscript() -> None:
    """Stop pillow from handing images to Ghostscript, as it does with EPS under whatever file name."""
    with suppress(ImportError):
        from PIL import EpsImagePlugin

        EpsImagePlugin.gs_binary = False


def _encode_rows(batch: Batch, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> Batch:
    encoded = encode_texts(tokenizer, batch["text"], max_length, pairs=batch.get("text_pair"))
    labels = {"labels": list(batch["label"])} if "label" in batch else {}
    return {**encoded, **labels, "length": [len(ids) for ids in encoded["input_ids"]]}


def _positions(model: "nn.Module | PretrainedConfig | None") -> int | None:
    """Return the number of tokens that a model has positions for, or None where it has no limit or is not known."""
    config: object = getattr(model, "config", model)
    config = getattr(config, "backbone_config", None) or config
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            # RoBERTa and its kin number their tokens from behind the padding token.
            padding = getattr(module, "padding_idx", None)
            if name.endswith("position_embeddings") and isinstance(padding, int):
                return positions - padding - 1
    return positions
