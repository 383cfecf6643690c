"""Rows whose texts or images are noisy copies, as smoothed classifiers are trained and evaluated on."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor

from .columns import find_column
from .noise import Noise, apply_kept, draw_kept, noisy_pixels, noisy_texts
from .preprocessing import EpochRows, Example, clean_text, encode_texts, max_text_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ImageRows(Protocol):
    """Rows with ``pixel_values``, such as a data set with a transform or `AugmentedImages`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Example: ...


_REMEMBERED_WORDS = 2**20
_PROBES = (
    "",
    "a",
    "Well, it isn't 'the best' film (of 1999) -- but <br /><br />who cares?",
    "naïve café Ünïcode 中文字 10/10!!! don't http://x.y/z?q=1 #tag @name",
    "word " * 40,
)
"""Texts on which the tokens of words are compared with those of the text."""


class WordTokens:
    """Give the tokens of many parts of one text cheaply: those of each of its words, one after the other.

    A word is what lies between blanks. Most tokenizers split a text there first, so that its tokens are those of its
    words; each word is then tokenised once. Whether a tokenizer does is tested when this is made, on fixed texts, and
    decides for all texts: equal words give equal tokens in either case, as a certificate needs. Where it does not, each
    part is joined by blanks and tokenised.

    Args:
        tokenizer: of the model.
        max_length: tokens that a text is cut to; by default the tokenizer's limit.
        limit: words remembered; beyond it all are forgotten.

    Attributes:
        by_word: the tokens of a text are those of its words.
        mask: the word that stands for a masked one.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", max_length: int | None = None, limit: int = _REMEMBERED_WORDS
    ):
        self.tokenizer = tokenizer
        self.max_length = max_text_length(tokenizer, wanted=max_length)
        self.limit = limit
        self.mask = str(tokenizer.mask_token or tokenizer.unk_token or "[MASK]")
        self._first: dict[str, list[int]] = {}
        self._later: dict[str, list[int]] = {}
        probe = encode_texts(tokenizer, ["a"], self.max_length)
        ids, bare = probe["input_ids"][0], self._bare(["a"])[0]
        place = next((at for at in range(len(ids)) if ids[at : at + len(bare)] == bare), 0)
        self._before, self._after = ids[:place], ids[place + len(bare) :]
        self._constants = {name: values[0][0] for name, values in probe.items() if name != "input_ids"}
        self._lead = bare
        self.by_word = self._is_by_word()

    def __call__(self, parts: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the token ids of texts, special tokens included, cut to ``max_length``.

        Args:
            parts: the words of each text.
        """
        if self.by_word:
            return self._joined(parts)
        ids: list[list[int]] = encode_texts(self.tokenizer, [" ".join(words) for words in parts], self.max_length)[
            "input_ids"
        ]
        return ids

    def columns(self, ids: list[int]) -> dict[str, list[int]]:
        """Return all columns that the model takes, of one text."""
        return {"input_ids": ids, **{name: [value] * len(ids) for name, value in self._constants.items()}}

    def noisy(self, words: Sequence[str], kept: NDArray[np.bool_], noise: Noise) -> list[list[int]]:
        """Return the token ids of noisy copies of a text.

        Args:
            words: of the text.
            kept: which words stay, shape (copies, words), of `draw_kept`.
            noise: which says what becomes of the others.
        """
        mask = self.mask if noise.kind == "mask" else None
        return self([apply_kept(words, row, mask) for row in kept])

    def _joined(self, parts: Sequence[Sequence[str]]) -> list[list[int]]:
        self._remember({word for words in parts for word in words})
        room = self.max_length - len(self._before) - len(self._after)
        left = self.tokenizer.truncation_side == "left"
        rows = []
        for words in parts:
            ids = list(self._first[words[0]]) if words else []
            for word in words[1:]:
                if len(ids) > room and not left:
                    break
                ids += self._later[word]
            ids = ids[max(0, len(ids) - room) :] if left else ids[:room]
            rows.append([*self._before, *ids, *self._after] or self._blank())
        return rows

    def _remember(self, words: set[str]) -> None:
        new = sorted(words - self._first.keys())
        if len(self._first) + len(new) > self.limit:
            self._first.clear()
            self._later.clear()
            new = sorted(words)
        if not new:
            return
        self._first.update(zip(new, self._bare(new), strict=True))
        for word, ids in zip(new, self._bare([f"a {word}" for word in new]), strict=True):
            follows = ids[: len(self._lead)] == self._lead
            self._later[word] = ids[len(self._lead) :] if follows else self._first[word]

    def _bare(self, texts: Iterable[str]) -> list[list[int]]:
        """Return token ids without special tokens."""
        cleaned = [clean_text(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(cleaned, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _blank(self) -> list[int]:
        ids: list[int] = encode_texts(self.tokenizer, [""], self.max_length)["input_ids"][0]
        return ids

    def _is_by_word(self) -> bool:
        """Return whether the words' tokens are the text's, on the fixed texts and with words masked."""
        masked = " ".join(word if place % 2 else self.mask for place, word in enumerate(_PROBES[2].split()))
        vocabulary = sorted(self.tokenizer.get_vocab())
        # Halves of tokens would become the whole again in a tokenizer that merges across a blank.
        halved = [
            f"{word[: len(word) // 2]} {word[len(word) // 2 :]}" for word in vocabulary[:: 1 + len(vocabulary) // 500]
        ]
        probes = [text.split() for text in (*_PROBES, *halved, masked, f"{self.mask} {self.mask} a")]
        encoded = encode_texts(self.tokenizer, [" ".join(words) for words in probes], self.max_length)
        ids = encoded["input_ids"]
        others = all(encoded[name] == [[value] * len(row) for row in ids] for name, value in self._constants.items())
        return others and ids == self._joined(probes)


def noisy_copies(
    dataset: Dataset, noise: Noise, copies: int = 1, seed: int = 0, *, column: str | None = None, mask: str = "[MASK]"
) -> Dataset:
    """Return noisy copies of texts as rows: the first copy of every row, then the second of every row, and so on.

    Copy k of a row is its draw in epoch k of `NoisyTexts`.

    Args:
        dataset: with a column of texts.
        noise: on words.
        copies: of each row.
        seed: of all random choices.
        column: of the texts, if it has an unusual name.
        mask: word in place of a masked one, such as the tokenizer's ``mask_token``.

    Raises:
        ValueError: for noise on images, fewer than one copy, or no column of texts.

    Example:
        >>> from datasets import Dataset
        >>> noisy_copies(Dataset.from_dict({"text": ["a fine film"], "label": [1]}), Noise("mask", 0.6), 2).num_rows
        2
    """
    if noise.medium != "text":
        raise ValueError(
            f"noise is {noise}; of images no copies are stored: train with smoothing={str(noise)!r} instead"
        )
    if copies < 1:
        raise ValueError(f"copies is {copies}; it must be at least 1")
    column = find_column(dataset, "text", column)
    texts = [clean_text(text or "").split() for text in dataset.with_format(None)[:][column]]
    noisy = [
        noisy_texts(words, noise, 1, np.random.default_rng([seed, copy, row]), mask)[0]
        for copy in range(copies)
        for row, words in enumerate(texts)
    ]
    rows = dataset.select(np.tile(np.arange(len(texts)), copies)).remove_columns(column)
    return rows.add_column(column, noisy)


class NoisyTexts(EpochRows):
    """Noisy copies of texts as tokens: a function of seed, epoch and row alone (`EpochRows`).

    Args:
        dataset: columns text and label.
        tokens: of the model.
        noise: on words.
        seed: of all random choices.
        copies: of each row: those rows that are asked for together come once with their first copy, then once more
            with the second, and so on.

    Raises:
        ValueError: for noise on images, or pairs of texts.
    """

    def __init__(self, dataset: Dataset, tokens: WordTokens, noise: Noise, seed: int = 0, copies: int = 1) -> None:
        if noise.medium != "text":
            raise ValueError(f"noise {noise} is for images, and the rows are texts")
        if "text_pair" in dataset.column_names:
            raise ValueError(f"noise {noise} is for single texts, and the rows are pairs of texts")
        super().__init__(dataset, seed)
        self.dataset, self.tokens, self.noise, self.copies = dataset.with_format(None), tokens, noise, copies

    def _prepare(self, numbers: list[int]) -> list[Example]:
        batch = self.dataset[numbers]
        mask = self.tokens.mask if self.noise.kind == "mask" else None
        texts = [clean_text(text).split() for text in batch["text"]]
        kept = [
            draw_kept(self.noise, len(words), self.copies, np.random.default_rng(self.key(row)))
            for row, words in zip(numbers, texts, strict=True)
        ]
        parts = [
            apply_kept(words, draws[copy], mask)
            for copy in range(self.copies)
            for words, draws in zip(texts, kept, strict=True)
        ]
        labels = [{"labels": int(label)} for label in batch["label"]] if "label" in batch else [{}] * len(numbers)
        return [
            {**self.tokens.columns(ids), **label}
            for ids, label in zip(self.tokens(parts), labels * self.copies, strict=True)
        ]


class NoisyImages(EpochRows):
    """Images with Gaussian noise on their [0, 1] pixels: a function of seed, epoch and row alone.

    Args:
        rows: give normalised ``pixel_values``; their ``set_epoch`` is called too.
        noise: on pixels.
        std: standard deviation per channel that the image processor divides by, shape (channels,).
        seed: of all random choices.
        copies: of each row, as in `NoisyTexts`.

    Raises:
        ValueError: for noise on texts.
    """

    def __init__(self, rows: ImageRows, noise: Noise, std: Tensor, seed: int = 0, copies: int = 1) -> None:
        if noise.medium != "image":
            raise ValueError(f"noise {noise} is for texts, and the rows are images")
        super().__init__(rows, seed)
        self.rows, self.noise, self.std = rows, noise, std.detach().cpu().reshape(-1, 1, 1)
        self.copies = copies

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of this epoch (from 0), in worker processes too."""
        super().set_epoch(epoch)
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def _prepare(self, numbers: list[int]) -> list[Example]:
        noisy = [self._noisy(row) for row in numbers]
        return [each[copy] for copy in range(self.copies) for each in noisy]

    def _noisy(self, row: int) -> list[Example]:
        values = dict(self.rows[row])
        pixels: Tensor = values["pixel_values"]
        generator = torch.Generator().manual_seed(self.torch_seed(row))
        draws = noisy_pixels(torch.zeros_like(pixels), self.noise, self.copies, generator)
        return [{**values, "pixel_values": pixels + draw / self.std} for draw in draws]
