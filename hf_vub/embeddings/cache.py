"""The files of the cache: an unfinished numpy file that shards are written into, a safetensors file when finished.

numpy writes and reads the unfinished file (``.npy``), because safetensors cannot write a file in place; its rows are
then copied once (6 s for 0.8 GB). Without the CRC-32 a flipped bit in the finished file would go unnoticed: safetensors
checks the header and the size, not the numbers.
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from ..runs.files import append_record, read_records, replacing

if TYPE_CHECKING:
    from accelerate import PartialState

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Features:
    """Cached features, memory-mapped: the system reads a page when it is used. Writes do not reach the file.

    Attributes:
        features: shape (rows, feature_size), float32, in the order of the data set.
        labels: shape (rows,), int64.
        path: the safetensors file that holds both by these names.
        key: sha256 of everything the features depend on.
    """

    features: Tensor
    labels: Tensor
    path: Path
    key: str

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def load(cls, path: str | Path) -> "Features":
        """Map a finished cache file.

        Each process compares the file once with its checksum, block by block: 0.45 s per GB on a disk that takes 0.3 s
        to read it, 0.2 s if the system still holds it in memory.

        Raises:
            ValueError: the file is no feature cache, is cut off, or is damaged.
            OSError: there is no such file.
        """
        path = Path(path)
        status = path.stat()
        features, labels, key, checksum = _open(path)
        if checksum != _checksum(path, status.st_size, status.st_mtime_ns):
            raise ValueError(f"{path} is damaged: its checksum is not {checksum}; delete it to extract it again")
        return cls(features, labels, path, key)


class UnfinishedFeatures:
    """Features of an extraction under way, which several processes may fill.

    Each shard is flushed to disk before it is recorded as done, so an extraction that was killed resumes after its last
    shard. ``path`` is that of the finished file; the unfinished ones are next to it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.array_path = path.with_suffix(".partial.npy")

    def create(self, rows: int, feature_size: int) -> None:
        """Create the file at its full size; disk blocks are allocated as features arrive.

        Raises:
            OSError: the disk has no room for it and for the finished copy.
        """
        self.remove()  # logs of a file that somebody deleted
        needed = 2 * rows * (4 * feature_size + 8)
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise OSError(
                f"cache_dir {self.path.parent} has {free / 2**30:.1f} GiB free; extracting features of {rows} rows "
                f"takes {needed / 2**30:.1f} GiB, half of it for a while only"
            )
        with replacing(self.array_path) as temporary:
            np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(rows, feature_size))

    def exists(self) -> bool:
        """Return whether there is a file to fill."""
        return self.array_path.exists()

    def done(self) -> set[int]:
        """Return the numbers of the shards that are on disk."""
        return {int(record["shard"]) for log in self._logs() for record in read_records(log)}

    @contextmanager
    def open(self, process: int) -> Iterator["ShardWriter"]:
        """Open the file for the process of that number."""
        array = self._mapped()
        log = self.path.with_suffix(f".{process}.jsonl")
        with open(self.array_path, "r+b") as file:
            yield ShardWriter(file, array.offset, array.strides[0], log)

    def finish(self, key: str, labels: NDArray[np.int64]) -> None:
        """Write the finished file atomically and remove the unfinished ones."""
        features = self._mapped()
        content = json.dumps({"key": key, "crc32": _crc32(key, features, labels)})
        with replacing(self.path) as temporary:
            save_file({"features": features, "labels": labels}, temporary, metadata={"cache": content})
        self.remove()

    def remove(self) -> None:
        """Remove the unfinished file and the logs of its shards, if they are there."""
        for path in (self.array_path, *self._logs()):
            path.unlink(missing_ok=True)

    def _mapped(self) -> "np.memmap[tuple[int, ...], np.dtype[np.float32]]":
        array = np.load(self.array_path, mmap_mode="r")
        assert isinstance(array, np.memmap)
        return array

    def _logs(self) -> list[Path]:
        return list(self.path.parent.glob(f"{self.path.stem}.*.jsonl"))


class ShardWriter:
    """Write rows of features into an unfinished file.

    Plain writes, not a writable map: on a full disk a map kills the process, a write raises OSError.
    """

    def __init__(self, file: BinaryIO, start: int, row_bytes: int, log: Path):
        self.file, self.start, self.row_bytes, self.log = file, start, row_bytes, log

    def write(self, rows: Sequence[int], features: NDArray[np.float32]) -> None:
        """Write the features (rows, feature_size) of these rows to their places."""
        for row, values in zip(rows, features, strict=True):
            self.file.seek(self.start + row * self.row_bytes)
            self.file.write(values.tobytes())

    def finish_shard(self, number: int) -> None:
        """Flush everything written so far to disk, then record the shard as done."""
        self.file.flush()
        os.fsync(self.file.fileno())
        append_record(self.log, {"shard": number})


@contextmanager
def cache_lock(path: Path, state: "PartialState") -> Iterator[None]:
    """Hold the lock of a cache file for all processes of this job; the system releases it when the process dies."""
    lock = FileLock(path.with_suffix(".lock"))
    if state.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another job is extracting %s; waiting for it", path.name)
            lock.acquire()
    try:
        state.wait_for_everyone()
        yield
    finally:
        lock.release()


def _open(path: Path) -> tuple[Tensor, Tensor, str, str]:
    """Return features, labels, key and checksum of a cache file."""
    try:
        with safe_open(path, "pt") as file:
            content = json.loads(file.metadata()["cache"])
            return file.get_tensor("features"), file.get_tensor("labels"), str(content["key"]), str(content["crc32"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a feature cache, or not a whole one ({' '.join(str(error).split())}); delete it to extract "
            "the features again"
        ) from error


@lru_cache
def _checksum(path: Path, size: int, changed: int) -> str:
    """Return the checksum of a cache file of that size and time of change."""
    features, labels, key, _ = _open(path)
    return _crc32(key, features.numpy(), labels.numpy())


def _crc32(key: str, features: NDArray[np.float32], labels: NDArray[np.int64]) -> str:
    total = zlib.crc32(f"{key} {features.shape}".encode())
    for array in (features, labels):
        for first in range(0, len(array), _BLOCK_ROWS):
            total = zlib.crc32(np.ascontiguousarray(array[first : first + _BLOCK_ROWS]).data, total)
    return f"{total:08x}"
