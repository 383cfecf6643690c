"""Attack the texts of a sample one by one, on every head of one backbone, and summarise the records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...compute.contexts import seeded
from ...data.sample import Sample, check_counts
from ...metrics.intervals import share_interval, wilson_interval
from ...metrics.robustness import attack_summary
from ...runs.schema import SearchOutcome, TextAttackResult, TextRedraws
from ..runner import Method, Record, not_skipped
from .classifier import TextClassifier
from .guide import Guide, GuideModel
from .recipes import Searcher

SearchName = Literal["own", "guided", "both"]

_PER_SEARCH = ("success", "perturbed_text", "perturbed_prediction", "queries", "words_perturbed")
"""Fields of a record that differ from search to search, next to those that not every record has."""


@dataclass(frozen=True)
class SearchOptions:
    """How a text is searched for an adversarial one.

    Attributes:
        recipe: class name of a TextAttack recipe.
        query_budget: queries per text and search; None for no limit.
        max_words: longer texts are skipped.
        guide: whose score a guided search climbs.
        search: "own" climbs the score of the model under attack, "guided" that of the guide, "both" makes both and
            reports the worse outcome of each text; None is "guided" where there is a guide.

    Raises:
        ValueError: a number is out of range, or ``guide`` and ``search`` do not go together.
    """

    recipe: str
    query_budget: int | None = None
    max_words: int = 4000
    guide: GuideModel | None = None
    search: str | None = None

    def __post_init__(self) -> None:
        check_counts(query_budget=self.query_budget, max_words=self.max_words)
        if self.search not in (None, "own", "guided", "both"):
            raise ValueError(f"search must be 'own', 'guided' or 'both', but is {self.search!r}")
        if self.guide is None and self.search in ("guided", "both"):
            raise ValueError(f"search is {self.search!r}, but guide is None: give the model whose score guides it")
        if self.guide is not None and self.search == "own":
            raise ValueError("search is 'own', which asks no guide, but a guide is given: leave it out, or say 'both'")

    @property
    def name(self) -> SearchName:
        """Which search is made."""
        if self.guide is None:
            return "own"
        return "both" if self.search == "both" else "guided"

    @property
    def searches(self) -> tuple[str, ...]:
        """The searches made of every text."""
        return ("own", "guided") if self.name == "both" else (self.name,)


class TextMethod(Method[TextAttackResult]):
    """Attack texts one by one, on every head of one backbone.

    Args:
        sample: whose labels are the model's.
        classifiers: under attack, by name, over the same features.
        searcher: attacks one text.
        searches: "own", "guided" or both.
        guide: whose score a guided search climbs.
        precise: the classifiers in float32, where they compute in less: a success counts only if they confirm it.
    """

    unit = "text"

    def __init__(
        self,
        sample: Sample,
        classifiers: Mapping[str, TextClassifier],
        searcher: Searcher,
        searches: Sequence[str],
        guide: Guide | None,
        precise: Mapping[str, TextClassifier],
    ):
        self.sample, self.texts, self.pairs = sample, sample.texts(), sample.second_texts()
        self.classifiers, self.precise, self.guide = classifiers, precise, guide
        self.searcher, self.searches = searcher, searches
        self.draws = next(iter(classifiers.values())).draws
        answering = [*classifiers.values(), *precise.values(), *([guide.classifier] if guide else [])]
        self.features = list({id(each.features): each.features for each in answering}.values())

    def seed_key(self, group: range) -> int:
        """Return the row number."""
        return self.sample.rows[group.start]

    def attack(self, target: str, group: range) -> list[Record]:
        """Attack one text with every search and return the worst outcome."""
        (position,) = group
        label = self.sample.labels[position]
        record: Record = {"index": self.sample.rows[position], "label": label}
        if label < 0:
            return [{**record, "status": "skipped: it has no label", "seconds": 0.0}]
        for features in self.features:
            features.second = self.pairs[position] if self.pairs else None
        outcomes: dict[str, Record] = {}
        for search in self.searches:
            with seeded(self.sample.options.seed, self.seed_key(group)):  # each search as it would be alone
                guides = (self.guide,) if search == "guided" else ()
                found = self.searcher.attack(self.classifiers[target], self.texts[position], label, *guides)
            outcomes[search] = found
            if (
                found["status"] != "attacked"
            ):  # nor would the other search, or its outcome has nothing to be paired with
                outcomes = {search: found}
                break
            if found["success"] and target in self.precise:
                self._confirm(found, target, label)
        self.classifiers[target].clear()
        return [{**record, **_worst(outcomes)}]

    def _confirm(self, found: Record, target: str, label: int) -> None:
        """Turn a success into a failure where the classifier in float32 classifies the text correctly."""
        precise = self.precise[target]
        prediction = int(precise([found["perturbed_text"]]).argmax())
        found["confirmed"] = found["success"] = prediction != label
        found["perturbed_prediction"] = prediction
        precise.clear()

    def end_group(self) -> None:
        """Forget the last text, its features and its candidates."""
        for features in self.features:
            features.clear()
        if self.guide is not None:
            self.guide.classifier.clear()
        self.searcher.clear()

    def succeeded(self, record: Record) -> bool:
        """Return whether any search found a text that is misclassified."""
        return bool(record["success"])

    def result(
        self, about: Mapping[str, object], settings: Mapping[str, object], records: Sequence[Record]
    ) -> TextAttackResult:
        """Return the result of a run."""
        fields = {"search": "own", **settings, **about, "redraws": None}
        if self.precise:
            fields["num_unconfirmed"] = count_unconfirmed(records)
        metrics = summary(records, self.draws, self.searcher.redraws)
        return TextAttackResult.from_json({**fields, **metrics}, "the result of the attack")


def summary(records: Sequence[Record], draws: int, redraws: int) -> dict[str, object]:
    """Return the metrics of a run, from its records alone."""
    kept = not_skipped(records)
    tried = [record for record in kept if record["status"] == "attacked"]
    metrics = _rates(kept)
    if any("own" in record for record in tried):
        metrics["searches"] = {
            "own": _search_outcome(kept, "own", "guided"),
            "guided": _search_outcome(kept, "guided", "own"),
        }
    if draws:
        right = [1 - record["redraws_wrong"] / redraws for record in kept]
        wrong = [record["redraws_wrong"] / redraws for record in tried]
        metrics["redraws"] = TextRedraws(  # intervals over texts: the share of a text's draws is one observation
            draws=redraws,
            accuracy_under_attack=_mean(right),
            accuracy_under_attack_interval=share_interval(right),
            attack_success_rate=_mean(wrong),
            attack_success_rate_interval=share_interval(wrong),
        )
    return metrics


def count_unconfirmed(records: Sequence[Record]) -> int:
    """Return how many successes the classifier in float32 did not confirm, over all searches."""
    outcomes = [record.get(search, {}) for record in records for search in ("own", "guided")]
    return sum(outcome.get("confirmed") is False for outcome in (*records, *outcomes))


def _worst(outcomes: Mapping[str, Record]) -> Record:
    """Return the record of a text that was searched in several ways: the worst outcome, then each of them.

    A success is worse than none, and the one that changed fewer words is the worst. Queries and seconds are summed.
    """
    if len(outcomes) == 1:
        (outcome,) = outcomes.values()
        return outcome
    worst = max(outcomes.values(), key=_harm)
    optional = ("confirmed", "redraws_wrong")
    record = {
        **{name: value for name, value in worst.items() if name != "confirmed"},
        "queries": sum(outcome["queries"] for outcome in outcomes.values()),
        "seconds": sum(outcome["seconds"] for outcome in outcomes.values()),
    }
    for search, outcome in outcomes.items():
        record[search] = {name: outcome[name] for name in (*_PER_SEARCH, *optional) if name in outcome}
    return record


def _harm(outcome: Record) -> tuple[bool, int, int]:
    return outcome["success"], outcome.get("redraws_wrong", 0), -outcome["words_perturbed"]


def _rates(kept: Sequence[Record]) -> dict[str, Any]:
    """Return the rates of the texts that could be read."""
    tried = [record for record in kept if record["status"] == "attacked"]
    wins = [record for record in tried if record["success"]]
    return {
        **attack_summary(
            [record["prediction"] == record["label"] for record in kept],
            [record["status"] == "attacked" and not record["success"] for record in kept],
        ),
        "attack_success_interval": wilson_interval(len(wins), len(tried)),
        "words_perturbed_mean": _mean([record["words_perturbed"] for record in wins]),
        "queries_mean": _mean([record["queries"] for record in tried]),
    }


def _search_outcome(kept: Sequence[Record], search: str, other: str) -> SearchOutcome:
    """Return the rates of one of the two searches that were made of every text."""
    rates = _rates([{**record, **record.get(search, {})} for record in kept])
    both = [(record[search]["success"], record[other]["success"]) for record in kept if record["status"] == "attacked"]
    return SearchOutcome(
        num_successes=rates["num_successes"],
        num_alone=both.count((True, False)),
        accuracy_under_attack=rates["accuracy_under_attack"],
        attack_success_rate=rates["attack_success_rate"],
        attack_success_interval=rates["attack_success_interval"],
        words_perturbed_mean=rates["words_perturbed_mean"],
        queries_mean=rates["queries_mean"],
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
