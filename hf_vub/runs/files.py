"""Result files: atomic JSON with its provenance, and append-only JSONL records that a killed run can resume from.

Every number that hf_vub reports lives in one JSON file per run (``schema: 1``) and every table, figure and model card
is rendered from those files alone.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    The block writes to the temporary name that it is given, in the same folder. At its end that file is flushed to
    disk and renamed over ``path``; where the block raises, ``path`` stays as it was.

    Example:
        >>> with replacing(folder / "head.safetensors") as temporary:  # doctest: +SKIP
        ...     save_file(tensors, temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask leaves; safetensors makes files that only their owner reads
        temporary.unlink()
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file whole or not at all; a lone surrogate becomes its escape, as JSON has it too."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return Path(path)


def claim(folder: str | Path) -> AbstractContextManager[Any]:
    """Take a run's folder for this process, until the end of the ``with`` block or of the process.

    The lock is the system's: a process that is killed leaves none behind, whatever files are still there.

    Raises:
        ValueError: another process holds the folder.
        OSError: the folder cannot be made or written to.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A name that is not pushed with the folder. One lock for all of this process: where a run failed and somebody keeps
    # its traceback, another one may start.
    lock = FileLock(folder / "_lock", timeout=0, is_singleton=True, thread_local=False)
    try:
        return lock.acquire()
    except Timeout:
        raise ValueError(
            f"another process is writing to {folder}; wait for it to end, or name another folder"
        ) from None


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write ``content`` as indented JSON, atomically. A NaN or an infinity becomes null: JSON has neither."""
    return write_text(path, json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read one JSON object; raises ValueError that names the file when it is not one."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


def append_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line and flush it to disk, so that a kill loses at most the line being written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"
    with open(path, "a+b") as file:
        # A run killed inside a write leaves a line without its end: start a new line rather than continue it.
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode("utf-8", errors="backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the whole records of a JSONL file, passing over a line that a killed run left unfinished."""
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


def plain(value: Any) -> Any:
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
