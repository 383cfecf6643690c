"""Hold the results of a reproduction against the paper: VUB minus VIB in every metric, and the claims one by one.

Pure functions of a `Reproduction`; the mean of a point of the grid is over its seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from ..metrics.intervals import (
    bootstrap_interval,
    cliffs_delta,
    cohens_dz,
    paired_tests,
    rank_sum_test,
    vargha_delaney,
)
from ..metrics.paired import holm
from ..reports.tables import mean_and_spread, mean_std
from ..runs.schema import ClaimVerdict, HeadResult, Reproduction, Statistic
from .grid import NOT_SHARES, Rows, attack_columns, choose, chosen_runs, value_of
from .published import PUBLISHED, PublishedTable

LEVEL = 0.05
Verdict = Literal["holds", "does not hold", "cannot be tested here"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNTESTED: Verdict = "cannot be tested here"


def with_statistics(results: Reproduction) -> Reproduction:
    """Return the results with the chosen betas, the statistics and the verdicts on the claims.

    ``chosen`` has the setting of each objective with the best accuracy on validation and on test. ``statistics`` has,
    for each of the two, one row per metric: VUB minus VIB with the paper's rank-sum test and exact paired tests, each
    also with Holm's correction over the rows. ``claims`` has a verdict on each claim of the paper.
    """
    chosen = {"validation": choose(results.runs, "validation"), "test": choose(results.runs, "test")}
    results = replace(results, chosen=chosen)
    rows: tuple[Rows, ...] = ("validation", "test")
    return replace(
        results, statistics={on: tuple(_statistics(results, on)) for on in rows}, claims=tuple(_claims(results))
    )


def _statistics(results: Reproduction, on: Rows) -> list[Statistic]:
    """Return VUB minus VIB at their best settings in every metric that both have."""
    names = ["accuracy", "nll", "brier", "ece", "rate", *attack_columns(results)]
    pairs = {name: pair for name in names if (pair := _pair(results, name, on)) is not None}
    tests = {name: (rank_sum_test(vub, vib)["p_value"], paired_tests(vub, vib)) for name, (vib, vub) in pairs.items()}
    adjusted = {
        "rank_sum_holm": holm([rank_sum for rank_sum, _ in tests.values()]),
        "signed_rank_holm": holm([paired["signed_rank_p"] for _, paired in tests.values()]),
        "permutation_holm": holm([paired["permutation_p"] for _, paired in tests.values()]),
    }
    rows = []
    for place, (name, (vib, vub)) in enumerate(pairs.items()):
        difference = np.subtract(vub, vib)
        rank_sum, paired = tests[name]
        effect = cohens_dz(vub, vib) if len(vib) > 1 else math.nan
        rows.append(
            Statistic(
                name=name,
                runs=len(vib),
                vib=mean_std(vib),
                vub=mean_std(vub),
                difference=float(difference.mean()),
                interval=bootstrap_interval(difference),
                rank_sum_p=rank_sum,
                **{test: paired[test] for test in ("signed_rank_p", "sign_p", "permutation_p")},
                cliffs_delta=cliffs_delta(vub, vib),
                vargha_delaney=vargha_delaney(vub, vib),
                cohens_dz=effect if math.isfinite(effect) else None,
                **{test: p_values[place] for test, p_values in adjusted.items()},
            )
        )
    return rows


class _Pair(NamedTuple):
    """Values of the best VIB and of the best VUB, in the order of seeds."""

    vib: list[float]
    vub: list[float]


def _pair(results: Reproduction, name: str, on: Rows) -> _Pair | None:
    """Return a metric of the runs of the best VIB and VUB; None if one of them lacks it."""
    vib, vub = (_values(chosen_runs(results, objective, on), name) for objective in ("vib", "vub"))
    return _Pair(vib, vub) if vib and vub else None


def _values(runs: Sequence[HeadResult], name: str) -> list[float]:
    """Return a metric of every run; nothing if one of them lacks it."""
    values = [value_of(run, name) for run in runs]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return finite if len(finite) == len(values) else []


# Claims


@dataclass(frozen=True)
class _Claim:
    """A claim about one metric.

    Attributes:
        text: the claim in words.
        name: the metric.
        better: "higher" or "lower".
        paper: the paper's numbers.
        on: the rows that choose beta.
        objective: compared with the stock classifier; None compares VUB with VIB.
        strict: a difference that may be chance refutes the claim. A claim of "no worse" is not strict.
    """

    text: str
    name: str
    better: Literal["higher", "lower"]
    paper: str
    on: Rows = "validation"
    objective: str | None = None
    strict: bool = True


def _claims(results: Reproduction) -> list[ClaimVerdict]:
    """Return the verdict on every claim, with Holm's correction over those that have a p-value."""
    verdicts = [_verdict(results, claim) for claim in _claims_of(results)]
    verdicts += [_tighter(results), _cycles(results)]
    tested = [verdict.p_value for verdict in verdicts if verdict.p_value is not None]
    corrected = iter(holm(tested) if tested else [])
    return [replace(row, p_holm=next(corrected)) if row.p_value is not None else row for row in verdicts]


def _claims_of(results: Reproduction) -> list[_Claim]:
    """Return the paper's claims about the task."""
    text, paper = results.task == "text", PUBLISHED[results.task]
    both = _both(paper, "accuracy")
    first = f"VUB has a higher test accuracy than VIB (paper: {paper.where})"
    claims = [_Claim(first, "accuracy", "higher", both)]
    if any(choice.on == "validation" for choice in results.chosen["validation"].values()):
        again = "the same, with the best beta chosen on test as in the paper"
        claims.append(_Claim(again, "accuracy", "higher", both, on="test"))
    for column in [name for name in paper.vanilla if name != "accuracy"]:
        claims += _robustness_claims(paper, column, text)
    if text:
        numbers = _against_stock(paper, "accuracy", "vub")
        more = "VUB has a higher test accuracy than the stock classifier"
        claims.append(_Claim(more, "accuracy", "higher", numbers, objective="vub"))
    else:
        for objective in ("vib", "vub"):
            numbers = _against_stock(paper, "accuracy", objective)
            less = f"{objective.upper()} has a lower accuracy than the stock classifier"
            claims.append(_Claim(less, "accuracy", "lower", numbers, objective=objective))
    return [
        *claims,
        _Claim("VUB is better calibrated than VIB (lower ECE)", "ece", "lower", "a remark, not measured"),
        _Claim("VIB has the lower validation cross-entropy", "validation nll", "higher", "a remark, not tabulated"),
    ]


def _robustness_claims(paper: PublishedTable, column: str, text: bool) -> list[_Claim]:
    """Return what the paper claims of one attack: VUB against VIB, and both against the stock classifier."""
    distance = column == "CW"
    better: Literal["higher", "lower"] = "higher" if distance else "lower"
    measure = "L2 distance of successes of CW" if distance else f"success of {column}"
    numbers = _both(paper, column)
    if text:
        claims = [_Claim(f"VUB is more robust than VIB: {better} {measure}", column, better, numbers)]
    else:
        claims = [_Claim(f"VUB is as robust as VIB: no worse {measure}", column, better, numbers, strict=False)]
    for objective in ("vib", "vub"):
        words = f"{objective.upper()} is more robust than the stock classifier: {better} {measure}"
        claims.append(_Claim(words, column, better, _against_stock(paper, column, objective), objective=objective))
    return claims


def _verdict(results: Reproduction, claim: _Claim) -> ClaimVerdict:
    """Return the verdict on a claim: by the paper's rank-sum test, or against the stock classifier by signed ranks."""
    sign = 1 if claim.better == "higher" else -1
    if claim.objective is None:
        pair = _pair(results, claim.name, claim.on)
        if pair is None:
            return _untested(claim.text, claim.paper, "the grid lacks VIB, VUB or this metric")
        ours = f"VIB {_shown(pair.vib, claim.name)}, VUB {_shown(pair.vub, claim.name)}"
        gain = sign * float(np.mean(pair.vub) - np.mean(pair.vib))
        p_value = rank_sum_test(pair.vub, pair.vib)["p_value"]
        least_p = 2.0 / math.comb(len(pair.vib) + len(pair.vub), len(pair.vib))
    else:
        stock = value_of(results.vanilla, claim.name)
        values = _values(chosen_runs(results, claim.objective, claim.on), claim.name)
        if stock is None or not values:
            return _untested(claim.text, claim.paper, "the grid lacks this objective or this metric")
        ours = f"stock {_shown([stock], claim.name)}, {claim.objective.upper()} {_shown(values, claim.name)}"
        gain = sign * (float(np.mean(values)) - stock)
        p_value = paired_tests(values, [stock] * len(values))["signed_rank_p"]
        least_p = 2.0 / 2 ** len(values)
    verdict, why = _judge(gain, p_value, least_p, claim.strict)
    return ClaimVerdict(
        claim=claim.text, paper=claim.paper, ours=ours, verdict=verdict, p_value=p_value, p_holm=None, why=why
    )


def _judge(gain: float, p_value: float, least_p: float, strict: bool) -> tuple[Verdict, str]:
    """Return the verdict on a gain and its reason."""
    if least_p > LEVEL:
        return UNTESTED, f"the smallest p-value that so few runs can reach is {least_p:.2g}"
    if p_value >= LEVEL or gain == 0:
        return FAILS if strict else HOLDS, "the difference is within the spread of the runs"
    if gain > 0:
        return HOLDS, "the difference is significant"
    return FAILS, "the difference is significant and goes the other way"


def _untested(claim: str, paper: str, why: str) -> ClaimVerdict:
    return ClaimVerdict(claim=claim, paper=paper, ours="-", verdict=UNTESTED, p_value=None, p_holm=None, why=why)


def _tighter(results: Reproduction) -> ClaimVerdict:
    claim, paper = "the VUB objective is a tighter bound than the VIB objective", "by construction"
    bounds = [(run.metrics.get("bound_vib"), run.metrics.get("bound_vub")) for run in results.runs]
    gaps = [vib - vub for vib, vub in bounds if vib is not None and vub is not None]
    if not gaps:
        return _untested(claim, paper, "no run was measured")
    return ClaimVerdict(
        claim=claim,
        paper=paper,
        ours=f"tighter by {min(gaps):.3g} to {max(gaps):.3g} nats on test",
        verdict=HOLDS if min(gaps) >= 0 else FAILS,
        p_value=None,
        p_holm=None,
        why="on every trained head",
    )


def _cycles(results: Reproduction) -> ClaimVerdict:
    claim = "training goes through cycles of error minimisation and compression in the information plane"
    paper = "recurring, VUB at beta 0.001 on IMDB"
    vub = [run for run in results.runs if run.objective == "vub"]
    smallest = [run for run in vub if run.beta == min(run.beta for run in vub)]
    if not smallest or _epochs(results.settings) < 30:
        return _untested(claim, paper, "it takes VUB and at least 30 epochs, one of the paper's groups")
    counts = [run.phases.cycles for run in smallest]
    return ClaimVerdict(
        claim=claim,
        paper=paper,
        ours=f"{min(counts)} to {max(counts)} cycles in {len(counts)} runs",
        verdict=HOLDS if float(np.median(counts)) >= 2 else FAILS,
        p_value=None,
        p_holm=None,
        why="at least two rises of I(Z;X), each with a fall, in half of the runs",
    )


def _epochs(settings: Mapping[str, object]) -> int:
    epochs = settings["epochs"]
    return epochs if isinstance(epochs, int) else 0


def _both(paper: PublishedTable, column: str) -> str:
    """Return the paper's best VIB and VUB in a column; its best beta is the one with the highest accuracy."""
    vib, vub = (_published(paper.best(objective, column), column) for objective in ("vib", "vub"))
    return f"VIB {vib}, VUB {vub}"


def _against_stock(paper: PublishedTable, column: str, objective: str) -> str:
    """Return the paper's stock classifier and the best of one objective in a column."""
    best = _published(paper.best(objective, column), column)
    return f"stock {_published(paper.vanilla[column], column)}, {objective.upper()} {best}"


def _published(value: float, column: str) -> str:
    return f"{value:.0f}" if column == "CW" else f"{value:.1%}"


def _shown(values: Sequence[float], name: str) -> str:
    """Return mean and deviation as in the paper's tables."""
    return mean_and_spread(values, name not in NOT_SHARES and not name.startswith("validation "))
