"""Plots of a reproduction: Figures 1, 3, 4 and 5 of the paper, calibration and robustness.

The five groups of Figure 3 have the paper's colours, which colour-blind readers cannot all tell apart; each group
therefore has a marker of its own.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..reports.plots import COLOURS, MARKERS, adversarial_images, new_figure, style
from ..reports.tables import mean_std, power
from ..runs.schema import HeadResult, ImageExample, Reproduction
from .grid import Measured, attack_columns, chosen_runs, classifiers, points, value_of
from .tables import BASELINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = (("orange", "o"), ("gray", "s"), ("gold", "^"), ("green", "D"), ("red", "v"))
"""The paper's five groups of epochs in Figure 3, in order."""


def figures(results: Reproduction) -> dict[str, "Figure"]:
    """Return every plot that the results have the numbers for, by file name.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    images = results.examples.images
    drawn: dict[str, Figure | None]
    with style():
        if results.kind == "comparison":
            attacks = dict.fromkeys(image.attack for image in images)
            drawn = {"information-curve": information_curve(results), "calibration": calibration(results)}
            drawn |= {f"images-{attack}": _images(images, attack) for attack in attacks}
        else:
            drawn = {
                "figure1-information-curve": information_curve(results),
                "figure3-information-plane": information_plane(results),
                "figure4-cw": _images(images, "cw"),
                "figure5-fgs": _images(images, "fgs"),
                "calibration": calibration(results),
                "robustness": robustness(results),
            }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def information_curve(results: Reproduction) -> "Figure":
    """Plot Figure 1 as measured: H(Y) - CE, a bound on I(Z;Y), over the rate, a bound on I(Z;X), on the test rows."""
    entropy = results.data.label_entropy
    figure = new_figure(4.2, 3.1)
    axes = figure.subplots()
    for objective in dict.fromkeys(run.objective for run in results.runs):
        _draw_curve(axes, results.runs, objective, entropy)
    axes.axhline(entropy, color="black", linewidth=0.8, linestyle="--")
    axes.annotate("H(Y)", (1, entropy), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    if all((run.metrics["rate"] or 0) > 0 for run in results.runs):
        _logarithmic(axes)
    axes.margins(x=0.15, y=0.2)
    axes.set_xlabel("rate: bound on I(Z;X) (nats)")
    axes.set_ylabel("H(Y) − CE: bound on I(Z;Y) (nats)")
    axes.legend(loc="best")
    return figure


def _draw_curve(axes: "Axes", runs: Sequence[HeadResult], objective: str, entropy: float) -> None:
    """Draw one objective of Figure 1: small marks are runs, large ones the means of a point of the grid."""
    grouped = [same for (name, *_), same in points(runs).items() if name == objective]
    rates = [[_metric(run, "rate") for run in same] for same in grouped]
    informations = [[entropy - _metric(run, "cross_entropy") for run in same] for same in grouped]
    colour, marker = COLOURS[objective], MARKERS[objective]
    order = np.argsort([np.mean(values) for values in rates])
    for place in order:
        axes.scatter(rates[place], informations[place], s=9, color=colour, marker=marker, alpha=0.35, linewidths=0)
    x, y = ([float(np.mean(values[place])) for place in order] for values in (rates, informations))
    axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.2, label=objective.upper())
    if objective == "ce":
        return
    above = objective == "vib"
    for place, across, up in zip(order, x, y, strict=True):
        axes.annotate(
            "β = " + power(grouped[place][0].beta), (across, up), xytext=(0, 7 if above else -7), color=colour,
            textcoords="offset points", fontsize=7, ha="center", va="bottom" if above else "top",
        )  # fmt: skip


def _metric(run: HeadResult, name: str) -> float:
    value = run.metrics[name]
    return float("nan") if value is None else value


def _logarithmic(axes: "Axes") -> None:
    """Set a logarithmic x axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def information_plane(results: Reproduction) -> "Figure | None":
    """Plot Figure 3: 1 / CE over H(R) - H(Z|X) per epoch, VUB at the smallest beta, in five groups of epochs."""
    curves = [curve for curve in results.curves if curve.objective == "vub"] or results.curves
    if not curves:
        return None
    curve = min(curves, key=lambda curve: (curve.beta, curve.entropy_weight != 1.0))
    x, y = (np.array(values or (), dtype=float) for values in (curve.information, curve.inverse_cross_entropy))
    figure = new_figure(4.2, 3.1)
    axes = figure.subplots()
    axes.plot(x, y, color="#bbbbbb", linewidth=0.6, zorder=1)
    edges = np.round(np.linspace(0, len(x), len(GROUPS) + 1)).astype(int)
    for (colour, marker), first, last in zip(GROUPS, edges[:-1], edges[1:], strict=True):
        if last > first:
            axes.scatter(
                x[first:last], y[first:last], s=18, color=colour, marker=marker, edgecolors="black", linewidths=0.3,
                label=f"{first}–{last}", zorder=2,
            )  # fmt: skip
    axes.set_xlabel("H(R) − H(Z|X): estimate of I(Z;X) (nats)")
    axes.set_ylabel("1 / CE: stand-in for I(Z;Y) (1/nats)")
    axes.set_title(f"{curve.objective.upper()}, β = {power(curve.beta)}", loc="left")
    axes.legend(title="epochs", loc="best", borderpad=0.2, labelspacing=0.3, handletextpad=0.2)
    return figure


def calibration(results: Reproduction) -> "Figure":
    """Plot accuracy over confidence for the stock classifier and the chosen heads, and how confidence is spread."""
    figure = new_figure(3.6, 4.2)
    axes, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="perfect")
    lowest: list[tuple[float, float]] = []
    series: dict[str, list[Measured]] = {"vanilla": [results.vanilla]}
    series |= {objective: list(chosen_runs(results, objective)) for objective in results.chosen["validation"]}
    for name, runs in series.items():
        lowest += _draw_reliability(
            axes, below, name, runs, _stock_name(results) if name == "vanilla" else name.upper()
        )
    axes.set_xlim(max(0.0, min((x for x, _ in lowest), default=0.0) - 0.05), 1.02)
    axes.set_ylim(max(0.0, min((min(ends) for ends in lowest), default=0.0) - 0.05), 1.02)
    axes.set_ylabel("accuracy")
    axes.legend(loc="best")
    below.set_ylabel("share of rows")
    below.set_ylim(bottom=0)
    below.set_xlabel("confidence")
    return figure


def _stock_name(results: Reproduction) -> str:
    return BASELINES.get(results.vanilla.origin, "stock").lower()


def _draw_reliability(
    axes: "Axes", below: "Axes", name: str, runs: Sequence[Measured], label: str
) -> list[tuple[float, float]]:
    """Draw the pooled reliability bins of some runs; return the lowest confidence and accuracy drawn, if any."""
    bins = [run.reliability for run in runs]
    counts = np.array([each.count for each in bins], dtype=float)
    total = counts.sum(axis=0)
    shown = total >= max(0.001 * total.sum(), 1)
    confidence, accuracy = (
        np.nansum(np.array(values, dtype=float) * counts, axis=0)[shown] / total[shown]
        for values in ([each.confidence for each in bins], [each.accuracy for each in bins])
    )
    ece = mean_std([run.metrics["ece"] or 0.0 for run in runs])[0]
    colour, marker = COLOURS[name], MARKERS[name]
    axes.plot(
        confidence, accuracy, label=f"{label} (ECE {ece:.3f})", color=colour, marker=marker, markersize=4, linewidth=1.2
    )
    middles = (np.array(bins[0].lower) + np.array(bins[0].upper)) / 2
    below.plot(
        middles[total > 0], total[total > 0] / total.sum(), color=colour, marker=marker, markersize=4, linewidth=1.2
    )
    return [(float(confidence.min()), float(accuracy.min()))] if len(confidence) else []


def robustness(results: Reproduction) -> "Figure | None":
    """Plot the success of every attack over beta, mean and deviation over runs, next to the stock classifier's."""
    measured = classifiers(results).values()
    columns = [name for name in attack_columns(results) if any(value_of(run, name) is not None for run in measured)]
    if not columns:
        return None
    figure = new_figure(min(2.4 * len(columns), 9.6), 2.6)
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, name in zip(panels, columns, strict=True):
        _draw_robustness(axes, results, name)
    panels[0].legend(loc="best")
    return figure


def _draw_robustness(axes: "Axes", results: Reproduction, name: str) -> None:
    """Draw the panel of one attack."""
    distance = name == "CW"
    scale = 1 if distance else 100
    for objective in dict.fromkeys(run.objective for run in results.runs if run.beta > 0):
        by_beta = _values_by_beta(results.runs, objective, name)
        if not by_beta:
            continue
        means, spreads = zip(*(mean_std(values) for values in by_beta.values()), strict=True)
        shift = 0.93 if objective == "vib" else 1.07
        axes.errorbar(
            [beta * shift for beta in by_beta], np.array(means) * scale, np.array(spreads) * scale, capsize=2,
            color=COLOURS[objective], marker=MARKERS[objective], markersize=4, linewidth=1.2, label=objective.upper(),
        )  # fmt: skip
    stock = value_of(results.vanilla, name)
    if stock is not None:
        axes.axhline(stock * scale, color="black", linewidth=1, linestyle="--", label=_stock_name(results))
    axes.set_xscale("log")
    axes.set_xlabel("β")
    axes.set_title(name, loc="left")
    axes.set_ylabel("L2 of successes" if distance else "attack success (%)")
    axes.set_ylim(0 if distance else -3, None if distance else 103)


def _values_by_beta(runs: Sequence[HeadResult], objective: str, name: str) -> Mapping[float, list[float]]:
    """Return the values of one column over beta; of VUB those with the full weight of the min term."""
    by_beta = {
        beta: [value for run in same if (value := value_of(run, name)) is not None]
        for (kind, beta, weight), same in points(runs).items()
        if kind == objective and (weight == 1.0 or objective != "vub")
    }
    return {beta: values for beta, values in sorted(by_beta.items()) if values}


def _images(pictures: Sequence[ImageExample], attack: str) -> "Figure | None":
    """Plot Figure 4 or 5: images under one attack on the best VIB and on the best VUB."""
    panels: dict[str, list[ImageExample]] = {}
    for picture in pictures:
        if picture.attack == attack:
            panels.setdefault(picture.objective.upper(), []).append(picture)
    return adversarial_images(panels) if panels else None
