"""Streams of `datasets` in training, embedding and attacks: the same numbers as from a data set on disk."""

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from transformers import DataCollatorWithPadding

from helpers.models import backbone_config, build_model
from hf_vub import VUBConfig, VUBForSequenceClassification, VUBTrainer, VUBTrainingArguments
from hf_vub.attacks import attack_image
from hf_vub.data import synthetic
from hf_vub.data.preprocessing import tokenize
from hf_vub.data.streams import materialize
from hf_vub.embeddings.extraction import extract
from hf_vub.model.timm_processing import timm_image_processor


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder of `datasets`, empty."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def texts():
    """Reviews, a tokenizer, and a tiny model of its vocabulary."""
    reviews = synthetic.reviews(num_train=48, num_test=24)
    tokenizer = synthetic.word_tokenizer(reviews["train"]["text"], vocab_size=200)
    config = backbone_config("bert", num_labels=2)
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    return reviews, tokenizer, VUBForSequenceClassification(VUBConfig(config)).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """JPEG files of noise, which would not survive being decoded and encoded again."""
    folder, noise = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [str(folder / f"{row}.jpg") for row in range(12)]
    for path in paths:
        PillowImage.fromarray(noise.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path, quality=60)
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
    return Dataset.from_dict({"image": paths, "label": [row % 3 for row in range(12)]}, features=features)


def test_training_and_evaluation_read_a_stream(texts, tmp_path):
    reviews, tokenizer, model = texts
    rows = {name: tokenize(split, tokenizer, 32) for name, split in reviews.items()}
    streams = {name: tokenize(split.to_iterable_dataset(), tokenizer, 32) for name, split in reviews.items()}
    trainer = VUBTrainer(
        model=model,
        args=VUBTrainingArguments(
            str(tmp_path),
            max_steps=4,
            logging_steps=2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=streams["train"],
        eval_dataset=streams["test"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    assert [log["rate"] > 0 for log in trainer.state.log_history if "rate" in log] == [True, True]
    found, expected = trainer.evaluate(), trainer.evaluate(rows["test"])
    assert {name: found[name] for name in ("eval_accuracy", "eval_ece", "eval_rate")} == {
        name: expected[name] for name in ("eval_accuracy", "eval_ece", "eval_rate")
    }


def test_the_features_of_a_stream_are_those_of_its_rows(texts, cache, tmp_path):
    reviews, tokenizer, model = texts
    options = {"processing_class": tokenizer, "max_length": 32}
    expected = extract(model, reviews["test"], tmp_path / "features", **options)
    stream = reviews["test"].to_iterable_dataset()
    found = extract(model, stream, tmp_path / "features", **options)
    assert found.key == expected.key  # so the cache had them
    assert len(list(cache.glob("stream-*"))) == 1
    del stream
    assert list(cache.glob("stream-*")) == []


def test_images_stay_as_they_are(photos):
    kept = materialize(photos.to_iterable_dataset())
    assert kept.features == photos.features
    for ours, theirs in zip(kept, photos, strict=True):
        assert np.array_equal(np.asarray(ours["image"]), np.asarray(theirs["image"]))
        assert ours["label"] == theirs["label"]


@pytest.mark.parametrize("how", ["stratified", "first"])
def test_an_attack_on_a_stream_is_the_attack_on_its_rows(photos, how):
    model = build_model("resnet")
    processor = timm_image_processor({"input_size": [3, 32, 32], "crop_pct": 1.0})
    options = {"processor": processor, "num_examples": 6, "how": how, "progress": False}
    found, expected = (attack_image(model, data, "fgs", **options) for data in (photos.to_iterable_dataset(), photos))
    assert found["rows"] == expected["rows"]
    assert found["budgets"] == expected["budgets"]


def test_a_text_attack_on_a_stream_is_the_attack_on_its_rows(texts):
    pytest.importorskip("textattack", reason="text attacks are an optional extra")
    from hf_vub.attacks import attack_text

    reviews, tokenizer, model = texts
    options = {"tokenizer": tokenizer, "num_examples": 4, "max_length": 24, "progress": False}
    data = reviews["test"]
    found, expected = (attack_text(model, rows, **options) for rows in (data.to_iterable_dataset(), data))
    assert found["rows"] == expected["rows"]
    assert found["queries_mean"] == expected["queries_mean"]


def test_only_what_is_asked_for_is_read():
    def rows():
        yield from ({"text": "a", "label": 0} for _ in range(3))
        raise AssertionError("read too far")

    assert materialize(datasets.IterableDataset.from_generator(rows), 3).num_rows == 3


def test_what_is_no_stream_is_left_alone(photos):
    assert materialize(photos) is photos
    assert materialize("imdb") == "imdb"
