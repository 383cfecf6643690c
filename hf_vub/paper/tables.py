"""Tables of a reproduction, in the paper's layout and in full, and of a comparison on one's own data."""

import math
from collections.abc import Sequence

from ..reports.tables import Table, mean_and_spread, power
from ..runs.schema import Reproduction, StressCard
from .grid import NOT_SHARES, Measured, attack_columns, points, value_of
from .outcomes import GUIDED

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
BASELINES = {"logistic regression": "Logistic regression", "early-stopped MLP": "Early-stopped MLP"}
"""What tables call the baselines, by their origin."""


def tables(results: Reproduction) -> list[Table]:
    """Return the tables of a reproduction (first the one in the paper's layout), or of a comparison."""
    if results.kind == "comparison":
        made = [_comparison(results)]
    else:
        made = [_paper_table(results), _full_table(results), *_statistics(results), _claims(results)]
        made += [table for table in [_by_beta(results)] if table.rows]
    return [*made, _stress(results)] if results.stress else made


def _comparison(results: Reproduction) -> Table:
    """Return one row per classifier, the chosen setting of each objective marked."""
    columns = ["validation nll", "accuracy", "nll", "ece", "rate"]
    attacks = attack_columns(results)
    table = Table(
        "comparison",
        "Classifiers on the same frozen features, mean and standard deviation over runs. Validation NLL chooses; all "
        "other columns are on the test rows. NLL and rate in nats. For each attack: success over the attacked rows "
        "that were classified correctly before. A star marks the chosen setting of each objective; of the heads only "
        "these are attacked.",
        [
            "model",
            "Validation NLL ↓",
            "Test accuracy ↑",
            "NLL ↓",
            "ECE ↓",
            "Rate",
            *(f"{name} success ↓" for name in attacks),
        ],
    )
    rows: list[tuple[str, Sequence[Measured]]] = []
    if results.vanilla.origin not in (results.baselines or {}):
        rows.append(("Stock classifier", [results.vanilla]))
    rows += [(BASELINES.get(origin, origin), [each]) for origin, each in (results.baselines or {}).items()]
    for (objective, beta, weight), runs in points(results.runs).items():
        choice = results.chosen["validation"][objective]
        star = " ★" if (choice.beta, choice.entropy_weight) == (beta, weight) else ""
        setting = f", β {power(beta)}" + (f", weight {weight:g}" if weight != 1 else "") if objective != "ce" else ""
        rows.append((f"{objective.upper()}{setting}{star}", runs))
    columns += [f"success {name}" for name in attacks]
    table.rows += [[label, *(_cell(runs, name) for name in columns)] for label, runs in rows]
    return table


def _paper_table(results: Reproduction) -> Table:
    text = results.task == "text"
    runs = max((len(same) for same in points(results.runs).values()), default=0)
    models = "vanilla, " + " and ".join(sorted({run.objective.upper() for run in results.runs}))
    columns = ["accuracy", *attack_columns(results)]
    some = any(column.endswith(GUIDED) for column in columns)
    guided = " In guided columns the search climbs the score of the stock classifier." if some else ""
    table = Table(
        "imdb" if text else "images",
        f"{results.experiment} evaluation for {models} models, average over {runs} runs with standard deviation. "
        "First column: accuracy on the test set (higher is better). Then "
        + (
            f"the share of successful attacks by recipe (lower is better).{guided}"
            if text
            else "the share of successful FGS attacks by budget (lower is better) and the mean L2 distance, in [0, 1] "
            "pixels, of successful targeted CW attacks (higher is better)."
        ),
        ["β", *map(_title, columns)],
    )
    _fill(table, results, columns)
    return table


def _full_table(results: Reproduction) -> Table:
    measured = ["accuracy", "nll", "brier", "ece", "rate", "bound_vib", "bound_vub"]
    attacks = attack_columns(results)
    table = Table(
        "full",
        "All metrics on the test rows, mean and standard deviation over runs. NLL, rate and the objectives (L VIB, "
        "L VUB) in nats. For each attack: accuracy under attack, over all attacked rows, and success over those "
        "classified correctly before.",
        ["β", *map(_title, measured)],
    )
    table.columns += [title for name in attacks for title in (f"{name} accuracy ↑", f"{name} success ↓")]
    _fill(table, results, [*measured, *(f"{kind} {name}" for name in attacks for kind in ("under", "success"))])
    return table


def _title(name: str) -> str:
    better = _BETTER.get(name, "" if name in _TITLES else "↓")
    return f"{_TITLES.get(name, name)} {better}".strip()


def _fill(table: Table, results: Reproduction, columns: Sequence[str]) -> None:
    """Add the rows: the stock classifier, the baselines, and the points of the grid by objective."""

    def add(label: str, runs: Sequence[Measured]) -> None:
        table.rows.append([label, *(_cell(runs, name) for name in columns)])

    baselines = results.baselines or {}
    if results.vanilla.origin not in baselines:
        table.rows.append(["Vanilla model"])
        add("-", [results.vanilla])
    for origin, baseline in baselines.items():
        vanilla = " (vanilla)" if origin == results.vanilla.origin else ""
        table.rows.append([BASELINES.get(origin, origin) + vanilla])
        add("-", [baseline])
    weights = len({run.entropy_weight for run in results.runs}) > 1
    group = ""
    for (objective, beta, weight), runs in points(results.runs).items():
        if objective != group:
            group = objective
            table.rows.append([_GROUPS.get(objective, objective)])
        add(power(beta) + (f", weight {weight:g}" if weights and objective == "vub" else ""), runs)


def _cell(runs: Sequence[Measured], name: str) -> str:
    """Return mean ± deviation of a column over runs, as the paper prints it."""
    kind, _, column = name.partition(" ")
    values: list[float | None]
    if kind in ("under", "success"):
        attacks = [run.attacks[column] for run in runs if column in run.attacks]
        values = [each.accuracy_under_attack if kind == "under" else each.attack_success_rate for each in attacks]
    else:
        values = [value_of(run, name) for run in runs]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return "-"
    return mean_and_spread(finite, not (name in (*NOT_SHARES, "validation nll") or name.startswith("bound_")))


def _statistics(results: Reproduction) -> list[Table]:
    made = []
    for on, rows in results.statistics.items():
        best = results.chosen[on]
        if not rows or best["vib"].on != on:
            continue  # without validation rows both choices are the same
        chosen = ", ".join(f"{name.upper()} {power(best[name].beta)}" for name in ("vib", "vub"))
        table = Table(
            f"statistics-{on}",
            f"VUB against VIB at the beta with the best accuracy on {on} ({chosen}). Difference VUB - VIB of runs of "
            "the same seed with its 95% bootstrap interval; p-values are two-sided: Wilcoxon's rank-sum test as in the "
            "paper, and the exact signed-rank test of pairs, both also with Holm's correction over the rows; effect "
            "sizes are Cliff's delta, Vargha and Delaney's A and Cohen's d of pairs.",
            ["metric", "VIB", "VUB", "difference", "rank-sum p", "Holm", "paired p", "Holm", "delta", "A", "d"],
        )
        for row in rows:
            low, high = row.interval
            p_values = (row.rank_sum_p, row.rank_sum_holm, row.signed_rank_p, row.signed_rank_holm)
            table.rows.append(
                [
                    row.name,
                    *(f"{mean:.4g} ± {deviation:.2g}" for mean, deviation in (row.vib, row.vub)),
                    f"{row.difference:+.3g} [{low:+.3g}, {high:+.3g}]",
                    *(f"{p_value:.2g}" for p_value in p_values),
                    *(
                        "-" if effect is None else f"{effect:.2f}"
                        for effect in (row.cliffs_delta, row.vargha_delaney, row.cohens_dz)
                    ),
                ]
            )
        made.append(table)
    return made


_PAIRED = (
    "The paper's claims at the chosen beta. A claim holds if p is below 5% after Holm's correction over the rows with "
    "a p-value. Accuracy and attacks are compared on the same test rows, over rows and seeds; a claim on an attack "
    "must hold in its own column and in the worst case over attacks and guides. "
)
_BY_SEEDS = (
    "The paper's claims. Verdicts at 5% over seeds that share one sample of attacked rows: they say nothing about "
    "other rows."
)


def _claims(results: Reproduction) -> Table:
    paired = any(row.test for row in results.claims)
    table = Table(
        "claims",
        (_PAIRED + _chosen_on(results)) if paired else _BY_SEEDS,
        ["claim", "paper", "ours", "verdict", "p", "Holm", "β", "rows", "because"],
    )
    for row in results.claims:
        betas = ", ".join(f"{name.upper()} {power(beta)}" for name, beta in (row.betas or {}).items())
        count = "-" if row.num_rows is None else f"{row.num_rows:,}"
        p_values = [_p_value(row.p_value), _p_value(row.p_holm)]
        table.rows.append([row.claim, row.paper, row.ours, row.verdict, *p_values, betas or "-", count, row.why])
    return table


def _by_beta(results: Reproduction) -> Table:
    """Return the verdict on every claim at every beta; no rows for results that are older than these."""
    betas = sorted({each.beta for row in results.claims for each in row.at_every_beta})
    table = Table(
        "claims-by-beta",
        "The same claims with VIB and VUB at the same beta: verdict, and p-value after Holm's correction over betas.",
        ["claim", *(f"β {power(beta)}" for beta in betas)],
    )
    for row in results.claims:
        if row.at_every_beta:
            found = {each.beta: each for each in row.at_every_beta}
            cells = [
                f"{found[beta].verdict} ({_p_value(found[beta].p_holm)})" if beta in found else "-" for beta in betas
            ]
            table.rows.append([row.claim, *cells])
    return table


def _p_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _chosen_on(results: Reproduction) -> str:
    """Return in a sentence which rows chose beta, and if the backbone was trained on them."""
    if results.settings.get("choose_on") == "test half":
        return "Beta was chosen on one half of the test rows, and everything was measured on the other."
    if not results.data.num_validation:
        return "Beta was chosen on the rows that it was measured on, as in the paper."
    seen = results.data.seen_by_backbone
    known = "does not say which of them" if seen is None else f"was trained on {seen.get('validation', 0):,} of them"
    return f"Beta was chosen on training rows held out from the heads; the backbone's checkpoint {known}" + (
        " it was trained on." if seen is None else "."
    )


def _stress(results: Reproduction) -> Table:
    table = Table(
        "stress",
        "The best run of each objective under stronger attacks and other predictors, and the checks for masked "
        "gradients.",
        ["objective", "attack", "epsilon", "predictor", "examples", "accuracy", "under attack", "success"],
    )
    for row in results.stress:
        cells = [row.objective.upper(), row.attack]
        if isinstance(row, StressCard):
            table.rows.append([*cells, "-", "-", "-", "-", "-", row.why or _card_verdict(row)])
            continue
        shares = (row.clean_accuracy, row.accuracy_under_attack, row.attack_success_rate)
        table.rows.append(
            [
                *cells,
                "-" if row.epsilon is None else f"{row.epsilon:.4g}",
                row.noise,
                str(row.num_examples),
                *("-" if value is None else f"{value:.1%}" for value in shares),
            ]
        )
    return table


def _card_verdict(card: StressCard) -> str:
    """Return the outcome of a report card; a check that was not made is not passed."""
    failed = [check.name for check in card.checks if check.passed is False]
    unknown = [check.name for check in card.checks if check.passed is None and check.applies]
    if failed:
        return f"failed: {', '.join(failed)}"
    return f"unknown: {', '.join(unknown)}" if unknown else "all checks passed"
