"""Which rows are held out is a function of the data set; whatever file is read, it is the one that was named."""

import logging
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature

from helpers.tables import write_images, write_table
from hf_vub.data.image_folders import allow_remote
from hf_vub.data.record import TrainingRecord, row_digests
from hf_vub.data.splits import label_names, load_evaluation, load_splits, read_labels

TEXTS = [f"text {row}" for row in range(200)]
LABELS = [row % 4 for row in range(200)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "rows.csv", text=TEXTS, label=LABELS)


# What is held out


def test_the_seed_does_not_touch_what_is_held_out(table: Path) -> None:
    every = [load_splits(table, seed=seed, validation=0.1) for seed in (0, 1)]
    assert {split: len(rows) for split, rows in every[0].items()} == {"train": 144, "validation": 16, "test": 40}
    for split in ("train", "validation", "test"):
        assert every[0][split]["text"][:] == every[1][split]["text"][:]
        assert len(set(np.bincount(read_labels(every[0][split])).tolist())) == 1
    assert every[0].origin == {
        "train": "split 'train' without the test rows and the validation rows",
        "validation": "10% of split 'train' without the test rows, stratified, split seed 0",
        "test": "20% of split 'train', stratified, split seed 0",
    }


def test_max_train_counts_the_validation_rows_too(table: Path) -> None:
    whole = load_splits(table, validation=0.1)
    drawn = [load_splits(table, validation=0.1, max_train=20, max_test=8, seed=seed) for seed in (0, 1)]
    for splits in drawn:
        assert {split: len(rows) for split, rows in splits.items()} == {"train": 18, "validation": 2, "test": 8}
        for split, rows in splits.items():
            assert set(rows["text"]) <= set(whole[split]["text"])
    assert drawn[0]["train"]["text"][:] != drawn[1]["train"]["text"][:]
    assert drawn[1].origin["train"].endswith(", 18 of 144 rows drawn with seed 1")
    with pytest.raises(ValueError, match="max_train is 1"):
        load_splits(table, validation=0.1, max_train=1)


def test_a_validation_split_that_stands_in_for_the_test_split_is_not_validation_too(tmp_path: Path) -> None:
    write_table(tmp_path / "set" / "train.csv", text=TEXTS, label=LABELS)
    write_table(tmp_path / "set" / "val.csv", text=[f"other {row}" for row in range(8)], label=LABELS[:8])
    splits = load_splits(tmp_path / "set", validation=0.1)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 180, "validation": 20, "test": 8}
    assert splits.origin["test"] == "split 'validation'"
    write_table(tmp_path / "set" / "test.csv", text=["x", "y"], label=[0, 1])
    splits = load_splits(tmp_path / "set", validation=0.1)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 200, "validation": 8, "test": 2}


def test_a_data_set_of_test_rows_has_nothing_to_train_on(tmp_path: Path) -> None:
    splits = load_splits(write_table(tmp_path / "test.csv", text=TEXTS, label=LABELS), validation=0.1)
    assert list(splits) == ["test"]
    assert "train" not in splits
    assert splits.get("train") is None
    with pytest.raises(ValueError, match=r"test\.csv has no train split, only test"):
        splits["train"]


@pytest.mark.parametrize("name", ["synthetic-reviews", "digits"])
def test_built_in_data_hold_out_the_same_rows_for_every_seed(name: str) -> None:
    pytest.importorskip("sklearn")
    trained = load_splits(name, seed=5, max_train=300, validation=0.1)
    record = TrainingRecord.of(trained, name)
    evaluated = load_evaluation(name, records=[record])
    assert record.seen(evaluated.dataset).sum() == 0
    assert evaluated.split == "test"


# What is evaluated


def test_a_table_that_was_trained_on_is_evaluated_on_its_held_out_rows(table: Path, tmp_path: Path) -> None:
    record = TrainingRecord.of(load_splits(table, seed=7, validation=0.1), str(table))
    copy = write_table(tmp_path / "copy" / "same.parquet", text=TEXTS, label=LABELS)
    for path in (table, copy):
        found = load_evaluation(path, records=[record])
        assert (found.split, len(found.dataset)) == ("held-out", 40)
        assert found.description.startswith(
            f"the rows of {path.name} held out of training (40 of 200: 20% of split 'train'"
        )
        assert not record.seen(found.dataset).any()


def test_another_table_is_evaluated_whole(table: Path, tmp_path: Path) -> None:
    splits = load_splits(table)
    record = TrainingRecord.of(splits, str(table))
    other = write_table(tmp_path / "other.csv", text=[*TEXTS[:50], "new"], label=LABELS[:51])
    for records in ([], [record]):
        found = load_evaluation(other, records=records)
        assert (found.split, len(found.dataset)) == ("all", 51)
        assert found.description == f"all 51 rows of {other.name}"
    assert record.seen(found.dataset).tolist() == [text in splits["train"]["text"] for text in found.dataset["text"]]
    whole = load_evaluation(table, records=[record], split="train")
    assert (whole.split, record.seen(whole.dataset).sum()) == ("train", 160)


def test_a_test_split_is_evaluated_where_there_is_one(tmp_path: Path) -> None:
    write_table(tmp_path / "set" / "train.csv", text=TEXTS, label=LABELS)
    write_table(tmp_path / "set" / "val.csv", text=["x", "y", "z", "w"], label=[0, 1, 2, 3])
    found = load_evaluation(tmp_path / "set")
    assert (found.split, found.description) == ("validation", "split 'validation' of set (4 rows)")
    write_table(tmp_path / "set" / "test.csv", text=["v"], label=[2])
    found = load_evaluation(tmp_path / "set")
    assert (found.split, found.dataset["label"][:]) == ("test", [2])
    with pytest.raises(ValueError, match="split is 'dev', but .* has the splits test, train, validation"):
        load_evaluation(tmp_path / "set", split="dev")


def test_a_folder_of_images_that_was_trained_on_is_evaluated_on_its_held_out_images(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"cat": 20, "ant": 20})
    record = TrainingRecord.of(load_splits(tmp_path / "set", seed=3, validation=0.1), "set")
    found = load_evaluation(tmp_path / "set", records=[record])
    assert (found.split, len(found.dataset), int(record.seen(found.dataset).sum())) == ("held-out", 8, 0)


# Labels


def test_numbers_from_one_are_classes_of_the_same_names_in_every_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(tmp_path / "set" / "train.csv", text=TEXTS, label=[label + 1 for label in LABELS])
    write_table(tmp_path / "set" / "test.csv", text=["x", "y"], label=[4, 2])
    with caplog.at_level(logging.INFO):
        splits = load_splits(tmp_path / "set")
    assert label_names(splits) == ["1", "2", "3", "4"]
    assert splits["train"]["label"][:] == LABELS
    assert splits["test"]["label"][:] == [3, 1]
    assert "the labels 1, 2, 3, 4 become the classes 0 to 3, named by their values" in caplog.text
    write_table(tmp_path / "set" / "test.csv", text=["x", "y"], label=[5, 2])
    with pytest.raises(ValueError, match="split 'test' has the label '5', which training lacks"):
        load_splits(tmp_path / "set")


def test_class_labels_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    def rows(names: list[str], labels: list[int]) -> Dataset:
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        return Dataset.from_dict({"text": TEXTS[: len(labels)], "label": labels}, features=features)

    DatasetDict({"train": rows(["a", "b", "c"], [0, 1, 2]), "test": rows(["c", "b"], [0, 1])}).save_to_disk(
        tmp_path / "set"
    )
    splits = load_splits(tmp_path / "set")
    assert splits["test"]["label"][:] == [2, 1]
    assert label_names(splits["test"]) == ["a", "b", "c"]


@pytest.mark.parametrize("label", ["None", "null", "NA", "nan"])
def test_words_for_nothing_are_names_of_classes(tmp_path: Path, label: str) -> None:
    (tmp_path / "words.csv").write_text("text,label\n" + f"None,{label}\nNA,other\n" * 5)
    splits = load_splits(tmp_path / "words.csv", hold_out=0)
    assert label_names(splits) == sorted([label, "other"])
    assert splits["test"]["text"][:2] == ["None", "NA"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.5] * 5, "one is 0.5; regression is not supported: put the values into classes"),
        ([[0, 1]] * 10, "several labels per row are not supported"),
        ([None] + [0] * 9, r"rows without a label \(1 of 10\)"),
        ([float("nan")] + [0.0] * 9, r"rows without a label \(1 of 10\)"),
        ([float("inf")] + [0.0] * 9, "regression is not supported"),
        ([-2] + [0] * 9, "row 0 has label -2, but labels must be 0, 1, 2"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load_splits(write_table(tmp_path / "rows.parquet", text=TEXTS[:10], label=labels))
    assert "\n" not in str(raised.value)


def test_strings_of_pandas_are_names(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": TEXTS[:10], "label": ["b", "a"] * 5})
    Dataset.from_pandas(frame).save_to_disk(tmp_path / "frame")
    splits = load_splits(tmp_path / "frame", hold_out=0)
    assert label_names(splits) == ["a", "b"]
    assert splits["test"]["label"][:2] == [1, 0]


# Headers and columns


NEWS = '3,"Wall St. Bears Claw Back","Short-sellers are seeing green again."\n1,"Fears for T N pension","Unions say."\n'


def test_a_table_without_header_is_recognised_and_read(tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    path.write_text(NEWS * 5)
    for options in ({}, {"text_column": "title"}):
        with pytest.raises(ValueError, match=r"news\.csv has no header.*--column_names.*label,text,title") as raised:
            load_splits(path, **options)
        assert len(str(raised.value)) < 250
    for names in ("label,title,description", ["label", "title", "description"]):
        splits = load_splits(path, column_names=names, text_column="description", hold_out=0)
        assert splits["test"][0] == {"text": "Short-sellers are seeing green again.", "label": 1}
        assert label_names(splits) == ["1", "3"]
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        (tmp_path / "set" / f"{split}.tsv").write_text(NEWS.replace(",", "\t") * 2)
    found = load_splits(tmp_path / "set", column_names="label,title,text")
    assert [len(rows) for rows in found.values()] == [4, 4]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("label,text", r"2 names \(label, text\), but news\.csv has 3 columns"),
        ("a,a,b", "must be different names"),
        ("a,,b", "must be different names"),
    ],
)
def test_wrong_column_names_are_refused(tmp_path: Path, names: str, message: str) -> None:
    path = tmp_path / "news.csv"
    path.write_text(NEWS)
    with pytest.raises(ValueError, match=message):
        load_splits(path, column_names=names)


def test_column_names_are_for_tables_without_header(tmp_path: Path, table: Path) -> None:
    with pytest.raises(ValueError, match=r"rows\.csv has a header \(text, label\): leave column_names out"):
        load_splits(table, column_names="body,label")
    parquet = write_table(tmp_path / "rows.parquet", text=TEXTS, label=LABELS)
    for name in (parquet, "synthetic-reviews", "user/name"):
        with pytest.raises(ValueError, match="column_names is for CSV and TSV files"):
            load_splits(name, column_names="text,label")


def test_a_header_of_numbers_is_a_header_where_columns_are_named_by_number(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("0,1\n" + "good,1\nbad,0\n" * 5)
    splits = load_splits(tmp_path / "rows.csv", text_column="0", label_column="1", hold_out=0)
    assert splits["test"][0] == {"text": "good", "label": 1}


def test_columns_are_joined_or_paired(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.csv", title=TEXTS, text=TEXTS[::-1], body=["b"] * 200, label=LABELS)
    joined = load_splits(path, text_column="title+text", hold_out=0)["test"]
    assert joined[0] == {"text": "text 0 text 199", "label": 0}
    for named in ("text,title", ["text", "title"]):
        pair = load_splits(path, text_column=named, hold_out=0)["test"]
        assert pair[0] == {"text": "text 199", "text_pair": "text 0", "label": 0}
    both = load_splits(path, text_column=["title", "text + body"], hold_out=0)["test"]
    assert both[1] == {"text": "text 1", "text_pair": "text 198 b", "label": 1}
    assert len({tuple(row_digests(rows)) for rows in (joined, pair, both)}) == 3
    with pytest.raises(ValueError, match="text_column has twice 'body'"):
        load_splits(path, text_column="body+body")
    with pytest.raises(ValueError, match="text_column names 3 texts"):
        load_splits(path, text_column="title,text,body")
    with pytest.raises(ValueError, match="text_column is 'lead', but the columns are title, text, body, label"):
        load_splits(path, text_column="title,lead")


@pytest.mark.parametrize(("medium", "other"), [("text", "image"), ("image", "text")])
def test_data_of_the_other_medium_are_refused(tmp_path: Path, table: Path, medium: str, other: str) -> None:
    write_images(tmp_path / "set", {"cat": 4, "ant": 4})
    path = {"text": tmp_path / "set", "image": table}[medium]
    for load in (load_splits, load_evaluation):
        with pytest.raises(ValueError, match=rf"data set of {other}s \(column '{other}'\), but {medium}s are wanted"):
            load(path, medium=medium)


# Files


@pytest.mark.parametrize("name", ["reviews[1].csv", "a?.csv", "a*.csv", "b [x] {c,d}!.csv", "100%#.csv"])
def test_a_name_is_never_a_pattern(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "more [2024] d*ta"
    for other in ("reviews1.csv", "a2.csv", "aa.csv", "b x c!.csv"):
        write_table(folder / other, text=["other"] * 10, label=LABELS[:10])
    write_table(folder / name, text=TEXTS[:10], label=LABELS[:10])
    assert load_splits(folder / name, hold_out=0)["test"]["text"][:] == TEXTS[:10]


def test_folders_with_brackets_are_folders(tmp_path: Path) -> None:
    write_table(tmp_path / "set[1]" / "train.csv", text=TEXTS, label=LABELS)
    write_table(tmp_path / "set1" / "train.csv", text=["other"] * 200, label=LABELS)
    assert load_splits(tmp_path / "set[1]", hold_out=0)["test"]["text"][:] == TEXTS
    write_images(tmp_path / "images[1]" / "train", {"c[a]t": 3, "a*t": 2})
    splits = load_splits(tmp_path / "images[1]", hold_out=0)
    assert (label_names(splits), len(splits["test"])) == (["a*t", "c[a]t"], 5)


def test_a_note_beside_class_folders_does_not_count(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"cat": 5, "ant": 5})
    (tmp_path / "set" / "classes.json").write_text('{"cat": "Katze"}')
    (tmp_path / "set" / "cat" / "notes.csv").write_text("file,note\n0.png,blurred\n")
    assert load_splits(tmp_path / "set")["train"].column_names == ["image", "label"]
    (tmp_path / "set" / "loose.png").write_bytes((tmp_path / "set" / "cat" / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"loose\.png must lie in a folder named like its class"):
        load_splits(tmp_path / "set")


def test_links_to_class_folders_are_followed(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", {"cat": 3})
    write_images(tmp_path / "set", {"ant": 3})
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (tmp_path / "set" / "ant" / "again").symlink_to(tmp_path / "set")  # leads back
    splits = load_splits(tmp_path / "set", hold_out=0)
    assert (label_names(splits), len(splits["test"])) == (["ant", "cat"], 6)


def test_no_name_is_no_data_set() -> None:
    for name in ("", " "):
        with pytest.raises(ValueError, match="dataset is empty"):
            load_splits(name)


@pytest.mark.parametrize("column", ["text", "label"])
def test_text_that_is_not_utf8_is_refused(tmp_path: Path, column: str) -> None:
    path = write_table(
        tmp_path / "rows.parquet", **{"text": TEXTS[:10], "label": list("ab") * 5, column: ["zzzz"] * 10}
    )
    path.write_bytes(path.read_bytes().replace(b"zzzz", b"z\xffzz"))
    with pytest.raises(ValueError, match=f"split 'train': the column '{column}' holds text that is not UTF-8"):
        load_splits(path)


def test_tables_of_two_kinds_are_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "test.tsv"):
        write_table(tmp_path / "set" / name, text=TEXTS, label=LABELS)
    with pytest.raises(ValueError, match=r"must be of one kind, but are \.csv, \.tsv"):
        load_splits(tmp_path / "set")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
def test_a_broken_file_is_named_in_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"rows.{suffix}", text=TEXTS, label=LABELS)
    content = path.read_bytes()
    spoilt = {
        "csv": b'text,label\n"a,1\n' * 3 + b"a,b,c,d\n" * 9,
        "json": b"[[{",
        "parquet": content[:-20] + b"rubbish rubbish PAR1",
    }
    path.write_bytes(spoilt[suffix])
    with pytest.raises(ValueError, match=rf"rows\.{suffix}") as raised:
        load_splits(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 350


# Images that rows name


def images_of(folder: Path) -> list[str]:
    write_images(folder / "pictures", {"cat": 2, "ant": 2})
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


@pytest.mark.parametrize("kind", ["strings", "feature"])
def test_rows_name_images_of_their_folder(tmp_path: Path, kind: str) -> None:
    paths = images_of(tmp_path / "set")
    paths[1] = str((tmp_path / "set" / paths[1]).resolve())
    features = Features({"image": ImageFeature() if kind == "feature" else Value("string"), "label": Value("int64")})
    dataset = Dataset.from_dict({"image": paths, "label": [0, 1, 0, 1]}, features=features)
    parquet.write_table(dataset.data.table, tmp_path / "set" / "rows.parquet")
    images = load_splits(tmp_path / "set" / "rows.parquet", hold_out=0)["test"]
    assert [row["image"].size for row in images] == [(8, 8)] * 4
    assert len(set(row_digests(images).tolist())) == 4


@pytest.mark.parametrize("kind", ["absolute", "parent", "http", "fifo", "folder", "link", "long", "nul"])
def test_rows_reach_nothing_else(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "private"
    write_images(secret, {"cat": 1})
    paths = images_of(tmp_path / "set")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    (tmp_path / "set" / "link.png").symlink_to(secret / "cat" / "0.png")
    reach = {
        "absolute": str(secret / "cat" / "0.png"),
        "parent": "../private/cat/0.png",
        "http": "http://127.0.0.1:9/0.png",
        "fifo": "pipe.png",
        "folder": "pictures",
        "link": "link.png",
        "long": "x" * 5000,
        "nul": "a\0b",
    }
    features = Features({"image": ImageFeature(), "label": Value("int64")})
    dataset = Dataset.from_dict({"image": [*paths, reach[kind]], "label": [0, 1, 0, 1, 0]}, features=features)
    parquet.write_table(dataset.data.table, tmp_path / "set" / "rows.parquet")
    with pytest.raises(ValueError, match="row 4 names the image .*"):
        load_splits(tmp_path / "set" / "rows.parquet")


@pytest.mark.parametrize("values", [[3] * 4, [0.5] * 4])
def test_a_column_without_images_is_refused(tmp_path: Path, values: list) -> None:
    path = write_table(tmp_path / "rows.parquet", image=values, label=[0, 1, 0, 1])
    with pytest.raises(ValueError, match="the image column must hold images, but holds"):
        load_splits(path, image_column="image")


def test_a_pipe_in_a_folder_of_images_is_left_out(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"cat": 3, "ant": 3})
    os.mkfifo(tmp_path / "set" / "cat" / "pipe.png")
    assert len(load_splits(tmp_path / "set", hold_out=0)["test"]) == 6


def test_rows_of_the_hub_name_files_of_the_network_and_of_the_cache(tmp_path: Path) -> None:
    cached, private = tmp_path / "cache" / "downloads" / "0.png", tmp_path / "0.png"
    for file in (cached, private):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"image")
    for path in ("https://example.org/0.png", "hf://datasets/user/name@main/0.png", str(cached)):
        assert allow_remote(path) == path
    for path in (
        str(private),
        str(cached.parent / ".." / ".." / ".." / "0.png"),
        "0.png",
        "ftp://example.org/0.png",
        "\0",
    ):
        with pytest.raises(ValueError, match="not a file of the data set"):
            allow_remote(path)


def test_a_path_that_chains_archives_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a::b.csv"
    path.write_text("text,label\na,0\nb,1\n")
    with pytest.raises(ValueError, match="rename it without '::'"):
        load_splits(path)
