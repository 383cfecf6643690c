"""Heads that separate what a bottleneck does from what the reward for entropy does, and random typing errors."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..model.information import categorical_entropy, cross_entropy, label_entropy
from ..sweep.runs import Settings

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def train_plain_head(
    features: Tensor, labels: Tensor, *, num_labels: int, entropy_weight: float, epochs: int, seed: int
) -> nn.Module:
    r"""Train a head with one hidden layer and no bottleneck: neither noise nor a rate.

    The loss is :math:`-\log p(y|x) - w\min\{H(Y), H(p)\}` in nats, with the optimizer, batches and learning rates of
    ``train_heads``. With w = 0 it is cross-entropy; with w = 1 it is VUB without its bottleneck.

    Args:
        features: shape (rows, feature_size).
        labels: shape (rows,).
        num_labels: classes.
        entropy_weight: w, at least 0.
        epochs: passes over the rows.
        seed: of the initialisation and the order of the rows.

    Returns:
        A frozen head from features to logits, with the layers of the early-stopped MLP.
    """
    if not 0 <= entropy_weight < math.inf:
        raise ValueError(f"entropy_weight must be a finite number of at least 0, but is {entropy_weight}")
    cap = label_entropy(labels, num_labels)
    settings = Settings(num_labels, cap)
    size = features.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Dropout(0.0), nn.Linear(size, num_labels))
        optimizer = torch.optim.Adam(head.parameters())
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = settings.learning_rate_in(epoch)
            for rows in torch.randperm(len(labels)).split(settings.batch_size):
                logits = head(features[rows])
                entropy = categorical_entropy(logits).clamp_max(cap)
                loss = (cross_entropy(logits, labels[rows]) - entropy_weight * entropy).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return head.requires_grad_(False).eval()


def typing_errors(text: str, seed: int, share: float = 0.5) -> str:
    """Return a text with one random typing error in a share of its words of two letters or more.

    An error swaps two neighbouring letters, or replaces, removes or inserts one: the edits of DeepWordBug without its
    search. Words are separated by whitespace.
    """
    rng = np.random.default_rng(seed)
    words = text.split()
    long = [place for place, word in enumerate(words) if len(word) > 1]
    for place in rng.permutation(long)[: round(share * len(long))]:
        words[place] = _misspelled(words[place], rng)
    return " ".join(words)


def _misspelled(word: str, rng: np.random.Generator) -> str:
    place, letter = int(rng.integers(len(word))), _LETTERS[rng.integers(len(_LETTERS))]
    match int(rng.integers(4)):
        case 0:
            place = min(place, len(word) - 2)
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        case 1:
            return word[:place] + letter + word[place + 1 :]
        case 2:
            return word[:place] + word[place + 1 :]
        case _:
            return word[:place] + letter + word[place:]
