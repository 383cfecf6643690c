"""The alternatives that the benchmark compares with.

Each function is a small re-implementation of what published code does, so that both sides of a ratio are measured in
one run on one machine.

| function | procedure |
|---|---|
| ``train_head`` | one head at a time: a DataLoader of single rows, autograd, Adam, the entropy in float64 |
| ``embed`` | every text padded to 512 tokens, float32, batches of 32 in the order of the data |
| ``text_attack`` | TextAttack's recipe over its stock ``HuggingFaceModelWrapper`` |
| ``carlini_wagner`` | the published L2 adversary: tanh space, Adam, binary search, bookkeeping image by image |
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hf_vub.attacks.text import textattack_compat
from hf_vub.compute.contexts import seeded
from hf_vub.model.head import VUBHead


def train_head(
    features: Tensor, labels: Tensor, num_labels: int, steps: int, batch_size: int, beta: float = 1e-3
) -> nn.Module:
    """Train one VUB head for some steps.

    Args:
        features: shape (rows, feature_size).
        labels: shape (rows,).
        num_labels: classes.
        steps: steps of Adam.
        batch_size: rows per step.
        beta: weight of the rate.
    """
    head = VUBHead(features.shape[1], num_labels).to(features.device)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-4)
    loader = DataLoader(TensorDataset(features, labels), batch_size=batch_size, shuffle=True)
    cap = torch.tensor(math.log(num_labels), dtype=torch.float64, device=features.device)
    done = 0
    while done < steps:
        for rows, own in loader:
            mean, scale = head.posterior(rows)
            logits = head.classify(mean + scale * torch.randn_like(scale))
            distortion = F.cross_entropy(logits, own)
            rate = 0.5 * (mean.pow(2) + scale.pow(2) - 2 * scale.log() - 1).sum(1).mean()
            probabilities = F.softmax(logits.double(), dim=1)
            entropy = -(probabilities * torch.log(probabilities + 1e-12)).sum(1)
            loss = distortion + beta * rate - torch.minimum(entropy, cap).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    return head


@torch.no_grad()
def embed(model: Any, tokenizer: Any, texts: Sequence[str], max_length: int = 512, batch_size: int = 32) -> Tensor:
    """Return the features (texts, feature_size) of a model that has ``features``."""
    device = next(model.parameters()).device
    encoded = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=max_length, return_tensors="pt"
    ).to(device)
    parts = [
        model.features(**{name: values[first : first + batch_size] for name, values in encoded.items()})
        for first in range(0, len(texts), batch_size)
    ]
    return torch.cat(parts).cpu()


def text_attack(
    model: nn.Module, tokenizer: Any, recipe: str, texts: Sequence[str], labels: Sequence[int], query_budget: int
) -> list[Any]:
    """Attack texts with TextAttack's own loop, each from the random state of ``attack_text``.

    Args:
        model: a stock classifier, in evaluation mode.
        tokenizer: tokenizer of the model.
        recipe: class name.
        texts: texts to attack; text i is seeded with (0, i).
        labels: their classes.
        query_budget: queries per text.
    """
    textattack = textattack_compat.load()
    wrapper = textattack.models.wrappers.HuggingFaceModelWrapper(model, tokenizer)
    with textattack_compat.quiet(), textattack_compat.no_downloads():
        search = getattr(textattack.attack_recipes, recipe).build(wrapper)
        search.goal_function.query_budget = query_budget
        results = []
        for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
            with seeded(0, row):
                results.append(search.attack(textattack.shared.AttackedText(text), label))
            search.clear_cache()
    return results


def carlini_wagner(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    steps: int,
    binary_search_steps: int,
    stepsize: float = 0.01,
    initial_const: float = 1e-3,
) -> Tensor:
    """Run the targeted L2 attack of Carlini and Wagner (2017) on pixels in [0, 1], without early stopping.

    Args:
        model: takes pixels, gives logits.
        images: shape (batch, channels, height, width).
        targets: classes to reach, shape (batch,).
        steps: steps of Adam per weight of the loss.
        binary_search_steps: weights of the loss to try.
        stepsize: learning rate.
        initial_const: first weight.

    Returns:
        The nearest adversarial image of every image; the original where none was found.
    """
    batch = len(images)
    lower, upper = np.zeros(batch), np.full(batch, 1e10)
    const = np.full(batch, initial_const)
    best_distance, best = np.full(batch, np.inf), images.cpu().numpy().copy()
    start = torch.atanh((images * 2 - 1) * 0.999999)
    original = (torch.tanh(start) + 1) / 2
    wanted = F.one_hot(targets, model(images[:1]).shape[1]).bool()
    for _ in range(binary_search_steps):
        change = torch.zeros_like(images, requires_grad=True)
        optimizer = torch.optim.Adam([change], lr=stepsize)
        reached = np.zeros(batch, dtype=bool)
        weight = torch.tensor(const, dtype=images.dtype, device=images.device)
        for _ in range(steps):
            adversarial = (torch.tanh(start + change) + 1) / 2
            logits = model(adversarial)
            real = logits.masked_fill(~wanted, 0.0).sum(1)
            other = logits.masked_fill(wanted, -1e4).amax(1)
            distance = (adversarial - original).pow(2).sum((1, 2, 3))
            loss = (distance + weight * (other - real).clamp_min(0)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            classes = logits.argmax(1).cpu().numpy()
            sizes, pixels = distance.detach().cpu().numpy(), adversarial.detach().cpu().numpy()
            for place in range(batch):
                if classes[place] == int(targets[place]):
                    reached[place] = True
                    if sizes[place] < best_distance[place]:
                        best_distance[place], best[place] = sizes[place], pixels[place]
        for place in range(batch):
            if reached[place]:
                upper[place] = min(upper[place], const[place])
            else:
                lower[place] = max(lower[place], const[place])
            const[place] = (lower[place] + upper[place]) / 2 if upper[place] < 1e9 else const[place] * 10
    return torch.from_numpy(best).to(images.device)
