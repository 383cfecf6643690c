"""Everything that is rendered from result JSON and nothing else: tables, figures, one HTML report and model cards.

```python
from hf_vub.paper.report import write_report
from hf_vub.runs.files import read_json

write_report(read_json("runs/imdb/results.json"), "runs/imdb")
```
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..reports import plots
from ..reports.model_cards import environment, model_card, write_model_card
from ..reports.tables import Table, marked_texts, marked_texts_markdown
from ..runs.files import read_json, write_json, write_text
from . import figures
from .claims import HOLDS, UNTESTED, points
from .tables import tables

__all__ = ["card_results", "model_card", "write_cards", "write_model_card", "write_report"]

_CAPTIONS = {
    "figure1-information-curve": "Figure 1, measured: the information curve over beta on the test set. Small marks are "
    "runs, large ones their means.",
    "figure3-information-plane": "Figure 3: the information plane, one mark per epoch, in the paper's five groups of "
    "epochs.",
    "figure4-cw": "Figure 4: targeted Carlini-Wagner attacks. Above each image the class it is taken for, above each "
    "perturbation its magnification.",
    "figure5-fgs": "Figure 5: untargeted fast gradient sign attacks by budget. Above each image the class it is taken "
    "for, above each perturbation its magnification.",
    "calibration": "Calibration on the test set at the chosen betas, all runs together: accuracy over confidence, and "
    "how many rows have which confidence.",
    "robustness": "Success of each attack over beta, mean and standard deviation over runs; the dashed line is the "
    "stock classifier.",
}


def write_report(results: Mapping[str, Any], folder: str | Path) -> Path:
    """Write tables, figures, model cards and ``report.html`` of a reproduction.

    Args:
        results: of :func:`hf_vub.paper.reproduction.reproduce`, or the JSON that it saved.
        folder: gets ``report.html``, ``tables/*.md`` and ``*.tex``, ``figures/*.png`` and ``*.pdf`` and
            ``model_cards/*.md`` with their ``results/*.json``.

    Returns:
        The path of the HTML report, which needs no other file and no network.

    Raises:
        ValueError: for results of another kind.
        ImportError: with the command to install what is missing.
    """
    if results.get("kind") != "reproduction":
        raise ValueError(f"results are of kind {results.get('kind')!r}; a report is made from a 'reproduction'")
    folder = Path(folder)
    drawn = figures.figures(results)
    for name, figure in drawn.items():
        plots.save(figure, folder / "figures" / name)
    made = tables(results)
    for table in made:
        write_text(folder / "tables" / f"{table.name}.md", table.markdown())
        write_text(folder / "tables" / f"{table.name}.tex", table.latex())
    if results["examples"]["texts"]:
        write_text(folder / "tables" / "table3.md", marked_texts_markdown(results["examples"]["texts"]))
    write_cards(results, folder / "model_cards")
    images = {name: (folder / "figures" / f"{name}.png").read_bytes() for name in drawn}
    return write_text(folder / "report.html", html(results, made, images))


def html(results: Mapping[str, Any], made: list[Table], images: Mapping[str, bytes]) -> str:
    """The report as one HTML page with everything in it.

    Args:
        results: of a reproduction.
        made: its tables.
        images: PNG by file name.
    """
    verdicts = [row["verdict"] for row in results["claims"]]
    page: str = (
        environment()
        .get_template("report.html.jinja")
        .render(
            results=results,
            tables={table.name: table for table in made},
            order=[table.name for table in made],
            texts=marked_texts(results["examples"]["texts"]),
            images=[
                (name, base64.b64encode(data).decode(), _CAPTIONS[name], _width(data)) for name, data in images.items()
            ],
            settings={name: _shown(value) for name, value in results["settings"].items() if value not in (None, ())},
            counts=[(verdict, verdicts.count(verdict)) for verdict in dict.fromkeys(verdicts)],
            classes={HOLDS: "holds", UNTESTED: "untested"},
        )
    )
    return page


def card_results(results: Mapping[str, Any]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """For the stock classifier and the chosen point of each objective: a training result and its attacks.

    Figures are means over the runs of a point, with ``metrics_std``; attacks are means too.
    """
    chosen = results["chosen"]["validation"]
    series: list[tuple[str, list[Any], dict[str, Any]]] = [("vanilla", [results["vanilla"]], {})]
    for objective, best in chosen.items():
        own = points(results["runs"])[objective, best["beta"], best["entropy_weight"]]
        series.append((objective, own, {name: best[name] for name in ("beta", "entropy_weight")}))
    found = []
    for objective, runs, weights in series:
        names = [name for name in runs[0]["metrics"] if all(run["metrics"].get(name) is not None for run in runs)]
        values = {name: [run["metrics"][name] for run in runs] for name in names}
        settings = results["settings"]
        result = {
            **{name: results.get(name) for name in ("schema", "versions", "command", "commit", "task", "dataset")},
            "kind": "train",
            "model": f"{objective}-{results['experiment']}",
            "base_model": results["model"],
            "objective": objective,
            "num_train": results["data"]["num_train"],
            "num_test": results["data"]["num_test"],
            "num_labels": results["data"]["num_labels"],
            "metrics": {name: float(np.mean(own)) for name, own in values.items()},
        }
        if objective != "vanilla":
            result |= {
                **weights,
                "freeze_backbone": True,
                "seed": settings["seed"],
                "num_runs": len(runs),
                **{name: settings[name] for name in ("epochs", "batch_size", "learning_rate")},
            }
            if len(runs) > 1:
                result["metrics_std"] = {name: float(np.std(own, ddof=1)) for name, own in values.items()}
        found.append((result, _mean_attacks(runs, results["dataset"])))
    return found


def write_cards(results: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write the cards of `card_results` and, in ``results/`` beside them, the JSON that each is rendered from."""
    folder, name = Path(folder), str(results["experiment"])
    if Path(name).name != name:
        raise ValueError(f"experiment is {name!r}; it must be a file name")
    written = []
    for result, attacks in card_results(results):
        path = write_json(folder / "results" / f"{result['model']}.json", {**result, "attacks": attacks})
        content = read_json(path)
        written.append(write_text(folder / f"{result['model']}.md", model_card(content, content["attacks"])))
    return written


def _mean_attacks(runs: list[Mapping[str, Any]], dataset: str) -> list[dict[str, Any]]:
    """One attack result per column, its rates averaged over runs; intervals are of single runs and left out."""
    found = []
    for column in runs[0].get("attacks") or {}:
        records = [run["attacks"][column] for run in runs]
        mean = {**records[0], "dataset": dataset, "num_runs": len(runs)}
        if len(runs) > 1:
            mean.pop("attack_success_interval", None)
            for name, value in records[0].items():
                known = [record[name] for record in records if record.get(name) is not None]
                if isinstance(value, float) and name != "epsilon":
                    mean[name] = float(np.mean(known))
        found.append(mean)
    return found


def _width(png: bytes) -> int:
    """The width at which a page shows a figure, of which 200 pixels are an inch of print."""
    pixels = int.from_bytes(png[16:20], "big")  # where every PNG says so
    return min(1000, pixels * 5 // 8)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
