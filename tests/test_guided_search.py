"""The guided-search experiment: its rows, its pairs of heads, its tests, and its controls."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from helpers import mini_wordnet
from helpers.reviews import reviews, tiny_bert, train, word_tokenizer
from hf_vub.metrics import holm, mcnemar
from hf_vub.paper import guided
from hf_vub.paper.controls import train_plain_head, typing_errors
from hf_vub.paper.guided import GuidedSettings, guided_search
from hf_vub.paper.guided_outcomes import compare_attacks, margin, plateau, summary
from hf_vub.paper.guided_report import write_guided_report
from hf_vub.runs.files import read_records
from hf_vub.runs.schema import GuidedSearch, read_result

needs_textattack = pytest.mark.skipif(find_spec("textattack") is None, reason="text attacks are an optional extra")
HEADS = ("vub-0.001", "plain-less-entropy")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> GuidedSettings:
    folder = tmp_path_factory.mktemp("guided")
    tokenizer = word_tokenizer()
    model = train(tiny_bert(tokenizer), tokenizer)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "data").mkdir()
    reviews(240, seed=1).to_csv(folder / "data" / "train.csv")
    reviews(60, seed=2).to_csv(folder / "data" / "test.csv")
    return GuidedSettings(
        str(folder / "model"), str(folder / "data"), heads=HEADS, num_examples=6, min_words=3, max_words=40,
        max_train=200, measured=40, epochs=2, max_length=24,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(settings: GuidedSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GuidedSearch, Path]]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch, mini_wordnet.only_data(folder / "nltk", {"adj": [["good", "superb"]]}):
        patch.setattr(guided, "_BLOCK", 4)
        yield guided_search(settings, folder / "out"), folder / "out"


@needs_textattack
def test_every_pair_of_heads_is_attacked_on_the_same_rows(finished: tuple[GuidedSearch, Path]) -> None:
    result, folder = finished
    assert read_result(folder / "results.json") == result
    assert list(result.heads) == ["stock", "vub-0.001", "plain-less-entropy"]
    pairs = {(each.decides, each.guided_by) for each in result.attacks}
    own = {(name, name) for name in result.heads}
    assert pairs == own | {("vub-0.001", "stock"), ("plain-less-entropy", "stock"), ("stock", "vub-0.001")}
    assert len(set(result.rows)) == 6
    for attack in result.attacks:
        assert (attack.num_examples, len(attack.outcomes)) == (6, 6)
        assert attack.num_attacked == 6 - attack.outcomes.count("-")
        assert attack.num_successes == attack.outcomes.count("S")
    assert result.num_measured == 40
    assert 0 < result.num_confident <= 40
    assert sum(each.count for each in result.heads["vub-0.001"].plateau) == result.num_confident
    assert (result.model, result.dataset) == ("model", "data")
    assert str(folder.parent) not in (folder / "results.json").read_text(encoding="utf-8").replace(result.command, "")


@needs_textattack
def test_outcomes_are_those_of_the_records(finished: tuple[GuidedSearch, Path]) -> None:
    result, folder = finished
    found = {(each.decides, each.guided_by): each.outcomes for each in result.attacks}
    for name in ("stock", "vub-0.001"):
        records = [
            record
            for block in ("0-4", "4-6")
            for record in read_records(folder / "deepwordbug" / block / name / "records.jsonl")
        ]
        for search, guide in (("own", name), ("guided", "stock")):
            expected = [("S" if r[search]["success"] else "F") if search in r else "-" for r in records]
            assert found[name, guide] == "".join(expected)


@needs_textattack
def test_more_examples_extend_a_run(
    settings: GuidedSettings, finished: tuple[GuidedSearch, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = finished
    monkeypatch.setattr(guided, "_BLOCK", 4)
    monkeypatch.setattr(guided, "train_plain_head", None)  # the heads are there already
    first = (folder / "deepwordbug" / "0-4" / "vub-0.001" / "records.jsonl").stat().st_mtime_ns
    before = [each.outcomes for each in result.attacks]
    longer = guided_search(replace(settings, num_examples=8), folder)
    assert longer.rows[:6] == result.rows
    assert [each.outcomes[:4] for each in longer.attacks] == [outcomes[:4] for outcomes in before]
    again = read_records(folder / "deepwordbug" / "0-4" / "vub-0.001" / "records.jsonl")
    assert len(list(again)) == 4
    assert (folder / "deepwordbug" / "0-4" / "vub-0.001" / "records.jsonl").stat().st_mtime_ns >= first


@needs_textattack
def test_tables_and_plot_come_from_the_result(finished: tuple[GuidedSearch, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result, _ = finished
    written = {path.name: path for path in write_guided_report(result, tmp_path)}
    assert set(written) == {"guided-deepwordbug.md", "guided-heads.md", "guided-tests.md", "plateau.png", "plateau.pdf"}
    table = written["guided-deepwordbug.md"].read_text(encoding="utf-8")
    assert [line.split(" | ")[0] for line in table.splitlines()[2:5]] == [
        "| stock",
        "| vub, β 0.001",
        "| two layers, cross-entropy less min(H), no bottleneck",
    ]
    assert table.count("-") > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_examples": 0}, "num_examples must be at least 1"),
        ({"max_words": 5, "min_words": 9}, "max_words must be at least min_words = 9"),
        ({"heads": ["vib"]}, "one is 'vib'"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GuidedSettings("model", "data", **changes)


def test_too_few_rows_are_reported(settings: GuidedSettings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_examples must be at most"):
        guided_search(replace(settings, num_examples=1000), tmp_path)


def records(outcomes: str) -> list[dict[str, object]]:
    states = {"S": ("attacked", True), "F": ("attacked", False), "-": ("misclassified", None)}
    return [{"status": states[each][0], "success": states[each][1], "queries": 7} for each in outcomes]


def test_comparisons_are_paired_and_corrected() -> None:
    stock, vub = "S" * 30 + "F" * 2 + "-", "S" * 18 + "F" * 14 + "F"
    guided_vub = "S" * 30 + "F" * 3
    attacks = [
        summary("deepwordbug", "stock", "stock", records(stock)),
        summary("deepwordbug", "vub-0.001", "vub-0.001", records(vub)),
        summary("deepwordbug", "vub-0.001", "stock", records(guided_vub)),
    ]
    assert attacks[0].num_attacked == 32
    assert attacks[0].queries_mean == 7
    rows = compare_attacks(attacks)
    named = {(row.first, row.second): row for row in rows}
    own = named[("stock", "stock"), ("vub-0.001", "vub-0.001")]
    assert (own.num_pairs, own.only_first, own.only_second) == (32, 12, 0)
    assert own.p_value == pytest.approx(stats.binomtest(12, 12).pvalue)
    hidden = named[("vub-0.001", "stock"), ("vub-0.001", "vub-0.001")]
    assert (hidden.num_pairs, hidden.only_first, hidden.only_second) == (33, 12, 0)
    assert hidden.p_value == mcnemar([True] * 12, [False] * 12)
    same = named[("stock", "stock"), ("vub-0.001", "stock")]
    assert (same.only_first, same.only_second, same.p_value) == (0, 0, 1.0)
    assert [row.p_holm for row in rows] == holm([row.p_value for row in rows])
    assert own.p_holm > own.p_value


def test_the_plateau_has_no_order() -> None:
    rng = np.random.default_rng(0)
    stock = rng.random(600) * 5
    flat, ordered = plateau(1.28 + 0.01 * rng.random(600), stock), plateau(2 * stock, stock)
    assert abs(flat["rank_correlation"]) < 0.15
    assert ordered["rank_correlation"] == pytest.approx(1.0)
    assert plateau(stock, stock, correlate=False)["rank_correlation"] is None
    assert [each.stock for each in ordered["plateau"]] == sorted(each.stock for each in ordered["plateau"])
    for each in ordered["plateau"]:
        assert each.low <= each.median <= each.high
        assert each.median == pytest.approx(2 * each.stock)
    assert plateau(stock[:0], stock[:0]) == {"margin_quartiles": None, "rank_correlation": None, "plateau": ()}
    assert margin(torch.tensor([[1.0, 4.0, 2.0], [0.5, 0.5, 0.0]])).tolist() == [2.0, 0.0]


def test_the_reward_for_entropy_stops_the_margin_at_its_optimum() -> None:
    torch.manual_seed(0)
    labels = torch.arange(400) % 2
    features = torch.randn(400, 6) + 4.0 * (2 * labels[:, None] - 1)
    margins = {
        weight: float(np.median(margin(train_plain_head(
            features, labels, num_labels=2, entropy_weight=weight, epochs=60, seed=0,
        )(features))))
        for weight in (0.0, 1.0)
    }  # fmt: skip
    assert margins[1.0] == pytest.approx(1.278, abs=0.1)
    assert margins[0.0] > 3
    with pytest.raises(ValueError, match="entropy_weight"):
        train_plain_head(features, labels, num_labels=2, entropy_weight=-1.0, epochs=1, seed=0)


def test_typing_errors_hit_half_of_the_words() -> None:
    text = "a wonderful little film about nothing whatsoever I think"
    changed = typing_errors(text, seed=1).split()
    before = text.split()
    assert len(changed) == len(before)
    different = sum(one != other for one, other in zip(before, changed, strict=True))
    assert 1 <= different <= 4  # of seven words with two letters or more; swapping equal letters changes nothing
    assert changed[0] == "a"
    assert typing_errors(text, seed=1) == typing_errors(text, seed=1)
    assert len({typing_errors(text, seed=seed) for seed in range(10)}) > 5
    assert typing_errors(text, seed=0, share=0.0) == text
