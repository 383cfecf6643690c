"""Files, folders and Hub data sets as raw splits, under the names and with the columns that they have there.

Nothing outside the data set is read: local paths are never patterns, and rows may name only files inside the data set's
own folder.
"""

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from .image_folders import allow_remote, has_class_folders, inside, read_images
from .tables import BUILDERS, LOADING_ERRORS, read_tables, sentence, split_of

BUILT_IN = ("synthetic-reviews", "digits")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class RawSplits(NamedTuple):
    """Splits as read, and what turns the path that a row names into one that may be opened (None: all of them may)."""

    splits: dict[str, Dataset]
    resolve: Callable[[str], str] | None


def read_splits(
    name: str,
    config_name: str | None = None,
    revision: str | None = None,
    column_names: str | Sequence[str] | None = None,
    named: Collection[str] = (),
) -> RawSplits:
    """Return every split of a data set, under the names and with the columns that it has there.

    ``named`` are the columns that the user named, which tell a header from a row of data; for the other arguments see
    `load_splits`.

    Raises:
        FileNotFoundError: nothing of that name.
        ValueError: a file or folder that cannot be read; one sentence that names it.
    """
    names = [column.strip() for column in column_names.split(",")] if isinstance(column_names, str) else column_names
    if not name.strip():
        raise ValueError(f"dataset is empty: name a file, a folder, a Hub data set or one of {', '.join(BUILT_IN)}")
    path = Path(name).expanduser()
    is_table = path.is_file() or path.is_dir()
    if names is not None and (name in BUILT_IN or not is_table):
        raise ValueError(f"column_names is for CSV and TSV files without a header, but dataset is {name!r}")
    if name in BUILT_IN:
        from .synthetic import digits, reviews

        return RawSplits(dict(reviews() if name == "synthetic-reviews" else digits()), None)
    if path.is_file():
        if path.suffix.lower() not in BUILDERS:
            raise ValueError(f"{name} must be one of {', '.join(BUILDERS)}, but is a {path.suffix or 'nameless'} file")
        tables = read_tables({split_of(path.stem) or "train": [path]}, names, named)
        return RawSplits(tables, partial(inside, path.parent.resolve()))
    if path.is_dir():
        return _read_folder(path, names, named)
    if path.exists():
        raise ValueError(f"{name} is neither a regular file nor a folder")
    if name.startswith((".", "/", "~")) or path.suffix.lower() in BUILDERS or not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(f"no file or folder {name}, and it is not a name on the Hub")
    return RawSplits(_read_hub(name, config_name, revision), allow_remote)


def _read_folder(path: Path, column_names: Sequence[str] | None, named: Collection[str]) -> RawSplits:
    saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    paths = [] if saved else [*sorted(path.glob("*")), *sorted(path.glob("*/*"))]
    tables = [file for file in paths if file.suffix.lower() in BUILDERS and file.is_file()]
    folders = sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))
    if tables and has_class_folders(folders):
        # A note or a list of classes, unless it is a table that is called like a split.
        tables = [file for file in tables if split_of(file.stem) and file.suffix.lower() != ".json"]
    if tables:
        by_split: dict[str, list[Path]] = {}
        for file in tables:
            of_folder = split_of(file.parent.name) if file.parent != path else None
            by_split.setdefault(of_folder or split_of(file.stem) or "train", []).append(file)
        return RawSplits(read_tables(by_split, column_names, named), partial(inside, path.resolve()))
    if column_names is not None:
        raise ValueError(f"column_names is for CSV and TSV files, but {path} holds none")
    if saved:
        return RawSplits(_read_saved(path), partial(inside, path.resolve()))
    if not folders:
        shown = ", ".join(sorted(child.name for child in path.iterdir())[:10])
        raise ValueError(f"{path} must hold tables or folders of images, but holds {shown or 'nothing'}")
    splits = {split: folder for folder in folders if (split := split_of(folder.name))}
    return RawSplits(read_images(splits if len(splits) == len(folders) else {"train": path}), None)


def _read_saved(path: Path) -> dict[str, Dataset]:
    try:
        found = load_from_disk(str(path))
        return dict(found) if isinstance(found, DatasetDict) else {"train": found}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path} is not a whole folder of save_to_disk: {sentence(error)}") from error


def _read_hub(name: str, config_name: str | None, revision: str | None) -> dict[str, Dataset]:
    try:
        return dict(load_dataset(name, config_name, revision=revision))
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name} is neither built in ({', '.join(BUILT_IN)}), nor a file or folder here, "
            f"nor could it be had from the Hub: {sentence(error)}"
        ) from error
    except LOADING_ERRORS as error:
        raise ValueError(f"{name} cannot be read from the Hub: {sentence(error.__cause__ or error)}") from error
