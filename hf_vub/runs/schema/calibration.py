"""Results of calibrating a checkpoint."""

from dataclasses import dataclass
from typing import Literal

from .part import Part
from .reproduction import Reliability
from .result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class Interval(Part):
    """A metric with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationMetrics(Part):
    """Metrics of one kind of probabilities."""

    accuracy: Interval
    nll: Interval
    """Nats."""
    brier: Interval
    """0 to 2."""
    ece: Interval
    """15 bins of equal width."""
    classwise_ece: Interval
    reliability: Reliability


@dataclass(frozen=True, kw_only=True, eq=False)
class Abstention(Part):
    """Conformal sets at one miscoverage, on rows that no threshold was fitted on."""

    miscoverage: float
    coverage: float
    """Share of rows whose set holds the label."""
    answered: float
    """Share of rows whose set holds one class."""
    error_answered: float | None
    """Share of errors among the answered rows; None where none was."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationMeasurement(Part):
    """The classifier before and after its calibration, on rows that the temperature was not fitted on."""

    split: str
    data_rows: str
    num_examples: int
    before: CalibrationMetrics
    """Softmax of the training logits."""
    after: CalibrationMetrics
    abstention: tuple[Abstention, ...] | None = None
    """None on the rows that the thresholds were fitted on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration(Result):
    """A fitted calibration: what to do with the logits of a checkpoint, and what that changes."""

    kind: Literal["calibration"] = "calibration"
    task: Literal["text", "image"]
    model: str
    dataset: str
    split: str
    data_rows: str
    """Which rows it was fitted on, in words."""
    num_temperature: int
    """Rows that the temperature was fitted on."""
    num_thresholds: int
    """Other rows, that the thresholds were fitted on."""
    num_left_out: int
    """Rows of the split left out because the model was trained on them."""
    has_training_record: bool
    """The checkpoint says which rows it was trained on."""
    probabilities: Literal["softmax", "posterior"]
    calibration_temperature: float
    conformal_thresholds: dict[str, float]
    """Least probability of a class in the set, by miscoverage."""
    seed: int
    """Of the division of the rows in two."""
    measurements: tuple[CalibrationMeasurement, ...]
    seconds: float
