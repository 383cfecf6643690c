"""Classes of a data set and of a model: matched by name, by number only where there is no name, otherwise refused."""

from types import SimpleNamespace

import pytest

from hf_vub.data.labels import align_labels, class_names, has_names

PLACEHOLDERS = ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]
NEWS = ["World", "Sports", "Business", "Sci/Tech"]
SORTED = sorted(NEWS)


@pytest.mark.parametrize(
    ("names", "model_names", "expected"),
    [
        (SORTED, NEWS, [2, 3, 1, 0]),  # a CSV's names are sorted
        ([name.upper() + " " for name in SORTED], NEWS, [2, 3, 1, 0]),
        (["World", "Business"], NEWS, [0, 2]),
        (NEWS, PLACEHOLDERS, [0, 1, 2, 3]),
        ([], NEWS, [0, 1, 2, 3]),
        (["0", "1", "2", "3"], NEWS, [0, 1, 2, 3]),
        (["1", "2", "3", "4"], NEWS, [0, 1, 2, 3]),  # numbered from 1
        (["1", "2", "3", "4"], PLACEHOLDERS, [0, 1, 2, 3]),
        (["1", "2", "3", "4"], ["1", "2", "3", "4"], [0, 1, 2, 3]),
        (["1", "3", "4"], ["1", "2", "3", "4"], [0, 2, 3]),  # a file without the second class
        (["0", "2"], PLACEHOLDERS, [0, 2]),
        (["ant", "crane", "crane"], ["ant", "crane", "crane"], [0, 1, 2]),
    ],
)
def test_labels_follow_the_classes(names, model_names, expected):
    labels = [*range(len(expected)), -1]
    assert align_labels(labels, names, model_names).tolist() == [*expected, -1]
    assert align_labels([], names, model_names).tolist() == []


def test_by_number_ignores_names():
    assert align_labels([0, 3], SORTED, NEWS, by="number").tolist() == [0, 3]


@pytest.mark.parametrize(
    ("labels", "names", "model_names", "by", "sentence"),
    [
        ([0], ["Weather"], NEWS, "name", "'Weather' of the data set is no class of the model .*match_labels='number'"),
        (
            [0],
            ["crane"],
            ["ant", "crane", "Crane"],
            "name",
            "'crane' of the data set is the name of 2 classes of the model",
        ),
        ([0], NEWS, ["LABEL_0", "LABEL_1"], "name", "has 4 classes .* but the model has 2 .*match_labels='number'"),
        ([0], ["1", "2", "5"], PLACEHOLDERS, "name", "has 3 classes .* but the model has 4 .*match_labels='number'"),
        ([0, 4], [], NEWS, "name", "labels up to 4, but the model has 4 classes"),
        ([4], NEWS, PLACEHOLDERS, "name", "labels up to 4, but names for 4 classes"),
        ([0, 4], NEWS, SORTED, "number", "labels up to 4, but the model has 4 classes"),
        ([0], NEWS, NEWS, "order", "match_labels must be 'name' or 'number', but is 'order'"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_sentence(labels, names, model_names, by, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        align_labels(labels, names, model_names, by=by)
    assert "\n" not in str(raised.value)


def test_class_names_come_from_the_configuration_where_it_has_one_for_each_class():
    config = SimpleNamespace(id2label={1: "pos", 0: "neg"})
    assert class_names(config, 2) == ["neg", "pos"]
    assert class_names(config, 3) == class_names(None, 3) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert [has_names(names) for names in (["7", "LABEL_1"], ["7", "cat"], [])] == [False, True, False]
