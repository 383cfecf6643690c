"""A new user's way through data that nobody prepared: train, attack and read the card, by the scripts.

News in one CSV without a header, in four classes numbered 1 to 4, with a title and a description; the same news with
the names of the classes; digits in flat folders of PNG files.
"""

import csv
import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertForSequenceClassification, ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from helpers.models import backbone_config
from hf_vub.data import synthetic
from hf_vub.data.record import TrainingRecord
from hf_vub.data.splits import load_splits
from hf_vub.runs.files import read_records
from hf_vub.runs.schema import read_result

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
TOPICS = {
    "World": ["treaty", "embassy", "border", "president"],
    "Sports": ["goal", "league", "coach", "season"],
    "Business": ["profit", "shares", "bank", "merger"],
    "Sci/Tech": ["orbit", "software", "genome", "chip"],
}
NAMES = ["class", "title", "description"]
COLUMNS = ["--column_names", ",".join(NAMES), "--label_column", "class"]
needs_textattack = pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")


def run(monkeypatch, script, *words):
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


@pytest.fixture(scope="module")
def news(tmp_path_factory):
    """A folder with ``news.csv`` (numbered, no header), ``named.csv`` (names, a header) and a tiny encoder."""
    folder = tmp_path_factory.mktemp("news")
    generator = np.random.default_rng(0)
    rows = []
    for row in range(400):
        name = list(TOPICS)[row * 7 % 4]
        words = generator.choice(TOPICS[name], 3)
        rows.append((name, f"{words[0]} report {row}", f"the {words[1]} and the {words[2]} of the day"))
    with open(folder / "news.csv", "w", newline="") as file:
        csv.writer(file).writerows((list(TOPICS).index(name) + 1, *texts) for name, *texts in rows)
    with open(folder / "named.csv", "w", newline="") as file:
        csv.writer(file).writerows([("topic", "title", "description"), *rows])
    tokenizer = synthetic.word_tokenizer([f"{title} {text}" for _, title, text in rows], vocab_size=600)
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 64
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with one folder of PNG files per digit, and a tiny network with its image processor."""
    folder = tmp_path_factory.mktemp("digits")
    rows = synthetic.digits()["train"].select(range(240))
    for number, row in enumerate(rows):
        place = folder / "digits" / str(row["label"])
        place.mkdir(parents=True, exist_ok=True)
        (row["image"] if isinstance(row["image"], Image.Image) else Image.fromarray(row["image"])).save(
            place / f"{number}.png"
        )
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10)
    torch.manual_seed(0)
    ResNetForImageClassification(config).save_pretrained(folder / "network")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "network")
    return folder


def train(monkeypatch, script, model, data, output, *words):
    options = ["--report_to", "none", "--use_cpu", "--save_strategy", "no", "--per_device_train_batch_size", "16"]
    run(monkeypatch, script, "--model", model, "--dataset", data, "--output_dir", output, *options, *words)
    return read_result(output / "result.json")


@pytest.fixture(scope="module")
def trained(news, tmp_path_factory):
    """A text classifier trained on ``news.csv``."""
    output = tmp_path_factory.mktemp("trained") / "news-vub"
    words = [*COLUMNS, "--text_column", "title+description", "--max_length", "32", "--seed", "5"]
    with pytest.MonkeyPatch.context() as patch:
        options = ["--num_train_epochs", "6", "--learning_rate", "3e-3"]
        train(patch, "train_text.py", news / "encoder", news / "news.csv", output, *words, *options)
    return output


def test_training_says_which_rows_it_used_and_numbers_the_classes(news, trained):
    result = read_result(trained / "result.json")
    assert result.labels == ("1", "2", "3", "4")
    assert (result.num_train, result.num_validation, result.num_test) == (288, 32, 80)
    assert result.metrics["accuracy"] > 0.8
    card = (trained / "README.md").read_text()
    assert re.search(r"20% of split 'train'", card)
    splits = load_splits(news / "news.csv", column_names=NAMES, text_column="title+description",
                         label_column="class", validation=0.1)  # fmt: skip
    record = TrainingRecord.load(trained)
    assert record is not None
    assert record.seen(splits["train"]).all()
    assert not record.seen(splits["test"]).any()


@needs_textattack
def test_an_attack_on_the_same_file_takes_the_held_out_rows_alone(monkeypatch, news, trained, capsys):
    words = [*COLUMNS, "--text_column", "title+description", "--num_examples", "20", "--query_budget", "20"]
    output = trained / "deepwordbug"
    run(
        monkeypatch,
        "attack_text.py",
        "--model",
        trained,
        "--dataset",
        news / "news.csv",
        "--output_dir",
        output,
        *words,
    )
    shown = capsys.readouterr()
    assert "attacking 20 of 80 rows: the rows of news.csv held out of training" in shown.out + shown.err
    result = read_result(output / "result.json")
    assert (result.split, result.rows_seen_in_training, result.has_training_record) == ("held-out", 0, True)
    assert result.clean_accuracy > 0.7
    assert len(list(read_records(output / "records.jsonl"))) == 20
    card = (trained / "README.md").read_text()
    assert "DeepWordBug" in card
    assert "20 of 80 rows" in card


@needs_textattack
def test_classes_named_and_sorted_otherwise_are_matched_by_name_or_refused(
    monkeypatch, news, trained, tmp_path, capsys
):
    """The checkpoint calls its classes 1 to 4: names cannot be matched by name, and the order of names is another."""
    words = ["--text_column", "title+description", "--label_column", "topic", "--num_examples", "8"]
    model = ["--model", trained, "--dataset", news / "named.csv", "--output_dir", tmp_path / "run"]
    named = train(
        monkeypatch, "train_text.py", news / "encoder", news / "named.csv", tmp_path / "named",
        *words[:4], "--max_length", "32", "--num_train_epochs", "6", "--learning_rate", "3e-3",
    )  # fmt: skip
    assert named.labels == ("Business", "Sci/Tech", "Sports", "World")
    run(
        monkeypatch, "attack_text.py", "--model", tmp_path / "named", *model[2:4], "--output_dir", tmp_path / "by-name",
        *words, "--query_budget", "5",
    )  # fmt: skip
    assert read_result(tmp_path / "by-name" / "result.json").clean_accuracy > 0.7
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tmp_path / "named")
    config.id2label = dict(enumerate(["Politics", "Science", "Sport", "Money"]))
    config.label2id = {name: number for number, name in config.id2label.items()}
    config.save_pretrained(tmp_path / "named")
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "attack_text.py", "--model", tmp_path / "named", *model[2:], *words)
    assert stopped.value.code == 2
    assert "class 'Business' of the data set is no class of the model" in capsys.readouterr().err


def test_a_frozen_vanilla_classifier_is_a_frozen_baseline(monkeypatch, news, tmp_path):
    words = [*COLUMNS, "--text_column", "title+description", "--max_length", "32", "--objective", "vanilla"]
    result = train(monkeypatch, "train_text.py", news / "encoder", news / "news.csv", tmp_path / "frozen", *words,
                   "--freeze_backbone", "--num_train_epochs", "1")  # fmt: skip
    assert result.freeze_backbone
    before = BertForSequenceClassification.from_pretrained(news / "encoder").bert.state_dict()
    after = BertForSequenceClassification.from_pretrained(tmp_path / "frozen").bert.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_table_without_a_header_is_refused_in_a_sentence_that_helps(monkeypatch, news, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train(monkeypatch, "train_text.py", news / "encoder", news / "news.csv", tmp_path / "out")
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no header" in error
    assert "column_names" in error
    assert len(error) < 300


def test_flat_folders_of_digits_go_from_training_to_a_card(monkeypatch, digits, tmp_path, capsys):
    pytest.importorskip("foolbox")
    output = tmp_path / "digits-vub"
    result = train(monkeypatch, "train_image.py", digits / "network", digits / "digits", output, "--seed", "3",
                   "--num_train_epochs", "2", "--learning_rate", "1e-2")  # fmt: skip
    assert (result.num_train + result.num_validation, result.num_test, result.num_labels) == (192, 48, 10)
    run(monkeypatch, "attack_image.py", "--model", output, "--dataset", digits / "digits", "--attack", "fgs",
        "--num_examples", "30", "--output_dir", output / "fgs")  # fmt: skip
    shown = capsys.readouterr()
    assert "attacking 30 of 48 rows: the rows of digits held out of training" in shown.out + shown.err
    attacked = read_result(output / "fgs" / "result.json")
    assert (attacked.split, attacked.rows_seen_in_training, attacked.has_training_record) == ("held-out", 0, True)
    assert "30 of 48 rows" in (output / "README.md").read_text()
