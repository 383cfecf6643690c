"""Result files: atomic JSON with its provenance, and append-only JSONL records that a killed run can resume from.

Every number that hf_vub reports lives in one JSON file per run (``schema: 1``) and every table, figure and model card
is rendered from those files alone.
"""

import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SCHEMA = 1

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_SECRET = re.compile(r"(^|[-_])(token|secret|password|passwd|api[-_]?key)$", re.IGNORECASE)

_PACKAGES = (
    "hf_vub",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "timm",
    "textattack",
    "foolbox",
    "adversarial-robustness-toolbox",
    "scipy",
    "numpy",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a number, by package name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The shell command that started this process, secrets masked, its program relative to the working directory."""
    program = sys.argv[0] if sys.argv else ""
    path = Path(program)
    if path.is_absolute():
        inside = path.is_relative_to(Path.cwd())
        program = str(path.relative_to(Path.cwd())) if inside else path.name
    return shlex.join(["python", program, *mask_options(sys.argv[1:])])


def mask(text: str) -> str:
    """The text with ``***`` in the place of every Hugging Face access token."""
    return _TOKEN.sub("***", text)


def mask_options(words: Sequence[str]) -> list[str]:
    """The words of a command with ``***`` in the place of access tokens and of the values of secret options.

    Example:
        >>> mask_options(["--hub_token", "abc", "--api-key=abc", "--batch_tokens", "64"])
        ['--hub_token', '***', '--api-key=***', '--batch_tokens', '64']
    """
    shown, hide = [], False
    for word in words:
        option, equals, _ = word.partition("=")
        secret = _SECRET.search(option) is not None
        if hide and not word.startswith("-"):
            word = "***"
        elif equals and secret:
            word = f"{option}=***"
        hide = secret and not equals and word.startswith("-")
        shown.append(mask(word))
    return shown


def commit() -> str | None:
    """The commit of the checkout that this package runs from (with ``+`` when it has changes), or None outside one."""
    folder = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def provenance() -> dict[str, Any]:
    """Schema, versions, command and commit: what every result JSON carries so that it can be produced again."""
    return {"schema": SCHEMA, "versions": versions(), "command": command(), "commit": commit()}


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
    return write_text(path, json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


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
    line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"
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


def _plain(value: Any) -> Any:
    """Tensors, arrays, paths and non-finite floats as what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
