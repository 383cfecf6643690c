"""Classifiers and data to measure on; unless named, they are made here, and as fast as real ones."""

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_vub import VUBForSequenceClassification
from hf_vub.compute.precision import compute_dtype
from hf_vub.data import synthetic
from hf_vub.data.splits import load_splits
from hf_vub.model.loading import load_classifier

_IMDB_MEDIAN_WORDS, _IMDB_SPREAD = 174, 0.6  # spread of the logarithm: the mean is near 210, one in ten is over 370
_INITIALIZER_RANGE = 0.1  # at BERT's 0.02 a word changes the logits by little more than rounding errors

Sample = tuple[list[str], list[int]]
"""Texts, and the classes that the stock classifier gives them."""


@dataclass
class TextVictim:
    """A stock text classifier, a VUB classifier over the same backbone weights, and texts.

    Attributes:
        stock: ``...ForSequenceClassification``, in evaluation mode.
        vub: the same backbone with a fresh head.
        tokenizer: tokenizer of both.
        texts: long reviews.
        labels: their classes.
        max_length: tokens that a text is cut to.
    """

    stock: Any
    vub: Any
    tokenizer: Any
    texts: list[str]
    labels: list[int]
    max_length: int

    @property
    def device(self) -> torch.device:
        """The device of the models."""
        return next(self.stock.parameters()).device

    @property
    def fast_dtype(self) -> str:
        """The dtype in which features are extracted on this machine."""
        return str(compute_dtype("auto", self.device)).removeprefix("torch.")

    def tokens(self, texts: Sequence[str]) -> int:
        """Count the tokens of texts, padding excluded."""
        return sum(map(len, self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]))

    def batches(self, texts: Sequence[str], most_tokens: int) -> list[Any]:
        """Return model inputs of texts sorted by length, with at most that many tokens in a batch."""
        rows = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)
        order = sorted(range(len(texts)), key=lambda row: -len(rows["input_ids"][row]))
        batches = []
        while order:
            size = max(1, most_tokens // len(rows["input_ids"][order[0]]))
            chosen, order = order[:size], order[size:]
            batch = {name: [values[row] for row in chosen] for name, values in rows.items()}
            batches.append(self.tokenizer.pad(batch, return_tensors="pt").to(self.device))
        return batches

    @contextlib.contextmanager
    def backbone_in(self, dtype: str) -> Iterator[Any]:
        """Give the VUB model, or a copy of it with its backbone in another dtype."""
        if dtype == "float32":
            yield self.vub
        else:
            model = copy.deepcopy(self.vub)
            model.backbone.to(getattr(torch, dtype))
            yield model

    @contextlib.contextmanager
    def weights_restored(self) -> Iterator[None]:
        """Restore the weights and modes after the block."""
        models = (self.stock, self.vub)
        before = [copy.deepcopy(model.state_dict()) for model in models]
        try:
            yield
        finally:
            for model, state in zip(models, before, strict=True):
                model.load_state_dict(state)
                model.eval()
                model.zero_grad(set_to_none=True)

    def probe(self, features: Tensor) -> float:
        """Fit a linear probe on the first half of the texts' features; return its accuracy on the second half."""
        half = len(features) // 2
        labels = torch.tensor(self.labels)
        weight, bias = _ridge_probe(features[:half], labels[:half], 2)
        return float(((features[half:].double() @ weight.T + bias).argmax(1) == labels[half:]).double().mean())

    def spread(self, number: int) -> Sample:
        """Return texts whose lengths represent all texts: one from the middle of each of that many equal parts."""
        ordered = sorted(self.texts, key=len)
        part = len(ordered) / number
        near = [ordered[max(0, int((place + 0.5) * part) - 4) :][:8] for place in range(number)]
        chosen = [self._clearest(texts, 1) for texts in near]
        return [texts[0] for texts, _ in chosen], [labels[0] for _, labels in chosen]

    def longest(self, number: int) -> Sample:
        """Return some of the longest texts."""
        return self._clearest(sorted(self.texts, key=len)[-8 * number :], number)

    def of_length(self, words: int, number: int) -> Sample:
        """Return texts of that many words."""
        stream = " ".join(self.texts).split()
        places = range(min(8 * number, len(stream) // words))
        return self._clearest([" ".join(stream[place * words : (place + 1) * words]) for place in places], number)

    @torch.no_grad()
    def _clearest(self, texts: list[str], number: int) -> Sample:
        """Return the texts with the largest margins in float32 among those with the same class in bfloat16."""
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        logits = self.stock(**inputs).logits
        rounded = copy.deepcopy(self.stock).to(torch.bfloat16)(**inputs).logits
        first, second = logits.topk(2).values.unbind(1)
        margins = torch.where(rounded.argmax(1) == logits.argmax(1), first - second, -1.0)
        clearest = margins.topk(min(number, len(texts))).indices.tolist()
        return [texts[place] for place in clearest], logits.argmax(1)[clearest].tolist()


def text_victim(model: str | None, dataset: str | None, rows: int, tiny: bool, device: torch.device) -> TextVictim:
    """Return a text classifier and texts for it.

    Args:
        model: folder or Hub id; None for random weights of MiniLM's shape (6 layers of 384) under a fitted last layer.
        dataset: name or path for ``hf_vub.data.splits``; None for generated reviews as long as IMDB's.
        rows: number of texts.
        tiny: take a small random model and short texts.
        device: device of the models.
    """
    if dataset is None:
        texts, labels = _long_reviews(rows, tiny)
    else:
        split = load_splits(dataset)["test"].shuffle(seed=0).select(range(rows))
        texts, labels = split["text"][:], split["label"][:]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = None
        if model is None:
            tokenizer = synthetic.word_tokenizer(texts)
            _random_classifier(len(tokenizer), tiny).save_pretrained(folder)
        loaded = load_classifier(model or folder, "text", processor=tokenizer)
        stock: Any = loaded.network.to(device).eval()
        vub = VUBForSequenceClassification.from_pretrained(model or folder).to(device).eval()
    positions = getattr(stock.config, "max_position_embeddings", 512)
    limit = min(loaded.processor.model_max_length, positions, 512)
    victim = TextVictim(stock, vub, loaded.processor, texts, labels, limit)
    if model is None:
        _fit_classifier(victim)
    return victim


def _random_classifier(vocabulary: int, tiny: bool) -> nn.Module:
    from transformers import AutoModelForSequenceClassification, BertConfig

    hidden, layers, attention_heads, inner = (32, 2, 2, 64) if tiny else (384, 6, 12, 1536)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=attention_heads,
        intermediate_size=inner,
        num_labels=2,
        initializer_range=_INITIALIZER_RANGE,
    )
    return AutoModelForSequenceClassification.from_config(config)


@torch.no_grad()
def _fit_classifier(victim: TextVictim) -> None:
    """Fit the last layer of the stock classifier on the first 64 texts."""
    texts = victim.texts[:64]
    features = torch.cat([victim.vub.features(**batch) for batch in victim.batches(texts, 2048)])
    order = sorted(range(len(texts)), key=lambda row: -victim.tokens([texts[row]]))  # the order of the batches
    weight, bias = _ridge_probe(features.cpu(), torch.tensor(victim.labels)[order], 2)
    victim.stock.classifier.weight.copy_(weight)
    victim.stock.classifier.bias.copy_(bias)


def image_victim(number: int, device: torch.device) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Train a small residual network on the digits.

    Returns:
        The network, pixels (number, 3, 32, 32) in [0, 1], the classes to reach and the classes the network predicts.
    """
    from transformers import AutoModelForImageClassification, ResNetConfig

    data = synthetic.digits()["train"]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in data["image"]])).permute(0, 3, 1, 2) / 255
    pixels, labels = pixels.to(device), torch.tensor(data["label"][:], device=device)
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic", num_labels=10)
    network = AutoModelForImageClassification.from_config(config).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for chosen in torch.randperm(len(labels)).to(device).split(64):
        loss = nn.functional.cross_entropy(network(pixels[chosen]).logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        predicted = network(pixels[:number]).logits.argmax(1)
    return network, pixels[:number], (predicted + 1) % 10, predicted


def _long_reviews(rows: int, short: bool) -> tuple[list[str], list[int]]:
    """Return generated reviews of many sentences of one sentiment, with lengths distributed like IMDB's."""
    rng = np.random.default_rng(0)
    median = 20 if short else _IMDB_MEDIAN_WORDS
    lengths = np.exp(rng.normal(np.log(median), _IMDB_SPREAD, rows)).astype(int)
    # A sentence has more than six words on average, so these suffice.
    sentences = synthetic.reviews(num_train=max(64, int(lengths.sum()) // 6))["train"]
    pools = {
        label: iter([text for text, own in zip(sentences["text"], sentences["label"], strict=True) if own == label])
        for label in (0, 1)
    }
    texts, labels = [], []
    for row, length in enumerate(lengths):
        words: list[str] = []
        while len(words) < length:
            words += next(pools[row % 2]).split()
        texts.append(" ".join(words[: max(8, length)]))
        labels.append(row % 2)
    return texts, labels


def _ridge_probe(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weight (classes, feature_size) and bias (classes,) of a ridge regression on the classes, in float64."""
    features = features.double()
    center = features.mean(0)
    centered = features - center
    ridge = 1e-2 * centered.square().sum(1).mean() * torch.eye(features.shape[1], dtype=torch.float64)
    one_hot = nn.functional.one_hot(labels, classes).double()
    weight = torch.linalg.solve(centered.T @ centered + ridge, centered.T @ (one_hot - one_hot.mean(0))).T
    return weight, one_hot.mean(0) - weight @ center
