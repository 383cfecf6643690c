"""The YAML header of a model card, which the Hub reads."""

from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..runs.provenance import public_name
from ..runs.schema import TrainResult
from .card_rows import METRICS, PIPELINES, CardAttack, attack_rows
from .rendering import is_hub_id

_TITLES = {metric.key: metric.title for metric in METRICS}


def metadata(result: TrainResult, attacks: Sequence[CardAttack]) -> str:
    """Return the YAML between the lines of dashes."""
    card: dict[str, Any] = dict(result.card or {})
    tags = card.pop("tags", [])
    tags = [tags] if isinstance(tags, str) else tags
    data = ModelCardData(
        base_model=result.base_model if is_hub_id(result.base_model) else None,
        datasets=[result.dataset] if is_hub_id(result.dataset) else None,
        library_name="transformers",
        pipeline_tag=PIPELINES[result.task][0],
        metrics=["accuracy"],
        tags=list(
            dict.fromkeys(["hf_vub", "information-bottleneck", "adversarial-robustness", result.objective, *tags])
        ),
        model_name=public_name(result.model),
        eval_results=[*_test_results(result), *_attack_results(result, attacks)] or None,
        **card,
    )
    return str(data.to_yaml())


def _test_results(result: TrainResult) -> list[EvalResult]:
    return [
        EvalResult(metric_type=key, metric_value=value, metric_name=_TITLES[key], **_place(result.task, result.dataset))
        for key in ("accuracy", "nll", "brier", "ece")
        if (value := result.metrics.get(key)) is not None
    ]


def _attack_results(result: TrainResult, attacks: Sequence[CardAttack]) -> list[EvalResult]:
    found = []
    for attack in attacks:
        place = _place(result.task, attack.dataset or result.dataset)
        for row in attack_rows(attack):
            label = row.attack + ("" if row.epsilon is None else f", epsilon {row.budget}")
            arguments: dict[str, object] = {"num_examples": row.num_examples}
            arguments |= {} if row.epsilon is None else {"epsilon": row.epsilon}
            arguments |= {"noise": attack.noise, "seed": attack.seed, "how": attack.how}
            for kind, name, value in (
                ("accuracy", "Accuracy under attack", row.values.accuracy_under_attack),
                ("attack_success_rate", "Attack success rate", row.values.attack_success_rate),
            ):
                if value is not None:
                    title = f"{name} ({label})"
                    found.append(
                        EvalResult(
                            metric_type=kind, metric_value=value, metric_name=title, metric_args=arguments, **place
                        )
                    )
    return found


def _place(task: str, dataset: str) -> dict[str, Any]:
    """Return the task and data set of a result; the rows are always those of the test split."""
    pipeline, title = PIPELINES[task]
    shown = public_name(dataset)
    about = {"task_type": pipeline, "task_name": title, "dataset_split": "test"}
    return {**about, "dataset_type": shown, "dataset_name": shown}
