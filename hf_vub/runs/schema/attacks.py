"""Results of attacks, and report cards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .part import Part, nullable
from .result import Result

Interval = tuple[float, float]
"""Lower and upper end of a 95 % confidence interval."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target(Part):
    """The class that a targeted attack aims for."""

    index: int
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class TextRedraws(Part):
    """Rates of a random text classifier over fresh draws of its noise, averaged over texts."""

    draws: int
    """Draws per text."""
    accuracy_under_attack: float | None
    accuracy_under_attack_interval: Interval
    attack_success_rate: float | None
    attack_success_rate_interval: Interval


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchOutcome(Part):
    """Rates of one of two searches that were made of the same texts."""

    num_successes: int
    num_alone: int
    """Successes on texts on which the other search failed."""
    accuracy_under_attack: float
    attack_success_rate: float | None
    attack_success_interval: Interval
    words_perturbed_mean: float | None
    queries_mean: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRedraws(Part):
    """Rates of a random image classifier over fresh draws of its noise, averaged over the images attacked."""

    draws: int
    """Draws per image."""
    attack_success_rate: float
    attack_success_interval: Interval
    clean_error_rate: float
    """Share of draws that misclassify the image as it was before the attack."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackResult(Result):
    """One attack on one classifier.

    Inputs that the classifier gets wrong without an attack are not attacked; they count as wrong under attack.
    """

    model: str
    """Folder or Hub id of the classifier."""
    dataset: str
    attack: str
    seed: int
    how: str
    """How the examples were drawn: "stratified" or "first"."""
    noise: str
    """The predictor that was attacked: "mean", "sampled" or "averaged:k"."""
    num_examples: int
    """Examples drawn (of texts) or read (of images)."""
    rows: str
    """Digest of the examples attacked."""
    class_names: tuple[str, ...]
    num_attacked: int
    num_successes: int
    num_skipped: int
    """Examples that could not be read or are too long."""
    skipped: dict[str, int]
    """How many were skipped, by reason."""
    clean_accuracy: float
    accuracy_under_attack: float
    attack_success_rate: float | None
    """Successes over examples attacked; None where none was."""
    attack_success_interval: Interval
    """Wilson's, of the success rate."""
    seconds: float
    split: str | None = None
    """Name of the split attacked."""
    data_rows: str | None = None
    """Which rows were attacked, of how many, in words."""
    rows_seen_in_training: int | None = None
    """Attacked examples that the checkpoint was trained or selected on; None where it has no training record."""
    has_training_record: bool | None = None
    """The checkpoint says which rows it was trained on."""
    predictor: str | None = None
    """How the classifier turns scores into a decision, in words."""
    match_labels: str | None = None
    """How the data's classes were matched with the model's: "name" or "number"."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextAttackResult(AttackResult):
    """An attack on a text classifier; its rates are those of the worse search of each text, where there are two."""

    kind: Literal["text_attack"] = "text_attack"
    revision: str | None
    """Branch, tag or commit of a Hub checkpoint."""
    dtype: str
    """In which the backbone computed."""
    max_length: int | None
    """Tokens that a text is cut to."""
    query_budget: int | None
    """Queries per text at most; None for the recipe's own limit."""
    max_words: int
    """Longer texts are skipped."""
    weights: tuple[str, ...]
    """Digests of backbone and head."""
    head: str | None = None
    """Name of the head, where several share the backbone."""
    stopwords: str | None = None
    """Where the recipe's stop words came from."""
    wordnet: str | None = None
    """Where the recipe's synonyms came from."""
    guide: str | None = nullable()
    """The classifier whose score a guided search climbs; None for the recipe as published."""
    guide_weights: str | None = None
    """Digest of the guide's weights."""
    search: Literal["own", "guided", "both"] | None = None
    """Whose score was climbed: the model's "own", the guide's, or both in turn. None in files older than the guide."""
    searches: dict[str, SearchOutcome] | None = None
    """The rates of each search, "own" and "guided", where both were made."""
    words_perturbed_mean: float | None
    """Words changed, averaged over successes; None without a success."""
    queries_mean: float | None
    """Queries to the model, averaged over the texts attacked and summed over searches; the guide's do not count."""
    confirmed_in: str | None = None
    """The arithmetic that a success was confirmed in; None where the search computed in it or draws at random."""
    num_unconfirmed: int | None = None
    """Successes that were not confirmed, and do not count."""
    redraws: TextRedraws | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberResult(Part):
    """What one attack of an ensemble did."""

    attack: str
    num_attacked: int
    """Images that the earlier members left."""
    num_successes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class BudgetResult(Part):
    """An image attack at one budget."""

    epsilon: float | None
    """Largest change in the attack's norm, in [0, 1] pixels; None for an attack without a budget."""
    accuracy_under_attack: float
    attack_success_rate: float | None
    attack_success_interval: Interval
    num_successes: int
    l2_mean: float | None
    """Mean L2 distance of successes in [0, 1] pixels; None without a success."""
    l2_median: float | None
    redraws: ImageRedraws | None = None
    members: tuple[MemberResult, ...] | None = None
    """The attacks of an ensemble, in their order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageAttackResult(AttackResult):
    """An attack on an image classifier; the top level repeats the largest budget."""

    kind: Literal["image_attack"] = "image_attack"
    attack_options: dict[str, object]
    """Hyperparameters of the attack."""
    target: Target | None
    batch_size: int
    weights: str
    """Digest of the classifier's weights."""
    epsilon: float | None
    l2_mean: float | None
    l2_median: float | None
    redraws: ImageRedraws | None = None
    members: tuple[MemberResult, ...] | None = None
    budgets: tuple[BudgetResult, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackSummary(Part):
    """An attack at one budget as tables show it: of one classifier, or averaged over ``num_runs`` heads."""

    kind: Literal["text_attack", "image_attack"]
    attack: str
    noise: str
    how: str
    seed: int
    target: Target | None = None
    stopwords: str | None = None
    num_examples: int
    num_attacked: int
    num_skipped: int
    clean_accuracy: float
    accuracy_under_attack: float
    attack_success_rate: float | None = None
    attack_success_interval: Interval | None = None
    """None for an average over heads."""
    l2_mean: float | None = None
    l2_median: float | None = None
    epsilon: float | None = None
    words_perturbed_mean: float | None = None
    queries_mean: float | None = None
    redraws: TextRedraws | ImageRedraws | None = None
    dataset: str | None = None
    num_runs: int | None = None
    split: str | None = None
    data_rows: str | None = None
    rows_seen_in_training: int | None = None
    has_training_record: bool | None = None


CheckNumbers = dict[str, float | tuple[float, ...] | dict[str, float] | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Check(Part):
    """One check of a report card."""

    name: str
    passed: bool | None
    """None where the check was not made, could not decide, or does not apply."""
    why: str
    """The reason in one sentence."""
    figures: CheckNumbers
    """The numbers behind it: accuracies, shares and p-values, by name; None where one was not measured."""
    applies: bool = True
    """False where the check has no meaning for this model; then it does not count."""


def overall(checks: Sequence[Check]) -> bool | None:
    """Return the verdict of a report card: False if a check failed, None if one that applies is open, else True.

    Example:
        >>> overall([Check(name="steps", passed=None, why="PGD was not run", figures={})]) is None
        True
    """
    if any(check.passed is False for check in checks):
        return False
    return None if any(check.passed is None and check.applies for check in checks) else True


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportCurves(Part):
    """Accuracies behind the checks, over the examples that are classified correctly without an attack."""

    epsilon: tuple[float, ...]
    """Budgets of ``pgd``, ``fgs`` and ``noise`` in [0, 1] pixels."""
    epsilon_square: tuple[float, ...]
    pgd: tuple[float, ...]
    fgs: tuple[float, ...]
    square: tuple[float, ...]
    noise: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Card(Result):
    """What the report cards of texts and of images share."""

    model: str
    dataset: str
    noise: str
    seed: int
    how: str
    num_examples: int
    num_attacked: int
    """Examples classified correctly, on which the checks are made."""
    clean_accuracy: float
    passed: bool | None
    """False if a check failed; None if none did but one that applies was not made or could not decide."""
    checks: tuple[Check, ...]
    seconds: float
    split: str | None = None
    data_rows: str | None = None
    rows_seen_in_training: int | None = None
    has_training_record: bool | None = None
    predictor: str | None = None
    match_labels: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportCard(Card):
    """Does an image classifier resist attacks, or only hide its gradients?"""

    kind: Literal["masking_report_card"] = "masking_report_card"
    epsilon: float
    """In [0, 1] pixels, in the Linf norm."""
    steps: dict[str, int]
    """Steps by attack."""
    curves: ReportCurves
    alpha: float | None = None
    """Level of the tests behind the verdicts; None in files whose verdicts come from ``tolerance``."""
    tolerance: float | None = None
    """Differences in accuracy up to this were not held against the model, in files without ``alpha``."""
    transfer_from: tuple[str, ...] | None = None
    """Models whose adversarial images were tried, surrogates made on the spot among them."""
