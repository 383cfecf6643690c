"""The text report card passes honest models and fails those whose score hides the way, each for its reason."""

import copy
import json
import random
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import one_hot
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from helpers import mini_wordnet
from helpers.topics import TOPICS, topic_bert, topic_tokenizer, topics, train_on_topics, with_typos
from hf_vub import VUBForSequenceClassification
from hf_vub.attacks import report_card
from hf_vub.attacks.text import verdicts
from hf_vub.attacks.text.verdicts import Comparison, Plateau, compare, measure_plateau, plateau_check
from hf_vub.runs.files import read_json, read_records
from hf_vub.runs.schema import Check, TextReportCard, overall, read_result

needs_textattack = pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
CHECKS = ["guided", "transfer", "plateau", "every_candidate", "beam", "link", "random_edits", "unbounded", "eot"]


# Verdicts


def outcomes(successes: int, texts: int = 20) -> np.ndarray:
    """Return outcomes of which the first ones are successes."""
    return np.arange(texts) < successes


def link(rival: int, own: int) -> Comparison:
    """Compare two searches of 20 texts."""
    return Comparison("link", {"rival": outcomes(rival)}, outcomes(own), "{name} {rival:.1%} {base:.1%}")


def test_a_rival_fails_a_check_only_beyond_chance() -> None:
    verdict = {rival: compare([link(rival, 10)], 1.0)[0].passed for rival in (0, 10, 14, 15, 20)}
    # Five texts in one direction have p = 1/32, four 1/16.
    assert verdict == {0: True, 10: True, 14: True, 15: False, 20: False}


def test_the_level_holds_over_all_checks_together() -> None:
    one, *_ = compare([link(15, 10)], 1.0)
    first, *others = compare([link(15, 10), link(10, 10), link(10, 10)], 1.0)
    assert one.passed is False
    assert one.figures["p_value"] == pytest.approx(1 / 32)
    assert first.passed is True  # Holm (1979)
    assert first.figures["p_value"] == pytest.approx(3 / 32)
    assert all(check.passed for check in others)


def test_the_worst_of_several_rivals_counts_and_texts_stay_paired() -> None:
    """The rates of the second rival are no higher than own, but it fools other texts: no difference is found."""
    other_texts = ~outcomes(10)
    weak = Comparison("transfer", {"a": outcomes(3), "b": other_texts}, outcomes(10), "{name}: {rival:.1%} {base:.1%}")
    strong = weak._replace(rival={"a": outcomes(3), "c": outcomes(18)})
    assert compare([weak], 1.0)[0].passed is True
    (check,) = compare([strong], 1.0)
    assert check.passed is False
    assert check.why.startswith("c: 90.0% 50.0%")
    assert check.figures["p_value"] == pytest.approx(2 / 2**8)  # two rivals, eight texts
    assert check.figures["rival"] == {"a": 0.15, "c": 0.9}
    assert (check.figures["only_rival"], check.figures["only_own"]) == (8, 0)


def test_a_guide_that_decides_otherwise_leaves_a_check_open() -> None:
    guided = link(10, 10)._replace(guided=True)
    assert compare([guided], 0.7)[0].passed is None
    assert compare([guided], 0.8)[0].passed is True
    assert compare([guided._replace(rival={"rival": outcomes(20)})], 0.7)[0].passed is False
    assert compare([link(10, 10)], 0.0)[0].passed is True  # no guide was asked


def test_few_texts_leave_a_check_open() -> None:
    """The smallest p-value of four texts is 1/16."""
    few = link(0, 0)._replace(rival={"rival": outcomes(4, 4)}, base=outcomes(0, 4))
    assert compare([few], 1.0)[0].passed is None
    assert "4 texts are too few to tell" in compare([few], 1.0)[0].why
    five = few._replace(rival={"rival": outcomes(5, 5)}, base=outcomes(0, 5))
    assert compare([five], 1.0)[0].passed is False


def test_an_open_check_is_not_passed() -> None:
    passed = Check(name="a", passed=True, why="", figures={})
    assert overall([passed, verdicts.not_made("b", "there is no guide")]) is None
    assert overall([passed, passed]) is True


def test_a_score_is_ranked_within_each_class() -> None:
    """Between classes, whose sureness differs, the order of scores says nothing."""
    rng = np.random.default_rng(0)
    decisions = np.repeat([0, 1], 200)
    guide = rng.uniform(1, 2, 400) + decisions
    honest = guide - 3 * decisions
    plateau = measure_plateau(honest, honest, guide, decisions)
    assert plateau.correlation > 0.99
    assert plateau.texts == 200  # the half of each class that the guide is surest of
    noise = rng.normal(size=400)
    assert abs(measure_plateau(noise, noise, guide, decisions).correlation) < 0.2
    assert plateau_check(measure_plateau(noise, noise, guide, decisions)).passed is False
    assert measure_plateau(np.ones(400), np.ones(400), guide, decisions)[:3] == pytest.approx((0, 0.12, 0), abs=0.01)
    assert measure_plateau(honest, honest, -guide, decisions).texts == 0


def test_a_plateau_asks_for_enough_texts() -> None:
    assert plateau_check(Plateau(0.0, 0.1, 0.5, 100)).passed is False
    assert plateau_check(Plateau(0.2, 0.31, 0.5, 100)).passed is True
    assert plateau_check(Plateau(0.0, 0.1, 0.5, 19)).passed is None


# Planted models


class Planted(nn.Module):
    """A head that decides as another one, and shows another score."""

    def __init__(self, head: nn.Module, show: Callable[[Tensor], Tensor]):
        super().__init__()
        self.head, self.show = head, show

    def forward(self, features: Tensor) -> Tensor:
        return self.show(self.head(features))


class Noisy(nn.Module):
    """A head whose declared predictor adds noise to the logits."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, num_samples: int = 0) -> Tensor:
        logits = self.head(features)
        if not num_samples:
            return logits
        drawn = logits + torch.randn(num_samples, *logits.shape)
        return drawn.softmax(dim=-1).mean(dim=0).log()


def with_margin(logits: Tensor, margin: Callable[[Tensor], Tensor]) -> Tensor:
    """Return logits with the same decisions and another margin."""
    first, second = logits.topk(2, dim=-1).values.unbind(dim=-1)
    return one_hot(logits.argmax(dim=-1), logits.shape[-1]) * margin(first - second)[..., None]


def rounded(logits: Tensor) -> Tensor:
    """Return logits that are multiples of 4; a thousandth keeps the decision."""
    return (logits / 4).round() * 4 + 1e-3 * one_hot(logits.argmax(dim=-1), logits.shape[-1])


PLANTS: dict[str, tuple[Callable[[Tensor], Tensor], set[str]]] = {
    "a plateau as under VUB": (lambda z: with_margin(z, lambda m: 1.28 + 0.02 * torch.sin(40 * m)), {"plateau"}),
    "a high training temperature": (lambda z: 100 * z, {"link", "guided", "transfer"}),
    "saturated logits": (
        lambda z: with_margin(z, lambda m: 50 * torch.tanh(5 * m)),
        {"plateau", "guided", "unbounded"},
    ),
    "rounded logits": (rounded, {"guided", "transfer"}),
    "undeclared noise": (lambda z: z + 3 * torch.randn_like(z), {"eot"}),
}


@pytest.fixture(scope="module", autouse=True)
def fresh_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A machine without NLTK's data, so that a test finds the same anywhere."""
    if find_spec("textattack") is None:  # then no test reads any
        yield
        return
    with mini_wordnet.only_data(tmp_path_factory.mktemp("machine"), {"noun": [["goal", "aim"]]}):
        yield


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return topic_tokenizer()


@pytest.fixture(scope="module")
def stock(tokenizer: PreTrainedTokenizerFast) -> BertForSequenceClassification:
    return train_on_topics(topic_bert(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def ours(
    stock: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> VUBForSequenceClassification:
    """A VIB classifier on the frozen backbone of the stock model, its head untrained."""
    folder = tmp_path_factory.mktemp("stock")
    stock.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = VUBForSequenceClassification.from_pretrained(folder, objective="vib", beta=1e-3, num_train_samples=1)
    model.backbone.requires_grad_(False)
    return model.eval()


@pytest.fixture
def planted(
    stock: BertForSequenceClassification, ours: VUBForSequenceClassification
) -> Callable[[nn.Module], VUBForSequenceClassification]:
    """Put a head on the frozen backbone of the stock model."""

    def plant(head: nn.Module) -> VUBForSequenceClassification:
        model = copy.copy(ours)
        model._modules = {**ours._modules, "head": head}
        return model

    return plant


def make(model: nn.Module, tokenizer: PreTrainedTokenizerFast, **options: Any) -> TextReportCard:
    """Make a card of few texts."""
    options = {"num_examples": 16, "query_factor": 3, "dataset": topics(120, seed=5), "progress": False, **options}
    card = report_card(model, options.pop("dataset"), tokenizer=tokenizer, **options)
    assert isinstance(card, TextReportCard)
    assert [check.name for check in card.checks] == CHECKS
    assert card.passed is overall(card.checks)
    return card


def verdict(card: TextReportCard) -> dict[str, bool | None]:
    """Return what each check says."""
    return {check.name: check.passed for check in card.checks}


def failed(card: TextReportCard) -> set[str]:
    """Return the names of the failed checks."""
    return {name for name, passed in verdict(card).items() if passed is False}


@needs_textattack
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_score_fails_for_its_reason(
    plant: str,
    planted: Callable[[nn.Module], nn.Module],
    stock: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    show, reasons = PLANTS[plant]
    card = make(planted(Planted(stock.classifier, show)), tokenizer, guide=stock)
    assert card.passed is False
    assert reasons <= failed(card)
    if plant != "undeclared noise":
        assert card.guide_agreement == 1.0
        assert card.searches["guided"].success_rate > card.searches["own"].success_rate  # decisions are the stock's


@needs_textattack
def test_a_random_predictor_fails_where_averaging_draws_finds_more(
    planted: Callable[[nn.Module], nn.Module], stock: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    card = make(planted(Noisy(stock.classifier)), tokenizer, guide=stock, noise="sampled")
    assert "eot" in failed(card)
    assert card.searches["own"].success_rate > card.searches["single"].success_rate
    assert (card.noise, card.redraws) == ("sampled", 20)


@needs_textattack
def test_honest_models_pass(
    planted: Callable[[nn.Module], nn.Module],
    ours: VUBForSequenceClassification,
    stock: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rng = random.Random(0)
    torch.manual_seed(0)
    models = {
        "stock": stock,
        "plain head": planted(copy.deepcopy(stock.classifier)),
        "vib": train_on_topics(planted(copy.deepcopy(ours.head)), tokenizer),
        "trained on typos": train_on_topics(
            topic_bert(tokenizer, seed=3), tokenizer, steps=400, change=lambda text: with_typos(text, rng)
        ),
    }
    for name, model in models.items():
        card = make(model, tokenizer, guide=stock, num_examples=12)
        assert card.passed is True, (name, [check.why for check in card.checks if not check.passed])
        assert card.clean_accuracy > 0.9
        if name == "trained on typos":  # truly harder to fool with the texts that fool the stock model
            assert card.searches["transfer: BertForSequenceClassification"].success_rate < 0.6


@needs_textattack
def test_without_a_guide_one_is_fitted_to_the_decisions(
    planted: Callable[[nn.Module], nn.Module], stock: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    flat = Planted(stock.classifier, lambda logits: with_margin(logits, torch.ones_like))
    opaque = copy.deepcopy(stock)
    opaque.classifier = flat
    honest = make(planted(copy.deepcopy(stock.classifier)), tokenizer)
    assert honest.passed is True
    assert "a logistic regression on its features" in str(honest.guide)
    card = make(opaque, tokenizer)
    assert {"guided", "plateau", "unbounded"} <= failed(card)
    assert "a logistic regression on tokens" in str(card.guide)
    assert card.guide_weights is None


@needs_textattack
def test_a_model_that_always_decides_alike_leaves_checks_open(
    stock: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    stubborn = copy.deepcopy(stock)
    with torch.no_grad():
        stubborn.classifier.weight.zero_()
        stubborn.classifier.bias.copy_(torch.tensor([9.0, 0, 0, 0]))
    card = make(stubborn, tokenizer)
    said = verdict(card)
    assert card.passed is None
    assert [said[name] for name in ("guided", "transfer", "plateau", "every_candidate", "beam", "unbounded")] == 6 * [
        None
    ]
    assert "no guide can be fitted" in card.checks[0].why
    assert card.guide is None


@needs_textattack
def test_several_models_to_transfer_from_are_tried(
    stock: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast
) -> None:
    other = topic_bert(tokenizer, seed=1)
    card = make(stock, tokenizer, guide=stock, transfer_from=[other], num_examples=4)
    assert len(card.transfer_from) == 1
    (check,) = [check for check in card.checks if check.name == "transfer"]
    assert isinstance(check.figures["rival"], dict)


@needs_textattack
def test_a_card_resumes_and_reads_back(
    stock: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hf_vub.attacks.text.card_method import CardMethod

    options: dict[str, Any] = {"guide": stock, "num_examples": 4, "output_dir": tmp_path}
    whole = make(stock, tokenizer, **options)
    assert read_result(tmp_path / "report_card.json") == whole
    log = tmp_path / "report_card" / "records.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:2]))
    searched: list[range] = []
    attack = CardMethod.attack
    monkeypatch.setattr(CardMethod, "attack", lambda self, *args: searched.append(args[1]) or attack(self, *args))
    again = make(stock, tokenizer, **options)
    assert len(searched) == 2  # the two texts that were lost
    assert [row["outcomes"] for row in read_records(log)] == [json.loads(line)["outcomes"] for line in lines]
    assert again.checks == whole.checks
    with pytest.raises(ValueError, match="holds a run with query_factor=3, and this one has query_factor=2"):
        make(stock, tokenizer, **options, query_factor=2)
    assert read_json(tmp_path / "report_card" / "run.json")["guide"] == "BertForSequenceClassification"


@needs_textattack
def test_pairs_keep_their_second_text(stock: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast) -> None:
    data = topics(40, seed=5)
    pairs = data.add_column("text_pair", [f"{text} and so on" for text in data["text"]])
    assert isinstance(pairs, Dataset)
    card = make(stock, tokenizer, guide=stock, dataset=pairs, num_examples=4)
    assert card.num_attacked + card.num_skipped > 0
    assert card.guide_agreement == 1.0


@needs_textattack
def test_bad_input_is_one_sentence(stock: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"query_factor": 0}, "query_factor must be a whole number of at least 1, but is 0"),
        ({"recipe": "no such"}, "recipe must be one of"),
        ({"recipe": "InputReductionFeng2018", "guide": stock}, "climbs no probability"),
        ({"noise": "loud"}, "noise must be"),
    ]
    for options, sentence in wrong:
        with pytest.raises(ValueError, match=sentence) as raised:
            make(stock, tokenizer, **options)
        assert "\n" not in str(raised.value)
    assert set(TOPICS) == set(stock.config.label2id)


@needs_textattack
def test_the_script_makes_a_card(
    stock: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stock.save_pretrained(tmp_path / "stock")
    tokenizer.save_pretrained(tmp_path / "stock")
    topics(40, seed=5).to_parquet(tmp_path / "test.parquet")
    monkeypatch.chdir(tmp_path)
    words = "--model stock --dataset test.parquet --report_card --guide stock --num_examples 3 --query_factor 2"
    script = str(Path(__file__).resolve().parents[1] / "scripts" / "attack_text.py")
    monkeypatch.setattr(sys, "argv", [script, *words.split(), "--output_dir", "run"])
    runpy.run_path(script, run_name="__main__")
    printed = capsys.readouterr().out
    assert all(name in printed for name in CHECKS)
    card = read_result(tmp_path / "run" / "report_card.json")
    assert isinstance(card, TextReportCard)
    assert (card.guide, card.query_factor, card.num_examples, card.passed) == ("stock", 2, 3, None)
    monkeypatch.setattr(sys, "argv", [script, *words.split(), "--search", "both"])
    with pytest.raises(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert "--search has no meaning for --report_card" in capsys.readouterr().err


# Real heads


@needs_textattack
@pytest.mark.slow
@pytest.mark.shared_data
def test_heads_on_imdb_fail_where_guided_search_shows_their_mistakes(shared_data: Path, tmp_path: Path) -> None:
    """Short test reviews; the heads are trained on cached features of the frozen MiniLM."""
    from hf_vub.data.splits import load_splits
    from hf_vub.embeddings import extract
    from hf_vub.paper.controls import train_plain_head
    from hf_vub.sweep import HeadRun, train_heads

    folder = shared_data / "models" / "minilm-imdb"
    splits = load_splits(shared_data / "data" / "imdb", medium="text", max_train=4000, validation=0.1, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = VUBForSequenceClassification.from_pretrained(folder, objective="vib", beta=1e-3, num_train_samples=1).eval()
    train = extract(model, splits["train"], tmp_path, processing_class=tokenizer, max_length=256)
    runs = [HeadRun("vib", 1e-3), HeadRun("vub", 1e-3), HeadRun("vib", 0.1)]
    trained = train_heads(train.features, train.labels, runs, num_labels=2, epochs=40)
    vib, vub, strict = (result.head for result in trained)
    plain, rewarded = (
        train_plain_head(train.features, train.labels, num_labels=2, entropy_weight=weight, epochs=40, seed=0)
        for weight in (0.0, 1.0)
    )
    short = splits["test"].filter(lambda row: 25 <= len(row["text"].split()) <= 42)
    options: dict[str, Any] = {"tokenizer": tokenizer, "dataset": short, "num_examples": 40, "max_length": 256}
    verdicts_of = {}
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    heads = {"vib": vib, "plain": plain, "vub": vub, "vib at 0.1": strict, "less entropy": rewarded}
    for name, head in heads.items():
        model.head = head.eval()
        verdicts_of[name] = make(model, guide=stock, **options)
    assert make(stock, guide=stock, **options).passed is True
    for name in ("vib", "plain"):
        assert verdicts_of[name].passed is True, (name, [check.why for check in verdicts_of[name].checks])
    for name in ("vub", "vib at 0.1", "less entropy"):
        assert {"guided", "plateau"} <= failed(verdicts_of[name]), (name, [c.why for c in verdicts_of[name].checks])
