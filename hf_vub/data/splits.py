"""Named or local data sets as splits ready for a model.

`load_splits` reads what is trained on, `load_evaluation` what is tested or attacked. Which rows are held out is a
function of the data set alone: every command that reads the same data set holds out the same rows. Columns are always
called ``text`` (and ``text_pair``) or ``image``, and ``label``.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict
from numpy.typing import NDArray

from ..runs.provenance import public_name
from .classes import to_class_labels
from .columns import Columns, Medium, arrow_column, canonical, find_column, find_sources, is_text
from .image_folders import anchor_images
from .reading import RawSplits, read_splits
from .record import TrainingRecord, row_digests

logger = logging.getLogger(__name__)

HOLD_OUT = 0.2
"""Share of the rows held out as the test split of a data set that has none."""

_SPLIT_SEED = 0


class Splits(DatasetDict):
    """The splits of one data set, with where their rows come from.

    Attributes:
        name: of the data set, as the user gave it.
        origin: where the rows of each split come from, such as "20% of split 'train', stratified, split seed 0".
        digest: sha256 of the content and labels of all rows as read, before any row is held out or left out. It
            depends neither on file names nor on times.
    """

    def __init__(
        self, splits: Mapping[str, Dataset], name: str, origin: Mapping[str, str], whole: Mapping[str, Dataset]
    ) -> None:
        super().__init__(splits)
        self.name = name
        self.origin = dict(origin)
        self._whole = dict(whole)

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of all rows as read (hexadecimal)."""
        content = hashlib.sha256()
        for split, dataset in sorted(self._whole.items()):
            if len(self._whole) > 1:  # the name of a single file decides nothing
                content.update(split.encode())
            content.update(json.dumps(dataset.features["label"].names).encode())
            content.update(row_digests(dataset).astype("<i8").tobytes())
            content.update(read_labels(dataset).astype("<i8").tobytes())
        return content.hexdigest()

    def described(self) -> str:
        """Return the rows that are trained, selected and tested on, in words, as results state them."""
        uses = {"train": "trained on", "validation": "selected on", "test": "tested on"}
        return "; ".join(f"{uses[split]} {len(rows):,} rows ({self.origin[split]})" for split, rows in self.items())

    def __missing__(self, split: str) -> Dataset:
        raise ValueError(f"{self.name} has no {split} split, only {', '.join(self)}")


@dataclass(frozen=True)
class Evaluation:
    """The rows on which a model is tested or attacked.

    Attributes:
        dataset: rows with the columns text (and text_pair) or image, and label (ClassLabel).
        name: of the data set, as the user gave it.
        split: the data set's own name of the split, "held-out" or "all".
        description: which rows these are, and how many.
    """

    dataset: Dataset
    name: str
    split: str
    description: str


def load_splits(
    name_or_path: str | Path,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    column_names: str | Sequence[str] | None = None,
    medium: Medium | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    max_train: int | None = None,
    max_test: int | None = None,
    hold_out: float = HOLD_OUT,
    validation: float = 0.0,
    seed: int = 0,
) -> Splits:
    """Read a classification data set and return its splits "train", "validation" and "test", as far as it has them.

    Held-out rows, for a missing test split and for validation, are stratified by class and drawn with a fixed seed:
    they depend on the data set alone.

    Args:
        name_or_path: "synthetic-reviews" or "digits" (built in); a parquet, CSV, TSV, JSON or JSON-lines file; a folder
            of such files named train*, test*, validation* or val*; a folder of class folders of images, or of such
            folders called train, test, validation or val; a ``save_to_disk`` folder; or a name on the Hub.
        train_split, test_split: what the two splits are called there. Without a test split the validation split is
            the test split.
        text_column: of the texts; the usual names are recognised. ``["premise", "hypothesis"]`` (or
            ``"premise,hypothesis"``) makes pairs, which tokenizers mark as such; ``"title+body"`` joins columns with a
            blank.
        label_column, image_column: what these columns are called there; the usual names are recognised.
        column_names: names of all columns of a CSV or TSV file without a header, as a list or with commas.
        medium: "text" or "image", where only one will do; by default a column of images comes first.
        config_name, revision: of a Hub data set.
        max_train, max_test: rows kept, drawn by label with ``seed`` (see `subset`). Validation rows carved from the
            training rows count as training rows.
        hold_out: share of the training rows that becomes the test split where the data has no other split; with 0
            the only split is the test split and there is no training split.
        validation: share of the training rows that becomes the validation split where the data has none to spare.
        seed: draws ``max_train`` and ``max_test`` rows, and decides nothing else.

    Returns:
        Splits with the columns "text" (and "text_pair") or "image", and "label" (ClassLabel: names are sorted; numbers
        are sorted and called by their value).

    Raises:
        FileNotFoundError: nothing of that name.
        ValueError: a file, split or column that is not there or cannot be read, no rows, missing texts, labels missing
            or unknown to training, an image outside the data set's folder.

    Example:
        >>> load_splits("synthetic-reviews", max_train=100)["train"].column_names
        ['text', 'label']
    """
    for option, share in (("hold_out", hold_out), ("validation", validation)):
        if not 0 <= share < 1:
            raise ValueError(f"{option} must be at least 0 and less than 1, but is {share}")
    for option, most in (("max_train", max_train), ("max_test", max_test)):
        if most is not None and most < 1:
            raise ValueError(f"{option} must be at least 1, but is {most}")
    name = str(name_or_path)
    columns = Columns(text_column, label_column, image_column, medium)
    raw = read_splits(name, config_name, revision, column_names, columns.named())
    named = _name_splits(raw.splits, name, train_split, test_split)
    whole = _canonical(raw, named, name, columns)
    splits = dict(whole)
    origin = {split: f"split {theirs!r}" for split, theirs in named.items()}
    if "test" not in splits:
        if hold_out == 0:
            splits["test"], origin["test"] = splits.pop("train"), origin.pop("train")
        else:
            _carve(splits, origin, name, "test", hold_out)
    carved = validation > 0 and "train" in splits and "validation" not in splits
    if carved:
        _carve(splits, origin, name, "validation", validation)
    wanted = {"train": max_train, "test": max_test}
    if carved and max_train is not None:
        if max_train < 2:
            raise ValueError(f"max_train is {max_train}: at least 2 rows are needed for training and validation")
        rows = min(max_train - 1, max(1, round(max_train * validation)))
        wanted |= {"validation": rows, "train": max_train - rows}
    for split, most in wanted.items():
        if most is not None and most < len(splits.get(split, ())):
            origin[split] += f", {most:,} of {len(splits[split]):,} rows drawn with seed {seed}"
            splits[split] = subset(splits[split], most, seed)
    order = [split for split in ("train", "validation", "test") if split in splits]
    return Splits({split: splits[split] for split in order}, name, {split: origin[split] for split in order}, whole)


def load_evaluation(
    name_or_path: str | Path,
    *,
    split: str | None = None,
    records: Sequence[TrainingRecord] = (),
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    column_names: str | Sequence[str] | None = None,
    medium: Medium | None = None,
    config_name: str | None = None,
    revision: str | None = None,
) -> Evaluation:
    """Read the rows of a data set on which models are tested or attacked.

    These are the split that the user names, else the test split, else the validation split. A data set without either
    is evaluated whole, unless one of the models was trained on it: then on the rows that `load_splits` held out.

    Args:
        name_or_path, text_column, label_column, image_column, column_names, medium, config_name, revision: see
            `load_splits`.
        split: name of a split of the data set.
        records: of the models under evaluation, as far as they have one.

    Raises:
        FileNotFoundError, ValueError: as `load_splits`.

    Example:
        >>> load_evaluation("synthetic-reviews").description
        "split 'test' of synthetic-reviews (1,000 rows)"
    """
    name = str(name_or_path)
    columns = Columns(text_column, label_column, image_column, medium)
    raw = read_splits(name, config_name, revision, column_names, columns.named())
    if split is not None and split not in raw.splits:
        raise ValueError(f"split is {split!r}, but {name} has the splits {', '.join(map(str, raw.splits))}")
    named = _name_splits(raw.splits, name, None, split)
    whole = _canonical(raw, named, name, columns)
    shown = public_name(name)
    if "test" in whole:
        rows, theirs = whole["test"], named["test"]
        return Evaluation(rows, name, theirs, f"split {theirs!r} of {shown} ({len(rows):,} rows)")
    rows = whole["train"]
    digest = Splits(whole, name, {}, whole).digest if records else None
    if all(record.digest != digest for record in records):
        return Evaluation(rows, name, "all", f"all {len(rows):,} rows of {shown}")
    splits, origin = dict(whole), {"train": f"split {named['train']!r}"}
    _carve(splits, origin, name, "test", HOLD_OUT)
    held_out = splits["test"]
    described = f"the rows of {shown} held out of training ({len(held_out):,} of {len(rows):,}: {origin['test']})"
    return Evaluation(held_out, name, "held-out", described)


def label_names(dataset: Dataset | DatasetDict) -> list[str]:
    """Return the class names of a data set, in the order of their numbers."""
    one = next(iter(dataset.values())) if isinstance(dataset, DatasetDict) else dataset
    feature = one.features[find_column(one, "label")]
    if not isinstance(feature, ClassLabel):
        raise ValueError(f"the labels are {feature} and have no names: make them a ClassLabel")
    return list(feature.names)


def read_labels(dataset: Dataset, column: str | None = None) -> NDArray[np.int64]:
    """Return the labels (rows,) without decoding texts or images; a missing label is -1.

    Raises:
        ValueError: no label column, or one that does not hold whole numbers.
    """
    column = column or find_column(dataset, "label")
    values = arrow_column(dataset, column).combine_chunks()
    if is_text(dataset.features[column]):
        raise ValueError(
            f"column {column!r} holds names; number them first: dataset = dataset.class_encode_column({column!r})"
        )
    if not (pa.types.is_integer(values.type) or pa.types.is_boolean(values.type) or pa.types.is_null(values.type)):
        raise ValueError(f"column {column!r} must hold whole numbers as labels, but holds {values.type} values")
    return np.asarray(values.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def check_labels(dataset: Dataset, num_labels: int, column: str | None = None) -> None:
    """Raise ValueError naming the first row whose label is missing or outside 0..num_labels-1."""
    column = column or find_column(dataset, "label")
    values = read_labels(dataset, column)
    wrong = np.flatnonzero((values < 0) | (values >= num_labels))
    if len(wrong):
        raise ValueError(
            f"row {wrong[0]} has {column} {values[wrong[0]]}, outside 0..{num_labels - 1} "
            f"({len(wrong)} of {len(values)} rows are outside)"
        )


def subset(dataset: Dataset, num_examples: int, seed: int = 0, how: str = "stratified") -> Dataset:
    """Return exactly ``num_examples`` rows in their original order, or all where there are no more.

    ``how="stratified"`` draws with ``seed``, each class in proportion to its size (the rest goes to the largest
    remainders, ties drawn); ``how="first"`` takes the first rows, which in a file sorted by class are of one class.
    """
    if how not in ("stratified", "first"):
        raise ValueError(f'how must be "stratified" or "first", but is {how!r}')
    if num_examples < 1:
        raise ValueError(f"num_examples must be at least 1, but is {num_examples}")
    if num_examples >= len(dataset):
        return dataset
    if how == "first":
        return dataset.select(range(num_examples))
    return dataset.select(_draw(read_labels(dataset), num_examples, seed))


def _name_splits(
    found: Mapping[str, Dataset], name: str, train_split: str | None, test_split: str | None
) -> dict[str, str]:
    """Return what the data set calls its train, validation and test splits, as far as it has them."""
    for option, split in (("train_split", train_split), ("test_split", test_split)):
        if split is not None and split not in found:
            raise ValueError(f"{option} is {split!r}, but {name} has the splits {', '.join(map(str, found))}")
    if test_split is None:
        test_split = next((split for split in ("test", "validation") if split in found and split != train_split), None)
    if train_split is None and test_split != "train":
        train_split = "train" if "train" in found else None
    if train_split is None and test_split is None:
        raise ValueError(f"{name} has the splits {', '.join(map(str, found))}: name one")
    chosen = {"train": train_split, "test": test_split}
    if "validation" in found and "validation" not in chosen.values():
        chosen["validation"] = "validation"
    for theirs in chosen.values():
        if theirs is not None and not len(found[theirs]):
            raise ValueError(f"{name}: split {theirs!r} has no rows")
    return {ours: theirs for ours, theirs in chosen.items() if theirs is not None}


def _carve(splits: dict[str, Dataset], origin: dict[str, str], name: str, split: str, share: float) -> None:
    """Move a stratified share of the training rows to a split that the data set does not have."""
    train = splits["train"]
    rows = max(1, round(len(train) * share))
    if rows >= len(train):
        raise ValueError(f"{name} has {len(train)} rows, too few to hold out {share} of them for the {split} split")
    logger.info("%s has no %s split: %d of its rows are held out for it", name, split, rows)
    chosen = _draw(read_labels(train), rows, _SPLIT_SEED)
    splits["train"] = train.select(np.setdiff1d(np.arange(len(train)), chosen))
    splits[split] = train.select(chosen)
    origin[split] = f"{100 * share:g}% of {origin['train']}, stratified, split seed {_SPLIT_SEED}"
    origin["train"] += f" {'and' if ' without ' in origin['train'] else 'without'} the {split} rows"


def _canonical(raw: RawSplits, named: Mapping[str, str], name: str, columns: Columns) -> dict[str, Dataset]:
    """Return the named splits with the columns of `canonical`, images that can be decoded, and ClassLabels."""
    try:
        sources = find_sources(raw.splits[next(iter(named.values()))], columns)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    result = {}
    for split, theirs in named.items():
        where = f"{name}: split {theirs!r}"
        rows = canonical(raw.splits[theirs], sources, where)
        result[split] = anchor_images(rows, where, raw.resolve) if "image" in sources.inputs else rows
    return to_class_labels(result, name)


def _draw(labels: NDArray[np.int64], num_examples: int, seed: int) -> NDArray[np.int64]:
    """Return the sorted rows of a stratified sample of exactly ``num_examples``."""
    rng = np.random.default_rng(seed)
    classes, members = np.unique(labels, return_inverse=True)
    counts = np.bincount(members)
    shares = counts * (num_examples / len(labels))
    quota = np.floor(shares).astype(int)
    remainders = np.lexsort((rng.random(len(classes)), -np.round(shares - quota, 9)))
    quota[remainders[: num_examples - quota.sum()]] += 1
    chosen = [
        rng.choice(np.flatnonzero(members == k), quota[k], replace=False) for k in range(len(classes)) if quota[k]
    ]
    return np.sort(np.concatenate(chosen))
