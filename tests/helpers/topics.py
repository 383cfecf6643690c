"""Synthetic texts of four topics that only several edits move from one topic to another, and tiny classifiers."""

import random
import string
from collections.abc import Callable

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

TOPICS = {
    "sport": ["goal", "match", "referee", "striker", "league", "trophy", "sprint", "coach"],
    "food": ["butter", "garlic", "oven", "recipe", "flour", "simmer", "dessert", "spoon"],
    "space": ["orbit", "rocket", "lunar", "comet", "galaxy", "telescope", "launch", "crater"],
    "money": ["market", "invest", "bank", "profit", "shares", "budget", "dollar", "credit"],
}
NEUTRAL = ["people", "morning", "window", "yellow", "street", "garden", "paper", "winter", "doctor", "village"]


def topics(rows: int, seed: int = 0) -> Dataset:
    """Return texts with four to six words of their topic, one or two of another topic, and neutral words."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for row in range(rows):
        label = row % len(TOPICS)
        other = (label + int(rng.integers(1, len(TOPICS)))) % len(TOPICS)
        own, strange = (list(TOPICS.values())[place] for place in (label, other))
        words = [*rng.choice(own, rng.integers(4, 7), replace=False), *rng.choice(strange, rng.integers(1, 3))]
        words += list(rng.choice(NEUTRAL, 4))
        rng.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(TOPICS))})
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def topic_tokenizer() -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer that knows the words of the topics, and letters for all others."""
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    known = [word for topic in TOPICS.values() for word in topic]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *known, *NEUTRAL]
    backend = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=60, **special)


def topic_bert(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> BertForSequenceClassification:
    """Return an untrained BERT of one layer."""
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    names = dict(enumerate(TOPICS))
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, id2label=names,
        label2id={name: place for place, name in names.items()}, **size,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def with_typos(text: str, rng: random.Random) -> str:
    """Replace a letter in about half of the words of a text."""
    words = text.split()
    for place in range(len(words)):
        if rng.random() < 0.5:
            at = rng.randrange(len(words[place]))
            words[place] = words[place][:at] + rng.choice(string.ascii_lowercase) + words[place][at + 1 :]
    return " ".join(words)


def train_on_topics(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    steps: int = 160,
    change: Callable[[str], str] = str,
    learning_rate: float = 5e-3,
) -> PreTrainedModel:
    """Train a model's weights that take gradients, in place, on texts that ``change`` may edit.

    A text's label is drawn anew from the topics of its words each time, so that the score follows the evidence.
    """
    data = topics(1024, seed=1)
    votes = torch.tensor(
        [[len(known.intersection(text.split())) for known in map(set, TOPICS.values())] for text in data["text"][:]]
    )
    batch = tokenizer([change(text) for text in data["text"][:]], padding=True, truncation=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    model.train()
    for step in range(steps):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(votes)
        labels = torch.multinomial(votes[rows].float(), 1)[:, 0]
        loss = model(**{name: values[rows] for name, values in batch.items()}, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
