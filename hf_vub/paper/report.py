"""Everything rendered from results alone: tables, plots, one HTML report and model cards.

```python
from hf_vub.paper import write_report
from hf_vub.runs.schema import read_result

write_report(read_result("runs/imdb/results.json"), "runs/imdb")
```
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..reports import plots
from ..reports.examples import marked_texts, marked_texts_markdown
from ..reports.model_cards import model_card
from ..reports.rendering import environment
from ..reports.tables import Table
from ..runs.files import write_text
from ..runs.schema import AttackSummary, Metrics, Reproduction, TrainResult
from . import figures
from .claims import HOLDS, UNTESTED
from .comparison import caveats
from .grid import Measured, chosen_runs
from .tables import BASELINES, tables

_CURVE = "the information curve over beta on the test rows. Small marks are runs, large ones their means."
_CAPTIONS = {
    "information-curve": f"T{_CURVE[1:]}",
    "figure1-information-curve": f"Figure 1, measured: {_CURVE}",
    "figure3-information-plane": "Figure 3: the information plane, one mark per epoch, in the paper's five groups of "
    "epochs.",
    "figure4-cw": "Figure 4: targeted Carlini-Wagner attacks. Above each image its predicted class, above each "
    "perturbation its magnification.",
    "figure5-fgs": "Figure 5: untargeted fast gradient sign attacks by budget. Above each image its predicted class, "
    "above each perturbation its magnification.",
    "calibration": "Calibration on the test rows at the chosen settings, all runs together: accuracy over confidence, "
    "and the share of rows by confidence.",
    "robustness": "Success of each attack over beta, mean and standard deviation over runs; the dashed line is the "
    "classifier without a bottleneck.",
}


def _caption(name: str) -> str:
    """Return the caption of a plot."""
    images = "Images under {}. Above each image its predicted class, above each perturbation its magnification."
    return _CAPTIONS.get(name) or images.format(name.removeprefix("images-"))


def write_report(results: Reproduction, folder: str | Path) -> Path:
    """Write the tables, plots, model cards and ``report.html`` of a reproduction or a comparison.

    Args:
        results: from `hf_vub.paper.reproduce` or `hf_vub.paper.compare`, or read from the JSON that they saved.
        folder: gets ``report.html``, ``tables/*.md`` and ``*.tex``, ``figures/*.png`` and ``*.pdf``, and
            ``model_cards/*.md`` with their ``results/*.json``.

    Returns:
        The path of the HTML report, which needs no other file and no network.

    Raises:
        ValueError: the results are of another kind.
        ImportError: a package is missing; the message has the command that installs it.
    """
    if not isinstance(results, Reproduction):
        kind = results.get("kind") if isinstance(results, Mapping) else type(results).__name__
        raise ValueError(f"results are of kind {kind!r}; a report is made from a reproduction or a comparison")
    folder = Path(folder)
    drawn = figures.figures(results)
    for name, figure in drawn.items():
        plots.save(figure, folder / "figures" / name)
    made = tables(results)
    for table in made:
        write_text(folder / "tables" / f"{table.name}.md", table.markdown())
        write_text(folder / "tables" / f"{table.name}.tex", table.latex())
    if results.examples.texts:
        write_text(folder / "tables" / "table3.md", marked_texts_markdown(results.examples.texts))
    write_cards(results, folder / "model_cards")
    images = {name: (folder / "figures" / f"{name}.png").read_bytes() for name in drawn}
    return write_text(folder / "report.html", html(results, made, images))


def summary(results: Reproduction) -> list[str]:
    """Return the outcome in a few lines: the recommendation, or the verdicts on the claims that could be tested."""
    if results.kind == "comparison":
        return [str(results.recommendation), *caveats(results)]
    lines = []
    for row in results.claims:
        if row.verdict != UNTESTED:
            p_value = "" if row.p_value is None else f", p = {row.p_value:.2g}"
            lines.append(f"{row.verdict}: {row.claim} ({row.ours}{p_value})")
    untested = len(results.claims) - len(lines)
    return [*lines, f"{untested} further claims {UNTESTED}; the report says why"] if untested else lines


def html(results: Reproduction, made: Sequence[Table], images: Mapping[str, bytes]) -> str:
    """Return the report as one HTML page that contains everything it shows.

    Args:
        results: of the run.
        made: its tables.
        images: PNG by file name.
    """
    comparison = results.kind == "comparison"
    verdicts = [row.verdict for row in results.claims]
    template = environment().get_template("comparison.html.jinja" if comparison else "report.html.jinja")
    return template.render(
        results=results,
        tables={table.name: table for table in made},
        order=[table.name for table in made],
        texts=marked_texts(results.examples.texts),
        images=[(name, base64.b64encode(data).decode(), _caption(name), _width(data)) for name, data in images.items()],
        settings={name: _shown(value) for name, value in results.settings.items() if value not in (None, (), [])},
        counts=[(verdict, verdicts.count(verdict)) for verdict in dict.fromkeys(verdicts)],
        classes={HOLDS: "holds", UNTESTED: "untested"},
        baselines=BASELINES,
        caveats=caveats(results) if comparison else [],
    )


def card_results(results: Reproduction) -> list[TrainResult]:
    """Return training results, with their attacks, of the stock classifier and of each objective's chosen setting.

    Metrics are means over the runs of a setting, with ``metrics_std``; attacks are means too.
    """
    series: list[tuple[str, Sequence[Measured]]] = [("vanilla", [results.vanilla])]
    series += [(objective, chosen_runs(results, objective)) for objective in results.chosen["validation"]]
    return [_card_result(results, objective, runs) for objective, runs in series]


def _card_result(results: Reproduction, objective: str, runs: Sequence[Measured]) -> TrainResult:
    """Return the training result of some runs of one setting, averaged."""
    name = results.dataset if results.kind == "comparison" else results.experiment
    means, spread = _mean_metrics(runs)
    result = TrainResult(
        versions=results.versions,
        command=results.command,
        commit=results.commit,
        task=results.task,
        dataset=results.dataset,
        model=f"{objective}-{Path(name).stem if results.kind == 'comparison' else name}",
        base_model=results.model,
        objective=objective,
        num_train=results.data.num_train,
        num_validation=results.data.num_validation,
        num_test=results.data.num_test,
        data_rows=results.data.data_rows,
        num_labels=results.data.num_labels,
        metrics=means,
        attacks=_mean_attacks(runs, results.dataset),
    )
    if objective == "vanilla":
        return result
    choice = results.chosen["validation"][objective]
    settings: dict[str, Any] = {
        name: results.settings[name] for name in ("seed", "epochs", "batch_size", "learning_rate")
    }
    return replace(
        result,
        beta=choice.beta,
        entropy_weight=choice.entropy_weight,
        freeze_backbone=True,
        num_runs=len(runs),
        metrics_std=spread if len(runs) > 1 else None,
        **settings,
    )


def write_cards(results: Reproduction, folder: str | Path) -> list[Path]:
    """Write the cards of `card_results` and, in ``results/`` next to them, the JSON that each is rendered from."""
    folder, name = Path(folder), results.experiment
    if Path(name).name != name:
        raise ValueError(f"experiment is {name!r}; it must be a file name")
    written = []
    for result in card_results(results):
        result.save(folder / "results" / f"{result.model}.json")
        written.append(write_text(folder / f"{result.model}.md", model_card(result, result.attacks or ())))
    return written


def _mean_metrics(runs: Sequence[Measured]) -> tuple[Metrics, Metrics]:
    """Return mean and standard deviation over runs of every metric that all runs have."""
    means: Metrics = {}
    spread: Metrics = {}
    for name in runs[0].metrics:
        values = [value for run in runs if (value := run.metrics.get(name)) is not None]
        if len(values) == len(runs):
            means[name] = float(np.mean(values))
            spread[name] = float(np.std(values, ddof=1)) if len(runs) > 1 else 0.0
    return means, spread


def _mean_attacks(runs: Sequence[Measured], dataset: str) -> tuple[AttackSummary, ...]:
    """Return one attack per column, its rates averaged over runs; intervals are of single runs and left out."""
    means = []
    for column, first in runs[0].attacks.items():
        mean = replace(first, dataset=dataset, num_runs=len(runs))
        if len(runs) > 1:
            attacks = [run.attacks[column] for run in runs]
            averaged: dict[str, Any] = {
                name: float(np.mean([attack[name] for attack in attacks if name in attack]))
                for name, value in first.items()
                if isinstance(value, float) and name != "epsilon"
            }
            mean = replace(mean, attack_success_interval=None, **averaged)
        means.append(mean)
    return tuple(means)


def _width(png: bytes) -> int:
    """Return the width at which a page shows a plot, of which 200 pixels are an inch of print."""
    pixels = int.from_bytes(png[16:20], "big")  # the PNG header
    return min(1000, pixels * 5 // 8)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
