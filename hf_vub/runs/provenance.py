"""How a result was made: versions, commit, and the command with its secrets masked."""

import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal, TypedDict

SCHEMA: Final = 1

_TOKEN = re.compile(r"hf_oauth_[\w.-]{16,}|(hf_|api_org_)[A-Za-z0-9]{16,}")
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
    """Return the versions of Python and of the installed packages that can change a number, by package name."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def command() -> str:
    """Return the command that started this process, secrets masked, its program relative to the working directory."""
    program = sys.argv[0] if sys.argv else ""
    path = Path(program)
    if path.is_absolute():
        inside = path.is_relative_to(Path.cwd())
        program = str(path.relative_to(Path.cwd())) if inside else path.name
    return shlex.join(["python", program, *mask_options(sys.argv[1:])])


def mask(text: str) -> str:
    """Replace every Hugging Face access token in a text by ``***``."""
    return _TOKEN.sub("***", text)


def mask_options(words: Sequence[str]) -> list[str]:
    """Replace access tokens, and the values of secret options, in the words of a command by ``***``.

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
    """Return the commit of this package's checkout, with ``+`` where it has changes, or None outside a checkout."""
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


class Provenance(TypedDict):
    """Result of ``provenance``."""

    schema: Literal[1]
    versions: dict[str, str]
    command: str
    commit: str | None


def provenance() -> Provenance:
    """Return schema, versions, command and commit, which every result JSON carries so that it can be made again."""
    return {"schema": SCHEMA, "versions": versions(), "command": command(), "commit": commit()}


def public_name(name: object) -> str:
    """Return a name that may be published: Hub ids stay, a path on this machine becomes its last component."""
    text = mask(str(name or "unnamed"))
    normal = text.replace("\\", "/").rstrip("/")
    local = normal.startswith((".", "/", "~")) or normal.count("/") > 1 or ":" in normal or Path(text).exists()
    return (normal.rsplit("/", 1)[-1] or "unnamed") if local else normal
