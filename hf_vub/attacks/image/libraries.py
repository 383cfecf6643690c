"""Call Foolbox, pyautoattack and the Adversarial Robustness Toolbox (ART): import them, and hand over images."""

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...embeddings.pixels import PixelModel

Pixels = NDArray[np.float32]
"""Images (batch, channels, height, width) as the toolbox takes them."""
FoolboxAttack = Callable[..., tuple[list[Tensor], list[Tensor], Tensor]]
"""From a model, images and what counts as a success to raw images, clipped images (one per budget), and success."""


class Evasion(Protocol):
    """An attack of the toolbox."""

    def generate(self, x: Pixels, y: NDArray[np.int64], /) -> Pixels:
        """Return adversarial images."""


class Member(Protocol):
    """A member of AutoAttack."""

    def perturb(self, images: Tensor, labels: Tensor, /) -> Tensor:
        """Return adversarial images, and the others as they were."""


def foolbox() -> ModuleType:
    """Import foolbox; raise ImportError with the command that installs it."""
    return _import("foolbox", "foolbox")


def toolbox() -> ModuleType:
    """Import ``art.attacks.evasion``; raise ImportError with the command that installs it."""
    return _import("art.attacks.evasion", "adversarial-robustness-toolbox")


def reference_attacks() -> ModuleType:
    """Import the members of AutoAttack from pyautoattack; raise ImportError with the command that installs it.

    Returns:
        A namespace of ``APGDAttack``, ``APGDAttack_targeted``, ``FABAttack_PT`` and ``SquareAttack``.
    """
    return _import("pyautoattack.autoattack", "pyautoattack")


def _import(module: str, package: str) -> ModuleType:
    try:
        with _silent():
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'this attack needs {package}: pip install "hf_vub[image-attacks]"') from error


def run_foolbox(
    attack: FoolboxAttack,
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float | None],
    targets: Tensor | None,
) -> list[Tensor]:
    """Return the images (batch, channels, height, width) that a Foolbox attack proposes, one tensor per budget."""
    package = foolbox()
    wrapped = package.PyTorchModel(model, bounds=(0, 1), device=images.device)
    criterion = package.criteria.Misclassification(labels)
    if targets is not None:
        criterion = package.criteria.TargetedMisclassification(targets)
    _, clipped, _ = attack(wrapped, images, criterion, epsilons=list(epsilons))
    return list(clipped)


def toolbox_classifier(model: PixelModel, images: Tensor) -> tuple[object, int]:
    """Return the toolbox's wrapper of a model, and its number of classes."""
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if images.device.type == "cpu" else "gpu",
    )
    return classifier, classes


def run_toolbox(attack: Evasion, images: Tensor, labels: Tensor) -> Tensor:
    """Return the images (batch, channels, height, width) that an attack of the toolbox generates."""
    with _silent():
        generated = attack.generate(to_array(images), labels.cpu().numpy())
    return to_tensor(generated, images)


def to_array(images: Tensor) -> Pixels:
    """Return images as the toolbox takes them."""
    array: Pixels = images.detach().cpu().numpy().astype(np.float32)
    return array


def to_tensor(array: Pixels, like: Tensor) -> Tensor:
    """Return the toolbox's images on the device of a tensor."""
    return torch.from_numpy(np.asarray(array, dtype=np.float32)).to(like.device)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hide the warnings of libraries about their own use of numpy and scipy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
