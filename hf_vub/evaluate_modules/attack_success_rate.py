"""Attack success rate, as a module of `evaluate`."""

from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from hf_vub.metrics import attack_summary


class AttackSuccessRate(evaluate.Metric):
    """Share of the inputs that were classified rightly and that an attack turned."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of the inputs that were classified rightly and that an attack turned, with the accuracy "
            "before and after the attack over all inputs.",
            citation="",
            inputs_description="predictions: under attack, classes (rows,) or scores (rows, classes). references: "
            "labels (rows,). clean_predictions: without attack, in either form; where they are left out, all inputs "
            "count as classified rightly.",
            features=[
                Features({"predictions": Value("int64"), "references": Value("int64")}),
                Features({"predictions": Sequence(Value("float64")), "references": Value("int64")}),
            ],
        )

    def _compute(
        self, *, predictions: Any, references: Any, clean_predictions: Any = None, **others: Any
    ) -> dict[str, float | None]:
        labels = np.asarray(references)
        before = np.ones(len(labels), bool) if clean_predictions is None else _classes(clean_predictions) == labels
        found = attack_summary(before, _classes(predictions) == labels)
        return {name: found[name] for name in ("attack_success_rate", "accuracy_under_attack", "clean_accuracy")}


def _classes(predictions: Any) -> Any:
    values = np.asarray(predictions)
    return values.argmax(axis=1) if values.ndim == 2 else values
