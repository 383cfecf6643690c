"""Classifiers and data to measure on, made here and now where none are named: their speed is that of real ones."""

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_vub.compute.precision import compute_dtype
from hf_vub.data import synthetic
from hf_vub.data.splits import load_splits
from hf_vub.model.modeling_vub import VUBForSequenceClassification
from hf_vub.model.trust import load

_IMDB_MEDIAN_WORDS, _IMDB_SPREAD = 174, 0.6  # of the logarithm: the mean is near 210, one in ten is over 370
_LIVELY = 0.1  # at BERT's 0.02 a word moves the logits by little more than rounding, and attacks go by rounding


@dataclass
class TextVictim:
    """A stock text classifier, a VUB classifier over the same backbone weights, and texts.

    Attributes:
        stock: ``...ForSequenceClassification``, in evaluation mode.
        vub: the same backbone with a fresh head.
        tokenizer: of both.
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
        """Where the models are."""
        return next(self.stock.parameters()).device

    @property
    def fast_dtype(self) -> str:
        """The arithmetic that features are extracted in on this machine."""
        return str(compute_dtype("auto", self.device)).removeprefix("torch.")

    def tokens(self, texts: Sequence[str]) -> int:
        """Useful tokens in texts, padding not counted."""
        return sum(map(len, self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]))

    def batches(self, texts: Sequence[str], most_tokens: int) -> list[Any]:
        """Model inputs of texts sorted by length, at most so many tokens in a batch."""
        rows = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)
        order = sorted(range(len(texts)), key=lambda row: -len(rows["input_ids"][row]))
        found = []
        while order:
            together = max(1, most_tokens // len(rows["input_ids"][order[0]]))
            chosen, order = order[:together], order[together:]
            batch = {name: [values[row] for row in chosen] for name, values in rows.items()}
            found.append(self.tokenizer.pad(batch, return_tensors="pt").to(self.device))
        return found

    @contextlib.contextmanager
    def backbone_in(self, dtype: str) -> Iterator[Any]:
        """The VUB model, or a copy of it with its backbone in another dtype."""
        if dtype == "float32":
            yield self.vub
        else:
            fast = copy.deepcopy(self.vub)
            fast.backbone.to(getattr(torch, dtype))
            yield fast

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Put the weights and modes back after the block."""
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
        """Accuracy of a linear probe, fitted on the first half of the texts' features, on the second half."""
        half = len(features) // 2
        labels = torch.tensor(self.labels)
        weight, bias = _linear_probe(features[:half], labels[:half], 2)
        return float(((features[half:].double() @ weight.T + bias).argmax(1) == labels[half:]).double().mean())

    def spread(self, number: int) -> tuple[list[str], list[int]]:
        """Texts whose lengths stand for all, one from the middle of each of so many equal parts, likewise."""
        ordered = sorted(self.texts, key=len)
        part = len(ordered) / number
        near = [ordered[max(0, int((place + 0.5) * part) - 4) :][:8] for place in range(number)]
        chosen = [self._judged(texts, 1) for texts in near]
        return [texts[0] for texts, _ in chosen], [labels[0] for _, labels in chosen]

    def longest(self, number: int) -> tuple[list[str], list[int]]:
        """Some of the longest texts, with the classes that the stock model gives them."""
        return self._judged(sorted(self.texts, key=len)[-8 * number :], number)

    def sentences(self, number: int) -> tuple[list[str], list[int]]:
        """Texts of one sentence, likewise."""
        return self.of_length(20, number)

    def of_length(self, words: int, number: int) -> tuple[list[str], list[int]]:
        """Texts of so many words, likewise."""
        stream = " ".join(self.texts).split()
        places = range(min(8 * number, len(stream) // words))
        texts = [" ".join(stream[place * words : (place + 1) * words]) for place in places]
        return self._judged(texts, number)

    @torch.no_grad()
    def _judged(self, texts: list[str], number: int) -> tuple[list[str], list[int]]:
        """Those whose class is the clearest in float32 and the same in bfloat16: an attack wants texts read rightly."""
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
    """A text classifier and texts for it.

    Args:
        model: folder or Hub id; None for random weights of MiniLM's shape (6 layers of 384) under a fitted last layer.
        dataset: for ``hf_vub.data.splits``; None for generated reviews as long as IMDB's.
        rows: texts.
        tiny: a small random model, and short texts.
        device: where to put the models.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

    if dataset is None:
        texts, labels = _long_reviews(rows, tiny)
    else:
        split = load_splits(dataset)["test"].shuffle(seed=0).select(range(rows))
        texts, labels = split["text"][:], split["label"][:]
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            tokenizer = synthetic.word_tokenizer(texts)
            shape = (32, 2, 2, 64) if tiny else (384, 6, 12, 1536)
            hidden, layers, attention_heads, inner = shape
            torch.manual_seed(0)
            config = BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=attention_heads,
                intermediate_size=inner,
                num_labels=2,
                initializer_range=_LIVELY,
            )
            AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        else:
            tokenizer = load(AutoTokenizer, model)
        stock = load(AutoModelForSequenceClassification, model or folder).to(device).eval()
        vub = VUBForSequenceClassification.from_pretrained(model or folder).to(device).eval()
    positions = getattr(stock.config, "max_position_embeddings", 512)
    victim = TextVictim(stock, vub, tokenizer, texts, labels, min(tokenizer.model_max_length, positions, 512))
    if model is None:
        with torch.no_grad():
            features = torch.cat([vub.features(**batch) for batch in victim.batches(texts[:64], 2048)])
            order = sorted(range(len(texts[:64])), key=lambda row: -victim.tokens([texts[row]]))
            weight, bias = _linear_probe(features.cpu(), torch.tensor(labels)[order], 2)
            stock.classifier.weight.copy_(weight)
            stock.classifier.bias.copy_(bias)
    return victim


def image_victim(number: int, device: torch.device) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A small residual network that has learnt the digits, and images for it.

    Returns:
        The network, pixels (number, 3, 32, 32) that it classifies, the classes to reach and the classes it gives.
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
        given = network(pixels[:number]).logits.argmax(1)
    return network, pixels[:number], (given + 1) % 10, given


def _long_reviews(rows: int, short: bool) -> tuple[list[str], list[int]]:
    """Generated reviews of many sentences of one verdict; their lengths are distributed like IMDB's."""
    rng = np.random.default_rng(0)
    median = 20 if short else _IMDB_MEDIAN_WORDS
    lengths = np.exp(rng.normal(np.log(median), _IMDB_SPREAD, rows)).astype(int)
    # No sentence has fewer than six words in the mean, so that these suffice.
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


def _linear_probe(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight (classes, feature_size) and bias (classes,) of a ridge regression on the classes, in float64."""
    wide = features.double()
    centre = wide.mean(0)
    centred = wide - centre
    ridge = 1e-2 * centred.square().sum(1).mean() * torch.eye(wide.shape[1], dtype=torch.float64)
    goal = nn.functional.one_hot(labels, classes).double()
    weight = torch.linalg.solve(centred.T @ centred + ridge, centred.T @ (goal - goal.mean(0))).T
    return weight, goal.mean(0) - weight @ centre
