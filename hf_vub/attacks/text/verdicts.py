"""The checks of a text report card, from what each search found: pure functions of outcomes.

Searches are compared text by text with an exact one-sided McNemar test, at 5 % over all checks together (Holm 1979).
A check fails only where the data say so; where they cannot, it passes, or is unknown.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, spearmanr

from ...metrics.intervals import wilson_interval
from ...metrics.paired import holm, mcnemar
from ...runs.schema import Check

ALPHA = 0.05
"""Level of the tests, over all checks together."""
LEAST_AGREEMENT = 0.75
"""A guide that decides like the model on a smaller share of texts says nothing about it."""
LEAST_CORRELATION = 0.3
"""Rank correlation below which a score says nothing more about confident texts than its decision."""
FEWEST_TEXTS = 20
"""Confident texts that a rank correlation asks for."""
UNBOUNDED = 0.95
"""Success that any classifier allows a search that may write any words."""
_FEWEST_RANKED = 3  # texts of a class that a correlation's error cannot be known from
SAME_ANSWER = 1e-3
"""Logits of two passes over one text may differ by this much, which is rounding."""

Outcomes = NDArray[np.bool_]
"""Which texts a search found an adversarial one for, of those attacked (texts,)."""


class Plateau(NamedTuple):
    """How much a score says about texts that the model is confident of.

    Attributes:
        correlation: rank correlation of the score with the guide's margin among those of the same class, averaged.
        upper: its one-sided 95 % upper limit.
        spread: width of the middle 80 % of their log-odds, as a share of that of all texts.
        texts: how many they are.
    """

    correlation: float
    upper: float
    spread: float
    texts: int


class Comparison(NamedTuple):
    """Two searches that are compared: the rival, which knows less of the model or more, must not find more.

    Attributes:
        check: name of the check.
        rival: outcomes by name; of several the one that differs most counts.
        base: outcomes of the searches by the model's own score that they are compared with.
        sentence: the reason, with the two rates to fill in.
        guided: the verdict rests on the guide.
    """

    check: str
    rival: Mapping[str, Outcomes]
    base: Outcomes
    sentence: str
    guided: bool = False


def measure_plateau(
    score: NDArray[np.float64],
    log_odds: NDArray[np.float64],
    guide: NDArray[np.float64],
    decisions: NDArray[np.int64],
) -> Plateau:
    """Compare a score with a guide's on the texts on which both decide alike and the guide is confident.

    Texts are ranked within the class that the model decides for, and the classes' correlations averaged: a model may be
    surer of one class than of another without hiding anything.

    Args:
        score: what an attack by the model's own score sees: the probability of the model's decision, shape (texts,).
        log_odds: the margin of the model's decision over the next class, shape (texts,).
        guide: the guide's margin of the model's decision over the next class, below 0 where it decides otherwise.
        decisions: the model's class numbers (texts,).
    """
    confident = np.zeros(len(guide), dtype=bool)
    transformed, weights = [], []
    for decision in np.unique(decisions):
        alike = (decisions == decision) & (guide > 0)
        chosen = alike & (guide >= np.median(guide[alike])) if alike.any() else alike
        if (count := int(chosen.sum())) > _FEWEST_RANKED:
            values = score[chosen]
            varied = np.ptp(values) > 1e-6  # float32 tells no more apart
            correlation = float(spearmanr(values, guide[chosen]).statistic) if varied else 0.0
            transformed.append(np.arctanh(np.clip(correlation, -0.9999, 0.9999)))
            weights.append(count - _FEWEST_RANKED)
            confident |= chosen
    if not weights:
        return Plateau(0.0, 1.0, 1.0, 0)
    mean = np.average(transformed, weights=weights)
    reach = norm.ppf(1 - ALPHA) * np.sqrt(1.06 / sum(weights))  # Fieller, Hartley and Pearson (1957)
    whole = _width(np.concatenate([log_odds, -log_odds]))
    spread = float(_width(log_odds[confident]) / whole) if whole > 0 else 0.0
    return Plateau(float(np.tanh(mean)), float(np.tanh(mean + reach)), spread, int(confident.sum()))


def compare(comparisons: Sequence[Comparison], agreement: float) -> list[Check]:
    """Return one check per comparison; a rival that finds significantly more fails it.

    A check is open where so few texts could not have failed it, or where it rests on a guide that agrees too rarely.
    """
    worst = [min((_one_sided(rival, each.base), name) for name, rival in each.rival.items()) for each in comparisons]
    # Of several rivals the smallest p-value counts, so it is multiplied by how many there are.
    tests = [min(1.0, p * len(each.rival)) for (p, _), each in zip(worst, comparisons, strict=True)]
    checks = []
    for each, (_, name), p_value in zip(comparisons, worst, holm(tests), strict=True):
        rival, base = each.rival[name], each.base
        failed = p_value < ALPHA
        vague = each.guided and not failed and agreement < LEAST_AGREEMENT
        why = f"{each.sentence.format(name=name, rival=rival.mean(), base=base.mean())} (p = {p_value:.2g})"
        few = 0.5 ** len(base) * len(comparisons) >= ALPHA
        if few:
            why += f"; {len(base)} texts are too few to tell"
        elif vague:
            why += f"; the guide decides like the model on {agreement:.1%} of texts only, too few to say more"
        checks.append(
            Check(
                name=each.check,
                passed=None if few or vague else not failed,
                why=why,
                figures={
                    "success": float(base.mean()),
                    "rival": {other: float(found.mean()) for other, found in each.rival.items()},
                    "only_rival": int(np.sum(rival & ~base)),
                    "only_own": int(np.sum(base & ~rival)),
                    "p_value": p_value,
                },
            )
        )
    return checks


def plateau_check(plateau: Plateau) -> Check:
    """Return whether the score still ranks the texts that the model is confident of."""
    known = plateau.texts >= FEWEST_TEXTS
    why = (
        f"among {plateau.texts} confident texts the score has rank correlation {plateau.correlation:.2f} with the "
        f"margin of another classifier of the same decisions, and its log-odds keep {plateau.spread:.1%} of their range"
    )
    if not known:
        why += f"; at least {FEWEST_TEXTS} texts are needed"
    return Check(
        name="plateau",
        passed=plateau.upper >= LEAST_CORRELATION if known else None,
        why=why,
        figures={"correlation": plateau.correlation, "upper_limit": plateau.upper, "spread": plateau.spread},
    )


def unbounded_check(found: Outcomes) -> Check:
    """Return whether a search that may write any words reaches nearly every text."""
    low, high = wilson_interval(int(found.sum()), len(found))
    return Check(
        name="unbounded",
        passed=high >= UNBOUNDED,
        why=f"a search by the model's own score that may write any words changes {found.mean():.1%} of the decisions; "
        "nearly all are expected",
        figures={"success": float(found.mean()), "interval": (low, high)},
    )


def same_answers_check(changes: Sequence[float]) -> Check:
    """Return whether a predictor without declared randomness answers alike twice."""
    largest = max(changes)
    why = f"two passes over the same text give logits that differ by at most {largest:.2g}"
    why += ", although no randomness was declared" if largest > SAME_ANSWER else ": the predictor is not random"
    return Check(name="eot", passed=largest <= SAME_ANSWER, why=why, figures={"largest_difference": largest})


def not_made(name: str, why: str) -> Check:
    """Return a check that applies but could not be made, so that nobody takes it for passed."""
    return Check(name=name, passed=None, why=why, figures={})


def _one_sided(rival: Outcomes, base: Outcomes) -> float:
    """Return the p-value that the rival does not find more: half the two-sided one, as the null is symmetric."""
    more = int(np.sum(rival & ~base)) > int(np.sum(base & ~rival))
    return mcnemar(rival, base) / 2 if more else 1.0


def _width(values: NDArray[np.float64]) -> float:
    low, high = np.quantile(values, [0.1, 0.9])
    return float(high - low)
