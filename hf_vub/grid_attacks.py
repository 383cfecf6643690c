"""Attacks on every head of a grid, and on the stock classifier beside them: the figures of Tables 1 to 3.

All heads share one frozen backbone. Texts are attacked together over one memory of its features. Images are attacked
head by head: the gradient through the backbone differs from head to head, so there is little to share.
"""

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor, nn

from .data import label_names
from .experiments import Experiment, HeadOnFeatures
from .image_examples import class_index
from .preprocessing import clean_text
from .recipes import resolve_recipe
from .results import read_records

logger = logging.getLogger(__name__)

COLUMNS = {"DeepWordBugGao2018": "DWB", "PWWSRen2019": "PWWS"}
"""What tables call the recipes of the paper."""

_FIGURES = (
    *("num_examples", "num_attacked", "num_skipped", "clean_accuracy", "accuracy_under_attack", "attack_success_rate"),
    *("attack_success_interval", "l2_mean", "l2_median", "epsilon", "words_perturbed_mean", "queries_mean", "redraws"),
)
_ABOUT = ("kind", "attack", "noise", "how", "seed", "target", "stopwords")
_PICTURE_SIZE = 160
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
    from .attack_text import attack_heads

    common: dict[str, Any] = {"how": settings.how, "seed": settings.seed, "max_length": settings.max_length}
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
        texts += _texts(folder / recipe / "vanilla", column, label_names(dataset))
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
    from .attack_image import attack
    from .masking import report_card

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
            images += _images(folder / kind / name, kind, objective, names)
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
    if epsilon is None:
        return title
    steps = epsilon * 255
    shown = f"{steps:.0f}/255" if abs(steps - round(steps)) < 1e-6 and round(epsilon, 3) != epsilon else f"{epsilon:g}"
    return f"{title} {shown}"


def _goal(target: str | None, names: Sequence[str]) -> int:
    """The class that targeted attacks reach for; the last one where the data have no class of that name."""
    if target is not None:
        try:
            return class_index(int(target) if target.isdigit() else target, list(names))
        except ValueError as error:
            logger.warning("%s; the target is the last class, %s", error, names[-1])
    return len(names) - 1


def _texts(folder: Path, column: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """The successes on the shortest texts with the fewest words changed."""
    wins = [record for record in read_records(folder / "records.jsonl") if record.get("success")]
    wins.sort(key=lambda record: (record["words_perturbed"], record["words"], record["index"]))
    return [
        {
            "attack": column,
            "head": "vanilla",
            "index": record["index"],
            "original": clean_text(record["original_text"]),
            "perturbed": clean_text(record["perturbed_text"]),
            "label": names[record["label"]],
            "prediction": names[record["perturbed_prediction"]],
        }
        for record in wins[:_TEXTS]
    ]


def _images(folder: Path, kind: str, objective: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Successes with their originals as PNG, at every budget."""
    from safetensors.torch import load_file

    path = folder / "images.safetensors"
    if not path.exists():
        return []
    found = load_file(path)
    records = {record["index"]: record for record in read_records(folder / "records.jsonl")}
    chosen = found["success"].all(dim=1).nonzero().squeeze(1).tolist()
    if not chosen:
        chosen = found["success"].any(dim=1).nonzero().squeeze(1).tolist()
    pictures = []
    for row in chosen[:_PICTURES]:
        index = int(found["index"][row])
        for place, outcome in enumerate(records[index]["outcomes"]):
            pictures.append(
                {
                    "attack": kind,
                    "objective": objective,
                    "index": index,
                    "epsilon": outcome["epsilon"],
                    "column": _column(kind, outcome["epsilon"]),
                    "l2": outcome["l2"],
                    "success": outcome["success"],
                    "label": names[int(found["label"][row])],
                    "prediction": names[outcome["prediction"]] if outcome["prediction"] >= 0 else "none",
                    "original": _png(found["original"][row]),
                    "adversarial": _png(found["adversarial"][row, place]),
                }
            )
    return pictures


def _png(pixels: Tensor) -> str:
    """Pixels (channels, height, width) in [0, 1] as a PNG in base64, made smaller where they are large."""
    from PIL import Image

    values = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(values.squeeze(-1) if values.shape[-1] == 1 else values)
    image.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
