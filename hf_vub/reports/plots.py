"""Plots: one style, and the plots that any result can have."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runs.files import replacing
from .tables import budget_name

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


def save(drawn: Any, path: Path) -> list[Path]:
    """Write a figure as PNG and PDF beside each other, each whole or not at all, and name the two files."""
    written = []
    with _style():
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            written.append(path.with_name(f"{path.name}.{kind}"))
            with replacing(written[-1]) as temporary:
                drawn.savefig(temporary, format=kind, dpi=200, metadata=metadata)
    return written


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


def adversarial_images(panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Images before and after an attack, as in Figures 4 and 5: examples side by side, and panels of them by a title.

    Below the originals stand, for each budget, the perturbations, magnified around mid-grey, and the adversarial
    images; above each image is the class that it is taken for, above each perturbation what it was multiplied by.

    Args:
        panels: rows of ``hf_vub.reports.examples.image_examples`` by a title; all with the same budgets.

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


def _pixels(png: str) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return np.asarray(image.convert("RGB"))


def _short(name: str, most: int = 20) -> str:
    """The first of several synonyms, cut where it is long; a dollar sign starts no formula."""
    first = " ".join(name.split(",")[0].split())
    return (first if len(first) <= most else first[: most - 1] + "…").replace("$", r"\$")
