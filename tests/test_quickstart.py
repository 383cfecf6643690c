"""The quick start: its tables, its files, and the attacks that it has to skip."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from hf_vub.attacks.text.nltk_resources import ResourceError
from hf_vub.runs.files import append_record
from hf_vub.runs.schema import ImageAttackResult, TextAttackResult, TrainResult, read_result

PROVENANCE = {"versions": {}, "command": "quickstart", "commit": None}
SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "quickstart.py"


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """Load the script's names, with trainings and attacks that take no time."""
    names = runpy.run_path(str(SCRIPT), run_name="quickstart")

    def train(task, objective, model, arguments):
        name = f"{task}-{objective}"
        point = {"information_x": 1.0, "information_y": 2.0, "held_out": None}
        append_record(tmp_path / "out" / name / "information_plane.jsonl", point)
        metrics = {"accuracy": 0.95, "nll": 0.1, "ece": 0.02}
        metrics |= {} if objective == "vanilla" else {"rate": 9.0}
        about = {"task": task, "model": name, "base_model": model, "objective": objective, "num_labels": 2}
        about |= {"dataset": names["TASKS"][task].dataset, "num_train": 10, "num_test": 4}
        return TrainResult(**PROVENANCE, **about, metrics=metrics)

    def attack(task, title, arguments):
        rates = {"accuracy_under_attack": 0.3, "attack_success_rate": 0.625, "num_successes": 2}
        rates |= {"attack_success_interval": (0.2, 0.9)}
        common = {**PROVENANCE, **rates, "attack": title, "num_examples": 4, "num_attacked": 4, "clean_accuracy": 0.95}
        common |= {"dataset": "digits", "noise": "mean", "seed": 0, "how": "stratified", "rows": "0", "seconds": 1.0}
        common |= {"class_names": ("a", "b"), "num_skipped": 0, "skipped": {}, "weights": "0"}
        if task == "image":
            budget = {**rates, "epsilon": None, "l2_mean": 0.5, "l2_median": 0.5}
            options = {"attack_options": {}, "target": None, "batch_size": 8}
            result = ImageAttackResult.from_json({**common, **options, **budget, "model": "m", "budgets": [budget]})
        else:
            options = {"revision": None, "dtype": "float32", "max_length": 96, "query_budget": None, "max_words": 4000}
            options |= {"words_perturbed_mean": 1.0, "queries_mean": 9.0, "weights": ["0", "1"]}
            search = {**rates, "num_alone": 0, "words_perturbed_mean": 1.0, "queries_mean": 9.0}
            options["searches"] = {"own": {**search, "attack_success_rate": 0.25}, "guided": search}
            result = TextAttackResult.from_json({**common, **options, "model": "m"})
        return dict.fromkeys([f"{task}-{objective}" for objective in names["OBJECTIVES"]], result)

    main = names["main"]
    script = getattr(main, "__wrapped__", main).__globals__
    monkeypatch.setitem(script, "train", train)
    monkeypatch.setitem(script, "attack", attack)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--output_dir", str(tmp_path / "out")])
    return script


def test_everything_is_shown_and_kept(quickstart, tmp_path, capsys):
    quickstart["main"]()
    shown = capsys.readouterr().out
    for title in ("FGS 8/255", "CW", "DeepWordBug", "PWWS"):
        assert title in shown
    assert shown.count("62.5%") == 12
    assert shown.count("0.50, 62.5%") == 3
    assert shown.count("25.0% / 62.5%") == 6  # texts: own and guided, side by side
    assert "skipped" not in shown
    results = read_result(tmp_path / "out" / "results.json")
    assert [row["model"] for row in results["rows"]] == [
        f"{task}-{objective}" for task in ("image", "text") for objective in ("vanilla", "vib", "vub")
    ]
    assert [found["attack"] for found in results["rows"][-1]["attacks"]] == ["DeepWordBug", "PWWS"]
    card = (tmp_path / "out" / "text-vub" / "README.md").read_text(encoding="utf-8")
    assert "PWWS" in card
    assert (tmp_path / "out" / "information_plane.png").exists()


def test_what_cannot_run_is_skipped_with_its_reason(quickstart, tmp_path, monkeypatch, capsys):
    attack = quickstart["attack"]
    reasons = {
        "CW": ImportError("image attacks need foolbox"),
        "PWWS": ResourceError("PWWSRen2019 needs the NLTK resource 'wordnet'. Three ways to provide it"),
    }

    def some(task, title, arguments):
        if title in reasons:
            raise reasons[title]
        return attack(task, title, arguments)

    monkeypatch.setitem(quickstart, "attack", some)
    quickstart["main"]()
    shown = capsys.readouterr().out
    for title, reason in reasons.items():
        assert f"skipped: {title}: {reason}\n" in shown
    results = read_result(tmp_path / "out" / "results.json")
    assert results["skipped"] == {title: str(reason) for title, reason in reasons.items()}
    assert [found["attack"] for found in results["rows"][0]["attacks"]] == ["FGS 8/255"]


@pytest.mark.slow
def test_it_runs_offline_from_nothing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "HOME": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "--output_dir", "out", "--num_examples", "4"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = read_result(tmp_path / "out" / "results.json")
    assert all(row["metrics"]["accuracy"] > 0.9 for row in results["rows"])
    assert len(results["rows"][0]["attacks"]) + len(results["rows"][-1]["attacks"]) + len(results["skipped"]) == 4
    assert all(f"skipped: {title}: {reason}\n" in done.stdout for title, reason in results["skipped"].items())
