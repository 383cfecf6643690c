"""Calls of calibration, abstention and guided search with bad arguments: one sentence, and no silent wrong number."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from helpers.odd_data import World
from hf_vub.model.objectives import class_log_probabilities, optimal_confidence, posterior_probabilities
from hf_vub.uncertainty import (
    ConformalThreshold,
    calibrate,
    classifier_pipeline,
    conformal_threshold,
    detection_metrics,
    feature_distances,
    fit_temperature,
    ood_scores,
    prediction_sets,
    risk_coverage,
)

P, LABELS = np.tile([0.7, 0.3], (6, 1)), np.array([0, 1] * 3)
NAN, LOGITS = P * np.nan, torch.tensor([1.0, 2.0])
FITTED = ConformalThreshold(0.1, 0.5, 6)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"miscoverage": 0.1}, "miscoverage must be a list of shares, but is 0.1"),
        ({"miscoverage": "0.1"}, "miscoverage must be a list of shares, but is '0.1'"),
        ({"miscoverage": None}, "miscoverage must be a list of shares, but is None"),
        ({"miscoverage": [float("nan")]}, "miscoverage must be above 0 and below 1, but is nan"),
        ({"probabilities": None}, "probabilities must be 'auto', 'softmax' or 'posterior', but is None"),
        ({"probabilities": "posterior"}, "trained without the min term of VUB: use 'softmax'"),
        ({"task": "audio"}, "task must be 'text' or 'image', but is 'audio'"),
        ({"model": ""}, "model must be the folder or Hub id of a classifier, but is ''"),
        ({"model": torch.nn.Linear(1, 1)}, "model must be the folder or Hub id of a classifier, but is a Linear"),
        ({"model": 3}, "model must be the folder or Hub id of a classifier, but is a int"),
        ({"match_labels": "x"}, "match_labels must be 'name' or 'number', but is 'x'"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"max_length": 999}, "max_length is 999, but the model has positions for 24 tokens only"),
        ({"split": None}, "there are no held-out rows"),
        ({"text_column": []}, "text_column names 0 texts"),
        ({"image_column": "text"}, "image_column is given, but texts are wanted"),
        ({"dataset": "rows"}, "split is 'train', but dataset is in memory and has no splits"),
        ({"dataset": "rows", "split": None, "report_test": True}, "report_test needs the name or path of a data set"),
        ({"dataset": "one class", "split": None}, "labels hold class 0 only"),
        ({"dataset": "two rows", "split": None}, "there are 2 held-out rows"),
    ],
)
def test_a_bad_calibration_is_one_sentence_and_leaves_nothing(world, tmp_path, options, message):
    rows = Dataset.from_dict({"text": world.rows[:8], "label": [0, 1] * 4})
    in_memory = {"rows": rows, "one class": rows.select([0, 2, 4, 6]), "two rows": rows.select([0, 1])}
    options = {"model": world.bert, "dataset": world.texts, "split": "train", **options}
    options["dataset"] = in_memory.get(str(options["dataset"]), options["dataset"])
    with pytest.raises(ValueError, match=message):
        calibrate(**options, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"abstain_at": bad}, "abstain_at is .*, but the checkpoint stores no thresholds")
            for bad in (0.1, "x", [1])
        ),
        ({"task": "audio"}, "task must be 'text' or 'image', but is 'audio'"),
        ({"max_length": 0}, "max_length must be at least 1, but is 0"),
        ({"max_length": 25}, "max_length is 25, but the model has positions for 24 tokens only"),
    ],
)
def test_a_bad_pipeline_is_one_sentence(world, options, message):
    with pytest.raises(ValueError, match=message):
        classifier_pipeline(world.bert, **options)
    with pytest.raises(ValueError, match="abstain_at gives one answer per input or none: leave top_k out"):
        classifier_pipeline(world.bert)("a film", abstain_at=0.1, top_k=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conformal_threshold([0.5, 0.5], [0, 1]), r"scores have shape \(2,\)"),
        (lambda: conformal_threshold(P[:0], []), "scores have no rows"),
        (lambda: conformal_threshold(P * 7, LABELS), "probabilities must be from 0 to 1, but go from 2.1 to 4.9"),
        (lambda: conformal_threshold(np.log(P), LABELS), "probabilities must be from 0 to 1, but go from -1.2"),
        (lambda: conformal_threshold(NAN, LABELS), "scores must be finite numbers"),
        (lambda: conformal_threshold(P, LABELS * 1.0), "labels are float64"),
        (lambda: conformal_threshold(P, LABELS - 1), "labels span -1 to 0"),
        (lambda: conformal_threshold(P, LABELS, 1), "miscoverage is 1; it must be above 0 and below 1"),
        (lambda: conformal_threshold(P, LABELS, float("nan")), "miscoverage is nan"),
        (lambda: prediction_sets(NAN, FITTED), "without NaN"),
        (lambda: prediction_sets(P[0], FITTED), r"probabilities have shape \(2,\)"),
        (lambda: fit_temperature(P, [0] * 6), "labels hold class 0 only"),
        (lambda: fit_temperature(P[:, :1], LABELS), "at least two classes"),
        (lambda: fit_temperature(np.log([[1.0, 0.0]] * 6), LABELS), "scores must be finite numbers"),
        (lambda: risk_coverage([], []), "not empty"),
        (lambda: risk_coverage([np.nan], [True]), "confidence must hold numbers, but holds NaN"),
        (lambda: risk_coverage([0.1, 0.2], [1, 7]), "correct must hold True and False, but holds 7"),
        (lambda: ood_scores([1.0]), r"logits have shape \(1,\)"),
        (lambda: ood_scores(NAN), "max_probability is not finite in row 0"),
        (lambda: ood_scores(P, rate=[1.0]), r"rate has shape \(1,\); it must be \(6,\)"),
        (lambda: ood_scores(P, rate=[0, 0, np.inf, 0, 0, 0]), "rate is not finite in row 2"),
        (lambda: ood_scores(P, draws=np.zeros((0, 6, 2))), r"draws have shape \(0, 6, 2\)"),
        (lambda: feature_distances(P, LABELS, P), "neighbours is 10; it must be at least 1 and at most the 6"),
        (lambda: feature_distances(P, LABELS, P, neighbours=0), "neighbours is 0"),
        (lambda: feature_distances(P, LABELS[:3], P, neighbours=2), "which do not fit"),
        (lambda: feature_distances(P, LABELS, P[:, :1], neighbours=2), "which do not fit"),
        (lambda: class_log_probabilities(LOGITS, temperature=0.0), "temperature is 0.0; it must be a finite number"),
        (lambda: class_log_probabilities(LOGITS, temperature=-1.0), "temperature is -1.0"),
        (lambda: class_log_probabilities(LOGITS, temperature=float("nan")), "temperature is nan"),
        (
            lambda: class_log_probabilities(LOGITS, probabilities="Posterior"),
            "probabilities is 'Posterior'; it must be",
        ),
        (lambda: posterior_probabilities(LOGITS, -1.0), "entropy_weight is -1.0"),
        (lambda: posterior_probabilities(LOGITS, float("nan")), "entropy_weight is nan"),
        (lambda: optimal_confidence(1), "num_labels is 1"),
        (lambda: optimal_confidence(2, float("inf")), "entropy_weight is inf"),
        (lambda: detection_metrics([], [1.0]), "both need at least one"),
        (lambda: detection_metrics([np.nan], [1.0]), "must hold numbers, but hold NaN"),
    ],
)
def test_arrays_that_make_no_sense_give_no_number(call, message):
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "x"}, "search must be 'own', 'guided' or 'both', but is 'x'"),
        ({"search": "own"}, "search is 'own', which asks no guide, but a guide is given"),
        ({"guide": None, "search": "both"}, "search is 'both', but guide is None"),
        ({"guide": None, "search": "guided"}, "search is 'guided', but guide is None"),
        ({"guide": torch.nn.Linear(8, 3)}, "guide Linear has 3 classes, but the model has 2"),
        ({"guide": torch.nn.Linear(3, 2)}, "guide Linear does not take the model's features: "),
        ({"guide": "resnet"}, "is a 'resnet' model, which does not classify texts"),
        ({"recipe": "clare"}, "recipe must be one of deepwordbug, pwws"),
    ],
)
def test_a_bad_guide_is_one_sentence(world, options, message):
    pytest.importorskip("textattack")
    from hf_vub.attacks import attack_text

    options = {"guide": world.guide, **options}
    options["guide"] = world.resnet if isinstance(options["guide"], str) else options["guide"]
    with pytest.raises(ValueError, match=message):
        attack_text(world.bert, world.texts, num_examples=1, progress=False, **options)
