"""Which columns of a data set hold its texts or images and its labels: one vocabulary and one rule for everybody."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image, Value, concatenate_datasets

Kind = Literal["text", "image", "label"]
Medium = Literal["text", "image"]

TEXT_COLUMNS = ("text", "sentence", "review", "content")
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "category", "fine_label")
MAX_TEXT_BYTES = 100_000_000
"""A longer text comes from a damaged file, such as one with a quote that never closes."""

_USUAL: Mapping[Kind, Sequence[str]] = {"text": TEXT_COLUMNS, "image": IMAGE_COLUMNS, "label": LABEL_COLUMNS}
_STRINGS = ("string", "large_string", "string_view")
_BINARY = (Value("binary"), Value("large_binary"))


class Columns(NamedTuple):
    """The columns that a user named, and the medium that is wanted, as far as either was said."""

    text: str | Sequence[str] | None = None
    label: str | None = None
    image: str | None = None
    medium: Medium | None = None

    def named(self) -> set[str]:
        """Return every name in it that may be a column's."""
        texts = [self.text or ""] if isinstance(self.text, str) or self.text is None else self.text
        names = {self.label or "", self.image or "", *texts}
        return {part.strip() for name in names for part in (name, *re.split("[,+]", name)) if part.strip()}


class Sources(NamedTuple):
    """The columns that become text (and text_pair) or image, and label. Several columns of one text are joined."""

    inputs: dict[str, list[str]]
    label: str

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        return [*(column for parts in self.inputs.values() for column in parts), self.label]


def find_column(dataset: Dataset, kind: Kind, named: str | None = None) -> str:
    """Return the column that holds the texts, images or labels of a data set.

    The first rule that applies decides:

    1. the column ``named``, whatever it holds;
    2. the first usual name (`TEXT_COLUMNS`, `IMAGE_COLUMNS`, `LABEL_COLUMNS`; in any case) whose type fits: strings for
       texts; images, arrays, bytes or paths for images; anything for labels;
    3. the only column of strings, of images or of class labels.

    ``label`` and ``labels`` may both be there if they agree.

    Args:
        dataset: the rows; only a pair of label columns is read.
        kind: ``"text"``, ``"image"`` or ``"label"``.
        named: the user's choice, if any.

    Raises:
        ValueError: no such column, no recognised column, or two label columns that differ. The sentence names the
            option (``text_column``, ``image_column`` or ``label_column``) and the columns there are.

    Example:
        >>> find_column(Dataset.from_dict({"Review": ["fine"], "label": [1]}), "text")
        'Review'
    """
    features: dict[str, object] = dict(dataset.features or {})
    listed = ", ".join(features) or "none"
    if named is not None:
        if named not in features:
            raise ValueError(f"{kind}_column is {named!r}, but the columns are {listed}")
        return named
    by_name = {column.lower(): column for column in reversed(features)}
    usual = [by_name[name] for name in _USUAL[kind] if name in by_name]
    usual = [column for column in usual if fits(features[column], kind)]
    if usual:
        if kind == "label":
            _check_agreement(dataset, usual)
        return usual[0]
    only = [column for column, feature in features.items() if _is_sure(column, feature, kind)]
    if len(only) != 1:
        raise ValueError(f"no column is recognised as the {kind} column among {listed}: name one with {kind}_column")
    return only[0]


def find_sources(dataset: Dataset, columns: Columns) -> Sources:
    """Return the columns to classify by and the labels; a column of images goes before texts unless texts are wanted.

    Raises:
        ValueError: columns that are not there or not recognised, or that hold the other medium.
    """
    if columns.text is not None and columns.image is not None:
        raise ValueError(f"text_column is {columns.text!r} and image_column is {columns.image!r}: name only one")
    said: Medium | None = "text" if columns.text is not None else "image" if columns.image is not None else None
    medium = columns.medium or said or _guess_medium(dataset)
    if said not in (None, medium):
        raise ValueError(f"{said}_column is given, but {medium}s are wanted")
    label = find_column(dataset, "label", columns.label)
    try:
        if medium == "image":
            inputs = {"image": [find_column(dataset, "image", columns.image)]}
        else:
            inputs = dict(zip(("text", "text_pair"), _text_parts(dataset, columns.text), strict=False))
    except ValueError as error:
        other = _guess_medium(dataset)
        if said is None and other not in (None, medium):
            column = find_column(dataset, other)
            raise ValueError(f"this is a data set of {other}s (column {column!r}), but {medium}s are wanted") from error
        raise
    sources = Sources(inputs, label)
    for column in sources.columns[:-1]:
        if sources.columns.count(column) > 1:
            twice = f"{medium}_column and label_column are both" if column == label else "text_column has twice"
            raise ValueError(f"{twice} {column!r}")
    return sources


def canonical(dataset: Dataset, sources: Sources, where: str) -> Dataset:
    """Return the rows with the columns text (and text_pair) or image, and label, and no others.

    ``where`` names the data set and its split, for errors.

    Raises:
        ValueError: a column is missing, or a text.
    """
    missing = [column for column in sources.columns if column not in dataset.column_names]
    if missing:
        raise ValueError(f"{where} has no column {missing[0]!r}, only {', '.join(dataset.column_names)}")
    if "image" in sources.inputs:
        return _select(dataset, {sources.inputs["image"][0]: "image", sources.label: "label"})
    for column in sources.columns[:-1]:
        _check_texts(dataset, column, where)
    if any(len(parts) > 1 for parts in sources.inputs.values()):
        labels = _select(dataset, {sources.label: "label"})
        texts = dataset.select_columns(sources.columns[:-1]).map(
            _join, batched=True, remove_columns=sources.columns[:-1], fn_kwargs={"inputs": sources.inputs}
        )
        return concatenate_datasets([texts, labels], axis=1)
    return _select(dataset, {**{parts[0]: name for name, parts in sources.inputs.items()}, sources.label: "label"})


def arrow_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Return a column as it is in Arrow, where nothing is decoded."""
    return dataset.with_format("arrow").select_columns([name])[:][name]


def is_text(feature: object) -> bool:
    """Return whether a column with this feature holds strings."""
    return isinstance(feature, Value) and feature.dtype in _STRINGS


def fits(feature: object, kind: Kind) -> bool:
    """Return whether a column with this feature can hold texts, images or labels."""
    if kind == "text":
        return is_text(feature)
    if kind == "image":
        return is_text(feature) or feature in _BINARY or not isinstance(feature, (Value, ClassLabel))
    return True


def _is_sure(column: str, feature: object, kind: Kind) -> bool:
    """Return whether a column without a usual name can be nothing else."""
    if kind == "text":
        return is_text(feature) and column.lower() not in (*LABEL_COLUMNS, *IMAGE_COLUMNS)
    return isinstance(feature, Image if kind == "image" else ClassLabel)


def _check_agreement(dataset: Dataset, columns: Sequence[str]) -> None:
    """Refuse a ``label`` and a ``labels`` column with different values: no rule could say which one is meant."""
    twins = [column for column in columns if column.lower() in ("label", "labels")]
    if len(twins) < 2:
        return
    first, second = (arrow_column(dataset, column).to_pylist() for column in twins)
    row = next((row for row, (one, other) in enumerate(zip(first, second, strict=True)) if one != other), None)
    if row is not None:
        raise ValueError(
            f"the columns {twins[0]!r} and {twins[1]!r} both look like labels, and they differ "
            f"(first in row {row}): name one with label_column"
        )


def _guess_medium(dataset: Dataset) -> Medium | None:
    if any(isinstance(feature, Image) for feature in dataset.features.values()):
        return "image"
    media: tuple[Medium, ...] = ("text", "image")
    for medium in media:
        try:
            find_column(dataset, medium)
        except ValueError:
            continue
        return medium
    return None


def _text_parts(dataset: Dataset, named: str | Sequence[str] | None) -> list[list[str]]:
    """Return the columns of each text: one text, or two that make a pair."""
    if named is None:
        return [[find_column(dataset, "text")]]
    if isinstance(named, str):
        named = [named] if named in dataset.column_names else named.split(",")
    texts = list(named)
    if not 1 <= len(texts) <= 2:
        raise ValueError(
            f"text_column names {len(texts)} texts, but tokenizers take one or a pair: join columns with +, as in "
            "'title+body'"
        )
    parts = [[text] if text in dataset.column_names else re.split(r"\s*\+\s*", text.strip()) for text in texts]
    return [[find_column(dataset, "text", column) for column in columns] for columns in parts]


def _select(dataset: Dataset, names: Mapping[str, str]) -> Dataset:
    return dataset.select_columns(list(names)).rename_columns({old: new for old, new in names.items() if old != new})


def _join(batch: Mapping[str, list[str]], inputs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {
        name: [" ".join(texts) for texts in zip(*(batch[column] for column in columns), strict=True)]
        for name, columns in inputs.items()
    }


def _check_texts(dataset: Dataset, column: str, where: str) -> None:
    if not is_text(dataset.features[column]):
        raise ValueError(f"{where}: the text column {column!r} must hold strings, but holds {dataset.features[column]}")
    values = arrow_column(dataset, column)
    if values.null_count:
        row = values.is_null().to_numpy().argmax()
        raise ValueError(f"{where}: row {row} has no text ({values.null_count} of {len(values)} rows have none)")
    lengths = pc.binary_length(values.cast(pa.large_binary())).to_numpy()
    if len(lengths) and lengths.max() > MAX_TEXT_BYTES:
        row = int(lengths.argmax())
        raise ValueError(f"{where}: the text of row {row} has {lengths[row]:,} bytes; {MAX_TEXT_BYTES:,} is the limit")
    check_utf8(values, where, column)


def check_utf8(values: pa.ChunkedArray, where: str, column: str) -> None:
    """Refuse strings that are not UTF-8: a Parquet file may hold any bytes, and only reading them would tell."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{where}: the column {column!r} holds text that is not UTF-8") from error
