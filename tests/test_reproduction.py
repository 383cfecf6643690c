"""The whole pipeline on tiny data: stages, resuming, comparisons, and the same results after any kill."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForImageClassification, BertConfig, BertForSequenceClassification, ResNetConfig

from hf_vub.data.record import TrainingRecord
from hf_vub.data.splits import load_splits
from hf_vub.data.synthetic import reviews, word_tokenizer
from hf_vub.paper import compare
from hf_vub.paper.backbone import aligned_classifier, load_backbone
from hf_vub.paper.experiments import PAPER, PRESETS, comparison, experiment
from hf_vub.paper.outcomes import unpack
from hf_vub.paper.pipeline import halve_test
from hf_vub.runs.files import read_json
from hf_vub.runs.schema import read_result
from hf_vub.sweep.heads import HeadRun

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    **{"runs": 2, "epochs": 2, "betas": [1e-3, 1e-1], "num_examples": 4, "stress_examples": 4},
    "choose_on": "validation",
}
SIZES = {"max_train": 120, "max_test": 40, "learning_rate": 1e-2}
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
pytest.importorskip("matplotlib", reason="the report needs matplotlib")


def without_seconds(results):
    """Return what two runs must agree on; the commit is the checkout's, which may move while tests run."""
    return {name: value for name, value in results.items() if name not in ("seconds", "commit")}


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    """Save a tiny residual network for ten classes, with its processor."""
    from transformers import BitImageProcessor

    folder = tmp_path_factory.mktemp("models") / "resnet"
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    model = AutoModelForImageClassification.from_config(ResNetConfig(num_labels=10, **sizes))
    model.save_pretrained(folder)
    size = {"do_center_crop": False, "size": {"height": 32, "width": 32}}
    BitImageProcessor(**size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """Save a tiny BERT for two classes, with a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    tokenizer = word_tokenizer(reviews(200, 10)["train"]["text"], vocab_size=600, max_length=48)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, num_labels=2, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image_settings(image_model):
    options = {**SETTINGS, **SIZES, "attacks": ["fgs"], "stress": ["pgd_linf"]}
    return experiment("cifar10", model=str(image_model), dataset="digits", **options)


@pytest.fixture(scope="module")
def finished(image_settings, tmp_path_factory):
    """Run on images undisturbed."""
    from hf_vub.paper.reproduction import reproduce

    folder = tmp_path_factory.mktemp("finished") / "out"
    return reproduce(image_settings, folder), folder


# Settings


def test_presets_are_the_papers():
    imdb, imagenet = experiment("imdb", paper=True), experiment("imagenet", paper=True)
    assert (imdb.epochs, imdb.runs, imdb.batch_size, imdb.how, imdb.num_examples) == (150, 5, 16, "first", 200)
    assert (imagenet.epochs, imagenet.runs, imagenet.batch_size) == (100, 5, 32)
    assert imagenet.model == "timm/inception_v3.tv_in1k"
    assert imagenet.target == "soccer ball"
    assert imagenet.learning_rate == 1e-4
    assert imagenet.betas == (1e-3, 1e-2, 1e-1)
    assert PRESETS.keys() == PAPER.keys()
    assert experiment("imdb").runs == 10


def test_grid_counts_every_run_once():
    grid = experiment("imdb", runs=2, objectives=["ce", "vib", "vub"], entropy_weights=[0.5, 1.0]).grid()
    assert len(grid) == len(set(grid)) == 2 * (1 + 3 + 3 * 2)
    assert HeadRun("ce", 0.0, 1.0, 1) in grid
    assert HeadRun("vib", 1e-3, 0.5, 0) not in grid


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runs": 0}, "runs is 0"),
        ({"validation": 1.0}, "validation is 1.0"),
        ({"choose_on": "test"}, "choose_on is 'test'; it must be 'validation' or 'test half'"),
        ({"betas": []}, "betas is empty"),
        ({"betas": [-1.0]}, "beta is -1.0"),
        ({"objectives": ["elbo"]}, "objective is 'elbo'"),
    ],
)
def test_bad_settings_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        experiment("imdb", **changes)


def test_an_absurd_learning_rate_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"learning_rate is 1e\+30; it must be above 0 and at most 100"):
        experiment("imdb", learning_rate=1e30).check_attacks()


def test_unknown_preset():
    with pytest.raises(
        ValueError, match="experiment is 'mnist'; it must be one of imdb, cifar10, imagenet, or compare"
    ):
        experiment("mnist")


def test_vanilla_is_the_checkpoints_own_classifier(image_settings, image_model):
    model, processor, last, _ = load_backbone(image_settings, 10, [])
    stock = AutoModelForImageClassification.from_pretrained(image_model).eval()
    pixels = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(last(model.features(pixel_values=pixels)), stock(pixels).logits)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert processor.size == {"height": 32, "width": 32}
    assert load_backbone(image_settings, 7, []).classifier is None  # of other classes: not its own


def test_the_stock_classifier_is_matched_with_the_data_by_class_names(image_settings):
    backbone = load_backbone(image_settings, 10, [])
    names = [f"class {number}" for number in range(10)]
    features = torch.randn(2, backbone.model.head.feature_size)
    own = backbone._replace(class_names=names)
    logits = backbone.classifier(features)
    assert torch.allclose(aligned_classifier(own, names[::-1], "name")(features), logits.flip(1), atol=1e-6)
    assert torch.equal(aligned_classifier(own, names[::-1], "number")(features), logits)
    with pytest.raises(ValueError, match="match_labels='number'"):
        aligned_classifier(own, [f"kind {number}" for number in range(10)], "name")


@pytest.mark.parametrize("name", ["imdb", "imagenet"])
def test_presets_are_built_with_random_weights_and_no_network(name):
    if name == "imagenet":
        pytest.importorskip("timm")
    settings = experiment(name, from_config=True)
    model, processor, last, _ = load_backbone(settings, 2, ["a fine film", "a dull film"])
    assert last is None
    if name == "imdb":
        assert model.head.feature_size == 768
        features = model.features(**processor(["a fine film"], return_tensors="pt"))
    else:
        assert model.head.feature_size == 2048
        assert processor.crop_size["height"] == 299
        features = model.features(pixel_values=torch.zeros(1, 3, 299, 299))
    assert features.shape == (1, model.head.feature_size)


def test_beta_is_chosen_on_half_of_the_test_rows_that_the_rest_is_tested_on(text_model):
    assert experiment("imdb").choose_on == "test half"
    assert experiment("imdb").held_out == 0.0
    assert experiment("imdb", paper=True).choose_on == comparison("m", "d", task="image").choose_on == "validation"
    splits = load_splits("synthetic-reviews", max_train=120, max_test=40)
    before = splits["test"]
    halve_test(splits, seed=0)
    halves = [splits[name][:]["text"] for name in ("validation", "test")]
    assert [len(half) for half in halves] == [20, 20]
    assert sorted(halves[0] + halves[1]) == sorted(before[:]["text"])
    assert splits["test"][:]["label"].count(0) == before[:]["label"].count(0) / 2
    again = load_splits("synthetic-reviews", max_train=120, max_test=40)
    halve_test(again, seed=0)
    assert again["test"][:]["text"] == halves[1]
    assert splits.origin["test"].startswith("the other half of ")


# The pipeline


def test_results_have_every_run(finished, image_settings):
    results, folder = finished
    assert results["kind"] == "reproduction"
    assert results["schema"] == 1
    assert len(results["runs"]) == len(image_settings.grid()) == 8
    assert results["data"]["num_train"] + results["data"]["num_validation"] == 120
    assert results["vanilla"]["origin"] == "checkpoint"
    assert results["baselines"].keys() == {"logistic regression", "early-stopped MLP"}
    assert results["data"]["data_rows"].startswith("trained on 108 rows (")
    columns = {"FGS 8/255", "FGS 0.1", "FGS 0.5"}
    for run in (results["vanilla"], *results["baselines"].values(), *results["runs"]):
        assert run["attacks"].keys() == columns
        for attack in run["attacks"].values():
            assert {"clean_accuracy", "accuracy_under_attack"} <= attack.keys()
            assert attack["num_examples"] == 4
            assert attack["rows_seen_in_training"] == 0
            assert attack["data_rows"].startswith("4 of 40 test rows (")
        assert 0 <= run["metrics"]["accuracy"] <= 1
        assert sum(run["reliability"]["count"]) == 40
    for run in results["runs"]:
        assert run["metrics"]["bound_vub"] < run["metrics"]["bound_vib"]
    assert [len(curve["information"]) for curve in results["curves"]] == [2] * 4
    assert {row["kind"] for row in results["stress"]} == {"image_attack", "report_card"}
    for card in (row for row in results["stress"] if row["kind"] == "report_card"):
        (transfer,) = [check for check in card.checks if check.name == "transfer"]
        assert transfer.figures or card.why, "made from the stock classifier and the sibling"
    for run in (results.vanilla, *results.runs):
        assert run.outcomes.keys() == columns
        assert len(unpack(run.correct)) == 40
        assert sum(unpack(run.correct)) == pytest.approx(40 * run.metrics["accuracy"])
        for column, attack in run.attacks.items():
            letters = run.outcomes[column].letters
            assert (len(letters), letters.count("S") + letters.count("F")) == (4, attack.num_attacked)
            if attack.num_attacked:
                assert letters.count("S") / attack.num_attacked == attack.attack_success_rate
    assert results["claims"]
    assert (folder / "report.html").exists()
    assert str(folder.parent) not in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "model_cards" / "vub-cifar10.md").exists()


def test_a_head_is_measured_as_the_sweep_measures_it(finished):
    """The accuracy on held-out rows in the last epoch's log is that of the saved head."""
    results, folder = finished
    for curve in results["curves"]:
        same = ("objective", "beta", "seed")
        (run,) = [run for run in results["runs"] if all(run[name] == curve[name] for name in same)]
        assert run["validation"]["accuracy"] == pytest.approx(curve["eval_accuracy"][-1], abs=1e-5)
        assert (folder / "heads").is_dir()


def test_nothing_is_done_twice(finished, image_settings, monkeypatch):
    from hf_vub.paper import pipeline, reproduction

    results, folder = finished
    for name in ("train_heads", "extract", "load_backbone", "logistic_regression", "early_stopped_mlp"):
        monkeypatch.setattr(pipeline, name, None)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.json") if path.name != "results.json"}
    again = reproduction.reproduce(image_settings, folder)
    assert without_seconds(again) == without_seconds(results)
    assert again["seconds"] == results["seconds"]  # those of the runs that did the work
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_other_settings_redo_only_what_depends_on_them(finished, image_settings, tmp_path, monkeypatch):
    from hf_vub.paper import pipeline, reproduction

    results, folder = finished
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.setattr(pipeline, "train_heads", None)
    monkeypatch.setattr(pipeline, "extract", None)
    changed = reproduction.reproduce(replace(image_settings, epsilons=("0.25",), stress=()), tmp_path / "copy")
    assert changed["runs"][0]["attacks"].keys() == {"FGS 0.25"}
    assert changed["runs"][0]["metrics"] == results["runs"][0]["metrics"]
    assert changed["stress"] == ()
    back = reproduction.reproduce(image_settings, tmp_path / "copy")
    assert without_seconds(back) == without_seconds(results)


def test_the_same_model_at_another_time_trains_nothing_again(
    finished, image_settings, image_model, tmp_path, monkeypatch
):
    from hf_vub.paper import pipeline, reproduction

    results, folder = finished
    shutil.copytree(folder, tmp_path / "copy")
    before = (tmp_path / "copy" / "embed.json").stat().st_mtime_ns
    for file in image_model.iterdir():
        os.utime(file)
    monkeypatch.setattr(pipeline, "train_heads", None)
    again = reproduction.reproduce(image_settings, tmp_path / "copy")
    assert (tmp_path / "copy" / "embed.json").stat().st_mtime_ns > before  # looked at again
    assert without_seconds(again) == without_seconds(results)


def test_a_lost_file_is_made_again(finished, image_settings, tmp_path):
    from hf_vub.paper.reproduction import reproduce

    results, folder = finished
    shutil.copytree(folder, tmp_path / "copy")
    next((tmp_path / "copy" / "heads").rglob("vub-*.safetensors")).unlink()
    next((tmp_path / "copy" / "features").rglob("*.safetensors")).unlink()
    assert without_seconds(reproduce(image_settings, tmp_path / "copy")) == without_seconds(results)


@pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
def test_texts_end_to_end(text_model, tmp_path):
    from hf_vub.paper.reproduction import reproduce

    options = {**SETTINGS, **SIZES, "attacks": ["deepwordbug"], "epochs": 3, "objectives": ["ce", "vib", "vub"]}
    settings = experiment("imdb", model=str(text_model), dataset="synthetic-reviews", max_length=32, **options)
    results = reproduce(settings, tmp_path / "out")
    assert len(results["runs"]) == 2 + 4 + 4
    assert all(run["attacks"]["DWB"]["num_examples"] == 4 for run in results["runs"])
    attacked = [row for row in results.stress if row.kind != "report_card"]
    cards = [row for row in results.stress if row.kind == "report_card"]
    assert {(row.objective, row.noise) for row in attacked} == {(name, "sampled") for name in ("ce", "vib", "vub")}
    assert [card.objective for card in cards] == ["ce", "vib", "vub"]
    for card in cards:
        assert card.why or {"guided", "transfer"} <= {check.name for check in card.checks}
    for example in results["examples"]["texts"]:
        assert example["original"] != example["perturbed"]
        assert example["label"] != example["prediction"]
    for run in (results.vanilla, *results.runs):
        assert run.attacks.keys() == run.outcomes.keys() == {"DWB", "DWB guided"}
    stock = results.vanilla.attacks
    assert stock["DWB"].attack_success_rate == stock["DWB guided"].attack_success_rate  # it is its own guide
    alone = _attack_alone(settings, tmp_path / "out", results)
    grid = next(run for run in results["runs"] if run["name"] == alone[0])["attacks"]["DWB"]
    assert alone[1]["attack_success_rate"] == grid.get("attack_success_rate")
    assert alone[1]["accuracy_under_attack"] == grid["accuracy_under_attack"]


def _attack_alone(settings, folder, results):
    """Attack one head of the grid by itself."""
    from safetensors.torch import load_file

    from hf_vub.attacks import attack_text

    model, tokenizer, *_ = load_backbone(settings, 2, [])
    name = results["runs"][-1]["name"]
    model.head.load_state_dict(load_file(next((folder / "heads").rglob(f"{name}.safetensors"))))
    test = load_splits(settings.dataset, max_train=120, max_test=40)["test"]
    options = {"tokenizer": tokenizer, "num_examples": 4, "max_length": 32, "progress": False}
    return name, attack_text(model, test, "deepwordbug", **options)


def test_without_a_classifier_the_tuned_logistic_regression_is_vanilla(image_model, tmp_path):
    from hf_vub.paper.reproduction import reproduce

    settings = experiment(
        "cifar10", model=str(image_model), dataset="digits", attacks=["fgs"], stress=[], validation=0.0,
        epsilons=["0.1"], **{**SETTINGS, **SIZES, "runs": 1, "objectives": ["vub"], "betas": [1e-3]}, from_config=True,
    )  # fmt: skip
    results = reproduce(settings, tmp_path / "out")
    assert results.vanilla == results.baselines["logistic regression"]
    assert results.vanilla.origin == "logistic regression"
    assert results.vanilla.metrics["accuracy"] > 0.2  # chance is 0.1
    assert results.vanilla.hyperparameters["C"] > 0
    assert results.chosen["validation"]["vub"].on == "test"
    assert results.vanilla.attacks.keys() == results.runs[0].attacks.keys() == {"FGS 0.1"}


# Comparisons on one's own data


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """Write 200 generated reviews as a CSV file with column names and labels of its own."""
    path = tmp_path_factory.mktemp("data") / "shop reviews.csv"
    rows = reviews(200, 10)["train"]
    Dataset.from_dict({"body": rows["text"], "stars": [label + 1 for label in rows["label"]]}).to_csv(path)
    return path


OWN = {"runs": 2, "epochs": 2, "betas": [1e-3, 1e-1], "text_column": "body", "label_column": "stars", "max_length": 32}


def test_a_comparison_on_ones_own_file(text_model, own_data, tmp_path):
    results = compare(str(text_model), str(own_data), tmp_path / "out", attacks=[], learning_rate=1e-2, **OWN)
    assert (results.kind, results.dataset, results.claims) == ("comparison", "shop reviews.csv", ())
    assert results.data.class_names == ("1", "2")
    assert (results.data.num_train, results.data.num_validation, results.data.num_test) == (144, 16, 40)
    candidates = {
        "the stock classifier": [results.vanilla],
        "the logistic regression": [results.baselines["logistic regression"]],
        "the early-stopped MLP": [results.baselines["early-stopped MLP"]],
    }
    for objective, choice in results.chosen["validation"].items():
        assert (choice.by, choice.on) == ("nll", "validation")
        same = [run for run in results.runs if (run.objective, run.beta) == (objective, choice.beta)]
        candidates[f"{objective.upper()} with beta {choice.beta:g}"] = same
    means = {name: np.mean([run.validation["nll"] for run in runs]) for name, runs in candidates.items()}
    assert results.recommendation.startswith(f"Use {min(means, key=means.get)}: ")
    assert read_result(tmp_path / "out" / "results.json") == results
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h1>shop reviews.csv: " in page
    assert "imdb" not in page


def test_a_comparison_attacks_what_was_chosen_and_the_baselines(image_model, tmp_path):
    from hf_vub.paper.reproduction import reproduce

    options = {**SETTINGS, **SIZES, "attacks": ["fgs"], "stress": [], "epsilons": ["0.1"]}
    settings = comparison(str(image_model), "digits", **options)
    assert settings.task == "image"
    results = reproduce(settings, tmp_path / "out")
    chosen = {(objective, choice.beta) for objective, choice in results.chosen["validation"].items()}
    for run in results.runs:
        assert bool(run.attacks) == ((run.objective, run.beta) in chosen)
    assert all(run.attacks.keys() == {"FGS 0.1"} for run in (results.vanilla, *results.baselines.values()))


def test_rows_that_the_backbone_was_trained_on_are_counted(text_model, own_data, tmp_path, caplog):
    shutil.copytree(text_model, tmp_path / "model")
    trained = load_splits(own_data, text_column="body", label_column="stars")  # without validation rows of its own
    TrainingRecord.of(trained, str(own_data)).save(tmp_path / "model")
    few = {**OWN, "runs": 1, "betas": [1e-3], "objectives": ["vib"]}
    results = compare(str(tmp_path / "model"), str(own_data), tmp_path / "out", attacks=[], **few)
    assert results.data.seen_by_backbone == {"train": 144, "validation": 16, "test": 0}
    assert "trained or selected on 16 of the 16 validation rows" in caplog.text


def test_a_comparison_needs_validation_rows():
    with pytest.raises(ValueError, match="validation is 0; a comparison chooses its setting on validation rows"):
        comparison("model", "digits", task="image", validation=0.0)


# Kills


@pytest.fixture
def command(image_model):
    """Return the command on images, with everything fixed but what the folder holds: its results can be compared."""
    return [
        *(sys.executable, str(ROOT / "scripts" / "reproduce.py"), "cifar10", "--model", str(image_model)),
        *("--dataset", "digits", "--runs", "1", "--epochs", "20", "--betas", "1e-3", "1e-1", "--max_train", "120"),
        *("--max_test", "40", "--num_examples", "4", "--attacks", "fgs", "--stress", "none"),
        *("--output_dir", "out"),
    ]


def _start(command, folder):
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def test_killed_again_and_again_it_ends_with_the_same_results(command, tmp_path):
    undisturbed = _start(command, tmp_path / "undisturbed")
    began = time.monotonic()
    assert undisturbed.wait(timeout=900) == 0, undisturbed.stderr.read()
    whole = time.monotonic() - began
    rng = random.Random(0)
    for kill in range(2):
        process = _start(command, tmp_path / "killed")
        # Somewhere in what is left; each attempt has come further than the one before.
        time.sleep(whole * rng.uniform(0.3, 0.9) * (0.9**kill))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=600)
        process.stderr.close()
    last = _start(command, tmp_path / "killed")
    assert last.wait(timeout=900) == 0, last.stderr.read()
    results = [read_json(tmp_path / name / "out" / "results.json") for name in ("undisturbed", "killed")]
    assert json.dumps(without_seconds(results[0])) == json.dumps(without_seconds(results[1]))
    leftovers = [path.name for path in (tmp_path / "killed" / "out").glob("*.json")]
    assert sorted(leftovers) == sorted(path.name for path in (tmp_path / "undisturbed" / "out").glob("*.json"))
    for table in (tmp_path / "undisturbed" / "out" / "tables").iterdir():
        assert table.read_bytes() == (tmp_path / "killed" / "out" / "tables" / table.name).read_bytes()


def test_script_says_what_is_wrong(tmp_path):
    options = ["imdb", "--model", "nowhere", "--dataset", "nowhere.parquet", "--output_dir", str(tmp_path / "out")]
    found = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reproduce.py"), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert found.returncode == 2
    assert "error: no file or folder nowhere.parquet" in found.stderr
    assert "Traceback" not in found.stderr
