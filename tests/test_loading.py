"""Loading a classifier of either task, ours or a stock one, with its tokenizer or image processor."""

import logging

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    ViTImageProcessor,
)

from helpers.models import backbone_config, build_model, model_inputs
from hf_vub.data.synthetic import word_tokenizer
from hf_vub.model.loading import backbone_dtype, load_classifier, load_processor

NO_TOKENIZER = "holds no Tokenizer|Can't load tokenizer|Couldn't instantiate the backend tokenizer"
TEXTS = ["a good film", "a bad film", "the film was fine"]


def text_model(name="bert"):
    """A tiny classifier with an embedding for each token of the tokenizer below."""
    return build_model(name, vocab_size=120)


def save(folder, model, task):
    model.save_pretrained(folder)
    if task == "text":
        word_tokenizer(TEXTS, vocab_size=120, max_length=16).save_pretrained(folder)
    elif not (folder / "preprocessor_config.json").exists():
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("name", "task"), [("bert", "text"), ("vit", "image"), ("timm-resnet", "image")])
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stock"])
def test_a_checkpoint_of_either_kind_comes_with_its_processor(name, task, ours, tmp_path):
    model = text_model() if task == "text" else build_model(name)
    if not ours:
        auto = AutoModelForSequenceClassification if task == "text" else AutoModelForImageClassification
        model = auto.from_config(model.config.backbone_config).eval()
    if not ours and name == "timm-resnet":
        pytest.skip("timm's own preprocessing is read from a timm checkpoint, which this one is not")
    folder = save(tmp_path, model, task)
    loaded = load_classifier(folder, task)
    assert loaded.name == str(folder)
    assert not loaded.network.training
    inputs = model_inputs(name)
    assert torch.equal(loaded.network(**inputs).logits, model(**inputs).logits)
    assert type(loaded.processor) is type(load_processor(folder, task))


def test_a_module_is_left_as_it_is_and_brings_the_tokenizer_of_its_checkpoint(tmp_path):
    folder = save(tmp_path, text_model(), "text")
    network = load_classifier(folder, "text").network.train()
    again = load_classifier(network, "text")
    assert again.network is network
    assert network.training
    assert (again.name, len(again.processor)) == (str(folder), len(load_processor(folder, "text")))
    with pytest.raises(ValueError, match="tokenizer is None, and this VUBForSequenceClassification was not loaded"):
        load_classifier(build_model("bert"), "text")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises((OSError, ValueError), match=NO_TOKENIZER):
        load_classifier(network, "text")


def test_a_module_of_images_brings_its_processor_or_takes_plain_pixels(tmp_path, caplog):
    folder = save(tmp_path, build_model("vit"), "image")
    network = load_classifier(folder, "image").network
    assert isinstance(load_classifier(network, "image").processor, type(load_processor(folder, "image")))
    assert load_classifier(torch.nn.Linear(2, 2), "image")[1:] == (None, "Linear")
    (folder / "preprocessor_config.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert load_classifier(network, "image").processor is None
    assert "No image processor is saved with" in caplog.text


@pytest.mark.parametrize("given", [True, False], ids=["module", "folder"])
def test_the_dtype_is_that_of_the_backbone(given, tmp_path):
    folder = save(tmp_path, text_model(), "text")
    model = load_classifier(folder, "text").network if given else folder
    network = load_classifier(model, "text", dtype="bfloat16").network
    assert backbone_dtype(network) == torch.bfloat16
    assert {parameter.dtype for parameter in network.head.parameters()} == {torch.float32}
    if given:
        assert backbone_dtype(model) == torch.float32
    with pytest.raises(ValueError, match="dtype must be None, 'float32' or 'bfloat16', but is 'float16'"):
        load_classifier(folder, "text", dtype="float16")


def test_a_decoder_without_padding_takes_that_of_its_tokenizer(tmp_path):
    config = backbone_config("gpt2", vocab_size=120)
    config.pad_token_id = None
    folder = save(tmp_path, AutoModelForSequenceClassification.from_config(config), "text")
    network, tokenizer, _ = load_classifier(folder, "text")
    assert network.config.pad_token_id == tokenizer.pad_token_id is not None
    assert network(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.shape == (3, 3)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path):
    folder = save(tmp_path, text_model(), "text")
    many = word_tokenizer([" ".join(f"word{number}" for number in range(100))], vocab_size=150)
    with pytest.raises(ValueError, match=rf"the tokenizer has {len(many)} tokens and the model .* for 120"):
        load_classifier(folder, "text", processor=many)
    few = load_processor(folder, "text")
    few.add_tokens([f"<image {number}>" for number in range(80)])
    assert load_classifier(folder, "text", processor=few).processor is few


@pytest.mark.parametrize("name", ["bert", "gpt2", "roberta", "deberta-v2"])
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stock"])
def test_a_missing_tokenizer_is_missed_on_every_version(name, ours, tmp_path):
    """transformers 5 makes a tokenizer of five tokens for which every word is unknown."""
    model = build_model(name)
    (model if ours else model.backbone).save_pretrained(tmp_path)
    with pytest.raises((OSError, ValueError), match=NO_TOKENIZER):
        load_processor(tmp_path, "text")


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\xff"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_damaged_file_is_one_sentence_with_its_name(name, content, tmp_path):
    folder = save(tmp_path / "model", text_model(), "text")
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises((OSError, ValueError), match=f"{name}|{folder}"):
        load_classifier(folder, "text")


@pytest.mark.parametrize("content", ['{"version": "1.0"}', '{"model": {"type": "Odd"}}'])
def test_a_tokenizer_of_no_known_kind_is_one_sentence(content, tmp_path):
    folder = save(tmp_path / "model", text_model(), "text")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=f"tokenizer.json of {folder} cannot be read|{folder} holds no Tokenizer"):
        load_classifier(folder, "text")


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task must be 'text' or 'image', but is 'audio'"):
        load_classifier("nowhere", "audio")


def test_no_checkpoint_carries_the_loader(tmp_path):
    build_model("bert").save_pretrained(tmp_path)
    assert (tmp_path / "modeling_vub.py").exists()
    assert not (tmp_path / "loading.py").exists()
