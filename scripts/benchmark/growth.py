"""How costs grow: of a sweep with its runs and rows, of an attack with the length of the text."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_vub.reports import plots
from hf_vub.sweep.heads import HeadRun, train_heads
from measuring import Bench, Way, spread
from stages import attack_texts, random_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sweep_over_runs(bench: Bench) -> dict[str, Any]:
    """How the time of a sweep grows with its runs; every point does the same work, few runs go through more epochs."""
    rows = bench.size(2048, 64)
    features, labels = random_table(rows, bench.size(384, 16), 2, bench.device)
    counts = [1, 2, 4, 8, 15, 30, 60, 120][: bench.size(8, 2)]

    def way(count: int) -> Way:
        def sweep() -> float:
            runs = [HeadRun(seed=seed) for seed in range(count)]
            epochs = counts[-1] // count
            train_heads(features, labels, runs, num_labels=2, epochs=epochs, device=bench.device)
            return epochs * rows / 25_000

        return sweep

    times = bench.in_turns({str(count): way(count) for count in counts})
    y_label = f"seconds per epoch, 25,000 × {features.shape[1]} features"
    return _curve("runs", counts, y_label, {"sweep": [spread(times[str(count)]) for count in counts]})


def sweep_over_rows(bench: Bench) -> dict[str, Any]:
    """How the time of a step grows with the rows of a memory-mapped table: it should not.

    Here too, every point does about the same work, so long that it needs no repeats.
    """
    size = bench.size(384, 8)
    counts = [64, 128] if bench.quick else [25_000, 100_000, 400_000, 1_280_000]
    runs = [HeadRun(seed=seed) for seed in range(min(2, bench.lanes))]
    block = np.random.default_rng(0).standard_normal((counts[0], size), dtype=np.float32)

    def measured(rows: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            table = np.memmap(Path(folder) / "features", np.float32, "w+", shape=(rows, size))
            for first in range(0, rows, len(block)):
                table[first : first + len(block)] = block[: rows - first]
            table.flush()

            def sweep() -> float:
                epochs = counts[-1] // rows
                train_heads(table, torch.arange(rows) % 2, runs, num_labels=2, epochs=epochs, device=bench.device)
                return epochs * -(-rows // 16) * len(runs) / 1e6

            return bench.seconds(sweep)

    times = [spread([measured(rows)]) for rows in counts]
    return _curve("rows of features, memory-mapped", counts, "microseconds per step and run", {"sweep": times})


def attack_over_length(bench: Bench) -> dict[str, Any]:
    """How the time of an attack grows with the text."""
    counts = [16, 32, 64, 128, 256, 400][: bench.size(6, 2)]
    attack_texts(bench.victim, *bench.victim.of_length(counts[0], 1), 2, "float32")  # imports that are not to be timed

    def way(words: int, dtype: str) -> Way:
        texts, labels = bench.victim.of_length(words, 2)
        return lambda: float(attack_texts(bench.victim, texts, labels, bench.size(10_000, 6), dtype)["num_attacked"])

    times = {
        dtype: [spread([bench.seconds(way(words, dtype))]) for words in counts] for dtype in ("float32", "bfloat16")
    }
    return _curve("words in the text", counts, "seconds per text (DeepWordBug)", times)


CURVES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "sweep_over_runs": sweep_over_runs,
    "sweep_over_rows": sweep_over_rows,
    "attack_over_length": attack_over_length,
}


def _curve(x_label: str, x: Sequence[int], y_label: str, series: dict[str, list[Any]]) -> dict[str, Any]:
    return {"x_label": x_label, "x": list(x), "y_label": y_label, "series": series}


def draw(curve: dict[str, Any]) -> "Figure":
    """Draw how a cost grows: median and quartiles of every series of a curve, on logarithmic axes."""
    with plots.style():
        figure = plots.new_figure(4.2, 3.1)
        axes = figure.subplots()
        styles = [(plots.COLOURS[name], plots.MARKERS[name]) for name in ("vib", "vub", "ce", "vanilla")]
        for (name, measured), (colour, marker) in zip(curve["series"].items(), styles, strict=False):
            lower, middle, upper = ([point[key] for point in measured] for key in ("lower", "median", "upper"))
            axes.fill_between(curve["x"], lower, upper, color=colour, alpha=0.2, linewidth=0)
            axes.plot(curve["x"], middle, color=colour, marker=marker, markersize=5, linewidth=1.2, label=name)
        axes.set_xscale("log")
        axes.set_xticks(curve["x"], [f"{value:,}" for value in curve["x"]])
        axes.set_xticks([], minor=True)
        _logarithmic_costs(axes)
        axes.set_xlabel(curve["x_label"])
        axes.set_ylabel(curve["y_label"])
        if len(curve["series"]) > 1:
            axes.legend(loc="best")
    return figure


def _logarithmic_costs(axes: "Axes") -> None:
    """Set a logarithmic axis of costs that spans at least a factor of 4, so that a flat curve looks flat."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    lowest, highest = axes.get_ylim()
    if highest < 4 * lowest:
        axes.set_ylim(lowest / 2, highest * 2)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
