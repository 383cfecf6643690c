"""Match the classes of a data set with the classes of a model, by name wherever both have names."""

import logging
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

_PLACEHOLDER = re.compile(r"(?:label_)?([0-9]{1,9})")
_BY_NUMBER = "match_labels='number' matches them by number"


def align_labels(
    labels: ArrayLike, names: Sequence[str], model_names: Sequence[str], *, by: str = "name"
) -> NDArray[np.int64]:
    """Return labels as the model numbers its classes.

    | names of the data | names of the model | match |
    |---|---|---|
    | words | words | by name, in any case; every name of the data must be a class of the model |
    | words | numbers or ``LABEL_k`` | by number; both must have equally many classes |
    | none | any | by number |
    | numbers | any | the class of that number, or by position where both have equally many classes |

    Args:
        labels: whole numbers (rows,), positions in ``names``; a negative one stands for a missing label and is kept.
        names: class names of the data set, in the order of its labels; empty where it has none.
        model_names: names of all classes of the model, in order; see `class_names`.
        by: ``"name"`` as in the table, or ``"number"``, which never looks at names.

    Returns:
        Labels (rows,), positions in ``model_names``.

    Raises:
        ValueError: for another ``by``, names that cannot be matched, or a label that the model has no class for.

    Example:
        >>> align_labels([0, 1, 1], ["Business", "World"], ["world", "sports", "business"]).tolist()
        [2, 0, 0]
    """
    if by not in ("name", "number"):
        raise ValueError(f"match_labels must be 'name' or 'number', but is {by!r}")
    numbers = np.asarray(labels, dtype=np.int64)
    highest = int(numbers.max(initial=-1))
    if by == "name" and len(names):
        if highest >= len(names):
            raise ValueError(f"the data set has labels up to {highest}, but names for {len(names)} classes")
        places = _places(names, model_names)
        if places != list(range(len(places))):
            logger.info("the labels of the data set are renumbered as the model's classes, by name")
        return np.where(numbers < 0, numbers, np.asarray(places, dtype=np.int64)[np.maximum(numbers, 0)])
    if highest >= len(model_names):
        raise ValueError(f"the data set has labels up to {highest}, but the model has {len(model_names)} classes")
    return numbers


def class_names(config: object, num_classes: int) -> list[str]:
    """Return the names of a model's classes; ``LABEL_0``, ``LABEL_1`` and so on where its configuration has none."""
    known = getattr(config, "id2label", None) or {}
    names = [str(known[index]) for index in sorted(known)]
    return names if len(names) == num_classes else [f"LABEL_{index}" for index in range(num_classes)]


def has_names(names: Sequence[str]) -> bool:
    """Return whether class names say more than a number: not all are ``"3"`` or ``"LABEL_3"``."""
    return any(_number(name) is None for name in names)


def _places(names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    """Return the model's class for each class of the data."""
    if has_names(names) and has_names(model_names):
        return _by_name(names, model_names)
    if not has_names(names):
        # A stock model's LABEL_3 and a nameless class at position 3 are what a file of numbers calls 3.
        theirs = [number if (number := _number(name)) is not None else k for k, name in enumerate(model_names)]
        ours = [_number(name) for name in names]
        if set(ours) <= set(theirs) and len(set(theirs)) == len(theirs):
            return [theirs.index(number) for number in ours if number is not None]
    if len(names) != len(model_names):
        raise ValueError(
            f"the data set has {len(names)} classes ({listed(names)}), but the model has {len(model_names)} "
            f"({listed(model_names)}): their classes cannot be matched; {_BY_NUMBER}"
        )
    return list(range(len(names)))


def _by_name(names: Sequence[str], model_names: Sequence[str]) -> list[int]:
    ours, theirs = ([name.strip().casefold() for name in listed] for listed in (names, model_names))
    if ours == theirs:
        return list(range(len(ours)))
    for name, plain in zip(names, ours, strict=True):
        count = theirs.count(plain)
        if count != 1:
            problem = "is no class of the model" if not count else f"is the name of {count} classes of the model"
            raise ValueError(
                f"class {name!r} of the data set {problem} ({listed(model_names)}): attack a model of these classes, "
                f"or, where the numbers agree, say so: {_BY_NUMBER}"
            )
    return [theirs.index(plain) for plain in ours]


def _number(name: str) -> int | None:
    """Return the number that a placeholder stands for, or None for a name."""
    match = _PLACEHOLDER.fullmatch(name.strip().casefold())
    return int(match.group(1)) if match else None


def listed(names: Iterable[object]) -> str:
    """Return the first five names in a row, with dots for the others."""
    shown = [str(name) for name in names]
    return ", ".join(shown if len(shown) <= 5 else [*shown[:5], "..."])
