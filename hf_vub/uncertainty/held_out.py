"""The rows that a checkpoint may be calibrated on: held out from its training, with the labels numbered as its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray

from ..data.classes import to_class_labels
from ..data.columns import Columns, canonical, find_sources
from ..data.record import TrainingRecord, row_digests
from ..data.splits import load_evaluation, load_splits
from ..model.loading import Task
from ..runs.provenance import public_name


@dataclass(frozen=True)
class HeldOut:
    """Rows for calibration.

    Attributes:
        dataset: columns text (and text_pair) or image, and label.
        name: of the data set.
        split: the data set's name of the split, or "validation".
        description: which rows these are, and how many.
        left_out: rows of the split left out because the model was trained on them.
    """

    dataset: Dataset
    name: str
    split: str
    description: str
    left_out: int


@dataclass(frozen=True)
class RowSource:
    """A data set as the user named it.

    Attributes:
        dataset: a name or path, or rows in memory.
        task: "text" or "image".
        columns: those that the user named.
        column_names: names of all columns of a file without a header.
    """

    dataset: str | Path | Dataset
    task: Task
    columns: Columns
    column_names: str | Sequence[str] | None = None

    @property
    def name(self) -> str:
        """The name or path, "in memory" for rows."""
        return "in memory" if isinstance(self.dataset, Dataset) else str(self.dataset)


def held_out_rows(source: RowSource, split: str | None, record: TrainingRecord | None, model: str) -> HeldOut:
    """Return the rows to calibrate a checkpoint on.

    These are the rows of ``split`` where one is named, without any that the checkpoint was trained on; else the rows
    that the checkpoint was selected on, as its training record says; else the data set's validation split. Rows of a
    test split are taken only where ``split`` names it.

    Args:
        source: the data set.
        split: its split, if the user named one.
        record: of the checkpoint's training; None where it has none.
        model: name of the checkpoint, for errors.

    Raises:
        ValueError: there are no held-out rows, or no such split.
    """
    if isinstance(source.dataset, Dataset):
        if split is not None:
            raise ValueError(f"split is {split!r}, but dataset is in memory and has no splits")
        rows = canonical(source.dataset, find_sources(source.dataset, source.columns), "dataset")
        rows = to_class_labels({"rows": rows}, "dataset")["rows"]
        return _unseen(rows, source, "in memory", "a data set in memory", record, model)
    if split is not None:
        found = load_evaluation(
            source.dataset,
            split=split,
            medium=source.task,
            text_column=source.columns.text,
            label_column=source.columns.label,
            image_column=source.columns.image,
            column_names=source.column_names,
        )
        return _unseen(
            found.dataset, source, found.split, f"split {split!r} of {public_name(source.name)}", record, model
        )
    return _validation_rows(source, record, model)


def test_rows(source: RowSource, record: TrainingRecord | None) -> HeldOut:
    """Return the test rows of a data set, as attacks and trainings take them."""
    if isinstance(source.dataset, Dataset):
        raise ValueError("report_test needs the name or path of a data set; dataset is in memory and has no splits")
    found = load_evaluation(
        source.dataset,
        records=[] if record is None else [record],
        medium=source.task,
        text_column=source.columns.text,
        label_column=source.columns.label,
        image_column=source.columns.image,
        column_names=source.column_names,
    )
    return HeldOut(found.dataset, found.name, found.split, found.description, 0)


def _validation_rows(source: RowSource, record: TrainingRecord | None, model: str) -> HeldOut:
    assert not isinstance(source.dataset, Dataset)
    splits = load_splits(
        source.dataset,
        medium=source.task,
        text_column=source.columns.text,
        label_column=source.columns.label,
        image_column=source.columns.image,
        column_names=source.column_names,
    )
    present = [splits[name] for name in ("train", "validation") if name in splits]
    if record is not None and len(record.validation) and present:
        rows = concatenate_datasets(present) if len(present) > 1 else present[0]
        digests = row_digests(rows)
        chosen = np.isin(digests, record.validation) & ~np.isin(digests, record.train)
        if chosen.any():
            number = int(chosen.sum())
            described = f"the {number:,} rows of {public_name(source.name)} that the model was selected on"
            return HeldOut(rows.select(np.flatnonzero(chosen)), source.name, "validation", described, 0)
    if "validation" in splits:
        described = f"{splits.origin['validation']} of {public_name(source.name)}"
        return _unseen(splits["validation"], source, "validation", described, record, model)
    why = "has no record of its training rows" if record is None else "was selected on none of its rows"
    raise ValueError(
        f"there are no held-out rows: {source.name} has no validation split to spare, and {model} {why}; name a split "
        "that it was not trained on"
    )


def _unseen(
    rows: Dataset, source: RowSource, split: str, described: str, record: TrainingRecord | None, model: str
) -> HeldOut:
    """Return the rows that the checkpoint was not trained on."""
    if not len(rows):
        raise ValueError(f"there are no held-out rows: {described} has none")
    trained: NDArray[np.bool_] = np.zeros(len(rows), dtype=bool)
    if record is not None:
        trained = np.isin(row_digests(rows), record.train)
    if trained.all():
        raise ValueError(
            f"there are no held-out rows: {model} was trained on all {len(rows):,} rows of {described}; name another "
            "split"
        )
    left_out = int(trained.sum())
    seen = f", without {left_out:,} that the model was trained on" if left_out else ""
    kept = rows.select(np.flatnonzero(~trained))
    return HeldOut(kept, source.name, split, f"{described} ({len(kept):,} rows{seen})", left_out)
