"""The record of the rows that a checkpoint was trained and selected on, saved with the checkpoint.

An attack or a test on rows that a model has seen measures memory, not accuracy. `TrainingRecord` says which rows those
are: a digest of the data set, how it was split, and one digest per row. It holds no text and no image.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..runs.files import replacing

if TYPE_CHECKING:
    from torch import nn

    from .splits import Splits

RECORD_FILE = "training_rows.safetensors"

_BYTES = 8
_BATCH = 256  # rows in memory at once: images are read whole
_SPLITS = ("train", "validation")


@dataclass(frozen=True, eq=False)
class TrainingRecord:
    """The rows that a model was trained on (``train``) and its checkpoint was chosen on (``validation``).

    Args:
        dataset: name or path of the data set, as the user gave it.
        digest: of all rows of the data set (`Splits.digest`).
        origin: where the rows of each split come from, a sentence per split (`Splits.origin`).
        rows: number of rows of each split, the test split included.
        train: sorted row digests (rows,), int64 (`row_digests`).
        validation: the same of the validation rows.

    Example:
        >>> from hf_vub.data import load_splits
        >>> splits = load_splits("synthetic-reviews", max_train=100)
        >>> record = TrainingRecord.of(splits, "synthetic-reviews")
        >>> int(record.seen(splits["train"]).sum()), int(record.seen(splits["test"]).sum())
        (100, 0)
    """

    dataset: str
    digest: str
    origin: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    train: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    validation: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    @classmethod
    def of(cls, splits: "Splits", name: str) -> "TrainingRecord":
        """Return the record of a model that is trained and selected on these splits."""
        digests = {split: np.sort(row_digests(splits[split])) for split in _SPLITS if split in splits}
        rows = {split: len(dataset) for split, dataset in splits.items()}
        return cls(name, splits.digest, dict(splits.origin), rows, **digests)

    @classmethod
    def load(cls, model: "str | Path | nn.Module", revision: str | None = None) -> "TrainingRecord | None":
        """Return the record of a checkpoint, or None where it has none.

        Args:
            model: a folder, a Hub id, or a module: its attribute ``training_record``, else the checkpoint that it was
                loaded from (``name_or_path``).
            revision: branch, tag or commit on the Hub.

        Raises:
            ValueError: the checkpoint has a record that cannot be read.
        """
        if not isinstance(model, (str, Path)):
            record = getattr(model, "training_record", None)
            if isinstance(record, cls):
                return record
            model = str(getattr(model, "name_or_path", ""))
        path = _find(str(model), revision)
        return None if path is None else cls._read(path)

    def save(self, folder: str | Path) -> Path:
        """Write the record into a checkpoint's folder, atomically, and return its path."""
        path = Path(folder) / RECORD_FILE
        described = {"dataset": self.dataset, "digest": self.digest, "origin": self.origin, "rows": self.rows}
        with replacing(path) as temporary:
            tensors = {split: np.ascontiguousarray(getattr(self, split), dtype=np.int64) for split in _SPLITS}
            save_file(tensors, temporary, metadata={"training_record": json.dumps(described, default=dict)})
        return path

    def seen(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Return for each row (rows,) whether the model was trained or selected on a row of the same content.

        Args:
            dataset: rows with the columns of `load_splits`: text (and text_pair) or image.
        """
        return np.isin(row_digests(dataset), np.concatenate([self.train, self.validation]))

    @classmethod
    def _read(cls, path: Path) -> "TrainingRecord":
        try:
            with safe_open(path, "np") as file:
                described = json.loads(file.metadata()["training_record"])
                train, validation = (np.asarray(file.get_tensor(split)) for split in _SPLITS)
            dataset, digest = str(described["dataset"]), str(described["digest"])
            origin = {str(split): str(origin) for split, origin in described["origin"].items()}
            rows = {str(split): int(count) for split, count in described["rows"].items()}
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not a record of training rows: {error!r}") from error
        if any(digests.dtype != np.int64 or digests.ndim != 1 for digests in (train, validation)):
            raise ValueError(f"{path} is not a record of training rows: its digests must be int64, shape (rows,)")
        return cls(dataset, digest, origin, rows, np.sort(train), np.sort(validation))


def row_digests(dataset: Dataset, columns: str | Sequence[str] | None = None) -> NDArray[np.int64]:
    """Return an 8-byte BLAKE2b digest (rows,) of the content of each row; nothing is decoded.

    The content is the text, or the encoded bytes of the image: those of its file where the row holds a path. A second
    column (of a pair of texts) counts too. Equal content gives equal digests, in whatever file or order it comes.

    Args:
        dataset: the rows.
        columns: those that hold the content; by default image, or text and text_pair.

    Raises:
        ValueError: there are no such columns.
        OSError: the file of an image cannot be read.

    Example:
        >>> from datasets import Dataset
        >>> digests = row_digests(Dataset.from_dict({"text": ["a", "b", "a"]}))
        >>> bool(digests[0] == digests[2]), bool(digests[0] == digests[1])
        (True, False)
    """
    if columns is None:
        columns = ["image"] if "image" in dataset.column_names else ["text", "text_pair"]
        columns = [column for column in columns if column in dataset.column_names]
    columns = [columns] if isinstance(columns, str) else list(columns)
    if not columns or not set(columns) <= set(dataset.column_names):
        wanted = ", ".join(columns) or "image or text"
        raise ValueError(f"the columns are {', '.join(dataset.column_names)}: there is no {wanted} to make a digest of")
    rows = dataset.with_format("arrow").select_columns(columns)
    digests: list[bytes] = []
    with ThreadPoolExecutor(8) as pool:
        for table in rows.iter(batch_size=_BATCH):
            parts = zip(*(_contents(table[column], pool) for column in columns), strict=True)
            digests.extend(hashlib.blake2b(_joined(row), digest_size=_BYTES).digest() for row in parts)
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def _contents(column: pa.ChunkedArray, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    values = column.to_pylist()
    if values and all(isinstance(value, (str, type(None))) for value in values):
        return iter([(value or "").encode() for value in values])
    return pool.map(_image_bytes, values)  # reading many small files is waiting


def _image_bytes(value: object) -> bytes:
    if isinstance(value, Mapping):
        encoded, path = value.get("bytes"), value.get("path")
        if encoded is not None or not path:
            return encoded or b""
        if "://" not in path:
            return Path(path).read_bytes()
        from fsspec import open as open_remote

        with open_remote(path) as file:
            return bytes(file.read())
    if value is None or isinstance(value, bytes):
        return value or b""
    return json.dumps(value, default=str).encode()


def _joined(parts: Sequence[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"\xff".join(parts)  # a byte that no text has


def _find(name: str, revision: str | None) -> Path | None:
    """Return the record's file in a folder or on the Hub."""
    if not name:
        return None
    folder = Path(name)
    if folder.is_dir():
        path = folder / RECORD_FILE
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(name, RECORD_FILE, revision=revision))
    except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError):
        return None
