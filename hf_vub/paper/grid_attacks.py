"""Attacks on every head of a grid, and on the stock classifier beside them: the figures of Tables 1 to 3.

All heads share one frozen backbone. Texts are attacked together over one memory of its features. Images are attacked
head by head: the gradient through the backbone differs from head to head, so there is little to share.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn

from ..attacks.image.examples import class_index
from ..attacks.text.recipes import resolve_recipe
from ..compute.precision import compute_dtype
from ..data.splits import label_names
from ..reports.examples import image_examples, text_examples
from ..reports.tables import budget_name
from .backbone import HeadOnFeatures
from .experiments import Experiment

logger = logging.getLogger(__name__)

COLUMNS = {"DeepWordBugGao2018": "DWB", "PWWSRen2019": "PWWS"}
"""What tables call the recipes of the paper."""

_FIGURES = (
    *("num_examples", "num_attacked", "num_skipped", "clean_accuracy", "accuracy_under_attack", "attack_success_rate"),
    *("attack_success_interval", "l2_mean", "l2_median", "epsilon", "words_perturbed_mean", "queries_mean", "redraws"),
)
_ABOUT = ("kind", "attack", "noise", "how", "seed", "target", "stopwords")
_PICTURES = 4
_TEXTS = 2


def attack_texts(
    settings: Experiment,
    model: Any,
    tokenizer: Any,
    heads: Mapping[str, nn.Module],
    best: Mapping[str, str],
    dataset: Dataset,
    folder: Path,
) -> dict[str, Any]:
    """Every recipe on every head through the mean, and the predictors of ``settings.stress`` on the best ones.

    The backbone computes in the dtype in which the heads' features were computed.

    Args:
        settings: what to attack with.
        model: has ``features(**inputs)``.
        tokenizer: of the model.
        heads: from features to logits, by name; "vanilla" is the stock classifier's last layer.
        best: the name of the best head of each objective.
        dataset: the test split.
        folder: for the attacks' own files, from which a killed run goes on.

    Returns:
        ``attacks``: by head and column of the table. ``stress``: a list. ``examples``: texts for Table 3.
    """
    from ..attacks.text.attack import attack_heads

    common: dict[str, Any] = {"how": settings.how, "seed": settings.seed, "max_length": settings.max_length}
    common["dtype"] = str(compute_dtype("auto", next(model.parameters()).device)).removeprefix("torch.")
    attacks: dict[str, dict[str, Any]] = {name: {} for name in heads}
    stress, texts = [], []
    for attack in settings.attacks:
        recipe = resolve_recipe(attack)
        column = COLUMNS.get(recipe, recipe)
        logger.info("attack: %s on %d heads", recipe, len(heads))
        options = {**common, "recipe": recipe, "num_examples": settings.num_examples}
        found = attack_heads(model, heads, tokenizer, dataset, output_dir=folder / recipe, **options)
        for name, result in found.items():
            attacks[name][column] = {**_only(result, _ABOUT), **_only(result, _FIGURES)}
        shown = text_examples(folder / recipe / "vanilla", label_names(dataset), _TEXTS)
        texts += [{"attack": column, "head": "vanilla", **text} for text in shown]
    for noise in settings.stress if settings.attacks else ():
        recipe = resolve_recipe(settings.attacks[0])
        chosen = {name: heads[name] for name in best.values()}
        options = {**common, "recipe": recipe, "num_examples": min(settings.stress_examples, settings.num_examples)}
        found = attack_heads(
            model, chosen, tokenizer, dataset, output_dir=folder / f"{recipe}-{noise.replace(':', '-')}", noise=noise,
            **options,
        )  # fmt: skip
        for objective, name in best.items():
            figures = {**_only(found[name], _ABOUT), **_only(found[name], _FIGURES)}
            stress.append({"objective": objective, "head": name, **figures})
    return {"attacks": attacks, "stress": stress, "examples": {"texts": texts, "images": []}}


def attack_images(
    settings: Experiment,
    model: Any,
    processor: Any,
    heads: Mapping[str, nn.Module],
    best: Mapping[str, str],
    dataset: Dataset,
    folder: Path,
) -> dict[str, Any]:
    """Every attack on every head through the mean, the stress suite and a report card on the best ones.

    Arguments as for `attack_texts`; ``examples`` are images for Figures 4 and 5.
    """
    from ..attacks.image.attack import attack
    from ..attacks.masking import report_card

    names = label_names(dataset)
    goal = _goal(settings.target, names)
    common: dict[str, Any] = {"how": settings.how, "seed": settings.seed}
    attacks: dict[str, dict[str, Any]] = {name: {} for name in heads}
    stress, images = [], []
    for kind in settings.attacks:
        options: dict[str, Any] = {"num_examples": settings.num_examples}
        if kind == "fgs":
            options["epsilon"] = settings.epsilons
        if kind == "cw":
            options |= {"target": goal, "steps": settings.cw_steps}
            options["num_examples"] = min(settings.cw_examples, settings.num_examples)
        for name, head in heads.items():
            logger.info("attack: %s on %s", kind, name)
            place = folder / kind / name
            found = attack(HeadOnFeatures(model, head), processor, dataset, kind, output_dir=place, **common, **options)
            for budget in found["budgets"]:
                figures = {**_only(found, _ABOUT), **_only({**found, **budget}, _FIGURES)}
                attacks[name][_column(kind, budget["epsilon"])] = figures
        for objective, name in best.items():
            shown = image_examples(folder / kind / name, names, _PICTURES)
            images += [{"attack": kind, "objective": objective, **picture} for picture in shown]
    few = min(settings.stress_examples, settings.num_examples)
    for objective, name in best.items():
        classifier = HeadOnFeatures(model, heads[name])
        for kind in settings.stress:
            if kind == "apgd_dlr" and len(names) < 4:
                continue  # its loss compares the best classes but one
            logger.info("stress: %s on %s", kind, name)
            place = folder / "stress" / f"{kind}-{name}"
            found = attack(classifier, processor, dataset, kind, num_examples=few, output_dir=place, **common)
            for budget in found["budgets"]:
                figures = {**_only(found, _ABOUT), **_only({**found, **budget}, _FIGURES)}
                stress.append({"objective": objective, "head": name, **figures})
        if settings.stress:
            stress.append(
                {
                    "objective": objective,
                    "head": name,
                    **_card(report_card, classifier, processor, dataset, few, settings),
                }
            )
    return {"attacks": attacks, "stress": stress, "examples": {"texts": [], "images": images}}


def _card(
    report_card: Any, classifier: nn.Module, processor: Any, dataset: Dataset, num_examples: int, settings: Experiment
) -> dict[str, Any]:
    """The checks for masked gradients, or why there are none."""
    about = {"kind": "report_card", "attack": "report_card"}
    try:
        found = report_card(
            classifier, processor, dataset, num_examples=num_examples, how=settings.how, seed=settings.seed
        )
    except ValueError as error:
        return {**about, "passed": None, "checks": [], "why": str(error)}
    return {**about, "passed": found["passed"], "checks": found["checks"]}


def _only(result: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: result[name] for name in names if result.get(name) is not None}


def _column(kind: str, epsilon: float | None) -> str:
    """What tables call an attack on images at a budget."""
    title = {"fgs": "FGS", "cw": "CW"}.get(kind, kind)
    return title if epsilon is None else f"{title} {budget_name(epsilon)}"


def _goal(target: str | None, names: Sequence[str]) -> int:
    """The class that targeted attacks reach for; the last one where the data have no class of that name."""
    if target is not None:
        try:
            return class_index(int(target) if target.isdigit() else target, list(names))
        except ValueError as error:
            logger.warning("%s; the target is the last class, %s", error, names[-1])
    return len(names) - 1
