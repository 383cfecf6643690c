"""Measure every stage as a ratio against a named alternative, in turns, in one run, and how costs grow.

    python scripts/benchmark.py
    python scripts/benchmark.py --stages heads,inference --repeats 9 --curves none
    python scripts/benchmark.py --model runs/minilm-imdb --dataset imdb/ --output runs/benchmark.json
    python scripts/benchmark.py --quick --output /tmp/quick.json

Nothing is needed that is not in the repository or on the package registry: the models are random ones of MiniLM's shape
and the reviews are generated unless --model and --dataset name others. A ratio is the alternative's time over ours;
medians and quartiles are over the repeats. The share of the limit is the time that the stage's arithmetic or memory
traffic would take at the rates measured in the same run, over its own time. The JSON goes to --output, the pictures of
the curves beside it. Let nothing else run on the machine meanwhile.
"""

import logging
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

from hf_vub.command_line import command, parse


@dataclass
class Arguments:
    """What to measure."""

    stages: str = field(
        default="all",
        metadata={
            "help": "all, none, or some of heads, embedding, text_attacks, grid_attack, carlini_wagner, fine_tuning, "
            "inference, with commas."
        },
    )
    curves: str = field(
        default="all",
        metadata={"help": "all, none, or some of sweep_over_runs, sweep_over_rows, attack_over_length, with commas."},
    )
    repeats: int = field(default=5, metadata={"help": "Measurements of every way, after one that is not counted."})
    quick: bool = field(default=False, metadata={"help": "Tiny sizes, to see that everything works."})
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a text classifier."})
    dataset: str | None = field(default=None, metadata={"help": "Texts: a name on the Hub, a file or a folder."})
    threads: int | None = field(default=None, metadata={"help": "Threads of the CPU; all by default."})
    output: str = field(default="model_cards/results/benchmark.json", metadata={"help": "Where the JSON goes."})


def chosen(option: str, wanted: str, known: dict[str, Any]) -> list[str]:
    """The names that an option asks for."""
    names = {"all": list(known), "none": []}.get(wanted, wanted.split(","))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{option} must be all, none or some of {', '.join(known)}, but holds {', '.join(unknown)}")
    return names


def row(entry: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    seconds, ratio, limit = entry["seconds"], entry["ratio"], entry["limit"]
    target = "-" if entry["target"] is None else f"{entry['target']:.2f}× {'✓' if entry['reached'] else '✗'}"
    return (
        entry["name"],
        entry["unit"],
        *(f"{1e3 * seconds[way]['median']:.3g}" for way in ("alternative", "ours")),
        f"{ratio['median']:.2f}× ({ratio['lower']:.2f}–{ratio['upper']:.2f})",
        target,
        f"{limit['share']:.0%} of {limit['bound']}",
    )


@command
def main() -> None:
    """Measure, print the table, write the JSON and the pictures."""
    (arguments,) = parse(Arguments)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import torch
    from datasets import disable_progress_bars
    from rich.console import Console
    from rich.table import Table

    import growth
    import stages as benchmarks
    from hf_vub.reports import plots
    from hf_vub.runs.files import write_json
    from hf_vub.runs.provenance import provenance
    from measuring import Bench, machine

    disable_progress_bars()
    stages = chosen("stages", arguments.stages, benchmarks.STAGES)
    curves = chosen("curves", arguments.curves, growth.CURVES)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.repeats, arguments.quick, arguments.model, arguments.dataset)
    console, began = Console(), time.perf_counter()
    result: dict[str, Any] = {**provenance(), "kind": "benchmark", "machine": machine(bench)}
    result |= {
        "model": arguments.model,
        "dataset": arguments.dataset,
        "quick": arguments.quick,
        "entries": [],
        "skipped": {},
    }
    table = Table(title=f"Milliseconds per unit, medians of {arguments.repeats}; ratios with quartiles")
    for name in ("stage", "unit", "alternative", "ours", "ratio", "to reach", "share of the limit"):
        table.add_column(name)
    for stage in stages:
        try:
            for entry in benchmarks.STAGES[stage](bench):
                result["entries"].append({"stage": stage, **entry})
                write_json(arguments.output, {**result, "limits": bench.limits()})  # what is there if it is stopped
                table.add_row(*row(entry))
                console.print(" | ".join(row(entry)))
        except ImportError as error:
            result["skipped"][stage] = str(error)
            console.print(f"{stage} not measured: {error}")
    result["curves"] = {}
    for name in curves:
        result["curves"][name] = growth.CURVES[name](bench)
        write_json(arguments.output, {**result, "limits": bench.limits()})
    result |= {"limits": bench.limits(), "seconds": time.perf_counter() - began}
    console.print(table)
    output = write_json(arguments.output, result)
    for name, curve in result["curves"].items():
        plots.save(growth.draw(curve), output.with_name(f"{output.stem}-{name.replace('_', '-')}"))
    console.print(f"figures and numbers: {output} and {len(curves)} pictures beside it")


if __name__ == "__main__":
    main()
