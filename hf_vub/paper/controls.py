"""Heads that separate what a bottleneck does from what the reward for entropy does, and random typing errors."""

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from ..model.information import categorical_entropy, cross_entropy, label_entropy
from ..model.objectives import optimal_confidence
from ..sweep.runs import HeadRun, Settings

STOCK, VUB = "stock", "vub-0.001"

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Plain:
    """A head without a bottleneck, see `train_plain_head`."""

    entropy_weight: float = 0.0


HEADS: dict[str, HeadRun | Plain | None] = {
    STOCK: None,
    "vib-0.001": HeadRun("vib", 1e-3),
    VUB: HeadRun("vub", 1e-3),
    "vib-0.1": HeadRun("vib", 0.1),
    "vub-0.1": HeadRun("vub", 0.1),
    "plain": Plain(),
    "plain-less-entropy": Plain(1.0),
    "vub-0.001-weight-0.25": HeadRun("vub", 1e-3, 0.25),
    "vub-0.001-weight-0.5": HeadRun("vub", 1e-3, 0.5),
}
"""The heads by name: the stock classifier's own, bottlenecks, and controls that have only a part of VUB."""


class AboutHead(TypedDict):
    """The fields of a `GuidedHead` that say how it was trained."""

    objective: Literal["stock", "ce", "vib", "vub"]
    bottleneck: bool
    beta: float | None
    entropy_weight: float
    optimal_margin: float | None


def about_head(name: str, num_labels: int) -> AboutHead:
    """Return how a head was trained."""
    how = HEADS[name]
    about = AboutHead(objective="stock", bottleneck=False, beta=None, entropy_weight=0.0, optimal_margin=None)
    if isinstance(how, Plain):
        about |= {"objective": "ce", "entropy_weight": how.entropy_weight}
    elif how is not None:
        about |= {"objective": "vib" if how.objective == "vib" else "vub", "bottleneck": True, "beta": how.beta}
        about["entropy_weight"] = how.entropy_weight if how.objective == "vub" else 0.0
    if weight := about["entropy_weight"]:
        # The optimum p* satisfies log(p*(K - 1) / (1 - p*)) = 1 / (w p*), and the left side is the margin.
        about["optimal_margin"] = 1 / (weight * optimal_confidence(num_labels, weight))
    return about


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
