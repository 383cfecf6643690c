"""Adversarial training: which perturbation of its inputs a classifier is trained against, and how it is found.

`Adversary` holds the choice; `PixelAdversary` finds perturbations of images in [0, 1] pixels through the normalisation
of the image processor. The one for texts, ``freelb``, is in ``embedding_adversary``.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..compute.contexts import frozen
from ..compute.perturbation import NORMS, perturb, random_start
from ..embeddings.pixels import PixelModel

IMAGE_ADVERSARIES = ("fgsm_rs", "pgd", "trades")
ADVERSARIES = (*IMAGE_ADVERSARIES, "freelb")
_STEPS = {"fgsm_rs": 1, "pgd": 10, "trades": 10, "freelb": 3}
_EPSILONS = {"linf": "8/255", "l2": "128/255"}
_FREELB_EPSILON = "0.3"
_EVALUATION_STEPS = 10


@dataclass(frozen=True)
class Adversary:
    r"""The perturbation that a classifier is trained against.

    Attributes:
        kind: "fgsm_rs", one step of 1.25 epsilon from a uniform start (Wong et al. 2020); "pgd", projected gradient
            ascent on the cross-entropy (Madry et al. 2018); "trades", ascent on the divergence from the clean
            prediction (Zhang et al. 2019); "freelb", ascent on the embeddings of a text (Zhu et al. 2020).
        epsilon: radius of the ball: of pixels in [0, 1], or of a text's embeddings as one L2 norm.
        steps: gradient steps.
        norm: "linf" or "l2".
    """

    kind: str
    epsilon: float
    steps: int
    norm: str

    @property
    def step(self) -> float:
        """Length of a step: 1.25 epsilon for fgsm_rs, else 2.5 epsilon / steps, which is 2/255 for ten of 8/255."""
        return self.epsilon * (1.25 if self.kind == "fgsm_rs" else 2.5 / self.steps)


class _Arguments(Protocol):
    adversary: str | None
    epsilon: str | None
    adversary_steps: int | None
    adversary_norm: str


def adversary_of(args: _Arguments) -> Adversary | None:
    """Return the adversary that training arguments ask for, or None.

    Raises:
        ValueError: for an unknown adversary or norm, an epsilon outside its range, steps that the adversary cannot
            take, or options of an adversary without one.
    """
    kind, norm = args.adversary, args.adversary_norm
    if kind is None:
        given = {"epsilon": args.epsilon, "adversary_steps": args.adversary_steps}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name} is {value!r}, but there is no adversary; name one, such as 'pgd'")
        return None
    if kind not in ADVERSARIES:
        raise ValueError(f"adversary is {kind!r}; it must be one of {', '.join(map(repr, ADVERSARIES))}")
    if norm not in NORMS:
        raise ValueError(f"adversary_norm is {norm!r}; it must be 'linf' or 'l2'")
    if kind == "freelb":
        norm = "l2"
    default = _FREELB_EPSILON if kind == "freelb" else _EPSILONS[norm]
    epsilon = parse_epsilon(default if args.epsilon is None else args.epsilon, norm)
    steps = _STEPS[kind] if args.adversary_steps is None else args.adversary_steps
    if steps < 1:
        raise ValueError(f"adversary_steps is {steps}; it must be at least 1")
    if kind == "fgsm_rs" and steps != 1:
        raise ValueError(f"adversary_steps is {steps}, but fgsm_rs takes one step; use adversary='pgd' for more")
    return Adversary(kind, epsilon, steps, norm)


def parse_epsilon(value: str | float, norm: str) -> float:
    """Return a radius given as a number or a fraction such as "8/255".

    Raises:
        ValueError: it is no number, negative, or under Linf above 1, the whole range of a pixel.
    """
    try:
        epsilon = float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"epsilon is {value!r}; it must be a number or a fraction such as '8/255'") from None
    largest = 1.0 if norm == "linf" else 1e3
    if not 0 <= epsilon <= largest:
        raise ValueError(f"epsilon is {value!r}; it must be between 0 and {largest:g} in the {norm} norm")
    return epsilon


class PixelAdversary:
    """Find perturbed images for a classifier of images.

    The attacked prediction is that of the latent mean, whose gradient has no noise of the bottleneck in it.

    Args:
        adversary: of images.
        model: the classifier that trains.
        processor: its image processor, whose normalisation the pixels go through.

    Raises:
        ValueError: there is no processor, or its normalisation cannot be inverted.
    """

    def __init__(self, adversary: Adversary, model: nn.Module, processor: object):
        if not callable(processor):
            raise ValueError(
                f"adversary is {adversary.kind!r} but processing_class is {processor!r}; give the model's image "
                "processor, through whose normalisation pixels in [0, 1] are perturbed"
            )
        self.adversary, self.model = adversary, model
        self._classifier = PixelModel(model, processor)

    def perturbed(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return normalised images near the given ones that the classifier is worse on.

        With "fgsm_rs" and "pgd" the model stays in training mode, as in the papers' code: batch norms use and update
        the statistics of the batch. With "trades" it is in evaluation mode during the ascent.

        Args:
            values: normalised images, shape (batch, channels, height, width).
            labels: their classes, shape (batch,).
        """
        pixels = self._pixels(values)
        if self.adversary.kind == "trades":
            with _evaluating(self.model):
                with torch.no_grad():
                    clean = self._classifier(pixels).log_softmax(dim=-1)
                start = (pixels + 1e-3 * torch.randn_like(pixels)).clamp(0.0, 1.0)
                found = self._ascend(lambda x: divergence(clean, self._classifier(x)), pixels, start)
        else:
            start = random_start(pixels, self.adversary.epsilon, self.adversary.norm)
            found = self._ascend(self._cross_entropy(labels), pixels, start)
        return self._normalised(found).to(values.dtype)

    def correct(self, values: Tensor, labels: Tensor, generator: Generator) -> Tensor:
        """Return which images are classified correctly before and after ten PGD steps, shape (batch,).

        Args:
            values: normalised images, shape (batch, channels, height, width).
            labels: their classes, shape (batch,).
            generator: of the random start, on the images' device.
        """
        adversary = self.adversary
        with frozen(self.model):
            pixels = self._pixels(values)
            start = random_start(pixels, adversary.epsilon, adversary.norm, generator)
            found = perturb(
                self._cross_entropy(labels),
                pixels,
                epsilon=adversary.epsilon,
                step=2.5 * adversary.epsilon / _EVALUATION_STEPS,
                steps=_EVALUATION_STEPS,
                norm=adversary.norm,
                start=start,
            )
            return (self._classifier.predict(pixels) == labels) & (self._classifier.predict(found) == labels)

    def _ascend(self, loss: Callable[[Tensor], Tensor], pixels: Tensor, start: Tensor) -> Tensor:
        adversary = self.adversary
        return perturb(
            loss,
            pixels,
            epsilon=adversary.epsilon,
            step=adversary.step,
            steps=adversary.steps,
            norm=adversary.norm,
            start=start,
        )

    def _cross_entropy(self, labels: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda pixels: F.cross_entropy(self._classifier(pixels), labels, reduction="none")

    def _pixels(self, values: Tensor) -> Tensor:
        return (values.float() * self._classifier.std + self._classifier.mean).clamp(0.0, 1.0)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return (pixels - self._classifier.mean) / self._classifier.std


def divergence(clean: Tensor, logits: Tensor) -> Tensor:
    """Return KL(clean || perturbed) in nats, shape (batch,), from log-probabilities and logits (batch, classes)."""
    return F.kl_div(logits.log_softmax(dim=-1), clean, reduction="none", log_target=True).sum(dim=-1)


def symmetric_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean of KL(p || q) and KL(q || p) in nats, shape (batch,), from logits of shape (batch, classes)."""
    there = divergence(first.log_softmax(dim=-1), second)
    return (there + divergence(second.log_softmax(dim=-1), first)) / 2


def has_collapsed(robust: float, best: float, classes: int) -> bool:
    """Return whether a robust accuracy fell to half of the best so far, which was clearly above chance."""
    return best > min(1.0, 1.5 / classes) and robust < best / 2 and not math.isnan(robust)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
