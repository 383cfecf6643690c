"""The word lists that text attacks read through NLTK: found, built from what the machine has, or asked for once.

DeepWordBug needs NLTK's ``stopwords`` and PWWS also its ``wordnet``. Neither comes with a package from PyPI, so on a
machine without a network each is looked for in this order:

| resource | NLTK's own folders and ``NLTK_DATA`` | otherwise built in ``~/.cache/hf_vub/nltk_data`` from |
|---|---|---|
| ``stopwords`` | yes | scikit-learn's English list (which differs from NLTK's, so result files name the list) |
| ``wordnet`` | yes | the WordNet 3.0 files of Debian's ``wordnet-base`` and ``wordnet-sense-index`` |
"""

import contextlib
import io
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

# What the recipes of the paper read. Every recipe of TextAttack needs stopwords: it reads them when it is imported.
NEEDS = {"DeepWordBugGao2018": ("stopwords",), "PWWSRen2019": ("stopwords", "wordnet")}

# The files that NLTK's reader opens; "lexnames" is missing from Debian's packages.
_WORDNET_FILES = (
    "cntlist.rev",
    "index.sense",
    *(f"{kind}.{part}" for kind in ("index", "data") for part in ("adj", "adv", "noun", "verb")),
    *(f"{part}.exc" for part in ("adj", "adv", "noun", "verb")),
)
# Lexicographer files of WordNet 3.0 (lexnames(5WN)): their order is their number.
_LEXNAMES = (
    ("adj", "all pert"),
    ("adv", "all"),
    (
        "noun",
        "Tops act animal artifact attribute body cognition communication event feeling food group location motive "
        "object person phenomenon plant possession process quantity relation shape state substance time",
    ),
    (
        "verb",
        "body change cognition communication competition consumption contact creation emotion motion perception "
        "possession social stative weather",
    ),
    ("adj", "ppl"),
)
_CATEGORIES = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
WORDNET_FOLDER = "/usr/share/wordnet"  # of Debian and Ubuntu; WordNet's own variable WNSEARCHDIR names another


class ResourceError(OSError):
    """Something that a text attack reads is not on this machine and cannot be fetched."""


def cache_folder() -> Path:
    """Where converted resources are kept: ``hf_vub/nltk_data`` in the user's cache folder (``XDG_CACHE_HOME``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hf_vub" / "nltk_data"


def check(recipe: str | None = None) -> dict[str, str]:
    """Make sure that NLTK finds what ``recipe`` reads, converting what the machine already has; no network is used.

    Args:
        recipe: class name of a TextAttack recipe; None for what importing TextAttack needs.

    Returns:
        Where each resource comes from: ``{"stopwords": "nltk" | "scikit-learn", "wordnet": "nltk" | "debian"}``.

    Raises:
        ImportError: NLTK is not installed.
        ResourceError: a resource is neither there nor can be built; the sentence names it and three ways to provide it.

    Example:
        >>> check("PWWSRen2019")  # doctest: +SKIP
        {'stopwords': 'nltk', 'wordnet': 'debian'}
    """
    sources = {}
    for name in NEEDS.get(recipe or "", ("stopwords",)):
        if _is_provided(name):
            sources[name] = "nltk"
            continue
        root = cache_folder() / name
        target = root / "corpora" / name
        built = target.is_dir() or (_build_stopwords(target) if name == "stopwords" else _build_wordnet(target))
        if not built:
            raise ResourceError(_how_to_provide(name, recipe))
        _nltk().data.path.append(str(root))
        sources[name] = {"stopwords": "scikit-learn", "wordnet": "debian"}[name]
    return sources


def prefetch(recipes: Iterable[str] = tuple(NEEDS)) -> dict[str, str]:
    """Download what ``recipes`` read into NLTK's own folder; without a network, what the machine has stands in.

    Returns:
        Where each resource comes from, as ``check``.

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
    """Whether NLTK finds the user's own corpus. NLTK prefers folders to zip files, so a stand-in is put aside first."""
    data = _nltk().data
    data.path[:] = [folder for folder in data.path if folder != str(cache_folder() / name)]
    for resource in (f"corpora/{name}", f"corpora/{name}.zip"):
        try:
            data.find(resource)
        except LookupError:
            continue
        return True
    return False


def _download(name: str) -> bool:
    """Fetch a corpus into NLTK's own folder; False where there is no network."""
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


def _build_stopwords(target: Path) -> bool:
    """Write scikit-learn's English stopwords as an NLTK corpus; False where scikit-learn is not installed."""
    try:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    except ImportError:
        return False
    return _install(target, {"english": "\n".join(sorted(ENGLISH_STOP_WORDS)) + "\n"})


def _build_wordnet(target: Path) -> bool:
    """Arrange the files of an installed WordNet 3.0 as NLTK reads them; False where there is none."""
    for folder in (os.environ.get("WNSEARCHDIR"), WORDNET_FOLDER):
        if folder and all((Path(folder) / name).is_file() for name in _WORDNET_FILES):
            files: dict[str, str | Path] = {name: Path(folder) / name for name in _WORDNET_FILES}
            names = [(part, f"{part}.{name}") for part, listed in _LEXNAMES for name in listed.split()]
            files["lexnames"] = "".join(
                f"{number:02d}\t{name}\t{_CATEGORIES[part]}\n" for number, (part, name) in enumerate(names)
            )
            return _install(target, files)
    return False


def _install(target: Path, files: dict[str, str] | dict[str, str | Path]) -> bool:
    """Fill a folder whole or not at all. NLTK refuses data that other users may write to, whatever the umask is."""
    for folder in (target.parent.parent, target.parent):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, building / name)
            else:
                (building / name).write_text(content, encoding="utf-8")
            (building / name).chmod(0o644)
        building.chmod(0o755)
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was first, with the same files
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return True


def _how_to_provide(name: str, recipe: str | None) -> str:
    """The one sentence a user needs."""
    third = {
        "stopwords": "pip install scikit-learn, whose list then stands in",
        "wordnet": "on Debian or Ubuntu, apt-get install wordnet-base wordnet-sense-index, which is then converted",
    }[name]
    return (
        f"{recipe or 'TextAttack'} needs the NLTK resource {name!r}, which is not on this machine. Three ways to "
        f"provide it: (1) download it with python -m nltk.downloader {name}; (2) set NLTK_DATA to a folder that holds "
        f"corpora/{name} or corpora/{name}.zip; (3) {third}."
    )
