"""The rows of a data set that an attack is run on: read, drawn, matched with the model's classes, and described."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image

from ..model.loading import Task
from ..runs.digests import examples_digest
from .columns import IMAGE_COLUMNS, find_column
from .labels import align_labels, has_names
from .preprocessing import clean_text
from .record import TrainingRecord
from .splits import load_evaluation, read_labels, subset
from .streams import materialize

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleOptions:
    """Which rows are attacked.

    Attributes:
        dataset: a name or path for `load_evaluation`, or a ``datasets.Dataset`` or stream in memory.
        num_examples: how many rows; None, or more than there are, for all.
        how: "stratified" (drawn with ``seed``, each class in its share) or "first".
        seed: seed of the draw, and of the attack.
        split: which split of a named data set; None for its test split.
        column: column of texts or images, or of a named data set the columns of a pair of texts; None for the usual
            names.
        label_column: column of labels; None for the usual names.
        match_labels: match the classes of data and model by "name" or by "number".
        column_names: names of the columns of a table without a header, in order or between commas.
        config_name: configuration of a data set on the Hub.

    Raises:
        ValueError: an argument is out of range.
    """

    dataset: object
    num_examples: int | None
    how: str = "stratified"
    seed: int = 0
    split: str | None = None
    column: str | Sequence[str] | None = None
    label_column: str | None = None
    match_labels: str = "name"
    column_names: str | Sequence[str] | None = None
    config_name: str | None = None

    def __post_init__(self) -> None:
        check_counts(num_examples=self.num_examples)
        if self.how not in ("stratified", "first"):
            raise ValueError(f"how must be 'stratified' or 'first', but is {self.how!r}")
        if self.match_labels not in ("name", "number"):
            raise ValueError(f"match_labels must be 'name' or 'number', but is {self.match_labels!r}")


@dataclass(frozen=True)
class Sample:
    """The rows of a run.

    Attributes:
        options: how they were chosen.
        task: "text" or "image".
        dataset: all rows of the split: "text" (and "text_pair") or "image", whose images are not decoded.
        name: of the data set.
        split: name of the split; None for a data set in memory.
        description: the rows in words: how many, of how many, of which split.
        rows: row numbers in ``dataset``.
        labels: one per row, -1 for a missing one; as the model numbers its classes once `aligned`.
        class_names: one per class; empty where the data has no names.
    """

    options: SampleOptions
    task: Task
    dataset: Dataset
    name: str
    split: str | None
    description: str
    rows: list[int]
    labels: list[int]
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self, column: str = "text") -> list[str]:
        """Return the texts of the sample as a tokenizer takes them, "" for a missing one."""
        texts = self.dataset.select(self.rows)[:][column]
        return [clean_text(text) if isinstance(text, str) else "" for text in texts]

    def second_texts(self) -> list[str] | None:
        """Return the second text of every pair, which is not attacked; None where the data set has single texts."""
        return self.texts("text_pair") if "text_pair" in self.dataset.column_names else None

    def aligned(self, model_names: Sequence[str]) -> "Sample":
        """Return the sample with labels and class names of the model (see `align_labels`).

        Raises:
            ValueError: the classes cannot be matched.
        """
        labels = align_labels(self.labels, self.class_names, model_names, by=self.options.match_labels)
        names = list(model_names)
        if not has_names(names):
            same = len(self.class_names) == len(names) and has_names(self.class_names)
            names = self.class_names if same else [str(number) for number in range(len(names))]
        return replace(self, labels=labels.tolist(), class_names=names)

    def seen_in_training(self, record: TrainingRecord | None) -> int | None:
        """Return how many rows a checkpoint was trained or selected on; None where it has no record of them."""
        return None if record is None else int(np.sum(record.seen(self.dataset.select(self.rows))))

    def digest(self, *content: object) -> str:
        """Return a digest of the rows, their labels and further content, which identifies the sample of a run."""
        return examples_digest(self.rows, *content, self.labels)


def open_sample(options: SampleOptions, task: Task, records: Sequence[TrainingRecord] = ()) -> Sample:
    """Read a data set and draw the rows to attack.

    Args:
        options: which rows.
        task: "text" or "image".
        records: training records of the checkpoints to be attacked; of a data set without a test split that is theirs,
            only rows held out from their training are drawn.

    Raises:
        TypeError: for a data set of another type.
        ValueError: for a split or column that does not exist, or no rows.
        OSError: the data set does not exist.
    """
    dataset, name, split, description = _read(options, task, records)
    if not len(dataset):
        raise ValueError(f"the data set {name} has no rows")
    column, label = _columns(dataset, options, task) if split is None else (task, "label")
    # Formats and transforms are for training; an attack wants rows as they are stored.
    dataset = dataset.with_format(None)
    if isinstance(dataset.features[column], Image):
        # Decoded one by one when they are attacked, so that a corrupt image costs only itself.
        dataset = dataset.cast_column(column, Image(decode=False))
    feature = dataset.features[label]
    numbers = read_labels(dataset, label)
    drawn = Dataset.from_dict({"label": numbers, "row": range(len(numbers))})
    if options.num_examples is not None:
        drawn = subset(drawn, options.num_examples, options.seed, options.how)
    rows = list(drawn["row"])
    pair = ["text_pair"] if column == "text" and "text_pair" in dataset.column_names else []
    keep = dataset.select_columns([column, *pair])
    return Sample(
        options=options,
        task=task,
        dataset=keep if column == task else keep.rename_column(column, task),
        name=name,
        split=split,
        description=f"{len(rows):,} of {len(dataset):,} rows: {description}",
        rows=rows,
        labels=list(drawn["label"]),
        class_names=list(feature.names) if isinstance(feature, ClassLabel) else [],
    )


def _read(
    options: SampleOptions, task: Task, records: Sequence[TrainingRecord]
) -> tuple[Dataset, str, str | None, str]:
    """Return the rows to draw from, and the data set's name, split and description."""
    dataset = options.dataset
    if isinstance(dataset, (str, Path)):
        found = load_evaluation(
            dataset,
            split=options.split,
            records=records,
            label_column=options.label_column,
            column_names=options.column_names,
            config_name=options.config_name,
            medium=task,
            text_column=options.column if task == "text" else None,
            image_column=str(options.column) if task == "image" and options.column else None,
        )
        return found.dataset, found.name, found.split, found.description
    if isinstance(dataset, (dict, DatasetDict)):
        raise TypeError(f"dataset has the splits {', '.join(dataset)}: give one of them")
    if options.split is not None:
        raise ValueError(f"split is {options.split!r}, but dataset is in memory and has no splits")
    dataset = materialize(dataset, options.num_examples if options.how == "first" else None)
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset must be a name, a path or a datasets.Dataset, but is a {type(dataset).__name__}")
    return dataset, "in memory", None, "a data set in memory"


def _columns(dataset: Dataset, options: SampleOptions, task: Task) -> tuple[str, str]:
    column = options.column
    if column is not None and not isinstance(column, str):
        raise ValueError(f"{task}_column must name one column of a data set in memory, but is {column!r}")
    if column is None and task == "image":  # in memory images may be arrays, whose type is that of any list
        column = next((name for name in IMAGE_COLUMNS if name in dataset.column_names), None)
    return find_column(dataset, task, column), find_column(dataset, "label", options.label_column)


def check_counts(at_least: int = 1, **counts: int | None) -> None:
    """Raise ValueError for an argument that is neither None nor a whole number of at least ``at_least``."""
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or value < at_least):
            raise ValueError(f"{name} must be a whole number of at least {at_least}, but is {value!r}")
