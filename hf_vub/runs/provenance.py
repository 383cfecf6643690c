"""What every result says of its making: versions, commit, and the command with its secrets masked."""

import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

SCHEMA: Final = 1

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
