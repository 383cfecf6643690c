"""A WordNet 3.0 of a few synsets, as a folder of NLTK data."""

from pathlib import Path

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
