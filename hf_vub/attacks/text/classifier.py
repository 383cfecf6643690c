"""Texts as tokens in batches without waste, and classifiers that answer queries of texts: the ground attacks stand on.

An attack asks for the same tokens again and again: words beyond the model's length, words that the tokenizer does not
know, the text it started from. Features are therefore computed once per sequence of tokens, in batches sorted by
length, padded no further than to their longest text, and shared by all heads on one backbone.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from ...compute.kernels import FastKernels
from ...model.information import at_least_float32

_NO_LIMIT = 1_000_000  # a tokenizer that knows no limit says 1e30
_DEFAULT_LENGTH = 512  # of TextAttack's own wrapper, for such a tokenizer


class TokenFeatures:
    """Features of texts from one frozen backbone, remembered by tokens until ``clear``.

    Args:
        model: has ``features(**inputs)``, as ours do; of any other classifier the logits are the features.
        tokenizer: of the model.
        max_length: tokens that a text is cut to, as in training; by default what tokenizer and model say.
        batch_size: texts of ``max_length`` tokens per forward pass; of shorter ones as many more as have their tokens.
            By default what has 2,048 tokens on a CPU, whose cache they should not leave, and 16,384 elsewhere.
        limit: texts remembered; more are forgotten all at once.

    Raises:
        ValueError: for a length or batch size that cannot be.
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
        self.max_length = _max_length(model, tokenizer, max_length)
        self.batch_tokens = 2**11 if next(model.parameters()).device.type == "cpu" else 2**14
        if batch_size is not None:
            self.batch_tokens = batch_size * self.max_length
        self.limit = limit
        self.computed = 0  # texts that went through the backbone
        self._kernels = FastKernels()
        self._keys: dict[str, bytes] = {}
        self._rows: dict[bytes, Tensor] = {}
        self._names: tuple[str, ...] = ("input_ids",)
        candidates = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
        self._blank = next((token for token in candidates if token is not None), 0)

    def clear(self) -> None:
        """Forget every text."""
        self._keys.clear()
        self._rows.clear()

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """One key per text: its token ids (and token types), so that equal keys are equal inputs of the model."""
        new = list(dict.fromkeys(text for text in texts if text not in self._keys))
        if len(self._keys) + len(new) > self.limit:
            self._keys.clear()
            new = list(dict.fromkeys(texts))
        if new:
            encoded = self.tokenizer(
                new, truncation=True, max_length=self.max_length, padding=False, return_attention_mask=False
            )
            self._names = tuple(encoded.keys())
            columns = (encoded[name] for name in self._names)
            for text, *values in zip(new, *columns, strict=True):
                if not values[0]:  # a model cannot read nothing
                    values = [[self._blank if name == "input_ids" else 0] for name in self._names]
                self._keys[text] = np.array(values, dtype=np.int32).tobytes()
        return [self._keys[text] for text in texts]

    def collate(self, keys: Sequence[bytes]) -> dict[str, Tensor]:
        """Model inputs (rows, longest) with their attention mask, on the model's device."""
        rows = [self._decode(key) for key in keys]
        longest = max(row.shape[1] for row in rows)
        padding = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        shape = (len(rows), longest)
        inputs = {name: np.full(shape, padding.get(name) or 0, dtype=np.int64) for name in self._names}
        inputs["attention_mask"] = np.zeros(shape, dtype=np.int64)
        for place, row in enumerate(rows):
            width = row.shape[1]
            cells = slice(longest - width, longest) if self.tokenizer.padding_side == "left" else slice(0, width)
            inputs["attention_mask"][place, cells] = 1
            for name, values in zip(self._names, row, strict=True):
                inputs[name][place, cells] = values
        device = next(self.model.parameters()).device
        return {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}

    def token_ids(self, key: bytes) -> list[int]:
        """The token ids behind a key."""
        ids: list[int] = self._decode(key)[self._names.index("input_ids")].tolist()
        return ids

    def run(self, inputs: dict[str, Tensor]) -> Tensor:
        """Features (rows, feature_size) of model inputs, with gradients where they are on."""
        if hasattr(self.model, "features"):
            found: Tensor = self.model.features(**inputs)
        else:
            found = self.model(**inputs).logits
        return found

    def __call__(self, keys: Sequence[bytes]) -> Tensor:
        """Features (texts, feature_size) of encoded texts, in their order."""
        new = list(dict.fromkeys(key for key in keys if key not in self._rows))
        if len(self._rows) + len(new) > self.limit:
            self._rows = {key: self._rows[key] for key in keys if key in self._rows}
        with torch.no_grad():
            for batch in self._batches(new):
                self._rows.update(zip(batch, self._forward(batch).unbind(), strict=True))
        return torch.stack([self._rows[key] for key in keys])

    def _decode(self, key: bytes) -> np.ndarray:
        return np.frombuffer(key, dtype=np.int32).reshape(len(self._names), -1)

    def _batches(self, keys: list[bytes]) -> Iterator[list[bytes]]:
        """Batches of at most ``batch_tokens`` tokens, the longest texts first: what fails, fails at once."""
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
        """Features of one batch, in halves where it does not fit into memory."""
        try:
            with self._kernels:
                features = self.run(self.collate(keys))
            self.computed += len(keys)
            return features
        except RuntimeError as error:
            if len(keys) == 1 or not should_reduce_batch_size(error):
                raise
        half = len(keys) // 2
        self.batch_tokens //= 2
        return torch.cat([self._forward(keys[:half]), self._forward(keys[half:])])


class TextClassifier:
    """Texts to logits: the declared predictor of one head over shared features, as TextAttack wants its models.

    Args:
        features: of the backbone, shared by any number of heads.
        head: what maps features to logits (or to an output with ``logits``); None takes ``model.head``, and of a stock
            classifier the features as they are.
        draws: of the head's noise per query: 0 for the mean, k for the average of k fresh draws.

    Raises:
        ValueError: draws are wanted of a head that has none.

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
        self._known: dict[bytes, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Logits (texts, classes), float32 on the CPU; of the mean predictor equal tokens have equal ones, bit by bit.

        Raises:
            FloatingPointError: a logit is not a finite number.
        """
        keys = self.features.encode(texts)
        if self.draws:
            return self._logits(keys)
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        if len(self._known) + len(new) > self.features.limit:
            self._known.clear()
            new = list(dict.fromkeys(keys))
        if new:
            self._known.update(zip(new, self._logits(new).unbind(), strict=True))
        return torch.stack([self._known[key] for key in keys])

    def clear(self) -> None:
        """Forget the answers given so far."""
        self._known.clear()

    def get_grad(self, text: str) -> dict[str, Any]:
        """Gradient of the predicted class's cross-entropy with respect to the embedding of each token.

        Returns:
            ``ids``, the token ids, and ``gradient``, an array (tokens, embedding size): TextAttack's gradient recipes
            rank words by it.
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
        """Tokens as strings, which TextAttack aligns with words."""
        keys = self.features.encode(texts)
        return [self.tokenizer.convert_ids_to_tokens(self.features.token_ids(key)) for key in keys]

    def _apply(self, features: Tensor) -> Tensor:
        if self.head is None:
            return features.float()
        features = at_least_float32(features)  # any head may follow a backbone in bfloat16
        output = self.head(features, num_samples=self.draws) if self._takes_draws else self.head(features)
        logits: Tensor = getattr(output, "logits", output)
        return logits.float()

    def _logits(self, keys: Sequence[bytes]) -> Tensor:
        features = self.features(keys)
        with torch.no_grad():
            logits = self._apply(features).cpu()
        if not bool(torch.isfinite(logits).all()):
            raise FloatingPointError("the model's logits are not finite numbers")
        return logits


def _max_length(model: nn.Module, tokenizer: Any, wanted: int | None) -> int:
    """Tokens that a text is cut to: what is asked for, or the least of what tokenizer and model can take."""
    config: Any = getattr(model, "config", None)
    config = getattr(config, "backbone_config", None) or config
    positions = getattr(config, "max_position_embeddings", None)
    if wanted is None:
        stated = tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else _DEFAULT_LENGTH
        wanted = min(stated, positions) if isinstance(positions, int) and positions > 0 else stated
    elif wanted < 1:
        raise ValueError(f"max_length must be at least 1, but is {wanted}")
    elif isinstance(positions, int) and 0 < positions < wanted:
        raise ValueError(f"max_length is {wanted}, but the model has positions for {positions} tokens only")
    return int(wanted)
