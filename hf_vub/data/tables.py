"""Tables of one data set: parquet, CSV, TSV, JSON and JSON-lines files, each read under exactly its own name."""

import csv
import glob
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from .columns import IMAGE_COLUMNS, LABEL_COLUMNS, MAX_TEXT_BYTES, TEXT_COLUMNS

BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
LOADING_ERRORS = (DatasetGenerationError, ValueError, OSError, StopIteration, RuntimeError, TypeError)

_SPLIT_OF_FILE = re.compile(r"(train|test|validation|valid|val|dev)(?![a-z])", re.IGNORECASE)


def read_tables(
    by_split: Mapping[str, list[Path]], column_names: Sequence[str] | None, named: Collection[str]
) -> dict[str, Dataset]:
    """Return the splits of a data set whose splits lie in these files; see `read_splits`."""
    files = [file for split in by_split.values() for file in split]
    suffixes = {file.suffix.lower() for file in files}
    builders = {BUILDERS[suffix] for suffix in suffixes}
    if len(builders) > 1 or suffixes == {".csv", ".tsv"}:
        raise ValueError(f"the files of one data set must be of one kind, but are {', '.join(sorted(suffixes))}")
    builder = builders.pop()
    options: dict[str, Any] = {}
    for file in files:
        if file.suffix.lower() in (".csv", ".tsv", ".jsonl"):
            _check_lines(file)
    if builder == "csv":
        separator = "\t" if suffixes == {".tsv"} else ","
        for file in files:
            _check_header(file, separator, column_names, named)
        # An empty cell is a missing value; "None", "null" or "NA" is a text or the name of a class.
        options = {"sep": separator, "keep_default_na": False, "na_values": [""]}
        if column_names is not None:
            options["column_names"] = list(column_names)
    elif column_names is not None:
        raise ValueError(f"column_names is for CSV and TSV files, but {files[0].name} has names of its own")
    data_files = {split: [_literal(file) for file in found] for split, found in by_split.items()}
    where = ", ".join(found[0].name for found in by_split.values())
    try:
        return dict(load_dataset(builder, data_files=data_files, **options))
    except LOADING_ERRORS as error:
        if "no data" in str(error) or isinstance(error, StopIteration):
            raise ValueError(f"{where}: a split has no rows") from error
        raise ValueError(f"{where} cannot be read as {builder}: {sentence(error.__cause__ or error)}") from error


def _literal(path: Path) -> str:
    """Return a pattern that matches this one path: `datasets` reads every path as a pattern."""
    text = str(path.resolve())
    if "::" in text:
        raise ValueError(f"{text} cannot be read: rename it without '::', which stands for a chain of archives")
    return glob.escape(text)


def _check_lines(file: Path) -> None:
    """Refuse a line that no row of texts has, before anything holds all of it in memory."""
    if file.stat().st_size <= MAX_TEXT_BYTES:
        return
    with open(file, "rb") as content:
        number = 1
        while line := content.readline(MAX_TEXT_BYTES + 1):
            if len(line) > MAX_TEXT_BYTES:
                raise ValueError(
                    f"{file.name}: line {number} has more than {MAX_TEXT_BYTES:,} bytes, which is the limit"
                )
            number += 1


def _check_header(file: Path, separator: str, column_names: Sequence[str] | None, named: Collection[str]) -> None:
    """Refuse a table whose first row is taken for its header, or the other way round, before it is read.

    The first row counts as data where no cell has a usual or a ``named`` name of a column and some cell is empty, a
    number, a repetition or as long as a sentence.
    """
    first = _first_row(file, separator)
    usual = {*TEXT_COLUMNS, *IMAGE_COLUMNS, *LABEL_COLUMNS, *(name.lower() for name in named)}
    lower = [cell.strip().lower() for cell in first]
    if column_names is None:
        looks_like_data = len(set(first)) < len(first) or any(
            not cell.strip() or _is_number(cell) or len(cell.split()) > 5 for cell in first
        )
        if looks_like_data and not usual & set(lower):
            shown = ", ".join(repr(cell if len(cell) <= 30 else f"{cell[:27]}...") for cell in first[:4])
            raise ValueError(
                f"{file.name} has no header (its first row is {shown}): give --column_names, a name for each of its "
                f"{len(first)} columns, such as {','.join(_example_names(first))}"
            )
        return
    if len(set(column_names)) < len(column_names) or not all(column_names):
        raise ValueError(f"column_names must be different names, but are {', '.join(map(repr, column_names))}")
    if first and len(first) != len(column_names):
        raise ValueError(
            f"column_names has {len(column_names)} names ({', '.join(column_names)}), but {file.name} has "
            f"{len(first)} columns"
        )
    if any(cell == column.strip().lower() for cell, column in zip(lower, column_names, strict=False)):
        raise ValueError(f"{file.name} has a header ({', '.join(first)}): leave column_names out")


def _first_row(file: Path, separator: str) -> list[str]:
    try:
        with open(file, encoding="utf-8-sig", errors="replace", newline="") as lines:
            return next((row for row in csv.reader(lines, delimiter=separator) if row), [])
    except csv.Error:
        return []  # pandas will say what is wrong


def _example_names(first: Sequence[str]) -> list[str]:
    numbers = [place for place, cell in enumerate(first) if _is_number(cell)]
    label = numbers[0] if numbers else len(first) - 1
    others = iter(["text", "title", *(f"column{place}" for place in range(3, len(first) + 1))])
    return ["label" if place == label else next(others) for place in range(len(first))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def split_of(name: str) -> str | None:
    """Return the split that the beginning of a file or folder name speaks of: train, test or validation."""
    match = _SPLIT_OF_FILE.match(name)
    if not match:
        return None
    word = match.group(1).lower()
    return word if word in ("train", "test") else "validation"


def sentence(error: BaseException) -> str:
    """Return the first line of an error, shortened, or its type where it says nothing."""
    text = " ".join(str(error).strip().split("\n")[0].split())
    return (text if len(text) <= 200 else f"{text[:197]}...") or type(error).__name__
