"""The tables and the plot of the guided-search experiment, made from its result alone."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from ..reports.plots import COLOURS, new_figure, save, style
from ..reports.tables import Table
from ..runs.files import write_text
from ..runs.schema.guided import GuidedAttack, GuidedHead, GuidedSearch
from .controls import STOCK, VUB

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLOTTED = ("vib-0.001", VUB, "vib-0.1", "plain-less-entropy")


def write_guided_report(result: GuidedSearch, folder: Path) -> list[Path]:
    """Write a table for each recipe, the table of paired tests and the plot of the plateau; return their paths."""
    made = [outcome_table(result, recipe) for recipe in dict.fromkeys(each.recipe for each in result.attacks)]
    made += [head_table(result), comparison_table(result)]
    written = [write_text(folder / f"{table.name}.md", table.markdown()) for table in made]
    return [*written, *save(plateau_figure(result), folder / "plateau")]


def outcome_table(result: GuidedSearch, recipe: str) -> Table:
    """Return success by the head that decides (rows) and the head whose score guides the search (columns)."""
    attacks = {(each.decides, each.guided_by): each for each in result.attacks if each.recipe == recipe}
    first = next(iter(attacks.values()))
    table = Table(
        f"guided-{recipe}",
        f"Success of {recipe} over the rows attacked, of {first.num_examples} drawn, with Wilson's 95% interval.",
        ["decides", "rows attacked", "guided by its own score", "by the stock model's score", "by VUB's score"],
    )
    for name, head in result.heads.items():
        shown = [attacks.get((name, guide)) for guide in (name, STOCK, VUB)]
        if name == STOCK:
            shown[1] = None  # its own score
        if name == VUB:
            shown[2] = None
        if shown[0] is not None:
            table.rows.append([head_title(name, head), str(shown[0].num_attacked), *map(_success, shown)])
    return table


def head_table(result: GuidedSearch) -> Table:
    """Return accuracy, calibration, plateau and the control with random typing errors of every head."""
    table = Table(
        "guided-heads",
        f"Accuracy and ECE on {result.num_measured:,} test rows; margins on the {result.num_confident:,} of them that "
        f"the stock model gets right with a probability of at least {result.confident:g}: quartiles, and the rank "
        "correlation with the stock model's margins. Typing errors: accuracy on the drawn rows, mean of "
        f"{result.typo_draws} random draws of errors in half of the words, with a 95% interval over rows.",
        ["head", "accuracy", "ECE", "margin", "optimum", "rank correlation", "accuracy with typing errors"],
    )
    for name, head in result.heads.items():
        under, over = head.accuracy_under_typos_interval
        table.rows.append(
            [
                head_title(name, head),
                f"{head.metrics['accuracy'] or 0:.1%}",
                f"{head.metrics['ece'] or 0:.3f}",
                _margins(head),
                "-" if head.optimal_margin is None else f"{head.optimal_margin:.2f}",
                "-" if head.rank_correlation is None else f"{head.rank_correlation:.2f}",
                f"{head.accuracy_under_typos:.1%} ({under:.1%} to {over:.1%})",
            ]
        )
    return table


def comparison_table(result: GuidedSearch) -> Table:
    """Return the paired tests."""
    table = Table(
        "guided-tests",
        "Paired comparisons on the rows that both attacked: rows on which only one of the two succeeded, and the exact "
        "p-value of McNemar's test, also with Holm's correction over the rows of this table.",
        ["recipe", "first", "second", "pairs", "only first / only second", "p", "Holm"],
    )
    for row in result.comparisons:
        cells = [row.recipe, *(_pair(result, pair) for pair in (row.first, row.second)), str(row.num_pairs)]
        table.rows.append([*cells, f"{row.only_first} / {row.only_second}", f"{row.p_value:.1g}", f"{row.p_holm:.1g}"])
    return table


def plateau_figure(result: GuidedSearch) -> "Figure":
    """Plot the margins of heads over those of the stock model, on the texts of which it is confident.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    shown = {name: result.heads[name] for name in _PLOTTED if name in result.heads}
    shown = shown or {name: head for name, head in result.heads.items() if name != STOCK}
    with style():
        figure = new_figure(1.9 * max(2, len(shown)), 2.4)
        panels = figure.subplots(1, max(1, len(shown)), squeeze=False, sharex=True)[0]
        for axes, (name, head) in zip(panels, shown.items(), strict=False):
            colour = COLOURS[head.objective if head.bottleneck else "ce"]
            x = [each.stock for each in head.plateau]
            axes.fill_between(
                x, [e.low for e in head.plateau], [e.high for e in head.plateau], color=colour, alpha=0.25, linewidth=0
            )
            axes.plot(x, [each.median for each in head.plateau], color=colour, marker="o", markersize=3, linewidth=1.2)
            if head.optimal_margin is not None:
                axes.axhline(head.optimal_margin, color="black", linewidth=0.8, linestyle="--")
            axes.set_title(textwrap.fill(head_title(name, head), 28), loc="left", fontsize=7)
            axes.set_ylim(bottom=0)
        figure.supxlabel("margin of the stock model (logits)", fontsize=8)
        figure.supylabel("margin of the head (logits)", fontsize=8)
    return figure


def head_title(name: str, head: GuidedHead) -> str:
    """Return what tables call a head."""
    if name == STOCK:
        return "stock"
    if not head.bottleneck:
        return "two layers, cross-entropy" + (
            " less min(H), no bottleneck" if head.entropy_weight else ", no bottleneck"
        )
    weight = f", weight {head.entropy_weight:g}" if head.objective == "vub" and head.entropy_weight != 1 else ""
    return f"{head.objective}, β {head.beta:g}{weight}"


def _pair(result: GuidedSearch, pair: tuple[str, str]) -> str:
    decides, guide = pair
    by = "its own score" if guide == decides else f"the score of {head_title(guide, result.heads[guide])}"
    return f"{head_title(decides, result.heads[decides])} by {by}"


def _margins(head: GuidedHead) -> str:
    if head.margin_quartiles is None:
        return "-"
    low, middle, high = head.margin_quartiles
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _success(attack: GuidedAttack | None) -> str:
    if attack is None or attack.attack_success_rate is None:
        return "-"
    low, high = attack.attack_success_interval
    return f"{attack.attack_success_rate:.1%} ({low:.0%} to {high:.0%})"
