"""The study of calibration: the stock model, VIB and VUB on one data set, over seeds and betas."""

from dataclasses import dataclass
from typing import Literal

from .part import Part
from .reproduction import Reliability
from .result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Part):
    """A mean with its spread."""

    mean: float
    deviation: float | None
    """Standard deviation (n - 1); None of a single value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbabilityMetrics(Part):
    """One kind of probabilities of a classifier on all test rows: means over its runs."""

    probabilities: Literal["softmax", "posterior"]
    """The softmax of the logits, or the posterior link."""
    draws: Literal["mean", "averaged", "per draw"]
    """The pass through the mean of z; or draws of z, whose probabilities are averaged before the link or after it."""
    temperature: Mean | None
    """Fitted on the other half of the test rows; None where none was fitted."""
    accuracy: Mean
    nll: Mean
    """Nats."""
    brier: Mean
    """0 to 2."""
    ece: Mean
    """15 bins of equal width."""
    classwise_ece: Mean


@dataclass(frozen=True, kw_only=True, eq=False)
class ConformalCheck(Part):
    """Conformal sets over random splits of the test rows, fitted on one part and measured on another."""

    miscoverage: float
    splits: int
    coverage: Mean
    """Share of rows whose set holds the label, over splits; of each split the mean over runs."""
    worst_gap: float
    """Largest distance of one split's coverage from 1 - miscoverage."""
    answered: Mean
    """Share of rows whose set holds one class."""
    error_answered: Mean | None
    """Share of errors among the answered rows; None where no row was answered."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RiskCurve(Part):
    """Error rate among the rows that are answered, the most confident first; mean over runs."""

    coverage: tuple[float, ...]
    risk: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class StudiedClassifier(Part):
    """One classifier: the stock model, or the heads of one setting."""

    name: str
    """"vanilla", "vib" or "vub"."""
    beta: float | None
    entropy_weight: float | None
    runs: int
    rate: Mean | None
    """Nats, on the test rows."""
    changed_classes: int | None
    """Test rows of all runs whose predicted class the link changes; None without a link."""
    metrics: tuple[ProbabilityMetrics, ...]
    conformal: tuple[ConformalCheck, ...]
    aurc: dict[str, Mean]
    """Area under the risk-coverage curve by the score that orders the rows."""
    curve: RiskCurve
    """By the maximum of the reported probabilities."""
    reliability: dict[str, Reliability]
    """By the kind of probabilities, without temperature; the rows of all runs together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfidenceCheck(Part):
    """The confidence on training rows, where the label is as good as certain, against the predicted p*."""

    entropy_weight: float
    beta: float
    predicted: float
    """p*."""
    measured: Mean
    """Median confidence of the rows that are classified correctly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UnfamiliarCheck(Part):
    """How well one score tells rows of another origin from test rows."""

    unfamiliar: str
    """Where the rows come from."""
    rows: int
    name: str
    """"vanilla", "vib" or "vub", or "features" for distances that need no classifier."""
    beta: float | None
    score: str
    auroc: Mean
    fpr95: Mean


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSetting(Part):
    """All measurements of one classifier, kept so that a study that was stopped resumes."""

    classifier: StudiedClassifier
    unfamiliar: tuple[UnfamiliarCheck, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Aim(Part):
    """A stated aim with the measurement that decides it."""

    aim: str
    measured: str
    met: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationStudy(Result):
    """What the link and a temperature do to the probabilities of heads on one frozen backbone."""

    kind: Literal["calibration_study"] = "calibration_study"
    task: Literal["text", "image"]
    model: str
    dataset: str
    num_labels: int
    num_train: int
    """Rows that the heads were trained on."""
    num_test: int
    """Rows that everything is measured on."""
    data_rows: str
    """Which rows the heads, the temperatures and the thresholds were fitted on, in words."""
    max_length: int | None
    runs: int
    epochs: int
    batch_size: int
    learning_rate: float
    draws: int
    """Draws of z per row, where draws are averaged."""
    classifiers: tuple[StudiedClassifier, ...]
    confidence: tuple[ConfidenceCheck, ...]
    unfamiliar: tuple[UnfamiliarCheck, ...]
    aims: tuple[Aim, ...]
    seconds: float
