"""From a data set and a checkpoint to a trained, tested, saved classifier: the library and the scripts around it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    pipeline,
)

from helpers.models import backbone_config
from hf_vub import VUBForImageClassification, VUBForSequenceClassification, VUBTrainingArguments
from hf_vub.data import synthetic
from hf_vub.runs.files import read_json
from hf_vub.training.fine_tuning import DataArguments, ModelArguments, fine_tune, timm_config

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
    assert result == json.loads(json.dumps(result))
    assert read_json(tmp_path / "run" / "result.json")["metrics"] == result["metrics"]
    assert (result["kind"], result["num_train"], result["num_test"], result["num_labels"]) == ("train", 160, 60, 2)
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
    assert "rate" not in result["metrics"]
    assert {"accuracy", "nll", "brier", "ece"} <= result["metrics"].keys()


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


def test_a_finished_folder_of_another_run_is_refused(reviews, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 5}
    run_text(reviews, tmp_path / "run", arguments(tmp_path / "run", **saving))
    with pytest.raises(ValueError, match="holds checkpoints of a run with beta=0.001, and this one has 0.5"):
        run_text(reviews, tmp_path / "run", arguments(tmp_path / "run", **saving), beta=0.5)
    with pytest.raises(ValueError, match="holds checkpoints of a run with weight_decay=0.0, and this one has 0.1"):
        run_text(reviews, tmp_path / "run", arguments(tmp_path / "run", weight_decay=0.1, **saving))
    again = run_text(reviews, tmp_path / "run", arguments(tmp_path / "run", **saving))
    assert again["metrics"] == read_json(tmp_path / "run" / "result.json")["metrics"]


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
    done = script("train_text.py", *options, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "%|" not in done.stderr  # nobody watches, so there is no bar
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
    "no model": ({"model": "{tmp}/nowhere"}, "nowhere"),
    "corrupt weights": ({"model": "{tmp}/corrupt"}, "safetensors|header|deserializ|corrupt"),
    "missing weights": ({"model": "{tmp}/missing"}, "safetensors|weights"),
    "latent size": ({"model": "{tmp}/vub", "latent_size": 3}, "other sizes"),
    "regression": ({"model": "{tmp}/regression"}, "problem_type|regression|num_labels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_leaves_no_folder(name, reviews, tmp_path, capsys):
    import shutil

    from hf_vub.command_line import command

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
