"""Result files: atomic JSON, append-only JSONL records that a killed run resumes from, and the lock of a folder.

Every number that hf_vub reports lives in one JSON file per run (``schema: 1``), and every table, plot and model card is
rendered from those files alone.
"""

import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil

from .provenance import mask

logger = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file atomically.

    The block writes to the temporary path that it is given, in the same folder. At its end that file is flushed to disk
    and renamed to ``path``; where the block raises, ``path`` stays as it was.

    Example:
        >>> with replacing(folder / "head.safetensors") as temporary:  # doctest: +SKIP
        ...     save_file(tensors, temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors makes files that only their owner can read
        temporary.unlink()
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files that killed processes left in a folder and below it; a running process keeps its own.

    A file that cannot be removed stays, with a warning.
    """
    for path in Path(folder).rglob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or psutil.pid_exists(int(found[1])):
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s was left by a killed run and cannot be removed: %s", path, error)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file atomically; a lone surrogate becomes its escape, as in JSON."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return Path(path)


def lock_folder(folder: str | Path) -> AbstractContextManager[object]:
    """Lock a folder for this process until the ``with`` block or the process ends, and remove what killed runs left.

    The operating system holds the lock: a process that is killed releases it, whatever files remain.

    Raises:
        ValueError: another process holds the folder.
        OSError: the folder cannot be made or written to.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A push leaves out names with a leading underscore. The lock is one for the whole process: after a run that failed
    # another one may start, although a traceback keeps the first alive.
    lock = FileLock(folder / "_lock", timeout=0, is_singleton=True, thread_local=False)
    try:
        locked = lock.acquire()
    except Timeout:
        raise ValueError(
            f"another process is writing to {folder}; wait for it to end, or name another folder"
        ) from None
    remove_leftovers(folder)
    return locked


def json_text(content: Mapping[str, object]) -> str:
    """Return indented JSON, access tokens masked. A NaN or an infinity becomes null: JSON has neither."""
    return mask(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def write_json(path: str | Path, content: Mapping[str, object]) -> Path:
    """Write ``json_text`` atomically and return the path."""
    return write_text(path, json_text(content))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read one JSON object; a ValueError names the file that holds none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, but holds a {type(content).__name__}")
    return content


def append_record(path: str | Path, record: Mapping[str, object]) -> None:
    """Append one JSON line and flush it to disk: a kill loses at most the line being written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"
    with open(path, "a+b") as file:
        # A run killed while writing leaves a line without its end: start a new line.
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode("utf-8", errors="backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file, without a line that a killed run left unfinished; none if there is no file."""
    path = Path(path)
    if not path.exists():
        return
    with open(path, "rb") as file:
        for raw in file:
            try:
                record = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record


def plain(value: object) -> object:
    """Return tensors, arrays, paths and non-finite floats as what JSON can hold; the rest as it is."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
