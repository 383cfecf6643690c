"""Synthetic film reviews whose sentiment is in their adjectives, and tiny classifiers that learn them."""

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

GOOD = ["good", "great", "superb", "charming", "moving", "witty"]
BAD = ["bad", "poor", "awful", "clumsy", "dull", "tired"]
NEUTRAL = ["film", "movie", "plot", "actor", "scene", "ending", "music", "story", "watched", "evening", "cinema"]


def reviews(rows: int, seed: int = 0) -> Dataset:
    """Return sentences whose label is the sign of their adjectives."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(rows):
        label = int(rng.integers(2))
        words = list(rng.choice(NEUTRAL, rng.integers(4, 12))) + list(rng.choice(GOOD if label else BAD, 2))
        words += list(rng.choice(BAD if label else GOOD, rng.integers(2)))
        rng.shuffle(words)
        texts.append(f"The {' '.join(words)}.")
        labels.append(label)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer that knows the words of the reviews, and letters for all others."""
    pieces = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), ".", "the"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *GOOD, *BAD, *NEUTRAL]
    backend = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=24, **special)


def tiny_bert(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> BertForSequenceClassification:
    """Return an untrained BERT of one layer."""
    torch.manual_seed(seed)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, num_labels=2, **size)
    return BertForSequenceClassification(config)


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, steps: int = 60) -> PreTrainedModel:
    """Train all weights on reviews, in place."""
    data = reviews(512, seed=1)
    batch = tokenizer(data["text"][:], padding=True, truncation=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    labels = torch.tensor(data["label"][:])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for step in range(steps):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(labels)
        loss = model(**{name: values[rows] for name, values in batch.items()}, labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
