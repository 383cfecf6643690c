"""The style of every plot, and the plots that serve more than one report.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. Sizes fit a column of print.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..runs.files import replacing
from ..runs.schema import CalibrationMeasurement, ImageExample
from .tables import budget_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"vanilla": "#000000", "ce": "#009E73", "vib": "#0072B2", "vub": "#D55E00"}
MARKERS = {"vanilla": "*", "ce": "^", "vib": "s", "vub": "o"}

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


def save(figure: "Figure", path: Path) -> list[Path]:
    """Write a figure as ``path.png`` and ``path.pdf``, each atomically, and return the two paths."""
    written = []
    with style():
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            written.append(path.with_name(f"{path.name}.{kind}"))
            with replacing(written[-1]) as temporary:
                figure.savefig(temporary, format=kind, dpi=200, metadata=metadata)
    return written


def trajectories(planes: Mapping[str, list[dict[str, Any]]]) -> "Figure":
    """Plot the information plane of several trainings, one panel each.

    The axes are 1 / CE over H(R) - H(Z|X), measured on the training pass (circles) and on held-out rows (triangles).
    A darker point is a later epoch.

    Args:
        planes: lines of ``information_plane.jsonl``, by the title of their panel.

    Raises:
        ValueError: no training has an epoch to show.
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    planes = {title: lines for title, lines in planes.items() if lines}
    if not planes:
        raise ValueError("planes holds no epochs; train with information_plane=True")
    columns = min(2, len(planes))
    rows = -(-len(planes) // columns)
    with style():
        import matplotlib

        figure = new_figure(3.2 * columns, 2.5 * rows + 0.4)
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes, (title, lines) in zip(panels.flat, planes.items(), strict=False):
            held_out = [line["held_out"] for line in lines if line["held_out"]]
            for points, marker, label in ((lines, "o", "training"), (held_out, "^", "held out")):
                if points:
                    x, y = ([point[name] for point in points] for name in ("information_x", "information_y"))
                    axes.plot(x, y, color="#bbbbbb", linewidth=0.6, zorder=1)
                    shades = np.linspace(0.35, 1.0, len(x))
                    colour = matplotlib.colormaps["viridis_r"](shades)
                    axes.scatter(x, y, s=22, c=colour, marker=marker, edgecolors="black", linewidths=0.3, label=label)
            axes.set_title(title, loc="left")
            axes.legend(loc="best")
        for axes in list(panels.flat)[len(planes) :]:
            axes.set_visible(False)
        figure.supxlabel("H(R) − H(Z|X): estimate of I(Z;X) (nats); darker is later", fontsize=8)
        figure.supylabel("1 / CE: stand-in for I(Z;Y) (1/nats)", fontsize=8)
    return figure


def adversarial_images(panels: Mapping[str, Sequence[ImageExample]]) -> "Figure":
    """Plot images before and after an attack, as in the paper's Figures 4 and 5.

    The first row shows the originals. Two rows follow for each budget: the perturbations, magnified around mid-grey,
    and the adversarial images. The label above an image is the predicted class, above a perturbation its
    magnification.

    Args:
        panels: examples from ``hf_vub.reports.examples.image_examples``, by the title of their panel. All panels need
            the same budgets.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    budgets = list(dict.fromkeys(picture.epsilon for pictures in panels.values() for picture in pictures))
    width = max(len({picture.index for picture in pictures}) for pictures in panels.values())
    rows = 1 + 2 * len(budgets)
    with style():
        figure = new_figure((0.95 * width + 0.75) * len(panels), 1.15 * rows + 0.3)
        parts = figure.subfigures(1, len(panels), squeeze=False)[0]
        for part, (title, pictures) in zip(parts, panels.items(), strict=True):
            part.suptitle(_short(title, 80), fontsize=9, fontweight="bold")
            grid = np.reshape(part.subplots(rows, width), (rows, width))
            for axes in grid.flat:
                axes.set_axis_off()
            found = [picture for picture in pictures if picture.epsilon == budgets[0]]
            _draw_row(grid[0], "original", found, "original", [_short(picture.label) for picture in found])
            for place, epsilon in enumerate(budgets):
                found = [picture for picture in pictures if picture.epsilon == epsilon]
                factors = [f"× {picture.magnification:g}" for picture in found]
                _draw_row(grid[2 * place + 1], "perturbation,\nmagnified", found, "perturbation", factors)
                title = "adversarial" + ("" if epsilon is None else f"\nε = {budget_name(epsilon)}")
                _draw_row(grid[2 * place + 2], title, found, "adversarial", list(map(_prediction_label, found)))
    return figure


def reliability_diagram(measurement: CalibrationMeasurement) -> "Figure":
    """Plot accuracy over confidence before and after a calibration, and how confidence is spread.

    Bins with less than a thousandth of the rows are left out above and stay below.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    with style():
        figure = new_figure(3.6, 4.2)
        axes, below = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="perfect")
        for name, metrics, colour, marker in (
            ("before", measurement.before, "#E69F00", "s"),
            ("after", measurement.after, "#0072B2", "o"),
        ):
            bins, line = metrics.reliability, {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.2}
            count = np.array(bins.count, dtype=float)
            shown = count >= max(0.001 * count.sum(), 1)
            confidence, accuracy = (np.array(each, dtype=float)[shown] for each in (bins.confidence, bins.accuracy))
            axes.plot(confidence, accuracy, label=f"{name} (ECE {metrics.ece.value:.3f})", **line)
            middles = (np.array(bins.lower) + np.array(bins.upper)) / 2
            below.plot(middles[count > 0], count[count > 0] / count.sum(), **line)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel("accuracy")
        axes.legend(loc="best")
        below.set_ylim(bottom=0)
        below.set_ylabel("share of rows")
        below.set_xlabel("confidence")
    return figure


def _draw_row(
    row: "NDArray[np.object_]", title: str, found: Sequence[ImageExample], kind: str, labels: Sequence[str]
) -> None:
    """Draw images of one kind side by side, each under its label, with a title at the left."""
    first: Axes = row[0]
    first.annotate(
        title, (0, 0.5), xycoords="axes fraction", xytext=(-6, 0), textcoords="offset points", ha="right", va="center",
        fontsize=7,
    )  # fmt: skip
    for axes, picture, label in zip(row, found, labels, strict=False):
        axes.imshow(_pixels(getattr(picture, kind)), interpolation="nearest")
        axes.set_title(label, fontsize=6, pad=2)


def _prediction_label(picture: ImageExample) -> str:
    resisted = "" if picture.success else " (resisted)"
    distance = f"\nL2 {picture.l2:.2f}" if picture.epsilon is None and picture.l2 is not None else ""
    return _short(picture.prediction) + resisted + distance


def style() -> AbstractContextManager[None]:
    """Return the context in which every plot is figure.

    Raises:
        ImportError: matplotlib is missing; the message has the command that installs it.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "hf_vub[report]"') from error
    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of the given inches that belongs to no window system."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _pixels(png: str) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return np.asarray(image.convert("RGB"))


def _short(name: str, most: int = 20) -> str:
    """Return the first of several synonyms, shortened; dollar signs are escaped so that none starts a formula."""
    first = " ".join(name.split(",")[0].split())
    return (first if len(first) <= most else first[: most - 1] + "…").replace("$", r"\$")
