"""A WordNet 3.0 of a few synsets, in the file format of the real one and of Debian's packages (without lexnames)."""

from pathlib import Path

_HEADER = "  1 This stands in for WordNet 3.0 Copyright of its makers; it is made for tests.  \n"
_KINDS = {"noun": "n", "adj": "a", "verb": "v", "adv": "r"}


def write(folder: Path, synsets: dict[str, list[list[str]]]) -> Path:
    """Write index, data and exception files for synonym sets by part ("noun", "adj")."""
    folder.mkdir(parents=True, exist_ok=True)
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
        (folder / f"data.{part}").write_text(data)
        (folder / f"index.{part}").write_text(index)
        (folder / f"{part}.exc").write_text("")
    for name in ("cntlist.rev", "index.sense"):
        (folder / name).write_text("")
    return folder
