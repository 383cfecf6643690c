"""Import TextAttack offline, quietly, and on transformers 5, where flair cannot be imported.

TextAttack imports flair, which the recipes of the paper never call and which does not exist for transformers 5. Where
a real flair can be imported it is used; elsewhere a stand-in is in ``sys.modules`` while TextAttack is imported, and
gone afterwards. TextAttack also downloads six NLTK packages when it is first imported and one more for each PWWS
attack; here it reads the resources that ``nltk_resources`` found instead.

TextAttack's own command line runs the same way, with the same arguments::

    python -m hf_vub.attacks.text.textattack_compat attack --model-from-file model.py --recipe deepwordbug ...
"""

import contextlib
import functools
import importlib.util
import logging
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import nltk_resources

_NO_FLAIR = "this recipe tags words with flair, which cannot be imported here: use transformers 4 and flair>=0.15"


def load() -> Any:
    """Import TextAttack and return the module.

    Raises:
        ImportError: TextAttack is not installed; the sentence says what to install.
        nltk_resources.ResourceError: NLTK's stopwords are missing.
    """
    if "textattack" in sys.modules:
        return sys.modules["textattack"]
    if importlib.util.find_spec("textattack") is None:
        raise ImportError('text attacks need TextAttack: pip install "hf_vub[text-attacks]"')
    nltk_resources.check()
    with _environment_kept(), _download_marker_kept(), no_downloads(), _flair():
        import textattack
    return textattack


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Keep NLTK from downloading inside the block: what is missing was reported before, and nobody waits for it."""
    import nltk

    download = nltk.download
    nltk.download = lambda *args, **kwargs: False
    try:
        yield
    finally:
        nltk.download = download


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let TextAttack log only errors inside the block."""
    logger = load().shared.logger
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def remembered_words() -> Iterator[None]:
    """Make TextAttack split each word once inside the block, not once for every candidate it occurs in.

    Whole texts, which differ in one word, are split every time but share their words: a third of the memory.
    """
    attacked_text: Any = load().shared.attacked_text
    split = attacked_text.words_from_text
    remembered = functools.lru_cache(maxsize=2**16)(lambda text: tuple(split(text)))

    def words_from_text(text: str) -> list[str]:
        return list(remembered(text)) if len(text) < 100 else [sys.intern(word) for word in split(text)]

    attacked_text.words_from_text = words_from_text
    try:
        yield
    finally:
        attacked_text.words_from_text = split


@contextlib.contextmanager
def _flair() -> Iterator[None]:
    """Put a stand-in for flair into ``sys.modules`` inside the block if the real one cannot be imported."""
    if "flair" in sys.modules or _real_flair():
        yield
        return
    stand_in = _stand_in()
    sys.modules.update(stand_in)
    try:
        yield
    finally:
        for name, module in stand_in.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _real_flair() -> bool:
    """Return whether the real flair imports; remove what a failing import leaves behind."""
    if importlib.util.find_spec("flair") is None:
        return False
    try:
        importlib.import_module("flair.data")
        importlib.import_module("flair.models")
    except Exception:  # on transformers 5 a name that is gone; other versions fail in other ways
        for name in [name for name in sys.modules if name.partition(".")[0] == "flair"]:
            del sys.modules[name]
        return False
    return True


def _stand_in() -> dict[str, types.ModuleType]:
    """Return stand-ins for the names of flair that TextAttack touches while it is imported."""

    class Tokenizer:
        """A base class, like flair's."""

    class Unavailable:
        """A class that says what is missing when it is used."""

        def __init__(self, *args: Any, **kwargs: Any):
            raise ImportError(_NO_FLAIR)

        @classmethod
        def load(cls, *args: Any, **kwargs: Any) -> Any:
            """Raise ImportError, where flair's taggers load their weights."""
            raise ImportError(_NO_FLAIR)

    flair, data, models = (types.ModuleType(name) for name in ("flair", "flair.data", "flair.models"))
    vars(data).update(Tokenizer=Tokenizer, Sentence=Unavailable)
    vars(models).update(SequenceTagger=Unavailable)
    vars(flair).update(device=None, data=data, models=models, __path__=[])
    return {"flair": flair, "flair.data": data, "flair.models": models}


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Undo what importing TextAttack does: it turns tokenizer threads on and silences every logger there is."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    silent = [logger.disabled for logger in loggers]
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(disabled)
        for logger, was_silent in zip(loggers, silent, strict=True):
            logger.disabled = was_silent
        if before is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


@contextlib.contextmanager
def _download_marker_kept() -> Iterator[None]:
    """Remove the note of an import that its downloads are done: none was, and a plain import may still do them."""
    folder = Path(os.environ.get("TA_CACHE_DIR") or Path.home() / ".cache" / "textattack")
    before = set(folder.glob("post_install_check_*"))
    try:
        yield
    finally:
        for marker in set(folder.glob("post_install_check_*")) - before:
            marker.unlink(missing_ok=True)


def main() -> None:
    """Run TextAttack's command line."""
    load()
    from textattack.commands.textattack_cli import main as command_line

    with no_downloads():
        command_line()


if __name__ == "__main__":
    main()
