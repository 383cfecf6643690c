"""Expected calibration error, as a module of `evaluate`."""

import evaluate
from datasets import Features, Sequence, Value
from numpy.typing import ArrayLike

from hf_vub.metrics import expected_calibration_error


class ExpectedCalibrationError(evaluate.Metric):
    """Mean gap between confidence and accuracy."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean gap between confidence and accuracy over bins of equal width, between 0 and 1.",
            citation="Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3",
            inputs_description="predictions: logits (rows, classes), or with probabilities=True rows of probabilities. "
            "references: labels (rows,). bins: their number, 15 by default.",
            features=Features({"predictions": Sequence(Value("float64")), "references": Value("int64")}),
        )

    def _compute(
        self,
        *,
        predictions: ArrayLike,
        references: ArrayLike,
        bins: int = 15,
        probabilities: bool = False,
        **others: object,
    ) -> dict[str, float]:
        error = expected_calibration_error(predictions, references, bins, probabilities=probabilities)
        return {"expected_calibration_error": error}
