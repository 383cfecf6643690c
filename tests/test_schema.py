"""Typed results: every committed result JSON loads, goes there and back, and a wrong field is named."""

import json
import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_vub.runs.files import read_json, write_json
from hf_vub.runs.provenance import provenance
from hf_vub.runs.schema import (
    AttackSummary,
    Check,
    Choice,
    ImageAttackResult,
    Part,
    Quickstart,
    ReportCard,
    Reproduction,
    StressCard,
    StressResult,
    TextAttackResult,
    TrainResult,
    overall,
    read_result,
    split_metrics,
)

RESULTS = Path(__file__).parents[1] / "model_cards" / "results"
PWWS = RESULTS / "attacks" / "imdb" / "pwws-vub.json"
PGD = RESULTS / "attacks" / "cifar10" / "pgd_linf-vub.json"


ADDED = {"applies": True}  # what files from before the field mean


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None and item != ADDED.get(key)}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json")), ids=lambda path: str(path.relative_to(RESULTS)))
def test_every_committed_result_goes_there_and_back(path: Path, tmp_path: Path) -> None:
    content, result = read_json(path), read_result(path)
    assert isinstance(result, Quickstart) == (path.parent.name == "quickstart")
    again = read_json(result.save(tmp_path / "again.json"))
    if isinstance(result, Quickstart):  # older than the kind
        content |= {"kind": "quickstart", "schema": 1}
    assert without_nulls(again) == without_nulls(content)
    assert read_result(tmp_path / "again.json") == result


def test_a_result_is_a_read_only_mapping() -> None:
    result = read_result(PGD)
    assert isinstance(result, ImageAttackResult)
    assert result["budgets"][0]["epsilon"] == result.budgets[0].epsilon == 1 / 255
    assert result == read_json(PGD) == result.to_json()
    assert result == dict(result) == {**result}
    assert result != {**result, "seed": 1}
    assert result.get("split", "absent") == "absent"
    assert "split" not in result
    assert "target" in result
    assert result["target"] is None
    assert len(result) == len(list(result)) == len(read_json(PGD))
    for name in ("split", "rubbish", "to_json"):
        with pytest.raises(KeyError, match=name):
            result[name]
    with pytest.raises(TypeError):
        result["seed"] = 1  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        result.seed = 1  # type: ignore[misc]
    assert replace(result, split="test")["split"] == "test"


def test_a_field_that_older_files_lack_is_written_as_null() -> None:
    content = read_json(RESULTS / "vub-imdb.json")
    assert "latent_size" not in content
    assert TrainResult.from_json(content).to_json()["latent_size"] is None


def test_parts_are_told_apart_by_their_fields() -> None:
    results = read_result(RESULTS / "reproduce" / "cifar10" / "results.json")
    assert isinstance(results, Reproduction)
    assert {type(row) for row in results.stress} == {StressResult, StressCard}
    assert isinstance(results.vanilla.attacks["CW"], AttackSummary)
    quickstart = read_result(RESULTS / "quickstart" / "results.json")
    assert isinstance(quickstart, Quickstart)
    kinds = {type(attack) for row in quickstart.rows for attack in row.attacks or ()}
    assert kinds == {ImageAttackResult, TextAttackResult}


def test_a_new_result_carries_where_it_comes_from(tmp_path: Path) -> None:
    content = read_json(RESULTS / "attacks" / "cifar10" / "report_card-vub.json")
    card = ReportCard(**{**ReportCard.from_json(content), **provenance()})
    assert read_result(card.save(tmp_path / "card.json")) == card
    assert card.schema == 1


def test_what_is_not_finite_comes_back_as_none(tmp_path: Path) -> None:
    result = read_result(RESULTS / "vub-imdb.json")
    assert isinstance(result, TrainResult)
    path = replace(result, metrics={"nll": math.inf, "accuracy": 0.5}).save(tmp_path / "a.json")
    found = read_result(path)
    assert isinstance(found, TrainResult)
    assert found.metrics == {"nll": None, "accuracy": 0.5}


def test_metrics_of_users_that_are_not_numbers_are_kept_apart(tmp_path: Path) -> None:
    result = read_result(RESULTS / "vub-imdb.json")
    assert isinstance(result, TrainResult)
    given = {"f1": np.float32(0.5), "loss": torch.tensor(1.0), "nll": math.nan, "rows": 3, "per_class": np.ones(2)}
    metrics, others = split_metrics({**given, "converged": True, "note": "good"})
    assert metrics == {"f1": 0.5, "loss": 1.0, "nll": None, "rows": 3}
    assert others == {"per_class": [1.0, 1.0], "converged": True, "note": "good"}
    changed = replace(result, metrics=metrics, other_metrics=others)
    assert read_result(changed.save(tmp_path / "a.json")) == changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acuracy": 1.0}, r"result\.json has the field 'acuracy', which ImageAttackResult does not have"),
        ({"seed": None}, r"result\.json: seed must be a whole number, but is null"),
        ({"seed": True}, "seed must be a whole number, but is True"),
        ({"seed": 1.0}, r"seed must be a whole number, but is 1\.0"),
        ({"clean_accuracy": "0.5"}, "clean_accuracy must be a number, but is '0.5'"),
        ({"epsilon": "8/255"}, "epsilon must be a number, but is '8/255'"),
        ({"schema": 2}, "schema must be 1, but is 2"),
        ({"attack_success_interval": [0.1]}, r"attack_success_interval must be a list of 2, but is \[0\.1\]"),
        ({"skipped": {"too long": "1"}}, r"skipped\['too long'\] must be a whole number"),
        ({"budgets": [{"epsilon": 0.1}]}, r"budgets\[0\] lacks the field 'accuracy_under_attack' of BudgetResult"),
        ({"budgets": 1}, "budgets must be a list, but is 1"),
        ({"target": "dog"}, "target must be an object, but is 'dog'"),
        ({"weights": "x" * 100, "class_names": "x" * 100}, r"class_names must be a list, but is 'x{56}\.\.\."),
        ({"kind": "rubbish"}, r"result\.json must have a kind of 'train', .*, but its kind is 'rubbish'"),
        ({"kind": ["train"]}, r"its kind is \['train'\]"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write_json(tmp_path / "result.json", {**read_json(PGD), **change})
    with pytest.raises(ValueError, match=message):
        read_result(path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    content = read_json(PWWS)
    del content["seconds"]
    with pytest.raises(ValueError, match=r"result\.json lacks the field 'seconds' of TextAttackResult"):
        read_result(write_json(tmp_path / "result.json", content))
    with pytest.raises(ValueError, match="its kind is None"):
        read_result(write_json(tmp_path / "result.json", {}))


def test_the_best_fitting_dataclass_tells_what_is_wrong() -> None:
    content = read_json(RESULTS / "quickstart" / "results.json")
    content["rows"][0]["attacks"][0]["seed"] = "one"
    with pytest.raises(ValueError, match=r"rows\[0\]: attacks\[0\]: seed must be a whole number, but is 'one'"):
        Quickstart.from_json(content)


def test_whole_numbers_are_numbers_and_an_object_must_be_one() -> None:
    run = {"objective": "vub", "beta": 0, "entropy_weight": 1, "seed": 0}
    content = {"beta": 1, "entropy_weight": 1.0, "on": "test", "accuracy": 1, "run": run}
    assert Choice.from_json(content).to_json() == content
    with pytest.raises(ValueError, match="the result: run must be an object, but is 3"):
        Choice.from_json({**content, "run": 3})


def every_part(base: type[Part] = Part) -> list[type[Part]]:
    return [part for child in base.__subclasses__() for part in (child, *every_part(child))]


def test_no_field_hides_a_method_of_mappings() -> None:
    for part in every_part():
        assert not {field.name for field in fields(part)} & set(dir(Mapping)), part


def test_the_json_is_json() -> None:
    assert without_nulls(json.loads(json.dumps(read_result(PWWS).to_json()))) == without_nulls(read_json(PWWS))


Verdicts = list[tuple[bool | None, bool]]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([(True, True), (True, True)], True),
        ([(True, True), (None, True)], None),  # not made: unknown is not passed
        ([(True, True), (None, False)], True),  # does not apply
        ([(None, True), (False, True)], False),
    ],
)
def test_a_card_passes_only_if_no_check_is_open(verdicts: Verdicts, expected: bool | None) -> None:
    checks = [Check(name="x", passed=passed, why="", figures={}, applies=applies) for passed, applies in verdicts]
    assert overall(checks) is expected
