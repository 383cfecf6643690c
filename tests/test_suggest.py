"""Suggesting a setting: the criterion, the standard error, the checkpoint, and what is refused."""

import math
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification

from helpers.models import backbone_config
from hf_vub import VUBForSequenceClassification
from hf_vub.data import TrainingRecord, load_splits, synthetic
from hf_vub.metrics import negative_log_likelihood
from hf_vub.model.objectives import class_log_probabilities
from hf_vub.reports.calibration_figures import frontier_figure
from hf_vub.runs.schema import FrontierPoint, Mean, SuggestionResult, read_result
from hf_vub.sweep import HeadRun, suggest
from hf_vub.sweep.frontier import _standard_error, choose

ROOT = Path(__file__).resolve().parents[1]


def blobs(rows, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = 2.0 * torch.eye(classes, 8)
    return centres[labels] + torch.randn(rows, 8, generator=generator), labels


def point(rate, nll, error, calibrated=0.0):
    one = Mean(mean=0.0, deviation=None)
    return FrontierPoint(
        objective="vub", beta=0.1, entropy_weight=1.0, rate=Mean(mean=rate, deviation=None), accuracy=one, nll=nll,
        nll_standard_error=error, nll_calibrated=calibrated, nll_calibrated_standard_error=0.0, ece=one, eligible=False,
    )  # fmt: skip


def test_the_smallest_rate_within_one_standard_error_of_the_best_is_chosen():
    runs = [HeadRun(beta=beta) for beta in (0.001, 0.01, 0.1, 1.0)]
    points = [point(9.0, 0.30, 0.02), point(5.0, 0.29, 0.02), point(2.0, 0.31, 9.0), point(0.1, 0.3101, 9.0)]
    frontier, chosen = choose(dict(zip(runs, points, strict=True)), "link")
    assert chosen == runs[2]
    assert [each.rate.mean for each in frontier] == [0.1, 2.0, 5.0, 9.0]
    assert [each.eligible for each in frontier] == [False, True, True, True]


def test_the_criterion_may_be_the_nll_with_a_temperature():
    runs = [HeadRun(beta=0.001), HeadRun(beta=0.1)]
    points = [point(9.0, 0.3, 0.0, calibrated=0.5), point(1.0, 0.9, 0.0, calibrated=0.4)]
    assert choose(dict(zip(runs, points, strict=True)), "link")[1] == runs[0]
    assert choose(dict(zip(runs, points, strict=True)), "temperature")[1] == runs[1]


def test_the_standard_error_counts_rows_and_seeds():
    rng = np.random.default_rng(0)
    rows, seeds = rng.normal(size=400), rng.normal(size=(3, 1))
    assert _standard_error(rows[None]) == pytest.approx(rows.std(ddof=1) / 20)
    expected = math.sqrt(rows.var(ddof=1) / 400 + seeds.var(ddof=1) / 3)
    assert _standard_error(rows + seeds) == pytest.approx(expected)


def test_a_suggestion_measures_every_setting_on_the_validation_rows():
    features, labels = blobs(240)
    held_out, truth = blobs(90, seed=1)
    found = suggest(
        features, labels, num_labels=3, validation_features=held_out, validation_labels=truth, betas=[1e-3, 1e-1],
        entropy_weights=[0.3, 1.0], seeds=2, epochs=3,
    )  # fmt: skip
    result = found.result
    assert {(each.objective, each.beta, each.entropy_weight) for each in result.frontier} == {
        *(("vib", beta, 1.0) for beta in (1e-3, 1e-1)),
        *(("vub", beta, weight) for beta in (1e-3, 1e-1) for weight in (0.3, 1.0)),
    }
    assert (result.num_train, result.num_validation, result.seeds) == (240, 90, 2)
    chosen = [each for each in result.frontier if each.eligible]
    assert chosen[0].rate.mean == min(each.rate.mean for each in chosen)
    assert (chosen[0].objective, chosen[0].beta) == (result.objective, result.beta)
    for each in result.frontier:
        setting = HeadRun(each.objective, each.beta, each.entropy_weight)
        mine = [run for run in found.trained if replace(run.run, seed=0) == setting]
        losses = []
        for run in mine:
            with torch.inference_mode():
                logits = run.head(held_out, num_samples=0).logits
            weight = each.entropy_weight if each.objective == "vub" else 0.0
            linked = class_log_probabilities(logits, probabilities="posterior", entropy_weight=weight)
            losses.append(negative_log_likelihood(linked.double(), truth))
        assert each.nll == pytest.approx(np.mean(losses), rel=1e-5)
        assert each.rate.mean == pytest.approx(np.mean([r.evaluate(held_out, truth)["rate"] for r in mine]), rel=1e-5)
    again = SuggestionResult.from_json(result.to_json())
    assert again == result


def test_rows_are_held_out_by_class_where_none_are_given():
    features, labels = blobs(100, classes=2)
    found = suggest(features, labels, num_labels=2, betas=[0.01], objectives=["vib"], seeds=1, epochs=1)
    assert (found.result.num_train, found.result.num_validation) == (80, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"betas": []}, "the grid is empty; give at least one of objectives, betas and entropy_weights"),
        ({"objectives": ["wib"]}, "objective"),
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"criterion": "ece"}, "criterion is 'ece'; it must be 'link' or 'temperature'"),
        ({"validation": 0.0}, "validation is 0.0; it must be a share of the rows above 0 and below 1"),
        ({"validation": 0.001}, "leaves no rows to validate or to train on"),
        (
            {"validation_features": torch.zeros(4, 8)},
            "features and validation_labels must be given together",
        ),
        (
            {"validation_features": torch.zeros(4, 8), "validation_labels": torch.ones(4, dtype=torch.long)},
            "all 4 validation labels are 1; give validation rows of two classes",
        ),
    ],
)
def test_impossible_requests_are_refused_before_training(changes, message, monkeypatch):
    monkeypatch.setattr("hf_vub.sweep.suggestion.train_heads", None)
    features, labels = blobs(60)
    with pytest.raises(ValueError, match=message):
        suggest(features, labels, **{"num_labels": 3, **changes})


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A tiny untrained encoder with its tokenizer, and reviews."""
    folder = tmp_path_factory.mktemp("suggest")
    splits = synthetic.reviews(num_train=120, num_test=30)
    tokenizer = synthetic.word_tokenizer(splits["train"]["text"], vocab_size=200, max_length=40)
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 40
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    for name, rows in splits.items():
        rows.to_parquet(folder / "reviews" / f"{name}.parquet")
    return folder


def test_the_command_writes_a_calibrated_checkpoint(reviews, tmp_path, monkeypatch, capsys):
    target = tmp_path / "suggested"
    words = ["--model", reviews / "encoder", "--dataset", reviews / "reviews", "--output_dir", target,
             "--betas", "0.01", "0.1", "--entropy_weights", "1", "--seeds", "2", "--epochs", "2", "--max_length", "40",
             "--feature_cache", tmp_path / "features"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["suggest.py", *map(str, words)])
    runpy.run_path(str(ROOT / "scripts" / "suggest.py"), run_name="__main__")
    shown = capsys.readouterr().out
    result = read_result(target / "suggestion.json")
    assert isinstance(result, SuggestionResult)
    assert len(result.frontier) == 4
    assert "* chosen: the smallest rate" in shown
    assert (result.task, result.model, result.dataset) == ("text", "encoder", "reviews")
    assert str(tmp_path) not in (target / "suggestion.json").read_text().replace(result.command, "")
    model = VUBForSequenceClassification.from_pretrained(target)
    config = model.config
    assert (config.objective, config.beta, config.entropy_weight) == (
        result.objective, result.beta, result.entropy_weight,
    )  # fmt: skip
    assert (config.probabilities, config.calibration_temperature) == (
        result.probabilities, result.calibration_temperature,
    )  # fmt: skip
    record = TrainingRecord.load(target)
    splits = load_splits(reviews / "reviews", validation=0.1)
    assert record is not None
    assert record.seen(splits["validation"]).all()
    assert not record.seen(splits["test"]).all()
    assert (len(record.train), len(record.validation)) == (108, 12)


def test_no_rows_to_decide_are_refused(reviews, tmp_path):
    from hf_vub.training.suggesting import SuggestArguments, suggest_setting

    arguments = SuggestArguments(str(reviews / "encoder"), str(reviews / "reviews"), str(tmp_path), validation=0.0)
    with pytest.raises(ValueError, match="has no validation split, so no rows can decide: hold out a share"):
        suggest_setting(arguments)
    with pytest.raises(ValueError, match="task is 'sound'; it must be one of 'text', 'image'"):
        suggest_setting(replace(arguments, task="sound"))


def test_the_frontier_marks_the_chosen_setting():
    pytest.importorskip("matplotlib")
    features, labels = blobs(90)
    result = suggest(features, labels, num_labels=3, betas=[1e-3, 1e-1], seeds=1, epochs=1).result
    figure = frontier_figure(result)
    upper = figure.axes[0]
    assert [text.get_text() for text in upper.get_legend().get_texts()][-1] == "chosen" or any(
        text.get_text() == "chosen" for text in upper.get_legend().get_texts()
    )
    (circle,) = (line for line in upper.lines if line.get_label() == "chosen")
    chosen = next(each for each in result.frontier if each.eligible)
    assert circle.get_xdata()[0] == chosen.rate.mean


def fine_tune_with(reviews, folder, **changes):
    from hf_vub.training.arguments import DataArguments, ModelArguments, VUBTrainingArguments
    from hf_vub.training.fine_tuning import fine_tune

    model = {"objective": "vub", "beta": "auto", "entropy_weight": 0.3, "freeze_backbone": True}
    data = {"max_length": 40, "validation": 0.2, "feature_cache": str(folder / "features")}
    for group in (model, data):
        group |= {name: changes.pop(name) for name in list(changes) if name in group}
    training = VUBTrainingArguments(
        str(folder / "out"), num_train_epochs=2, report_to="none", use_cpu=True, disable_tqdm=True, log_level="error",
        **changes,
    )  # fmt: skip
    return fine_tune(
        "text",
        ModelArguments(str(reviews / "encoder"), **model),
        DataArguments(str(reviews / "reviews"), **data),
        training,
    )


def test_beta_auto_trains_with_the_suggested_beta(reviews, tmp_path):
    result = fine_tune_with(reviews, tmp_path)
    suggestion = read_result(tmp_path / "out" / "suggestion.json")
    assert isinstance(suggestion, SuggestionResult)
    assert result.beta == suggestion.beta == VUBForSequenceClassification.from_pretrained(tmp_path / "out").config.beta
    assert {(each.objective, each.entropy_weight) for each in suggestion.frontier} == {("vub", 0.3)}
    assert (suggestion.num_train, suggestion.num_validation, suggestion.epochs) == (96, 24, 2)
    assert not (tmp_path / "out" / "_beta").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": "large"}, "beta is 'large'; it must be a number or 'auto'"),
        ({"freeze_backbone": False}, "beta is 'auto', which compares heads on the features of a frozen backbone"),
        ({"objective": "ce"}, "beta is 'auto', but the objective 'ce' has no rate: use 'vib' or 'vub'"),
        ({"validation": 0.0}, "beta is 'auto', but there are no validation rows to choose it on"),
    ],
)
def test_beta_auto_is_refused_where_it_cannot_be_chosen(reviews, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        fine_tune_with(reviews, tmp_path, **changes)


def test_the_command_line_takes_a_number_or_a_word_as_beta():
    from hf_vub.command_line import parse
    from hf_vub.training.arguments import ModelArguments

    for words, beta in (("auto", "auto"), ("1e-2", 0.01)):
        (options,) = parse(ModelArguments, args=["--model", "m", "--beta", words], description="")
        assert options.beta == beta
    for words in ("inf", "nan", "1e-2x"):
        with pytest.raises(SystemExit):
            parse(ModelArguments, args=["--model", "m", "--beta", words], description="")
