"""A suggested setting with the frontier that it was chosen from."""

from dataclasses import dataclass
from typing import Literal

from .calibration_study import Mean
from .part import Part
from .result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class FrontierPoint(Part):
    """One setting on the validation rows, means over seeds."""

    objective: str
    beta: float
    entropy_weight: float
    """1 where the objective has no min term."""
    rate: Mean
    """Nats: how much passes the bottleneck."""
    accuracy: Mean
    nll: float
    """Nats, of the probabilities through the posterior link (the softmax where there is no min term)."""
    nll_standard_error: float
    """Of the mean over rows and seeds."""
    nll_calibrated: float
    """Nats, with a temperature that was fitted on the other half of the validation rows."""
    nll_calibrated_standard_error: float
    ece: Mean
    """Of the probabilities through the link, 15 bins of equal width."""
    eligible: bool
    """Within one standard error of the lowest NLL."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SuggestionResult(Result):
    """The setting that `hf_vub.sweep.suggest` chose, and why."""

    kind: Literal["suggestion"] = "suggestion"
    task: Literal["text", "image"] | None = None
    model: str | None = None
    dataset: str | None = None
    data_rows: str | None = None
    """Which rows were trained on and which decided, in words."""
    num_train: int
    num_validation: int
    num_labels: int
    feature_size: int
    seeds: int
    epochs: int
    batch_size: int
    learning_rate: float
    criterion: Literal["link", "temperature"]
    """The probabilities whose NLL decides: through the link, or with a temperature as well."""
    limit: float
    """Highest NLL that is still within one standard error of the best."""
    objective: str
    beta: float
    entropy_weight: float
    probabilities: Literal["softmax", "posterior"]
    calibration_temperature: float
    """Of the best head of the chosen setting, fitted on the validation rows."""
    frontier: tuple[FrontierPoint, ...]
    """Every setting, the smallest rate first."""
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SuggestionCheck(Result):
    """A suggestion, and the whole grid on rows that decided nothing."""

    kind: Literal["suggestion_check"] = "suggestion_check"
    suggestion: SuggestionResult
    num_check: int
    """Rows that the grid was checked on."""
    check: tuple[FrontierPoint, ...]
    """Every setting on these rows, the smallest rate first."""
    chosen_nll: float
    """Nats, of the suggested setting through the link."""
    best_nll: float
    """Of the best setting of the grid."""
    best_standard_error: float
    within: bool
    """The suggested setting is within one standard error of the best."""
    seconds: float
