"""Which rows an attack is run on, what it says of them, and how their classes become the model's."""

import dataclasses
import logging

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from PIL import Image as Pillow
from transformers import ViTImageProcessor

from helpers.image_attacks import vit
from hf_vub.attacks import attack_image
from hf_vub.attacks.runner import describe, warn_if_seen
from hf_vub.data.record import TrainingRecord
from hf_vub.data.sample import SampleOptions, open_sample
from hf_vub.data.splits import load_splits
from hf_vub.runs.files import read_json, read_records
from hf_vub.runs.schema import read_result


@pytest.fixture
def reviews(tmp_path):
    """A data set of one file: sixty reviews of four classes, in no order."""
    names = ["World", "Sports", "Business", "Sci/Tech"]
    rows = {"text": [f"report {row}" for row in range(60)], "label": [names[row * 7 % 4] for row in range(60)]}
    path = tmp_path / "reviews.csv"
    Dataset.from_dict(rows).to_csv(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """A data set of one folder: forty photos in class folders."""
    generator = np.random.default_rng(0)
    for row in range(40):
        folder = tmp_path / "photos" / ("cat", "ant", "dog")[row % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(generator.integers(0, 256, (10, 10, 3), dtype=np.uint8)).save(folder / f"{row}.png")
    return tmp_path / "photos"


@pytest.fixture
def checkpoint(tmp_path):
    """A stock image classifier whose classes are numbered in another order than those of the photos."""
    model = vit(3)
    model.config.id2label = {0: "Dog", 1: "Cat", 2: "Ant"}
    model.save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def texts_of(sample):
    return set(sample.texts())


def test_a_file_that_nobody_was_trained_on_is_attacked_whole(reviews):
    sample = open_sample(SampleOptions(reviews, None), "text")
    assert sample.rows == list(range(60))
    assert sample.seen_in_training(None) is None
    assert "60 of 60 rows: all 60 rows of" in sample.description
    stranger = TrainingRecord.of(load_splits("synthetic-reviews", max_train=50), "synthetic-reviews")
    assert len(open_sample(SampleOptions(reviews, None), "text", [stranger])) == 60


@pytest.mark.parametrize("seed", [0, 7])
def test_of_the_file_that_a_model_was_trained_on_only_held_out_rows_are_attacked(reviews, seed):
    splits = load_splits(reviews, validation=0.1, seed=seed)
    record = TrainingRecord.of(splits, "reviews")
    sample = open_sample(SampleOptions(reviews, None, seed=3), "text", [record])
    assert texts_of(sample) == set(splits["test"]["text"])
    assert sample.seen_in_training(record) == 0
    assert "12 of 12 rows: the rows of" in sample.description
    assert "held out of training" in sample.description


def test_rows_seen_in_training_are_counted_whatever_file_they_come_in(reviews, tmp_path):
    splits = load_splits(reviews, validation=0.1)
    record = TrainingRecord.of(splits, "reviews")
    mixed = [*splits["train"]["text"][:5], *splits["validation"]["text"][:2], *splits["test"]["text"][:3]]
    Dataset.from_dict({"text": mixed, "label": [0, 1] * 5}).to_parquet(tmp_path / "other.parquet")
    assert open_sample(SampleOptions(tmp_path / "other.parquet", None), "text").seen_in_training(record) == 7
    in_memory = load_dataset("parquet", data_files=str(tmp_path / "other.parquet"))["train"]
    assert open_sample(SampleOptions(in_memory, None), "text").seen_in_training(record) == 7


def test_the_rows_are_printed_and_seen_ones_are_warned_of(reviews, capsys, caplog):
    sample = open_sample(SampleOptions(reviews, 8), "text")
    describe(sample, progress=True)
    assert "attacking 8 of 60 rows: all 60 rows of" in capsys.readouterr().err
    describe(sample, progress=False)
    assert capsys.readouterr().err == ""
    with caplog.at_level(logging.WARNING, logger="hf_vub"):
        warn_if_seen(None, sample, "user/model")
        warn_if_seen(0, sample, "user/model")
        assert not caplog.records
        warn_if_seen(3, sample, "user/model")
    assert "3 of the 8 rows attacked were used to train user/model" in caplog.text


def test_an_attack_on_the_folder_it_was_trained_on_leaves_training_images_alone(checkpoint, photos, tmp_path):
    pytest.importorskip("foolbox")
    splits = load_splits(photos, validation=0.1, seed=5)
    TrainingRecord.of(splits, "photos").save(checkpoint)
    result = attack_image(checkpoint, photos, "fgs", output_dir=tmp_path / "run", num_examples=None)
    assert (result.num_examples, result.rows_seen_in_training, result.has_training_record) == (8, 0, True)
    assert result.data_rows.startswith("8 of 8 rows: the rows of")
    saved = read_result(tmp_path / "run" / "result.json")
    assert (saved.split, saved.data_rows, saved.rows_seen_in_training) == ("held-out", result.data_rows, 0)


def test_an_attack_on_training_images_warns_and_marks_the_json(checkpoint, photos, tmp_path, caplog, capsys):
    pytest.importorskip("foolbox")
    splits = load_splits(photos, validation=0.1)
    TrainingRecord.of(splits, "photos").save(checkpoint)
    with caplog.at_level(logging.WARNING, logger="hf_vub"):
        attack_image(checkpoint, photos, "fgs", split="train", output_dir=tmp_path / "run", num_examples=None)
    assert "32 of the 40 rows attacked were used to train" in caplog.text
    assert "attacking 40 of 40 rows: split 'train' of" in capsys.readouterr().err
    content = read_json(tmp_path / "run" / "result.json")
    assert (content["rows_seen_in_training"], content["has_training_record"]) == (32, True)


def test_without_a_record_the_result_says_that_it_is_unknown(checkpoint, photos, tmp_path):
    pytest.importorskip("foolbox")
    result = attack_image(checkpoint, photos, "fgs", output_dir=tmp_path / "run", num_examples=6)
    assert (result.rows_seen_in_training, result.has_training_record) == (None, False)
    assert result.data_rows.startswith("6 of 40 rows: all 40 rows of")


def test_image_folders_are_matched_with_the_model_by_name(checkpoint, photos, tmp_path):
    pytest.importorskip("foolbox")
    options = {"output_dir": tmp_path / "run", "num_examples": None}
    assert attack_image(checkpoint, photos, "fgs", **options).class_names == ("Dog", "Cat", "Ant")
    by_name = [record["label"] for record in read_records(tmp_path / "run" / "records.jsonl")]
    given = load_splits(photos, hold_out=0)["test"]["label"]  # ant, cat, dog
    assert by_name == [(2, 1, 0)[label] for label in given]
    options = {"output_dir": tmp_path / "numbers", "num_examples": None, "match_labels": "number"}
    attack_image(checkpoint, photos, "fgs", **options)
    assert [record["label"] for record in read_records(tmp_path / "numbers" / "records.jsonl")] == list(given)


@pytest.mark.parametrize(
    ("model_names", "labels", "names"),
    [
        (["neg", "pos"], [0, 1, -1], ["neg", "pos"]),
        (["pos", "neg"], [1, 0, -1], ["pos", "neg"]),
        (["LABEL_0", "LABEL_1"], [0, 1, -1], ["neg", "pos"]),
    ],
)
def test_a_sample_is_renumbered_as_the_model(model_names, labels, names):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    data = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, None]}, features=features)
    sample = open_sample(SampleOptions(data, None), "text").aligned(model_names)
    assert (sample.labels, sample.class_names) == (labels, names)


def test_pairs_of_texts_stay_together(tmp_path):
    rows = {"premise": ["a man", "a dog"], "hypothesis": ["a person", "an animal"], "label": [0, 1]}
    Dataset.from_dict(rows).to_csv(tmp_path / "test.csv")
    sample = open_sample(SampleOptions(tmp_path / "test.csv", None, column="premise,hypothesis"), "text")
    assert (sample.texts(), sample.second_texts()) == (rows["premise"], rows["hypothesis"])


def test_an_attack_never_replaces_the_result_of_a_training(checkpoint, photos):
    pytest.importorskip("foolbox")
    (checkpoint / "result.json").write_text('{"kind": "train"}')
    with pytest.raises(ValueError, match="holds the result of a training: give a folder inside it"):
        attack_image(checkpoint, photos, "fgs", output_dir=checkpoint)
    assert read_json(checkpoint / "result.json") == {"kind": "train"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_examples": 0}, "num_examples must be a whole number of at least 1, but is 0"),
        ({"match_labels": "order"}, "match_labels must be 'name' or 'number', but is 'order'"),
        ({"split": "dev"}, "split is 'dev', but dataset is in memory and has no splits"),
        ({"column": ["a", "b"]}, "text_column must name one column of a data set in memory"),
    ],
)
def test_bad_options_are_one_sentence(options, sentence):
    data = Dataset.from_dict({"text": ["a"], "label": [0]})
    with pytest.raises(ValueError, match=sentence):
        open_sample(dataclasses.replace(SampleOptions(data, None), **options), "text")


def test_texts_are_no_images():
    with pytest.raises(ValueError, match="image"):
        open_sample(SampleOptions(Dataset.from_dict({"text": ["a"], "label": [0]}), None), "image")
    with pytest.raises(ValueError, match="image"):
        open_sample(SampleOptions("synthetic-reviews", None), "image")


def test_arrays_in_memory_are_images():
    pixels = torch.rand(2, 1, 4, 4).tolist()
    sample = open_sample(SampleOptions(Dataset.from_dict({"image": pixels, "label": [0, 1]}), None), "image")
    assert np.asarray(sample.dataset[1]["image"]).shape == (1, 4, 4)
