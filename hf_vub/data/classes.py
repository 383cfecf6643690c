"""Labels of any kind (names, numbers, class labels) as one and the same `ClassLabel` in every split."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets
from numpy.typing import NDArray

from .columns import arrow_column, check_utf8, is_text
from .labels import listed

logger = logging.getLogger(__name__)

_MAX_CLASSES = 1_000_000
_UNLABELLED = "-1 stands for no label, so name a labelled split"


@dataclass(frozen=True)
class _Labels:
    """The labels of one split: the value of row i is ``values[codes[i]]``."""

    where: str
    feature: ClassLabel | Value
    values: Sequence[str | int]
    codes: NDArray[np.int64]


def to_class_labels(splits: Mapping[str, Dataset], name: str) -> dict[str, Dataset]:
    """Return the splits with their column ``label`` as one ClassLabel.

    Class labels keep their names and order. Other names are sorted. Whole numbers are sorted too and named by their
    value, so that 1, 2, 4 become the classes 0, 1, 2 with the names "1", "2", "4". The training split decides which
    classes there are.

    Raises:
        ValueError: a row without a label, a label that training lacks, lists of labels, or numbers that are no classes.
    """
    found = {split: _read(dataset, f"{name}: split {split!r}") for split, dataset in splits.items()}
    classes = _classes(found, name)
    places = {value: place for place, value in enumerate(classes.names)}
    result = {}
    for split, labels in found.items():
        if labels.feature == classes:
            result[split] = splits[split]
            continue
        numbers = np.array([_place(value, labels, places) for value in labels.values], dtype=np.int64)
        column = Dataset.from_dict({"label": numbers[labels.codes]}, features=Features({"label": classes}))
        result[split] = concatenate_datasets([splits[split].remove_columns("label"), column], axis=1)
    return result


def _read(dataset: Dataset, where: str) -> _Labels:
    feature = dataset.features["label"]
    if not isinstance(feature, (ClassLabel, Value)):
        raise ValueError(
            f"{where}: labels must be names or whole numbers, one per row, but are {feature}; "
            "several labels per row are not supported"
        )
    column = arrow_column(dataset, "label")
    check_utf8(column, where, "label")
    column = column.combine_chunks()
    nan = column.is_null(nan_is_null=True).sum().as_py()
    if nan:
        raise ValueError(f"{where} has rows without a label ({nan} of {len(column)})")
    encoded = column.dictionary_encode()
    values = _plain(encoded.dictionary.to_pylist(), feature, where)
    labels = _Labels(where, feature, values, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64))
    numbers = [value for value in values if isinstance(value, int)]
    if numbers and min(numbers) < 0:
        row = int(np.argmax(labels.codes == values.index(min(numbers))))
        hint = f": {_UNLABELLED}" if min(numbers) == -1 else ""
        raise ValueError(f"{where}: row {row} has label {min(numbers)}, but labels must be 0, 1, 2, ...{hint}")
    if isinstance(feature, ClassLabel) and max(numbers, default=0) >= feature.num_classes:
        raise ValueError(f"{where}: a label is {max(numbers)}, but there are {feature.num_classes} class names")
    return labels


def _plain(values: Sequence[object], feature: ClassLabel | Value, where: str) -> Sequence[str | int]:
    """Return distinct labels as whole numbers, or as names where not all of them are numbers."""
    if isinstance(feature, ClassLabel):
        return [int(str(value)) for value in values]
    if is_text(feature) or feature.dtype == "bool":
        names = [str(value) for value in values]
        return list(map(int, names)) if all(map(_is_plain_number, names)) else list(names)
    numbers: list[int] = []
    for value in values:
        if not isinstance(value, (int, float)):
            raise ValueError(f"{where}: labels must be names or whole numbers, but are {feature.dtype}")
        if value != value // 1:
            raise ValueError(
                f"{where}: labels must be classes, but one is {value}; regression is not supported: put the values "
                "into classes, or use the transformers library with problem_type='regression'"
            )
        numbers.append(int(value))
    return numbers


def _is_plain_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and str(int(name)) == name


def _classes(found: Mapping[str, _Labels], name: str) -> ClassLabel:
    """Return the classes of the training split, or of all splits where there is none."""
    deciding = [found["train"]] if "train" in found else list(found.values())
    named = next((labels.feature for labels in deciding if isinstance(labels.feature, ClassLabel)), None)
    if named is not None:
        return named
    values = {value for labels in deciding for value in labels.values}
    if len(values) > _MAX_CLASSES:
        raise ValueError(f"{name}: labels have {len(values)} different values, more than {_MAX_CLASSES} classes")
    if all(isinstance(labels.feature, Value) and labels.feature.dtype == "bool" for labels in deciding):
        return ClassLabel(names=["False", "True"])
    numbers = sorted(value for value in values if isinstance(value, int))
    names = sorted(value for value in values if isinstance(value, str))
    if numbers and names:
        raise ValueError(
            f"{name}: labels are numbers in one split ({numbers[0]}, ...) and names in another ({names[0]}, ...)"
        )
    if numbers and numbers != list(range(len(numbers))):
        most = len(numbers) - 1
        logger.info("%s: the labels %s become the classes 0 to %d, named by their values", name, listed(numbers), most)
    return ClassLabel(names=names or [str(number) for number in numbers])


def _place(value: str | int, labels: _Labels, places: Mapping[str, int]) -> int:
    """Return the class of a label: by its name, which for a number is the number itself."""
    called = labels.feature.names[value] if isinstance(labels.feature, ClassLabel) else str(value)
    if called in places:
        return places[called]
    by_place = isinstance(labels.feature, Value) and not any(map(_is_plain_number, places))
    if by_place and isinstance(value, int) and value < len(places):
        return value  # a file of numbers next to a file with class labels
    raise ValueError(f"{labels.where} has the label {called!r}, which training lacks (it has {listed(places)})")
