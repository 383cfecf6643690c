"""One rule for which columns are the texts, the images and the labels."""

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_vub.data.columns import IMAGE_COLUMNS, LABEL_COLUMNS, TEXT_COLUMNS, find_column
from hf_vub.data.splits import label_names, read_labels


def rows(**columns: list[Any]) -> Dataset:
    return Dataset.from_dict(columns)


@pytest.mark.parametrize("name", [*TEXT_COLUMNS, "Review", "CONTENT"])
def test_usual_names_of_texts(name: str) -> None:
    dataset = Dataset.from_dict({"id": ["1"], "title": ["a"], name: ["b"], "label": [0]})
    assert find_column(dataset, "text") == name


@pytest.mark.parametrize("name", [*LABEL_COLUMNS, "Label"])
def test_usual_names_of_labels(name: str) -> None:
    assert find_column(Dataset.from_dict({"text": ["b"], "stars": [3], name: [0]}), "label") == name


@pytest.mark.parametrize("name", IMAGE_COLUMNS)
def test_usual_names_of_images(name: str) -> None:
    features = Features({name: Image(), "thumbnail": Image(), "label": Value("int64")})
    assert find_column(Dataset.from_dict({name: [], "thumbnail": [], "label": []}, features=features), "image") == name
    assert find_column(Dataset.from_dict({name: ["a.png"], "label": [0]}), "image") == name


def test_without_a_usual_name_the_only_column_of_the_type() -> None:
    features = Features({"photo": Image(), "note": Value("large_string"), "kind": ClassLabel(names=["a"])})
    dataset = Dataset.from_dict({"photo": [], "note": [], "kind": []}, features=features)
    assert [find_column(dataset, kind) for kind in ("image", "text", "label")] == ["photo", "note", "kind"]


def test_a_usual_name_must_fit_in_type() -> None:
    assert find_column(rows(text=[1], sentence=["a"], label=[0]), "text") == "sentence"
    assert find_column(rows(text=[1], sentence=["a"]), "text", "text") == "text"


def test_images_in_memory_may_be_arrays() -> None:
    assert find_column(rows(image=[[[0, 1], [2, 3]]], label=[0]), "image") == "image"
    with pytest.raises(ValueError, match="image_column"):
        find_column(rows(image=[1], label=[0]), "image")


@pytest.mark.parametrize("kind", ["text", "image", "label"])
def test_what_cannot_be_found_is_said(kind: str) -> None:
    dataset = rows(a=["x"], b=["y"], c=[1])
    with pytest.raises(ValueError, match=f"{kind} column among a, b, c: name one with {kind}_column"):
        find_column(dataset, kind)
    with pytest.raises(ValueError, match=f"{kind}_column is 'd', but the columns are a, b, c"):
        find_column(dataset, kind, "d")


def test_label_and_labels_may_both_be_there_if_they_agree() -> None:
    assert find_column(rows(text=["a"], labels=[1], label=[1]), "label") == "label"
    with pytest.raises(ValueError, match="'label' and 'labels' both look like labels.*row 1.*label_column"):
        find_column(rows(label=[0, 1], labels=[0, 0]), "label")
    assert find_column(rows(label=[0, 1], labels=[0, 0]), "label", "labels") == "labels"


def test_labels_that_are_no_numbers_are_refused_in_a_sentence() -> None:
    pandas = pytest.importorskip("pandas")
    for dtype in ("object", "string"):
        frame = pandas.DataFrame({"text": ["a", "b"], "label": pandas.Series(["x", "y"], dtype=dtype)})
        dataset = Dataset.from_pandas(frame)
        with pytest.raises(ValueError, match="column 'label' holds names.*class_encode_column"):
            read_labels(dataset)
        assert read_labels(dataset.class_encode_column("label")).tolist() == [0, 1]
    for values in ([0.5], [[1]]):
        with pytest.raises(ValueError, match="must hold whole numbers"):
            read_labels(rows(label=values))
    assert read_labels(rows(label=[True, False, None])).tolist() == [1, 0, -1]
    with pytest.raises(ValueError, match="have no names"):
        label_names(rows(label=[1]))
