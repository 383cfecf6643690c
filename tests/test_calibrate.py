"""Calibrating checkpoints: which rows, what is stored, what follows it, and what is refused."""

import json
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from transformers import BertForSequenceClassification, ViTForImageClassification, ViTImageProcessor, pipeline

from helpers.models import backbone_config, build_model
from hf_vub import VUBConfig, VUBForSequenceClassification
from hf_vub.data import TrainingRecord, load_splits, row_digests, synthetic
from hf_vub.metrics import calibration_metrics, classification_metrics, classwise_calibration_error
from hf_vub.model.objectives import class_log_probabilities
from hf_vub.reports.plots import reliability_diagram
from hf_vub.runs.schema import Calibration, TrainResult, read_result
from hf_vub.uncertainty import calibrate, classifier_pipeline, fit_temperature
from hf_vub.uncertainty.conformal import conformal_threshold

ROOT = Path(__file__).resolve().parents[1]
ROWS = 120


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny classifiers with a training record, and the reviews that it speaks of."""
    folder = tmp_path_factory.mktemp("models")
    splits = synthetic.reviews(num_train=ROWS, num_test=60)
    tokenizer = synthetic.word_tokenizer(splits["train"]["text"], vocab_size=200, max_length=40)
    for name, rows in splits.items():
        rows.to_parquet(folder / "reviews" / f"{name}.parquet")
    config = backbone_config("bert", num_labels=2)
    config.vocab_size = len(tokenizer)
    read = load_splits(folder / "reviews", validation=0.5)
    names = read["train"].features["label"].names
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    torch.manual_seed(0)
    ours = VUBForSequenceClassification(VUBConfig(config, **labels))
    for parameter in ours.head.bottleneck_decoder.parameters():
        parameter.data *= 30  # an over-confident head
    stock = BertForSequenceClassification(config)
    stock.config.update(labels)
    for name, model in (("vub", ours), ("stock", stock)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        TrainingRecord.of(read, "reviews").save(folder / name)
    return folder


@pytest.fixture
def checkpoint(models, tmp_path):
    """Copy one of them for a test that writes into its folder."""

    def copy(name):
        return Path(shutil.copytree(models / name, tmp_path / name))

    return copy


def test_the_metrics_are_those_without_intervals():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(400, 3)) * 2, rng.integers(0, 3, 400)
    found, plain = calibration_metrics(logits, labels, resamples=200), classification_metrics(logits, labels)
    assert {name: found[name].value for name in plain} == pytest.approx(plain)
    p = np.exp(log_softmax(logits, axis=1))
    expected = 0.0
    for k in range(3):
        edges = np.minimum(np.ceil(p[:, k] * 15) - 1, 14)
        for b in range(15):
            inside = edges == b
            expected += abs(((labels == k) * 1.0 - p[:, k])[inside].sum()) / 400 / 3
    assert found["classwise_ece"].value == pytest.approx(expected)
    assert classwise_calibration_error(logits, labels) == pytest.approx(expected)
    for each in found.values():
        assert 0 <= each.low <= each.high


def test_the_intervals_cover_the_true_accuracy_and_nll():
    covered = np.zeros(2)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        correct = rng.random(200) < 0.8
        logits = np.tile([np.log(0.8), np.log(0.2)], (200, 1))
        found = calibration_metrics(logits, (~correct).astype(int), resamples=300)
        nll = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
        covered += [each.low <= truth <= each.high for each, truth in ((found["accuracy"], 0.8), (found["nll"], nll))]
    assert (covered >= 51).all()


def test_a_calibration_error_of_zero_is_in_its_interval():
    """A resample adds noise to every bin, so a percentile interval would lie above the truth."""
    low = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(1000, 2)) * 2
        labels = (rng.random(1000) > np.exp(log_softmax(logits, axis=1))[:, 0]).astype(int)
        low.append(calibration_metrics(logits, labels, resamples=200)["ece"].low)
    assert np.mean(low) < 0.005


@pytest.mark.parametrize("name", ["vub", "stock"])
def test_a_checkpoint_is_calibrated_on_the_rows_that_it_was_selected_on(checkpoint, models, name):
    folder = checkpoint(name)
    before = json.loads((folder / "config.json").read_text())
    result = calibrate(folder, models / "reviews", miscoverage=[0.2])
    assert result.data_rows == f"the {ROWS // 2} rows of reviews that the model was selected on"
    assert (result.num_temperature, result.num_thresholds, result.num_left_out) == (ROWS // 4, ROWS // 4, 0)
    assert result.has_training_record
    assert [each.split for each in result.measurements] == ["validation"]
    assert result.measurements[0].abstention is None
    assert read_result(folder / "calibration.json") == result
    assert (folder / "calibration.png").exists()
    after = json.loads((folder / "config.json").read_text())
    fields = {"probabilities", "calibration_temperature", "conformal_thresholds"}
    assert {key: value for key, value in after.items() if key not in fields} == {
        key: value for key, value in before.items() if key not in fields
    }
    if name == "vub":
        assert {key: after[key] for key in fields} == {key: result[key] for key in fields}
    else:
        assert after == before


def test_the_calibration_is_that_of_its_parts(checkpoint, models):
    """The temperature minimises the NLL of one half of the rows; the threshold is the exact rank in the other."""
    folder = checkpoint("vub")
    result = calibrate(folder, models / "reviews", probabilities="posterior", miscoverage=[0.2])
    splits = load_splits(models / "reviews", validation=0.5)
    rows = load_splits(models / "reviews")["train"]
    chosen = np.flatnonzero(np.isin(row_digests(rows), row_digests(splits["validation"])))
    rows = rows.select(chosen)
    classify = pipeline("text-classification", str(folder), top_k=None, function_to_apply="none", device="cpu")
    scores = classify(rows["text"][:], truncation=True)
    names = {name: place for place, name in classify.model.config.id2label.items()}
    logits = np.zeros((len(rows), 2))
    for row, each in enumerate(scores):
        for one in each:
            logits[row, names[one["label"]]] = one["score"]
    labels, order = np.array(rows["label"]), np.random.default_rng(0).permutation(len(rows))
    first, second = order[: len(rows) // 2], order[len(rows) // 2 :]
    log_q = class_log_probabilities(torch.from_numpy(logits), probabilities="posterior").numpy()
    temperature = fit_temperature(log_q[first], labels[first])
    assert result.calibration_temperature == pytest.approx(temperature, rel=1e-3)
    p = np.exp(log_softmax(log_q / temperature, axis=1))
    expected = conformal_threshold(p[second], labels[second], 0.2)
    assert result.conformal_thresholds == {"0.2": pytest.approx(expected.threshold, rel=1e-3)}
    assert result.measurements[0].after.nll.value < result.measurements[0].before.nll.value
    assert result.measurements[0].after.accuracy == result.measurements[0].before.accuracy


def test_automatic_probabilities_have_the_lower_nll_on_the_rows_of_the_temperature(models, tmp_path):
    found = {
        kind: calibrate(models / "vub", models / "reviews", probabilities=kind, output_dir=tmp_path / kind)
        for kind in ("softmax", "posterior", "auto")
    }
    chosen = found["auto"].probabilities
    assert found["auto"].calibration_temperature == found[chosen].calibration_temperature


def test_the_copy_of_a_checkpoint_is_whole_and_the_original_stays(models, tmp_path):
    (models / "vub" / "optimizer.pt").write_bytes(b"large")
    before = {path.name: path.read_bytes() for path in (models / "vub").iterdir() if path.is_file()}
    calibrate(models / "vub", models / "reviews", output_dir=tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in (models / "vub").iterdir() if path.is_file()} == before
    (models / "vub" / "optimizer.pt").unlink()
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names >= (before.keys() - {"optimizer.pt"}) | {"calibration.json"}
    assert "optimizer.pt" not in names
    old, new = (VUBForSequenceClassification.from_pretrained(each) for each in (models / "vub", tmp_path / "copy"))
    ids = torch.arange(5, 15)[None]
    assert torch.equal(old(input_ids=ids).logits, new(input_ids=ids).logits)
    assert not torch.equal(old(input_ids=ids).probabilities, new(input_ids=ids).probabilities)


def test_test_rows_are_measured_where_asked_for(checkpoint, models):
    result = calibrate(checkpoint("vub"), models / "reviews", miscoverage=[0.1, 0.2], report_test=True)
    test = result.measurements[1]
    assert (test.split, test.num_examples) == ("test", 60)
    assert [each.miscoverage for each in test.abstention] == [0.1, 0.2]
    for each in test.abstention:
        assert 0 <= each.answered <= 1
        assert 0 <= each.coverage <= 1


def test_rows_of_a_named_split_that_were_trained_on_are_left_out(checkpoint, models):
    result = calibrate(checkpoint("vub"), models / "reviews", split="train")
    trained = set(TrainingRecord.load(models / "vub").train.tolist())
    digests = row_digests(load_splits(models / "reviews")["train"])
    left_out = sum(int(digest) in trained for digest in digests)
    assert result.num_left_out == left_out > 0
    assert f"without {left_out} that the model was trained on" in result.data_rows
    assert result.num_temperature + result.num_thresholds == ROWS - left_out


def test_rows_in_memory(checkpoint, models):
    rows = load_splits(models / "reviews")["test"].rename_column("text", "Review")
    result = calibrate(checkpoint("stock"), rows, miscoverage=[0.2])
    assert result.dataset == "in memory"
    assert result.num_temperature + result.num_thresholds == 60


def test_a_table_without_a_header_is_read_by_the_names_of_its_columns(checkpoint, models, tmp_path):
    rows = load_splits(models / "reviews")["test"]
    names = rows.features["label"].names
    lines = [f'{names[label]},"{text}"' for label, text in zip(rows["label"], rows["text"], strict=True)]
    (tmp_path / "held_out.csv").write_text("\n".join(lines) + "\n")
    options = {"miscoverage": [0.2], "column_names": ["label", "text"], "split": "train"}
    headless = calibrate(checkpoint("stock"), tmp_path / "held_out.csv", **options)
    shutil.rmtree(tmp_path / "stock")
    named = calibrate(checkpoint("stock"), models / "reviews", split="test", miscoverage=[0.2])
    assert headless.num_temperature + headless.num_thresholds == 60
    assert headless.calibration_temperature == pytest.approx(named.calibration_temperature, rel=1e-4)
    assert headless.conformal_thresholds == pytest.approx(named.conformal_thresholds, rel=1e-4)


@pytest.mark.parametrize("metric", ["brier", "ece", "classwise_ece"])
def test_the_intervals_of_calibration_cover_their_true_values(metric):
    """Rows of confidence 0.9 that are right in 70 %: the true ECE is 0.2, in every bootstrap world but few."""
    covered = 0
    truth = {"brier": 2 * (0.7 * 0.01 + 0.3 * 0.81), "ece": 0.2, "classwise_ece": 0.2}[metric]
    for seed in range(40):
        rng = np.random.default_rng(seed)
        right = rng.random(300) < 0.7
        predicted = rng.integers(0, 2, 300)
        logits = np.where(np.arange(2) == predicted[:, None], np.log(0.9), np.log(0.1))
        found = calibration_metrics(logits, np.where(right, predicted, 1 - predicted), resamples=200)[metric]
        covered += found.low <= truth <= found.high
    assert covered >= 34


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "missing"}, "split is 'missing', but .* has the splits"),
        ({"probabilities": "sigmoid"}, "probabilities must be 'auto', 'softmax' or 'posterior', but is 'sigmoid'"),
        ({"miscoverage": [0.0]}, "miscoverage must be above 0 and below 1, but is 0"),
        ({"match_labels": "guess"}, "match_labels must be 'name' or 'number'"),
    ],
)
def test_impossible_options_are_refused_and_nothing_is_written(checkpoint, models, options, message):
    folder = checkpoint("vub")
    with pytest.raises(ValueError, match=message):
        calibrate(folder, models / "reviews", **options)
    assert not (folder / "calibration.json").exists()


def test_a_checkpoint_without_held_out_rows_is_refused(checkpoint, models):
    folder = checkpoint("vub")
    (folder / "training_rows.safetensors").unlink()
    with pytest.raises(ValueError, match="no held-out rows: .* no validation split to spare, and .* has no record"):
        calibrate(folder, models / "reviews")
    TrainingRecord.of(load_splits(models / "reviews"), "reviews").save(folder)
    with pytest.raises(ValueError, match="no held-out rows: .* was trained on all 120 rows of split 'train'"):
        calibrate(folder, models / "reviews", split="train")
    with pytest.raises(ValueError, match="no held-out rows: .* was selected on none of its rows"):
        calibrate(folder, models / "reviews")


def test_rows_of_one_class_are_refused(checkpoint, models):
    rows = load_splits(models / "reviews")["test"].filter(lambda row: row["label"] == 1)
    with pytest.raises(ValueError, match="labels hold class 1 only; a temperature needs held-out rows of at least two"):
        calibrate(checkpoint("vub"), rows)


@pytest.mark.parametrize("name", ["vub", "stock"])
def test_a_calibrated_checkpoint_is_fitted_again_only_where_asked_for(checkpoint, models, name):
    folder = checkpoint(name)
    first = calibrate(folder, models / "reviews")
    with pytest.raises(ValueError, match="is calibrated already, with the temperature .*: set refit"):
        calibrate(folder, models / "reviews")
    again = calibrate(folder, models / "reviews", refit=True)
    assert again.calibration_temperature == first.calibration_temperature  # of the training logits, not of its own
    if name == "vub":
        (folder / "calibration.json").unlink()
        with pytest.raises(ValueError, match="is calibrated already"):
            calibrate(folder, models / "reviews")


def test_a_stock_model_has_no_min_term(checkpoint, models):
    with pytest.raises(ValueError, match="is a stock BertForSequenceClassification, trained without the min term"):
        calibrate(checkpoint("stock"), models / "reviews", probabilities="posterior")


def test_what_cannot_be_stored_is_refused_first(models, tmp_path):
    with pytest.raises(ValueError, match="user/model is not a folder, so .*: set output_dir"):
        calibrate("user/model", models / "reviews")
    with pytest.raises(ValueError, match="holds a checkpoint already: name a new folder"):
        calibrate(models / "vub", models / "reviews", output_dir=models / "stock")
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ValueError, match="has no config.json, as adapters have none"):
        calibrate(tmp_path / "adapter", models / "reviews")


def test_too_few_rows_for_a_threshold_are_said(checkpoint, models, caplog):
    with caplog.at_level(logging.WARNING):
        result = calibrate(checkpoint("vub"), models / "reviews", miscoverage=[0.001, 0.2])
    assert "30 rows are too few for sets that miss at most 0.001 of the labels" in caplog.text
    assert list(result.conformal_thresholds) == ["0.2"]


@pytest.fixture(scope="module")
def calibrated(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    for name in ("vub", "stock"):
        calibrate(models / name, models / "reviews", miscoverage=[0.2], output_dir=folder / name)
    return folder


@pytest.mark.parametrize("name", ["vub", "stock"])
def test_the_scores_of_the_pipeline_follow_the_calibration(calibrated, models, name):
    texts = load_splits(models / "reviews")["test"]["text"][:4]
    found = classifier_pipeline(calibrated / name, top_k=None, device="cpu")(texts)
    plain = pipeline("text-classification", str(calibrated / name), top_k=None, device="cpu")
    stock = plain(texts, truncation=True)
    logits = torch.tensor([[one["score"] for one in each] for each in stock]).log()  # highest first
    calibration = read_result(calibrated / name / "calibration.json")
    kind, temperature = calibration.probabilities, calibration.calibration_temperature
    expected = class_log_probabilities(logits, probabilities=kind, temperature=temperature).exp()
    torch.testing.assert_close(
        torch.tensor([[one["score"] for one in each] for each in found]), expected, atol=1e-4, rtol=1e-3
    )
    assert [each[0]["label"] for each in found] == [each[0]["label"] for each in stock]
    if name == "vub":
        options = {"top_k": None, "device": "cpu", "model_kwargs": {"calibrated_logits": True}}
        asked = pipeline("text-classification", str(calibrated / name), **options)(texts, truncation=True)
        for ours, theirs in zip(found, asked, strict=True):
            assert [one["label"] for one in ours] == [one["label"] for one in theirs]
            assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-6)


@pytest.mark.parametrize("name", ["vub", "stock"])
def test_a_pipeline_abstains_where_the_set_does_not_hold_one_class(calibrated, models, name):
    texts = load_splits(models / "reviews")["test"]["text"][:]
    answers = classifier_pipeline(calibrated / name, abstain_at=0.2, device="cpu")(texts)
    scores = classifier_pipeline(calibrated / name, top_k=None, device="cpu")(texts)
    threshold = read_result(calibrated / name / "calibration.json").conformal_thresholds["0.2"]
    for answer, each in zip(answers, scores, strict=True):
        inside = {one["label"] for one in each if one["score"] >= threshold * (1 - 1e-5)}
        assert set(answer["labels"]) == inside
        assert answer["label"] == (next(iter(inside)) if len(inside) == 1 else None)
        assert answer["score"] == pytest.approx(each[0]["score"])
    single = classifier_pipeline(calibrated / name, abstain_at=0.2, device="cpu")(texts[0])
    assert single == [answers[0]]


def test_abstention_without_its_threshold_is_refused(calibrated, models):
    with pytest.raises(ValueError, match="abstain_at is 0.05, but the checkpoint stores thresholds for 0.2 only: fit"):
        classifier_pipeline(calibrated / "vub", abstain_at=0.05)
    for name in ("vub", "stock"):
        with pytest.raises(ValueError, match="abstain_at is 0.2, but the checkpoint stores no thresholds"):
            classifier_pipeline(models / name, abstain_at=0.2)
    with pytest.raises(ValueError, match="leave top_k out"):
        classifier_pipeline(calibrated / "vub", abstain_at=0.2, top_k=2)


def test_images_are_calibrated_too(tmp_path):
    pytest.importorskip("PIL")
    splits = load_splits("digits")
    rows = splits["test"].select(range(60))
    names = rows.features["label"].names
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    build_model("vit", **{"num_labels": 10, **labels}).save_pretrained(tmp_path / "vub")
    config = backbone_config("vit", num_labels=10)
    config.update(labels)
    ViTForImageClassification(config).save_pretrained(tmp_path / "stock")
    for name in ("vub", "stock"):
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / name)
        result = calibrate(tmp_path / name, rows, miscoverage=[0.2])
        assert result.task == "image"
        answer = classifier_pipeline(tmp_path / name, abstain_at=0.2, device="cpu")(rows[0]["image"])
        assert set(answer) == {"label", "score", "labels"}


def test_remote_code_follows_the_calibration_where_the_package_is_not_installed(calibrated, tmp_path):
    """A stock pipeline with calibrated_logits gives the same scores without this package."""
    code = """
        import json, sys
        import importlib.abc

        class Hidden(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "hf_vub":
                    raise ModuleNotFoundError("hf_vub is hidden", name=name)

        sys.meta_path.insert(0, Hidden())
        from transformers import pipeline
        classify = pipeline("text-classification", sys.argv[1], trust_remote_code=True, device="cpu",
                            model_kwargs={"calibrated_logits": True})
        assert "transformers_modules" in type(classify.model).__module__
        print("\\n" + json.dumps(classify("a fine film")))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(calibrated / "vub")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout.splitlines()[-1])
    (expected,) = classifier_pipeline(calibrated / "vub", device="cpu")("a fine film")
    assert found["label"] == expected["label"]
    assert found["score"] == pytest.approx(expected["score"], abs=1e-6)


def test_the_card_shows_the_calibration(checkpoint, models):
    folder = checkpoint("vub")
    TrainResult(
        versions={}, command="", commit=None, task="text", model="vub", base_model="bert", objective="vub",
        dataset="reviews", num_train=60, num_test=60, num_labels=2, metrics={"accuracy": 0.5},
    ).save(folder / "result.json")  # fmt: skip
    result = calibrate(folder, models / "reviews", miscoverage=[0.2], report_test=True)
    card = (folder / "README.md").read_text()
    assert "## Calibration" in card
    assert f"temperature {result.calibration_temperature:.4g}" in card
    assert "classifier_pipeline" in card
    assert f"{result.measurements[-1].after.ece.value:.4g}" in card
    assert "calibration.png" in card
    assert f"fitted on the {ROWS // 2} rows of reviews that the model was selected on" in card
    assert str(models) not in card
    named = calibrate(checkpoint("stock"), models / "reviews", split="test", miscoverage=[0.2])
    assert named.data_rows == "split 'test' of reviews (60 rows)"


def test_without_matplotlib_a_checkpoint_is_calibrated_all_the_same(checkpoint, models, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = checkpoint("vub")
    with caplog.at_level(logging.WARNING):
        calibrate(folder, models / "reviews", miscoverage=[0.2])
    assert "has no new diagram and card: plots need matplotlib" in caplog.text
    assert (folder / "calibration.json").exists()


def test_the_reliability_diagram_needs_no_full_bins(calibrated):
    pytest.importorskip("matplotlib")
    calibration = read_result(calibrated / "vub" / "calibration.json")
    assert isinstance(calibration, Calibration)
    figure = reliability_diagram(calibration.measurements[0])
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [label.split(" ")[0] for label in labels] == ["perfect", "before", "after"]


def test_the_command_prints_before_and_after(checkpoint, models, capsys, monkeypatch):
    folder = checkpoint("vub")
    words = ["calibrate.py", "--model", str(folder), "--dataset", str(models / "reviews"), "--miscoverage", "0.2"]
    monkeypatch.setattr(sys, "argv", [*words, "--report_test"])
    runpy.run_path(str(ROOT / "scripts" / "calibrate.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "temperature" in shown
    assert shown.count("classwise_ece") == 2
    assert "at 0.2" in shown
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / "calibrate.py"), run_name="__main__")
    assert stopped.value.code == 2
    assert "is calibrated already" in capsys.readouterr().err


def test_a_new_training_forgets_the_calibration(calibrated, models):
    from hf_vub.training.arguments import ModelArguments
    from hf_vub.training.classifiers import build_classifier

    names = load_splits(models / "reviews")["train"].features["label"].names
    network = build_classifier(
        "text", ModelArguments(model=str(calibrated / "vub"), objective="vub"), names, 0.69
    ).network
    assert (network.config.calibration_temperature, network.config.conformal_thresholds) == (1.0, None)
    assert network.config.probabilities == "softmax"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration_temperature": 0}, "calibration_temperature is 0"),
        ({"calibration_temperature": -1.0}, "calibration_temperature is -1.0"),
        ({"calibration_temperature": 1e-300}, "calibration_temperature is 1e-300"),
        ({"calibration_temperature": 10**400}, "calibration_temperature is 1000"),
        ({"conformal_thresholds": {"x": 0.5}}, "conformal_thresholds has 'x': 0.5"),
        ({"conformal_thresholds": {"0.2": 2.0}}, "conformal_thresholds has '0.2': 2.0"),
    ],
)
def test_a_calibration_that_cannot_be_gives_no_scores(checkpoint, models, change, message):
    """Without the check a temperature of 0 gave scores that are no numbers, and a negative one the opposite answers."""
    folder = checkpoint("stock")
    path = calibrate(folder, models / "reviews", miscoverage=[0.2]) and folder / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=re.escape(str(path)) + f": {message}"):
        classifier_pipeline(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, but is -1"),
        ({"miscoverage": [0.05, 0.05000001]}, "miscoverage must be different shares of 6 digits at most"),
    ],
)
def test_options_are_refused_before_the_model_is_loaded(models, options, message, monkeypatch):
    monkeypatch.setattr("hf_vub.uncertainty.calibration.load_classifier", lambda *args, **more: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=message):
        calibrate(models / "stock", models / "reviews", **options)


@pytest.mark.parametrize("name", ["vub", "stock"])
@pytest.mark.parametrize("place", ["checkpoint.shutil.copy2", "checkpoint.Calibration.save", "calibration._show"])
def test_a_calibration_that_was_killed_can_be_repeated(models, tmp_path, monkeypatch, name, place):
    """Whatever it was about to do: the same command ends as if it had not been killed."""

    def die(*args):
        raise KeyboardInterrupt

    options = {"miscoverage": [0.2], "output_dir": tmp_path / "out"}
    with monkeypatch.context() as patch:
        patch.setattr(f"hf_vub.uncertainty.{place}", die)
        with pytest.raises(KeyboardInterrupt):
            calibrate(models / name, models / "reviews", **options)
    assert not (tmp_path / "out" / "config.json").exists(), "nobody loads half of a checkpoint"
    result = calibrate(models / name, models / "reviews", **options)
    assert read_result(tmp_path / "out" / "calibration.json") == result
    assert classifier_pipeline(tmp_path / "out", abstain_at=0.2)("a good film")[0]["labels"] is not None


def test_a_model_whose_calibration_was_killed_before_its_configuration_is_not_calibrated_yet(
    checkpoint, models, monkeypatch
):
    folder = checkpoint("vub")
    before = (folder / "config.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("hf_vub.uncertainty.calibration._show", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            calibrate(folder, models / "reviews", miscoverage=[0.2])
    assert (folder / "config.json").read_bytes() == before
    calibrate(folder, models / "reviews", miscoverage=[0.2])
    with pytest.raises(ValueError, match="is calibrated already"):
        calibrate(folder, models / "reviews", miscoverage=[0.2])
