"""Attacks on the heads of a grid and on the classifiers they are compared with: the cells of Tables 1 to 3.

All heads share one frozen backbone. Texts are attacked together over one memory of its features. Images are attacked
head by head: the gradient through the backbone differs from head to head, so there is little to share.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn

from ..compute.precision import compute_dtype
from ..data.record import TrainingRecord
from ..data.splits import label_names
from ..reports.examples import image_examples, text_examples
from ..reports.tables import budget_name
from ..runs.schema import (
    AttackSummary,
    Examples,
    ImageAttackResult,
    ImageExample,
    Part,
    StressCard,
    StressResult,
    TextAttackResult,
    TextExample,
)
from .experiments import Experiment
from .heads import Backbone, HeadOnFeatures

logger = logging.getLogger(__name__)

COLUMNS = {"DeepWordBugGao2018": "DWB", "PWWSRen2019": "PWWS"}
"""Names of the paper's recipes in tables."""

_PICTURES, _TEXTS = 4, 2  # most examples shown per attack and classifier


@dataclass(frozen=True, kw_only=True, eq=False)
class Attacked(Part):
    """Everything that the attacks on a grid gave."""

    attacks: dict[str, dict[str, AttackSummary]]
    """By head and column of the table."""
    stress: tuple[StressResult | StressCard, ...]
    examples: Examples


@dataclass(frozen=True)
class GridAttack:
    """What is attacked, and with what.

    Attributes:
        settings: the attacks.
        model: the backbone.
        processor: its tokenizer or image processor.
        heads: from features to logits, by name. Examples of texts are of the first one.
        best: name of the best head of each objective, for the stress suite.
        dataset: the test rows, with the labels as the heads number them.
        record: of the rows that the heads were trained and selected on.
        rows: the test rows in words.
        folder: for the attacks' own files, with which a killed run goes on.
    """

    settings: Experiment
    model: Backbone
    processor: Any
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

    def _texts(self) -> Attacked:
        attacks: dict[str, dict[str, AttackSummary]] = {name: {} for name in self.heads}
        examples: list[TextExample] = []
        shown = next(iter(self.heads))
        for recipe in self.settings.attacks:
            found = self._attack_texts(recipe, self.heads, self.settings.num_examples, "mean")
            for name, result in found.items():
                attacks[name][COLUMNS.get(result.attack, result.attack)] = self._summary(result)
            folder = self.folder / found[shown].attack / slug(shown)
            column = COLUMNS.get(found[shown].attack, found[shown].attack)
            examples += text_examples(folder, label_names(self.dataset), _TEXTS, attack=column, head=shown)
        stress: list[StressResult] = []
        few = min(self.settings.stress_examples, self.settings.num_examples)
        best = {name: self.heads[name] for name in self.best.values()}
        for noise in self.settings.stress if self.settings.attacks else ():
            found = self._attack_texts(self.settings.attacks[0], best, few, noise)
            for objective, name in self.best.items():
                stress.append(self._stress_result(objective, name, self._summary(found[name])))
        return Attacked(attacks=attacks, stress=tuple(stress), examples=Examples(texts=tuple(examples), images=()))

    def _attack_texts(
        self, recipe: str, heads: Mapping[str, nn.Module], num_examples: int, noise: str
    ) -> dict[str, TextAttackResult]:
        """Attack heads with one recipe; the backbone computes in the dtype in which it computed the features."""
        from ..attacks.text.attack import attack_text_heads
        from ..attacks.text.recipes import resolve_recipe

        recipe = resolve_recipe(recipe)
        logger.info("attack: %s on %d heads, predictor %s", recipe, len(heads), noise)
        folder = self.folder / (recipe if noise == "mean" else f"{recipe}-{noise.replace(':', '-')}")
        dtype = compute_dtype("auto", next(self.model.parameters()).device)
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
            match_labels="number",
            output_dir=folder,
            progress=sys.stderr.isatty(),  # the log names the rows in any case
        )
        return {name: found[slug(name)] for name in heads}

    def _images(self) -> Attacked:
        attacks: dict[str, dict[str, AttackSummary]] = {name: {} for name in self.heads}
        pictures: list[ImageExample] = []
        names = label_names(self.dataset)
        for attack in self.settings.attacks:
            few = self.settings.cw_examples if attack == "cw" else self.settings.num_examples
            for name, head in self.heads.items():
                folder = self.folder / attack / slug(name)
                found = self._attack_images(attack, head, min(few, self.settings.num_examples), folder)
                for budget in found.budgets:
                    attacks[name][_column(attack, budget.epsilon)] = self._summary(found, budget)
            for objective, name in self.best.items():
                folder = self.folder / attack / slug(name)
                pictures += image_examples(folder, names, _PICTURES, attack=attack, objective=objective)
        stress = [row for objective, name in self.best.items() for row in self._stress_images(objective, name)]
        return Attacked(attacks=attacks, stress=tuple(stress), examples=Examples(texts=(), images=tuple(pictures)))

    def _attack_images(self, attack: str, head: nn.Module, num_examples: int, folder: Path) -> ImageAttackResult:
        from ..attacks.image.attack import attack_image

        logger.info("attack: %s on %s", attack, folder.name)
        options: dict[str, Any] = {"epsilon": self.settings.epsilons} if attack == "fgs" else {}
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
        """Return the checks for masked gradients, or why they could not be made."""
        from ..attacks.image.report_card import make_image_card

        try:
            found = make_image_card(
                HeadOnFeatures(self.model, self.heads[name]),
                self.dataset,
                processor=self.processor,
                num_examples=num_examples,
                how=self.settings.how,
                seed=self.settings.seed,
                match_labels="number",
                progress=False,
            )
        except ValueError as error:
            return StressCard(objective=objective, head=name, passed=None, checks=(), why=str(error))
        return StressCard(objective=objective, head=name, passed=found.passed, checks=found.checks)

    def _summary(self, result: TextAttackResult | ImageAttackResult, budget: Part | None = None) -> AttackSummary:
        """Return the fields of a result, or of one of its budgets, that tables show."""
        found = {**result, **(budget or {})}
        wanted = {field.name for field in fields(AttackSummary)} - {"dataset", "num_runs"}
        rows = f"{result.num_examples:,} of {len(self.dataset):,} test rows ({self.rows})"
        return AttackSummary(
            **{name: value for name, value in found.items() if name in wanted and value is not None}
            | {"split": "test", "data_rows": rows}
        )

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
