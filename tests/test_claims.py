"""Verdicts on the paper's claims: the right rows, the worst case, Holm's correction, and what cannot be tested."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import grid_results
from hf_vub.metrics import mcnemar
from hf_vub.paper.claims import with_statistics
from hf_vub.paper.outcomes import outcomes_of, pack, successes, unpack, worst_columns
from hf_vub.paper.tables import tables
from hf_vub.runs.schema import Check, ClaimVerdict, Outcomes, Reproduction, StressCard, read_result

RESULTS = Path(__file__).parents[1] / "model_cards" / "results" / "reproduce"
DWB = "VUB is more robust than VIB: lower success of DWB"


@pytest.fixture(scope="module")
def texts() -> Reproduction:
    return grid_results.make("text", runs=3)


def claim(results: Reproduction, text: str) -> ClaimVerdict:
    (row,) = [row for row in results.claims if text in row.claim]
    return row


def changed(results: Reproduction, column: str, letters: dict[str, str]) -> Reproduction:
    """Return results whose heads have other outcomes in one column, by objective; "stock" is the stock classifier."""

    def of(run, name):
        return replace(run, outcomes={**run.outcomes, column: Outcomes(letters=letters[name])})

    runs = tuple(of(run, run.objective) if run.objective in letters else run for run in results.runs)
    vanilla = of(results.vanilla, "stock") if "stock" in letters else results.vanilla
    return replace(results, runs=runs, vanilla=vanilla)


def test_a_claim_names_its_betas_rows_and_seeds(texts: Reproduction) -> None:
    row = claim(texts, DWB)
    assert row.verdict == "holds"
    assert row.betas == {"vib": 1e-3, "vub": 1e-3}
    assert (row.num_rows, row.seeds) == (sum(letter != "-" for letter in texts.vanilla.outcomes["DWB"].letters), 3)
    assert [each.beta for each in row.at_every_beta] == [1e-3, 1e-2, 1e-1]
    assert row.p_holm > row.p_value
    assert "paired bootstrap" in row.test


def test_every_claim_is_made_once(texts: Reproduction) -> None:
    names = [row.claim for row in texts.claims]
    assert len(names) == len(set(names))
    assert not any("chosen on test" in name for name in names)  # the same betas: it would be the same claim again
    runs = [replace(run, validation={**run.validation, "accuracy": run.beta}) for run in texts.runs]
    other = with_statistics(replace(texts, runs=tuple(runs)))
    assert claim(other, "chosen on test").betas == {"vib": 1e-3, "vub": 1e-3}
    assert claim(other, "higher test accuracy than VIB (paper").betas == {"vib": 1e-1, "vub": 1e-1}


def test_a_lead_that_a_guide_takes_away_does_not_hold() -> None:
    hidden = grid_results.make("text", runs=3, guided_gain=0.0)
    row = claim(hidden, DWB)
    assert row.verdict == "does not hold"
    assert row.why == "chance can explain the difference in the worst case"
    assert all(each.verdict == "does not hold" for each in row.at_every_beta)


def test_the_worst_case_is_over_attacks_for_each_row(texts: Reproduction) -> None:
    """VUB falls to one search on half of the rows and to the other one on the other half: in the worst case on all."""
    columns = worst_columns(texts, "DWB")
    assert columns == ["DWB", "DWB guided", "PWWS", "PWWS guided"]
    results = texts
    for column, vub in zip(columns, ["SF" * 50, "FS" * 50, "FF" * 50, "FF" * 50], strict=True):
        results = changed(results, column, {"vib": "SF" * 50, "vub": vub, "stock": "SS" * 50})
    worst = successes(results.runs[-3:], columns)
    assert worst is not None
    assert worst.shape == (3, 100)
    assert worst.all()
    row = claim(with_statistics(results), DWB)
    assert row.verdict == "does not hold"
    assert "VUB 100.0%" in row.ours


def test_without_a_guided_search_robustness_cannot_be_tested(texts: Reproduction) -> None:
    def own(run):
        kept = {name: found for name, found in run.attacks.items() if "guided" not in name}
        return replace(run, attacks=kept)

    bare = replace(texts, runs=tuple(map(own, texts.runs)), vanilla=own(texts.vanilla))
    row = claim(with_statistics(bare), DWB)
    assert row.verdict == "cannot be tested here"
    assert "no guided search was made" in row.why


def test_a_single_gradient_step_is_no_evidence() -> None:
    images = grid_results.make("image", runs=2)
    assert claim(images, "no worse success of FGS 0.1").verdict == "holds"

    def only_fgs(run):
        return replace(run, attacks={name: found for name, found in run.attacks.items() if "pgd" not in name})

    bare = replace(images, runs=tuple(map(only_fgs, images.runs)), vanilla=only_fgs(images.vanilla))
    row = claim(with_statistics(bare), "no worse success of FGS 0.1")
    assert row.verdict == "cannot be tested here"
    assert "pgd_linf" in row.why


def test_the_worst_case_of_images_keeps_to_the_budget() -> None:
    images = grid_results.make("image", runs=2)
    assert worst_columns(images, "FGS 8/255") == ["FGS 8/255", "pgd_linf 8/255"]
    assert worst_columns(images, "FGS 0.1") == ["FGS 8/255", "FGS 0.1", "pgd_linf 8/255", "pgd_linf 0.1"]
    assert worst_columns(images, "CW") == ["CW"]


def test_holm_decides() -> None:
    """Six rows that differ give p = 0.031: below 5 % alone, above it as the smallest of ten claims."""
    texts = grid_results.make("text", runs=3, gain=0.0)
    for column in worst_columns(texts, "DWB"):
        texts = changed(texts, column, {"vib": "SF" * 50, "vub": "SF" * 50, "stock": "SF" * 50})
    rows = len(unpack(texts.vanilla.correct))
    right, wrong = np.ones(rows, dtype=bool), np.ones(rows, dtype=bool)
    wrong[:6] = False
    assert mcnemar(right, wrong) == pytest.approx(2**-5)
    runs = [replace(run, correct=pack(right if run.objective == "vub" else wrong)) for run in texts.runs]
    row = claim(with_statistics(replace(texts, runs=tuple(runs))), "higher test accuracy than VIB")
    assert row.p_value == pytest.approx(2**-5)
    assert row.p_holm > 0.05
    assert row.verdict == "does not hold"


def test_no_worse_takes_rows_enough_to_rule_the_margin_out() -> None:
    images = grid_results.make("image", runs=2)
    few = images
    for column in ("FGS 0.1", "FGS 8/255", "pgd_linf 0.1", "pgd_linf 8/255"):
        few = changed(few, column, {"vib": "SF" * 8, "vub": "SF" * 8, "stock": "SS" * 8})
    row = claim(with_statistics(few), "no worse success of FGS 0.1")
    assert row.verdict == "cannot be tested here"
    assert row.why == "it takes 59 rows to rule out a difference of 0.05, and 16 were compared"
    many = images
    for column in ("FGS 0.1", "FGS 8/255", "pgd_linf 0.1", "pgd_linf 8/255"):
        many = changed(many, column, {"vib": "SF" * 100, "vub": "SF" * 100, "stock": "SS" * 100})
    row = claim(with_statistics(many), "no worse success of FGS 0.1")
    assert (row.verdict, row.margin) == ("holds", 0.05)


def test_four_attacked_rows_decide_nothing(texts: Reproduction) -> None:
    few = texts
    for column in worst_columns(texts, "DWB"):
        few = changed(few, column, {"vib": "SSSS-", "vub": "FFFF-", "stock": "SSSS-"})
    row = claim(with_statistics(few), DWB)
    assert row.verdict == "cannot be tested here"
    assert row.why == "4 rows cannot give a p-value below 0.12"


def test_metrics_of_a_split_are_compared_over_seeds() -> None:
    row = claim(grid_results.make("text", runs=2), "better calibrated")
    assert row.verdict == "cannot be tested here"
    assert "0.33" in row.why
    assert claim(grid_results.make("text", runs=5), "better calibrated").verdict == "does not hold"


@pytest.mark.parametrize("name", ["imdb", "cifar10"])
def test_older_results_load_and_say_what_they_lack(name: str) -> None:
    results = read_result(RESULTS / name / "results.json")
    assert isinstance(results, Reproduction)
    assert results.claims
    again = with_statistics(results)
    row = claim(again, "VUB has a higher test accuracy than VIB (paper")
    assert row.test == "rank-sum test over runs"
    attacked = [row for row in again.claims if "robust" in row.claim and "CW" not in row.claim]
    assert {row.verdict for row in attacked} == {"cannot be tested here"}
    saved = {row.claim: row for row in results.claims}
    for row in attacked:
        assert saved[row.claim].verdict == row.verdict


def test_outcomes_of_records() -> None:
    text = [
        {"status": "attacked", "success": True, "own": {"success": False}, "guided": {"success": True}},
        {"status": "misclassified"},
        {"status": "attacked", "success": False, "own": {"success": False}, "guided": {"success": False}},
    ]
    assert outcomes_of(text).letters == "S-F"
    assert outcomes_of(text, "own").letters == "F-F"
    assert outcomes_of(text, "guided") == Outcomes(letters="S-F")
    small, large = {"success": False, "l2": 0.1}, {"success": True, "l2": 0.5}
    image = [{"status": "attacked", "outcomes": [small, large]}, {"status": "is the target"}]
    assert outcomes_of(image, budget=0).letters == "F-"
    assert outcomes_of(image, budget=1) == Outcomes(letters="S-", l2=(0.5, None))


def test_bits_come_back_as_they_went() -> None:
    bits = [True, False, False] * 7
    assert unpack(pack(bits)) == bits
    assert pack(bits).startswith("21:")


def test_a_check_that_was_not_made_is_unknown_and_not_passed(texts: Reproduction) -> None:
    checks = {
        "unknown: transfer": [(True, True), (None, True), (None, False)],
        "failed: monotone": [(False, True), (None, True), (None, True)],
        "all checks passed": [(True, True), (True, True), (None, False)],
    }
    for said, states in checks.items():
        made = tuple(
            Check(name=name, passed=passed, applies=applies, why="", figures={})
            for name, (passed, applies) in zip(("monotone", "transfer", "eot"), states, strict=True)
        )
        card = StressCard(objective="vub", head="vub", passed=None, checks=made)
        table = tables(replace(texts, stress=(card,)))[-1]
        assert table.rows[-1][-1] == said
