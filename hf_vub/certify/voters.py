"""Votes of a base classifier, or of several heads on one backbone, on noisy copies of texts and images."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..compute.kernels import FastKernels
from ..compute.memory import halving
from ..data.noise import Noise, draw_kept, noisy_pixels
from ..data.noisy_rows import WordTokens
from ..data.preprocessing import clean_text, max_text_length, pad_tokens
from ..embeddings.pixels import PixelModel
from ..model.information import at_least_float32
from ..model.loading import LoadedClassifier
from .radii import deletion_radius, gaussian_radius, masking_radius
from .smoothing import Smoothing
from .tally import Tally

Head = Callable[[Tensor], Tensor]
"""From features (copies, feature_size) to logits (copies, classes)."""


class Voter(ABC):
    """Vote on noisy copies of examples of one medium.

    Args:
        noise: that the copies are drawn with.
        heads: by name, from features to logits.
        seed: of the copies, together with the row of the example.

    Attributes:
        unit: singular noun for an example.
    """

    unit: ClassVar[str]

    def __init__(self, noise: Noise, heads: Mapping[str, Head], seed: int):
        self.noise, self.heads, self.seed = noise, heads, seed
        self.kernels = FastKernels()

    @abstractmethod
    def prepare(self, raw: Any) -> Any:
        """Return a text or image as `copies` takes it; raise ValueError where it cannot be read."""

    @abstractmethod
    def copies(self, example: Any, key: int) -> Callable[[int], Any]:
        """Return a function that draws the next noisy copies of an example, as `features` takes them.

        Args:
            example: as `prepare` returns it.
            key: decides the draws, together with the seed: the row of the example.
        """

    @abstractmethod
    def features(self, copies: Any) -> Tensor:
        """Return features (copies, feature_size) of noisy copies, in their order."""

    @abstractmethod
    def radius(self, p_lower: float, example: Any) -> float:
        """Return the certified radius, or -1 to abstain."""

    def size(self, example: Any) -> dict[str, int]:
        """Return what a record says about the size of an example."""
        return {}

    @torch.no_grad()
    def num_classes(self, head: Head, example: Any) -> int:
        """Return how many classes a head has, which it shows on an example."""
        return head(self.features(self.copies(example, 0)(1))).shape[-1]

    def count(self, example: Any, key: int, smoothing: Smoothing, tallies: dict[str, Tally]) -> None:
        """Draw copies of an example until the tallies of all heads are finished.

        Args:
            example: as `prepare` returns it.
            key: decides the draws, together with the seed.
            smoothing: how many copies.
            tallies: by the name of the head; filled.
        """
        draw = self.copies(example, key)
        for block in smoothing.blocks():
            waiting = {name: tally for name, tally in tallies.items() if not tally.finished}
            if not waiting:
                return
            for name, votes in self.votes(draw(block), waiting).items():
                waiting[name].add(votes)

    @torch.no_grad()
    def votes(self, copies: Any, names: Iterable[str]) -> dict[str, NDArray[np.int64]]:
        """Return the class that each of some heads gives each copy, shape (copies,).

        Raises:
            FloatingPointError: a logit is not a finite number.
        """
        features = self.features(copies)
        votes = {}
        for name in names:
            logits = self.heads[name](features)
            if not bool(torch.isfinite(logits).all()):
                raise FloatingPointError("the model's logits of a noisy copy are not finite numbers")
            votes[name] = logits.argmax(dim=-1).cpu().numpy()
        return votes


class TextVoter(Voter):
    """Vote on texts with words deleted or masked; copies are batched by length, so that little is padding.

    Args:
        network: has ``features(**inputs)``, as ours do; of any other classifier the logits are the features.
        tokens: of its tokenizer.
        noise, heads, seed: as for `Voter`.
        batch_size: copies of ``tokens.max_length`` tokens per forward pass; of shorter ones as many more as have their
            tokens. By default 2,048 tokens on a CPU and 65,536 elsewhere.
    """

    unit = "text"

    def __init__(
        self, network: nn.Module, tokens: WordTokens, noise: Noise, heads: Mapping[str, Head], seed: int,
        batch_size: int | None,
    ):  # fmt: skip
        super().__init__(noise, heads, seed)
        self.network: Any = network
        self.tokens = tokens
        self.device = next(network.parameters()).device
        self.batch_tokens = 2**11 if self.device.type == "cpu" else 2**16
        if batch_size is not None:
            self.batch_tokens = batch_size * tokens.max_length

    def prepare(self, raw: str) -> list[str]:
        """Return the words of a text."""
        return clean_text(raw).split()

    def copies(self, example: list[str], key: int) -> Callable[[int], list[list[int]]]:
        """Return a function that draws the token ids of the next noisy copies."""
        generator = np.random.default_rng([self.seed, key])

        def draw(copies: int) -> list[list[int]]:
            return self.tokens.noisy(example, draw_kept(self.noise, len(example), copies, generator), self.noise)

        return draw

    def features(self, copies: list[list[int]]) -> Tensor:
        """Return features (copies, feature_size) of token ids."""
        order = sorted(range(len(copies)), key=lambda place: len(copies[place]), reverse=True)
        parts = [part for batch in self._batches(copies, order) for part in self._forward(copies, batch)]
        features = torch.cat(parts)
        return features[torch.tensor(np.argsort(order), device=features.device)]

    def radius(self, p_lower: float, example: list[str]) -> float:
        """Return the certified number of word edits (of masking, substitutions), or -1."""
        if self.noise.kind == "delete":
            return deletion_radius(p_lower, self.noise.level)
        kept = int(draw_kept(self.noise, len(example), 1, np.random.default_rng(0)).sum())
        return masking_radius(p_lower, len(example), kept) if example else (0 if p_lower > 0.5 else -1)

    def size(self, example: list[str]) -> dict[str, int]:
        """Return the number of words."""
        return {"words": len(example)}

    def _batches(self, copies: list[list[int]], order: list[int]) -> Iterator[list[int]]:
        start = 0
        while start < len(order):
            rows = max(1, self.batch_tokens // len(copies[order[start]]))
            if self.tokens.tokenizer.pad_token_id is None:
                rows = 1
            yield order[start : start + rows]
            start += rows

    def _forward(self, copies: list[list[int]], batch: list[int]) -> list[Tensor]:
        tokenizer = self.tokens.tokenizer

        def forward(rows: slice) -> Tensor:
            inputs = pad_tokens(
                [self.tokens.columns(copies[place]) for place in batch[rows]],
                pad_token_id=tokenizer.pad_token_id,
                pad_token_type_id=tokenizer.pad_token_type_id,
                side=tokenizer.padding_side,
            )
            inputs = {name: values.to(self.device) for name, values in inputs.items()}
            with self.kernels:
                return _features(self.network, inputs)

        parts = halving(forward, len(batch), "texts")
        self.batch_tokens = max(1, self.batch_tokens // len(parts))
        return parts


class ImageVoter(Voter):
    """Vote on images with Gaussian noise, added to the pixels that the model sees and not clipped.

    Args:
        pixels: the classifier of [0, 1] pixels.
        noise, heads, seed: as for `Voter`.
        batch_size: copies per forward pass; by default 64 on a CPU and 1,024 elsewhere.
    """

    unit = "image"

    def __init__(
        self, pixels: PixelModel, noise: Noise, heads: Mapping[str, Head], seed: int, batch_size: int | None,
    ):  # fmt: skip
        super().__init__(noise, heads, seed)
        self.pixels = pixels
        self.device = pixels.mean.device
        self.batch_size = batch_size or (64 if self.device.type == "cpu" else 1024)

    def prepare(self, raw: Any) -> Tensor:
        """Return pixels (channels, height, width) in [0, 1]."""
        return self.pixels.read(raw).to(self.device)

    def copies(self, example: Tensor, key: int) -> Callable[[int], Tensor]:
        """Return a function that draws the next noisy copies (copies, channels, height, width)."""
        state = int(np.random.SeedSequence([self.seed, key]).generate_state(1, np.uint64)[0]) >> 1
        generator = torch.Generator(self.device).manual_seed(state)
        return lambda copies: noisy_pixels(example, self.noise, copies, generator)

    def features(self, copies: Tensor) -> Tensor:
        """Return features (copies, feature_size) of pixels (copies, channels, height, width)."""

        def forward(batch: Tensor, rows: slice) -> Tensor:
            with self.kernels:
                if not hasattr(self.pixels.model, "features"):
                    logits: Tensor = self.pixels(batch[rows])
                    return logits
                inputs = ((batch[rows] - self.pixels.mean) / self.pixels.std).to(self.pixels.dtype)
                return _features(self.pixels.model, {"pixel_values": inputs})

        parts = []
        for batch in copies.split(self.batch_size):
            parts += halving(lambda rows, batch=batch: forward(batch, rows), len(batch), "images")  # type: ignore[misc]
        return torch.cat(parts)

    def radius(self, p_lower: float, example: Tensor) -> float:
        """Return the certified L2 norm, or -1."""
        return gaussian_radius(p_lower, self.noise.level)


def make_voter(
    loaded: LoadedClassifier, smoothing: Smoothing, heads: Mapping[str, Head], seed: int, max_length: int | None = None,
    batch_size: int | None = None,
) -> tuple[Voter, dict[str, object]]:  # fmt: skip
    """Return what votes on texts or images under a noise, and the settings of its medium.

    Args:
        loaded: the network and its tokenizer or image processor.
        smoothing: with the noise.
        heads: by name, from features to logits.
        seed: of the copies.
        max_length: tokens that a noisy copy is cut to; by default the limit of tokenizer and model.
        batch_size: copies per forward pass, see `TextVoter` and `ImageVoter`.
    """
    if smoothing.noise.medium == "image":
        pixels = PixelModel(loaded.network, loaded.processor)
        return ImageVoter(pixels, smoothing.noise, heads, seed, batch_size), {}
    length = max_text_length(loaded.processor, loaded.network, max_length)
    tokens = WordTokens(loaded.processor, length)
    voter = TextVoter(loaded.network, tokens, smoothing.noise, heads, seed, batch_size)
    return voter, {"max_length": length, "by_word": tokens.by_word}


def as_head(module: nn.Module | None) -> Head:
    """Return a head from features to logits in float32, without noise of its own; None for features that are logits."""
    if module is None:
        return lambda features: features.float()
    options = {"num_samples": 0} if "num_samples" in inspect.signature(module.forward).parameters else {}

    def head(features: Tensor) -> Tensor:
        output = module(at_least_float32(features), **options)
        logits: Tensor = getattr(output, "logits", output)
        return logits.float()

    return head


def _features(network: Any, inputs: dict[str, Tensor]) -> Tensor:
    features: Tensor = network.features(**inputs) if hasattr(network, "features") else network(**inputs).logits
    return features
