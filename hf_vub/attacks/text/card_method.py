"""Search every text of a report card in all the ways that its checks compare, and draw the verdicts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...compute.contexts import seeded
from ...data.sample import Sample
from ...metrics.intervals import wilson_interval
from ...runs.schema import Check, TextReportCard, TextSearch, overall
from ..runner import Method, Record, not_skipped
from .classifier import TextClassifier
from .guide import Guide, GuideAsVictim, OwnScore, Score
from .recipes import Searcher
from .reference import Reference
from .stronger import Variant, beam, every_candidate, in_random_order, unbounded
from .verdicts import (
    ALPHA,
    Comparison,
    compare,
    not_made,
    plateau_check,
    same_answers_check,
    unbounded_check,
)

EDITED_SHARE = 0.5
"""Share of the words that random edits change, as far as the recipe's constraints allow."""
RANDOM_DRAWS = 10
"""Randomly edited versions of each text."""
CLEARLY = 0.25
"""Difference between two shares of wrong draws of a random predictor that is more than chance."""
MOST_RESTARTS = 10
"""Restarts in random order, as long as there are queries left."""

CHECKS = ("guided", "transfer", "plateau", "every_candidate", "beam", "link", "random_edits", "unbounded", "eot")

_GUIDED = "guided by {name} the recipe fools the model on {rival:.1%} of texts, and by its own score on {base:.1%}"
_TRANSFER = "texts made on {name} fool the model on {rival:.1%} of texts, and those made on itself on {base:.1%}"
_GREEDY = (
    "guided by {name} the recipe fools the model on {rival:.1%} of texts, and a greedy search over all edits by its "
    "own score, which may ask far more often, on {base:.1%}"
)
_BEAM = (
    "guided by {name} the recipe fools the model on {rival:.1%} of texts, and beam search with restarts by its own "
    "score, which may ask far more often, on {base:.1%}"
)
_LINK = "with rescaled log-odds the recipe fools the model on {rival:.1%} of texts, and with its own on {base:.1%}"
_RANDOM = "random edits fool the model on {rival:.1%} of texts, and the recipe by its own score on {base:.1%}"
_AVERAGED = (
    "averaging draws the recipe leaves clearly more wrong draws on {rival:.1%} of texts than asking once for each "
    "query, and clearly fewer on {base:.1%}"
)


@dataclass(frozen=True)
class CardOptions:
    """How texts are searched.

    Attributes:
        recipe: class name of the TextAttack recipe.
        query_factor: the stronger searches may make this many times the queries of the recipe on the same text.
        max_words: longer texts are skipped.
        redraws: fresh draws of the declared predictor that decide about a text; 0 where it is not random.
    """

    recipe: str
    query_factor: int
    max_words: int
    redraws: int


class CardMethod(Method[TextReportCard]):
    """Search texts one by one in all the ways that are compared.

    Args:
        sample: whose labels are the model's.
        attacked: answers the searches: the predictor, of a random one the average of many draws.
        declared: decides about a text: the declared predictor.
        guides: the guide, then the models to transfer from; none where there is no guide.
        reference: what is known beforehand.
        options: how to search.
    """

    unit = "text"

    def __init__(
        self,
        sample: Sample,
        attacked: TextClassifier,
        declared: TextClassifier,
        guides: Sequence[Guide],
        reference: Reference,
        options: CardOptions,
    ):
        self.sample, self.texts, self.pairs = sample, sample.texts(), sample.second_texts()
        self.attacked, self.declared, self.guides = attacked, declared, guides
        self.reference, self.options = reference, options
        answering = [attacked, declared, *(guide.classifier for guide in guides)]
        self.classifiers = list(dict.fromkeys(answering))
        self.features = list({id(each.features): each.features for each in answering}.values())
        self.words: list[str] = []  # the replacements of the unbounded search
        self.recipe = self._searcher()
        self.greedy, self.beam = self._searcher(every_candidate), self._searcher(beam)
        self.free = self._searcher(unbounded(self.words))
        self.restarted = self._searcher(in_random_order) if self.recipe.swaps_words else None

    def _searcher(self, variant: Variant | None = None) -> Searcher:
        return Searcher(
            self.options.recipe, self.attacked, max_words=self.options.max_words, guided=True, variant=variant
        )

    def seed_key(self, group: range) -> int:
        """Return the row number."""
        return self.sample.rows[group.start]

    def attack(self, target: str, group: range) -> list[Record]:
        """Search one text in all ways; its record holds which of them found an adversarial text."""
        (position,) = group
        text, label = self.texts[position], self.sample.labels[position]
        record: Record = {"index": self.sample.rows[position], "label": label}
        if label < 0:
            return [{**record, "status": "skipped: it has no label", "seconds": 0.0}]
        for features in self.features:
            features.second = self.pairs[position] if self.pairs else None
        began = time.perf_counter()
        key = self.seed_key(group)
        own = self._search(self.recipe, key, text, label, OwnScore(self.attacked))
        record.update({name: own[name] for name in ("status", "prediction", "words", "original_text") if name in own})
        if own["status"] == "attacked":
            outcomes = {"own": self._is_fooled(own, label)}
            queries = {"own": own["queries"]}
            rivals = self._rivals(key, text, label)
            for name, rival in rivals.items():
                outcomes[name], queries[name] = self._is_fooled(rival, label), rival.get("queries", 0)
            if "single" in rivals:
                ends = (each.get("perturbed_text") or text for each in (own, rivals["single"]))
                record["wrong_draws"] = [self._share_of_wrong_draws(end, label) for end in ends]
            for name in ("every_candidate", "beam"):
                found, asked = outcomes["own"], own["queries"]
                if self.guides and not found:  # what the recipe finds, a stronger search is granted
                    found, asked = self._search_harder(name, key, text, label, self.options.query_factor * asked)
                outcomes[name], queries[name] = found, asked
            outcomes["random_edits"] = self._falls_to_random_edits(key, text, label)
            record |= {"outcomes": outcomes, "queries": queries, "change": self._change(text)}
        for classifier in self.classifiers:
            classifier.clear()
        return [{**record, "seconds": time.perf_counter() - began}]

    def _search(
        self,
        searcher: Searcher,
        key: int,
        text: str,
        label: int,
        score: Score | None = None,
        victim: TextClassifier | GuideAsVictim | None = None,
        budget: int | None = None,
    ) -> Record:
        """Attack a text from the random state that every search of it starts from."""
        with seeded(self.sample.options.seed, key):
            return searcher.attack(victim or self.attacked, text, label, score, budget)

    def _rivals(self, key: int, text: str, label: int) -> dict[str, Record]:
        """Return what the searches found that are made of every text, next to the recipe by the model's own score."""
        calmer = OwnScore(self.attacked, self.reference.temperature)
        found = {"link": self._search(self.recipe, key, text, label, calmer)}
        if self.reference.words_of_others:
            self.words[:] = self.reference.words_of_others[label]
            found["unbounded"] = self._search(self.free, key, text, label, OwnScore(self.attacked))
        if self.guides:
            found["guided"] = self._search(self.recipe, key, text, label, self.guides[0])
        for guide in self.guides:
            victim = GuideAsVictim(guide)
            found[f"transfer: {guide.name}"] = self._search(self.recipe, key, text, label, victim=victim)
        if self.declared.draws:
            score = OwnScore(self.declared)
            found["single"] = self._search(self.recipe, key, text, label, score, self.declared)
        return found

    def _search_harder(self, name: str, key: int, text: str, label: int, budget: int) -> tuple[bool, int]:
        """Return whether a stronger search by the model's own score finds an adversarial text, and its queries."""
        score = OwnScore(self.attacked)
        searcher = self.greedy if name == "every_candidate" else self.beam
        found = self._search(searcher, key, text, label, score, budget=budget)
        fooled, asked = self._is_fooled(found, label), found.get("queries", 0)
        if name == "every_candidate" or self.restarted is None:
            return fooled, asked
        with seeded(self.sample.options.seed, key, 1):
            for _ in range(MOST_RESTARTS):
                if fooled or asked >= budget:
                    break
                found = self.restarted.attack(self.attacked, text, label, score, budget - asked)
                fooled, asked = self._is_fooled(found, label), asked + found.get("queries", 0)
        return fooled, asked

    def _falls_to_random_edits(self, key: int, text: str, label: int) -> bool:
        with seeded(self.sample.options.seed, key, 2):
            edited = [self.recipe.edit_at_random(text, EDITED_SHARE) for _ in range(RANDOM_DRAWS)]
            return any(self._is_wrong(each, label) for each in edited)

    def _is_fooled(self, found: Record, label: int) -> bool:
        """Return whether the declared predictor misclassifies what a search ended with."""
        text = found.get("perturbed_text")
        return text is not None and self._is_wrong(text, label)

    def _is_wrong(self, text: str, label: int) -> bool:
        return self._share_of_wrong_draws(text, label) > 0.5

    def _share_of_wrong_draws(self, text: str, label: int) -> float:
        """Return how many of the draws of the declared predictor misclassify a text: 0 or 1 if it is not random."""
        wrong = self.declared([text] * max(1, self.options.redraws)).argmax(dim=-1) != label
        return float(wrong.double().mean())

    def _change(self, text: str) -> float:
        """Return the largest difference between the logits of two passes over a text."""
        answers = []
        for _ in range(2):
            self.attacked.features.clear()
            self.attacked.clear()
            answers.append(self.attacked([text]))
        return float((answers[0] - answers[1]).abs().max())

    def end_group(self) -> None:
        """Forget the last text, its features and its candidates."""
        for features in self.features:
            features.clear()
        for searcher in (self.recipe, self.greedy, self.beam, self.free, self.restarted):
            if searcher is not None:
                searcher.clear()

    def result_path(self, folder: Path) -> Path:
        """Return the file of the card, next to the folder with its records."""
        return folder.parent / "report_card.json"

    def succeeded(self, record: Record) -> bool:
        """Return whether the recipe found an adversarial text by the model's own score."""
        return bool(record["outcomes"]["own"])

    def result(
        self, about: Mapping[str, object], settings: Mapping[str, object], records: Sequence[Record]
    ) -> TextReportCard:
        """Return the card, from the records and what was known beforehand."""
        kept = not_skipped(records)
        tried = [record for record in kept if record["status"] == "attacked"]
        if not tried:
            raise ValueError(f"the model gets none of {len(kept)} texts right: there is nothing to attack")
        checks = self._checks(tried)
        fields = {
            **settings,
            **about,
            "num_attacked": len(tried),
            "clean_accuracy": len(tried) / len(kept),
            "passed": overall(checks),
            "checks": tuple(checks),
            "alpha": ALPHA,
            "guide_agreement": self.reference.agreement if self.guides else None,
            "searches": _searches(tried),
            "temperature": self.reference.temperature,
        }
        return TextReportCard.from_json(fields, "the report card")

    def _checks(self, tried: Sequence[Record]) -> list[Check]:
        """Return every check, in the order of the table in `make_text_card`."""
        found = {name: np.array([record["outcomes"][name] for record in tried]) for name in tried[0]["outcomes"]}
        comparisons = [
            Comparison("link", {"link": found["link"]}, found["own"], _LINK),
            Comparison("random_edits", {"random edits": found["random_edits"]}, found["own"], _RANDOM),
        ]
        if self.guides:
            guided = {self.guides[0].name: found["guided"]}
            transferred = {guide.name: found[f"transfer: {guide.name}"] for guide in self.guides}
            comparisons += [
                Comparison("guided", guided, found["own"], _GUIDED, guided=True),
                Comparison("transfer", transferred, found["own"], _TRANSFER, guided=True),
                Comparison("every_candidate", guided, found["every_candidate"], _GREEDY, guided=True),
                Comparison("beam", guided, found["beam"], _BEAM, guided=True),
            ]
        if self.declared.draws:
            averaged, single = np.array([record["wrong_draws"] for record in tried]).T
            better = {"averaging": averaged > single + CLEARLY}
            comparisons.append(Comparison("eot", better, single > averaged + CLEARLY, _AVERAGED))
        made = {check.name: check for check in compare(comparisons, self.reference.agreement)}
        if not self.declared.draws:
            made["eot"] = same_answers_check([record["change"] for record in tried])
        if self.reference.plateau is not None:
            made["plateau"] = plateau_check(self.reference.plateau)
        if "unbounded" in found:
            made["unbounded"] = unbounded_check(found["unbounded"])
        return [made.get(name) or not_made(name, self.reference.problem) for name in CHECKS]


def _searches(tried: Sequence[Record]) -> dict[str, TextSearch]:
    """Return what each search found."""
    found = {}
    for name in tried[0]["outcomes"]:
        successes = sum(record["outcomes"][name] for record in tried)
        asked = [record["queries"][name] for record in tried if name in record["queries"]]
        found[name] = TextSearch(
            num_successes=successes,
            success_rate=successes / len(tried),
            success_interval=wilson_interval(successes, len(tried)),
            queries_mean=sum(asked) / len(asked) if asked else None,
        )
    return found
