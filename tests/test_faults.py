"""Killed, stopped and started again: real scripts end as if nothing had happened.

The default run kills a few jobs a few times. The full form, 77 kills of eleven jobs, prints a table:
``pytest -m slow tests/test_faults.py``.
"""

import random
import shutil
import signal
import sys
from collections import Counter

import pytest
import torch
from transformers import AutoModelForImageClassification, BertConfig, BertForSequenceClassification, ResNetConfig

from helpers import killing
from hf_vub import VUBForSequenceClassification
from hf_vub.data.synthetic import reviews, word_tokenizer
from hf_vub.runs.files import lock_folder, read_json, read_records

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
pytest.importorskip("matplotlib", reason="the report needs matplotlib")

TIMES = ("seconds", "commit", "versions")
"""What two runs may differ in: the commit is the checkout's, which may move while tests run."""


@pytest.fixture(scope="session")
def scripts():
    """What starts scripts without their imports."""
    return killing.server("helpers.textattack_loaded", "hf_vub.attacks.text.attack", "hf_vub.uncertainty.calibration")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a tiny text model, a tiny image model and a table of texts."""
    from transformers import BitImageProcessor

    folder = tmp_path_factory.mktemp("models")
    splits = reviews(num_train=1600, num_test=40)
    (folder / "texts").mkdir()
    for name, split in splits.items():
        split.to_parquet(folder / "texts" / f"{name}.parquet")
    tokenizer = word_tokenizer(splits["train"]["text"], vocab_size=600, max_length=48)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, num_labels=2, **sizes)
    for name in ("bert", "guide"):
        BertForSequenceClassification(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    VUBForSequenceClassification.from_pretrained(folder / "bert").save_pretrained(folder / "vub")
    tokenizer.save_pretrained(folder / "vub")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    AutoModelForImageClassification.from_config(ResNetConfig(num_labels=10, **sizes)).save_pretrained(folder / "resnet")
    size = {"do_center_crop": False, "size": {"height": 32, "width": 32}}
    BitImageProcessor(**size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder / "resnet")
    return folder


def command(job, models):
    """Return a real command, small, of each kind."""
    texts = ["--model", str(models / "bert"), "--dataset", str(models / "texts"), "--max_length", "48"]
    pictures = ["--model", str(models / "resnet"), "--dataset", "digits"]
    output = ["--output_dir", "out"]
    training = ["--use_cpu", "--report_to", "none", "--learning_rate", "1e-2", *output, "--num_train_epochs", "3"]
    often = ["--save_strategy", "steps", "--save_steps", "4", "--save_total_limit", "2", "--logging_steps", "3"]
    augmented = [
        *("train_image.py", *pictures, *training, *often, "--augment", "--objective", "vib", "--max_train", "160"),
        *("--max_test", "40", "--per_device_train_batch_size", "16"),
    ]
    grid = ["--runs", "1", "--epochs", "12", "--betas", "1e-3", "1e-1", "--max_test", "60", "--num_examples", "4"]
    return {
        "train": [
            *("train_text.py", *texts, *training, *often, "--max_train", "96"),
            *("--per_device_train_batch_size", "8", "--eval_strategy", "epoch"),
        ],
        "train_image": augmented,
        "train_image_workers": [*augmented, "--dataloader_num_workers", "2"],
        "embed": [
            *("train_text.py", *texts, *training, "--freeze_backbone", "--feature_cache", "cache"),
            *("--per_device_train_batch_size", "32", "--save_strategy", "epoch"),
        ],
        "attack_image": [
            *("attack_image.py", *pictures, "--attack", "pgd_linf", "--num_examples", "60", "--batch_size", "5"),
            *output,
        ],
        "report_card": [
            *("attack_image.py", *pictures, "--report_card", "--num_examples", "12", "--batch_size", "4"),
            *("--steps", "5", *output),
        ],
        "attack_text": ["attack_text.py", *texts, "--num_examples", "30", *output],
        "guided": [
            *("attack_text.py", *texts, "--guide", str(models / "guide"), "--search", "both", "--num_examples", "8"),
            *output,
        ],
        "calibrate": ["calibrate.py", "--model", "out", *texts[2:], "--split", "train", "--refit"],
        "reproduce": [
            *("reproduce.py", "cifar10", *pictures, *grid, "--max_train", "300", "--attacks", "fgs", *output),
            *("--stress", "none"),
        ],
        "compare": ["reproduce.py", "compare", *texts[:4], *grid, "--max_train", "200", "--attacks", "none", *output],
    }[job]


def outcome(folder):
    """Return what a run left behind and must not depend on kills: JSON but for times, weights, tables, cards."""
    found = {}
    for path in sorted((folder / "out").rglob("*")):
        name = str(path.relative_to(folder / "out"))
        if path.suffix == ".json" and not path.name.startswith(("tokenizer", "special_tokens")):
            found[name] = without_times(read_json(path))
        elif path.suffix == ".jsonl":
            found[name] = [without_times(record) for record in read_records(path)]
        elif path.suffix in (".safetensors", ".tex") and not path.name.startswith("."):
            found[name] = path.read_bytes()
    return {name: value for name, value in found.items() if not name.startswith("checkpoint-")}


def without_times(value):
    return {name: item for name, item in value.items() if name not in TIMES}


def runs_of(job, scripts, models, folder):
    """Return the starts of a job in a new folder; a calibration is written into the folder of its model."""
    if job == "calibrate":
        shutil.copytree(models / "vub", folder / "out")
    return killing.Runs(scripts, command(job, models), folder)


KILLS = 7
JOBS = [
    *("train", "train_image", "train_image_workers", "embed", "attack_image", "attack_text", "report_card"),
    *("reproduce", "compare", "guided", "calibrate"),
]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_killed_again_and_again_it_ends_as_an_undisturbed_run(job, scripts, models, tmp_path, capsys):
    if job in ("attack_text", "guided"):
        pytest.importorskip("textattack")
    whole = runs_of(job, scripts, models, tmp_path / "whole")
    whole.finish()
    shutil.rmtree(tmp_path / "whole")
    whole = runs_of(job, scripts, models, tmp_path / "whole")
    seconds, changes = whole.finish(), whole.changes()
    expected = outcome(tmp_path / "whole")
    rng = random.Random(0)
    total = Counter()
    rounds = 0
    while total.total() < KILLS:
        runs = runs_of(job, scripts, models, tmp_path / f"killed{rounds}")
        total.update(runs.harass(KILLS - total.total(), seconds, changes, rng))
        runs.finish()
        assert outcome(runs.folder) == expected
        rounds += 1
    how = ", ".join(f"{count} {name}" for name, count in sorted(total.items()))
    with capsys.disabled():
        sys.stdout.write(f"\n{job:20} {seconds:5.0f} s, {changes} changes of files: {how}; {rounds} ended unchanged\n")


def test_killed_at_random_and_stopped_once_a_training_ends_as_if_it_had_not_been(scripts, models, tmp_path):
    """The short form: two kills at changes of files and one interrupt, of a training with checkpoints."""
    whole = killing.Runs(scripts, command("train", models), tmp_path / "whole")
    whole.finish()
    runs = killing.Runs(scripts, command("train", models), tmp_path / "killed")
    rng = random.Random(1)
    for _ in range(2):
        process = runs.start(die_at=rng.randint(20, 60))
        process.join(killing.PATIENCE)
        assert process.exitcode == -signal.SIGKILL, runs.output()
    process = runs.start()
    checkpoints = len(list(runs.folder.glob("out/checkpoint-*")))
    killing.wait_for(lambda: len(list(runs.folder.glob("out/checkpoint-*"))) != checkpoints or not process.is_alive())
    if runs.stop(process, 0, signal.SIGINT):
        assert runs.output().endswith("stopped: run the same command again to resume\n")
        assert process.exitcode == 130
        assert "Traceback" not in runs.output()
    runs.finish()
    assert outcome(runs.folder) == outcome(whole.folder)


@pytest.mark.parametrize("job", ["train_image_workers", "report_card", "guided", "calibrate"])
def test_killed_twice_it_ends_as_if_it_had_not_been(job, scripts, models, tmp_path):
    """The short form for other jobs: two kills at changes of files, the second one early."""
    if job == "guided":
        pytest.importorskip("textattack")
    whole = runs_of(job, scripts, models, tmp_path / "whole")
    whole.finish()
    runs = runs_of(job, scripts, models, tmp_path / "killed")
    for share in (0.6, 0.3):
        process = runs.start(die_at=max(1, int(share * whole.changes())))
        process.join(killing.PATIENCE)
        assert process.exitcode == -signal.SIGKILL, runs.output()
    runs.finish()
    assert outcome(runs.folder) == outcome(whole.folder)


def test_of_two_attacks_in_one_folder_one_works(scripts, models, tmp_path):
    """The other one refuses in a sentence, and works when it is asked again."""
    runs = killing.Runs(scripts, command("attack_image", models), tmp_path / "run")
    with lock_folder(tmp_path / "run" / "out"):
        second = runs.start()
        second.join(killing.PATIENCE)
    assert second.exitcode == 2
    assert "another process is writing to out; wait for it to end, or name another folder" in runs.output()
    runs.finish()
    found = outcome(runs.folder)
    assert found["result.json"]["num_examples"] == 60
