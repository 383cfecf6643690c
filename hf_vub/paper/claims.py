"""Hold the results of a reproduction against the paper, claim by claim.

| claim on | unit | test |
|---|---|---|
| accuracy | test row, over seeds | paired bootstrap over rows and seeds; over runs where the rows are not recorded |
| attacks | attacked row, over seeds | the same, in the claim's column and in the worst case over attacks and guides |
| "no worse" | the same | equivalence with a margin |
| metrics of a whole split (ECE, NLL) | run | Wilcoxon's rank-sum test over seeds, as in the paper |

A claim holds only after Holm's correction over all claims that were tested. Pure functions of a `Reproduction`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from ..metrics.classification import Floats
from ..metrics.intervals import paired_tests, rank_sum_test
from ..metrics.paired import equivalent, holm, paired_bootstrap
from ..reports.tables import mean_and_spread
from ..runs.schema import BetaVerdict, ClaimVerdict, Reproduction
from ..runs.schema.reproduction import Verdict
from .grid import NOT_SHARES, Measured, Rows, choose, chosen_runs, points
from .outcomes import correct_rows, distances, successes, worst_columns
from .published import PUBLISHED, PublishedTable
from .statistics import statistics, values_of

LEVEL = 0.05
MARGIN = 0.05
"""Largest difference in a share of rows that counts as "no worse"; of a distance, so much of the other one's mean."""
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNTESTED: Verdict = "cannot be tested here"

_RESAMPLES = 2000


def with_statistics(results: Reproduction) -> Reproduction:
    """Return the results with the chosen betas, the statistics and the verdicts on the claims.

    ``chosen`` has the setting of each objective with the best accuracy on validation and on test. ``statistics`` has,
    for each of the two, one row per metric: VUB minus VIB over seeds. ``claims`` has a verdict on each claim of the
    paper, at the beta that validation chose and at every other beta.
    """
    chosen = {"validation": choose(results.runs, "validation"), "test": choose(results.runs, "test")}
    results = replace(results, chosen=chosen)
    rows: tuple[Rows, ...] = ("validation", "test")
    return replace(
        results, statistics={on: tuple(statistics(results, on)) for on in rows}, claims=tuple(_claims(results))
    )


@dataclass(frozen=True)
class _Claim:
    """A claim about one metric.

    Attributes:
        text: the claim in words.
        name: the metric, or the column of an attack.
        better: "higher" or "lower".
        paper: the paper's numbers.
        on: the rows that choose beta.
        objective: compared with the stock classifier; None compares VUB with VIB.
        strict: asks for a difference; a claim of "no worse" is not strict and asks for less than a margin.
    """

    text: str
    name: str
    better: Literal["higher", "lower"]
    paper: str
    on: Rows = "validation"
    objective: str | None = None
    strict: bool = True


class _Tested(NamedTuple):
    """What a test of a claim gave.

    Attributes:
        ours: our numbers in words.
        gain: the difference in the claimed direction, of the worse case.
        p_value: of the claim; None if it could not be tested.
        problem: why not.
        test: in words.
        num_rows: compared.
        seeds: compared.
        margin: of a claim that is not strict.
        where: " in the worst case", if that decided.
    """

    ours: str = "-"
    gain: float = 0.0
    p_value: float | None = None
    problem: str = ""
    test: str | None = None
    num_rows: int | None = None
    seeds: int | None = None
    margin: float | None = None
    where: str = ""


def _claims(results: Reproduction) -> list[ClaimVerdict]:
    """Return the verdict on every claim, after Holm's correction over those that could be tested."""
    claims = _claims_of(results)
    tested = [_test_chosen(results, claim) for claim in claims]
    adjusted = _adjusted(tested)
    verdicts = []
    for claim, found, p_holm in zip(claims, tested, adjusted, strict=True):
        verdict, why = _judge(found, p_holm, claim.strict)
        verdicts.append(
            ClaimVerdict(
                claim=claim.text,
                paper=claim.paper,
                ours=found.ours,
                verdict=verdict,
                p_value=found.p_value,
                p_holm=p_holm,
                why=why,
                test=found.test,
                betas=_chosen_betas(results, claim),
                num_rows=found.num_rows,
                seeds=found.seeds,
                margin=found.margin,
                at_every_beta=_at_every_beta(results, claim),
            )
        )
    return [*verdicts, _tighter(results), _cycles(results)]


def _adjusted(tested: Sequence[_Tested]) -> list[float | None]:
    """Return Holm's p-values, None where there was no test."""
    corrected = iter(holm([found.p_value for found in tested if found.p_value is not None]))
    return [None if found.p_value is None else next(corrected) for found in tested]


def _judge(found: _Tested, p_holm: float | None, strict: bool) -> tuple[Verdict, str]:
    """Return the verdict on a claim and its reason."""
    if p_holm is None:
        return UNTESTED, found.problem
    if not strict:
        if p_holm < LEVEL:
            return HOLDS, f"a difference of {found.margin:.3g} for the worse is ruled out"
        return FAILS, f"a difference of {found.margin:.3g} for the worse is not ruled out"
    if p_holm >= LEVEL:
        return FAILS, f"chance can explain the difference{found.where}"
    if found.gain > 0:
        return HOLDS, "the difference is more than chance"
    return FAILS, "the difference is more than chance and goes the other way"


def _chosen_betas(results: Reproduction, claim: _Claim) -> dict[str, float] | None:
    names = ("vib", "vub") if claim.objective is None else (claim.objective,)
    chosen = results.chosen[claim.on]
    return {name: chosen[name].beta for name in names if name in chosen} or None


def _test_chosen(results: Reproduction, claim: _Claim) -> _Tested:
    """Test a claim at the chosen betas."""
    runs = {name: chosen_runs(results, name, claim.on) for name in ("vib", "vub")}
    return _test(results, claim, runs)


def _at_every_beta(results: Reproduction, claim: _Claim) -> tuple[BetaVerdict, ...]:
    """Return the verdict at every beta, with the full weight of VUB's min term."""
    grouped = {(name, beta): runs for (name, beta, weight), runs in points(results.runs).items() if weight == 1.0}
    betas = sorted({beta for name, beta in grouped if name in ("vib", "vub")})
    tested = [_test(results, claim, {name: grouped.get((name, beta), []) for name in ("vib", "vub")}) for beta in betas]
    made = []
    for beta, found, p_holm in zip(betas, tested, _adjusted(tested), strict=True):
        verdict, _ = _judge(found, p_holm, claim.strict)
        made.append(
            BetaVerdict(beta=beta, ours=found.ours, verdict=verdict, p_value=found.p_value, p_holm=p_holm)
        )  # fmt: skip
    return tuple(made)


# Tests


def _test(results: Reproduction, claim: _Claim, runs: Mapping[str, Sequence[Measured]]) -> _Tested:
    """Test a claim on given runs of VIB and VUB."""
    first: Sequence[Measured] = runs[claim.objective or "vub"]
    second: Sequence[Measured] = [results.vanilla] if claim.objective else runs["vib"]
    if not first or not second:
        return _Tested(problem="the grid lacks VIB or VUB")
    titles = (claim.objective.upper(), "stock") if claim.objective else ("VUB", "VIB")
    right = correct_rows(first), correct_rows(second)
    if claim.name == "accuracy" and right[0] is not None and right[1] is not None:
        return _test_rows(claim, titles, [right])
    if claim.name not in results.vanilla.attacks and claim.name not in first[0].attacks:
        return _test_runs(claim, titles, values_of(first, claim.name), values_of(second, claim.name))
    columns = worst_columns(results, claim.name)
    if not columns:
        return _Tested(problem=_NO_WORST[results.task])
    if columns == [claim.name] and claim.name == "CW":
        return _test_rows(claim, titles, [(distances(first, "CW"), distances(second, "CW"))])
    cases = [[claim.name], columns] if columns != [claim.name] else [columns]
    return _test_rows(claim, titles, [(successes(first, case), successes(second, case)) for case in cases])


_NO_WORST = {
    "text": "no guided search was made, and success by a model's own score alone does not say how robust it is",
    "image": "a single gradient step says little by itself: attack with pgd_linf within the same budget too",
}


def _test_rows(claim: _Claim, titles: tuple[str, str], cases: Sequence[tuple[Floats | None, Floats | None]]) -> _Tested:
    """Test a claim row by row, in every case; the weakest case counts."""
    sign = 1 if claim.better == "higher" else -1
    weakest = _Tested(gain=math.inf)
    shown = []
    for place, (first, second) in enumerate(cases):
        if first is None or second is None:
            return _Tested(problem="the results do not say what happened on each row")
        if first.shape[1] != second.shape[1] or not np.any(np.isfinite(first - second)):
            return _Tested(problem="no row was compared on both sides")
        found = _compare(claim, sign, first, second)
        numbers = [
            f"{title} {_mean(values, claim.name)}" for title, values in zip(titles, (first, second), strict=True)
        ]
        shown.append(("worst case: " if place else "") + ", ".join(reversed(numbers)))
        if found.p_value is None:
            return found._replace(ours="; ".join(shown))
        if found.p_value >= (weakest.p_value or 0):
            weakest = found._replace(gain=min(found.gain, weakest.gain), where=" in the worst case" if place else "")
        else:
            weakest = weakest._replace(gain=min(found.gain, weakest.gain))
    return weakest._replace(ours="; ".join(shown))


def _compare(claim: _Claim, sign: int, first: Floats, second: Floats) -> _Tested:
    """Compare two tables (seeds, rows)."""
    compared = np.any(np.isfinite(first - second), axis=0)
    rows, seeds = int(compared.sum()), max(len(first), len(second))
    if claim.strict:
        difference = paired_bootstrap(first, second, resamples=_RESAMPLES)
        least = 2.0 ** (1 - rows)
        test = "paired bootstrap over rows and seeds"
        if least >= LEVEL:
            return _Tested(problem=f"{rows} rows cannot give a p-value below {least:.2g}", num_rows=rows, seeds=seeds)
        return _Tested("", sign * difference.difference, difference.p_value, "", test, rows, seeds)
    share = claim.name not in NOT_SHARES
    margin = MARGIN if share else MARGIN * float(np.nanmean(second))
    if share and (1 - margin) ** rows >= LEVEL:
        needed = math.ceil(math.log(LEVEL) / math.log(1 - margin))
        problem = f"it takes {needed} rows to rule out a difference of {margin:g}, and {rows} were compared"
        return _Tested(problem=problem, num_rows=rows, seeds=seeds, margin=margin)
    side: Literal["above", "below"] = "above" if sign < 0 else "below"
    same = equivalent(first, second, margin, side=side, resamples=_RESAMPLES)
    return _Tested("", sign * same.difference, same.p_value, "", "equivalence over rows and seeds", rows, seeds, margin)


def _test_runs(claim: _Claim, titles: tuple[str, str], first: list[float], second: list[float]) -> _Tested:
    """Test a claim on a metric of a whole split, of which every run has one value."""
    if not first or not second:
        return _Tested(problem="the grid lacks this metric")
    sign = 1 if claim.better == "higher" else -1
    ours = f"{titles[1]} {_shown(second, claim.name)}, {titles[0]} {_shown(first, claim.name)}"
    alone = len(second) == 1 < len(first)  # the stock classifier, which is there once
    least = 2.0 ** (1 - len(first)) if alone else 2.0 / math.comb(len(first) + len(second), len(first))
    if least > LEVEL:
        return _Tested(ours=ours, problem=f"the smallest p-value that so few runs can reach is {least:.2g}")
    gain = sign * float(np.mean(first) - np.mean(second))
    if alone:
        p_value, test = paired_tests(first, second * len(first))["signed_rank_p"], "signed-rank test over runs"
    else:
        p_value, test = rank_sum_test(first, second)["p_value"], "rank-sum test over runs"
    return _Tested(ours, gain, p_value, "", test, None, len(first))


def _mean(values: Floats, name: str) -> str:
    """Return the mean over rows and seeds, with the deviation over seeds."""
    with np.errstate(all="ignore"):
        means = np.nanmean(values, axis=1)
    return _shown([float(mean) for mean in means if math.isfinite(mean)] or [math.nan], name)


def _shown(values: Sequence[float], name: str) -> str:
    """Return mean and deviation as in the paper's tables."""
    return mean_and_spread(values, name not in NOT_SHARES and not name.startswith("validation "))


# The paper's claims


def _claims_of(results: Reproduction) -> list[_Claim]:
    """Return the paper's claims about the task, each once."""
    text, paper = results.task == "text", PUBLISHED[results.task]
    both = _both(paper, "accuracy")
    first = f"VUB has a higher test accuracy than VIB (paper: {paper.where})"
    claims = [_Claim(first, "accuracy", "higher", both)]
    betas = [{name: choice.beta for name, choice in results.chosen[on].items()} for on in ("validation", "test")]
    if betas[0] != betas[1]:
        again = "VUB has a higher test accuracy than VIB, with the best beta chosen on test as in the paper"
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


def _tighter(results: Reproduction) -> ClaimVerdict:
    """Return if the VUB objective was below the VIB objective on every head."""
    bounds = [(run.metrics.get("bound_vib"), run.metrics.get("bound_vub")) for run in results.runs]
    gaps = [vib - vub for vib, vub in bounds if vib is not None and vub is not None]
    verdict = (HOLDS if min(gaps) >= 0 else FAILS) if gaps else UNTESTED
    return _measured(
        "the VUB objective is a tighter bound than the VIB objective",
        "by construction",
        f"tighter by {min(gaps):.3g} to {max(gaps):.3g} nats on test" if gaps else "-",
        verdict,
        "on every trained head" if gaps else "no run was measured",
    )


def _cycles(results: Reproduction) -> ClaimVerdict:
    """Return if half of the VUB runs at the smallest beta went through two cycles."""
    vub = [run for run in results.runs if run.objective == "vub"]
    counts = [run.phases.cycles for run in vub if run.beta == min(run.beta for run in vub)]
    epochs = results.settings["epochs"]
    tested = bool(counts) and isinstance(epochs, int) and epochs >= 30
    verdict = (HOLDS if float(np.median(counts)) >= 2 else FAILS) if tested else UNTESTED
    return _measured(
        "training goes through cycles of error minimisation and compression in the information plane",
        "recurring, VUB at beta 0.001 on IMDB",
        f"{min(counts)} to {max(counts)} cycles in {len(counts)} runs" if tested else "-",
        verdict,
        "at least two rises of I(Z;X), each with a fall, in half of the runs"
        if tested
        else "it takes VUB and at least 30 epochs, one of the paper's groups",
    )


def _measured(claim: str, paper: str, ours: str, verdict: Verdict, why: str) -> ClaimVerdict:
    """Return a verdict without a test."""
    return ClaimVerdict(claim=claim, paper=paper, ours=ours, verdict=verdict, p_value=None, p_holm=None, why=why)


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
