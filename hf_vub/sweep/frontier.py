"""The frontier of compression and prediction: each setting of a sweep on validation rows, and the choice among them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor

from ..metrics.classification import Floats, accuracy, expected_calibration_error
from ..metrics.temperature import cross_fitted
from ..model.objectives import class_log_probabilities, objective_weights
from ..runs.schema import FrontierPoint, Mean
from .heads import SweepResult
from .measures import measure_head
from .runs import HeadRun

Criterion = Literal["link", "temperature"]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Validated:
    """One trained head on the validation rows.

    Attributes:
        trained: the head.
        log_p: log-probabilities through the posterior link, shape (rows, classes).
        rate: mean, in nats.
    """

    trained: SweepResult
    log_p: Floats
    rate: float


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean and the standard deviation (n - 1) of some numbers."""
    return Mean(mean=float(np.mean(values)), deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None)


def link_weight(run: HeadRun) -> float:
    """Return the weight of the min term in the training of a head; 0 makes the link the softmax."""
    return objective_weights(run.objective, run.beta, run.entropy_weight)[1]


def validate(trained: SweepResult, features: Tensor, labels: Tensor) -> Validated:
    """Measure a head through its mean on validation rows."""
    logits, means = measure_head(trained.head, trained.run, trained.settings, features, labels)
    linked = class_log_probabilities(
        logits.double(),
        probabilities="posterior",
        entropy_weight=link_weight(trained.run),
        label_entropy=trained.settings.label_entropy,
    )
    return Validated(trained, linked.numpy(), means["rate"])


def point_of(run: HeadRun, group: Sequence[Validated], labels: Labels) -> FrontierPoint:
    """Return the measurements of one setting; whether it is eligible is not known yet."""
    plain = np.stack([_row_losses(each.log_p, labels) for each in group])
    scaled = np.stack([_row_losses(_calibrated(each.log_p, labels), labels) for each in group])
    return FrontierPoint(
        objective=run.objective,
        beta=run.beta,
        entropy_weight=run.entropy_weight,
        rate=mean_of([each.rate for each in group]),
        accuracy=mean_of([accuracy(each.log_p, labels) for each in group]),
        nll=float(plain.mean()),
        nll_standard_error=_standard_error(plain),
        nll_calibrated=float(scaled.mean()),
        nll_calibrated_standard_error=_standard_error(scaled),
        ece=mean_of([expected_calibration_error(each.log_p, labels) for each in group]),
        eligible=False,
    )


def choose(points: dict[HeadRun, FrontierPoint], criterion: Criterion) -> tuple[tuple[FrontierPoint, ...], HeadRun]:
    """Return the points, the smallest rate first, with the eligible ones marked, and the setting that is chosen."""
    limit = limit_of(tuple(points.values()), criterion)
    marked = {run: replace(point, eligible=_value(point, criterion) <= limit) for run, point in points.items()}
    order = sorted(marked, key=lambda run: marked[run].rate.mean)
    chosen = next(run for run in order if marked[run].eligible)
    return tuple(marked[run] for run in order), chosen


def limit_of(points: Sequence[FrontierPoint], criterion: Criterion) -> float:
    """Return the highest NLL within one standard error of the lowest."""
    best = min(points, key=lambda point: _value(point, criterion))
    error = best.nll_standard_error if criterion == "link" else best.nll_calibrated_standard_error
    return _value(best, criterion) + error


def _value(point: FrontierPoint, criterion: Criterion) -> float:
    return point.nll if criterion == "link" else point.nll_calibrated


def validation_nll(log_p: Floats, labels: Labels) -> float:
    """Return the mean NLL of log-probabilities, in nats."""
    return float(_row_losses(log_p, labels).mean())


def _row_losses(log_p: Floats, labels: Labels) -> Floats:
    losses: Floats = -log_p[np.arange(len(labels)), labels]
    return losses


def _calibrated(log_p: Floats, labels: Labels) -> Floats:
    """Return log-probabilities with the temperature of the other half; as they are where a half has one class only."""
    try:
        scaled: Floats = log_softmax(cross_fitted(log_p, labels)[0], axis=1)
    except ValueError:
        return log_p
    return scaled


def _standard_error(losses: Floats) -> float:
    """Return the standard error of the mean of losses (seeds, rows): over rows and over seeds."""
    seeds, rows = losses.shape
    over_rows = losses.mean(axis=0).var(ddof=1) / rows if rows > 1 else 0.0
    over_seeds = losses.mean(axis=1).var(ddof=1) / seeds if seeds > 1 else 0.0
    return math.sqrt(over_rows + over_seeds)
