"""The record of training rows: what a checkpoint has seen, whatever file it comes from."""

from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from safetensors.numpy import save_file
from torch import nn

from helpers.tables import write_images, write_table
from hf_vub.data.record import RECORD_FILE, TrainingRecord, row_digests
from hf_vub.data.splits import load_splits

TEXTS = [f"text {row}" for row in range(40)]
LABELS = [row % 4 for row in range(40)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    splits = load_splits(write_table(tmp_path / "rows.csv", text=TEXTS, label=LABELS), validation=0.25)
    record = TrainingRecord.of(splits, "rows.csv")
    record.save(tmp_path / "model")
    loaded = TrainingRecord.load(tmp_path / "model")
    assert loaded is not None
    assert (loaded.dataset, loaded.digest) == ("rows.csv", splits.digest)
    assert loaded.rows == {"train": 24, "validation": 8, "test": 8}
    assert loaded.origin == splits.origin
    for split in ("train", "validation"):
        ours = getattr(loaded, split)
        assert ours.dtype == np.int64
        assert np.array_equal(ours, np.sort(row_digests(splits[split])))
    assert [loaded.seen(splits[split]).sum() for split in ("train", "validation", "test")] == [24, 8, 0]
    assert TEXTS[0].encode() not in (tmp_path / "model" / RECORD_FILE).read_bytes()


def test_a_model_without_a_record_has_none(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    assert TrainingRecord.load(model) is None
    assert TrainingRecord.load(tmp_path) is None
    assert TrainingRecord.load("no/such-model") is None
    assert TrainingRecord.load("not a name at all") is None
    record = TrainingRecord("rows", "0" * 64)
    record.save(tmp_path)
    model.name_or_path = str(tmp_path)
    assert TrainingRecord.load(model).digest == record.digest
    model.training_record = TrainingRecord("other", "1" * 64)
    assert TrainingRecord.load(model).dataset == "other"


@pytest.mark.parametrize("damage", ["cut", "empty", "metadata", "dtype", "json"])
def test_a_damaged_record_is_refused(tmp_path: Path, damage: str) -> None:
    path = TrainingRecord("rows", "0" * 64, train=np.arange(9)).save(tmp_path)
    rows = np.arange(3, dtype=np.float32 if damage == "dtype" else np.int64)
    described = '{"dataset": "x", "digest": "y", "origin": {}, "rows": {}}' if damage == "dtype" else "[[["
    metadata = None if damage == "metadata" else {"training_record": described}
    if damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[:50] if damage == "cut" else b"")
    else:
        save_file({"train": rows, "validation": rows}, path, metadata=metadata)
    with pytest.raises(ValueError, match=f"{RECORD_FILE} is not a record of training rows"):
        TrainingRecord.load(tmp_path)


def test_row_digests_follow_content_alone(tmp_path: Path) -> None:
    first = row_digests(Dataset.from_dict({"text": ["a", "b", "a", ""]}))
    large = Features({"content": Value("large_string")})
    other = Dataset.from_dict({"content": ["b", "", "a"]}, features=large)
    assert first[0] == first[2] != first[1]
    assert row_digests(other, "content").tolist() == [first[1], first[3], first[0]]
    assert row_digests(other.select([2, 0]), "content").tolist() == [first[0], first[1]]
    pairs = Dataset.from_dict({"text": ["a", "ab"], "text_pair": ["bc", "c"]})
    assert len({*row_digests(pairs).tolist(), *row_digests(pairs, "text").tolist()}) == 4
    with pytest.raises(ValueError, match="the columns are x: there is no"):
        row_digests(Dataset.from_dict({"x": [1]}))


def test_an_image_has_one_digest_as_file_and_as_bytes(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"cat": 3, "ant": 2})
    images = load_splits(tmp_path / "set", hold_out=0)["test"]
    paths = [row["path"] for row in images.cast_column("image", ImageFeature(decode=False))["image"]]
    embedded = Dataset.from_dict({"image": [{"bytes": Path(path).read_bytes(), "path": None} for path in paths]})
    digests = row_digests(images)
    assert len(set(digests.tolist())) == 5
    assert digests.tolist() == row_digests(embedded).tolist()
    assert digests.tolist() == row_digests(embedded.cast_column("image", ImageFeature())).tolist()


def test_the_digest_of_a_data_set_is_of_all_its_rows_and_of_nothing_else(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.csv", text=TEXTS, label=LABELS)
    digest = load_splits(path).digest
    same = write_table(tmp_path / "elsewhere" / "copy.parquet", text=TEXTS, label=LABELS)
    assert load_splits(same, seed=3, max_train=8, validation=0.1).digest == digest
    assert load_splits(write_table(tmp_path / "test.csv", text=TEXTS, label=LABELS)).digest == digest
    for change in ({"text": [*TEXTS[:-1], "new"]}, {"label": [*LABELS[:-1], 0]}, {"text": TEXTS[::-1]}):
        changed = write_table(tmp_path / "rows.csv", **{"text": TEXTS, "label": LABELS, **change})
        assert load_splits(changed).digest != digest
    named = Features({"text": Value("string"), "label": ClassLabel(names=list("wxyz"))})
    Dataset.from_dict({"text": TEXTS, "label": LABELS}, features=named).to_parquet(tmp_path / "named.parquet")
    assert load_splits(tmp_path / "named.parquet").digest != digest
