"""Noise for smoothed classifiers: words deleted or masked at random, and Gaussian noise on pixels.

The same draws are made in training and in certification. Each is a function of a generator alone, and a generator of a
seed and the row that it is for: a run that was killed, or split over processes, sees the same copies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Kind = Literal["delete", "mask", "gaussian"]

_EXAMPLES = "'delete:0.95', 'mask:0.7' or 'gaussian:0.25'"


@dataclass(frozen=True)
class Noise:
    """The noise of a smoothed classifier.

    Attributes:
        kind: "delete" or "mask" for words, "gaussian" for pixels.
        level: probability of a word's deletion, share of words that are masked, or standard deviation on [0, 1] pixels.

    Raises:
        ValueError: the kind is unknown or the level out of range.
    """

    kind: Kind
    level: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"noise has the kind {self.kind!r}; it must be {_EXAMPLES}")
        if not 0 < self.level < (math.inf if self.kind == "gaussian" else 1):
            wanted = "a finite number above 0" if self.kind == "gaussian" else "above 0 and below 1"
            raise ValueError(f"noise {self.kind} has the level {self.level}; it must be {wanted}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.level:g}"

    @property
    def medium(self) -> Literal["text", "image"]:
        """Return what it is noise on."""
        return "image" if self.kind == "gaussian" else "text"


def parse_noise(text: str) -> Noise:
    """Return the noise that ``"kind:level"`` names.

    Raises:
        ValueError: ``text`` names none.

    Example:
        >>> parse_noise("delete:0.95")
        Noise(kind='delete', level=0.95)
    """
    kind, colon, level = str(text).partition(":")
    try:
        value = float(level)
    except ValueError:
        value = math.nan
    if not colon or kind not in get_args(Kind) or math.isnan(value):
        raise ValueError(f"noise is {text!r}; it must be {_EXAMPLES}")
    return Noise(kind, value)  # type: ignore[arg-type]


def draw_kept(noise: Noise, words: int, copies: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return which words of a text stay in each noisy copy, shape (copies, words).

    Copies are drawn one after the other, so that drawing them in several calls gives the same copies.

    Args:
        noise: "delete" keeps each word with probability 1 - level; "mask" keeps `kept_words` of them.
        words: of the text.
        copies: to draw.
        generator: state of the draws.

    Raises:
        ValueError: for noise on images.
    """
    if noise.medium != "text":
        raise ValueError(f"noise {noise} is for images, not for texts")
    draws = generator.random((copies, words))
    if noise.kind == "delete":
        return draws >= noise.level
    kept = kept_words(words, noise.level)
    stay = np.zeros((copies, words), dtype=bool)
    np.put_along_axis(stay, np.argsort(draws, axis=1, kind="stable")[:, :kept], True, axis=1)
    return stay


def kept_words(words: int, masked: float) -> int:
    """Return how many words masking leaves: all but the share ``masked``, rounded, and at least one of a text."""
    return min(words, max(1, words - round(masked * words)))


def noisy_texts(
    words: Sequence[str], noise: Noise, copies: int, generator: np.random.Generator, mask: str = "[MASK]"
) -> list[str]:
    """Return noisy copies of a text.

    Args:
        words: of the text, ``text.split()``.
        noise: on words.
        copies: to draw.
        generator: state of the draws.
        mask: word in place of a masked one.

    Raises:
        ValueError: for noise on images.

    Example:
        >>> noisy_texts("a fine film".split(), Noise("mask", 0.6), 2, np.random.default_rng(0))
        ['[MASK] [MASK] film', 'a [MASK] [MASK]']
    """
    kept = draw_kept(noise, len(words), copies, generator)
    return [" ".join(apply_kept(words, row, mask if noise.kind == "mask" else None)) for row in kept]


def apply_kept(words: Sequence[str], kept: NDArray[np.bool_], mask: str | None) -> list[str]:
    """Return the words that stay, with ``mask`` in place of the others, or without them where it is None."""
    if mask is None:
        return [words[place] for place in np.flatnonzero(kept).tolist()]
    return [word if stays else mask for word, stays in zip(words, kept, strict=True)]


def noisy_pixels(pixels: Tensor, noise: Noise, copies: int, generator: torch.Generator) -> Tensor:
    """Return copies of an image with Gaussian noise, not clipped to [0, 1], shape (copies, *pixels.shape).

    Args:
        pixels: in [0, 1], shape (channels, height, width).
        noise: on pixels.
        copies: to draw.
        generator: state of the draws, on the device that they are made on.

    Raises:
        ValueError: for noise on texts.
    """
    if noise.medium != "image":
        raise ValueError(f"noise {noise} is for texts, not for images")
    draws = torch.randn((copies, *pixels.shape), generator=generator, device=generator.device)
    return pixels + noise.level * draws.to(pixels.device)
