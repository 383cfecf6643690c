"""Render the tables of the README and of the documentation from the JSON files in model_cards/results.

    python scripts/docs/render_tables.py

A page marks the place of a table with `<!-- table: NAME -->` and `<!-- end -->`. The suite checks that every committed
page holds what this script renders.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_vub.model.objectives import posterior_probabilities

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "model_cards" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
Json = dict[str, Any]

VERDICTS = {True: "pass", False: "**fail**", None: "-"}
TRAINED = {
    "minilm-imdb-vib": "IMDB; MiniLM fine-tuned on IMDB, frozen",
    "minilm-imdb-vub": "IMDB; the same MiniLM, frozen",
    "vub-minilm-imdb-whole": "IMDB; untuned MiniLM, whole model, 5,000 reviews of 128 tokens",
    "resnet18-cifar10": "CIFAR-10; timm resnet18 at 64 px, from scratch",
    "resnet18-cifar10-vib": "CIFAR-10; that resnet18, frozen",
    "resnet18-cifar10-vub": "CIFAR-10; that resnet18, frozen",
    "shared-resnet18-vib": "CIFAR-10; a second resnet18, frozen",
    "shared-resnet18-vub": "CIFAR-10; that second resnet18, frozen",
}


def read(path: str) -> Json:
    """Return the content of a result file, named relative to ``model_cards/results``."""
    return json.loads((RESULTS / path).read_text(encoding="utf-8"))


def percent(share: float | None) -> str:
    """Format a share in [0, 1] as a percentage, and None as a dash."""
    return "-" if share is None else f"{share:.1%}"


def success(result: Json) -> str:
    """Format an attack success rate with its 95 % interval."""
    low, high = result["attack_success_interval"]
    return f"{percent(result['attack_success_rate'])} ({percent(low)} to {percent(high)})"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def objective(name: str) -> str:
    """Return vanilla, vib or vub: the ending of a checkpoint's name."""
    ending = name.rstrip("/").rpartition("-")[2]
    return ending if ending in ("vib", "vub") else "vanilla"


def metric_cells(metrics: Json) -> list[str]:
    """Format accuracy, NLL, ECE and rate."""
    rate = metrics.get("rate")
    shown = [percent(metrics["accuracy"]), f"{metrics['nll']:.3f}", f"{metrics['ece']:.3f}"]
    return [*shown, "-" if rate is None else f"{rate:.1f}"]


METRICS = ["accuracy", "NLL", "ECE", "rate (nats)"]


def headline() -> str:
    """Render accuracy, calibration and attacks of the stock models and of two heads on their frozen features."""
    trained = {
        "IMDB, MiniLM": ("vanilla-imdb", "train/minilm-imdb-vib", "train/minilm-imdb-vub"),
        "CIFAR-10, resnet18": ("vanilla-cifar10", "train/shared-resnet18-vib", "train/shared-resnet18-vub"),
    }
    rows = []
    for data, files in trained.items():
        for name, file in zip(("vanilla", "vib", "vub"), files, strict=True):
            metrics = read(f"{file}.json")["metrics"]
            shown = [data, name, percent(metrics["accuracy"]), f"{metrics['ece']:.3f}"]
            rows.append([*shown, *(_imdb_attacks(name) if "IMDB" in data else _cifar10_attacks(name))])
    columns = ["data, frozen backbone", "head", "accuracy", "ECE", "attack success", "report card"]
    return markdown(columns, rows)


def _imdb_attacks(name: str) -> list[str]:
    attacks = {"DeepWordBug": "deepwordbug", "PWWS": "pwws"}
    found = {title: read(f"attacks/imdb/{file}-{name}.json") for title, file in attacks.items()}
    return [", ".join(f"{title} {percent(result['attack_success_rate'])}" for title, result in found.items()), "-"]


def _cifar10_attacks(name: str) -> list[str]:
    shown = []
    for title, file in {"FGS": "fgs", "PGD": "pgd_linf", "Square": "square"}.items():
        budgets = read(f"attacks/cifar10/{file}-{name}.json")["budgets"]
        (budget,) = (budget for budget in budgets if abs(budget["epsilon"] - 8 / 255) < 1e-6)
        shown.append(f"{title} {percent(budget['attack_success_rate'])}")
    return [", ".join(shown), VERDICTS[read(f"attacks/cifar10/report_card-{name}.json")["passed"]]]


def quickstart() -> str:
    """Render the table of ``scripts/quickstart.py``."""
    titles = {"fgs": "FGS 8/255", "cw": "CW: L2 (success)", "DeepWordBugGao2018": "DeepWordBug", "PWWSRen2019": "PWWS"}
    rows = []
    for row in read("quickstart/results.json")["rows"]:
        cells = [{"image": "digits", "text": "generated reviews"}[row["task"]], row["objective"]]
        cells += metric_cells(row["metrics"])
        attacks = {attack["attack"]: attack for attack in row["attacks"]}
        for name in titles:
            rate = percent(attacks[name]["attack_success_rate"]) if name in attacks else "-"
            cells.append(f"{attacks[name]['l2_mean']:.2f} ({rate})" if name == "cw" and name in attacks else rate)
        rows.append(cells)
    return markdown(["data", "model", *METRICS, *titles.values()], rows)


def training() -> str:
    """Render the test metrics of the models in ``results/train``."""
    rows = []
    for name, about in TRAINED.items():
        result = read(f"train/{name}.json")
        cells = [about, f"{result['num_test']:,}", result["objective"], f"{result['epochs']:g}"]
        rows.append([*cells, *metric_cells(result["metrics"])])
    return markdown(["data; backbone", "test rows", "objective", "epochs", *METRICS], rows)


def text_attacks() -> str:
    """Render the attacks on IMDB."""
    rows = []
    for path in sorted((RESULTS / "attacks" / "imdb").glob("*.json")):
        result = read(f"attacks/imdb/{path.name}")
        cells = [result["attack"], objective(result["head"]), percent(result["clean_accuracy"])]
        cells += [percent(result["accuracy_under_attack"]), success(result)]
        rows.append([*cells, f"{result['words_perturbed_mean']:.1f}", f"{result['queries_mean']:.0f}"])
    columns = ["attack", "head", "clean accuracy", "accuracy under attack", "success (95 % interval)"]
    return markdown([*columns, "mean words changed", "mean queries"], rows)


def guided_attacks() -> str:
    """Render the attacks on IMDB by the model's own score and by the score of the stock model."""
    rows = []
    for path in sorted((RESULTS / "attacks" / "imdb-guided").glob("*.json")):
        result = read(f"attacks/imdb-guided/{path.name}")
        own, guided = result["searches"]["own"], result["searches"]["guided"]
        cells = [objective(result["head"]), result["num_attacked"], success(own), success(guided)]
        rows.append([*cells, f"{own['num_alone']} / {guided['num_alone']}", success(result)])
    columns = ["head", "reviews attacked", "success by its own score (95 % interval)", "guided by the stock model"]
    return markdown([*columns, "only own / only guided", "worse of both"], rows)


def image_attacks() -> str:
    """Render the attacks on CIFAR-10 at the budgets 1/255, 8/255 and 0.5."""
    rows = []
    for path in sorted((RESULTS / "attacks" / "cifar10").glob("[!r]*.json")):
        result = read(f"attacks/cifar10/{path.name}")
        attack = result["attack"] + ("" if result["target"] is None else f", target {result['target']['name']}")
        for budget in result["budgets"]:
            epsilon = budget["epsilon"]
            if epsilon is not None and min(abs(epsilon - shown) for shown in (1 / 255, 8 / 255, 0.5)) > 1e-6:
                continue
            size = "-" if epsilon is None else f"{epsilon * 255:.0f}/255" if epsilon < 0.07 else f"{epsilon:g}"
            cells = [attack, size, objective(result["model"]), result["noise"], result["num_attacked"]]
            distance = "-" if budget["l2_mean"] is None else f"{budget['l2_mean']:.2f}"
            rows.append([*cells, percent(budget["accuracy_under_attack"]), success(budget), distance])
    columns = ["attack", "budget", "head", "predictor", "images attacked", "accuracy under attack"]
    return markdown([*columns, "success (95 % interval)", "mean L2"], rows)


def report_cards() -> str:
    """Render the verdict of every check on CIFAR-10."""
    rows, names = [], []
    for path in sorted((RESULTS / "attacks" / "cifar10").glob("report_card-*.json")):
        card = read(f"attacks/cifar10/{path.name}")
        names = [check["name"] for check in card["checks"]]
        verdicts = [VERDICTS[check["passed"]] for check in card["checks"]]
        rows.append([objective(card["model"]), card["num_attacked"], *verdicts, VERDICTS[card["passed"]]])
    return markdown(["head", "images attacked", *names, "all"], rows)


def claims(name: str) -> str:
    """Render the verdict on every claim of the paper."""
    rows = []
    for row in read(f"reproduce/{name}/results.json")["claims"]:
        p_value = "-" if row.get("p_holm") is None else f"{row['p_holm']:.1g}"
        betas = ", ".join(f"{objective.upper()} {beta:g}" for objective, beta in row.get("betas", {}).items())
        rows.append([row["claim"], row["paper"], row["ours"], betas or "-", p_value, row["verdict"]])
    return markdown(["claim", "paper", "here", "beta", "p (Holm)", "verdict"], rows)


def benchmark(*parts: str) -> str:
    """Render the entries of some files of ``scripts/benchmark``."""
    rows = []
    for entry in (entry for part in parts for entry in read(f"benchmark-{part}.json")["entries"]):
        ratio, seconds = entry["ratio"], entry["seconds"]
        target = f"{entry['target']:.2f}×" if entry["target"] else "-"
        rows.append(
            [
                "; ".join([entry["name"], *_benchmark_notes(entry)]),
                entry["against"],
                f"{1e3 * seconds['alternative']['median']:.3g} per {entry['unit']}",
                f"{1e3 * seconds['ours']['median']:.3g}",
                f"{ratio['median']:.2f}× ({ratio['lower']:.2f} to {ratio['upper']:.2f})",
                f"{target}, **missed**" if entry["reached"] is False else target,
                f"{entry['limit']['share']:.0%} of {entry['limit']['bound']}",
            ]
        )
    columns = ["stage", "alternative", "alternative (ms)", "hf_vub (ms)", "ratio (quartiles)", "target"]
    return markdown([*columns, "share of the limit"], rows)


def _benchmark_notes(entry: Json) -> list[str]:
    """Format the further measurements of an entry."""
    notes = []
    if "share_of_bare_forward" in entry:
        notes.append(f"{entry['share_of_bare_forward']:.0%} of the speed of the bare forward pass")
    if entry.get("same_outcomes"):
        notes.append("same outcomes")
    if "mean_l2" in entry:
        notes.append("mean L2 {ours:.4f}, the alternative's {alternative:.4f}".format(**entry["mean_l2"]))
    if "texts" in entry:
        notes.append(f"the time of {entry['cost_in_single_attacks']:.1f} single attacks")
        notes.append(f"at most {entry['ratio_if_texts_were_all']:.1f}× by sharing texts")
    return notes


def committed_bins() -> str:
    """Render the ECE of the committed IMDB runs, the link applied to the mean confidence of each bin."""
    groups: dict[tuple[str, float], list[tuple[float, float, float]]] = {}
    for run in read("reproduce/imdb/results.json")["runs"]:
        bins = run["reliability"]
        kept = [place for place, count in enumerate(bins["count"]) if count]
        count, confidence, right = (
            torch.tensor([bins[name][place] for place in kept], dtype=torch.float64)
            for name in ("count", "confidence", "accuracy")
        )
        logits = torch.stack([confidence, 1 - confidence], -1).log()
        linked = posterior_probabilities(logits, run["entropy_weight"]).amax(-1)
        errors = [float(((right - each).abs() * count).sum() / count.sum()) for each in (confidence, linked)]
        groups.setdefault((run["objective"], run["beta"]), []).append((run["metrics"]["nll"], *errors))
    rows = []
    for (name, beta), found in groups.items():
        nll, before, after = (sum(column) / len(found) for column in zip(*found, strict=True))
        cells = [f"{nll:.3f}", f"{before:.3f}", f"{after:.3f}" if name == "vub" else "-"]
        rows.append([f"{name.upper()}, {beta:g}", len(found), *cells])
    return markdown(["classifier, beta", "runs", "NLL as trained", "ECE as trained", "ECE, link"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "quickstart": quickstart,
    "training": training,
    "text-attacks": text_attacks,
    "guided-attacks": guided_attacks,
    "image-attacks": image_attacks,
    "report-cards": report_cards,
    "claims-imdb": lambda: claims("imdb"),
    "claims-cifar10": lambda: claims("cifar10"),
    "calibration-committed": committed_bins,
    "benchmark": lambda: benchmark("features", "texts", "models"),
    "benchmark-imdb": lambda: benchmark("imdb"),
}


def rendered(page: str) -> str:
    """Return the text of a page with every marked table rendered anew."""
    return re.sub(
        r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)",
        lambda match: match[1] + TABLES[match[2]]() + match[3],
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")
