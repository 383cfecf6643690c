"""The cache of features on disk: one memory-mapped file per key, with a header and a checksum."""

import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from accelerate import PartialState
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


@contextmanager
def _alone(path: Path, state: PartialState) -> Iterator[None]:
    """Hold the cache's lock, which the system releases when the process dies, for all processes of this job."""
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


def _header(key: str, shape: Sequence[int], checksum: str | None = None) -> bytes:
    """The head of a safetensors file whose tensors, or whose checksum alone, are still to come; always as long."""
    num_rows, feature_size = shape
    middle = 4 * num_rows * feature_size
    header = {
        "__metadata__": {"key": key} if checksum is None else {"key": key, "crc32": checksum},
        "features": {"dtype": "F32", "shape": [num_rows, feature_size], "data_offsets": [0, middle]},
        "labels": {"dtype": "I64", "shape": [num_rows], "data_offsets": [middle, middle + 8 * num_rows]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 4096)  # aligned to pages, for the maps and for whole-page writes
    return len(text).to_bytes(8, "little") + text


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a cache file and where its data start; ValueError for one that `_header` has not made."""
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(0)
        found = file.read(start) if start <= path.stat().st_size else b""
    try:
        header: Any = json.loads(found[8:])
        known = header["__metadata__"]
        if _header(known["key"], header["features"]["shape"], known.get("crc32")) == found:
            return header, start
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{path} is not a feature cache; delete it to extract the features again")


@lru_cache
def _checksum(path: Path, size: int, changed: int) -> str:
    """CRC-32 of a cache file of that size and time of change: of its header without a checksum, and of its data."""
    header, start = _read_header(path)
    total = zlib.crc32(_header(header["__metadata__"]["key"], header["features"]["shape"]))
    block = memoryview(bytearray(2**20))
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while read := file.readinto(block):
            total = zlib.crc32(block[:read], total)
    return f"{total:08x}"
