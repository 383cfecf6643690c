"""What an attack on images is run on: a classifier from anywhere, and the rows of a data set that it is shown."""

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image
from torch import Tensor, nn

from ...data.splits import load_splits, read_labels, subset
from ...data.streams import stored
from ...model.trust import load
from .classifier import PixelModel

logger = logging.getLogger(__name__)

_IMAGE_COLUMNS = ("image", "img", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


def load_classifier(
    model: nn.Module | str | Path,
    processor: Any = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    default_device: str | torch.device = "cpu",
) -> tuple[nn.Module, Any, str]:
    """A classifier, its image processor and its name, from objects or from folders and Hub ids.

    Weights are loaded in float32: rounding to half precision hides gradients from an attack.

    Args:
        model: a module, or a folder or Hub id for ``AutoModelForImageClassification``.
        processor: an image processor, or a folder or Hub id; None takes the one saved with a ``model`` that is a path.
        revision: of what is loaded from the Hub.
        trust_remote_code: whether code that comes with it may run.
        device: where the model shall be; None leaves a module where it is.
        default_device: where a loaded model goes when ``device`` is None.
    """
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if isinstance(model, (str, Path)):
        from transformers import AutoModelForImageClassification

        name = str(model)
        processor = name if processor is None else processor
        network: nn.Module = load(AutoModelForImageClassification, name, dtype=torch.float32, **options)
        device = default_device if device is None else device
    else:
        network = model
        name = getattr(model, "name_or_path", "") or type(model).__name__
    if isinstance(processor, (str, Path)):
        from transformers import AutoImageProcessor

        processor = load(AutoImageProcessor, str(processor), **options)
    return network if device is None else network.to(device), processor, name


class ImageExamples:
    """Rows of a data set chosen for an attack: their labels at once, their images one by one.

    Args:
        dataset: a name or path for `load_splits`, or a ``datasets.Dataset`` or stream with images and labels.
        num_examples: how many rows, None for all.
        how: "stratified" (drawn with ``seed``) or "first".
        seed: of the draw.
        split: of ``dataset`` where that is a name or path; its test split where None.
        image_column: where not "image", "img" or "pixel_values".
        label_column: where not "label", "labels" or "fine_label".

    Raises:
        TypeError: for a data set of another type.
        ValueError: for columns that are not there or labels that are not whole numbers.
    """

    def __init__(
        self,
        dataset: Any,
        num_examples: int | None = None,
        *,
        how: str = "stratified",
        seed: int = 0,
        split: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
    ):
        self.name = str(dataset) if isinstance(dataset, (str, Path)) else "in memory"
        if isinstance(dataset, (str, Path)):
            dataset = load_splits(
                dataset, test_split=split, image_column=image_column, label_column=label_column, seed=seed
            )["test"]
            image_column = label_column = None
        elif isinstance(dataset, (dict, DatasetDict)):
            raise TypeError(f"dataset has the splits {', '.join(dataset)}: give one of them")
        dataset = stored(dataset, num_examples if how == "first" else None)
        if not isinstance(dataset, Dataset):
            raise TypeError(f"dataset must be a name, a path or a datasets.Dataset, but is a {type(dataset).__name__}")
        # Formats and transforms are for training; an attack wants the images as they are stored.
        dataset = dataset.with_format(None)
        self.column = _choose(dataset, "image_column", image_column, _IMAGE_COLUMNS)
        label = _choose(dataset, "label_column", label_column, _LABEL_COLUMNS)
        if isinstance(dataset.features[self.column], Image):
            # Decoded here and one by one, so that a corrupt image costs itself only.
            dataset = dataset.cast_column(self.column, Image(decode=False))
        self.dataset = dataset.select_columns([self.column])
        every = read_labels(dataset, label)
        chosen = Dataset.from_dict({"label": every, "row": range(len(every))})
        if num_examples is not None:
            chosen = subset(chosen, num_examples, seed, how)
        self.rows: list[int] = list(chosen["row"])
        self.labels: list[int] = list(chosen["label"])
        if not self.rows:
            raise ValueError("dataset has no rows: there is nothing to attack")
        feature = dataset.features[label]
        names = list(feature.names) if isinstance(feature, ClassLabel) else []
        self.class_names = [] if all(name.isdigit() for name in names) else names

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, position: int, model: PixelModel) -> Tensor:
        """Pixels (channels, height, width) in [0, 1] of one chosen row; ValueError with a reason to skip it."""
        if self.labels[position] < 0:
            raise ValueError("it has no label")
        image = self.dataset[self.rows[position]][self.column]
        if image is None:
            raise ValueError("it has no image")
        return model.read(image)

    def fit(self, model: PixelModel) -> tuple[torch.Size, list[str]]:
        """The size of the model's images and the names of its classes, once both are known to fit the labels.

        Where data set and model call their classes by the same names, labels follow the names, so that a data set
        with some of the classes, or with all in another order, is scored rightly.

        Raises:
            ValueError: for labels that the model has no class for, or when no image can be read.
        """
        shape = None
        reason = ""
        for position in range(len(self)):
            try:
                shape = self.read(position, model).shape
                break
            except ValueError as error:
                reason = str(error)
        if shape is None:
            raise ValueError(f"dataset has no readable image with a label among {len(self)}: {reason}")
        with torch.no_grad():
            logits = model(torch.full((1, *shape), 0.5, device=model.mean.device))
        if logits.ndim != 2:
            raise ValueError(f"model must give logits of shape (batch, classes), but gives {tuple(logits.shape)}")
        return shape, self._match(_model_names(model), logits.shape[1])

    def _match(self, names: list[str], num_classes: int) -> list[str]:
        names = names if len(names) == num_classes else []
        ours = [name.casefold() for name in self.class_names]
        theirs = [name.casefold() for name in names]
        if ours and theirs and set(ours) <= set(theirs):
            if len(set(theirs)) == len(theirs) and ours != theirs:
                logger.info("labels follow the names of the model's classes")
                self.labels = [label if label < 0 else theirs.index(ours[label]) for label in self.labels]
        elif ours and len(ours) != num_classes:
            raise ValueError(
                f"the data has {len(ours)} classes ({', '.join(self.class_names[:3])}, ...) and the model {num_classes}"
                f"{' (' + ', '.join(names[:3]) + ', ...)' if names else ''}: attack a model of these classes"
            )
        if max(self.labels) >= num_classes:
            raise ValueError(f"the data has labels up to {max(self.labels)}, and the model has {num_classes} classes")
        return names or (self.class_names if len(ours) == num_classes else [str(k) for k in range(num_classes)])


def class_index(target: int | str, names: Sequence[str]) -> int:
    """The class that ``target`` names, in full, as one of its synonyms between commas, or by its number.

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
        found = full or part
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"target {target!r} is the name of the classes {found}: give a number")
        if not text.removeprefix("-").isdigit():
            near = difflib.get_close_matches(str(target), names, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {', '.join(names[:5])}, ..."
            raise ValueError(f"target {target!r} is no class of the model: {hint}")
    number = int(target)
    if not 0 <= number < len(names):
        raise ValueError(f"target must be a class from 0 to {len(names) - 1}, but is {number}")
    return number


def _model_names(model: PixelModel) -> list[str]:
    """The names of a model's classes; none where they are the placeholders of transformers."""
    known = getattr(getattr(model.model, "config", None), "id2label", None) or {}
    names = [str(known[index]) for index in sorted(known)]
    return [] if all(name.startswith("LABEL_") or name.isdigit() for name in names) else names


def _choose(dataset: Dataset, argument: str, column: str | None, usual: Sequence[str]) -> str:
    found = [column] if column is not None else [name for name in usual if name in dataset.column_names]
    if not found or found[0] not in dataset.column_names:
        raise ValueError(
            f"dataset has no column {column or usual[0]!r} (its columns are {', '.join(dataset.column_names)}): "
            f"name one with {argument}"
        )
    return found[0]
