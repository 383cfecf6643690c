"""Models made on the spot to imitate a classifier's decisions, so that images can be transferred from them.

| surrogate | imitates | sees through |
|---|---|---|
| ``linear`` | logistic regression on the features that the classifier's head sees | masking in the head or the logits |
| ``network`` | a small convolutional network on pixels | masking anywhere; needs more images to be good |

Both learn the labels that the classifier gives to other rows of the data set and to noisy copies of them.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...compute.contexts import seeded
from ...compute.perturbation import random_start
from ...data.sample import Sample
from ...embeddings.pixels import PixelModel
from .examples import read_pixels

logger = logging.getLogger(__name__)

_LEAST_ROWS = 1024
"""Images that surrogates learn from at least, noisy copies among them."""
_PASSES = 20
_ACCURATE = 0.98
"""Share of training decisions with which a network has learnt enough."""
_BATCH = 64


class Surrogate(NamedTuple):
    """A model that imitates another.

    Attributes:
        name: "linear surrogate" or "network surrogate".
        model: from [0, 1] pixels to logits.
        agreement: share of the attacked images, which it has not seen, on which it decides as the classifier does.
    """

    name: str
    model: nn.Module
    agreement: float


def make_surrogates(scorer: PixelModel, images: Tensor, fitting: Tensor, epsilon: float, seed: int) -> list[Surrogate]:
    """Return models that imitate the decisions of ``scorer``; none where it decides alike on all of ``fitting``.

    Args:
        scorer: the classifier, frozen; a random one is imitated in what it decides on one draw per image.
        images: (images, channels, height, width), the images that will be attacked; they only measure agreement.
        fitting: (rows, channels, height, width), other images, from `other_images`.
        epsilon: noisy copies move every pixel by up to this budget.
        seed: of weights, noise and order.
    """
    if not len(fitting):
        return []
    with seeded(seed, len(fitting)):
        copies = max(1, -(-_LEAST_ROWS // len(fitting)) - 1)
        noisy = [random_start(fitting, epsilon, "linf") for _ in range(copies)]
        pixels = torch.cat([fitting, *noisy])
        logits = torch.cat([_logits(scorer, part) for part in pixels.split(_BATCH)])
        decisions = logits.argmax(dim=1)
        if not bool((decisions != decisions[0]).any()):
            return []
        classes = logits.shape[1]
        linear = _LinearSurrogate.fit(scorer, pixels, decisions, classes)
        network = _fit_network(pixels, decisions, classes)
        expected = torch.cat([_logits(scorer, part) for part in images.split(_BATCH)]).argmax(dim=1)
        found = []
        for name, model in (("linear surrogate", linear), ("network surrogate", network)):
            if model is not None:
                same = torch.cat([_logits(model, part) for part in images.split(_BATCH)]).argmax(dim=1) == expected
                found.append(Surrogate(name, model, float(same.double().mean())))
        return found


def other_images(sample: Sample, scorer: PixelModel, count: int, shape: torch.Size) -> Tensor:
    """Return pixels (rows, channels, height, width) of rows that are not attacked; of all where there are no others.

    Args:
        sample: the rows that are attacked.
        scorer: reads the images.
        count: how many at most.
        shape: images of another size are left out.
    """
    attacked = set(sample.rows)
    rows = [row for row in range(len(sample.dataset)) if row not in attacked] or sample.rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(sample.options.seed)).tolist()
    chosen = [rows[place] for place in order[:count]]
    others = replace(sample, rows=chosen, labels=[0] * len(chosen))
    pixels = []
    for position in range(len(others)):
        try:
            image = read_pixels(others, position, scorer)
        except ValueError as error:
            logger.warning("row %d skipped: %s", chosen[position], error)
            continue
        if image.shape == shape:
            pixels.append(image)
    return torch.stack(pixels).to(scorer.mean.device) if pixels else torch.zeros(0, *shape)


class _LinearSurrogate(nn.Module):
    """Standardised features of a classifier, and a linear layer on them."""

    def __init__(self, features: Callable[[Tensor], Tensor], mean: Tensor, scale: Tensor, layer: nn.Linear):
        super().__init__()
        self.features, self.mean, self.scale, self.layer = features, mean, scale, layer

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.layer((self.features(pixels) - self.mean) / self.scale)
        return logits

    @classmethod
    def fit(cls, scorer: PixelModel, pixels: Tensor, decisions: Tensor, classes: int) -> "_LinearSurrogate | None":
        """Return the surrogate; None where the classifier shows no features."""
        features = _feature_function(scorer, pixels[:1], classes)
        if features is None:
            return None
        with torch.no_grad():
            inputs = torch.cat([features(part) for part in pixels.split(_BATCH)])
        mean, scale = inputs.mean(dim=0), inputs.std(dim=0).clamp_min(1e-6)
        layer = nn.Linear(inputs.shape[1], classes, device=inputs.device)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        standard = (inputs - mean) / scale
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(layer(standard), decisions) + 1e-3 * layer.weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
        return cls(features, mean, scale, layer.requires_grad_(False)).eval()


def _feature_function(scorer: PixelModel, example: Tensor, classes: int) -> Callable[[Tensor], Tensor] | None:
    """Return what gives the features (batch, size) that the classifier's head, or its last linear layer, sees."""
    if scorer.has_features:
        return scorer.features
    layers = [module for module in scorer.modules() if isinstance(module, nn.Linear) and module.out_features == classes]
    for layer in reversed(layers):

        def features(pixels: Tensor, layer: nn.Linear = layer) -> Tensor:
            seen: list[Tensor] = []
            with layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
                scorer(pixels)
            return seen[-1].float()

        try:
            found = features(example)
        except IndexError:  # a layer that the forward pass does not use
            continue
        if found.ndim == 2:
            return features
    return None


def _fit_network(pixels: Tensor, decisions: Tensor, classes: int) -> nn.Module:
    """Return a small convolutional network that was trained on decisions."""
    channels, side = pixels.shape[1], min(pixels.shape[-2:])
    strides = 2 if side >= 16 else 1
    network = nn.Sequential(
        nn.Conv2d(channels, 16, 3, strides, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, classes),
    ).to(pixels.device)  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 2e-3, weight_decay=1e-4)
    with torch.enable_grad():
        for _ in range(_PASSES):
            correct = torch.zeros((), device=pixels.device)
            for rows in torch.randperm(len(pixels), device=pixels.device).split(_BATCH):
                optimizer.zero_grad()
                logits = network(pixels[rows])
                F.cross_entropy(logits, decisions[rows]).backward()
                optimizer.step()
                correct += (logits.argmax(dim=1) == decisions[rows]).sum()
            if correct >= _ACCURATE * len(pixels):
                break
    return network.requires_grad_(False).eval()


def _logits(model: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(pixels)
    return logits
