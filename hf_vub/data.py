"""Named or local data sets as splits ready for a model.

`load_splits` reads, `subset` draws, `check_labels` refuses early what would fail late, `tokenize` and `image_transform`
turn rows into model inputs. Columns are always called ``text`` or ``image``, and ``label``.
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
    IterableDataset,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError
from numpy.typing import NDArray

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


def tokenize(
    dataset: Dataset | IterableDataset, tokenizer: Any, max_length: int | None = None
) -> Dataset | IterableDataset:
    """Token ids for every text, truncated to ``max_length`` and not padded: the collator pads each batch.

    Returns:
        Columns ``input_ids``, ``attention_mask`` (and ``token_type_ids`` where the tokenizer makes them), ``labels``
        and ``length`` (tokens, for grouping by length). Texts go through `clean_text`; one without any token becomes
        a single end-of-sequence (or padding) token, since a model cannot read nothing.
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, but is {max_length}")
    if max_length is None and tokenizer.model_max_length < 1_000_000:  # huge numbers stand for "no limit"
        max_length = tokenizer.model_max_length
    options: dict[str, Any] = {"desc": "tokenizing"} if isinstance(dataset, Dataset) else {}
    return dataset.map(
        _encode,
        batched=True,
        remove_columns=dataset.column_names or ["text", "label"],
        fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
        **options,
    )


def clean_text(text: str) -> str:
    """The text as every tokenizer takes it: surrogate pairs joined, a lone surrogate replaced by U+FFFD.

    Everything else stays, NUL among it: tokenizers drop it (BERT) or have a token for it (byte-level BPE).
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class image_transform:
    """What ``dataset.set_transform`` calls to turn rows {"image", "label"} into {"pixel_values", "labels"}.

    With ``train=False`` the pixels are exactly those of ``processor``. With ``train=True`` the image is cropped at
    random first (up to 64 px: shifted by an eighth of its size over a black border, as is usual for CIFAR; larger: a
    quarter to all of its area in an aspect ratio of 3/4 to 4/3, as is usual for ImageNet) and mirrored half of the time
    (``flip=False`` for images such as digits, which have a left and a right). Randomness comes from torch's generator.
    Give the Trainer ``remove_unused_columns=False``: the image column is used here and not by the model.

    Example:
        >>> splits["train"].set_transform(image_transform(processor, train=True))
    """

    def __init__(self, processor: Any, train: bool = False, flip: bool = True) -> None:
        self.processor, self.train, self.flip = processor, train, flip
        if train:
            try:
                import torchvision  # noqa: F401
            except ImportError as error:
                raise ImportError('image augmentation needs torchvision: pip install "hf_vub[vision]"') from error

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        """Pixels and labels of a batch of rows."""
        if "image" not in batch:
            raise ValueError(f'rows must have a column "image", but have {", ".join(batch) or "none"}')
        images = [to_rgb(image) for image in batch["image"]]
        if self.train:
            images = [self._augment(image) for image in images]
        result = {"pixel_values": self.processor(images, return_tensors="pt")["pixel_values"]}
        if "label" in batch:
            result["labels"] = [int(label) for label in batch["label"]]
        return result

    def _augment(self, image: Any) -> Any:
        import torch
        from torchvision.transforms import RandomCrop, RandomResizedCrop
        from torchvision.transforms import functional as F

        if max(image.size) <= 64:
            width, height = image.size
            image = RandomCrop((height, width), padding=(width // 8, height // 8))(image)
        else:
            image = F.crop(image, *RandomResizedCrop.get_params(image, [0.25, 1.0], [3 / 4, 4 / 3]))
        return F.hflip(image) if self.flip and torch.rand(()) < 0.5 else image


def to_rgb(image: Any) -> Any:
    """Any PIL image (or array of bytes) as upright 8-bit RGB: EXIF rotation applied, 16-bit and float values scaled.

    Alpha is dropped, and of an animation the current frame is taken. Sides under 4 px are stretched to 4: with fewer,
    image processors mistake rows for colour channels.
    """
    from PIL import Image as PillowImage
    from PIL import ImageOps

    if not isinstance(image, PillowImage.Image):
        image = PillowImage.fromarray(np.asarray(image, dtype=np.uint8))
    if image.mode != "RGB" or image.getexif():
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = 255.0 if 1 < values.max() <= 255 else 1.0 if values.max() <= 1 and image.mode == "F" else 65535.0
        image = PillowImage.fromarray(np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if min(image.size) < 4:
        image = image.resize((max(4, image.width), max(4, image.height)))
    return image


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
    if (path / "dataset_dict.json").is_file():
        return dict(load_from_disk(str(path)))
    if (path / "state.json").is_file():
        return {"train": load_from_disk(str(path))}
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


def _encode(batch: Mapping[str, list[Any]], tokenizer: Any, max_length: int | None) -> dict[str, Any]:
    texts = [clean_text(text) for text in batch["text"]]
    encoded = dict(tokenizer(texts, truncation=max_length is not None, max_length=max_length))
    candidates = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    for row, ids in enumerate(encoded["input_ids"]):
        if not ids:
            encoded["input_ids"][row] = [next((token for token in candidates if token is not None), 0)]
            encoded["attention_mask"][row] = [1]
            if "token_type_ids" in encoded:
                encoded["token_type_ids"][row] = [0]
    if "label" in batch:
        encoded["labels"] = list(batch["label"])
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    return encoded
