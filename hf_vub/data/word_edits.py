"""Random edits of words that people and attackers make: typos, and synonyms from WordNet; and rows of edited texts."""

import functools
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset

from .columns import find_column
from .preprocessing import EpochRows, Example, clean_text, encode_texts, max_text_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EXAMPLES = "'typos:0.15' or 'synonyms:0.2', or both with a comma between them"
_WORD = re.compile(r"\S+")
_LETTERS = string.ascii_letters


@dataclass(frozen=True)
class WordEdit:
    """A random edit of words.

    Attributes:
        kind: "typos" (two neighbouring letters swapped, or one inserted, deleted or replaced, each as likely, as in
            DeepWordBug: Gao et al. 2018) or "synonyms" (another word of the same WordNet synset, as in PWWS, for words
            of four letters and more).
        share: probability that a word is edited, above 0 and at most 1.

    Raises:
        ValueError: the kind is unknown, or the share out of range.
    """

    kind: str
    share: float

    def __post_init__(self) -> None:
        if self.kind not in _EDITS:
            raise ValueError(f"perturb has the kind {self.kind!r}; it must be {_EXAMPLES}")
        if not 0 < self.share <= 1:
            raise ValueError(f"perturb {self.kind} has the share {self.share}; it must be above 0 and at most 1")


def parse_edits(text: str) -> tuple[WordEdit, ...]:
    """Return the edits that "kind:share" names, one or several with commas between them.

    Raises:
        ValueError: ``text`` names none, or synonyms where WordNet is not on this machine.

    Example:
        >>> parse_edits("typos:0.15")
        (WordEdit(kind='typos', share=0.15),)
    """
    edits = []
    for part in str(text).split(","):
        kind, colon, share = part.strip().partition(":")
        try:
            value = float(share)
        except ValueError:
            value = float("nan")
        if not colon or kind not in _EDITS or value != value:
            raise ValueError(f"perturb is {text!r}; it must be {_EXAMPLES}")
        edits.append(WordEdit(kind, value))
    if any(edit.kind == "synonyms" for edit in edits):
        synonyms("film")  # now, not in the middle of a training
    return tuple(edits)


def edit_text(text: str, edits: Sequence[WordEdit], generator: np.random.Generator) -> str:
    """Return a text with some of its words edited; blanks stay as they are.

    Args:
        text: any text.
        edits: applied to a word one after the other.
        generator: state of the draws.

    Example:
        >>> edit_text("a fine film", [WordEdit("typos", 1.0)], np.random.default_rng(0))
        'o faine flim'
    """

    def edited(match: re.Match[str]) -> str:
        word = match[0]
        for edit in edits:
            if generator.random() < edit.share:
                word = _EDITS[edit.kind](word, generator)
        return word

    return _WORD.sub(edited, text)


def typo(word: str, generator: np.random.Generator) -> str:
    """Return a word with one edit of a letter; a word without letters or digits stays as it is."""
    places = [place for place, character in enumerate(word) if character.isalnum()]
    if not places:
        return word
    pairs = [place for place in places if place + 1 in places and word[place] != word[place + 1]]
    kinds = ["insert", "replace", *(["delete"] if len(places) > 1 else []), *(["swap"] if pairs else [])]
    kind = kinds[generator.integers(len(kinds))]
    letter = _LETTERS[generator.integers(len(_LETTERS))]
    place = (pairs if kind == "swap" else places)[generator.integers(len(pairs if kind == "swap" else places))]
    if kind == "swap":
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == "insert":
        return word[: place + 1] + letter + word[place + 1 :]
    return word[:place] + (letter if kind == "replace" else "") + word[place + 1 :]


def synonym(word: str, generator: np.random.Generator) -> str:
    """Return a synonym in place of a word, between its punctuation marks; short words stay, and those without one."""
    core = word.strip(string.punctuation)
    choices = synonyms(core.lower()) if len(core) > 3 else ()
    if not choices:
        return word
    chosen = choices[generator.integers(len(choices))]
    chosen = chosen.capitalize() if core[0].isupper() else chosen
    return word.replace(core, chosen, 1)


@functools.lru_cache(maxsize=2**17)
def synonyms(word: str) -> tuple[str, ...]:
    """Return the single words that share a WordNet synset with a word, sorted.

    Raises:
        ValueError: NLTK or its WordNet is not on this machine.
    """
    try:
        from nltk.corpus import wordnet

        lemmas = {str(name).lower() for synset in wordnet.synsets(word) for name in synset.lemma_names()}
    except (ImportError, LookupError) as error:
        raise ValueError(
            "perturb='synonyms:...' needs NLTK's wordnet: pip install nltk, and python -m nltk.downloader wordnet"
        ) from error
    return tuple(sorted(lemma for lemma in lemmas if lemma.isalpha() and lemma != word))


_EDITS: dict[str, Callable[[str, np.random.Generator], str]] = {"typos": typo, "synonyms": synonym}


def edited_copies(
    dataset: Dataset, edits: Sequence[WordEdit], copies: int = 1, seed: int = 0, *, column: str | None = None
) -> Dataset:
    """Return edited copies of texts as rows: the first copy of every row, then the second of every row, and so on.

    Copy k of a row has the edits of epoch k of `EditedTexts`.

    Args:
        dataset: with a column of texts, and ``text_pair`` if texts are pairs.
        edits: of the words.
        copies: of each row.
        seed: of all random choices.
        column: of the texts, if it has an unusual name.

    Raises:
        ValueError: fewer than one copy, or no column of texts.
    """
    if copies < 1:
        raise ValueError(f"copies is {copies}; it must be at least 1")
    column = find_column(dataset, "text", column)
    columns = [column, *(["text_pair"] if "text_pair" in dataset.column_names and column == "text" else [])]
    rows = dataset.with_format(None).select_columns(columns)[:]
    edited: dict[str, list[str]] = {name: [] for name in columns}
    for copy in range(copies):
        for row in range(len(dataset)):
            generator = np.random.default_rng([seed, copy, row])
            for name in columns:
                edited[name].append(edit_text(clean_text(rows[name][row] or ""), edits, generator))
    others = dataset.select(np.tile(np.arange(len(dataset)), copies)).remove_columns(columns)
    for name in columns:
        others = others.add_column(name, edited[name])
    return others


class EditedTexts(EpochRows):
    """Texts with random edits, as tokens: a function of seed, epoch and row alone (`EpochRows`).

    Args:
        dataset: columns text, text_pair (if texts are pairs) and label.
        tokenizer: of the model.
        edits: of the words.
        max_length: tokens that a text is cut to; by default the tokenizer's limit.
        seed: of all random choices.
        both: a batch holds every text twice, first all of them as they are and then all edited.
    """

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: "PreTrainedTokenizerBase",
        edits: Sequence[WordEdit],
        *,
        max_length: int | None = None,
        seed: int = 0,
        both: bool = False,
    ) -> None:
        super().__init__(dataset, seed)
        self.dataset, self.tokenizer, self.edits = dataset.with_format(None), tokenizer, edits
        self.max_length, self.both = max_text_length(tokenizer, wanted=max_length), both

    def _prepare(self, numbers: list[int]) -> list[Example]:
        batch = self.dataset[numbers]
        columns = [batch[name] for name in ("text", "text_pair") if name in batch]
        edited: list[list[str]] = [[] for _ in columns]
        for place, row in enumerate(numbers):
            generator = np.random.default_rng(self.key(row))
            for texts, column in zip(edited, columns, strict=True):
                texts.append(edit_text(clean_text(column[place]), self.edits, generator))
        found = self._tokens(columns, batch["label"]) if self.both else []
        return found + self._tokens(edited, batch["label"])

    def _tokens(self, columns: Sequence[Sequence[str]], labels: Sequence[int]) -> list[Example]:
        pairs = columns[1] if len(columns) > 1 else None
        encoded = encode_texts(self.tokenizer, columns[0], self.max_length, pairs=pairs)
        return [
            {**{name: values[row] for name, values in encoded.items()}, "labels": int(label)}
            for row, label in enumerate(labels)
        ]
