"""Render the tables of the README and of the documentation from the JSON files in model_cards/results.

    python scripts/docs/render_tables.py

A page marks the place of a table with `<!-- table: NAME -->` and `<!-- end -->`. The suite checks that every committed
page holds what this script renders.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
            rate = searched(attacks[name]) if name in attacks else "-"
            cells.append(f"{attacks[name]['l2_mean']:.2f} ({rate})" if name == "cw" and name in attacks else rate)
        rows.append(cells)
    return markdown(["data", "model", *METRICS, *titles.values()], rows)


def searched(attack: Mapping[str, Any]) -> str:
    """Return the success rate of an attack; of two searches both, by the model's own score and guided."""
    searches = attack.get("searches")
    if not searches:
        return percent(attack["attack_success_rate"])
    return " / ".join(percent(searches[search]["attack_success_rate"]) for search in ("own", "guided"))


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
        # Cards from before open checks have no ``applies``; theirs that were not passed did not apply.
        verdicts = [VERDICTS[check["passed"]] if check["passed"] is not None or not check.get("applies") else "open"
                    for check in card["checks"]]  # fmt: skip
        whole = "open" if card["passed"] is None else VERDICTS[card["passed"]]
        rows.append([objective(card["model"]), card["num_attacked"], *verdicts, whole])
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


STUDIES = {"imdb": "IMDB", "cifar10": "CIFAR-10"}


def studied() -> Iterable[tuple[str, Json, Json]]:
    """Yield the data set's name, the study and each classifier of the studies in ``results/calibration``."""
    for name, shown in STUDIES.items():
        study = read(f"calibration/{name}.json")
        for classifier in study["classifiers"]:
            yield shown, study, classifier


def setting(classifier: Json) -> str:
    """Return the name of a studied classifier with its beta."""
    names = {"vanilla": "stock", "vib": "VIB", "vub": "VUB"}
    beta = classifier["beta"]
    return names[classifier["name"]] + ("" if beta is None else f", {beta:g}")


def probabilities(classifier: Json, kind: str, draws: str) -> dict[bool, Json]:
    """Return the metrics of one kind of probabilities, without and with a temperature."""
    return {
        each["temperature"] is not None: each
        for each in classifier["metrics"]
        if (each["probabilities"], each["draws"]) == (kind, draws)
    }


def calibration_rows(kinds: Sequence[tuple[str, str, str]]) -> list[list[str]]:
    """Return a row per classifier and kind of probabilities: ECE and NLL without and with a temperature."""
    rows = []
    for data, _, classifier in studied():
        for kind, draws, about in kinds:
            found = probabilities(classifier, kind, draws)
            if not found:
                continue
            raw, scaled = found[False], found[True]
            name = setting(classifier) + (f" ({about})" if about and classifier["name"] == "vub" else "")
            cells = [f"{each[metric]['mean']:.3f}" for metric in ("ece", "nll") for each in (raw, scaled)]
            rows.append([data, name, percent(raw["accuracy"]["mean"]), *cells, f"{scaled['temperature']['mean']:.2f}"])
    return rows


CALIBRATED = ["data", "classifier, beta", "accuracy", "ECE", "ECE, temperature", "NLL", "NLL, temperature", "T"]


def calibration() -> str:
    """Render ECE and NLL of every classifier through the mean of z, as trained and through the link."""
    kinds = [("softmax", "mean", "as trained"), ("posterior", "mean", "link")]
    return markdown(CALIBRATED, calibration_rows(kinds))


def calibration_draws() -> str:
    """Render the same of VUB where the probabilities of draws of z are averaged."""
    kinds = [
        ("posterior", "mean", "mean of z, link"),
        ("posterior", "averaged", "average of draws, then the link"),
        ("posterior", "per draw", "link per draw, then the average"),
    ]
    return markdown(CALIBRATED, calibration_rows(kinds))


def suggested() -> Iterable[tuple[str, Json]]:
    """Yield the data set's name and the check of each suggestion in ``results/calibration``."""
    for name, shown in STUDIES.items():
        if (RESULTS / "calibration" / f"{name}-suggestion.json").exists():
            yield shown, read(f"calibration/{name}-suggestion.json")


def suggestion() -> str:
    """Render each suggested setting with its NLL on rows that decided nothing."""
    rows = []
    for data, check in suggested():
        chosen = check["suggestion"]
        weight = f", w {chosen['entropy_weight']:g}" if chosen["objective"] == "vub" else ""
        about = f"{chosen['objective'].upper()}, beta {chosen['beta']:g}{weight}"
        best = f"{check['best_nll']:.4f} ± {check['best_standard_error']:.4f}"
        counts = f"{chosen['num_validation']:,}", f"{check['num_check']:,}"
        rows.append([data, about, *counts, f"{check['chosen_nll']:.4f}", best, "yes" if check["within"] else "**no**"])
    columns = ["data", "suggested", "rows that decided", "other rows", "NLL there", "lowest NLL of the grid there ± SE"]
    return markdown([*columns, "within one SE"], rows)


def frontier() -> str:
    """Render every setting of the suggestions on the rows that decided; the chosen one is bold."""
    rows = []
    names = ("objective", "beta", "entropy_weight")
    for data, check in suggested():
        chosen = check["suggestion"]
        for point in chosen["frontier"]:
            objective_name = point["objective"].upper()
            if all(point[name] == chosen[name] for name in names):
                objective_name = f"**{objective_name}**"
            nll = f"{point['nll']:.4f} ± {point['nll_standard_error']:.4f}"
            cells = [f"{point['rate']['mean']:.2f}", percent(point["accuracy"]["mean"]), nll]
            weight = f"{point['entropy_weight']:g}" if point["objective"] == "vub" else "-"
            rows.append([data, objective_name, f"{point['beta']:g}", weight, *cells, f"{point['nll_calibrated']:.4f}"])
    columns = ["data", "objective", "beta", "w", "rate (nats)", "accuracy", "NLL, link ± SE", "NLL, temperature"]
    return markdown(columns, rows)


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


def conformal() -> str:
    """Render the coverage of conformal sets, the share answered, and the error among the answers."""
    rows = []
    for data, _, classifier in studied():
        for check in classifier["conformal"]:
            error = check["error_answered"]
            rows.append(
                [
                    *(data, setting(classifier), f"{1 - check['miscoverage']:.0%}", f"{check['coverage']['mean']:.2%}"),
                    *(f"{100 * check['worst_gap']:.1f}", percent(check["answered"]["mean"])),
                    "-" if error is None else f"{error['mean']:.2%}",
                ]
            )
    columns = ["data", "classifier, beta", "target", "coverage, mean of 20 splits", "worst split off by (points)"]
    return markdown([*columns, "answered", "errors among answers"], rows)


def risk_coverage() -> str:
    """Render the area under the risk-coverage curve of every score that may order the rows."""
    names = ("posterior", "max_probability", "entropy", "energy", "rate", "mutual_information")
    rows = []
    for data, _, classifier in studied():
        areas = classifier["aurc"]
        rows.append([data, setting(classifier), *(f"{areas[n]['mean']:.4f}" if n in areas else "-" for n in names)])
    return markdown(["data", "classifier, beta", *(name.replace("_", " ") for name in names)], rows)


def confidence() -> str:
    """Render p* next to the median confidence on training rows."""
    rows = []
    for name, shown in STUDIES.items():
        for check in read(f"calibration/{name}.json")["confidence"]:
            values = f"{check['predicted']:.3f}", f"{check['measured']['mean']:.3f}"
            rows.append([shown, f"{check['entropy_weight']:g}", *values])
    return markdown(["data", "w", "p\\*", "median confidence on training rows"], rows)


def unfamiliar() -> str:
    """Render the AUROC of every score on rows of another origin; of VIB and VUB the best of all betas."""
    shown = [
        *(("features", "mahalanobis"), ("features", "knn"), ("vanilla", "max_probability"), ("vanilla", "energy")),
        *(("vib", "max_probability"), ("vib", "rate")),
        *(("vub", "max_probability"), ("vub", "mutual_information"), ("vub", "rate")),
    ]
    names = {"features": "features", "vanilla": "stock", "vib": "VIB", "vub": "VUB"}
    titles = [f"{names[who]}: {score.replace('_', ' ')}" for who, score in shown]
    rows = []
    for name, data in STUDIES.items():
        checks = read(f"calibration/{name}.json")["unfamiliar"]
        for origin in dict.fromkeys(check["unfamiliar"] for check in checks):
            here = [check for check in checks if check["unfamiliar"] == origin]
            best = [max(c["auroc"]["mean"] for c in here if (c["name"], c["score"]) == key) for key in shown]
            cells = [f"**{value:.3f}**" if value == max(best) else f"{value:.3f}" for value in best]
            rows.append([data, f"{origin} ({here[0]['rows']})", *cells])
    return markdown(["data", "other rows", *titles], rows)


def aims() -> str:
    """Render the stated aims of the studies and what was measured."""
    rows = []
    for name, shown in STUDIES.items():
        for aim in read(f"calibration/{name}.json")["aims"]:
            rows.append([shown, aim["aim"], aim["measured"], "met" if aim["met"] else "**not met**"])
    return markdown(["data", "aim", "measured", "verdict"], rows)


def guided_search(name: str) -> str:
    """Render a table of ``scripts/guided_search.py``."""
    from hf_vub.paper import guided_report
    from hf_vub.runs.schema import GuidedSearch, read_result

    result = read_result(RESULTS / "guided" / "imdb.json")
    assert isinstance(result, GuidedSearch)
    if name in ("heads", "tests"):
        return {"heads": guided_report.head_table, "tests": guided_report.comparison_table}[name](result).markdown()
    return guided_report.outcome_table(result, name).markdown()


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "quickstart": quickstart,
    "training": training,
    "text-attacks": text_attacks,
    "guided-attacks": guided_attacks,
    "guided-deepwordbug": lambda: guided_search("deepwordbug"),
    "guided-heads": lambda: guided_search("heads"),
    "guided-tests": lambda: guided_search("tests"),
    "image-attacks": image_attacks,
    "report-cards": report_cards,
    "claims-imdb": lambda: claims("imdb"),
    "claims-cifar10": lambda: claims("cifar10"),
    "calibration": calibration,
    "calibration-aims": aims,
    "calibration-committed": committed_bins,
    "calibration-draws": calibration_draws,
    "confidence": confidence,
    "conformal": conformal,
    "frontier": frontier,
    "risk-coverage": risk_coverage,
    "suggestion": suggestion,
    "unfamiliar": unfamiliar,
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
