"""The grid of heads: its points, one value of a classifier, and the choice of a setting for each objective."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from ..runs.schema import BaselineResult, Choice, HeadResult, HeadSettings, Metrics, Phases, Reproduction

Measured = BaselineResult | HeadResult
"""A classifier with its metrics and attacks."""

Rows = Literal["validation", "test"]

NOT_SHARES = ("nll", "brier", "ece", "rate", "CW")
"""Columns that are not shares of examples. An attack's success rate is a share; the L2 distance of CW is not."""

_PHASE_WINDOW, _PHASE_SIZE = 3, 0.05


def points(runs: Iterable[HeadResult]) -> dict[tuple[str, float, float], list[HeadResult]]:
    """Return the runs of each point of the grid, (objective, beta, entropy_weight), in the order of the grid."""
    grouped: dict[tuple[str, float, float], list[HeadResult]] = {}
    for run in runs:
        grouped.setdefault((run.objective, run.beta, run.entropy_weight), []).append(run)
    return grouped


def chosen_runs(results: Reproduction, objective: str, on: Rows = "validation") -> list[HeadResult]:
    """Return the runs at the chosen point of an objective, in the order of their seeds; none if it has no choice."""
    choice = results.chosen[on].get(objective)
    if choice is None:
        return []
    runs = points(results.runs)[objective, choice.beta, choice.entropy_weight]
    return sorted(runs, key=lambda run: run.seed)


def choose(runs: Sequence[HeadResult], on: Rows, by: str = "accuracy") -> dict[str, Choice]:
    """Return the best point of the grid for each objective, and its best run.

    Args:
        runs: the heads with their metrics.
        on: rows that decide. Without validation rows the test rows always decide.
        by: "accuracy", of which the highest mean over seeds wins, or "nll", of which the lowest wins. The first of
            equals wins.
    """
    if not all(run.validation for run in runs):
        on = "test"
    chosen: dict[str, Choice] = {}
    scores: dict[str, float] = {}
    for (objective, beta, weight), same in points(runs).items():
        score = float(np.mean([_score(run, on, by) for run in same]))
        if objective in scores and score <= scores[objective]:
            continue
        best = max(same, key=lambda run: (_score(run, on, by), -run.seed))
        scores[objective] = score
        chosen[objective] = Choice(
            beta=beta,
            entropy_weight=weight,
            on=on,
            by=by,
            accuracy=float(np.mean([_score(run, on, "accuracy") for run in same])),
            run=HeadSettings(objective=objective, beta=beta, entropy_weight=weight, seed=best.seed),
        )
    return chosen


def value_of(run: Measured, column: str) -> float | None:
    """Return one value of a classifier; None if it was not measured.

    Args:
        run: the classifier.
        column: a metric on test ("accuracy"), one on validation ("validation nll"), or an attack's column, whose value
            is the mean L2 distance for CW and else the success rate.
    """
    if column.startswith("validation "):
        return (run.validation or {}).get(column.removeprefix("validation "))
    if column in run.attacks:
        attack = run.attacks[column]
        return attack.l2_mean if column == "CW" else attack.attack_success_rate
    return run.metrics.get(column)


def classifiers(results: Reproduction) -> dict[str, Measured]:
    """Return the stock classifier, the baselines and every head by name.

    A stock classifier that is itself the logistic regression on the features is left out.
    """
    stock = {} if results.vanilla.origin in (results.baselines or {}) else {"vanilla": results.vanilla}
    return {**stock, **(results.baselines or {}), **{run.name: run for run in results.runs}}


def attack_columns(results: Reproduction) -> list[str]:
    """Return the columns of the attacks, in the order in which they were made."""
    every = (results.vanilla, *classifiers(results).values())
    return list(dict.fromkeys(column for run in every for column in run.attacks))


def phases(history: Mapping[str, Sequence[float | None]]) -> Phases:
    """Count the turns of a training run in the information plane.

    A phase is a stretch over which the running mean (3 epochs) of I(Z;X) keeps its direction; turns smaller than 5 % of
    its whole range do not count. A cycle is a rise of information with the fall (compression) that follows.
    """
    values = np.asarray(history.get("information", ()), dtype=np.float64)
    if len(values) < 2 * _PHASE_WINDOW:
        return Phases(rises=0, falls=0, cycles=0)
    smooth = np.convolve(values, np.ones(_PHASE_WINDOW) / _PHASE_WINDOW, mode="valid")
    least = _PHASE_SIZE * float(np.ptp(smooth))
    directions: list[int] = []
    extreme, direction = smooth[0], 0
    for value in smooth[1:]:
        step = value - extreme
        if direction and step * direction > 0:
            extreme = value
        elif abs(step) > least:
            direction = 1 if step > 0 else -1
            directions.append(direction)
            extreme = value
    cycles = sum(first == 1 and second == -1 for first, second in pairwise(directions))
    return Phases(rises=directions.count(1), falls=directions.count(-1), cycles=cycles)


def _score(run: HeadResult, on: Rows, by: str) -> float:
    """Return a metric with the sign that makes more better; minus infinity where it is not finite."""
    metrics: Metrics = (run.validation or {}) if on == "validation" else run.metrics
    value = metrics[by]
    return -math.inf if value is None or not math.isfinite(value) else (-value if by == "nll" else value)
