"""Text classifiers that answer an attack's queries: equal tokens are computed once, in batches without waste.

An attack asks for the same tokens again and again: words beyond the model's length, words that the tokenizer does not
know, the text it started from. Features are therefore computed once per sequence of tokens, in batches sorted by
length, padded no further than to their longest text, and shared by all heads on one backbone.
"""

import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...compute.kernels import FastKernels
from ...compute.memory import halving
from ...data.preprocessing import encode_texts, max_text_length, pad_tokens
from ...model.information import at_least_float32

REMEMBERED_BYTES = 2**28
"""Bytes of texts with their tokens that are remembered at most."""


class TokenFeatures:
    """Compute features of texts with one frozen backbone, and remember them by tokens until ``clear``.

    Args:
        model: has ``features(**inputs)``, as ours do; of any other classifier the logits are the features.
        tokenizer: of the model.
        max_length: tokens that a text is cut to, as in training; see `max_text_length`.
        batch_size: texts of ``max_length`` tokens per forward pass; of shorter ones as many more as have their tokens.
            By default 2,048 tokens on a CPU, which fit into its cache, and 16,384 elsewhere.
        limit: texts remembered, of at most `REMEMBERED_BYTES`; beyond it all are forgotten.

    Attributes:
        second: the second text of every pair; None where the model takes single texts.
        computed: texts that went through the backbone.

    Raises:
        ValueError: the length or batch size is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        max_length: int | None = None,
        batch_size: int | None = None,
        limit: int = 2**16,
    ):
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, but is {batch_size}")
        self.model: Any = model
        self.tokenizer = tokenizer
        self.max_length = max_text_length(tokenizer, model, max_length)
        self.batch_tokens = 2**11 if next(model.parameters()).device.type == "cpu" else 2**14
        if batch_size is not None:
            self.batch_tokens = batch_size * self.max_length
        self.limit = limit
        self.second: str | None = None
        self.computed = 0
        self._kernels = FastKernels()
        self._keys: dict[str, bytes] = {}
        self._rows: dict[bytes, Tensor] = {}
        self._key_bytes = 0
        self._names: tuple[str, ...] = ("input_ids",)

    def clear(self) -> None:
        """Forget every text."""
        self._forget_keys()
        self._rows.clear()

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Return one key per text: its token ids (and token types), so that equal keys are equal model inputs."""
        new = list(dict.fromkeys(text for text in texts if text not in self._keys))
        if len(self._keys) + len(new) > self.limit or self._key_bytes > REMEMBERED_BYTES:
            self._forget_keys()
            new = list(dict.fromkeys(texts))
        if new:
            pairs = None if self.second is None else [self.second] * len(new)
            encoded = encode_texts(self.tokenizer, new, self.max_length, pairs=pairs, attention_mask=False)
            self._names = tuple(encoded)
            for text, *values in zip(new, *encoded.values(), strict=True):
                key = np.array(values, dtype=np.int32).tobytes()
                self._keys[text] = key
                self._key_bytes += sys.getsizeof(text) + sys.getsizeof(key)
        return [self._keys[text] for text in texts]

    def collate(self, keys: Sequence[bytes]) -> dict[str, Tensor]:
        """Return model inputs (rows, longest) with their attention mask, on the model's device."""
        batch = pad_tokens(
            [dict(zip(self._names, self._decode(key), strict=True)) for key in keys],
            pad_token_id=self.tokenizer.pad_token_id,
            pad_token_type_id=self.tokenizer.pad_token_type_id,
            side=self.tokenizer.padding_side,
        )
        device = next(self.model.parameters()).device
        return {name: values.to(device) for name, values in batch.items()}

    def token_ids(self, key: bytes) -> list[int]:
        """Return the token ids of a key."""
        ids: list[int] = self._decode(key)[self._names.index("input_ids")].tolist()
        return ids

    def run(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return features (rows, feature_size) of model inputs; gradients flow where they are enabled."""
        features: Tensor = (
            self.model.features(**inputs) if hasattr(self.model, "features") else self.model(**inputs).logits
        )
        return features

    def __call__(self, keys: Sequence[bytes]) -> Tensor:
        """Return features (texts, feature_size) of encoded texts, in their order."""
        new = list(dict.fromkeys(key for key in keys if key not in self._rows))
        if len(self._rows) + len(new) > self.limit:
            self._rows = {key: self._rows[key] for key in keys if key in self._rows}
        with torch.no_grad():
            for batch in self._batches(new):
                self._rows.update(zip(batch, self._forward(batch).unbind(), strict=True))
        return torch.stack([self._rows[key] for key in keys])

    def _forget_keys(self) -> None:
        self._keys.clear()
        self._key_bytes = 0

    def _decode(self, key: bytes) -> NDArray[np.int32]:
        return np.frombuffer(key, dtype=np.int32).reshape(len(self._names), -1)

    def _batches(self, keys: list[bytes]) -> Iterator[list[bytes]]:
        """Yield batches of at most ``batch_tokens`` tokens, the longest texts first, so that failures come early."""
        keys = sorted(keys, key=len, reverse=True)
        start = 0
        while start < len(keys):
            longest = self._decode(keys[start]).shape[1]
            rows = max(1, self.batch_tokens // longest)
            if self.tokenizer.pad_token_id is None:
                rows = 1
            yield keys[start : start + rows]
            start += rows

    def _forward(self, keys: list[bytes]) -> Tensor:
        """Return the features of one batch; if it does not fit into memory, halve it and all later ones."""

        def forward(rows: slice) -> Tensor:
            with self._kernels:
                return self.run(self.collate(keys[rows]))

        parts = halving(forward, len(keys), "texts")
        self.computed += len(keys)
        self.batch_tokens = max(1, self.batch_tokens // len(parts))
        return torch.cat(parts)


class TextClassifier:
    """Map texts to logits: the declared predictor of one head over shared features, in the form TextAttack expects.

    Args:
        features: of the backbone, shared by any number of heads.
        head: maps features to logits (or to an output with ``logits``); None takes ``model.head``; a stock classifier's
            features are its logits.
        draws: draws of the head's noise per query: 0 for the mean, k for the average of k fresh draws.

    Raises:
        ValueError: draws are asked of a head without noise.

    Example:
        >>> classifier = TextClassifier(TokenFeatures(model, tokenizer))  # doctest: +SKIP
        >>> classifier(["a fine film", "a waste of time"]).shape  # doctest: +SKIP
        torch.Size([2, 2])
    """

    def __init__(self, features: TokenFeatures, head: nn.Module | None = None, draws: int = 0):
        self.features = features
        self.model = features.model
        self.tokenizer = features.tokenizer
        self.head = head if head is not None else getattr(features.model, "head", None)
        if not hasattr(features.model, "features"):
            self.head = head  # some stock classifier may call a part of itself "head"
        self.draws = draws
        parameters = () if self.head is None else inspect.signature(self.head.forward).parameters
        self._takes_draws = "num_samples" in parameters
        if draws and not self._takes_draws:
            kind = type(self.model if self.head is None else self.head).__name__
            raise ValueError(f"noise asks for {draws} draws, but {kind} has no noise: use noise='mean'")
        self._answers: dict[bytes, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return logits (texts, classes), float32 on the CPU; the mean predictor gives equal tokens equal bits.

        Raises:
            FloatingPointError: a logit is not a finite number.
        """
        keys = self.features.encode(texts)
        if self.draws:
            return self.of_keys(keys)
        new = list(dict.fromkeys(key for key in keys if key not in self._answers))
        if len(self._answers) + len(new) > self.features.limit:
            self._answers.clear()
            new = list(dict.fromkeys(keys))
        if new:
            self._answers.update(zip(new, self.of_keys(new).unbind(), strict=True))
        return torch.stack([self._answers[key] for key in keys])

    def clear(self) -> None:
        """Forget the answers given so far."""
        self._answers.clear()

    def get_grad(self, text: str) -> dict[str, Any]:
        """Return the gradient of the predicted class's cross-entropy with respect to the embedding of each token.

        Returns:
            ``ids``, the token ids, and ``gradient``, an array (tokens, embedding size), by which TextAttack's gradient
            recipes rank words.
        """
        (key,) = self.features.encode([text])
        embedded: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            embedded.append(output.detach().requires_grad_())
            return embedded[-1]

        hook = self.model.get_input_embeddings().register_forward_hook(keep)  # type: ignore[operator]
        try:
            with torch.enable_grad():
                logits = self._apply(self.features.run(self.features.collate([key])))
                loss = nn.functional.cross_entropy(logits, logits.argmax(dim=-1))
                (gradient,) = torch.autograd.grad(loss, embedded[0])
        finally:
            hook.remove()
        return {"ids": self.features.token_ids(key), "gradient": gradient[0].float().cpu().numpy()}

    def _tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return tokens as strings, which TextAttack aligns with words."""
        keys = self.features.encode(texts)
        return [self.tokenizer.convert_ids_to_tokens(self.features.token_ids(key)) for key in keys]

    def _apply(self, features: Tensor) -> Tensor:
        if self.head is None:
            return features.float()
        features = at_least_float32(features)  # any head may follow a backbone in bfloat16
        output = self.head(features, num_samples=self.draws) if self._takes_draws else self.head(features)
        logits: Tensor = getattr(output, "logits", output)
        return logits.float()

    def of_keys(self, keys: Sequence[bytes]) -> Tensor:
        """Return logits (texts, classes) of encoded texts, float32 on the CPU."""
        features = self.features(keys)
        with torch.no_grad():
            logits = self._apply(features).cpu()
        if not bool(torch.isfinite(logits).all()):
            raise FloatingPointError("the model's logits are not finite numbers")
        return logits
