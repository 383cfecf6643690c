"""The result of a comparison on one's own data: one recommended setting, and what to keep in mind."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..reports.tables import mean_std
from ..runs.schema import Reproduction
from .grid import Measured, attack_columns, choose, chosen_runs, value_of
from .tables import BASELINES


class _Candidate(NamedTuple):
    """A classifier to recommend: its name in words, its runs, and their mean validation NLL."""

    name: str
    runs: Sequence[Measured]
    nll: float


def with_recommendation(results: Reproduction) -> Reproduction:
    """Return the results with the setting of each objective that validation NLL chooses, and the recommendation.

    The classifier with the lowest mean validation NLL is recommended: the stock classifier, a baseline, or an objective
    at its chosen setting. Test rows and attacks decide nothing.
    """
    results = replace(results, chosen={"validation": choose(results.runs, "validation", "nll")})
    candidates = sorted(_candidates(results), key=lambda candidate: candidate.nll)
    best, others = candidates[0], candidates[1:]
    rivals = ", ".join(f"{other.name} {other.nll:.3f}" for other in others)
    accuracy = mean_std([run.metrics["accuracy"] or 0.0 for run in best.runs])[0]
    sentence = (
        f"Use {best.name}: it has the lowest validation NLL, {best.nll:.3f} nats per row ({rivals}), and an accuracy "
        f"of {accuracy:.1%} on the {results.data.num_test:,} test rows."
    )
    return replace(results, recommendation=sentence)


def caveats(results: Reproduction) -> list[str]:
    """Return what to keep in mind about a comparison, one sentence each."""
    found = []
    seen = results.data.seen_by_backbone
    if seen is None:
        found.append(
            "The backbone's checkpoint does not say which rows it was trained on; if these include validation or test "
            "rows, all results are too good, those of its own classifier above all."
        )
    for split in ("validation", "test"):
        if seen and seen.get(split):
            found.append(f"The backbone was trained on {seen[split]:,} {split} rows: results on them are too good.")
    if attack_columns(results):
        rows = {attack.num_examples for run in results.runs for attack in run.attacks.values()}
        counts = " and ".join(f"{count:,}" for count in sorted(rows))
        found.append(
            f"Attacks were made on {counts} test rows. A low success rate is no guarantee: the search follows the "
            "scores of the classifier that it attacks, and flat scores mislead it."
        )
    return found


def _candidates(results: Reproduction) -> list[_Candidate]:
    """Return every classifier with a validation NLL, the simplest first."""
    named: dict[str, Sequence[Measured]] = {
        f"the {BASELINES.get(origin, origin).lower().replace('mlp', 'MLP')}": [baseline]
        for origin, baseline in (results.baselines or {}).items()
    }
    if results.vanilla.origin not in (results.baselines or {}):
        named["the stock classifier"] = [results.vanilla]
    for objective, choice in results.chosen["validation"].items():
        weight = f", entropy weight {choice.entropy_weight:g}" if choice.entropy_weight != 1.0 else ""
        beta = f" with beta {choice.beta:g}{weight}" if objective != "ce" else ""
        named[f"{objective.upper()}{beta}"] = chosen_runs(results, objective)
    return [_Candidate(name, runs, nll) for name, runs in named.items() if math.isfinite(nll := _validation_nll(runs))]


def _validation_nll(runs: Sequence[Measured]) -> float:
    values = [value_of(run, "validation nll") for run in runs]
    return float(np.mean([math.nan if value is None else value for value in values]))
