"""What an attack on images is shown: pixels of a sample's rows, and the class that a target names."""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from ...data.labels import class_names
from ...data.sample import Sample
from ...embeddings.pixels import PixelModel


def read_pixels(sample: Sample, position: int, model: PixelModel) -> Tensor:
    """Return the pixels (channels, height, width) in [0, 1] of one example of a sample.

    Raises:
        ValueError: with the reason to skip it.
    """
    if sample.labels[position] < 0:
        raise ValueError("it has no label")
    image = sample.dataset[sample.rows[position]]["image"]
    if image is None:
        raise ValueError("it has no image")
    return model.read(image)


def fit_sample(sample: Sample, model: PixelModel) -> tuple[Sample, torch.Size]:
    """Return the sample with its labels as the model numbers its classes, and the size of its first image.

    Raises:
        ValueError: the classes cannot be matched, or no image can be read.
    """
    reason = "there is none"
    for position in range(len(sample)):
        try:
            shape = read_pixels(sample, position, model).shape
            break
        except ValueError as error:
            reason = str(error)
    else:
        raise ValueError(f"dataset has no readable image with a label among {len(sample)}: {reason}")
    with torch.no_grad():
        logits = model(torch.full((1, *shape), 0.5, device=model.mean.device))
    if logits.ndim != 2:
        raise ValueError(f"model must give logits of shape (batch, classes), but gives {tuple(logits.shape)}")
    return sample.aligned(class_names(getattr(model.model, "config", None), logits.shape[1])), shape


def class_index(target: int | str, names: Sequence[str]) -> int:
    """Return the class that ``target`` names, in full, as one of its synonyms between commas, or by its number.

    Raises:
        ValueError: for a number out of range or a name that no class, or more than one class, has.

    Example:
        >>> class_index("soccer ball", ["ant", "soccer ball, football"])
        1
    """
    text = str(target).strip().casefold()
    if not isinstance(target, int):
        full = [index for index, name in enumerate(names) if name.casefold() == text]
        part = [index for index, name in enumerate(names) if text in name.casefold().split(", ")]
        matches = full or part
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ValueError(f"target {target!r} is the name of the classes {matches}: give a number")
        if not text.removeprefix("-").isdigit():
            near = difflib.get_close_matches(str(target), names, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {', '.join(names[:5])}, ..."
            raise ValueError(f"target {target!r} is no class of the model: {hint}")
    number = int(target)
    if not 0 <= number < len(names):
        raise ValueError(f"target must be a class from 0 to {len(names) - 1}, but is {number}")
    return number
