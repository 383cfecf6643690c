"""Temperature, conformal sets, selective prediction and scores for unfamiliar inputs, against oracles."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from hf_vub.uncertainty import (
    conformal_threshold,
    detection_metrics,
    feature_distances,
    fit_temperature,
    ood_scores,
    prediction_sets,
    risk_coverage,
)


def labelled(rows=4000, classes=4, temperature=1.0, seed=0):
    """Logits, and labels drawn from their softmax at a temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes)) * 2
    p = softmax(logits / temperature, axis=1)
    labels = (p.cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1).clip(max=classes - 1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits, labels = labelled(20_000, temperature=temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_minimises_the_nll():
    logits, labels = labelled(temperature=2.0)

    def nll(value):
        return -log_softmax(logits / value, axis=1)[np.arange(len(labels)), labels].mean()

    best = fit_temperature(logits, labels)
    assert nll(best) <= min(nll(best * factor) for factor in (0.5, 0.99, 1.01, 2.0))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "no rows"),
        (np.zeros((3, 2)), np.ones(3, int), "class 1 only"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "span 0 to 2"),
        (np.full((2, 2), np.nan), np.array([0, 1]), "finite"),
        (np.zeros((2, 2)), np.array([0.0, 1.0]), "class numbers"),
    ],
)
def test_rows_that_cannot_calibrate_are_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(scores, labels)


@pytest.mark.parametrize("miscoverage", [0.05, 0.2])
def test_conformal_sets_cover_as_promised(miscoverage):
    covered = []
    for seed in range(20):
        logits, labels = labelled(2000, seed=seed)
        p = softmax(logits, axis=1)
        fitted = conformal_threshold(p[:1000], labels[:1000], miscoverage)
        covered.append(prediction_sets(p[1000:], fitted)[np.arange(1000), labels[1000:]].mean())
    assert np.mean(covered) == pytest.approx(1 - miscoverage, abs=0.01)


def test_the_conformal_rank_is_exact():
    p = np.linspace(0.01, 0.99, 99)
    fitted = conformal_threshold(np.stack([p, 1 - p], axis=1), np.zeros(99, int), 0.1)
    assert fitted.threshold == pytest.approx(p[9])  # floor(0.1 * 100) = 10th smallest
    assert (
        conformal_threshold([[0.5, 0.5]] * 5, [0, 1, 0, 1, 0], 0.1).threshold == 0.0
    )  # too few rows to promise anything
    with pytest.raises(ValueError, match=r"miscoverage is 1\.5"):
        conformal_threshold([[0.5, 0.5]], [0], 1.5)


def test_risk_falls_with_coverage_and_ties_are_shared():
    curve = risk_coverage([3, 2, 1, 0], [True, True, False, False])
    assert curve.risk.tolist() == [0, 0, pytest.approx(1 / 3), 0.5]
    tied = risk_coverage([1, 1, 1, 1], [False, True, True, False])
    assert tied.risk.tolist() == [0.5] * 4
    assert tied.aurc == 0.5
    with pytest.raises(ValueError, match="NaN"):
        risk_coverage([math.nan], [True])


def test_scores_of_a_certain_and_an_uncertain_row():
    logits = np.array([[50.0, -50.0], [0.0, 0.0]])
    scores = ood_scores(logits, rate=[3.0, 1.0], draws=np.stack([logits, logits]))
    assert scores["max_probability"].tolist() == pytest.approx([0, 0.5])
    assert scores["entropy"].tolist() == pytest.approx([0, math.log(2)])
    assert scores["energy"].tolist() == pytest.approx([-50, -math.log(2)])
    assert scores["mutual_information"].tolist() == pytest.approx([0, 0])
    disagreeing = ood_scores(logits, draws=np.stack([logits, -logits]))
    assert disagreeing["mutual_information"][0] == pytest.approx(math.log(2))


def test_detection_matches_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(size=500).round(1), generator.normal(1, size=300).round(1)
    truth = np.r_[np.zeros(500), np.ones(300)]
    found = detection_metrics(inside, outside)
    assert found.auroc == pytest.approx(metrics.roc_auc_score(truth, np.r_[inside, outside]))
    threshold = np.sort(inside)[math.ceil(0.95 * 499)]
    assert found.fpr95 == np.mean(outside <= threshold)


def test_distances_are_larger_away_from_the_classes():
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    centres = np.array([[9.0, 9, 0, 0, 0], [0, 0, 9, 9, 0]])
    train = generator.normal(size=(200, 5)) + centres[labels]
    far = generator.normal(size=(20, 5)) + np.array([20, -20, 20, -20, 20])
    near, away = feature_distances(train, labels, train), feature_distances(train, labels, far)
    assert detection_metrics(near["mahalanobis"], away["mahalanobis"]).auroc > 0.99
    assert detection_metrics(near["knn"], away["knn"]).auroc > 0.99
