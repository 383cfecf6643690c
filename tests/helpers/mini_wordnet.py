"""A WordNet 3.0 of a few synsets, as a folder of NLTK data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HEADER = "  1 This stands in for WordNet 3.0 Copyright of its makers; it is made for tests.  \n"
_KINDS = {"noun": "n", "adj": "a", "verb": "v", "adv": "r"}


def write(folder: Path, synsets: dict[str, list[list[str]]]) -> Path:
    """Write synonym sets by part ("noun", "adj") as ``corpora/wordnet`` and return the folder of NLTK data."""
    corpus = folder / "corpora" / "wordnet"
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "lexnames").write_text("00\tadj.all\t3\n")
    for part, kind in _KINDS.items():
        data, offsets = _HEADER, {}
        for words in synsets.get(part, []):
            offset = len(data.encode())
            listed = " ".join(f"{word} 0" for word in words)
            data += f"{offset:08d} 00 {kind} {len(words):02x} {listed} 000 | made for tests  \n"
            for word in words:
                offsets.setdefault(word, []).append(offset)
        index = _HEADER
        for word, where in sorted(offsets.items()):
            count = len(where)
            index += f"{word} {kind} {count} 0 {count} 0 {' '.join(f'{offset:08d}' for offset in where)}  \n"
        (corpus / f"data.{part}").write_text(data)
        (corpus / f"index.{part}").write_text(index)
        (corpus / f"{part}.exc").write_text("")
    for name in ("cntlist.rev", "index.sense"):
        (corpus / name).write_text("")
    return folder


@contextmanager
def only_data(folder: Path, synsets: dict[str, list[list[str]]]) -> Iterator[None]:
    """Hide NLTK's data and the cache of converted data in the block, but for a WordNet of these synonym sets."""
    with pytest.MonkeyPatch.context() as patch:
        import nltk

        patch.setattr(nltk.data, "path", [str(write(folder / "data", synsets))])
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        _forget_corpora()
        yield
        _forget_corpora()


def _forget_corpora() -> None:
    """Close the corpora that NLTK keeps open with their paths, which it refuses to read once the data is elsewhere."""
    import nltk

    for corpus in (nltk.corpus.stopwords, nltk.corpus.wordnet):
        getattr(corpus, "_unload", lambda: None)()
