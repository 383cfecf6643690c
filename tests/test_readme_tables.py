"""The tables of the README come from the result files; ``python tests/test_readme_tables.py`` writes them anew."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "model_cards" / "results"


def read(path):
    return json.loads((RESULTS / path).read_text(encoding="utf-8"))


def percent(share):
    return "-" if share is None else f"{share:.1%}"


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def kind(name):
    """vanilla, vib or vub: what a checkpoint's name ends in."""
    ending = name.rstrip("/").rpartition("-")[2]
    return ending if ending in ("vib", "vub") else "vanilla"


def quickstart():
    rows = []
    titles = {"fgs": "FGS 8/255", "cw": "CW: L2 (success)", "DeepWordBugGao2018": "DeepWordBug", "PWWSRen2019": "PWWS"}
    for row in read("quickstart/results.json")["rows"]:
        metrics = row["metrics"]
        cells = [{"image": "digits", "text": "generated reviews"}[row["task"]], row["objective"]]
        cells += [percent(metrics["accuracy"]), f"{metrics['nll']:.3f}", f"{metrics['ece']:.3f}"]
        cells.append(f"{metrics['rate']:.1f}" if "rate" in metrics else "-")
        found = {attack["attack"]: attack for attack in row["attacks"]}
        for name in titles:
            success = percent(found[name]["attack_success_rate"]) if name in found else "-"
            cells.append(f"{found[name]['l2_mean']:.2f} ({success})" if name == "cw" and name in found else success)
        rows.append(cells)
    return table(["data", "model", "accuracy", "NLL", "ECE", "rate (nats)", *titles.values()], rows)


TRAINED = {
    "minilm-imdb-vib": "IMDB; MiniLM fine-tuned on IMDB, frozen",
    "minilm-imdb-vub": "IMDB; the same",
    "vub-minilm-imdb-whole": "IMDB; un-tuned MiniLM, the whole model on 5,000 reviews of 128 tokens",
    "resnet18-cifar10": "CIFAR-10; timm resnet18 at 64 px, from scratch",
    "resnet18-cifar10-vib": "CIFAR-10; that one, frozen",
    "resnet18-cifar10-vub": "CIFAR-10; that one, frozen",
    "shared-resnet18-vib": "CIFAR-10; another resnet18 of 85.9% accuracy, frozen",
    "shared-resnet18-vub": "CIFAR-10; that one, frozen",
}


def training():
    rows = []
    for name, about in TRAINED.items():
        result = read(f"train/{name}.json")
        metrics = result["metrics"]
        rate = metrics.get("rate")
        rows.append(
            [
                f"{about}, {result['num_test']:,} test rows",
                result["objective"],
                f"{result['epochs']:g}",
                percent(metrics["accuracy"]),
                f"{metrics['nll']:.3f}",
                f"{metrics['ece']:.3f}",
                "-" if rate is None else f"{rate:.1f}",
            ]
        )
    return table(["data; backbone", "objective", "epochs", "accuracy", "NLL", "ECE", "rate (nats)"], rows)


def text_attacks():
    rows = []
    for path in sorted((RESULTS / "attacks" / "imdb").glob("*.json")):
        result = read(path)
        low, high = result["attack_success_interval"]
        rows.append(
            [
                result["attack"],
                kind(result["head"]),
                percent(result["clean_accuracy"]),
                percent(result["accuracy_under_attack"]),
                f"{percent(result['attack_success_rate'])} ({percent(low)} to {percent(high)})",
                f"{result['words_perturbed_mean']:.1f}",
                f"{result['queries_mean']:.0f}",
            ]
        )
    columns = [
        "attack",
        "head",
        "clean accuracy",
        "under attack",
        "success (95 % interval)",
        "words changed",
        "queries",
    ]
    return table(columns, rows)


def image_attacks():
    rows = []
    for path in sorted((RESULTS / "attacks" / "cifar10").glob("[!r]*.json")):
        result = read(path)
        for budget in result["budgets"]:
            epsilon = budget["epsilon"]
            if epsilon is not None and min(abs(epsilon - shown) for shown in (1 / 255, 8 / 255, 0.5)) > 1e-6:
                continue
            low, high = budget["attack_success_interval"]
            rows.append(
                [
                    result["attack"] + ("" if result["target"] is None else f", target {result['target']['name']}"),
                    "-" if epsilon is None else f"{epsilon * 255:.0f}/255" if epsilon < 0.07 else f"{epsilon:g}",
                    kind(result["model"]),
                    result["noise"],
                    result["num_attacked"],
                    percent(budget["accuracy_under_attack"]),
                    f"{percent(budget['attack_success_rate'])} ({percent(low)} to {percent(high)})",
                    "-" if budget["l2_mean"] is None else f"{budget['l2_mean']:.2f}",
                ]
            )
    columns = ["attack", "budget", "head", "predictor", "images", "under attack", "success (95 % interval)", "mean L2"]
    return table(columns, rows)


def report_cards():
    rows = []
    for path in sorted((RESULTS / "attacks" / "cifar10").glob("report_card-*.json")):
        card = read(path)
        cells = [kind(card["model"]), card["noise"], card["num_attacked"]]
        for check in card["checks"]:
            cells.append({True: "pass", False: "**fail**", None: "-"}[check["passed"]])
        rows.append([*cells, "pass" if card["passed"] else "**fail**"])
        names = [check["name"] for check in card["checks"]]
    return table(["head", "predictor", "images", *names, "all"], rows)


def claims(name):
    rows = []
    for row in read(f"reproduce/{name}/results.json")["claims"]:
        p_value = "-" if row["p_value"] is None else f"{row['p_value']:.1g}"
        rows.append([row["claim"], row["paper"], row["ours"], p_value, row["verdict"]])
    return table(["claim", "paper", "here", "p", "verdict"], rows)


def milliseconds(seconds):
    return f"{1e3 * seconds:.3g}"


def benchmark():
    rows = []
    for entry in read("benchmark.json")["entries"]:
        ratio, limit = entry["ratio"], entry["limit"]
        rows.append(
            [
                entry["name"],
                entry["against"],
                f"{milliseconds(entry['seconds']['alternative']['median'])} per {entry['unit']}",
                milliseconds(entry["seconds"]["ours"]["median"]),
                f"{ratio['median']:.2f}× ({ratio['lower']:.2f} to {ratio['upper']:.2f})",
                f"{entry['target']:.2f}×" + ("" if entry["reached"] else ", **missed**"),
                f"{limit['share']:.0%} of {limit['bound']}",
            ]
        )
    return table(
        ["stage", "against", "that, ms", "ours, ms", "ratio (quartiles)", "to reach", "share of the limit"], rows
    )


TABLES = {
    "quickstart": quickstart,
    "training": training,
    "text-attacks": text_attacks,
    "image-attacks": image_attacks,
    "report-cards": report_cards,
    "claims-imdb": lambda: claims("imdb"),
    "claims-cifar10": lambda: claims("cifar10"),
    "benchmark": benchmark,
}


def filled(text):
    """The README with its tables made from the result files."""
    return re.sub(
        r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)",
        lambda found: found[1] + TABLES[found[2]]() + found[3],
        text,
        flags=re.S,
    )


@pytest.mark.parametrize("name", TABLES)
def test_the_readmes_tables_come_from_the_result_files(name):
    text = README.read_text(encoding="utf-8")
    assert f"<!-- table: {name} -->\n{TABLES[name]()}<!-- end -->" in text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
