"""Tables of a reproduction, in the paper's layout and in full, as rows, Markdown and LaTeX."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..reports.tables import Table, power
from .claims import NUMBERS, columns_of, mean_and_spread, points, value_of

_GROUPS = {"ce": "Cross-entropy models", "vib": "VIB models", "vub": "VUB models"}
_TITLES = {
    "accuracy": "Test",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "rate": "Rate",
    "bound_vib": "L VIB",
    "bound_vub": "L VUB",
}
_BETTER = {"accuracy": "↑", "nll": "↓", "brier": "↓", "ece": "↓", "CW": "↑", "under": "↑"}


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Table 1 or 2 in the paper's layout, the same in full, the statistics, the claims and the stress suite."""
    found = [_paper_table(results), _full_table(results), *_statistics(results), _claims(results)]
    if results["stress"]:
        found.append(_stress(results))
    return found


def _paper_table(results: Mapping[str, Any]) -> Table:
    text = results["task"] == "text"
    runs = max((len(own) for own in points(results["runs"]).values()), default=0)
    what = "vanilla, " + " and ".join(sorted({run["objective"].upper() for run in results["runs"]}))
    columns = ["accuracy", *columns_of(results)]
    table = Table(
        "imdb" if text else "images",
        f"{results['experiment']} evaluation for {what} models, average over {runs} runs with standard deviation. "
        "First column: accuracy on the test set (higher is better). Then "
        + (
            "the share of successful attacks by recipe (lower is better)."
            if text
            else "the share of successful FGS attacks by budget (lower is better) and the mean L2 distance, in [0, 1] "
            "pixels, of successful targeted CW attacks (higher is better)."
        ),
        ["β", *(f"{_TITLES.get(name, name)} {_BETTER.get(name, '↓')}" for name in columns)],
    )
    table.rows.append(["Vanilla model"])
    table.rows.append(["-", *(_cell([results["vanilla"]], name) for name in columns)])
    _grid(table, results, columns)
    return table


def _full_table(results: Mapping[str, Any]) -> Table:
    measured = ["accuracy", "nll", "brier", "ece", "rate", "bound_vib", "bound_vub"]
    attacks = columns_of(results)
    table = Table(
        "full",
        "All measures on the test set, mean and standard deviation over runs. NLL, rate and the objectives (L VIB, "
        "L VUB) in nats. For each attack: accuracy under attack, over all attacked rows, and success over those "
        "classified rightly before.",
        ["β", *(f"{_TITLES[name]} {_BETTER.get(name, '')}".strip() for name in measured)],
    )
    table.columns += [title for name in attacks for title in (f"{name} accuracy ↑", f"{name} success ↓")]
    columns = [*measured, *(f"{kind} {name}" for name in attacks for kind in ("under", "success"))]
    table.rows += [["Vanilla model"], ["-", *(_cell([results["vanilla"]], name) for name in columns)]]
    _grid(table, results, columns)
    return table


def _grid(table: Table, results: Mapping[str, Any], columns: Sequence[str]) -> None:
    weights = len({run["entropy_weight"] for run in results["runs"]}) > 1
    group = ""
    for (objective, beta, weight), own in points(results["runs"]).items():
        if objective != group:
            group = objective
            table.rows.append([_GROUPS.get(objective, objective)])
        label = power(beta) + (f", weight {weight:g}" if weights and objective == "vub" else "")
        table.rows.append([label, *(_cell(own, name) for name in columns)])


def _cell(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean ± deviation of a figure over runs, as the paper prints it."""
    kind, _, column = name.partition(" ")
    if kind in ("under", "success"):
        field_name = "accuracy_under_attack" if kind == "under" else "attack_success_rate"
        values = [(run.get("attacks") or {}).get(column, {}).get(field_name) for run in runs]
    else:
        values = [value_of(run, name) for run in runs]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return "-"
    return mean_and_spread(known, not (name in NUMBERS or name.startswith("bound_")))


def _statistics(results: Mapping[str, Any]) -> list[Table]:
    found = []
    for on, rows in results["statistics"].items():
        best = results["chosen"][on]
        if not rows or best["vib"]["on"] != on:
            continue  # without a validation split both choices are the same
        chosen = ", ".join(f"{name.upper()} {power(best[name]['beta'])}" for name in ("vib", "vub"))
        table = Table(
            f"statistics-{on}",
            f"VUB against VIB at the beta with the best accuracy on {on} ({chosen}). Difference VUB - VIB of runs of "
            "the same seed with its 95% bootstrap interval; p-values are two-sided: Wilcoxon's rank-sum test as in the "
            "paper, and the exact signed-rank test of pairs, both also with Holm's correction over the rows; effect "
            "sizes are Cliff's delta, Vargha and Delaney's A and Cohen's d of pairs.",
            ["figure", "VIB", "VUB", "difference", "rank-sum p", "Holm", "paired p", "Holm", "delta", "A", "d"],
        )
        for row in rows:
            low, high = row["interval"]
            cells = [
                row["name"],
                *(f"{row[kind][0]:.4g} ± {row[kind][1]:.2g}" for kind in ("vib", "vub")),
                f"{row['difference']:+.3g} [{low:+.3g}, {high:+.3g}]",
                *(f"{row[name]:.2g}" for name in ("rank_sum_p", "rank_sum_holm", "signed_rank_p", "signed_rank_holm")),
                *(
                    "-" if row[name] is None else f"{row[name]:.2f}"
                    for name in ("cliffs_delta", "vargha_delaney", "cohens_dz")
                ),
            ]
            table.rows.append(cells)
        found.append(table)
    return found


def _claims(results: Mapping[str, Any]) -> Table:
    table = Table(
        "claims",
        "The paper's claims. Verdicts at 5%: VUB against VIB by the rank-sum test, against the stock classifier by the "
        "signed-rank test of the runs against its one figure; Holm's correction is over the rows with a p-value.",
        ["claim", "paper", "ours", "verdict", "p", "Holm", "because"],
    )
    for row in results["claims"]:
        p_values = ["-" if row[name] is None else f"{row[name]:.2g}" for name in ("p_value", "p_holm")]
        table.rows.append([row["claim"], row["paper"], row["ours"], row["verdict"], *p_values, row["why"]])
    return table


def _stress(results: Mapping[str, Any]) -> Table:
    table = Table(
        "stress",
        "The best run of each objective under stronger attacks and other predictors, and the checks for masked "
        "gradients.",
        ["objective", "attack", "epsilon", "predictor", "examples", "accuracy", "under attack", "success"],
    )
    for row in results["stress"]:
        cells = [row["objective"].upper(), row["attack"]]
        if row["kind"] == "report_card":
            failed = [check["name"] for check in row["checks"] if check["passed"] is False]
            verdict = row.get("why") or ("all checks passed" if not failed else f"failed: {', '.join(failed)}")
            table.rows.append([*cells, "-", "-", "-", "-", "-", verdict])
            continue
        table.rows.append(
            [
                *cells,
                "-" if row.get("epsilon") is None else f"{row['epsilon']:.4g}",
                row.get("noise", "mean"),
                str(row.get("num_examples", "-")),
                *(
                    "-" if row.get(name) is None else f"{row[name]:.1%}"
                    for name in ("clean_accuracy", "accuracy_under_attack", "attack_success_rate")
                ),
            ]
        )
    return table
