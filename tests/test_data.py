"""Every kind of data set in, the same two columns out; what is wrong with one is said in a sentence."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import BertConfig, ConvNextImageProcessor, ViTImageProcessor

from helpers.tables import write_images
from helpers.tables import write_table as write
from hf_vub.data.preprocessing import (
    AugmentedImages,
    clean_text,
    encode_texts,
    image_transform,
    max_text_length,
    pad_tokens,
    to_rgb,
    tokenize,
)
from hf_vub.data.splits import check_labels, label_names, load_splits, read_labels, subset
from hf_vub.data.synthetic import word_tokenizer

TEXTS = [f"text {row}" for row in range(10)]
WORDS = ["bad", "good"] * 5


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".json", ".jsonl"])
def test_one_file_is_split_by_class(tmp_path: Path, suffix: str) -> None:
    splits = load_splits(write(tmp_path / f"reviews{suffix}", Review=TEXTS, category=WORDS))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 8, "test": 2}
    assert splits["train"].column_names == ["text", "label"]
    assert label_names(splits) == ["bad", "good"]
    assert sorted(splits["test"]["label"][:]) == [0, 1]
    rows = {row["text"]: row["label"] for split in splits.values() for row in split}
    assert rows == {text: int(word == "good") for text, word in zip(TEXTS, WORDS, strict=True)}


def test_a_file_of_test_rows_is_a_test_split(tmp_path: Path) -> None:
    path = write(tmp_path / "test-00000-of-00001.parquet", text=TEXTS, label=WORDS)
    assert {split: len(rows) for split, rows in load_splits(path).items()} == {"test": 10}
    path = write(tmp_path / "rows.parquet", text=TEXTS, label=WORDS)
    assert {split: len(rows) for split, rows in load_splits(path, hold_out=0).items()} == {"test": 10}


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "test.csv", "val.csv"),
        ("data/train-00000.csv", "data/test-00000.csv", "data/validation-00000.csv"),
        ("train/a.csv", "test/a.csv", "dev/a.csv"),
    ],
)
def test_a_folder_of_tables(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, rows in zip(names, (10, 4, 2), strict=True):
        write(tmp_path / "set" / name, text=TEXTS[:rows], label=WORDS[:rows])
    splits = load_splits(tmp_path / "set")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 10, "validation": 2, "test": 4}


def test_validation_stands_in_for_a_missing_test_split(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "train", {"cat": 3, "ant": 2})
    write_images(tmp_path / "set" / "val", {"cat": 1, "ant": 1})
    splits = load_splits(tmp_path / "set")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 5, "test": 2}
    assert splits["train"].column_names == ["image", "label"]
    assert label_names(splits["test"]) == ["ant", "cat"]
    assert splits["test"][0]["image"].size == (8, 8)


def test_class_folders_without_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"cat": 5, "ant": 5})
    splits = load_splits(tmp_path / "set")
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 8, "test": 2}
    assert sorted(splits["test"]["label"][:]) == [0, 1]


def test_a_saved_data_set(tmp_path: Path) -> None:
    features = Features({"content": Value("string"), "labels": ClassLabel(names=["z", "a"])})
    rows = Dataset.from_dict({"content": TEXTS, "labels": [0, 1] * 5}, features=features)
    DatasetDict({"fit": rows, "test": rows.select([0, 1])}).save_to_disk(tmp_path / "two")
    splits = load_splits(tmp_path / "two", train_split="fit")
    assert (len(splits["train"]), len(splits["test"])) == (10, 2)
    assert label_names(splits) == ["z", "a"]
    rows.save_to_disk(tmp_path / "one")
    assert len(load_splits(tmp_path / "one")["train"]) == 8


@pytest.mark.parametrize(("name", "column"), [("synthetic-reviews", "text"), ("digits", "image")])
def test_built_in_data_need_no_file(name: str, column: str) -> None:
    splits = load_splits(name, max_train=40, max_test=20)
    assert splits["train"].column_names == [column, "label"]
    assert (len(splits["train"]), len(splits["test"])) == (40, 20)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1] * 5, ["0", "1"]),
        ([1, 2] * 5, ["1", "2"]),
        ([0, 2, 5, 2, 0] * 2, ["0", "2", "5"]),
        ([10**9, 7] * 5, ["7", "1000000000"]),
        (["10", "9"] * 5, ["9", "10"]),
        ([0.0, 1.0] * 5, ["0", "1"]),
        ([False, True] * 5, ["False", "True"]),
        (["b", "a"] * 5, ["a", "b"]),
    ],
)
def test_labels_of_any_kind_become_classes(tmp_path: Path, labels: list, names: list[str]) -> None:
    splits = load_splits(write(tmp_path / "test.parquet", text=TEXTS, label=labels))
    assert label_names(splits) == names
    found = [names[label] for label in splits["test"]["label"]]
    assert found == [str(int(label)) if isinstance(label, float) else str(label) for label in labels]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"a": TEXTS, "b": TEXTS, "label": WORDS},
            {},
            "the text column among a, b, label: name one with text_column",
        ),
        (
            {"text": TEXTS, "x": [1] * 10},
            {},
            "the label column among text, x: name one with label_column",
        ),
        (
            {"text": TEXTS, "label": WORDS},
            {"text_column": "txt"},
            "text_column is 'txt', but the columns are",
        ),
        ({"text": TEXTS, "label": WORDS}, {"test_split": "dev"}, "test_split is 'dev', but .* has the splits train"),
        ({"text": [1] * 10, "label": WORDS}, {"text_column": "text"}, "text column 'text' must hold strings"),
        ({"text": [*TEXTS[:9], None], "label": WORDS}, {}, "row 9 has no text"),
        ({"text": TEXTS, "label": [*WORDS[:9], None]}, {}, "rows without a label"),
        ({"text": TEXTS, "label": [0, 1, -1] + [1] * 7}, {}, "-1 stands for no label"),
        ({"text": TEXTS, "label": [0.5] * 10}, {}, "regression is not supported"),
        ({"text": TEXTS, "label": [[1]] * 10}, {}, "labels must be names or whole numbers"),
        ({"text": TEXTS[:1], "label": WORDS[:1]}, {}, "too few to hold out"),
        ({"text": TEXTS, "label": WORDS}, {"hold_out": 1.0}, "hold_out must be"),
        ({"text": TEXTS, "label": WORDS}, {"validation": 1.0}, "validation must be"),
        ({"text": TEXTS, "label": WORDS}, {"max_train": 0}, "max_train must be at least 1, but is 0"),
        ({"text": TEXTS, "label": WORDS}, {"max_test": -1}, "max_test must be at least 1, but is -1"),
        ({"text": TEXTS, "label": WORDS}, {"medium": "image"}, "data set of texts .*but images are wanted"),
        ({"text": TEXTS, "label": WORDS}, {"label_column": "text"}, "are both 'text'"),
        ({"text": TEXTS, "label": WORDS}, {"text_column": "text", "image_column": "text"}, "name only one"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, columns: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load_splits(write(tmp_path / "rows.parquet", **columns), **options)
    assert "\n" not in str(raised.value)


def test_unlabelled_and_unknown_classes_are_refused(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    rows = Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 5}, features=features)
    unlabelled = Dataset.from_dict({"text": TEXTS, "label": [-1] * 10}, features=features)
    DatasetDict({"train": rows, "test": unlabelled}).save_to_disk(tmp_path / "glue")
    with pytest.raises(ValueError, match=r"'test': row 0 has label -1.*name a labelled split"):
        load_splits(tmp_path / "glue")
    write(tmp_path / "set" / "train.csv", text=TEXTS, label=WORDS)
    write(tmp_path / "set" / "test.csv", text=TEXTS, label=["odd"] * 10)
    with pytest.raises(ValueError, match=r"split 'test' has the label 'odd', which training lacks"):
        load_splits(tmp_path / "set")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": Value("int64")})
    Dataset.from_dict({"text": [], "label": []}, features=features).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="has no rows"):
        load_splits(tmp_path / "rows.parquet")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json", ".jsonl"])
@pytest.mark.parametrize("content", [b"", b"\n", b"\x00\xff\xfe rubbish", b'{"text": ', b"text,label\n"])
def test_broken_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r".") as raised:
        load_splits(path)
    assert "rows" in str(raised.value)


@pytest.mark.parametrize("name", ["./nowhere", "nowhere.parquet", "../../etc/x", "a/../b", "user/name", "no-such-set"])
def test_what_is_not_there_is_not_found(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="Hub"):
        load_splits(name)


def test_files_of_no_known_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"must be one of \.parquet.* but is a \.pkl file"):
        load_splits(tmp_path / "model.pkl")
    with pytest.raises(ValueError, match=r"holds model\.pkl"):
        load_splits(tmp_path)


def rows_of(labels: list[int], column: str = "label") -> Dataset:
    return Dataset.from_dict({"text": [str(row) for row in range(len(labels))], column: labels})


def test_check_labels_names_the_first_bad_row() -> None:
    check_labels(rows_of([0, 1, 2]), 3)
    for labels in ([0, 1, 2, 3, 9], [0, 1, 2, -1, 9], [0, 1, 2, None, 9]):
        with pytest.raises(ValueError, match=r"row 3 has labels -?\d, outside 0..2 \(2 of 5 rows"):
            check_labels(rows_of(labels, "labels"), 3)
    with pytest.raises(ValueError, match="label column among text, target: name one with label_column"):
        check_labels(rows_of([0], "target"), 3)
    assert read_labels(rows_of([3, 1, 2]).select([2, 0])).tolist() == [2, 3]


def test_subset_keeps_proportions_order_and_size() -> None:
    dataset = rows_of([0] * 60 + [1] * 30 + [2] * 10)
    chosen = subset(dataset, 10, seed=3)
    assert np.bincount(chosen["label"][:]).tolist() == [6, 3, 1]
    assert chosen["text"][:] == sorted(chosen["text"][:], key=int)
    assert chosen["text"][:] == subset(dataset, 10, seed=3)["text"][:]
    assert chosen["text"][:] != subset(dataset, 10, seed=4)["text"][:]
    assert subset(dataset, 5, how="first")["text"][:] == list("01234")
    for size in range(1, 101):
        assert len(subset(dataset, size)) == size
    assert len(subset(dataset, 1000)) == 100


def test_subset_of_fewer_rows_than_classes_covers_different_classes() -> None:
    dataset = rows_of([row // 3 for row in range(300)])
    drawn = [subset(dataset, 20, seed=seed)["label"][:] for seed in range(3)]
    assert all(len(set(labels)) == 20 for labels in drawn)
    assert max(drawn[0]) > 50
    assert drawn[0] != drawn[1]


def test_subset_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="num_examples must be at least 1"):
        subset(rows_of([0]), 0)
    with pytest.raises(ValueError, match='"stratified" or "first"'):
        subset(rows_of([0]), 1, how="last")


def test_tokenize_truncates_and_does_not_pad() -> None:
    tokenizer = word_tokenizer(["a b c d e f"])
    dataset = Dataset.from_dict({"text": ["a b", "a b c d e f", ""], "label": [0, 1, 1]})
    encoded = tokenize(dataset, tokenizer, max_length=5)
    assert set(encoded.column_names) == {"input_ids", "attention_mask", "labels", "length"}
    assert encoded["length"][:] == [4, 5, 2]
    assert encoded["labels"][:] == [0, 1, 1]
    assert encoded["input_ids"][0] == tokenizer("a b")["input_ids"]
    streamed = list(tokenize(dataset.to_iterable_dataset(), tokenizer, max_length=5))
    assert streamed == list(encoded)
    with pytest.raises(ValueError, match="max_length"):
        tokenize(dataset, tokenizer, max_length=0)


def test_a_text_without_tokens_is_still_something_to_read() -> None:
    tokenizer = word_tokenizer(["a b"])
    tokenizer.backend_tokenizer.post_processor = None  # as a decoder's tokenizer: no tokens of its own around a text
    encoded = tokenize(Dataset.from_dict({"text": ["", "a"], "label": [0, 1]}), tokenizer)
    assert encoded["length"][:] == [1, 1]
    assert encoded["attention_mask"][0] == [1]


def test_a_pair_of_texts_is_encoded_as_one() -> None:
    tokenizer = word_tokenizer(["a b c d e f"])
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    pairs = Dataset.from_dict({"text": ["a b", ""], "text_pair": ["c", "d e f a b c"], "label": [0, 1]})
    encoded = tokenize(pairs, tokenizer, max_length=6)
    assert encoded["input_ids"][0] == tokenizer("a b", "c")["input_ids"]
    assert encoded["token_type_ids"][0] == [0, 0, 0, 0, 1, 1]
    assert encoded["length"][:] == [6, 6]
    assert encoded["labels"][:] == [0, 1]


def test_max_text_length_is_one_rule() -> None:
    tokenizer = word_tokenizer(["a"], max_length=40)
    config = BertConfig(max_position_embeddings=30)
    assert max_text_length(tokenizer) == 40
    assert max_text_length(tokenizer, config) == 30
    assert max_text_length(tokenizer, config, 20) == 20
    tokenizer.model_max_length = int(1e30)
    assert max_text_length(tokenizer, config) == 30
    assert max_text_length(tokenizer) == max_text_length(tokenizer, BertConfig(max_position_embeddings=-1)) == 512
    for wanted in (0, -3):
        with pytest.raises(ValueError, match="max_length must be at least 1"):
            max_text_length(tokenizer, config, wanted)
    with pytest.raises(ValueError, match="max_length is 31, but the model has positions for 30 tokens only"):
        max_text_length(tokenizer, config, 31)


def test_positions_behind_the_padding_token_do_not_count() -> None:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=14,
    )  # fmt: skip
    model = RobertaModel(config).eval()
    tokenizer = word_tokenizer(["a"], max_length=int(1e30))
    length = max_text_length(tokenizer, model)
    assert length == 12
    assert model(input_ids=torch.full((1, length), 5)).last_hidden_state.shape[1] == length
    with pytest.raises((IndexError, RuntimeError)):  # transformers 4 and 5
        model(input_ids=torch.full((1, length + 1), 5))


def test_pad_tokens_agrees_with_the_tokenizer() -> None:
    tokenizer = word_tokenizer(["a b c d e f"])
    columns = encode_texts(tokenizer, ["a b c", "a", "\ud800"], 10)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for side in ("right", "left"):
        tokenizer.padding_side = side
        expected = tokenizer.pad(columns, return_tensors="pt")
        found = pad_tokens(rows, pad_token_id=tokenizer.pad_token_id, side=side)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    fixed = [{**row, **{name: row[name] + [0] * (9 - len(row[name])) for name in row}} for row in rows]
    trimmed = pad_tokens(fixed)
    assert torch.equal(trimmed["input_ids"], pad_tokens(rows)["input_ids"])
    assert torch.equal(trimmed["attention_mask"], pad_tokens(rows)["attention_mask"])
    bare = pad_tokens([{"input_ids": row["input_ids"]} for row in rows])
    assert torch.equal(bare["attention_mask"], pad_tokens(rows)["attention_mask"])
    nothing = pad_tokens([{"input_ids": [0, 0], "attention_mask": [0, 0]}])
    assert nothing["attention_mask"].tolist() == [[0]]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain é 🎬", "plain é 🎬"),
        ("\x00", "\x00"),
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ud83c\udfac", "🎬"),
    ],
)
def test_surrogates_are_mended(text: str, clean: str) -> None:
    assert clean_text(text) == clean
    assert word_tokenizer(["a"])(clean_text(text))["input_ids"]


def picture(mode: str) -> Image.Image:
    values = np.tile(np.arange(64, dtype=np.float64) * 4, (48, 1))
    if mode == "I;16":
        return Image.fromarray((values * 257).astype(np.uint16))
    if mode == "I":
        return Image.fromarray((values * 257).astype(np.int32))
    if mode == "F":
        return Image.fromarray((values / 255).astype(np.float32))
    return Image.fromarray(values.astype(np.uint8)).convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"])
def test_every_mode_becomes_the_same_rgb(mode: str) -> None:
    found = to_rgb(picture(mode))
    assert (found.mode, found.size) == ("RGB", (64, 48))
    if mode not in ("1", "P"):  # these two dither
        np.testing.assert_allclose(np.asarray(found, int), np.asarray(picture("RGB"), int), atol=3)


def test_rotation_is_undone_and_slivers_are_widened() -> None:
    image = picture("RGB")
    image.getexif()[274] = 6  # to be shown turned by 90 degrees
    assert to_rgb(image).size == (48, 64)
    assert to_rgb(Image.new("L", (3, 1))).size == (4, 4)
    assert to_rgb(np.zeros((5, 7, 3), np.uint8)).size == (7, 5)


PROCESSORS = {
    "fixed": lambda: ViTImageProcessor(size={"height": 32, "width": 32}),
    "cropped": lambda: ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_images_become_pixels(kind: str) -> None:
    processor = PROCESSORS[kind]()
    images = [picture(mode) for mode in ("L", "RGBA", "CMYK", "I;16")] + [Image.new("RGB", (200, 100), "red")]
    transform = pickle.loads(pickle.dumps(image_transform(processor)))
    batch = transform({"image": images, "label": [0, 1, 0, 1, 1]})
    assert batch["pixel_values"].shape == (5, 3, 32, 32)
    assert torch.isfinite(batch["pixel_values"]).all()
    assert batch["labels"] == [0, 1, 0, 1, 1]
    expected = processor([to_rgb(image) for image in images], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


def photos(rows: int, size: int = 48) -> Dataset:
    features = Features({"image": ImageFeature(), "label": Value("int64")})
    gradient = np.tile(np.linspace(0, 255, size).astype(np.uint8)[None, :, None], (size, 1, 3))  # brighter to the right
    return Dataset.from_dict({"image": [Image.fromarray(gradient)] * rows, "label": [0] * rows}, features=features)


@pytest.mark.parametrize("size", [48, 100])
def test_augmentation_depends_on_seed_epoch_and_row_alone(size: int) -> None:
    data = photos(6, size)

    def pixels(seed: int, epoch: int) -> torch.Tensor:
        rows = AugmentedImages(data, PROCESSORS["fixed"](), seed)
        rows.set_epoch(epoch)
        return torch.stack([rows[row]["pixel_values"] for row in range(6)])

    first = pixels(0, 0)
    assert len(torch.unique(first.flatten(1), dim=0)) >= 5
    assert not torch.equal(first, pixels(0, 1))
    assert not torch.equal(first, pixels(1, 0))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(first, pixels(0, 0))
    assert torch.equal(torch.get_rng_state(), before)
    rows = AugmentedImages(data, PROCESSORS["fixed"](), 0)
    together = rows.__getitems__([4, 0, -1])
    assert torch.equal(torch.stack([row["pixel_values"] for row in together]), first[[4, 0, 5]])
    assert [row["labels"] for row in together] == [0, 0, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_prefetching_do_not_change_an_image(workers: int) -> None:
    rows = AugmentedImages(photos(8), PROCESSORS["fixed"](), seed=3)
    loader = torch.utils.data.DataLoader(rows, batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    for epoch in range(2):
        rows.set_epoch(epoch)
        found = torch.cat([batch["pixel_values"] for batch in loader])
        again = AugmentedImages(photos(8), PROCESSORS["fixed"](), seed=3)
        again.set_epoch(epoch)
        assert torch.equal(found, torch.stack([again[row]["pixel_values"] for row in range(8)]))


def test_augmentation_may_leave_left_and_right_alone() -> None:
    def mirrored(flip: bool) -> list[bool]:
        rows = [AugmentedImages(photos(16), PROCESSORS["fixed"](), flip=flip)[row]["pixel_values"] for row in range(16)]
        return [bool(row[0, 16, 10] > row[0, 16, 20]) for row in rows]

    assert not any(mirrored(flip=False))
    assert 2 < sum(mirrored(flip=True)) < 14


def test_the_transform_works_inside_a_data_set(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"cat": 5, "ant": 5})
    train = load_splits(tmp_path / "set")["train"]
    train.set_transform(image_transform(PROCESSORS["fixed"]()))
    loader = torch.utils.data.DataLoader(train, batch_size=4, num_workers=0)
    batch = next(iter(loader))
    assert batch["pixel_values"].shape == (4, 3, 32, 32)
    assert batch["labels"].shape == (4,)
    assert read_labels(train).shape == (8,)
    check_labels(train, 2)
    with pytest.raises(ValueError, match='column "image", but have img'):
        image_transform(None)({"img": []})


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "column", "classes", "sizes"),
    [
        ("imdb", "text", 2, (25000, 25000)),
        ("cifar10", "image", 10, (50000, 10000)),
        ("imagenet-sample", "image", 10, None),
    ],
)
def test_real_data(shared_data: Path, name: str, column: str, classes: int, sizes: tuple[int, int] | None) -> None:
    folder = shared_data / "data" / name
    splits = load_splits(folder)
    assert set(splits) == {"train", "test"}
    assert splits["train"].column_names == [column, "label"]
    assert len(label_names(splits)) == classes
    assert sizes is None or (len(splits["train"]), len(splits["test"])) == sizes
    small = subset(splits["test"], 20)
    assert np.bincount(read_labels(small)).tolist() == [20 // classes] * classes
    if column == "image":
        small.set_transform(image_transform(PROCESSORS["cropped"]()))
        assert small[:4]["pixel_values"].shape == (4, 3, 32, 32)


@pytest.mark.shared_data
def test_a_real_file_is_read_as_its_name_says(shared_data: Path) -> None:
    path = shared_data / "data" / "imdb" / "test.parquet"
    test = load_splits(path, max_test=10)["test"]
    assert np.bincount(read_labels(test)).tolist() == [5, 5]
    oracle = load_dataset("parquet", data_files=str(path), split="train")
    assert set(test["text"]) <= set(oracle["text"])
    assert json.dumps(label_names(test)) == '["neg", "pos"]'


@pytest.mark.parametrize("cut", [None, 7])
def test_a_tokenizer_is_saved_the_same_whatever_it_tokenized(cut, tmp_path):
    tokenizer = word_tokenizer(["a fine film", "a waste of time"])
    if cut is not None:
        tokenizer.backend_tokenizer.enable_truncation(cut)
        tokenizer.backend_tokenizer.enable_padding(length=cut)
    tokenizer.save_pretrained(tmp_path / "before")
    encode_texts(tokenizer, ["a fine film"], 3)
    tokenizer.save_pretrained(tmp_path / "after")
    assert (tmp_path / "after" / "tokenizer.json").read_bytes() == (tmp_path / "before" / "tokenizer.json").read_bytes()
