"""Attack success rate, as a module of `evaluate`."""

import evaluate
import numpy as np
from datasets import Features, Sequence, Value
from numpy.typing import ArrayLike, NDArray

from hf_vub.metrics import attack_summary


class AttackSuccessRate(evaluate.Metric):
    """Share of the correctly classified inputs that an attack makes the classifier get wrong."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of the correctly classified inputs that an attack makes the classifier get wrong, with "
            "the accuracy before and after the attack over all inputs.",
            citation="",
            inputs_description="predictions: under attack, classes (rows,) or scores (rows, classes). references: "
            "labels (rows,). clean_predictions: without attack, in either form; without them all inputs count as "
            "classified correctly.",
            features=[
                Features({"predictions": Value("int64"), "references": Value("int64")}),
                Features({"predictions": Sequence(Value("float64")), "references": Value("int64")}),
            ],
        )

    def _compute(
        self,
        *,
        predictions: ArrayLike,
        references: ArrayLike,
        clean_predictions: ArrayLike | None = None,
        **others: object,
    ) -> dict[str, float | None]:
        labels = np.asarray(references)
        before = np.ones(len(labels), bool) if clean_predictions is None else _classes(clean_predictions) == labels
        rates = attack_summary(before, _classes(predictions) == labels)
        return {
            "attack_success_rate": rates["attack_success_rate"],
            "accuracy_under_attack": rates["accuracy_under_attack"],
            "clean_accuracy": rates["clean_accuracy"],
        }


def _classes(predictions: ArrayLike) -> NDArray[np.int64]:
    values = np.asarray(predictions)
    return values.argmax(axis=1) if values.ndim == 2 else values
