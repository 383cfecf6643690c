"""The word lists that text attacks read through NLTK: found, built if possible, or asked for in one sentence.

DeepWordBug needs NLTK's ``stopwords`` and PWWS also its ``wordnet``. Neither comes with a package from PyPI. Both are
looked for in NLTK's own folders and in ``NLTK_DATA``. Without ``stopwords`` scikit-learn's English list is written to
``~/.cache/hf_vub/nltk_data`` and used, so that DeepWordBug runs on a fresh machine without a network; it differs from
NLTK's list, so result files name the one used.
"""

import contextlib
import io
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...runs.files import write_text

logger = logging.getLogger(__name__)

# Every recipe of TextAttack needs stopwords: TextAttack reads them when it is imported.
NEEDS = {"DeepWordBugGao2018": ("stopwords",), "PWWSRen2019": ("stopwords", "wordnet")}


class ResourceError(OSError):
    """A text attack reads something that is not on this machine and cannot be downloaded."""


def cache_folder() -> Path:
    """Return the folder of built resources: ``hf_vub/nltk_data`` in the user's cache folder (``XDG_CACHE_HOME``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hf_vub" / "nltk_data"


def check(recipe: str | None = None) -> dict[str, str]:
    """Make sure that NLTK finds what ``recipe`` reads; no network is used.

    Args:
        recipe: class name of a TextAttack recipe; None for what importing TextAttack needs.

    Returns:
        Where each resource comes from: ``{"stopwords": "nltk" | "scikit-learn", "wordnet": "nltk"}``.

    Raises:
        ImportError: NLTK is not installed.
        ResourceError: a resource is missing; the sentence names it and the ways to provide it.

    Example:
        >>> check("PWWSRen2019")  # doctest: +SKIP
        {'stopwords': 'scikit-learn', 'wordnet': 'nltk'}
    """
    sources = {}
    for name in NEEDS.get(recipe or "", ("stopwords",)):
        sources[name] = "nltk"
        if not _is_provided(name):
            if name != "stopwords" or not _build_stopwords():
                raise ResourceError(_how_to_provide(name, recipe))
            sources[name] = "scikit-learn"
    return sources


def prefetch(recipes: Iterable[str] = tuple(NEEDS)) -> dict[str, str]:
    """Download what ``recipes`` read into NLTK's own folder.

    Returns:
        Where each resource comes from, as for `check`.

    Raises:
        ResourceError: a resource could neither be downloaded nor built.
    """
    sources: dict[str, str] = {}
    for recipe in recipes:
        for name in NEEDS.get(recipe, ("stopwords",)):
            if not _is_provided(name):
                _download(name)
        sources |= check(recipe)
    return sources


def _nltk() -> Any:
    try:
        import nltk
    except ImportError as error:
        raise ImportError('text attacks need NLTK: pip install "hf_vub[text-attacks]"') from error
    return nltk


def _is_provided(name: str) -> bool:
    """Return whether NLTK finds the user's own corpus; a built one, which NLTK may prefer, is taken off its path."""
    data = _nltk().data
    if name == "stopwords":
        data.path[:] = [folder for folder in data.path if folder != str(cache_folder())]
    for resource in (f"corpora/{name}", f"corpora/{name}.zip"):
        with contextlib.suppress(LookupError):
            data.find(resource)
            return True
    return False


def _download(name: str) -> bool:
    """Download a corpus into NLTK's own folder; return False where there is no network."""
    said = io.StringIO()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # NLTK sets none, and a network that swallows packets would hang
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            done = bool(_nltk().download(name, quiet=True))
    except OSError as error:
        done = False
        said.write(str(error))
    finally:
        socket.setdefaulttimeout(before)
    if not done:
        reason = " ".join(said.getvalue().replace("[nltk_data]", " ").split())
        logger.warning("%s could not be downloaded: %s", name, reason[:200] or "no reason given")
    return done


def _build_stopwords() -> bool:
    """Write scikit-learn's English stopwords as an NLTK corpus; return False if scikit-learn is not installed."""
    folder = cache_folder() / "corpora" / "stopwords"
    if not (folder / "english").is_file():
        try:
            from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
        except ImportError:
            return False
        write_text(folder / "english", "\n".join(sorted(ENGLISH_STOP_WORDS)) + "\n")
        for path in (
            cache_folder(),
            folder.parent,
            folder,
        ):  # NLTK refuses data that other users may write to, whatever the umask is
            path.chmod(0o755)
        (folder / "english").chmod(0o644)
    _nltk().data.path.append(str(cache_folder()))
    return True


def _how_to_provide(name: str, recipe: str | None) -> str:
    """Return the one sentence a user needs."""
    third = "; or (3) pip install scikit-learn, whose list then stands in" if name == "stopwords" else ""
    return (
        f"{recipe or 'TextAttack'} needs the NLTK resource {name!r}, which is not on this machine: (1) download it "
        f"with python -m nltk.downloader {name}; or (2) set NLTK_DATA to a folder that holds corpora/{name} or "
        f"corpora/{name}.zip{third}"
    )
