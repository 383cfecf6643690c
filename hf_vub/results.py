"""Result files: atomic JSON with its provenance, and append-only JSONL records that a killed run can resume from.

Every number that hf_vub reports lives in one JSON file per run (``schema: 1``) and every table, figure and model card
is rendered from those files alone.
"""

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SCHEMA = 1

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
    """The shell command that started this process, with the program named relative to the working directory."""
    program = sys.argv[0] if sys.argv else ""
    path = Path(program)
    if path.is_absolute():
        inside = path.is_relative_to(Path.cwd())
        program = str(path.relative_to(Path.cwd())) if inside else path.name
    return shlex.join(["python", program, *sys.argv[1:]])


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


def write_text(path: str | Path, text: str) -> Path:
    """Write a file whole or not at all: to a temporary name in the same folder, fsync, then rename over ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write ``content`` as indented JSON, atomically. A NaN or an infinity becomes null: JSON has neither."""
    return write_text(path, json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read one JSON object; raises ValueError that names the file when it is not one."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
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
        file.write(line.encode("utf-8", errors="surrogatepass"))
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
                record = json.loads(raw.decode("utf-8", errors="surrogatepass"))
            except (UnicodeDecodeError, json.JSONDecodeError):
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
