"""Heads of a sweep as checkpoints: what is exported loads like any other model, tokenizer included."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, AutoTokenizer, ViTImageProcessor, pipeline
from transformers import AutoModelForSequenceClassification as AutoTextModel

from helpers.models import build_model
from helpers.sweeps import LABELS, ROWS, train
from hf_vub import VUBForImageClassification, VUBForSequenceClassification
from hf_vub.data.synthetic import word_tokenizer
from hf_vub.model.loading import load_classifier
from hf_vub.sweep.heads import HeadRun

TEXTS = ["one fine film", "a dull and long film about one film", "fine"]
VOCABULARY = 200


@pytest.fixture(scope="module")
def result():
    """A trained head for 32 features."""
    features, labels = torch.randn(ROWS, 32), torch.arange(ROWS) % LABELS
    return train([HeadRun("vub", beta=1e-2, entropy_weight=0.5, seed=4)], features, labels, epochs=1)[0]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(TEXTS, vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, tokenizer):
    """The folder of a text model and its tokenizer."""
    folder = tmp_path_factory.mktemp("backbone")
    build_model("bert", vocab_size=VOCABULARY).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, backbone, result):
    folder = tmp_path_factory.mktemp("exported")
    model = VUBForSequenceClassification.from_pretrained(backbone)
    result.export(model, folder)
    return folder, model.eval()


def test_an_exported_head_loads_with_its_tokenizer_to_the_same_logits(exported, tokenizer, result):
    folder, model = exported
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(inputs["input_ids"], tokenizer(TEXTS, padding=True, return_tensors="pt")["input_ids"])
    loaded = AutoTextModel.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = loaded(**inputs).logits
        assert torch.equal(logits, model(**inputs).logits)
        assert torch.equal(logits, result.head(model.features(**inputs)).logits)
    config = loaded.config
    assert (config.objective, config.beta, config.entropy_weight) == ("vub", 1e-2, 0.5)
    assert config.label_entropy == result.settings.label_entropy


def test_pipelines_and_attacks_load_an_exported_folder_by_its_name(exported):
    folder, model = exported
    found = pipeline("text-classification", str(folder), device="cpu")(TEXTS)
    assert len(found) == len(TEXTS)
    network, tokenizer, name = load_classifier(folder, "text")  # as the attacks do
    assert name == str(folder)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(network(**inputs).logits, model(**inputs).logits)


def test_an_exported_folder_runs_without_this_package(exported, tmp_path):
    script = """
        import sys
        sys.modules["hf_vub"] = None
        from transformers import pipeline
        run = pipeline("text-classification", sys.argv[1], trust_remote_code=True, device="cpu")
        print(run("a fine film")[0]["score"] > 0, type(run.model).__name__)
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(exported[0])]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    ran = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ran.stdout.split() == ["True", "VUBForSequenceClassification"], ran.stderr


@pytest.mark.parametrize("given", [True, False])
def test_images_keep_their_processor(given, tmp_path):
    pytest.importorskip("PIL")
    model = build_model("vit", num_labels=LABELS)
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1] * 3)
    model.save_pretrained(tmp_path / "backbone")
    processor.save_pretrained(tmp_path / "backbone")
    model = VUBForImageClassification.from_pretrained(tmp_path / "backbone")
    features = torch.randn(ROWS, model.head.feature_size)
    result = train([HeadRun("vib")], features, torch.arange(ROWS) % LABELS, epochs=1)[0]
    result.export(model, tmp_path / "exported", processor if given else None)
    assert list(AutoImageProcessor.from_pretrained(tmp_path / "exported").image_mean) == [0.1] * 3
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "exported")
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(pixels).logits, model.eval()(pixels).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "processor is None, and the model was not loaded"),
        ({"latent_size": 5}, "latent_size of the run's head is 16, but that of the model's head is 5"),
        ({"num_labels": 2}, "num_labels of the run's head is 3, but that of the model's head is 2"),
        ({"encoder_relu": True}, "encoder_relu"),
    ],
)
def test_what_would_not_load_is_refused_before_anything_is_written(options, message, result, tmp_path):
    model = build_model("bert", **options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        result.export(model, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
