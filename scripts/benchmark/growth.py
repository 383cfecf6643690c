"""Measure how costs grow: of a sweep with its runs and rows, of an attack with the length of the text."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_vub.reports import plots
from hf_vub.runs.schema import Curve
from hf_vub.sweep import HeadRun, train_heads
from measuring import Bench, Workload, spread
from stages import attack_texts, random_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sweep_over_runs(bench: Bench) -> Curve:
    """Measure a sweep with more and more runs; every point does the same epochs in total, divided among its runs."""
    rows = bench.size(2048, 64)
    features, labels = random_table(rows, bench.size(384, 16), 2, bench.device)
    counts = [1, 2, 4, 8, 15, 30, 60, 120][: bench.size(8, 2)]

    def workload(count: int) -> Workload:
        def sweep() -> float:
            runs = [HeadRun(seed=seed) for seed in range(count)]
            epochs = counts[-1] // count
            train_heads(features, labels, runs, num_labels=2, epochs=epochs, device=bench.device)
            return epochs * rows / 25_000

        return sweep

    times = bench.in_turns({str(count): workload(count) for count in counts})
    return Curve(
        x_label="runs",
        x=tuple(counts),
        y_label=f"seconds per epoch, 25,000 × {features.shape[1]} features",
        series={"sweep": tuple(spread(times[str(count)]) for count in counts)},
    )


def sweep_over_rows(bench: Bench) -> Curve:
    """Measure a step of a sweep with more and more rows in a memory-mapped table: its time should not grow.

    Every point does about the same work, so long that it needs no repeats.
    """
    size = bench.size(384, 8)
    counts = [64, 128] if bench.quick else [25_000, 100_000, 400_000, 1_280_000]
    runs = [HeadRun(seed=seed) for seed in range(min(2, bench.parallel_runs))]
    block = np.random.default_rng(0).standard_normal((counts[0], size), dtype=np.float32)

    def seconds(rows: int) -> float:
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

    return Curve(
        x_label="rows of features, memory-mapped",
        x=tuple(counts),
        y_label="microseconds per step and run",
        series={"sweep": tuple(spread([seconds(rows)]) for rows in counts)},
    )


def attack_over_length(bench: Bench) -> Curve:
    """Measure an attack on longer and longer texts."""
    counts = [16, 32, 64, 128, 256, 400][: bench.size(6, 2)]
    attack_texts(bench.victim, *bench.victim.of_length(counts[0], 1), 2, "float32")  # imports, which are not timed

    def workload(words: int, dtype: str) -> Workload:
        texts, labels = bench.victim.of_length(words, 2)
        return lambda: float(attack_texts(bench.victim, texts, labels, bench.size(10_000, 6), dtype).num_attacked)

    return Curve(
        x_label="words in the text",
        x=tuple(counts),
        y_label="seconds per text (DeepWordBug)",
        series={
            dtype: tuple(spread([bench.seconds(workload(words, dtype))]) for words in counts)
            for dtype in ("float32", "bfloat16")
        },
    )


CURVES: dict[str, Callable[[Bench], Curve]] = {
    "sweep_over_runs": sweep_over_runs,
    "sweep_over_rows": sweep_over_rows,
    "attack_over_length": attack_over_length,
}


def draw(curve: Curve) -> "Figure":
    """Draw median and quartiles of every series of a curve, on logarithmic axes."""
    with plots.style():
        figure = plots.new_figure(4.2, 3.1)
        axes = figure.subplots()
        styles = [(plots.COLOURS[name], plots.MARKERS[name]) for name in ("vib", "vub", "ce", "vanilla")]
        for (name, points), (color, marker) in zip(curve.series.items(), styles, strict=False):
            lower, upper = [point.lower for point in points], [point.upper for point in points]
            middle = [point.median for point in points]
            axes.fill_between(curve.x, lower, upper, color=color, alpha=0.2, linewidth=0)
            axes.plot(curve.x, middle, color=color, marker=marker, markersize=5, linewidth=1.2, label=name)
        axes.set_xscale("log")
        axes.set_xticks(curve.x, [f"{value:,}" for value in curve.x])
        axes.set_xticks([], minor=True)
        _logarithmic_costs(axes)
        axes.set_xlabel(curve.x_label)
        axes.set_ylabel(curve.y_label)
        if len(curve.series) > 1:
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
