"""The calibration study: what is fitted on which rows, and the whole command on small data."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from transformers import BertForSequenceClassification

from helpers.models import backbone_config
from hf_vub.data import synthetic
from hf_vub.metrics import expected_calibration_error, fit_temperature
from hf_vub.metrics.temperature import cross_fitted
from hf_vub.reports.calibration_figures import reliability_figure, risk_coverage_figure
from hf_vub.runs.schema import CalibrationStudy, SuggestionCheck, read_result
from hf_vub.uncertainty.study import StudySettings
from hf_vub.uncertainty.study_measures import (
    Link,
    conformal_checks,
    drawn_log_probabilities,
    probability_metrics,
    risk_curve,
)

ROOT = Path(__file__).resolve().parents[1]


def scores_of(rows=600, classes=3, sharpness=2.0, seed=0):
    """Logits whose softmax is right about its labels once divided by ``sharpness``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)) * 1.5
    p = softmax(logits, axis=1)
    labels = (p.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(max=classes - 1)
    return logits * sharpness, labels


def test_the_temperature_of_each_half_comes_from_the_other():
    logits, labels = scores_of()
    scaled, temperatures = cross_fitted(logits, labels)
    order = np.random.default_rng(0).permutation(600)
    first, second = order[:300], order[300:]
    assert temperatures == (
        pytest.approx(fit_temperature(logits[first], labels[first])),
        pytest.approx(fit_temperature(logits[second], labels[second])),
    )
    assert np.allclose(scaled[second], logits[second] / temperatures[0])
    assert np.allclose(scaled[first], logits[first] / temperatures[1])


def test_metrics_are_means_over_runs():
    runs = [scores_of(seed=seed)[0] for seed in range(3)]
    labels = scores_of()[1]
    found = probability_metrics(runs, labels, "softmax")
    assert found.ece.mean == pytest.approx(np.mean([expected_calibration_error(run, labels) for run in runs]))
    assert found.ece.deviation == pytest.approx(np.std([expected_calibration_error(r, labels) for r in runs], ddof=1))
    assert found.temperature is None
    scaled = probability_metrics([scores_of(6000)[0]], scores_of(6000)[1], "softmax", scaled=True)
    assert scaled.temperature is not None
    assert scaled.temperature.mean == pytest.approx(2.0, rel=0.1)
    assert scaled.ece.mean < 0.02


def test_conformal_sets_cover_their_target_on_rows_that_nothing_was_fitted_on():
    logits, labels = scores_of(8000)
    for check in conformal_checks([log_softmax(logits, axis=1)], labels, [0.05, 0.1]):
        assert check.splits == 20
        assert check.coverage.mean == pytest.approx(1 - check.miscoverage, abs=0.01)
        assert check.worst_gap >= abs(check.coverage.mean - (1 - check.miscoverage))
        assert check.error_answered is not None
        assert check.error_answered.mean < (logits.argmax(axis=1) != labels).mean()


def test_the_link_is_applied_before_or_after_the_average_over_draws():
    rng = np.random.default_rng(0)
    draws, link = rng.normal(size=(4, 5, 3)), Link(1.0, np.log(3))
    plain = drawn_log_probabilities(draws, None, per_draw=False)
    assert np.allclose(np.exp(plain), softmax(draws, axis=2).mean(axis=0))
    before = drawn_log_probabilities(draws, link, per_draw=True)
    assert np.allclose(np.exp(before), np.exp(link.log_probabilities(draws)).mean(axis=0))
    after = drawn_log_probabilities(draws, link, per_draw=False)
    assert np.allclose(after, link.log_probabilities(plain))
    one = drawn_log_probabilities(draws[:1], link, per_draw=True)
    assert np.allclose(one, drawn_log_probabilities(draws[:1], link, per_draw=False))


def test_the_risk_curve_ends_at_the_error_rate():
    logits, labels = scores_of(500)
    curve = risk_curve([log_softmax(logits, axis=1)], labels)
    assert curve.coverage[-1] == 1.0
    assert curve.risk[-1] == pytest.approx((logits.argmax(axis=1) != labels).mean())
    assert curve.risk[0] < curve.risk[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": 0}, "runs is 0; it must be at least 1"),
        ({"betas": ()}, "betas is empty; give at least one"),
        ({"task": "sound"}, "task is 'sound'; it must be 'text' or 'image'"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StudySettings(**{"model": "m", "dataset": "d", "task": "text", "feature_cache": "f", **changes})


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A tiny stock classifier with its tokenizer, and reviews."""
    folder = tmp_path_factory.mktemp("study")
    splits = synthetic.reviews(num_train=80, num_test=80)
    tokenizer = synthetic.word_tokenizer(splits["train"]["text"], vocab_size=200, max_length=40)
    names = splits["train"].features["label"].names
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    config = backbone_config("bert", num_labels=2)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 40
    config.update(labels)
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder / "stock")
    tokenizer.save_pretrained(folder / "stock")
    for name, rows in splits.items():
        rows.to_parquet(folder / "reviews" / f"{name}.parquet")
    return folder


def test_the_command_measures_every_classifier_and_resumes(stock, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("hf_vub.uncertainty.unfamiliar.ROWS", 10)
    words = ["--model", stock / "stock", "--dataset", stock / "reviews", "--task", "text", "--max_length", "40",
             "--betas", "0.01", "0.1", "--runs", "2", "--epochs", "1", "--output_dir", tmp_path / "out",
             "--parts", "study", "suggestion"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["calibration_study.py", *map(str, words)])
    runpy.run_path(str(ROOT / "scripts" / "calibration_study.py"), run_name="__main__")
    shown = capsys.readouterr().out
    study = read_result(tmp_path / "out" / "study.json")
    assert isinstance(study, CalibrationStudy)
    assert [(each.name, each.beta) for each in study.classifiers] == [
        ("vanilla", None), ("vib", 0.01), ("vub", 0.01), ("vib", 0.1), ("vub", 0.1),
    ]  # fmt: skip
    assert (study.num_train, study.num_test, study.classifiers[1].runs) == (72, 80, 2)
    for each in study.classifiers:
        kinds = [(m.probabilities, m.draws, m.temperature is not None) for m in each.metrics]
        assert len(kinds) == len(set(kinds)) == {"vanilla": 2, "vib": 4, "vub": 10}[each.name]
        assert (each.changed_classes == 0) if each.name == "vub" else each.changed_classes is None
        assert len({metric.accuracy.mean for metric in each.metrics if metric.draws == "mean"}) == 1
    assert {check.unfamiliar for check in study.unfamiliar} == {"generated reviews", "shuffled words"}
    assert {check.score for check in study.unfamiliar if check.name == "features"} == {"mahalanobis", "knn"}
    assert [check.entropy_weight for check in study.confidence] == [0.1, 0.3, 1.0, 2.0]
    assert len(study.aims) == 6
    assert all(f"{aim.aim}: {aim.measured}" in shown for aim in study.aims)
    checked = read_result(tmp_path / "out" / "suggestion.json")
    assert isinstance(checked, SuggestionCheck)
    assert (checked.suggestion.num_validation, checked.num_check) == (40, 40)
    assert checked.within == (checked.chosen_nll <= checked.best_nll + checked.best_standard_error)
    assert (tmp_path / "out" / "frontier.png").exists()
    assert {line.get_label() for line in reliability_figure(study).axes[0].lines} >= {"stock model", "VIB", "VUB, link"}
    assert len(risk_coverage_figure(study).axes[0].lines) == 5
    assert str(stock) not in (tmp_path / "out" / "study.json").read_text().replace(study.command, "")


def test_rivals_are_compared_on_rows_that_tuned_nothing(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("hf_vub.uncertainty.regimes._STEPS", 60)
    from hf_vub.uncertainty.regimes import Labelled, measure_regimes

    def blobs(rows, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(rows) % 2
        return Labelled(torch.randn(rows, 6, generator=generator) + 2.0 * labels[:, None], labels)

    pool, validation, test = blobs(80, 0), blobs(60, 1), blobs(200, 2)
    (regime,) = measure_regimes(pool, validation, test, 2, [40], runs=2)
    names = [each.name for each in regime.rivals]
    assert names == [
        "logistic regression", "MLP", "MLP, label smoothing", "MLP, confidence penalty", "VIB", "VUB",
    ]  # fmt: skip
    means = {each.name: each for each in regime.rivals}
    assert all(each.accuracy.mean > 0.6 for each in regime.rivals)
    assert max(each.accuracy.mean for each in regime.rivals) > 0.95
    assert {(each.rival, each.metric) for each in regime.differences} == {
        (name, metric) for name in names[:-1] for metric in ("accuracy", "nll", "ece")
    }
    for each in regime.differences:
        expected = means["VUB"][each.metric].mean - means[each.rival][each.metric].mean
        assert each.difference == pytest.approx(expected)
        assert each.p_holm >= each.p_value
    drawn = pool.draw(40, 0, 2)
    assert torch.equal(drawn.features, pool.draw(40, 0, 2).features)
    assert not torch.equal(drawn.features, pool.draw(40, 1, 2).features)
    with pytest.raises(ValueError, match="rows has 81; a training set needs at least one row per class"):
        measure_regimes(pool, validation, test, 2, [81], runs=1)
