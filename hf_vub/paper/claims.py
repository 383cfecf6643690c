"""What the figures of a reproduction say about the paper: differences between objectives, and its claims one by one.

Pure functions of result JSON. A run is a dictionary with objective, beta, entropy_weight, seed, ``metrics`` (test),
``validation`` and ``attacks``; the mean of a point of the grid is over its seeds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..metrics.intervals import (
    bootstrap_interval,
    cliffs_delta,
    cohens_dz,
    holm,
    paired_tests,
    rank_sum_test,
    vargha_delaney,
)

LEVEL = 0.05
NUMBERS = ("nll", "brier", "ece", "rate", "CW")
"""Figures that are no shares of examples; an attack's success rate is one, CW's L2 distance is not."""
HOLDS, FAILS, UNTESTED = "holds", "does not hold", "cannot be tested here"
_PHASE_WINDOW, _PHASE_SIZE = 3, 0.05

Run = Mapping[str, Any]
Point = tuple[float, float]

PAPER: dict[str, dict[str, Any]] = {
    "text": {
        "vanilla": {"accuracy": 0.930, "DWB": 0.543, "PWWS": 1.0},
        "vib": {
            1e-3: {"accuracy": (0.910, 0.010), "DWB": (0.351, 0.044), "PWWS": (0.416, 0.066)},
            1e-2: {"accuracy": (0.908, 0.005), "DWB": (0.410, 0.048), "PWWS": (0.629, 0.143)},
            1e-1: {"accuracy": (0.894, 0.009), "DWB": (0.900, 0.080), "PWWS": (0.991, 0.009)},
        },
        "vub": {
            1e-3: {"accuracy": (0.932, 0.005), "DWB": (0.275, 0.020), "PWWS": (0.284, 0.013)},
            1e-2: {"accuracy": (0.926, 0.008), "DWB": (0.308, 0.020), "PWWS": (0.500, 0.048)},
            1e-1: {"accuracy": (0.892, 0.020), "DWB": (0.992, 0.005), "PWWS": (1.0, 0.0)},
        },
    },
    "image": {
        "vanilla": {"accuracy": 0.772, "FGS 0.1": 0.689, "FGS 0.5": 0.677, "CW": 788.0},
        "vib": {
            1e-3: {"accuracy": (0.737, 0.01), "FGS 0.1": (0.595, 0.02), "FGS 0.5": (0.639, 0.02), "CW": (3917, 291)},
            1e-2: {"accuracy": (0.728, 0.01), "FGS 0.1": (0.535, 0.02), "FGS 0.5": (0.620, 0.01), "CW": (3318, 293)},
            1e-1: {"accuracy": (0.721, 0.001), "FGS 0.1": (0.584, 0.01), "FGS 0.5": (0.620, 0.01), "CW": (3318, 293)},
        },
        "vub": {
            1e-3: {"accuracy": (0.755, 0.0003), "FGS 0.1": (0.628, 0.01), "FGS 0.5": (0.664, 0.01), "CW": (2666, 140)},
            1e-2: {"accuracy": (0.750, 0.0005), "FGS 0.1": (0.576, 0.02), "FGS 0.5": (0.643, 0.01), "CW": (1564, 218)},
            1e-1: {"accuracy": (0.748, 0.0009), "FGS 0.1": (0.579, 0.05), "FGS 0.5": (0.648, 0.05), "CW": (3575, 456)},
        },
    },
}
"""Tables 1 and 2: by objective and beta, mean and standard deviation over 5 runs; CW in the paper's own L2 unit."""


def points(runs: Iterable[Run]) -> dict[tuple[str, float, float], list[Run]]:
    """The runs of each point of the grid, (objective, beta, entropy_weight), in the order of the grid."""
    found: dict[tuple[str, float, float], list[Run]] = {}
    for run in runs:
        found.setdefault((run["objective"], run["beta"], run["entropy_weight"]), []).append(run)
    return found


def choose(runs: Sequence[Run], on: str) -> dict[str, dict[str, Any]]:
    """The point of the grid with the highest mean accuracy for each objective, and its best run.

    Args:
        runs: with their figures.
        on: "validation", or "metrics" for the test split as in the paper; without a validation split always the
            latter.

    Returns:
        By objective: ``beta``, ``entropy_weight``, ``on`` ("validation" or "test"), ``accuracy`` (mean there) and
        ``run``, the arguments of a ``HeadRun``. Of equals the first wins.
    """
    key = on if all(run.get(on) for run in runs) else "metrics"
    chosen: dict[str, dict[str, Any]] = {}
    for (objective, beta, weight), own in points(runs).items():
        mean = float(np.mean([run[key]["accuracy"] for run in own]))
        if objective in chosen and mean <= chosen[objective]["accuracy"]:
            continue
        best = max(own, key=lambda run: (run[key]["accuracy"], -run["seed"]))
        chosen[objective] = {
            "beta": beta,
            "entropy_weight": weight,
            "on": "test" if key == "metrics" else key,
            "accuracy": mean,
            "run": {name: best[name] for name in ("objective", "beta", "entropy_weight", "seed")},
        }
    return chosen


def phases(history: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Turns of a run in the information plane.

    A phase is a stretch over which the running mean (3 epochs) of I(Z;X) keeps its direction; turns smaller than 5 %
    of its whole range do not count. A cycle is a rise of information with the fall of it (compression) that follows.

    Returns:
        ``rises``, ``falls`` and ``cycles``.
    """
    values = np.asarray(history.get("information", ()), dtype=np.float64)
    if len(values) < 2 * _PHASE_WINDOW:
        return {"rises": 0, "falls": 0, "cycles": 0}
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
    return {"rises": directions.count(1), "falls": directions.count(-1), "cycles": cycles}


def value_of(run: Run, name: str) -> float | None:
    """One figure of a run: a metric on test, "validation nll", or an attack's column (L2 for CW, else success)."""
    if name.startswith("validation "):
        value = (run.get("validation") or {}).get(name.removeprefix("validation "))
    elif name in (run.get("attacks") or {}):
        value = run["attacks"][name].get("l2_mean" if name == "CW" else "attack_success_rate")
    else:
        value = run["metrics"].get(name)
    return None if value is None else float(value)


def columns_of(results: Mapping[str, Any]) -> list[str]:
    """The columns of attacks that a reproduction has."""
    found: dict[str, None] = {}
    for run in (results["vanilla"], *results["runs"]):
        found |= dict.fromkeys(run.get("attacks") or {})
    return list(found)


def statistics(results: Mapping[str, Any]) -> dict[str, Any]:
    """Chosen betas, VIB against VUB at their best, and the paper's claims.

    Returns:
        ``chosen``: see `choose`, on "validation" and "test". ``statistics``: for each of the two, one row per figure
        with both means and deviations, the difference with its bootstrap interval, the rank-sum test of the paper, the
        exact paired tests with their Holm correction over the rows, and effect sizes. ``claims``: rows with ``claim``,
        ``paper``, ``ours``, ``verdict``, ``p_value``, ``p_holm`` and ``why``.
    """
    runs = results["runs"]
    chosen = {"validation": choose(runs, "validation"), "test": choose(runs, "metrics")}
    names = ["accuracy", "nll", "brier", "ece", "rate", *columns_of(results)]
    rows: dict[str, list[dict[str, Any]]] = {}
    for on, best in chosen.items():
        pairs = [_pair(runs, best, name) for name in names]
        rows[on] = [_difference(name, *pair) for name, pair in zip(names, pairs, strict=True) if pair is not None]
        for test in ("rank_sum_p", "signed_rank_p", "permutation_p"):
            for row, p in zip(rows[on], holm([row[test] for row in rows[on]]), strict=True):
                row[test.replace("_p", "_holm")] = p
    return {"chosen": chosen, "statistics": rows, "claims": _claims(results, chosen)}


def _pair(runs: Sequence[Run], best: Mapping[str, Mapping[str, Any]], name: str) -> tuple[list, list] | None:
    """A figure of the best VIB and of the best VUB, run by run in the order of seeds."""
    if not {"vib", "vub"} <= best.keys():
        return None
    found = []
    for objective in ("vib", "vub"):
        own = points(runs)[objective, best[objective]["beta"], best[objective]["entropy_weight"]]
        values = [value_of(run, name) for run in sorted(own, key=lambda run: run["seed"])]
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        found.append(values)
    return found[0], found[1]


def _difference(name: str, vib: list[float], vub: list[float]) -> dict[str, Any]:
    difference = np.subtract(vub, vib)
    paired = paired_tests(vub, vib)
    row: dict[str, Any] = {
        "name": name,
        "runs": len(vib),
        "vib": mean_std(vib),
        "vub": mean_std(vub),
        "difference": float(difference.mean()),
        "interval": list(bootstrap_interval(difference)),
        "rank_sum_p": rank_sum_test(vub, vib)["p_value"],
        "signed_rank_p": paired["signed_rank_p"],
        "sign_p": paired["sign_p"],
        "permutation_p": paired["permutation_p"],
        "cliffs_delta": cliffs_delta(vub, vib),
        "vargha_delaney": vargha_delaney(vub, vib),
        "cohens_dz": cohens_dz(vub, vib) if len(vib) > 1 else None,
    }
    return row


def mean_std(values: Sequence[float]) -> list[float]:
    """Mean and standard deviation (n - 1; 0 for one value)."""
    return [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]


# Claims


def _claims(results: Mapping[str, Any], chosen: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    text = results["task"] == "text"
    paper = PAPER[results["task"]]
    where = "IMDB" if text else "ImageNet"
    check = _Checker(results, chosen["validation"])
    on_test = _Checker(results, chosen["test"])
    rows = [
        check.between(
            "accuracy", "higher", f"VUB has a higher test accuracy than VIB (paper: {where})", _paper(paper, "accuracy")
        ),
    ]
    if chosen["validation"] and next(iter(chosen["validation"].values()))["on"] == "validation":
        rows.append(
            on_test.between(
                "accuracy",
                "higher",
                "the same, with the best beta chosen on test as in the paper",
                _paper(paper, "accuracy"),
            )
        )
    for column in [name for name in paper["vanilla"] if name != "accuracy"]:
        better = "higher" if column == "CW" else "lower"
        kind = "L2 distance of successes of CW" if column == "CW" else f"success of {column}"
        if text:
            claim = f"VUB is more robust than VIB: {better} {kind}"
            rows.append(check.between(column, better, claim, _paper(paper, column)))
        else:
            claim = f"VUB is as robust as VIB: no worse {kind}"
            rows.append(check.between(column, better, claim, _paper(paper, column), strict=False))
        for objective in ("vib", "vub"):
            claim = f"{objective.upper()} is more robust than the stock classifier: {better} {kind}"
            rows.append(check.against_vanilla(objective, column, better, claim, _paper(paper, column, objective)))
    if text:
        claim = "VUB has a higher test accuracy than the stock classifier"
        rows.append(check.against_vanilla("vub", "accuracy", "higher", claim, _paper(paper, "accuracy", "vub")))
    else:
        for objective in ("vib", "vub"):
            claim = f"{objective.upper()} has a lower accuracy than the stock classifier"
            rows.append(
                check.against_vanilla(objective, "accuracy", "lower", claim, _paper(paper, "accuracy", objective))
            )
    rows += [
        check.between("ece", "lower", "VUB is better calibrated than VIB (lower ECE)", "a remark, not measured"),
        check.between(
            "validation nll", "higher", "VIB has the lower validation cross-entropy", "a remark, not tabulated"
        ),
        _tighter(results, chosen["validation"]),
        _cycles(results),
    ]
    tested = [row for row in rows if row["p_value"] is not None]
    for row, p in zip(tested, holm([row["p_value"] for row in tested]) if tested else [], strict=True):
        row["p_holm"] = p
    return rows


class _Checker:
    """Claims about the best runs of a choice of beta."""

    def __init__(self, results: Mapping[str, Any], best: Mapping[str, Mapping[str, Any]]):
        self.results, self.best = results, best

    def between(self, name: str, better: str, claim: str, paper: str, strict: bool = True) -> dict[str, Any]:
        """VUB against VIB by the paper's rank-sum test; not strict: only a significantly worse VUB refutes it."""
        pair = _pair(self.results["runs"], self.best, name)
        if pair is None:
            return _row(claim, paper, "-", UNTESTED, None, "the grid lacks VIB, VUB or this figure")
        vib, vub = pair
        return _judge(
            claim,
            paper,
            f"VIB {_shown(vib, name)}, VUB {_shown(vub, name)}",
            float(np.mean(vub) - np.mean(vib)) * (1 if better == "higher" else -1),
            rank_sum_test(vub, vib)["p_value"],
            2.0 / math.comb(len(vib) + len(vub), len(vib)),
            strict,
        )

    def against_vanilla(self, objective: str, name: str, better: str, claim: str, paper: str) -> dict[str, Any]:
        """The runs of an objective against the one figure of the stock classifier, by the signed-rank test."""
        stock = value_of(self.results["vanilla"], name)
        best = self.best.get(objective)
        own = [] if best is None else points(self.results["runs"])[objective, best["beta"], best["entropy_weight"]]
        values = [value_of(run, name) for run in own]
        if stock is None or not values or any(value is None for value in values):
            return _row(claim, paper, "-", UNTESTED, None, "the grid lacks this objective or this figure")
        known = [value for value in values if value is not None]
        return _judge(
            claim,
            paper,
            f"stock {_shown([stock], name)}, {objective.upper()} {_shown(known, name)}",
            (float(np.mean(known)) - stock) * (1 if better == "higher" else -1),
            paired_tests(known, [stock] * len(known))["signed_rank_p"],
            2.0 / 2 ** len(known),
            True,
        )


def _judge(
    claim: str, paper: str, ours: str, gain: float, p_value: float, least_p: float, strict: bool
) -> dict[str, Any]:
    """The verdict on a gain: in which direction it goes and whether it is more than luck."""
    if least_p > LEVEL:
        why = f"the smallest p-value that so few runs can reach is {least_p:.2g}"
        return _row(claim, paper, ours, UNTESTED, p_value, why)
    if p_value >= LEVEL or gain == 0:
        why = "the difference is within the spread of the runs"
        return _row(claim, paper, ours, FAILS if strict else HOLDS, p_value, why)
    why = "the difference is significant" + ("" if gain > 0 else " and goes the other way")
    return _row(claim, paper, ours, HOLDS if gain > 0 else FAILS, p_value, why)


def _row(claim: str, paper: str, ours: str, verdict: str, p_value: float | None, why: str) -> dict[str, Any]:
    row = {"claim": claim, "paper": paper, "ours": ours, "verdict": verdict, "p_value": p_value, "p_holm": None}
    return {**row, "why": why}


def _tighter(results: Mapping[str, Any], best: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    claim = "the VUB objective is a tighter bound than the VIB objective"
    gaps = [
        run["metrics"]["bound_vib"] - run["metrics"]["bound_vub"]
        for run in results["runs"]
        if "bound_vub" in run["metrics"]
    ]
    if not gaps:
        return _row(claim, "by construction", "-", UNTESTED, None, "no run was measured")
    ours = f"tighter by {min(gaps):.3g} to {max(gaps):.3g} nats on test"
    return _row(claim, "by construction", ours, HOLDS if min(gaps) >= 0 else FAILS, None, "on every trained head")


def _cycles(results: Mapping[str, Any]) -> dict[str, Any]:
    claim = "training goes through cycles of error minimisation and compression in the information plane"
    betas = sorted({run["beta"] for run in results["runs"] if run["objective"] == "vub"})
    own = [run for run in results["runs"] if run["objective"] == "vub" and run["beta"] == betas[0]] if betas else []
    paper = "recurring, VUB at beta 0.001 on IMDB"
    if not own or results["settings"]["epochs"] < 30:
        why = "it takes VUB and at least 30 epochs, one of the paper's groups"
        return _row(claim, paper, "-", UNTESTED, None, why)
    counts = [run["phases"]["cycles"] for run in own]
    ours = f"{min(counts)} to {max(counts)} cycles in {len(counts)} runs"
    verdict = HOLDS if float(np.median(counts)) >= 2 else FAILS
    return _row(
        claim, paper, ours, verdict, None, "at least two rises of I(Z;X), each with a fall, in half of the runs"
    )


def _paper(paper: Mapping[str, Any], name: str, objective: str | None = None) -> str:
    """The paper's best figures for a comparison; its best beta is the one with the highest accuracy."""
    best = {kind: max(paper[kind].values(), key=lambda row: row["accuracy"][0]) for kind in ("vib", "vub")}

    def show(value: float) -> str:
        return f"{value:.0f}" if name == "CW" else f"{value:.1%}"

    if objective is not None:
        return f"stock {show(paper['vanilla'][name])}, {objective.upper()} {show(best[objective][name][0])}"
    return f"VIB {show(best['vib'][name][0])}, VUB {show(best['vub'][name][0])}"


def _shown(values: Sequence[float], name: str) -> str:
    """Mean and deviation as in the paper's tables."""
    return mean_and_spread(values, name not in NUMBERS and not name.startswith("validation "))


def mean_and_spread(values: Sequence[float], percent: bool) -> str:
    """Mean ± deviation; a percentage gets a second decimal where its deviation needs one."""
    mean, deviation = mean_std(values)
    form = (".2%" if 0 < deviation < 5e-4 else ".1%") if percent else ".3g"
    spread = f" ± {deviation:{form if percent else '.2g'}}"
    return f"{mean:{form}}" + (spread if len(values) > 1 else "")
