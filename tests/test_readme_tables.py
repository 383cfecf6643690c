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


def measured(*parts):
    """What scripts/benchmark.py measured, in several calls."""
    return [entry for part in parts for entry in read(f"benchmark-{part}.json")["entries"]]


BENCHMARK = ("features", "texts", "models")


def benchmark(*parts):
    rows = []
    for entry in measured(*parts or BENCHMARK):
        ratio, limit, name = entry["ratio"], entry["limit"], entry["name"]
        goal = f"{entry['target']:.2f}×" if entry["target"] else "-"
        if entry["reached"] is False:
            goal += ", **missed**"
        share = f"{limit['share']:.0%} of {limit['bound']}"
        if "share_of_bare_forward" in entry:
            name += f" ({entry['share_of_bare_forward']:.0%} of the bare forward pass)"
        if entry.get("same_outcomes"):
            name += " (the same outcomes)"
        if "mean_l2" in entry:
            name += " (mean L2 {ours:.4f}, the published loop's {alternative:.4f})".format(**entry["mean_l2"])
        if "texts" in entry:
            name += f" (the cost of {entry['cost_in_single_attacks']:.1f} single attacks)"
            share += f"; {entry['ratio_if_texts_were_all']:.1f}× if different texts were all that counts"
        rows.append(
            [
                name,
                entry["against"],
                f"{milliseconds(entry['seconds']['alternative']['median'])} per {entry['unit']}",
                milliseconds(entry["seconds"]["ours"]["median"]),
                f"{ratio['median']:.2f}× ({ratio['lower']:.2f} to {ratio['upper']:.2f})",
                goal,
                share,
            ]
        )
    return table(
        ["stage", "against", "that, ms", "ours, ms", "ratio (quartiles)", "to reach", "share of the limit"], rows
    )


def duration(seconds):
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= size)
    return f"{seconds / size:.2g} {unit}"


def plan():
    """What large jobs would take: an H100's data sheet, and the shares of a machine's limits measured here."""
    bfloat16, float32, memory = 989e12, 67e12, 3.35e12  # operations and bytes per second
    share = {entry["name"]: entry["limit"]["share"] for entry in measured(*BENCHMARK)}
    convolutions = share["Carlini-Wagner L2, without early stopping"]
    heads = share["head training, 2048 features, 1000 classes, batch 32"]
    transformer = share["fine-tuning step, batch 8"]
    train, images, inception = 1_281_167, 1_331_167, 11.42e9
    weights = 2048 * 2048 + 2048 * 2 * 1024 + 1024 * 1000
    steps = 30 * 100 * -(-train // 32)
    tokens, backbone = 25_000 * 3 * 512, 7e9
    assert f"{weights / 1e6:.1f} {steps / 1e6:.0f} {tokens / 1e6:.1f}" == "9.4 120 38.4"
    jobs = [
        (
            "ImageNet-1k: features of Inception-v3",
            "1.33 M images x 11.4 GFLOP",
            images * inception / bfloat16,
            convolutions,
            "weights 0.04 GB, 256 images 1.4 GB (64 x 147 x 147 numbers, in and out)",
        ),
        (
            "its grid: 30 heads, 100 epochs, batch 32",
            "120 M steps x 6 x 4 bytes x 9.4 M weights",
            steps * 24 * weights / memory,
            heads,
            "4 heads x 16 bytes x 9.4 M = 0.6 GB",
        ),
        (
            "Carlini-Wagner on 16 images of each head, at most 9 x 200 steps",
            "30 x 16 x 1,800 x 3 x 11.4 GFLOP, float32",
            30 * 16 * 1800 * 3 * inception / float32,
            convolutions,
            "weights 0.09 GB; 16 images x 27.5 M activations x 4 bytes = 1.8 GB",
        ),
        (
            "7B decoder, IMDB, 3 epochs of 512 tokens: LoRA under DDP",
            "38.4 M tokens x 6 x 7 GFLOP",
            tokens * 6 * backbone / bfloat16,
            transformer,
            "weights 14 GB; adapters of rank 16 and head 16 bytes x 74 M = 1.2 GB; 8 texts 1.1 GB + a layer's 0.6 GB",
        ),
        (
            "the same, all weights under FSDP2",
            "38.4 M tokens x 8 x 7 GFLOP",
            tokens * 8 * backbone / bfloat16,
            transformer,
            "16 bytes x 7 G / 8 = 14 GB (under DDP 112 GB: too much); texts as above",
        ),
    ]
    rows = [
        [name, work, duration(limit), f"{reached:.0%}", duration(limit / reached / 8), memory_used]
        for name, work, limit, reached, memory_used in jobs
    ]
    return table(["stage", "work", "at the limit of one", "share", "so, 8 GPUs", "memory of each"], rows)


TABLES = {
    "quickstart": quickstart,
    "training": training,
    "text-attacks": text_attacks,
    "image-attacks": image_attacks,
    "report-cards": report_cards,
    "claims-imdb": lambda: claims("imdb"),
    "claims-cifar10": lambda: claims("cifar10"),
    "benchmark": benchmark,
    "benchmark-imdb": lambda: benchmark("imdb"),
    "plan": plan,
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
