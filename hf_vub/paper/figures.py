"""Figures drawn from result JSON: Figures 1, 3, 4 and 5 of the paper and a calibration diagram.

Colours are those of Okabe and Ito, which the colour-blind can tell apart, except for the five groups of Figure 3, whose
colours are the paper's: there every group has its own marker. Sizes fit a column of print.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..reports.plots import COLOURS, MARKERS, adversarial_images, new_figure, style
from ..reports.tables import power
from .claims import columns_of, mean_std, points, value_of

GROUPS = (("orange", "o"), ("gray", "s"), ("gold", "^"), ("green", "D"), ("red", "v"))
"""The paper's five groups of epochs in Figure 3, in order."""


def figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure that the results have the figures for, as matplotlib figures by file name.

    Raises:
        ImportError: with the command to install matplotlib.
    """
    with style():
        found = {
            "figure1-information-curve": information_curve(results),
            "figure3-information-plane": information_plane(results),
            "figure4-cw": _by_objective(results, "cw"),
            "figure5-fgs": _by_objective(results, "fgs"),
            "calibration": calibration(results),
            "robustness": robustness(results),
        }
    return {name: drawn for name, drawn in found.items() if drawn is not None}


def information_curve(results: Mapping[str, Any]) -> Any:
    """Figure 1, measured: a bound on I(Z;Y), H(Y) - CE, over the rate, a bound on I(Z;X), on the test set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    entropy = results["data"]["label_entropy"]
    figure = new_figure(4.2, 3.1)
    axes = figure.subplots()
    for objective in dict.fromkeys(run["objective"] for run in results["runs"]):
        own = [found for (kind, *_), found in points(results["runs"]).items() if kind == objective]
        rates = [[run["metrics"]["rate"] for run in found] for found in own]
        informations = [[entropy - run["metrics"]["cross_entropy"] for run in found] for found in own]
        colour, marker = COLOURS[objective], MARKERS[objective]
        order = np.argsort([np.mean(values) for values in rates])
        for place in order:
            axes.scatter(rates[place], informations[place], s=9, color=colour, marker=marker, alpha=0.35, linewidths=0)
        x, y = ([float(np.mean(values[place])) for place in order] for values in (rates, informations))
        axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.2, label=objective.upper())
        for place, across, up in zip(order, x, y, strict=True):
            if objective != "ce":
                label = "β = " + power(own[place][0]["beta"])
                above = objective == "vib"
                axes.annotate(
                    label, (across, up), xytext=(0, 7 if above else -7), textcoords="offset points", color=colour,
                    fontsize=7, ha="center", va="bottom" if above else "top",
                )  # fmt: skip
    axes.axhline(entropy, color="black", linewidth=0.8, linestyle="--")
    axes.annotate("H(Y)", (1, entropy), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    if all(run["metrics"]["rate"] > 0 for run in results["runs"]):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15, y=0.2)
    axes.set_xlabel("rate: bound on I(Z;X) (nats)")
    axes.set_ylabel("H(Y) − CE: bound on I(Z;Y) (nats)")
    axes.legend(loc="best")
    return figure


def information_plane(results: Mapping[str, Any]) -> Any:
    """Figure 3: 1 / CE over H(R) - H(Z|X) per epoch, VUB at the smallest beta, in five groups of epochs."""
    own = [curve for curve in results["curves"] if curve["objective"] == "vub"] or results["curves"]
    if not own:
        return None
    curve = min(own, key=lambda curve: (curve["beta"], curve["entropy_weight"] != 1.0))
    x, y = np.array(curve["information"]), np.array(curve["inverse_cross_entropy"])
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
    axes.set_title(f"{curve['objective'].upper()}, β = {power(curve['beta'])}", loc="left")
    axes.legend(title="epochs", loc="best", borderpad=0.2, labelspacing=0.3, handletextpad=0.2)
    return figure


def calibration(results: Mapping[str, Any]) -> Any:
    """Accuracy over confidence for the stock classifier and the chosen VIB and VUB, and how often each is confident."""
    series = [("vanilla", [results["vanilla"]])]
    for objective, best in results["chosen"]["validation"].items():
        series.append((objective, points(results["runs"])[objective, best["beta"], best["entropy_weight"]]))
    figure = new_figure(3.6, 4.2)
    axes, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="perfect")
    for name, runs in series:
        bins = [run["reliability"] for run in runs if run.get("reliability")]
        if not bins:
            continue
        counts = np.array([one["count"] for one in bins], dtype=float)
        figures_of = {
            column: np.nansum(np.array([one[column] for one in bins], dtype=float) * counts, axis=0)
            for column in ("confidence", "accuracy")
        }
        total = counts.sum(axis=0)
        shown = total >= 0.001 * total.sum()
        ece = mean_std([run["metrics"]["ece"] for run in runs])[0]
        label = f"{'stock' if name == 'vanilla' else name.upper()} (ECE {ece:.3f})"
        style = {"color": COLOURS[name], "marker": MARKERS[name], "markersize": 4, "linewidth": 1.2}
        axes.plot(
            figures_of["confidence"][shown] / total[shown],
            figures_of["accuracy"][shown] / total[shown],
            label=label,
            **style,
        )
        middles = (np.array(bins[0]["lower"]) + np.array(bins[0]["upper"])) / 2
        below.plot(middles[total > 0], total[total > 0] / total.sum(), **style)
    lines = [line for line in axes.get_lines() if line.get_label() != "perfect"]
    lowest = [min((float(np.min(values)) for values in ends if len(values)), default=0.0) for ends in (
        [line.get_xdata() for line in lines], [line.get_ydata() for line in lines]
    )]  # fmt: skip
    axes.set_xlim(max(0.0, lowest[0] - 0.05), 1.02)
    axes.set_ylim(max(0.0, min(lowest) - 0.05), 1.02)
    axes.set_ylabel("accuracy")
    axes.legend(loc="best")
    below.set_ylabel("share of rows")
    below.set_ylim(bottom=0)
    below.set_xlabel("confidence")
    return figure


def robustness(results: Mapping[str, Any]) -> Any:
    """Success of every attack over beta, mean and deviation over runs, beside the stock classifier's."""
    columns = [name for name in columns_of(results) if _any(results, name)]
    if not columns:
        return None
    figure = new_figure(min(2.4 * len(columns), 9.6), 2.6)
    all_axes = figure.subplots(1, len(columns))
    for axes, name in zip(np.atleast_1d(all_axes), columns, strict=True):
        distance = name == "CW"
        scale = 1 if distance else 100
        for objective in dict.fromkeys(run["objective"] for run in results["runs"] if run["beta"] > 0):
            every = {
                beta: [value_of(run, name) for run in found]
                for (kind, beta, weight), found in points(results["runs"]).items()
                if kind == objective and (weight == 1.0 or objective != "vub")
            }
            known = {beta: [v for v in values if v is not None] for beta, values in sorted(every.items())}
            own = {beta: values for beta, values in known.items() if values}
            if not own:
                continue
            means, spreads = zip(*(mean_std(values) for values in own.values()), strict=True)
            shift = 0.93 if objective == "vib" else 1.07
            axes.errorbar(
                [beta * shift for beta in own], np.array(means) * scale, np.array(spreads) * scale, capsize=2,
                color=COLOURS[objective], marker=MARKERS[objective], markersize=4, linewidth=1.2,
                label=objective.upper(),
            )  # fmt: skip
        stock = value_of(results["vanilla"], name)
        if stock is not None:
            axes.axhline(stock * scale, color="black", linewidth=1, linestyle="--", label="stock")
        axes.set_xscale("log")
        axes.set_xlabel("β")
        axes.set_title(name, loc="left")
        axes.set_ylabel("L2 of successes" if distance else "attack success (%)")
        axes.set_ylim(0 if distance else -3, None if distance else 103)
    np.atleast_1d(all_axes)[0].legend(loc="best")
    return figure


def _by_objective(results: Mapping[str, Any], attack: str) -> Any:
    """Figure 4 or 5: what the attack did to the best VIB and to the best VUB."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for picture in results["examples"]["images"]:
        if picture["attack"] == attack:
            panels.setdefault(picture["objective"].upper(), []).append(picture)
    return adversarial_images(panels) if panels else None


def _any(results: Mapping[str, Any], name: str) -> bool:
    return any(value_of(run, name) is not None for run in (results["vanilla"], *results["runs"]))
