"""The checks of an image report card, from what each attack leaves of every image: pure functions of outcomes.

Attacks are compared image by image with an exact one-sided test (McNemar's, on how many budgets each image survives),
at level ``alpha`` over all checks together (Holm 1979). A check fails where the data say so. It is unknown where so few
images could say nothing, and passes otherwise; its numbers say what the data leave open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from torch import Tensor

from ...metrics.paired import holm, mcnemar
from ...runs.schema import Check
from ...runs.schema.attacks import CheckNumbers

MOST_ZEROS = 0.1
"""Share of the entries of a gradient that may be exactly zero."""
MOST_LEFT = 0.05
"""Accuracy that an attack without a bound may leave."""
LEAST_SLOPE = 0.25
"""A step along the gradient must raise the margin by this share of what the gradient promises."""
MOST_WRINKLED = 0.1
"""Share of images on which it may raise it by less."""
LEAST_AGREEMENT = 0.5
"""A surrogate that decides like the model on a smaller share of images says nothing about it."""


@dataclass(frozen=True)
class Finding:
    """What a check found, before all checks are judged together.

    Attributes:
        name: of the check.
        why: the reason, in one sentence.
        figures: the numbers behind it.
        p_value: of the data if the model hid nothing; small speaks against it. None for a verdict without a test.
        attainable: the smallest p-value that so many images could give.
        passed: the verdict without a test.
        applies: False where the check has no meaning for this model.
    """

    name: str
    why: str
    figures: CheckNumbers
    p_value: float | None = None
    attainable: float = 0.0
    passed: bool | None = None
    applies: bool = True


def judge(findings: Sequence[Finding], alpha: float) -> tuple[Check, ...]:
    """Return one check for each finding, tested together at level ``alpha``."""
    tested = [finding for finding in findings if finding.p_value is not None]
    adjusted = dict(zip(map(id, tested), holm([finding.p_value or 0.0 for finding in tested]), strict=True))
    checks = []
    for finding in findings:
        passed, why, figures = finding.passed, finding.why, dict(finding.figures)
        if finding.p_value is not None:
            p_value = adjusted[id(finding)]
            figures["p_value"] = p_value
            passed = False if p_value < alpha else None if finding.attainable * len(tested) >= alpha else True
            why += f" (p = {p_value:.2g})" if passed is not None else ": too few images for a verdict"
        checks.append(Check(name=finding.name, passed=passed, why=why, figures=figures, applies=finding.applies))
    return tuple(checks)


def compare(name: str, ours: Tensor, rivals: Mapping[str, Tensor], first: str, sentence: str) -> Finding:
    """Test if the attack that knows most leaves more than one that knows less.

    Args:
        name: of the check.
        ours: accuracy (budgets, images) under the attack that knows most.
        rivals: the same of those that know less; of several the one with the smallest p-value counts, corrected.
        first: name of our attack in ``figures``.
        sentence: the reason, with ``{ours}``, ``{rival}`` and ``{name}`` to fill in.
    """
    tests = {rival: _only_second(ours, theirs) for rival, theirs in rivals.items()}
    worst = min(tests, key=lambda rival: tests[rival][0])
    p_value, only_rival, only_ours = tests[worst]
    count, theirs = ours.shape[1], rivals[worst]
    interval = binomtest(only_rival, count).proportion_ci(method="exact")
    ours_mean, rival_mean = float(ours.mean()), float(theirs.mean())
    why = sentence.format(ours=ours_mean, rival=rival_mean, name=worst)
    return Finding(
        name,
        f"{why}; {only_rival} of {count} images fall sooner to the second attack, {only_ours} later",
        {
            first: ours_mean,
            "rival": rival_mean if len(rivals) == 1 else {rival: float(kept.mean()) for rival, kept in rivals.items()},
            "only_rival": only_rival,
            "only_ours": only_ours,
            "only_rival_interval": (float(interval.low), float(interval.high)),
        },
        p_value=min(1.0, p_value * len(rivals)),
        attainable=0.5**count * len(rivals),
    )


def beats_noise(pgd: Tensor, noise: Tensor, alpha: float) -> Finding:
    """Require that PGD leaves less accuracy (budgets, images) than random signs, beyond chance."""
    p_value, only_pgd, only_noise = _only_second(noise, pgd)
    ours, theirs = float(pgd.mean()), float(noise.mean())
    return Finding(
        "noise",
        f"averaged over the budgets PGD leaves {ours:.1%} accuracy and random noise {theirs:.1%}; "
        f"{only_pgd} of {pgd.shape[1]} images resist noise longer, {only_noise} PGD (p = {p_value:.2g})",
        {"pgd": ours, "rival": theirs, "only_pgd": only_pgd, "only_noise": only_noise, "p_value": p_value},
        passed=None if 0.5 ** pgd.shape[1] >= alpha else p_value < alpha,
    )


def monotone(budgets: Sequence[float], pgd: Tensor) -> Finding:
    """Test if more images survive PGD at a budget than at the next smaller one."""
    steps = [_only_second(pgd[place + 1 : place + 2], pgd[place : place + 1])[0] for place in range(len(budgets) - 1)]
    means = pgd.mean(dim=1)
    rise = float((means[1:] - means[:-1]).max())
    return Finding(
        "monotone",
        f"the largest rise of accuracy under PGD from one budget to the next is {max(0.0, rise):.1%}",
        {"epsilon": tuple(budgets), "accuracy": tuple(means.tolist())},
        p_value=min(holm(steps)),
        attainable=0.5 ** pgd.shape[1] * len(steps),
    )


def unbounded(kept: Tensor) -> Finding:
    """Test if PGD without a bound leaves more accuracy (images,) than any network should have."""
    count, left = len(kept), round(float(kept.sum()))
    interval = binomtest(left, count).proportion_ci(method="exact")
    return Finding(
        "unbounded",
        f"PGD without a bound leaves {float(kept.mean()):.1%} of {count} images; at most {MOST_LEFT:.0%} is expected",
        {"accuracy": float(kept.mean()), "interval": (float(interval.low), float(interval.high))},
        p_value=_above(left, count, MOST_LEFT),
        attainable=MOST_LEFT**count,
    )


def slopes(ratios: Tensor, size: float) -> Finding:
    """Test if a step along the gradient raises the margin by less than it promises on too many images (images,)."""
    count, wrinkled = len(ratios), int((ratios < LEAST_SLOPE).sum())
    return Finding(
        "slope",
        f"a step of {size:.2g} along the gradient raises the margin by {float(ratios.median()):.0%} (median) of what "
        f"the gradient promises, and by less than {LEAST_SLOPE:.0%} on {wrinkled} of {count} images",
        {"median": float(ratios.median()), "wrinkled": wrinkled / count, "step": size},
        p_value=_above(wrinkled, count, MOST_WRINKLED),
        attainable=MOST_WRINKLED**count,
    )


def gradients(zero: Tensor, ignored: Tensor, matter: Tensor) -> Finding:
    """Judge the exact zeros (images, pixels) of gradients; pixels that a model ignores may be zero in every image.

    Args:
        zero: entries that are zero.
        ignored: bool (pixels,), those that are zero in every image.
        matter: bool (images,), images whose logits change when the ignored pixels do.
    """
    whole = float(zero.all(dim=1).double().mean())
    used = zero[:, ~ignored]
    entries = float(used.double().mean()) if used.numel() else 1.0
    masked = float(matter.double().mean())
    share = float(ignored.double().mean())
    why = f"{entries:.1%} of the entries of the input gradient are zero, and {whole:.1%} of the gradients as a whole"
    if 0 < share < 1:
        effect = f"change the logits of {masked:.1%} of the images" if masked else "change no logits"
        why += f"; {share:.1%} of the pixels, which are zero in every image and not counted, {effect}"
    return Finding(
        "gradients",
        why,
        {"zero_entries": entries, "zero_gradients": whole, "ignored_pixels": share, "ignored_matter": masked},
        passed=entries <= MOST_ZEROS and not masked,
    )


def deterministic(changed: Tensor, declared: bool) -> Finding:
    """Fail a predictor that is said to be deterministic and gives two answers (images,) to the same pixels."""
    if declared:
        return Finding("deterministic", "the predictor is declared to be random", {}, applies=False)
    share = float(changed.double().mean())
    why = f"a second pass over the same pixels gives other logits for {share:.1%} of the images"
    if share:
        why += ": the model is random, so attack it through an average of draws"
    return Finding("deterministic", why, {"changed": share}, passed=not share)


def expectation(draws: Sequence[int], curve: Tensor) -> Finding:
    """Test if averaging the most draws leaves less accuracy (draws, images) than averaging half as many."""
    p_value, only_most, only_half = _only_second(curve[-2:-1], curve[-1:])
    means = curve.mean(dim=1)
    gain = max(0.0, float(means[-2] - means[-1]))
    return Finding(
        "eot",
        f"averaging {draws[-1]} draws instead of {draws[-2]} lowers the accuracy under attack by {gain:.1%}",
        {"draws": tuple(draws), "accuracy": tuple(means.tolist()), "only_most": only_most, "only_half": only_half},
        p_value=p_value,
        attainable=0.5 ** curve.shape[1],
    )


def unknown(name: str, why: str, applies: bool = True) -> Finding:
    """Return the finding of a check that was not made."""
    return Finding(name, why, {}, applies=applies)


def _only_second(first: Tensor, second: Tensor) -> tuple[float, int, int]:
    """Return the one-sided p-value that ``second`` (budgets, images) leaves no less, and both counts of images."""
    difference = (first.double() - second.double()).sum(dim=0).numpy()
    less, more = difference > 1e-9, difference < -1e-9
    p_value, counts = mcnemar(less, more), (int(np.sum(less)), int(np.sum(more)))
    return (p_value / 2 if counts[0] > counts[1] else 1.0), *counts


def _above(hits: int, total: int, share: float) -> float:
    return float(binomtest(hits, total, share, alternative="greater").pvalue)
