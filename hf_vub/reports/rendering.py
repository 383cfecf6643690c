"""Text that is safe to publish: templates, numbers, and names from data sets and models that others made.

Nothing in such a name is trusted. Markdown and HTML in it are escaped, a path on this machine is reduced to its last
component, and access tokens are masked.
"""

import html
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..runs.provenance import mask_options

if TYPE_CHECKING:
    from jinja2 import Environment

_NOT_ON_HUB = ("synthetic-reviews", "digits", "sample")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def environment() -> "Environment":
    """Return the Jinja2 environment of this wing's templates, with the filters ``md`` and ``literal``.

    Raises:
        ImportError: Jinja2 is missing; the message has the command that installs it.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError('cards and reports need Jinja2: pip install "hf_vub[report]"') from error
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_vub.reports"),
        autoescape=jinja2.select_autoescape(["html", "html.jinja"], default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update({"md": escape_markdown, "literal": python_literal, "number": number, "share": share})
    return made


def escape_markdown(text: object) -> str:
    """Return a text on one line that Markdown shows as it is, HTML in it included, even inside a table."""
    words = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|~$!#])", r"\\\1", html.escape(words, quote=False))


def python_literal(value: object) -> str:
    """Return a Python string literal that cannot end the code block around it."""
    return json.dumps(str(value)).replace("`", "\\u0060")


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with ``digits`` significant digits; "-" for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """Return a share in percent with one decimal; "-" for None."""
    return "-" if value is None else f"{value:.1%}"


def is_hub_id(name: object) -> bool:
    """Return whether a name can be the id of something on the Hub and names nothing on this machine."""
    text = str(name or "")
    return text not in _NOT_ON_HUB and _HUB_ID.fullmatch(text) is not None and not Path(text).exists()


def public_command(command: str) -> str:
    """Return a shell command without secrets and without this machine's paths; "not shown" if it cannot be parsed."""
    try:
        words = shlex.split(command)
    except ValueError:
        return "not shown"
    return shlex.join(map(_public_word, mask_options(words)))


def _public_word(word: str) -> str:
    option, equals, value = word.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={_public_word(value)}"
    return (word.rstrip("/").rsplit("/", 1)[-1] or "/") if word.startswith(("/", "~")) else word
