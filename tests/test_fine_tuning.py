"""From a data set and a checkpoint to a trained, tested, saved classifier: the library and the scripts around it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    BitImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    TrainingArguments,
    pipeline,
)

from helpers.models import backbone_config
from hf_vub import VUBForImageClassification, VUBForSequenceClassification, VUBTrainer, VUBTrainingArguments
from hf_vub.data import synthetic
from hf_vub.data.record import TrainingRecord
from hf_vub.data.splits import load_splits
from hf_vub.runs.files import read_json
from hf_vub.runs.schema import read_result
from hf_vub.training import DataArguments, ModelArguments, fine_tune
from hf_vub.training.classifiers import timm_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A folder of parquet files, and a folder with a tiny stock classifier and its tokenizer."""
    folder = tmp_path_factory.mktemp("reviews")
    splits = synthetic.reviews(num_train=160, num_test=60)
    (folder / "data").mkdir()
    for name, split in splits.items():
        split.to_parquet(folder / "data" / f"{name}.parquet")
    tokenizer = synthetic.word_tokenizer(splits["train"]["text"], vocab_size=400)
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 64
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def arguments(folder, **options):
    defaults = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "learning_rate": 1e-3,
    }
    return VUBTrainingArguments(str(folder), **{**defaults, **options})


def run_text(reviews, folder, training=None, **options):
    data = {"dataset": str(reviews / "data"), "max_length": 48, "feature_cache": str(folder.parent / "cache")}
    model = {"model": str(reviews / "model")}
    for name, value in options.items():
        (data if name in DataArguments.__dataclass_fields__ else model)[name] = value
    return fine_tune("text", ModelArguments(**model), DataArguments(**data), training or arguments(folder))


@pytest.mark.parametrize("options", [{}, {"freeze_backbone": True}], ids=["whole", "head"])
def test_a_text_run_leaves_a_checkpoint_with_everything(reviews, tmp_path, options):
    result = run_text(reviews, tmp_path / "run", **options)
    assert read_result(tmp_path / "run" / "result.json") == result
    assert (result.num_train, result.num_validation, result.num_test, result.num_labels) == (144, 16, 60, 2)
    assert result.data_rows.startswith("trained on 144 rows (")
    assert "selected on 16 rows (10% of split 'train'" in result.data_rows
    assert "tested on 60 rows (split 'test')" in result.data_rows
    assert {"accuracy", "nll", "ece", "rate", "bound_vub"} <= result["metrics"].keys()
    classify = pipeline("text-classification", model=str(tmp_path / "run"))
    assert classify("a fine film")[0]["label"] in {"negative", "positive", "neg", "pos"}
    model = VUBForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.label_entropy == pytest.approx(0.6931, abs=1e-3)
    assert (tmp_path / "run" / "information_plane.jsonl").exists()


def test_training_on_cached_features_is_training_the_frozen_model(reviews, tmp_path):
    """The frozen backbone has no dropout and the head the same noise: both ways end in the same head."""
    found = []
    for name, options in (("cached", {}), ("live", {"augment": True})):
        training = arguments(tmp_path / name, per_device_train_batch_size=160)
        run_text(reviews, tmp_path / name, training, freeze_backbone=True, **options)
        found.append(VUBForSequenceClassification.from_pretrained(tmp_path / name).head.state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-5, rtol=1e-4)


def test_vanilla_is_the_stock_classifier(reviews, tmp_path):
    result = run_text(reviews, tmp_path / "run", objective="vanilla")
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")) is BertForSequenceClassification
    assert "rate" not in result.metrics
    assert {"accuracy", "nll", "brier", "ece"} <= result.metrics.keys()


def test_no_epochs_only_tests(reviews, tmp_path):
    result = run_text(reviews, tmp_path / "run", arguments(tmp_path / "run", num_train_epochs=0), objective="vanilla")
    assert not (tmp_path / "run" / "settings.json").exists()
    assert 0 <= result["metrics"]["accuracy"] <= 1


def test_images_from_scratch_then_a_head_on_them(tmp_path):
    pytest.importorskip("timm")
    base = {"save_strategy": "no", "per_device_train_batch_size": 64}
    data = DataArguments("digits", augment=True, max_train=256, max_test=100)
    model = ModelArguments("timm/test_resnet", "vanilla", from_scratch=True, image_size=32)
    fine_tune("image", model, data, arguments(tmp_path / "vanilla", **base))
    stock = AutoModelForImageClassification.from_pretrained(tmp_path / "vanilla")
    data = DataArguments("digits", max_train=256, max_test=100, feature_cache=str(tmp_path / "cache"))
    model = ModelArguments(str(tmp_path / "vanilla"), "vib", freeze_backbone=True)
    fine_tune("image", model, data, arguments(tmp_path / "head", num_train_epochs=2, **base))
    pixels = torch.randn(2, 3, 32, 32)
    trained = VUBForImageClassification.from_pretrained(tmp_path / "head")
    assert trained.config.id2label == stock.config.id2label
    assert trained(pixel_values=pixels).logits.shape == (2, 10)
    image = synthetic.digits()["test"][0]["image"]
    assert len(pipeline("image-classification", model=str(tmp_path / "head"))(image)) == 5


def test_inception_goes_from_random_weights_at_its_own_size():
    pytest.importorskip("timm")
    config = timm_config("inception_v3.tv_in1k", num_labels=10)
    assert config.pretrained_cfg["input_size"] == (3, 299, 299)
    assert config.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="timm/inception_v9"):
        timm_config("inception_v9")


def splits_of(reviews):
    return load_splits(reviews / "data", validation=0.1)


@pytest.mark.parametrize("objective", ["vanilla", "vub"])
def test_the_checkpoint_says_which_rows_it_was_trained_and_selected_on(objective, reviews, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 5}
    run_text(reviews, tmp_path / "run", arguments(tmp_path / "run", **saving), objective=objective)
    splits = splits_of(reviews)
    for place in ("run", "run/checkpoint-5"):
        record = TrainingRecord.load(tmp_path / place)
        assert record.digest == splits.digest
        assert record.seen(splits["train"]).all()
        assert record.seen(splits["validation"]).all()
        assert not record.seen(splits["test"]).any()


def test_a_head_on_a_trained_backbone_has_seen_what_the_backbone_was_trained_on(reviews, tmp_path):
    run_text(reviews, tmp_path / "base", objective="vanilla")
    other = synthetic.reviews(num_train=40, num_test=20, seed=5)
    for name, split in other.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        split.to_parquet(tmp_path / "data" / f"{name}.parquet")
    again = {"model": str(tmp_path / "base"), "dataset": str(tmp_path / "data"), "freeze_backbone": True}
    run_text(reviews, tmp_path / "head", arguments(tmp_path / "head"), **again)
    record = TrainingRecord.load(tmp_path / "head")
    assert record.seen(splits_of(reviews)["train"]).all()
    assert record.seen(load_splits(tmp_path / "data", validation=0.1)["train"]).all()


def test_the_best_checkpoint_is_chosen_on_validation_rows(reviews, tmp_path, monkeypatch):
    """The test rows are evaluated once, at the end."""
    asked = []
    whole = VUBTrainer.evaluate

    def watched(self, eval_dataset=None, *args, **kwargs):
        asked.append(len(self.eval_dataset if eval_dataset is None else eval_dataset))
        return whole(self, eval_dataset, *args, **kwargs)

    monkeypatch.setattr(VUBTrainer, "evaluate", watched)
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "num_train_epochs": 3}
    training = arguments(tmp_path / "run", metric_for_best_model="nll", **best)
    result = run_text(reviews, tmp_path / "run", training)
    assert asked == [16, 16, 16, 60]
    assert result.best_step in (9, 18, 27)
    with pytest.raises(ValueError, match="there are no validation rows: set validation above 0"):
        run_text(reviews, tmp_path / "none", arguments(tmp_path / "none", **best), validation=0.0)
    unknown = arguments(tmp_path / "none", metric_for_best_model="f1", **best)
    with pytest.raises(ValueError, match="metric_for_best_model is 'f1'; it must be one of loss, accuracy"):
        run_text(reviews, tmp_path / "none", unknown, objective="vanilla")


@pytest.mark.parametrize("task", ["text", "image"])
@pytest.mark.parametrize("augment", [False, True], ids=["cached", "live"])
def test_a_frozen_stock_classifier_trains_its_last_layer_alone(task, augment, reviews, resnet, tmp_path):
    """Every bit of the rest stays, batch statistics among them."""
    if task == "text":
        path, classes = reviews / "model", AutoModelForSequenceClassification
        data = DataArguments(
            str(reviews / "data"), max_length=48, feature_cache=str(tmp_path / "cache"), augment=augment
        )
    else:
        path, classes = resnet, AutoModelForImageClassification
        cache = str(tmp_path / "cache")
        data = DataArguments("digits", max_train=128, max_test=50, feature_cache=cache, augment=augment)
    run = tmp_path / "run"
    training = arguments(run, max_steps=6, save_strategy="steps", save_steps=6)
    result = fine_tune(task, ModelArguments(str(path), "vanilla", freeze_backbone=True), data, training)
    assert result.freeze_backbone is True
    before = classes.from_pretrained(path).state_dict()
    for folder in (run, run / "checkpoint-6"):
        after = classes.from_pretrained(folder)
        moved = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
        assert moved, folder
        assert all(name.startswith("classifier.") for name in moved), moved


def test_a_frozen_stock_classifier_on_features_is_the_live_one(reviews, tmp_path):
    found = []
    for name, options in (("cached", {}), ("live", {"augment": True})):
        training = arguments(tmp_path / name, per_device_train_batch_size=160)
        run_text(reviews, tmp_path / name, training, objective="vanilla", freeze_backbone=True, **options)
        found.append(AutoModelForSequenceClassification.from_pretrained(tmp_path / name).state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-5, rtol=1e-4)


def test_a_frozen_run_says_the_defaults_it_chose(reviews, tmp_path):
    training = VUBTrainingArguments(str(tmp_path / "run"), report_to=[], use_cpu=True, save_strategy="no")
    result = run_text(reviews, tmp_path / "run", training, freeze_backbone=True)
    assert (result.learning_rate, result.epochs, result.batch_size) == (1e-3, 20, 32)


SAVING = {"save_strategy": "steps", "save_steps": 5}
CHANGES = {
    "weight_decay": 0.1,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "dataloader_drop_last": True,
    "neftune_noise_alpha": 5.0,
    **(
        {"train_sampling_strategy": "group_by_length"}
        if "train_sampling_strategy" in TrainingArguments.__dataclass_fields__
        else {"group_by_length": True}
    ),
}


@pytest.fixture(scope="module")
def interrupted(reviews, tmp_path_factory):
    """A run with a checkpoint; its base model and its data are copies that a test may change."""
    folder = tmp_path_factory.mktemp("interrupted")
    shutil.copytree(reviews / "model", folder / "model")
    shutil.copytree(reviews / "data", folder / "data")
    run_text(folder, folder / "run", arguments(folder / "run", **SAVING))
    return folder


def resumed(folder, **options):
    training = {name: options.pop(name) for name in list(options) if name in TrainingArguments.__dataclass_fields__}
    return run_text(folder, folder / "run", arguments(folder / "run", **SAVING, **training), **options)


def test_a_run_with_the_same_settings_goes_on(interrupted):
    assert resumed(interrupted).metrics == read_result(interrupted / "run" / "result.json").metrics


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_training_is_refused(name, interrupted):
    with pytest.raises(ValueError, match=f"holds checkpoints of a run with {name}="):
        resumed(interrupted, **{name: CHANGES[name]})


def test_changed_options_data_and_base_models_are_refused(interrupted, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(interrupted, folder)
    paths = {"model": str(interrupted / "model"), "dataset": str(interrupted / "data")}
    with pytest.raises(ValueError, match="holds checkpoints of a run with beta=0.001, and this one has 0.5"):
        resumed(folder, beta=0.5, **paths)
    changed = synthetic.reviews(num_train=160, num_test=60, seed=9)["train"]
    kept = (interrupted / "data" / "train.parquet").read_bytes()
    changed.to_parquet(interrupted / "data" / "train.parquet")
    with pytest.raises(ValueError, match="the data set has other rows than when the checkpoints in .* were made"):
        resumed(interrupted)
    (interrupted / "data" / "train.parquet").write_bytes(kept)
    weights = load_file(interrupted / "model" / "model.safetensors")
    name = next(name for name in weights if name.endswith("layer.0.output.dense.weight"))
    save_file({**weights, name: weights[name] + 1}, interrupted / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="the base model has other weights than when the checkpoints"):
        resumed(interrupted)
    save_file(weights, interrupted / "model" / "model.safetensors", {"format": "pt"})
    (folder / "run" / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints but no settings\.json"):
        resumed(folder, **paths)


def test_a_run_resumes_from_the_checkpoint_that_is_named(interrupted):
    with pytest.raises(ValueError, match="resume_from_checkpoint is 'nowhere', but it is not a folder"):
        resumed(interrupted, resume_from_checkpoint="nowhere")
    result = resumed(interrupted, resume_from_checkpoint=str(interrupted / "run" / "checkpoint-5"))
    assert result.metrics == resumed(interrupted, resume_from_checkpoint="True").metrics
    training = arguments(interrupted / "empty", resume_from_checkpoint="True")
    with pytest.raises(ValueError, match="resume_from_checkpoint is True, but .*empty has no whole checkpoint"):
        run_text(interrupted, interrupted / "empty", training)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A folder with a tiny stock image classifier and its processor."""
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(0)
    config = ResNetConfig(num_labels=10, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(folder)
    BitImageProcessor(do_center_crop=False, size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_images_resume_exactly_in_the_middle_of_an_epoch(workers, resnet, tmp_path):
    """A crop depends on seed, epoch and row alone, not on what the loader has fetched ahead."""
    pytest.importorskip("torchvision")
    model, data = ModelArguments(str(resnet), "vanilla"), DataArguments("digits", augment=True, max_train=100)
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 16}
    options |= {"dataloader_num_workers": workers}
    fine_tune("image", model, data, arguments(tmp_path / "whole", **options))
    (tmp_path / "again").mkdir()
    for name in ("checkpoint-9", "settings.json"):
        copy = shutil.copytree if name.startswith("checkpoint") else shutil.copy
        copy(tmp_path / "whole" / name, tmp_path / "again" / name)
    assert read_json(tmp_path / "again" / "checkpoint-9" / "trainer_state.json")["epoch"] == 1.5
    fine_tune("image", model, data, arguments(tmp_path / "again", **options))
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not list((tmp_path / "again").glob("checkpoint-3"))


def script(name, *options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *map(str, options)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )


def test_the_script_trains_tests_and_describes(reviews, tmp_path):
    pytest.importorskip("jinja2")
    options = ["--model", reviews / "model", "--dataset", reviews / "data", "--objective", "vib", "--beta", "1e-2"]
    options += ["--num_train_epochs", "1", "--max_length", "48", "--report_to", "none", "--use_cpu"]
    options += ["--logging_steps", "5", "--eval_strategy", "epoch"]
    done = script("train_text.py", *options, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "%|" not in done.stderr  # nobody watches, so there is no bar
    assert "training for 1 epochs at learning rate 5e-05, 8 rows a step" in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("step ")]
    for name in ("loss", "rate", "eval_accuracy", "test_nll"):
        assert any(f" {name} " in line for line in lines), (name, lines)
    assert done.stderr.count("pin_memory") <= 1
    assert json.loads(done.stdout)["accuracy"] == read_json(tmp_path / "run" / "result.json")["metrics"]["accuracy"]
    assert "model-index" in (tmp_path / "run" / "README.md").read_text()


BAD = {
    "objective": ({"objective": "elbo"}, "objective is 'elbo'"),
    "negative beta": ({"beta": -1.0}, "beta is -1.0"),
    "nan beta": ({"beta": float("nan")}, "beta is nan"),
    "missing data": ({"dataset": "nowhere.parquet"}, "nowhere.parquet"),
    "empty data": ({"dataset": "{tmp}/empty.csv"}, "no rows|empty"),
    "missing column": ({"text_column": "words"}, "words"),
    "labels out of range": ({"dataset": "{tmp}/unlabelled.csv"}, "-1"),
    "the other medium": ({"dataset": "digits"}, "digits"),
    "only a test file": ({"dataset": "{tmp}/only"}, "train"),
    "no model": ({"model": "{tmp}/nowhere"}, "nowhere"),
    "corrupt weights": ({"model": "{tmp}/corrupt"}, "safetensors|header|deserializ|corrupt"),
    "missing weights": ({"model": "{tmp}/missing"}, "safetensors|weights"),
    "pooling of a stock model": ({"objective": "vanilla", "pooling": "mean"}, "pooling is 'mean'"),
    "latent size": ({"model": "{tmp}/vub", "latent_size": 3}, "other sizes"),
    "regression": ({"model": "{tmp}/regression"}, "problem_type|regression|num_labels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_leaves_no_folder(name, reviews, tmp_path, capsys):
    from hf_vub.command_line import command

    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "test.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 5)
    (tmp_path / "empty.csv").write_text("text,label\n")
    (tmp_path / "unlabelled.csv").write_text("text,label\n" + "good,-1\nbad,-1\n" * 5)
    for kind in ("corrupt", "missing", "vub", "regression"):
        shutil.copytree(reviews / "model", tmp_path / kind)
    (tmp_path / "corrupt" / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header at all")
    (tmp_path / "missing" / "model.safetensors").unlink()
    VUBForSequenceClassification.from_pretrained(reviews / "model").save_pretrained(tmp_path / "vub")
    config = json.loads((tmp_path / "regression" / "config.json").read_text())
    (tmp_path / "regression" / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))
    options, message = BAD[name]
    options = {key: value.format(tmp=tmp_path) if isinstance(value, str) else value for key, value in options.items()}

    with pytest.raises(SystemExit) as stopped:
        command(lambda: run_text(reviews, tmp_path / "run", **options))()
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert shown.startswith("error: ")
    assert "Traceback" not in shown
    assert __import__("re").search(message, shown), shown
    assert not (tmp_path / "run").exists()


def test_an_unknown_objective_hears_of_vanilla_too(reviews, tmp_path):
    with pytest.raises(ValueError, match="objective is 'vanila'; it must be one of 'ce', 'vib', 'vub', 'vanilla'"):
        run_text(reviews, tmp_path / "run", objective="vanila")


def test_whoever_reads_the_configuration_reads_the_weights(reviews, tmp_path):
    run_text(reviews, tmp_path / "run")
    modes = {path.stat().st_mode for path in (tmp_path / "run").iterdir() if path.name != "_lock" and path.is_file()}
    assert len(modes) == 1
