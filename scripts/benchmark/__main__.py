"""Measure the speed of every stage as a ratio against a named alternative, and how costs grow.

    python scripts/benchmark
    python scripts/benchmark --stages heads,inference --repeats 9 --curves none
    python scripts/benchmark --model outputs/minilm-imdb --dataset data/imdb --output outputs/benchmark.json
    python scripts/benchmark --quick --output outputs/quick.json

The models are random ones of MiniLM's shape and the reviews are generated, unless --model and --dataset name others. A
ratio is the alternative's time over ours; the workloads take turns, and medians and quartiles are over the repeats. The
share of the limit is the time that the arithmetic or the memory traffic would take at the rates measured in the same
run, over our time. --output names the JSON; the plots of the curves go next to it. Run nothing else on the machine.
"""

import logging
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hf_vub.command_line import command, parse

if TYPE_CHECKING:
    from hf_vub.runs.schema import Benchmark, BenchmarkEntry

COLUMNS = ("stage", "unit", "alternative", "ours", "ratio", "target", "share of the limit")


@dataclass
class Arguments:
    """Options of the benchmark."""

    stages: str = field(
        default="all",
        metadata={
            "help": "all, none, or some of heads, embedding, text_attacks, grid_attack, carlini_wagner, fine_tuning, "
            "adversarial_training, certificates, inference, separated by commas."
        },
    )
    curves: str = field(
        default="all",
        metadata={"help": "all, none, or some of sweep_over_runs, sweep_over_rows, attack_over_length."},
    )
    repeats: int = field(default=5, metadata={"help": "Measurements of every workload, after one that is not counted."})
    quick: bool = field(default=False, metadata={"help": "Tiny sizes, to see that everything works."})
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a text classifier."})
    dataset: str | None = field(default=None, metadata={"help": "Texts: a name on the Hub, a file or a folder."})
    threads: int | None = field(default=None, metadata={"help": "Threads of the CPU; all by default."})
    output: str = field(default="model_cards/results/benchmark.json", metadata={"help": "The JSON to write."})


def chosen(option: str, wanted: str, names: Iterable[str]) -> list[str]:
    """Return the names that an option selects."""
    selected = {"all": list(names), "none": []}.get(wanted, wanted.split(","))
    if unknown := [name for name in selected if name not in names]:
        raise ValueError(f"{option} must be all, none or some of {', '.join(names)}, but holds {', '.join(unknown)}")
    return selected


def table_row(entry: "BenchmarkEntry") -> tuple[str, ...]:
    """Return the cells of one line of the table."""
    ratio = entry.ratio
    target = "-" if entry.target is None else f"{entry.target:.2f}× {'✓' if entry.reached else '✗'}"
    return (
        entry.name,
        entry.unit,
        *(f"{1e3 * entry.seconds[name].median:.3g}" for name in ("alternative", "ours")),
        f"{ratio.median:.2f}× ({ratio.lower:.2f} to {ratio.upper:.2f})",
        target,
        f"{entry.limit.share:.0%} of {entry.limit.bound}",
    )


def measure(arguments: Arguments) -> "Benchmark":
    """Measure stages and curves; print each entry and save the JSON after it, so that a stopped run keeps its part."""
    import growth
    import stages
    from hf_vub.runs.provenance import provenance
    from hf_vub.runs.schema import Benchmark
    from measuring import Bench, machine

    began = time.perf_counter()
    stage_names = chosen("stages", arguments.stages, stages.STAGES)
    curve_names = chosen("curves", arguments.curves, growth.CURVES)
    bench = Bench(arguments.repeats, arguments.quick, arguments.model, arguments.dataset)
    result = Benchmark(
        **provenance(),
        machine=machine(bench),
        model=arguments.model,
        dataset=arguments.dataset,
        quick=arguments.quick,
        entries=(),
        skipped={},
        curves={},
        limits=bench.limits(),
    )
    for name in stage_names:
        try:
            for entry in stages.STAGES[name](bench):
                result = replace(result, entries=(*result.entries, entry), limits=bench.limits())
                result.save(arguments.output)
                print(" | ".join(table_row(entry)))
        except ImportError as error:
            result = replace(result, skipped={**result.skipped, name: str(error)})
            print(f"{name} not measured: {error}")
    for name in curve_names:
        result = replace(result, curves={**result.curves, name: growth.CURVES[name](bench)})
        result.save(arguments.output)
    return replace(result, limits=bench.limits(), seconds=time.perf_counter() - began)


@command
def main() -> None:
    """Measure, write the JSON and the plots, and print the table."""
    (arguments,) = parse(Arguments)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import torch
    from datasets import disable_progress_bars
    from rich.console import Console
    from rich.table import Table

    import growth
    from hf_vub.reports import plots

    disable_progress_bars()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    result = measure(arguments)
    path = result.save(arguments.output)
    table = Table(*COLUMNS, title=f"Milliseconds per unit, median of {arguments.repeats}; ratios with quartiles")
    for entry in result.entries:
        table.add_row(*table_row(entry))
    Console().print(table)
    for name, curve in result.curves.items():
        plots.save(growth.draw(curve), path.with_name(f"{path.stem}-{name.replace('_', '-')}"))
    print(f"written: {path} and {len(result.curves)} plots")


if __name__ == "__main__":
    main()
