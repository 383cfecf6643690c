"""Attacks on the heads of a grid and on the classifiers they are compared with: the cells of Tables 1 to 3.

All heads share one frozen backbone. Texts are attacked together over one memory of its features, by each head's own
score and by that of the stock classifier. Images are attacked head by head: the gradient through the backbone differs
from head to head, so there is little to share.
"""

import copy
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypedDict

from datasets import Dataset
from torch import nn

from ..compute.precision import compute_dtype
from ..data.record import TrainingRecord
from ..data.splits import label_names
from ..reports.examples import image_examples, text_examples
from ..reports.tables import budget_name
from ..runs.files import read_records
from ..runs.schema import (
    AttackSummary,
    Examples,
    ImageAttackResult,
    ImageExample,
    Outcomes,
    Part,
    StressCard,
    StressResult,
    TextAttackResult,
    TextExample,
)
from .experiments import Experiment
from .heads import Backbone, HeadOnFeatures, Processor
from .outcomes import GUIDED, outcomes_of

logger = logging.getLogger(__name__)

COLUMNS = {"DeepWordBugGao2018": "DWB", "PWWSRen2019": "PWWS"}
"""Names of the paper's recipes in tables."""

_PICTURES, _TEXTS = 4, 2  # most examples shown per attack and classifier


_LINF_BUDGETS = ("fgs", "pgd_linf")  # made at every budget of the experiment


class _ImageOptions(TypedDict, total=False):
    """Options of some attacks on images."""

    epsilon: tuple[str, ...]
    target: int
    steps: int


class _CardOptions(TypedDict):
    """Options of the report cards of both media."""

    num_examples: int
    how: str
    seed: int
    match_labels: str
    progress: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Attacked(Part):
    """Everything that the attacks on a grid gave."""

    attacks: dict[str, dict[str, AttackSummary]]
    """By head and column of the table."""
    outcomes: dict[str, dict[str, Outcomes]]
    """Likewise, row by row."""
    stress: tuple[StressResult | StressCard, ...]
    examples: Examples


@dataclass(frozen=True)
class GridAttack:
    """What is attacked, and with what.

    Attributes:
        settings: the attacks.
        model: the backbone.
        processor: its tokenizer or image processor.
        heads: from features to logits, by name. The first one is the stock classifier, or a logistic regression that
            stands for it: it guides searches, other models' examples are transferred from it, and examples of texts are
            of it.
        best: name of the best head of each objective, for the stress suite.
        dataset: the test rows, with the labels as the heads number them.
        record: of the rows that the heads were trained and selected on.
        rows: the test rows in words.
        folder: for the attacks' own files, with which a killed run goes on.
    """

    settings: Experiment
    model: Backbone
    processor: Processor
    heads: Mapping[str, nn.Module]
    best: Mapping[str, str]
    dataset: Dataset
    record: TrainingRecord
    rows: str
    folder: Path

    def run(self) -> Attacked:
        """Run every attack on every head through the mean, and the stress suite on the best ones."""
        vars(self.model)["training_record"] = self.record  # results say how many attacked rows were trained on
        return self._texts() if self.settings.task == "text" else self._images()

    @property
    def _stock(self) -> str:
        return next(iter(self.heads))

    def _texts(self) -> Attacked:
        attacks: dict[str, dict[str, AttackSummary]] = {name: {} for name in self.heads}
        outcomes: dict[str, dict[str, Outcomes]] = {name: {} for name in self.heads}
        examples: list[TextExample] = []
        for recipe in self.settings.attacks:
            found, folder = self._attack_texts(recipe, self.heads, self.settings.num_examples, "mean")
            column = COLUMNS.get(found[self._stock].attack, found[self._stock].attack)
            for name, result in found.items():
                records = list(read_records(folder / slug(name) / "records.jsonl"))
                for search, ending in (("own", ""), ("guided", GUIDED)):
                    attacks[name][column + ending] = self._searched(result, search)
                    outcomes[name][column + ending] = outcomes_of(records, search)
            stock = folder / slug(self._stock)
            examples += text_examples(stock, label_names(self.dataset), _TEXTS, attack=column, head=self._stock)
        stress = self._stress_texts() if self.settings.attacks else []
        shown = Examples(texts=tuple(examples), images=())
        return Attacked(attacks=attacks, outcomes=outcomes, stress=tuple(stress), examples=shown)

    def _stress_texts(self) -> list[StressResult | StressCard]:
        """Attack the best heads through other predictors, and make their report cards."""
        few = min(self.settings.stress_examples, self.settings.num_examples)
        best = {name: self.heads[name] for name in self.best.values()}
        rows: list[StressResult | StressCard] = []
        for noise in self.settings.stress:
            found, _ = self._attack_texts(self.settings.attacks[0], best, few, noise)
            rows += [
                self._stress_result(objective, name, self._summary(found[name]))
                for objective, name in self.best.items()
            ]
        cards = self.best.items() if self.settings.stress else ()
        return [*rows, *(self._card(objective, name, few) for objective, name in cards)]

    def _attack_texts(
        self, recipe: str, heads: Mapping[str, nn.Module], num_examples: int, noise: str
    ) -> tuple[dict[str, TextAttackResult], Path]:
        """Attack heads with one recipe, by their mean also with the stock classifier as guide; return the folder too.

        The backbone computes in the dtype in which it computed the features.
        """
        from ..attacks.text.attack import attack_text_heads
        from ..attacks.text.recipes import resolve_recipe

        recipe = resolve_recipe(recipe)
        logger.info("attack: %s on %d heads, predictor %s", recipe, len(heads), noise)
        folder = self.folder / (recipe if noise == "mean" else f"{recipe}-{noise.replace(':', '-')}")
        dtype = compute_dtype("auto", next(self.model.parameters()).device)
        guide = self.heads[self._stock] if noise == "mean" else None
        found = attack_text_heads(
            self.model,
            {slug(name): head for name, head in heads.items()},
            self.dataset,
            recipe,
            tokenizer=self.processor,
            num_examples=num_examples,
            how=self.settings.how,
            seed=self.settings.seed,
            noise=noise,
            max_length=self.settings.max_length,
            dtype=str(dtype).removeprefix("torch."),
            guide=guide,
            search=None if guide is None else "both",
            match_labels="number",
            output_dir=folder,
            progress=sys.stderr.isatty(),  # the log names the rows in any case
        )
        return {name: found[slug(name)] for name in heads}, folder

    def _images(self) -> Attacked:
        attacks: dict[str, dict[str, AttackSummary]] = {name: {} for name in self.heads}
        outcomes: dict[str, dict[str, Outcomes]] = {name: {} for name in self.heads}
        pictures: list[ImageExample] = []
        names = label_names(self.dataset)
        for attack in self.settings.attacks:
            few = self.settings.cw_examples if attack == "cw" else self.settings.num_examples
            for name, head in self.heads.items():
                folder = self.folder / attack / slug(name)
                found = self._attack_images(attack, head, min(few, self.settings.num_examples), folder)
                records = list(read_records(folder / "records.jsonl"))
                for place, budget in enumerate(found.budgets):
                    column = _column(attack, budget.epsilon)
                    attacks[name][column] = self._summary(found, budget)
                    outcomes[name][column] = outcomes_of(records, budget=place)
            for objective, name in self.best.items():
                folder = self.folder / attack / slug(name)
                pictures += image_examples(folder, names, _PICTURES, attack=attack, objective=objective)
        stress = [row for objective, name in self.best.items() for row in self._stress_images(objective, name)]
        shown = Examples(texts=(), images=tuple(pictures))
        return Attacked(attacks=attacks, outcomes=outcomes, stress=tuple(stress), examples=shown)

    def _attack_images(self, attack: str, head: nn.Module, num_examples: int, folder: Path) -> ImageAttackResult:
        from ..attacks.image.attack import attack_image

        logger.info("attack: %s on %s", attack, folder.name)
        options: _ImageOptions = {"epsilon": self.settings.epsilons} if attack in _LINF_BUDGETS else {}
        if attack == "cw":
            options = {"target": _goal(self.settings.target, self.dataset), "steps": self.settings.cw_steps}
        return attack_image(
            HeadOnFeatures(self.model, head),
            self.dataset,
            attack,
            processor=self.processor,
            num_examples=num_examples,
            how=self.settings.how,
            seed=self.settings.seed,
            match_labels="number",
            output_dir=folder,
            progress=sys.stderr.isatty(),
            **options,
        )

    def _stress_images(self, objective: str, name: str) -> list[StressResult | StressCard]:
        """Run the stress suite and the report card on the best head of an objective."""
        few = min(self.settings.stress_examples, self.settings.num_examples)
        rows: list[StressResult | StressCard] = []
        for attack in self.settings.stress:
            if attack == "apgd_dlr" and len(label_names(self.dataset)) < 4:
                continue  # its loss compares the first, second and third most likely wrong classes
            folder = self.folder / "stress" / f"{attack}-{name}"
            found = self._attack_images(attack, self.heads[name], few, folder)
            rows += [self._stress_result(objective, name, self._summary(found, budget)) for budget in found.budgets]
        return [*rows, self._card(objective, name, few)] if self.settings.stress else rows

    def _card(self, objective: str, name: str, num_examples: int) -> StressCard:
        """Return the report card of a head next to the stock classifier and its siblings, or why there is none."""
        from ..attacks import report_card

        others = dict.fromkeys([self._stock, *(each for each in self.best.values() if each != name)])
        shared: _CardOptions = {
            "num_examples": num_examples,
            "how": self.settings.how,
            "seed": self.settings.seed,
            "match_labels": "number",
            "progress": False,
        }
        try:
            if self.settings.task == "text":
                stock, *siblings = (self.heads[each] for each in others)
                card = report_card(
                    self._classifier(name), self.dataset, guide=stock, transfer_from=siblings,
                    recipe=self.settings.attacks[0], tokenizer=self.processor, max_length=self.settings.max_length,
                    **shared,
                )  # fmt: skip
            else:
                rivals = [HeadOnFeatures(self.model, self.heads[each]) for each in others]
                card = report_card(
                    HeadOnFeatures(self.model, self.heads[name]), self.dataset, transfer_from=rivals,
                    processor=self.processor, **shared,
                )  # fmt: skip
        except ValueError as error:
            return StressCard(objective=objective, head=name, passed=None, checks=(), why=str(error))
        return StressCard(objective=objective, head=name, passed=card.passed, checks=card.checks)

    def _classifier(self, name: str) -> Backbone:
        """Return the model with one of the heads as its own; it shares the weights of the backbone."""
        classifier = copy.copy(self.model)
        classifier._modules = {**self.model._modules, "head": self.heads[name]}
        return classifier

    def _summary(self, result: TextAttackResult | ImageAttackResult, budget: Part | None = None) -> AttackSummary:
        """Return the fields of a result, or of one of its budgets, that tables show."""
        found = {**result, **(budget or {})}
        wanted = {field.name for field in fields(AttackSummary)} - {"dataset", "num_runs"}
        rows = f"{result.num_examples:,} of {len(self.dataset):,} test rows ({self.rows})"
        return AttackSummary(
            **{name: value for name, value in found.items() if name in wanted and value is not None}
            | {"split": "test", "data_rows": rows}
        )

    def _searched(self, result: TextAttackResult, search: str) -> AttackSummary:
        """Return the summary of one of the two searches that were made of every text."""
        summary = self._summary(result)
        found = (result.searches or {}).get(search)
        if found is None:  # no text was attacked
            return summary
        names = ("accuracy_under_attack", "attack_success_rate", "attack_success_interval", "words_perturbed_mean")
        return replace(summary, queries_mean=found.queries_mean, **{name: getattr(found, name) for name in names})

    @staticmethod
    def _stress_result(objective: str, name: str, summary: AttackSummary) -> StressResult:
        return StressResult(objective=objective, head=name, **summary)


def slug(name: str) -> str:
    """Return the name of a head as a file name."""
    return name.replace(" ", "-")


def _column(attack: str, epsilon: float | None) -> str:
    """Return the name that tables give to an attack on images at a budget."""
    title = {"fgs": "FGS", "cw": "CW"}.get(attack, attack)
    return title if epsilon is None else f"{title} {budget_name(epsilon)}"


def _goal(target: str | None, dataset: Dataset) -> int:
    """Return the class that targeted attacks aim at; the last one if the data have no class of that name."""
    from ..attacks.image.examples import class_index

    names: Sequence[str] = label_names(dataset)
    if target is not None:
        try:
            return class_index(int(target) if target.isdigit() else target, list(names))
        except ValueError as error:
            logger.warning("%s; the target is the last class, %s", error, names[-1])
    return len(names) - 1
