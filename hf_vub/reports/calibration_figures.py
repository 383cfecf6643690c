"""Figures of calibration: reliability by classifier, risk against coverage, and the frontier of a suggestion."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runs.schema import BottleneckMap, CalibrationStudy, FrontierPoint, StudiedClassifier, SuggestionResult
from .plots import COLOURS, MARKERS, new_figure, style
from .tables import power

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = ("-", "--", ":", "-.")
_RIVALS = (
    *(("#000000", "*"), ("#009E73", "^"), ("#56B4E9", "v"), ("#CC79A7", "D"), ("#0072B2", "s"), ("#D55E00", "o")),
)
_FEWEST = 0.001  # share of the rows that a bin of a reliability diagram needs


def reliability_figure(study: CalibrationStudy) -> "Figure":
    """Plot accuracy over confidence, one panel per beta: VIB, VUB as trained, VUB through the link, the stock model.

    Bins with less than a thousandth of the rows are left out.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    betas = list(dict.fromkeys(each.beta for each in study.classifiers if each.beta is not None))
    with style():
        figure = new_figure(2.5 * len(betas) + 0.3, 3.1)
        panels = figure.subplots(1, len(betas), sharey=True, squeeze=False)[0]
        for axes, beta in zip(panels, betas, strict=True):
            axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
            for each in study.classifiers:
                if each.beta in (None, beta):
                    _reliability_lines(axes, each)
            axes.set_title(f"β = {power(beta)}", loc="left")
            axes.set_xlim(1 / study.num_labels - 0.02, 1.02)
            axes.set_ylim(-0.02, 1.02)
            axes.set_xlabel("confidence")
        panels[0].set_ylabel("accuracy")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def risk_coverage_figure(study: CalibrationStudy) -> "Figure":
    """Plot the error rate among answered rows over their share, for the stock model, VIB and VUB at every beta.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    betas = list(dict.fromkeys(each.beta for each in study.classifiers if each.beta is not None))
    with style():
        figure = new_figure(4.6, 3.0)
        axes = figure.subplots()
        for each in study.classifiers:
            line = "-" if each.beta is None else _STYLES[betas.index(each.beta) % len(_STYLES)]
            label = "stock model" if each.beta is None else f"{each.name.upper()}, β = {power(each.beta)}"
            axes.plot(
                each.curve.coverage,
                each.curve.risk,
                linestyle=line,
                color=COLOURS[each.name],
                linewidth=1.2,
                label=label,
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("share of rows answered, the most confident first")
        axes.set_ylabel("share of errors among them")
        axes.legend(loc="upper left")
    return figure


def frontier_figure(suggestion: SuggestionResult) -> "Figure":
    """Plot validation NLL and accuracy of every setting over its rate, and the setting that was chosen.

    Bars are standard errors of the NLL. Settings below the dashed line are within one of the best.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    groups: dict[tuple[str, float], list[FrontierPoint]] = {}
    for point in suggestion.frontier:
        groups.setdefault((point.objective, point.entropy_weight), []).append(point)
    with style():
        figure = new_figure(4.6, 4.6)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        upper.axhline(suggestion.limit, color="#666666", linewidth=0.8, linestyle="--")
        for (objective, weight), points in groups.items():
            _frontier_lines(upper, lower, objective, weight, points, suggestion.criterion)
        chosen = next(each for each in suggestion.frontier if _is_chosen(each, suggestion))
        shown: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "none"}
        upper.plot([chosen.rate.mean], [_nll(chosen, suggestion.criterion)], color="black", label="chosen", **shown)
        lower.plot([chosen.rate.mean], [chosen.accuracy.mean], color="black", **shown)
        lower.margins(y=0.25)
        lower.set_xscale("symlog", linthresh=0.1)
        lower.set_xlabel("mean rate (nats): less is more compression")
        lower.set_ylabel("accuracy")
        how = "through the link" if suggestion.criterion == "link" else "with temperature"
        upper.set_ylabel(f"validation NLL {how} (nats)")
        upper.legend(loc="best", labelspacing=0.8)
    return figure


def map_figure(maps: Sequence[BottleneckMap]) -> "Figure":
    """Plot accuracy and NLL of VUB and its rivals over the number of training rows, a column per kind of features.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    with style():
        figure = new_figure(2.9 * len(maps) + 0.4, 4.6)
        panels = figure.subplots(2, len(maps), sharex=True, squeeze=False)
        for column, each in enumerate(maps):
            names = [rival.name for rival in each.regimes[0].rivals]
            rows = [regime.rows for regime in each.regimes]
            for place, name in enumerate(names):
                found = [next(r for r in regime.rivals if r.name == name) for regime in each.regimes]
                colour, marker = _RIVALS[place % len(_RIVALS)]
                look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.1}
                panels[0][column].plot(rows, [one.accuracy.mean for one in found], label=name, **look)
                panels[1][column].plot(rows, [one.nll.mean for one in found], **look)
            panels[0][column].set_title(f"{each.dataset}: {each.features}", loc="left")
            panels[1][column].set_xscale("log")
            panels[1][column].set_xlabel("training rows")
        panels[0][0].set_ylabel("accuracy")
        panels[1][0].set_ylabel("NLL, calibrated (nats)")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _reliability_lines(axes: "Axes", classifier: StudiedClassifier) -> None:
    """Draw one line per kind of probabilities; filled marks are the reported ones, open ones those as trained."""
    for kind, bins in classifier.reliability.items():
        count = np.array(bins.count, dtype=float)
        shown = count >= max(_FEWEST * count.sum(), 1)
        confidence, accuracy = (np.array(values, dtype=float)[shown] for values in (bins.confidence, bins.accuracy))
        before = kind == "softmax" and "posterior" in classifier.reliability
        label = {"vanilla": "stock model", "vib": "VIB"}.get(
            classifier.name, "VUB as trained" if before else "VUB, link"
        )
        axes.plot(
            confidence, accuracy, color=COLOURS[classifier.name], marker=MARKERS[classifier.name], markersize=4,
            linewidth=1.2, linestyle="--" if before else "-", markerfacecolor="white" if before else None, label=label,
        )  # fmt: skip


def _frontier_lines(
    upper: "Axes", lower: "Axes", objective: str, weight: float, points: Sequence[FrontierPoint], criterion: str
) -> None:
    faint = objective == "vub" and weight < 1
    label = f"{objective.upper()}, w = {weight:g}" if objective == "vub" else objective.upper()
    rate = [each.rate.mean for each in points]
    look: dict[str, Any] = {
        "color": COLOURS[objective], "marker": MARKERS[objective], "markersize": 4, "linewidth": 1.0,
        "linestyle": "--" if faint else "-", "markerfacecolor": "white" if faint else COLOURS[objective],
    }  # fmt: skip
    by_link = criterion == "link"
    errors = [each.nll_standard_error if by_link else each.nll_calibrated_standard_error for each in points]
    nll = [_nll(each, criterion) for each in points]
    upper.errorbar(rate, nll, yerr=errors, label=label, elinewidth=0.7, capsize=2, **look)
    lower.plot(rate, [each.accuracy.mean for each in points], **look)


def _nll(point: FrontierPoint, criterion: str) -> float:
    return point.nll if criterion == "link" else point.nll_calibrated


def _is_chosen(point: FrontierPoint, suggestion: SuggestionResult) -> bool:
    return all(getattr(point, name) == getattr(suggestion, name) for name in ("objective", "beta", "entropy_weight"))
