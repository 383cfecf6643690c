"""Named or local data sets as splits ready for a model.

`load_splits` reads, `subset` draws, `check_labels` refuses early what would fail late. Columns are always called
``text`` or ``image``, and ``label``.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError
from numpy.typing import NDArray

from .preprocessing import keep_from_programs

logger = logging.getLogger(__name__)

BUILT_IN = ("synthetic-reviews", "digits")

_TEXT_NAMES = ("text", "sentence", "review", "content")
_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "category", "fine_label")
_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
_SPLIT_OF_FILE = re.compile(r"(train|test|validation|valid|val|dev)(?![a-z])", re.IGNORECASE)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_MAX_CLASSES = 1_000_000
_UNLABELLED = "-1 stands for no label, so name a labelled split"


def load_splits(
    name_or_path: str | Path,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    max_train: int | None = None,
    max_test: int | None = None,
    hold_out: float = 0.2,
    seed: int = 0,
) -> DatasetDict:
    """Read a classification data set and give its splits "train" and "test", and "validation" where it has one.

    Args:
        name_or_path: "synthetic-reviews" or "digits" (built in); a parquet, CSV, TSV, JSON or JSON-lines file; a folder
            of such files named train*, test*, validation* or val*; a folder of class folders of images, or of such
            folders called train, test, validation or val; a ``save_to_disk`` folder; or a name on the Hub.
        train_split, test_split: what the two splits are called there. Without a test split the validation split is
            the test split.
        text_column, label_column, image_column: what the columns are called there; the usual names are recognised.
        config_name, revision: of a Hub data set.
        max_train, max_test: rows kept, drawn by label with ``seed`` (see `subset`).
        hold_out: share of the training rows that becomes the test split where the data has no other split; with 0
            the only split is the test split and there is no training split.
        seed: of every draw made here.

    Returns:
        Splits with the columns "text" or "image", and "label" (ClassLabel: class names that are strings are sorted,
        numbers keep their value and are called by it).

    Raises:
        FileNotFoundError: nothing of that name.
        ValueError: a split or column that is not there, no rows, missing texts, labels missing or out of range.

    Example:
        >>> load_splits("synthetic-reviews", max_train=100)["train"].column_names
        ['text', 'label']
    """
    if not 0 <= hold_out < 1:
        raise ValueError(f"hold_out must be at least 0 and less than 1, but is {hold_out}")
    keep_from_programs()
    name = str(name_or_path)
    found = _read(name, config_name, revision, seed)
    splits = _name_splits(found, name, train_split, test_split)
    for split, dataset in splits.items():
        if not len(dataset):
            raise ValueError(f"{name}: split {split!r} has no rows")
    splits = _canonical_columns(splits, name, text_column, label_column, image_column)
    splits = _class_labels(splits, name)
    if "test" not in splits:
        train = splits.pop("train")
        if hold_out == 0:
            splits["test"] = train
        else:
            rows = max(1, round(len(train) * hold_out))
            if rows >= len(train):
                raise ValueError(
                    f"{name} has {len(train)} rows, too few to hold out {hold_out} of them for the test split"
                )
            logger.info("%s has no test split: %d of its rows are held out for it", name, rows)
            chosen = _draw(read_labels(train), rows, seed)
            splits["train"] = train.select(np.setdiff1d(np.arange(len(train)), chosen))
            splits["test"] = train.select(chosen)
    for split, rows_kept in (("train", max_train), ("test", max_test)):
        if split in splits and rows_kept is not None:
            splits[split] = subset(splits[split], rows_kept, seed)
    return DatasetDict({split: splits[split] for split in ("train", "validation", "test") if split in splits})


def label_names(dataset: Dataset | DatasetDict) -> list[str]:
    """The class names of a data set, in the order of their numbers."""
    one = next(iter(dataset.values())) if isinstance(dataset, DatasetDict) else dataset
    feature = one.features[_label_column(one)]
    if not isinstance(feature, ClassLabel):
        raise ValueError(f"the labels are of type {feature.dtype} and have no names: make them a ClassLabel")
    return list(feature.names)


def read_labels(dataset: Dataset, column: str | None = None) -> NDArray[np.int64]:
    """The labels (rows,) of a data set, without decoding its texts or images; a missing label is -1."""
    column = column or _label_column(dataset)
    table = dataset.select_columns([column]).with_format("arrow")[:]
    values = table[column].combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False)
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"column {column!r} must hold whole numbers as labels, but holds {values.dtype} values")
    return np.asarray(values, dtype=np.int64)


def check_labels(dataset: Dataset, num_labels: int, column: str | None = None) -> None:
    """Refuse labels that a model with ``num_labels`` classes cannot be trained or scored on.

    Raises:
        ValueError: naming the first row whose label is missing or outside 0..num_labels-1.
    """
    column = column or _label_column(dataset)
    values = read_labels(dataset, column)
    wrong = np.flatnonzero((values < 0) | (values >= num_labels))
    if len(wrong):
        raise ValueError(
            f"row {wrong[0]} has {column} {values[wrong[0]]}, outside 0..{num_labels - 1} "
            f"({len(wrong)} of {len(values)} rows are outside)"
        )


def subset(dataset: Dataset, num_examples: int, seed: int = 0, how: str = "stratified") -> Dataset:
    """Exactly ``num_examples`` rows in their original order, or all where there are no more.

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


# Reading


def _read(name: str, config_name: str | None, revision: str | None, seed: int) -> dict[str, Dataset]:
    """Every split of a data set under the name it has there."""
    if name in BUILT_IN:
        from .synthetic import digits, reviews

        return dict(reviews(seed=seed) if name == "synthetic-reviews" else digits(seed=seed))
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() not in _BUILDERS:
            raise ValueError(f"{name} must be one of {', '.join(_BUILDERS)}, but is a {path.suffix or 'nameless'} file")
        return _read_tables({_split_of(path.stem): [path]})
    if path.is_dir():
        return _read_folder(path)
    if name.startswith((".", "/", "~")) or path.suffix.lower() in _BUILDERS or not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(f"no file or folder {name}, and it is not a name on the Hub")
    try:
        return dict(load_dataset(name, config_name, revision=revision))
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name} is neither built in ({', '.join(BUILT_IN)}), nor a file or folder here, "
            f"nor could it be had from the Hub: {error}"
        ) from error


def _read_folder(path: Path) -> dict[str, Dataset]:
    try:
        if (path / "dataset_dict.json").is_file():
            return dict(load_from_disk(str(path)))
        if (path / "state.json").is_file():
            return {"train": load_from_disk(str(path))}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole folder of save_to_disk: {error}") from error
    tables = [file for pattern in ("*", "*/*") for file in sorted(path.glob(pattern)) if file.suffix in _BUILDERS]
    if tables:
        by_split: dict[str, list[Path]] = {}
        for file in tables:
            inside = file.relative_to(path)
            split = _split_of(inside.parts[0]) if len(inside.parts) > 1 else None
            by_split.setdefault(split or _split_of(file.stem) or "train", []).append(file)
        return _read_tables(by_split)
    folders = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not folders:
        shown = ", ".join(sorted(child.name for child in path.iterdir())[:10])
        raise ValueError(f"{path} must hold tables or folders of images, but holds {shown or 'nothing'}")
    splits = {split: folder for folder in folders if (split := _split_of(folder.name))}
    roots = splits if len(splits) == len(folders) else {"train": path}
    data_files = {split: [str(root.resolve() / "**")] for split, root in roots.items()}
    return _load("imagefolder", data_files, drop_labels=False)


def _read_tables(by_split: Mapping[str | None, list[Path]] | Mapping[str, list[Path]]) -> dict[str, Dataset]:
    suffixes = {file.suffix.lower() for files in by_split.values() for file in files}
    builders = {_BUILDERS[suffix] for suffix in suffixes}
    if len(builders) > 1:
        raise ValueError(f"the files of one data set must be of one kind, but are {', '.join(sorted(suffixes))}")
    data_files = {split or "train": [str(file.resolve()) for file in files] for split, files in by_split.items()}
    options = {"sep": "\t"} if suffixes == {".tsv"} else {}
    return _load(builders.pop(), data_files, **options)


def _load(builder: str, data_files: dict[str, list[str]], **options: Any) -> dict[str, Dataset]:
    where = ", ".join(Path(files[0]).name for files in data_files.values())
    try:
        return dict(load_dataset(builder, data_files=data_files, **options))
    except (DatasetGenerationError, ValueError, StopIteration) as error:
        if "no data" in str(error) or isinstance(error, StopIteration):
            raise ValueError(f"{where}: a split has no rows") from error
        raise ValueError(f"{where} cannot be read as {builder}: {error.__cause__ or error}") from error


def _split_of(name: str) -> str | None:
    """The split that the beginning of a file or folder name speaks of."""
    match = _SPLIT_OF_FILE.match(name)
    if not match:
        return None
    word = match.group(1).lower()
    return word if word in ("train", "test") else "validation"


def _name_splits(
    found: Mapping[str, Dataset], name: str, train_split: str | None, test_split: str | None
) -> dict[str, Dataset]:
    for option, split in (("train_split", train_split), ("test_split", test_split)):
        if split is not None and split not in found:
            raise ValueError(f"{option} is {split!r}, but {name} has the splits {', '.join(map(str, found))}")
    if test_split is None:
        test_split = next((split for split in ("test", "validation") if split in found), None)
    if train_split is None:
        train_split = "train" if "train" in found else None
    if train_split is None and test_split is None:
        raise ValueError(f"{name} has the splits {', '.join(map(str, found))}: name train_split and test_split")
    chosen = {"train": train_split, "test": test_split}
    if test_split != "validation" and train_split != "validation" and "validation" in found:
        chosen["validation"] = "validation"
    return {ours: found[theirs] for ours, theirs in chosen.items() if theirs is not None}


# Columns and labels


def _canonical_columns(
    splits: Mapping[str, Dataset], name: str, text: str | None, label: str | None, image: str | None
) -> dict[str, Dataset]:
    """Every split with the columns text or image, and label, and no others."""
    if text is not None and image is not None:
        raise ValueError(f"text_column is {text!r} and image_column is {image!r}: name only the one to classify")
    features = next(iter(splits.values())).features
    listed = ", ".join(features)
    for option, column in (("text_column", text), ("image_column", image), ("label_column", label)):
        if column is not None and column not in features:
            raise ValueError(f"{option} is {column!r}, but {name} has the columns {listed}")
    if text is None and image is None:
        images = [column for column, feature in features.items() if isinstance(feature, Image)]
        strings = [column for column, feature in features.items() if _is_text(feature)]
        image = _pick(_IMAGE_NAMES, images)
        text = None if image else _pick(_TEXT_NAMES, [column for column in strings if column != label])
        if text is None and image is None:
            raise ValueError(f"{name} has no text or image column that is recognised among {listed}: name text_column")
    label = label or _pick(_LABEL_NAMES, list(features), only=False)
    if label is None:
        named = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
        label = named[0] if len(named) == 1 else None
    if label is None:
        raise ValueError(f"{name} has no label column that is recognised among {listed}: name label_column")
    source, target = (image, "image") if image else (text, "text")
    result = {}
    for split, dataset in splits.items():
        missing = [column for column in (source, label) if column not in dataset.column_names]
        if missing:
            raise ValueError(
                f"{name}: split {split!r} has no column {missing[0]!r}, only {', '.join(dataset.features)}"
            )
        kept = dataset.select_columns([source, label])
        kept = kept.rename_columns({old: new for old, new in ((source, target), (label, "label")) if old != new})
        if target == "text":
            _check_texts(kept, f"{name}: split {split!r}")
        elif not isinstance(kept.features["image"], Image):
            kept = kept.cast_column("image", Image())
        result[split] = kept
    return result


def _pick(usual: Iterable[str], columns: list[str], only: bool = True) -> str | None:
    """The first usual name among the columns, in any case, else the only column there is."""
    by_name = {column.lower(): column for column in columns}
    named = next((by_name[name] for name in usual if name in by_name), None)
    return named or (columns[0] if only and len(columns) == 1 else None)


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _check_texts(dataset: Dataset, where: str) -> None:
    if not _is_text(dataset.features["text"]):
        raise ValueError(f"{where}: the text column must hold strings, but holds {dataset.features['text']}")
    column = dataset.select_columns(["text"]).with_format("arrow")[:]["text"]
    if column.null_count:
        row = column.is_null().to_numpy().argmax()
        raise ValueError(f"{where}: row {row} has no text ({column.null_count} of {len(column)} rows have none)")


def _class_labels(splits: Mapping[str, Dataset], name: str) -> dict[str, Dataset]:
    """Every split with one and the same ClassLabel, and no label outside it."""
    feature = next(iter(splits.values())).features["label"]
    if isinstance(feature, ClassLabel):
        labels = feature
    elif _is_text(feature):
        sets = {split: _unique(dataset, f"{name}: split {split!r}") for split, dataset in splits.items()}
        known = sets.get("train") or set().union(*sets.values())
        for split, values in sets.items():
            if values - known:
                raise ValueError(
                    f"{name}: split {split!r} has labels that training has not: {sorted(values - known)[:5]}"
                )
        labels = ClassLabel(names=sorted(known))
    elif isinstance(feature, Value) and re.match(r"u?int|float|bool", feature.dtype):
        values = set().union(*(_unique(data, f"{name}: split {split!r}") for split, data in splits.items()))
        if any(value != int(value) for value in values):
            raise ValueError(f"{name}: labels must be classes, but are numbers such as {sorted(values)[:3]}")
        if min(values) < 0:
            raise ValueError(f"{name}: labels must be 0, 1, 2, ..., but one is {int(min(values))}: {_UNLABELLED}")
        if max(values) >= _MAX_CLASSES:
            raise ValueError(f"{name}: labels must be less than {_MAX_CLASSES}, but go up to {int(max(values))}")
        numbered = ["False", "True"] if feature.dtype == "bool" else map(str, range(int(max(values)) + 1))
        labels = ClassLabel(names=list(numbered))
    else:
        raise ValueError(f"{name}: labels must be names or whole numbers, but are {feature}")
    result = {}
    for split, dataset in splits.items():
        if dataset.features["label"] != labels:
            dataset = _cast(dataset, labels)
        try:
            check_labels(dataset, labels.num_classes, "label")
        except ValueError as error:
            hint = f": {_UNLABELLED}" if read_labels(dataset, "label").min() == -1 else ""
            raise ValueError(f"{name}: split {split!r}: {error}{hint}") from None
        result[split] = dataset
    return result


def _unique(dataset: Dataset, where: str) -> set[Any]:
    values = set(dataset.unique("label"))
    if None in values or any(value != value for value in values):
        raise ValueError(f"{where} has rows without a label")
    return values


def _cast(dataset: Dataset, labels: ClassLabel) -> Dataset:
    """The data set with its labels, names or numbers, as ``labels``; texts and images are not copied."""
    values = dataset.select_columns(["label"])[:]["label"]
    numbers = [labels.str2int(value) if isinstance(value, str) else int(value) for value in values]
    column = Dataset.from_dict({"label": numbers}, features=Features({"label": labels}))
    return concatenate_datasets([dataset.remove_columns("label"), column], axis=1)


def _label_column(dataset: Dataset) -> str:
    for column in ("labels", "label"):
        if column in dataset.column_names:
            return column
    raise ValueError(f'there must be a column "label" or "labels", but there are {", ".join(dataset.column_names)}')


def _draw(labels: NDArray[np.int64], num_examples: int, seed: int) -> NDArray[np.int64]:
    """Sorted rows of a stratified sample of exactly ``num_examples``."""
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
