"""Measurements of the calibration study: pure functions of logits and labels, means over the runs of a setting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from ..metrics.calibration import classwise_calibration_error
from ..metrics.classification import Floats, classification_metrics, reliability_bins
from ..metrics.temperature import cross_fitted, fit_temperature
from ..model.objectives import class_log_probabilities
from ..runs.schema import ConformalCheck, Mean, ProbabilityMetrics, Reliability, RiskCurve
from ..sweep.frontier import mean_of
from .conformal import conformal_threshold, prediction_sets
from .ood import ood_scores
from .selective import risk_coverage

Labels = NDArray[np.int64]
Kind = Literal["softmax", "posterior"]

CURVE_POINTS = 50


@dataclass(frozen=True)
class RunScores:
    """The outputs of one classifier on rows of features.

    Attributes:
        logits: through the mean of z, shape (rows, classes).
        rate: nats, shape (rows,); None without a bottleneck.
        draws: logits of draws of z, shape (draws, rows, classes); None without a bottleneck.
    """

    logits: Floats
    rate: Floats | None = None
    draws: Floats | None = None


@dataclass(frozen=True)
class Link:
    """The posterior link of one training.

    Attributes:
        entropy_weight: weight of the min term; 0 makes the link the softmax.
        label_entropy: H(Y), the cap of the min term, in nats.
    """

    entropy_weight: float
    label_entropy: float

    def log_probabilities(self, logits: Floats) -> Floats:
        """Return the logarithms of the linked probabilities, same shape as the logits (..., classes)."""
        linked = class_log_probabilities(
            torch.from_numpy(logits),
            probabilities="posterior",
            entropy_weight=self.entropy_weight,
            label_entropy=self.label_entropy,
        )
        found: Floats = linked.numpy()
        return found


def probability_metrics(
    scores: Sequence[Floats],
    labels: Labels,
    kind: Kind,
    *,
    draws: Literal["mean", "averaged", "per draw"] = "mean",
    scaled: bool = False,
) -> ProbabilityMetrics:
    """Return the metrics of one kind of probabilities, means over runs.

    Args:
        scores: logits or log-probabilities (rows, classes) of each run.
        labels: shape (rows,).
        kind, draws: what the scores are.
        scaled: divide by a temperature fitted on the other half of the rows first.
    """
    temperatures: list[float] = []
    measured: list[dict[str, float]] = []
    for run in scores:
        if scaled:
            run, fitted = cross_fitted(run, labels)
            temperatures += fitted
        measured.append(
            classification_metrics(run, labels) | {"classwise_ece": classwise_calibration_error(run, labels)}
        )
    means = {name: mean_of([each[name] for each in measured]) for name in measured[0]}
    return ProbabilityMetrics(
        probabilities=kind, draws=draws, temperature=mean_of(temperatures) if scaled else None, **means
    )


def conformal_checks(
    scores: Sequence[Floats], labels: Labels, miscoverage: Sequence[float], splits: int = 20, seed: int = 0
) -> tuple[ConformalCheck, ...]:
    """Fit temperature and threshold on two quarters of the rows and measure the sets on the other half, many times.

    Args:
        scores: log-probabilities (rows, classes) of each run, before the temperature.
        labels: shape (rows,).
        miscoverage: shares of rows whose set may miss the label.
        splits: random divisions of the rows.
        seed: of the divisions.
    """
    found: dict[float, list[tuple[float, float, float | None]]] = {share: [] for share in miscoverage}
    for split in range(splits):
        order = np.random.default_rng((seed, split)).permutation(len(labels))
        quarter = len(order) // 4
        first, second, rest = order[:quarter], order[quarter : 2 * quarter], order[2 * quarter :]
        per_run: dict[float, list[tuple[float, float, float | None]]] = {share: [] for share in miscoverage}
        for run in scores:
            p = softmax(run / fit_temperature(run[first], labels[first]), axis=1)
            for share in miscoverage:
                fitted = conformal_threshold(p[second], labels[second], share)
                per_run[share].append(_sets(p[rest], labels[rest], prediction_sets(p[rest], fitted)))
        for share, runs in per_run.items():
            errors = [error for _, _, error in runs if error is not None]
            means = (float(np.mean([run[0] for run in runs])), float(np.mean([run[1] for run in runs])))
            found[share].append((*means, float(np.mean(errors)) if errors else None))
    return tuple(
        ConformalCheck(
            miscoverage=share,
            splits=splits,
            coverage=mean_of([each[0] for each in values]),
            worst_gap=max(abs(each[0] - (1 - share)) for each in values),
            answered=mean_of([each[1] for each in values]),
            error_answered=mean_of(errors) if (errors := [e for _, _, e in values if e is not None]) else None,
        )
        for share, values in found.items()
    )


def aurc_by_score(runs: Sequence[RunScores], log_p: Sequence[Floats], labels: Labels) -> dict[str, Mean]:
    """Return the area under the risk-coverage curve of each score that one pass, or some draws, give.

    Args:
        runs: the outputs.
        log_p: the reported log-probabilities (rows, classes) of each run.
        labels: shape (rows,).
    """
    areas: dict[str, list[float]] = {}
    for run, reported in zip(runs, log_p, strict=True):
        correct = run.logits.argmax(axis=1) == labels
        scores = ood_scores(run.logits, run.rate, run.draws) | {"posterior": -reported.max(axis=1)}
        for name, score in scores.items():
            areas.setdefault(name, []).append(risk_coverage(-score, correct).aurc)
    return {name: mean_of(values) for name, values in areas.items()}


def risk_curve(log_p: Sequence[Floats], labels: Labels) -> RiskCurve:
    """Return the risk-coverage curve by the highest probability, thinned to a few points, mean over runs."""
    ends = np.linspace(0, len(labels), CURVE_POINTS + 1)[1:].round().astype(int) - 1
    curves = [risk_coverage(run.max(axis=1), run.argmax(axis=1) == labels) for run in log_p]
    risk = np.mean([curve.risk[ends] for curve in curves], axis=0)
    return RiskCurve(coverage=tuple(curves[0].coverage[ends].tolist()), risk=tuple(risk.tolist()))


def reliability(log_p: Sequence[Floats], labels: Labels) -> Reliability:
    """Return the reliability bins of all runs together."""
    bins = reliability_bins(np.concatenate(list(log_p)), np.tile(labels, len(log_p)))
    filled = {name: tuple(values.tolist()) for name, values in bins.items()}
    for name in ("confidence", "accuracy"):
        filled[name] = tuple(None if np.isnan(value) else value for value in filled[name])
    return Reliability(**filled)


def drawn_log_probabilities(draws: Floats, link: Link | None, per_draw: bool) -> Floats:
    """Return the logarithm of the average probabilities over draws of z, shape (rows, classes).

    Args:
        draws: logits, shape (draws, rows, classes).
        link: applied to each draw, or to the average; None for the softmax.
        per_draw: apply the link to each draw, before averaging.
    """
    each = link.log_probabilities(draws) if link is not None and per_draw else log_softmax(draws, axis=-1)
    average: Floats = np.log(np.exp(each).mean(axis=0).clip(np.finfo(np.float64).tiny))
    return link.log_probabilities(average) if link is not None and not per_draw else average


def _sets(p: Floats, labels: Labels, sets: NDArray[np.bool_]) -> tuple[float, float, float | None]:
    """Return coverage, the share answered, and the error among the answers."""
    answered = sets.sum(axis=1) == 1
    wrong = p.argmax(axis=1) != labels
    error = float(wrong[answered].mean()) if answered.any() else None
    return float(sets[np.arange(len(labels)), labels].mean()), float(answered.mean()), error
