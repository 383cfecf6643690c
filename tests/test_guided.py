"""Guided search: another model's score leads, the victim decides, and a plateau of its own score hides nothing."""

import copy
import runpy
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from helpers import mini_wordnet
from helpers.reviews import BAD, GOOD, NEUTRAL, reviews, tiny_bert, train, word_tokenizer
from hf_vub import VUBForSequenceClassification
from hf_vub.attacks.text import attack as module
from hf_vub.attacks.text.classifier import TextClassifier, TokenFeatures
from hf_vub.runs.files import read_json, read_records
from hf_vub.runs.schema import TextAttackResult, read_result

pytestmark = pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
ROOT = Path(__file__).resolve().parents[1]
ROWS = 12


def emphatic(rows: int) -> Dataset:
    """Return reviews that say it three times: no single typing error turns them."""
    rng = np.random.default_rng(3)
    labels = [row % 2 for row in range(rows)]
    texts = []
    for label in labels:
        words = [*rng.choice(NEUTRAL, 4), *rng.choice(GOOD if label else BAD, 3, replace=False)]
        rng.shuffle(words)
        texts.append(f"The {' '.join(words)}.")
    return Dataset.from_dict({"text": texts, "label": labels}, features=reviews(1).features)


class Plateau(nn.Module):
    """Decide as a linear head does, with a score that says no more than the decision: its margin is 1 everywhere."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        logits = self.head(features)
        return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()


class Certain(nn.Module):
    """Answer class 1 to everything."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.tensor([[0.0, 9.0]], device=features.device).expand(len(features), -1)


@pytest.fixture(scope="module", autouse=True)
def fresh_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A machine without NLTK's data but for a small WordNet, so that a test finds the same anywhere."""
    folder = tmp_path_factory.mktemp("machine")
    synsets = {"adj": [["good", "superb"], ["great", "dull"], ["bad", "witty"], ["awful", "charming"]]}
    with mini_wordnet.only_data(folder, synsets):
        yield


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture(scope="module")
def stock(tokenizer: PreTrainedTokenizerFast) -> BertForSequenceClassification:
    """A tiny BERT that has learnt what the adjectives mean: the guide."""
    return train(tiny_bert(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def plateau(stock: BertForSequenceClassification) -> BertForSequenceClassification:
    """The same decisions from a score without slopes: the victim."""
    model = copy.deepcopy(stock)
    model.classifier = Plateau(model.classifier)
    return model


@pytest.fixture(scope="module")
def ours(
    stock: BertForSequenceClassification, tmp_path_factory: pytest.TempPathFactory
) -> VUBForSequenceClassification:
    """A bottleneck on the frozen backbone of the stock model."""
    folder = tmp_path_factory.mktemp("stock")
    stock.save_pretrained(folder)
    torch.manual_seed(0)
    model = VUBForSequenceClassification.from_pretrained(folder, objective="vib", beta=1e-3, num_train_samples=1)
    model.backbone.requires_grad_(False)
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trainable
    return train(model, tokenizer)


def attack(
    model: nn.Module | str, tokenizer: PreTrainedTokenizerFast, recipe: str = "deepwordbug", **options: Any
) -> TextAttackResult:
    options = {"num_examples": ROWS, "progress": False, **options}
    return module.attack_text(model, options.pop("dataset", emphatic(60)), recipe, tokenizer=tokenizer, **options)


def records(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_records(folder / "records.jsonl")]


OUTCOME = ("success", "perturbed_text", "perturbed_prediction", "queries", "words_perturbed")


def outcome(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in OUTCOME if name in record}


@pytest.fixture(scope="module")
def runs(
    plateau: nn.Module, stock: nn.Module, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, TextAttackResult]]:
    """The planted plateau, attacked by its own score, guided, and both."""
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, dict[str, Any]] = {
        "own": {},
        "guided": {"guide": stock},
        "both": {"guide": stock, "search": "both"},
    }
    found = {name: attack(plateau, tokenizer, output_dir=folder / name, **each) for name, each in options.items()}
    return folder, found


def test_a_planted_plateau_resists_its_own_score_and_falls_to_a_guide(
    runs: tuple[Path, dict[str, TextAttackResult]], stock: nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    _, found = runs
    plain = attack(stock, tokenizer)
    assert found["own"].clean_accuracy == plain.clean_accuracy  # the same decisions, so truly the same robustness
    assert found["own"].attack_success_rate is not None
    assert plain.attack_success_rate is not None
    assert found["own"].attack_success_rate < plain.attack_success_rate - 0.4
    assert found["guided"].attack_success_rate == plain.attack_success_rate


def test_a_guide_that_is_the_victim_changes_nothing(
    stock: nn.Module, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    for recipe in ("deepwordbug", "pwws"):
        attack(stock, tokenizer, recipe, num_examples=10, output_dir=tmp_path / recipe / "own")
        twin = copy.deepcopy(stock)
        attack(stock, tokenizer, recipe, num_examples=10, output_dir=tmp_path / recipe / "guided", guide=twin)
        assert records(tmp_path / recipe / "guided") == records(tmp_path / recipe / "own")


def test_the_victim_decides(
    runs: tuple[Path, dict[str, TextAttackResult]], plateau: nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder, _ = runs
    decide = TextClassifier(TokenFeatures(plateau, tokenizer))
    won = [row for row in records(folder / "guided") if row.get("success")]
    assert won
    assert all(int(decide([row["perturbed_text"]]).argmax()) == row["perturbed_prediction"] for row in won)
    assert all(row["perturbed_prediction"] != row["label"] for row in won)


def test_a_text_that_fools_the_victim_ends_the_search_where_the_guide_sees_nothing(
    plateau: nn.Module, stock: nn.Module, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """A blind guide ranks nothing: what is left is the recipe's walk over single edits, decided by the victim."""
    blind = copy.deepcopy(stock)
    with torch.no_grad():
        for parameter in blind.classifier.parameters():
            parameter.zero_()
    attack(plateau, tokenizer, dataset=reviews(60), output_dir=tmp_path, guide=blind)
    won = [row for row in records(tmp_path) if row.get("success")]
    assert won
    assert all(row["words_perturbed"] == 1 for row in won)


def test_both_searches_are_those_made_alone_and_the_worse_counts(
    runs: tuple[Path, dict[str, TextAttackResult]],
) -> None:
    folder, found = runs
    own, guided, both = (records(folder / name) for name in ("own", "guided", "both"))
    attacked = [row for row in both if row["status"] == "attacked"]
    for first, second, row in zip(own, guided, both, strict=True):
        assert first["status"] == second["status"] == row["status"]
        if row["status"] != "attacked":
            continue
        assert (row["own"], row["guided"]) == (outcome(first), outcome(second))
        assert row["success"] == (first["success"] or second["success"])
        assert row["queries"] == first["queries"] + second["queries"]
        wins = [each for each in (first, second) if each["success"]] or [first, second]
        assert row["words_perturbed"] == min(each["words_perturbed"] for each in wins)
    result = found["both"]
    assert result.searches is not None
    for name in ("own", "guided"):
        for field in ("attack_success_rate", "attack_success_interval", "accuracy_under_attack", "queries_mean"):
            assert result.searches[name][field] == found[name][field]
    wins_of = {name: [row[name]["success"] for row in attacked] for name in ("own", "guided")}
    alone = [a and not b for a, b in zip(wins_of["own"], wins_of["guided"], strict=True)]
    assert result.searches["own"].num_alone == sum(alone)
    assert result.num_successes == sum(wins_of["guided"]) + sum(alone)
    assert read_result(folder / "both" / "result.json") == result


def test_results_say_what_guided_them(runs: tuple[Path, dict[str, TextAttackResult]]) -> None:
    folder, found = runs
    assert (found["own"].guide, found["own"].search, found["own"].guide_weights) == (None, "own", None)
    assert read_json(folder / "own" / "result.json")["guide"] is None
    for name in ("guided", "both"):
        assert found[name].guide == "BertForSequenceClassification"
        assert found[name].search == name
        assert read_json(folder / name / "run.json")["guide_weights"] == found[name].guide_weights is not None


def test_another_guide_is_another_run(
    runs: tuple[Path, dict[str, TextAttackResult]],
    plateau: nn.Module,
    stock: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    folder, found = runs
    other = copy.deepcopy(stock)
    with torch.no_grad():
        other.classifier.bias.add_(1)
    for options in ({"guide": other}, {}):
        with pytest.raises(ValueError, match="holds a run with guide"):
            attack(plateau, tokenizer, output_dir=folder / "guided", **options)
    again = attack(plateau, tokenizer, output_dir=folder / "guided", guide=stock)
    assert again.attack_success_rate == found["guided"].attack_success_rate


# Backbones that are shared


def count_texts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the texts that go through any backbone."""
    texts: list[int] = []
    forward = TokenFeatures._forward

    def counting(self: TokenFeatures, keys: list[bytes]) -> Tensor:
        texts.append(len(keys))
        return forward(self, keys)

    monkeypatch.setattr(TokenFeatures, "_forward", counting)
    return texts


@pytest.mark.parametrize("guide_is", ["stock", "head", "sibling"])
def test_on_a_shared_backbone_both_searches_cost_less_than_twice_one_and_a_fifth(
    ours: VUBForSequenceClassification,
    stock: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    guide_is: str,
) -> None:
    guides = {"stock": stock, "head": stock.classifier, "sibling": copy.deepcopy(ours)}
    texts = count_texts(monkeypatch)
    one = attack(ours, tokenizer, num_examples=10)
    cost = sum(texts)
    texts.clear()
    both = attack(ours, tokenizer, num_examples=10, guide=guides[guide_is], search="both")
    assert sum(texts) <= 2.2 * cost
    if guide_is == "sibling":  # which asks for the very same texts
        assert sum(texts) == cost
    assert both.searches is not None
    assert both.searches["own"].attack_success_rate == one.attack_success_rate


def test_a_stock_victim_shares_its_backbone_too(
    ours: VUBForSequenceClassification,
    stock: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    texts = count_texts(monkeypatch)
    attack(stock, tokenizer, num_examples=8, output_dir=tmp_path / "own")
    cost = sum(texts)
    texts.clear()
    attack(stock, tokenizer, num_examples=8, output_dir=tmp_path / "both", guide=ours, search="both")
    assert sum(texts) <= 2.2 * cost
    own = [outcome(row) for row in records(tmp_path / "own") if row["status"] == "attacked"]
    assert [row["own"] for row in records(tmp_path / "both") if row["status"] == "attacked"] == own
    assert isinstance(stock.classifier, nn.Linear)  # the given model was not taken apart


def test_a_guide_on_another_backbone_reads_the_texts_itself(
    plateau: nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    other = train(tiny_bert(tokenizer, seed=5), tokenizer)
    own, guided = attack(plateau, tokenizer), attack(plateau, tokenizer, guide=other)
    assert own.attack_success_rate is not None
    assert guided.attack_success_rate is not None
    assert guided.attack_success_rate > own.attack_success_rate


def test_heads_with_one_guide_are_attacked_as_each_alone(
    ours: VUBForSequenceClassification, stock: nn.Module, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    heads = {"plain": stock.classifier, "flat": Plateau(stock.classifier)}
    options: dict[str, Any] = {"num_examples": 8, "progress": False, "guide": stock, "search": "both"}
    data = emphatic(60)
    together = module.attack_text_heads(ours, heads, data, tokenizer=tokenizer, output_dir=tmp_path, **options)
    assert list(together) == ["plain", "flat"]
    for name, head in heads.items():
        alone = {name: head}
        folder = tmp_path / "alone"
        module.attack_text_heads(ours, alone, data, tokenizer=tokenizer, output_dir=folder, **options)
        assert records(folder / name) == records(tmp_path / name)
    assert together["plain"].searches is not None
    assert together["plain"].searches["own"].num_alone == together["plain"].searches["guided"].num_alone == 0


# Classes


def test_a_guide_that_numbers_its_classes_otherwise_is_read_by_name(
    plateau: nn.Module, stock: nn.Module, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    plateau, stock, turned = (copy.deepcopy(model) for model in (plateau, stock, stock))
    for model in (plateau, stock):
        model.config.id2label, model.config.label2id = {0: "neg", 1: "pos"}, {"neg": 0, "pos": 1}
    turned.config.id2label, turned.config.label2id = {0: "POS", 1: "NEG"}, {"POS": 0, "NEG": 1}
    with torch.no_grad():
        turned.classifier.weight.copy_(turned.classifier.weight.flip(0))
        turned.classifier.bias.copy_(turned.classifier.bias.flip(0))
    for name, guide in (("stock", stock), ("turned", turned)):
        attack(plateau, tokenizer, num_examples=10, output_dir=tmp_path / name, guide=guide)
    assert records(tmp_path / "stock") == records(tmp_path / "turned")
    turned.config.id2label = {0: "bright", 1: "grim"}
    with pytest.raises(ValueError, match="guide .* numbers its classes otherwise .* match_labels='number'"):
        attack(plateau, tokenizer, num_examples=10, guide=turned)


# Arithmetic


def test_successes_in_bfloat16_count_only_if_float32_confirms_them(
    stock: nn.Module, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"dtype": "bfloat16", "guide": stock, "search": "both", "dataset": reviews(60)}
    plain = attack(stock, tokenizer, output_dir=tmp_path / "plain", **options)
    assert plain.confirmed_in == "float32"
    precise = TextClassifier(TokenFeatures(stock, tokenizer))
    won = [row for row in records(tmp_path / "plain") if row.get("success")]
    assert won
    assert all(int(precise([row["perturbed_text"]]).argmax()) != row["label"] for row in won)

    certain = copy.deepcopy(stock)
    certain.classifier = Certain()
    monkeypatch.setattr(module, "_precise", lambda *_: {"": TextClassifier(TokenFeatures(certain, tokenizer))})
    doubted = attack(stock, tokenizer, output_dir=tmp_path / "doubted", **options)
    rows = [row for row in records(tmp_path / "doubted") if row["status"] == "attacked"]
    assert {row["label"] for row in rows if row["success"]} == {0}  # of class 1 every success is denied
    denied = [each for row in rows for each in (row["own"], row["guided"]) if each.get("confirmed") is False]
    assert denied
    assert doubted.num_unconfirmed == len(denied)
    assert doubted.num_successes == sum(row["success"] for row in rows)


def test_a_search_in_float32_needs_no_confirmation(runs: tuple[Path, dict[str, TextAttackResult]]) -> None:
    _, found = runs
    assert (found["both"].confirmed_in, found["both"].num_unconfirmed) == (None, None)


# Errors and the command


def test_bad_input_is_one_sentence(plateau: nn.Module, stock: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    three = copy.deepcopy(stock)
    three.classifier = nn.Linear(16, 3)
    three.config.num_labels = 3
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"search": "both"}, "search is 'both', but guide is None"),
        ({"search": "own", "guide": stock}, "search is 'own', which asks no guide"),
        ({"search": "best", "guide": stock}, "search must be 'own', 'guided' or 'both', but is 'best'"),
        ({"guide": "no/such/model"}, "no/such/model"),
        ({"guide": three}, "guide .* has 3 classes, but the model has 2"),
        ({"guide": nn.Linear(16, 2)}, "guide is a head, but BertForSequenceClassification has no features"),
        ({"guide": stock, "recipe": "InputReductionFeng2018"}, "climbs no probability, so no guide can replace"),
    ]
    for options, sentence in wrong:
        with pytest.raises((ValueError, OSError), match=sentence) as raised:
            attack(plateau, tokenizer, **options)
        assert "\n" not in str(raised.value)


def test_the_script_attacks_several_checkpoints_with_one_guide(
    ours: VUBForSequenceClassification,
    stock: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, model in (("stock", stock), ("vib", ours)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    reviews(40).to_parquet(tmp_path / "test.parquet")
    monkeypatch.chdir(tmp_path)
    words = "--model stock vib --dataset test.parquet --guide stock --search both --num_examples 4 --output_dir run"
    monkeypatch.setattr(sys, "argv", ["attack_text.py", *words.split(), "--max_words", "30"])
    runpy.run_path(str(ROOT / "scripts" / "attack_text.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "success, own" in printed
    assert "success, guided" in printed
    result = read_result(tmp_path / "run" / "vib" / "result.json")
    assert isinstance(result, TextAttackResult)
    assert (result.guide, result.search, result.max_words) == ("stock", "both", 30)
