"""Two processes train, shard, sweep, embed and attack what one does.

All jobs run one after the other in one pair of processes, whose imports cost more than the jobs.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTImageProcessor

from helpers import distributed_jobs
from helpers.image_attacks import dataset_of, vub
from helpers.models import backbone_config
from hf_vub import VUBConfig, VUBForSequenceClassification
from hf_vub.data import synthetic
from hf_vub.runs.files import read_json, read_records


def prepared(folder):
    """What the attacks read."""
    vub().save_pretrained(folder / "pictures-model")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder / "pictures-model")
    torch.manual_seed(1)
    pictures = dataset_of(torch.rand(20, 3, 10, 10), torch.arange(20) % 3, ["ant", "bee", "soccer ball"])
    pictures.save_to_disk(folder / "pictures")
    texts = synthetic.reviews(num_train=40, num_test=20)
    tokenizer = synthetic.word_tokenizer(texts["train"]["text"], vocab_size=200)
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.initializer_range = len(tokenizer), 1.0
    VUBForSequenceClassification(VUBConfig(config)).save_pretrained(folder / "texts-model")
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(folder / "texts-model")
    texts["test"].to_parquet(folder / "test.parquet")
    return folder


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    """The folders in which this process, and two others, did every job."""
    one = prepared(tmp_path_factory.mktemp("one"))
    two = tmp_path_factory.mktemp("parent") / one.name
    shutil.copytree(one, two)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, distributed_jobs.__file__, two],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    distributed_jobs.main(one)
    return one, two


@pytest.mark.parametrize("job", ["train-vib", "train-vub", "train-pgd", "train-trades", "shard"])
def test_two_processes_train_what_one_does(one_and_two, job):
    one, two = (load_file(folder / f"{job}.safetensors") for folder in one_and_two)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=0, msg=name)


def test_two_processes_sweep_the_bits_of_one(one_and_two):
    one, two = one_and_two
    assert (two / "sweep-0").read_bytes() == (one / "sweep-0").read_bytes()
    assert (two / "sweep-1").read_bytes() == (one / "sweep-0").read_bytes()


def test_two_processes_embed_the_bits_of_one(one_and_two):
    one, two = (folder / "embed.safetensors" for folder in one_and_two)
    assert two.read_bytes() == one.read_bytes()


def test_two_processes_attack_images_to_the_bits_of_one(one_and_two):
    one, two = (folder / "attack-pictures" for folder in one_and_two)
    assert timeless(read_json(two / "result.json")) == timeless(read_json(one / "result.json"))
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    assert (two / "images.safetensors").read_bytes() == (one / "images.safetensors").read_bytes()


def test_two_processes_certify_texts_to_the_votes_of_one(one_and_two):
    one, two = (folder / "certify-texts" for folder in one_and_two)
    votes = [[(each["index"], each["votes"], each["radius"]) for each in read_records(run / "records.jsonl")]
             for run in (one, two)]  # fmt: skip
    assert votes[0] == votes[1]
    assert len(votes[0]) == 7
    assert read_json(one / "result.json")["curve"] == read_json(two / "result.json")["curve"]


def test_two_processes_share_a_report_card_and_write_it_once(one_and_two):
    one, two = one_and_two
    alone, *shared = (read_json(folder / f"card-{rank}.json") for folder, rank in ((one, 0), (two, 0), (two, 1)))
    assert [card.pop("measured") for card in shared] == [alone["measured"] // 2] * 2
    del alone["measured"]
    assert shared == [alone, alone]
    files = [sorted(path.name for path in (run / "card-pictures").rglob("[!_]*")) for run in (one, two)]
    assert files[0] == files[1] == ["records.jsonl", "report_card", "report_card.json", "run.json"]
    records = [list(read_records(run / "card-pictures" / "report_card" / "records.jsonl")) for run in (one, two)]
    numbers = [[(each["index"], each["values"]) for each in rows] for rows in records]
    assert numbers[0] == numbers[1]
    assert [each["index"] for each in records[1]] == list(range(len(records[1])))


@pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
def test_two_processes_attack_texts_to_the_bits_of_one(one_and_two):
    one, two = (folder / "attack-texts" for folder in one_and_two)
    assert timeless(read_json(two / "result.json")) == timeless(read_json(one / "result.json"))
    found = [[timeless(record) for record in read_records(folder / "records.jsonl")] for folder in (two, one)]
    assert found[0] == found[1]
    assert any(record["status"] == "attacked" for record in found[0])


def timeless(content):
    """A result or a record without what differs between equal runs."""
    return {key: value for key, value in content.items() if key not in ("seconds", "command", "model", "dataset")}
