"""The result of the guided-search experiment: heads that decide, and the score that guides the search against them."""

from dataclasses import dataclass
from typing import Literal

from .attacks import Interval
from .part import Part
from .result import Metrics, Result


@dataclass(frozen=True, kw_only=True, eq=False)
class PlateauBin(Part):
    """Confident texts whose stock margins lie next to each other, and a head's margins on them."""

    stock: float
    """Median margin of the stock classifier."""
    low: float
    """5 % quantile of the head's margins."""
    median: float
    high: float
    """95 % quantile."""
    count: int


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidedHead(Part):
    """One head on the frozen features of the stock classifier."""

    objective: Literal["stock", "ce", "vib", "vub"]
    """How it was trained; "stock" is the checkpoint's own last layer."""
    bottleneck: bool
    """It has noise and a rate."""
    beta: float | None = None
    entropy_weight: float
    """Weight of the min term, 0 for an objective without one."""
    metrics: Metrics
    """On the measured test rows."""
    optimal_margin: float | None = None
    """The margin at which training on certain labels stops; None where it never does."""
    margin_quartiles: tuple[float, float, float] | None
    """Of the confident texts, None without any. A margin is the highest logit less the second highest."""
    rank_correlation: float | None
    """Spearman's, of the margins of head and stock classifier over the confident texts; None for the stock one."""
    plateau: tuple[PlateauBin, ...]
    accuracy_under_typos: float
    """Over the drawn rows, a mean over random draws of typing errors in half of the words."""
    accuracy_under_typos_interval: Interval


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidedAttack(Part):
    """One recipe against one head, the search climbing the score of one head."""

    recipe: str
    decides: str
    """Name of the head whose decision must change."""
    guided_by: str
    """Name of the head whose score is climbed; the recipe as published where it is ``decides``."""
    outcomes: str
    """One letter per drawn row: S for a success, F for a failure, - for a row misclassified before the attack."""
    num_examples: int
    """Rows drawn and tried so far."""
    num_attacked: int
    """Rows classified correctly before the attack."""
    num_successes: int
    attack_success_rate: float | None
    attack_success_interval: Interval
    queries_mean: float | None
    """Queries to the head that decides, averaged over the rows attacked."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidedComparison(Part):
    """Two attacks on the same rows, of which those count that both attacked."""

    recipe: str
    first: tuple[str, str]
    """The head that decides, and the head whose score is climbed."""
    second: tuple[str, str]
    num_pairs: int
    only_first: int
    """Rows on which only the first attack succeeded."""
    only_second: int
    p_value: float
    """McNemar's, exact and two-sided."""
    p_holm: float
    """``p_value`` after Holm's correction over all comparisons of the file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidedSearch(Result):
    """Attacks on heads of one frozen backbone, by their own score and by the score of another head."""

    kind: Literal["guided_search"] = "guided_search"
    model: str
    dataset: str
    seed: int
    max_length: int
    """Tokens that a text is cut to."""
    dtype: str
    """In which the backbone computed the features of training and measured rows; attacks are in float32."""
    epochs: int
    data_rows: str
    """Which rows were trained and tested on, in words."""
    num_train: int
    num_measured: int
    """Test rows on which accuracy, calibration and margins were measured."""
    num_confident: int
    """Measured rows that the stock classifier classifies correctly with at least ``confident`` probability."""
    confident: float
    min_words: int
    max_words: int
    """Rows with so many words were drawn."""
    num_candidates: int
    """Test rows with so many words that are not among the training rows."""
    rows: tuple[int, ...]
    """Row numbers drawn from the test split, in the order of ``outcomes``."""
    typo_draws: int
    heads: dict[str, GuidedHead]
    """By name, in the order of the table."""
    attacks: tuple[GuidedAttack, ...]
    comparisons: tuple[GuidedComparison, ...]
    seconds: float
    """Spent on attacks, over all starts."""
