"""Call Foolbox, pyautoattack and the Adversarial Robustness Toolbox (ART): import them, and hand over images."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...embeddings.pixels import PixelModel


def foolbox() -> Any:
    """Import foolbox; raise ImportError with the command that installs it."""
    try:
        import foolbox
        import foolbox.attacks
    except ImportError as error:
        raise ImportError('this attack needs foolbox: pip install "hf_vub[image-attacks]"') from error
    return foolbox


def toolbox() -> Any:
    """Import ``art.attacks.evasion``; raise ImportError with the command that installs it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from art.attacks import evasion
    except ImportError as error:
        raise ImportError(
            'this attack needs adversarial-robustness-toolbox: pip install "hf_vub[image-attacks]"'
        ) from error
    return evasion


def reference_attacks() -> Any:
    """Import the members of AutoAttack from pyautoattack; raise ImportError with the command that installs it.

    Returns:
        A namespace of ``APGDAttack``, ``APGDAttack_targeted``, ``FABAttack_PT`` and ``SquareAttack``.
    """
    try:
        from pyautoattack import autoattack
    except ImportError as error:
        raise ImportError('this attack needs pyautoattack: pip install "hf_vub[image-attacks]"') from error
    return autoattack


def run_foolbox(
    attack: Any,
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


def toolbox_classifier(model: PixelModel, images: Tensor) -> tuple[Any, int]:
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


def run_toolbox(attack: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Return the images (batch, channels, height, width) that an attack of the toolbox generates."""
    with _silent():
        generated = attack.generate(to_array(images), labels.cpu().numpy())
    return to_tensor(generated, images)


def to_array(images: Tensor) -> NDArray[np.float32]:
    """Return images as the toolbox takes them."""
    array: NDArray[np.float32] = images.detach().cpu().numpy().astype(np.float32)
    return array


def to_tensor(array: Any, like: Tensor) -> Tensor:
    """Return the toolbox's images on the device of a tensor."""
    return torch.from_numpy(np.asarray(array, dtype=np.float32)).to(like.device)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hide the toolbox's warnings about its own use of numpy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
