"""Figures drawn from result JSON: Figures 1, 3, 4 and 5 of the paper and a calibration diagram.

Colours are those of Okabe and Ito, which the colour-blind can tell apart, except for the five groups of Figure 3, whose
colours are the paper's: there every group has its own marker. Sizes fit a column of print.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .claims import columns_of, mean_std, points, value_of
from .results import replacing
from .tables import budget_name, power

COLOURS = {"vanilla": "#000000", "ce": "#009E73", "vib": "#0072B2", "vub": "#D55E00"}
MARKERS = {"vanilla": "*", "ce": "^", "vib": "s", "vub": "o"}
GROUPS = (("orange", "o"), ("gray", "s"), ("gold", "^"), ("green", "D"), ("red", "v"))
"""The paper's five groups of epochs in Figure 3, in order."""

_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "hf_vub",
    "pdf.fonttype": 42,
}


def figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure that the results have the figures for, as matplotlib figures by file name.

    Raises:
        ImportError: with the command to install matplotlib.
    """
    with _style():
        found = {
            "figure1-information-curve": information_curve(results),
            "figure3-information-plane": information_plane(results),
            "figure4-cw": _by_objective(results, "cw"),
            "figure5-fgs": _by_objective(results, "fgs"),
            "calibration": calibration(results),
            "robustness": robustness(results),
        }
    return {name: drawn for name, drawn in found.items() if drawn is not None}


def save(drawn: Any, path: Path) -> list[Path]:
    """Write a figure as PNG and PDF beside each other, each whole or not at all, and name the two files."""
    written = []
    with _style():
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            written.append(path.with_name(f"{path.name}.{kind}"))
            with replacing(written[-1]) as temporary:
                drawn.savefig(temporary, format=kind, dpi=200, metadata=metadata)
    return written


def information_curve(results: Mapping[str, Any]) -> Any:
    """Figure 1, measured: a bound on I(Z;Y), H(Y) - CE, over the rate, a bound on I(Z;X), on the test set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    entropy = results["data"]["label_entropy"]
    drawn, axes = _figure(4.2, 3.1)
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
    return drawn


def information_plane(results: Mapping[str, Any]) -> Any:
    """Figure 3: 1 / CE over H(R) - H(Z|X) per epoch, VUB at the smallest beta, in five groups of epochs."""
    own = [curve for curve in results["curves"] if curve["objective"] == "vub"] or results["curves"]
    if not own:
        return None
    curve = min(own, key=lambda curve: (curve["beta"], curve["entropy_weight"] != 1.0))
    x, y = np.array(curve["information"]), np.array(curve["inverse_cross_entropy"])
    drawn, axes = _figure(4.2, 3.1)
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
    return drawn


def trajectories(planes: Mapping[str, list[dict[str, Any]]]) -> Any:
    """The information plane of some trainings, a panel each: lines of ``information_plane.jsonl`` by a title.

    1 / CE over H(R) - H(Z|X), both measured on the training pass (circles) and held out (triangles); a darker point is
    a later epoch.

    Raises:
        ValueError: when no training has an epoch to show.
    """
    planes = {title: lines for title, lines in planes.items() if lines}
    if not planes:
        raise ValueError("planes holds no epochs; train with information_plane=True")
    columns = min(2, len(planes))
    rows = -(-len(planes) // columns)
    with _style():
        import matplotlib

        drawn, panels = _figure(3.2 * columns, 2.5 * rows + 0.4, rows, columns, squeeze=False)
        for axes, (title, lines) in zip(panels.flat, planes.items(), strict=False):
            held_out = [line["held_out"] for line in lines if line["held_out"]]
            for points_, marker, label in ((lines, "o", "training"), (held_out, "^", "held out")):
                if points_:
                    x, y = ([point[name] for point in points_] for name in ("information_x", "information_y"))
                    axes.plot(x, y, color="#bbbbbb", linewidth=0.6, zorder=1)
                    shades = np.linspace(0.35, 1.0, len(x))
                    colour = matplotlib.colormaps["viridis_r"](shades)
                    axes.scatter(x, y, s=22, c=colour, marker=marker, edgecolors="black", linewidths=0.3, label=label)
            axes.set_title(title, loc="left")
            axes.legend(loc="best")
        for axes in list(panels.flat)[len(planes) :]:
            axes.set_visible(False)
        drawn.supxlabel("H(R) − H(Z|X): estimate of I(Z;X) (nats); darker is later", fontsize=8)
        drawn.supylabel("1 / CE: stand-in for I(Z;Y) (1/nats)", fontsize=8)
    return drawn


def growth(curve: Mapping[str, Any]) -> Any:
    """How a cost grows: median and quartiles of every series of a benchmark's curve, on logarithmic axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with _style():
        drawn, axes = _figure(4.2, 3.1)
        styles = [(COLOURS[name], MARKERS[name]) for name in ("vib", "vub", "ce", "vanilla")]
        for (name, measured), (colour, marker) in zip(curve["series"].items(), styles, strict=False):
            lower, middle, upper = ([point[key] for point in measured] for key in ("lower", "median", "upper"))
            axes.fill_between(curve["x"], lower, upper, color=colour, alpha=0.2, linewidth=0)
            axes.plot(curve["x"], middle, color=colour, marker=marker, markersize=5, linewidth=1.2, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(curve["x"], [f"{value:,}" for value in curve["x"]])
        axes.set_xticks([], minor=True)
        lowest, highest = axes.get_ylim()
        if highest < 4 * lowest:  # what hardly grows is to look like it
            axes.set_ylim(lowest / 2, highest * 2)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(curve["x_label"])
        axes.set_ylabel(curve["y_label"])
        if len(curve["series"]) > 1:
            axes.legend(loc="best")
    return drawn


def calibration(results: Mapping[str, Any]) -> Any:
    """Accuracy over confidence for the stock classifier and the chosen VIB and VUB, and how often each is confident."""
    series = [("vanilla", [results["vanilla"]])]
    for objective, best in results["chosen"]["validation"].items():
        series.append((objective, points(results["runs"])[objective, best["beta"], best["entropy_weight"]]))
    drawn, (axes, below) = _figure(3.6, 4.2, rows=2, height_ratios=[3, 1], sharex=True)
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
    return drawn


def robustness(results: Mapping[str, Any]) -> Any:
    """Success of every attack over beta, mean and deviation over runs, beside the stock classifier's."""
    columns = [name for name in columns_of(results) if _any(results, name)]
    if not columns:
        return None
    drawn, all_axes = _figure(min(2.4 * len(columns), 9.6), 2.6, columns=len(columns))
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
    return drawn


def adversarial_images(panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Images before and after an attack, as in Figures 4 and 5: examples side by side, and panels of them by a title.

    Below the originals stand, for each budget, the perturbations, magnified around mid-grey, and the adversarial
    images; above each image is the class that it is taken for, above each perturbation what it was multiplied by.

    Args:
        panels: rows of ``hf_vub.attack_examples.image_examples`` by a title; all with the same budgets.

    Raises:
        ImportError: with the command to install matplotlib.
    """
    budgets = list(dict.fromkeys(picture["epsilon"] for pictures in panels.values() for picture in pictures))
    width = max(len({picture["index"] for picture in pictures}) for pictures in panels.values())
    rows = 1 + 2 * len(budgets)
    with _style():
        drawn = _empty_figure((0.95 * width + 0.75) * len(panels), 1.15 * rows + 0.3)
        parts = np.atleast_1d(drawn.subfigures(1, len(panels)))
        for part, (title, pictures) in zip(parts, panels.items(), strict=True):
            part.suptitle(_short(title, 80), fontsize=9, fontweight="bold")
            grid = np.reshape(part.subplots(rows, width), (rows, width))
            for axes in grid.flat:
                axes.set_axis_off()
            found = [picture for picture in pictures if picture["epsilon"] == budgets[0]]
            _draw_row(grid[0], "original", found, "original", [_short(picture["label"]) for picture in found])
            for place, epsilon in enumerate(budgets):
                found = [picture for picture in pictures if picture["epsilon"] == epsilon]
                factors = [f"× {picture['magnification']:g}" for picture in found]
                _draw_row(grid[2 * place + 1], "perturbation,\nmagnified", found, "perturbation", factors)
                title = "adversarial" + ("" if epsilon is None else f"\nε = {budget_name(epsilon)}")
                _draw_row(grid[2 * place + 2], title, found, "adversarial", list(map(_taken_for, found)))
    return drawn


def _by_objective(results: Mapping[str, Any], attack: str) -> Any:
    """Figure 4 or 5: what the attack did to the best VIB and to the best VUB."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for picture in results["examples"]["images"]:
        if picture["attack"] == attack:
            panels.setdefault(picture["objective"].upper(), []).append(picture)
    return adversarial_images(panels) if panels else None


def _draw_row(row: Any, title: str, found: Sequence[Mapping[str, Any]], kind: str, labels: Sequence[str]) -> None:
    """Images of one kind side by side, each under its label, with a title at the left."""
    place = {"xycoords": "axes fraction", "xytext": (-6, 0), "textcoords": "offset points", "ha": "right"}
    row[0].annotate(title, (0, 0.5), va="center", fontsize=7, **place)
    for axes, picture, label in zip(row, found, labels, strict=False):
        axes.imshow(_pixels(picture[kind]), interpolation="nearest")
        axes.set_title(label, fontsize=6, pad=2)


def _taken_for(picture: Mapping[str, Any]) -> str:
    held = "" if picture["success"] else " (held)"
    distance = f"\nL2 {picture['l2']:.2f}" if picture["epsilon"] is None else ""
    return _short(picture["prediction"]) + held + distance


def _style() -> Any:
    """The context in which every figure is drawn."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "hf_vub[report]"') from error
    return matplotlib.rc_context(_STYLE)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure that belongs to no window system and is not kept anywhere."""
    drawn = _empty_figure(width, height)
    return drawn, drawn.subplots(rows, columns, **options)


def _empty_figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _any(results: Mapping[str, Any], name: str) -> bool:
    return any(value_of(run, name) is not None for run in (results["vanilla"], *results["runs"]))


def _pixels(png: str) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return np.asarray(image.convert("RGB"))


def _short(name: str, most: int = 20) -> str:
    """The first of several synonyms, cut where it is long; a dollar sign starts no formula."""
    first = " ".join(name.split(",")[0].split())
    return (first if len(first) <= most else first[: most - 1] + "…").replace("$", r"\$")
