"""Where a bottleneck pays: heads and rivals at equal tuning budgets, by the number of training rows."""

from dataclasses import dataclass
from typing import Literal

from .calibration_study import Mean
from .part import Part
from .result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class RivalResult(Part):
    """One way to classify the features, tuned on validation rows and calibrated in its own best way."""

    name: str
    settings: int
    """Settings tried in each run."""
    accuracy: Mean
    nll: Mean
    """Nats."""
    ece: Mean


@dataclass(frozen=True, kw_only=True, eq=False)
class RivalDifference(Part):
    """VUB minus a rival, paired by run."""

    rival: str
    metric: str
    difference: float
    p_value: float
    """Two-sided signed-rank test over the runs."""
    p_holm: float
    """Adjusted for all comparisons of the file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Regime(Part):
    """All rivals on the same number of training rows."""

    rows: int
    runs: int
    rivals: tuple[RivalResult, ...]
    differences: tuple[RivalDifference, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class BottleneckMap(Result):
    """The regimes of one data set and one kind of features."""

    kind: Literal["bottleneck_map"] = "bottleneck_map"
    task: Literal["text", "image"]
    model: str
    dataset: str
    features: str
    """What the features are, in words."""
    num_labels: int
    feature_size: int
    num_validation: int
    """Rows that tune and calibrate, in every run."""
    num_test: int
    data_rows: str
    regimes: tuple[Regime, ...]
    seconds: float
