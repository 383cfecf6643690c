"""Without room, memory, rights or workers: one clear error or smaller batches, and nothing finished is lost."""

import resource
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
import torch
from torch import nn

from helpers.feature_models import TextModel, token_rows
from hf_vub.attacks.image.adversaries import FastGradient
from hf_vub.embeddings import cache
from hf_vub.embeddings import extraction as embeddings
from hf_vub.embeddings.extraction import extract
from hf_vub.embeddings.pixels import PixelModel
from hf_vub.runs import files as results
from hf_vub.sweep.heads import HeadRun, train_heads

ROOT = Path(__file__).resolve().parents[1]


class SmallMemory(nn.Module):
    """A linear classifier of images that runs out of memory with more than ``most`` of them."""

    def __init__(self, most):
        super().__init__()
        self.linear = nn.Linear(12, 3)
        self.most, self.seen = most, []

    def forward(self, pixels):
        self.seen.append(len(pixels))
        if len(pixels) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.linear(pixels.flatten(1))


def test_an_attack_goes_on_with_half_of_a_batch(caplog):
    pytest.importorskip("foolbox")
    network = SmallMemory(8)
    model, images = PixelModel(network), torch.rand(8, 3, 2, 2)
    labels = model.predict(images)
    whole = FastGradient()(model, images, labels, (0.1, 0.3))
    network.most = 3
    parts = FastGradient()(model, images, labels, (0.1, 0.3))
    for one, other in zip(whole, parts, strict=True):
        for expected, found in zip(one, other, strict=True):
            torch.testing.assert_close(found, expected)
    assert "out of memory with 8 images; continuing with 4 at a time" in caplog.text
    assert torch.equal(model.predict(images), labels)
    network.most = 0
    with pytest.raises(RuntimeError, match="out of memory"):
        model.predict(images)


@contextmanager
def small_files():
    """The process may write files of 4 KiB, which is what a full disk is to it (and to what pytest writes, if long)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_json_that_finds_no_room_leaves_what_was_there(tmp_path):
    path = results.write_json(tmp_path / "a.json", {"kept": 1})
    with small_files(), pytest.raises(OSError, match="too large"):
        results.write_json(path, {"text": "x" * 10_000})
    assert results.read_json(path) == {"kept": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_that_finds_no_room_costs_no_other(tmp_path):
    path = tmp_path / "a.jsonl"
    results.append_record(path, {"kept": 1})
    with small_files(), pytest.raises(OSError, match="too large"):
        results.append_record(path, {"text": "x" * 10_000})
    results.append_record(path, {"next": 2})
    assert list(results.read_records(path)) == [{"kept": 1}, {"next": 2}]


def test_features_that_find_no_room_are_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "SHARD_BATCHES", 1)
    rows = datasets.Dataset.from_dict(token_rows())
    expected = extract(TextModel(), rows, tmp_path / "whole", dtype="float32", batch_size=4).path.read_bytes()
    finished = []

    def fill(path, record):
        if len(finished) == 3:
            raise OSError(28, "No space left on device", str(path))
        finished.append(record)
        results.append_record(path, record)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "append_record", fill)
        with pytest.raises(OSError, match="No space left"):
            extract(TextModel(), rows, tmp_path / "full", dtype="float32", batch_size=4)
    model = TextModel()
    again = extract(model, rows, tmp_path / "full", dtype="float32", batch_size=4)
    assert again.path.read_bytes() == expected
    assert len(model.calls) == 10 - 3


def test_a_sweep_that_finds_no_room_keeps_its_checkpoints(tmp_path, monkeypatch):
    features, labels = torch.randn(40, 6), torch.arange(40) % 2
    options = {"num_labels": 2, "epochs": 4, "save_every": 1}
    expected = train_heads(features, labels, [HeadRun(seed=1)], **options, checkpoint_dir=tmp_path / "whole")
    saved = iter(range(2))
    sync = results.os.fsync

    def full(descriptor):
        if next(saved, None) is None:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(results.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            train_heads(features, labels, [HeadRun(seed=1)], **options, checkpoint_dir=tmp_path / "full")
    kept = list((tmp_path / "full").iterdir())
    assert len(kept) == 1
    assert kept[0].suffix == ".safetensors"
    again = train_heads(features, labels, [HeadRun(seed=1)], **options, checkpoint_dir=tmp_path / "full")
    assert again[0].history == expected[0].history


@pytest.mark.parametrize("where", ["file/below", "file"])
def test_a_folder_that_cannot_be_written_to_is_named_at_once(where, tmp_path):
    """Root may write anywhere, but not below a file."""
    (tmp_path / "file").touch()
    place = tmp_path / where
    rows = datasets.Dataset.from_dict(token_rows())
    model = TextModel()
    with pytest.raises(OSError, match="file"):
        extract(model, rows, place, dtype="float32")
    assert model.calls == []  # before any work
    with pytest.raises(OSError, match="file"):
        train_heads(torch.randn(4, 2), torch.arange(4) % 2, [HeadRun()], num_labels=2, epochs=1, checkpoint_dir=place)
    with pytest.raises(OSError, match="file"):
        results.lock_folder(place)


class Broken(torch.utils.data.Dataset):
    """Rows of which one cannot be loaded."""

    def __len__(self):
        return 8

    def __getitem__(self, row):
        if row == 5:
            raise ValueError("row 5 is rotten")
        return {"input_ids": [3, 4], "attention_mask": [1, 1], "labels": 0}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_raises_says_what_it_found(workers, tmp_path):
    from helpers.saving_trainer import trainer

    with pytest.raises(ValueError, match="row 5 is rotten"):
        trainer(tmp_path, Broken(), dataloader_num_workers=workers, save_strategy="no").train()


def rotten(batch):
    raise ValueError("row 5 is rotten")


def killed(batch):
    import os

    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("transform", "message"), [(rotten, "row 5 is rotten"), (killed, "DataLoader worker.*(killed|exited)")]
)
def test_a_worker_that_is_lost_is_told_of(transform, message, tmp_path):
    from helpers.feature_models import PixelModel as Pixels

    rows = datasets.Dataset.from_dict({"pixels": [0] * 4, "labels": [0] * 4}).with_transform(transform)
    with pytest.raises((ValueError, RuntimeError), match=message):
        extract(Pixels(), rows, tmp_path, dtype="float32", num_workers=1)


def test_durations_do_not_follow_the_clock_on_the_wall(tmp_path, monkeypatch):
    clock = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    for path in (ROOT / "hf_vub").rglob("*.py"):
        assert "time.time(" not in path.read_text(encoding="utf-8"), path.name
    extract(TextModel(), datasets.Dataset.from_dict(token_rows()), tmp_path, dtype="float32")
    (found,) = train_heads(torch.randn(8, 2), torch.arange(8) % 2, [HeadRun()], num_labels=2, epochs=2)
    assert len(found.history) == 2


INTERRUPTED = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from hf_vub.command_line import command
os.kill(os.getpid(), signal.SIGINT)  # while the script is still importing
"""


def test_an_interrupt_during_the_imports_is_as_clean(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED)], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == -signal.SIGINT  # which a shell shows as 130
    assert found.stderr == "\nstopped: run the same command again to resume\n"
