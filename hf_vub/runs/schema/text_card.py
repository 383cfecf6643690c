"""The report card of a text classifier."""

from dataclasses import dataclass
from typing import Literal

from .attacks import Card, Interval
from .part import Part, nullable


@dataclass(frozen=True, kw_only=True, eq=False)
class TextSearch(Part):
    """One way of searching for adversarial texts, over all texts attacked."""

    num_successes: int
    success_rate: float
    """Successes over texts attacked; of a random predictor, texts that most fresh draws misclassify."""
    success_interval: Interval
    """Wilson's."""
    queries_mean: float | None
    """Queries per text; None for edits that no search chose."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextReportCard(Card):
    """Does a text classifier resist attacks, or does its score hide the way?"""

    kind: Literal["text_report_card"] = "text_report_card"
    medium: Literal["text"] = "text"
    attack: str
    """The recipe, by its TextAttack class."""
    guide: str | None = nullable()
    """The classifier whose score is compared with the model's own, in words where it was made on the spot."""
    guide_weights: str | None = nullable()
    """Digest of the guide's weights."""
    guide_agreement: float | None = nullable()
    """Share of texts on which the guide and the model decide alike."""
    transfer_from: tuple[str, ...] = ()
    """Models whose adversarial texts were tried."""
    alpha: float
    """Level of the tests behind the verdicts, over all checks together (Holm)."""
    query_factor: int
    """The stronger searches may make this many times the queries of the recipe on the same text."""
    searches: dict[str, TextSearch]
    """What each search found: "own" is the recipe by the model's own score."""
    temperature: float
    """The search of the check ``link`` divides the logits by this."""
    weights: tuple[str, ...]
    """Digests of backbone and head."""
    rows: str
    """Digest of the texts attacked."""
    class_names: tuple[str, ...]
    num_skipped: int
    skipped: dict[str, int]
    """How many texts were skipped, by reason."""
    max_length: int
    """Tokens that a text is cut to."""
    max_words: int
    """Longer texts are skipped."""
    redraws: int
    """Fresh draws that decide what counts as misclassified by a random predictor; 0 for any other."""
    dtype: str
    """In which the backbone computed."""
    revision: str | None = None
    """Branch, tag or commit of a Hub checkpoint."""
    stopwords: str | None = None
    """Where the recipe's stop words came from."""
    wordnet: str | None = None
    """Where the recipe's synonyms came from."""
