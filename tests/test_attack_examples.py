"""Examples in an attack's folder: images with their perturbations, texts with their changes, whatever they contain."""

import base64
import io
import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from helpers.grid_results import HOSTILE
from hf_vub.reports.examples import image_examples, write_examples
from hf_vub.runs.files import append_record
from hf_vub.runs.schema import BudgetResult, ImageAttackResult, TextAttackResult

SHOWN = {"attack": "fgs", "objective": "vub"}
ABOUT = {
    **{"versions": {}, "command": "attack", "commit": None, "dataset": "imdb", "seed": 0, "how": "first", "rows": "0"},
    **{"noise": "mean", "num_skipped": 0, "skipped": {}, "seconds": 1.0, "attack_success_interval": (0.0, 1.0)},
}
FILES = {"image": {"examples.png", "examples.pdf"}, "text": {"examples.html", "examples.md"}}


def image_folder(folder, success, epsilons, names=("ant", "bee"), change=0.02):
    """Make the folder of an attack on images with the given outcomes (images, budgets)."""
    folder.mkdir()
    success = torch.tensor(success)
    count, budgets = success.shape
    torch.manual_seed(0)
    original = torch.rand(count, 3, 12, 12)
    signs = torch.randint(0, 2, (count, budgets, 3, 12, 12)) * 2.0 - 1
    adversarial = (original[:, None] + change * signs).clamp(0, 1)
    prediction = success.long()
    tensors = {"index": torch.arange(10, 10 + count), "label": torch.zeros(count, dtype=torch.long)}
    tensors |= {"original": original, "adversarial": adversarial, "prediction": prediction, "success": success}
    save_file(tensors, folder / "images.safetensors")
    for place in range(count):
        outcomes = [
            {"epsilon": epsilon, "success": bool(win), "prediction": int(win), "l2": 1.25}
            for epsilon, win in zip(epsilons, success[place], strict=True)
        ]
        append_record(folder / "records.jsonl", {"index": 10 + place, "status": "attacked", "outcomes": outcomes})
    share = float(success[:, -1].float().mean())
    at_budget = {"accuracy_under_attack": 1 - share, "attack_success_rate": share, "l2_mean": 1.25, "l2_median": 1.25}
    at_budget |= {"num_successes": int(success[:, -1].sum()), "attack_success_interval": (0.0, 1.0)}
    budgets = tuple(BudgetResult(epsilon=epsilon, **at_budget) for epsilon in epsilons)
    ImageAttackResult(
        **{**ABOUT, **at_budget, "num_examples": count, "num_attacked": count, "clean_accuracy": 1.0},
        **{"attack": "fgs", "model": names[0], "class_names": tuple(names), "epsilon": epsilons[-1]},
        **{"attack_options": {}, "target": None, "batch_size": 8, "weights": "0", "budgets": budgets},
    ).save(folder / "result.json")
    return folder, original, adversarial


def text_folder(folder, pairs, name="DeepWordBugGao2018"):
    """Make the folder of an attack on texts, with the texts before and after it; None where it failed."""
    folder.mkdir()
    for index, (before, after) in enumerate(pairs):
        record = {
            "index": index,
            "label": 1,
            "original_text": before,
            "words": len(before.split()),
            "status": "attacked",
        }
        changed = {"words_perturbed": 1, "perturbed_text": after, "perturbed_prediction": 0}
        append_record(folder / "records.jsonl", {**record, "success": after is not None, **(changed if after else {})})
    rates = {"clean_accuracy": 1.0, "accuracy_under_attack": 0.5, "attack_success_rate": 0.5}
    TextAttackResult(
        **{**ABOUT, **rates, "num_examples": len(pairs), "num_attacked": len(pairs), "num_successes": 1},
        **{"attack": name, "model": name, "class_names": ("neg|", "<pos>"), "revision": None, "dtype": "float32"},
        **{"max_length": None, "query_budget": None, "max_words": 4000, "weights": ("0", "1")},
        **{"words_perturbed_mean": 1.0, "queries_mean": 10.0},
    ).save(folder / "result.json")
    return folder


def pixels_of(png):
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255


class Page(HTMLParser):
    """The tags of a page, and the text inside some of them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.links, self.open = set(), {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        for tag in self.open:
            self.inside.setdefault(tag, []).append(data)


# Images


def test_pictures_are_before_change_and_after(tmp_path):
    folder, original, adversarial = image_folder(tmp_path / "run", [[True], [True]], [0.02])
    rows = image_examples(folder, ["ant", "bee"], 8, **SHOWN)
    for place, row in enumerate(rows):
        assert (row.index, row.label, row.prediction, row.l2) == (10 + place, "ant", "bee", 1.25)
        assert torch.allclose(pixels_of(row.original), original[place], atol=0.5 / 255 + 1e-6)
        assert torch.allclose(pixels_of(row.adversarial), adversarial[place, 0], atol=0.5 / 255 + 1e-6)
        assert row.magnification == 25
        seen = (pixels_of(row.perturbation) - 0.5) / row.magnification
        assert torch.allclose(seen, adversarial[place, 0] - original[place], atol=0.5 / 255 / 25 + 1e-6)


def test_a_perturbation_too_small_for_eight_bits_is_seen(tmp_path):
    folder, *_ = image_folder(tmp_path / "run", [[True]], [None], change=1e-3)
    (row,) = image_examples(folder, ["ant", "bee"], 8, **SHOWN)
    assert row.magnification == pytest.approx(500, rel=0.05)
    assert pixels_of(row.perturbation).std() > 0.4


def test_misclassified_images_come_first_and_budgets_are_spread(tmp_path):
    epsilons = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]
    success = [[False] * 7, [False] * 3 + [True] * 4, [True] * 7]
    folder, *_ = image_folder(tmp_path / "run", success, epsilons)
    rows = image_examples(folder, ["ant", "bee"], 2, **SHOWN)
    assert list(dict.fromkeys(row.index for row in rows)) == [12, 11]
    assert [row.epsilon for row in rows[:4]] == [0.01, 0.03, 0.05, 0.07]
    assert [row.prediction for row in rows[4:]] == ["ant", "ant", "bee", "bee"]


@pytest.mark.parametrize("epsilons", [[None], [8 / 255, 0.1]])
def test_the_grid_is_drawn(epsilons, tmp_path):
    success = [[place % 2 == 0] * len(epsilons) for place in range(10)]
    folder, *_ = image_folder(tmp_path / "run", success, epsilons, names=(HOSTILE, "b$e$e"))
    assert {path.name for path in write_examples(folder)} == FILES["image"]
    with Image.open(folder / "examples.png") as drawn:
        seen = np.asarray(drawn.convert("L"), dtype=float)
    assert drawn.height / 200 == pytest.approx(1.15 * (1 + 2 * len(epsilons)) + 0.3, abs=0.01)
    # Eight columns of pictures, none of them blank: each part of the middle row is mid-grey noise.
    left = seen.shape[1] * 0.75 / (0.95 * 8 + 0.75)
    step = (seen.shape[1] - left) / 8
    row = slice(int(seen.shape[0] * 1.3 / (1 + 2 * len(epsilons))), int(seen.shape[0] * 1.7 / (1 + 2 * len(epsilons))))
    for column in range(8):
        part = seen[row, int(left + step * (column + 0.35)) : int(left + step * (column + 0.65))]
        assert part.std() > 20


# Texts


def test_hostile_texts_stay_texts(tmp_path):
    attacked = f"It was a {HOSTILE} film | truly \ud800 bad"
    folder = text_folder(tmp_path / "run", [("It was a good film | truly \ud800 bad", attacked)], name=HOSTILE)
    assert {path.name for path in write_examples(folder)} == FILES["text"]
    page = Page((folder / "examples.html").read_text(encoding="utf-8"))
    assert not page.tags & {"script", "img", "iframe", "pos"}
    assert all(link.startswith("data:") for link in page.links)
    assert page.inside["del"] == ["good"]
    assert "".join(page.inside["ins"]) == HOSTILE
    assert "<pos> classified as neg|" in "".join(page.inside["h3"])


def test_markdown_is_a_table_whatever_the_texts_are(tmp_path):
    pairs = [
        ("a | b `c` [d](e) *f* good", "a | b `c` [d](e) *f* `go|od`"),
        ("# Title\n- good <b>item</b>", "# Title\n- goood <b>item</b>"),
    ]
    write_examples(text_folder(tmp_path / "run", pairs))
    lines = (tmp_path / "run" / "examples.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.replace(r"\|", "").count("|") == 5
    assert "<del>good</del> <u>**goood**</u>" in "\n".join(lines)
    assert "<b>" not in "".join(lines)
    assert r"\`go\|od\`" in "".join(lines)


def test_the_least_changed_texts_are_shown(tmp_path):
    pairs = [("good " * count, "bad " + "good " * (count - 1)) for count in range(1, 31)]
    write_examples(text_folder(tmp_path / "run", pairs))
    page = Page((tmp_path / "run" / "examples.html").read_text(encoding="utf-8"))
    assert len(page.inside["h3"]) == 20
    assert "20 successes" in " ".join("".join(page.inside["p"]).split())


# Folders


@pytest.mark.parametrize("kind", ["image", "text"])
def test_done_again_it_is_the_same_and_nothing_is_left_over(kind, tmp_path):
    folder = tmp_path / "run"
    if kind == "image":
        image_folder(folder, [[True]], [0.1])
    else:
        text_folder(folder, [("a good film", "a goood film")])
    before = set(folder.iterdir())
    first = {path.name: path.read_bytes() for path in write_examples(folder)}
    assert {path.name for path in set(folder.iterdir()) - before} == FILES[kind]
    assert {path.name: path.read_bytes() for path in write_examples(folder)} == first
    assert {path.name for path in set(folder.iterdir()) - before} == FILES[kind]


def test_without_a_success_nothing_is_written(tmp_path):
    folder = text_folder(tmp_path / "texts", [("a good film", None)])
    assert write_examples(folder) == []
    folder, *_ = image_folder(tmp_path / "images", [[True]], [0.1])
    (folder / "images.safetensors").unlink()
    assert write_examples(folder) == []


@pytest.mark.parametrize(("kind", "missing"), [("image", "matplotlib"), ("text", "jinja2")])
def test_a_missing_package_costs_the_examples_only(kind, missing, tmp_path, monkeypatch, caplog):
    folder = tmp_path / "run"
    if kind == "image":
        image_folder(folder, [[True]], [0.1])
    else:
        text_folder(folder, [("a good film", "a goood film")])
    monkeypatch.setitem(sys.modules, missing, None)
    assert write_examples(folder) == []
    assert 'pip install "hf_vub[report]"' in caplog.text


def test_examples_are_of_an_attack(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"rows": [], "skipped": {}}))
    with pytest.raises(ValueError, match="kind 'quickstart'"):
        write_examples(tmp_path)
