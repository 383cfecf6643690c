"""The modules of ``evaluate``: loaded by their path, alone, combined, and in an evaluator."""

import evaluate
import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Value
from transformers import pipeline

from helpers.models import build_model
from hf_vub import evaluate_modules
from hf_vub.data import synthetic
from hf_vub.metrics.classification import expected_calibration_error
from hf_vub.model.information import gaussian_rate


@pytest.fixture(scope="module", autouse=True)
def _own_modules(tmp_path_factory):
    """``evaluate`` copies a module before it imports it: not into the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path_factory.mktemp("modules"))
        yield


def load(path, tmp_path):
    return evaluate.load(path, cache_dir=str(tmp_path))


def test_attack_success_counts_what_was_right_before(tmp_path):
    metric = load(evaluate_modules.ATTACK_SUCCESS_RATE, tmp_path)
    found = metric.compute(predictions=[0, 1, 1, 0], references=[0, 0, 1, 1], clean_predictions=[0, 0, 1, 0])
    assert found == {"attack_success_rate": 1 / 3, "accuracy_under_attack": 0.5, "clean_accuracy": 0.75}
    scores = np.eye(2)[[0, 1, 1, 0]]
    assert metric.compute(predictions=scores, references=[0, 0, 1, 1])["attack_success_rate"] == 0.5


def test_calibration_error_has_15_bins_unless_told_otherwise(tmp_path):
    logits = 3 * np.random.default_rng(0).normal(size=(400, 5))
    labels = np.arange(400) % 5
    metric = load(evaluate_modules.EXPECTED_CALIBRATION_ERROR, tmp_path)
    found = [
        metric.compute(predictions=logits, references=labels, **bins)["expected_calibration_error"]
        for bins in ({}, {"bins": 15}, {"bins": 10})
    ]
    assert found[0] == found[1] == expected_calibration_error(logits, labels, 15)
    assert found[2] == expected_calibration_error(logits, labels, 10) != found[0]


def test_the_rate_is_that_of_the_bottleneck(tmp_path):
    head = build_model("bert").head(torch.randn(5, 32))
    metric = load(evaluate_modules.RATE, tmp_path)
    expected = gaussian_rate(head.mean.double(), head.scale.double()).mean().item()
    assert metric.compute(mean=head.mean.tolist(), scale=head.scale.tolist())["rate"] == pytest.approx(expected)
    for mean, scale in zip(head.mean.tolist(), head.scale.tolist(), strict=True):
        metric.add_batch(mean=[mean], scale=[scale])
    assert metric.compute()["rate"] == pytest.approx(expected)


def test_they_combine(tmp_path):
    logits = np.random.default_rng(0).normal(size=(40, 3))
    labels = np.arange(40) % 3
    modules = [evaluate_modules.ATTACK_SUCCESS_RATE, evaluate_modules.EXPECTED_CALIBRATION_ERROR]
    metric = evaluate.combine([load(path, tmp_path) for path in modules])
    found = metric.compute(predictions=logits, references=labels, clean_predictions=labels)
    assert found["expected_calibration_error"] == pytest.approx(expected_calibration_error(logits, labels))
    assert found["attack_success_rate"] == pytest.approx(np.mean(logits.argmax(1) != labels))


@pytest.mark.skipif(
    not hasattr(transformers, "TFPreTrainedModel"), reason="this evaluate asks transformers 5 for a class it has not"
)
def test_an_evaluator_scores_a_pipeline_on_attacked_texts(tmp_path):
    texts = ["a fine film", "a dull film", "fine fine fine", "dull"]
    tokenizer = synthetic.word_tokenizer(texts * 40, vocab_size=120)
    model = build_model("bert", num_labels=2)
    model.backbone.resize_token_embeddings(len(tokenizer))
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    found = evaluate.evaluator("text-classification").compute(
        model_or_pipeline=classify,
        data=Dataset.from_dict({"text": texts, "label": [1, 0, 1, 0]}, features=features),
        metric=load(evaluate_modules.ATTACK_SUCCESS_RATE, tmp_path),
        label_mapping={"LABEL_0": 0, "LABEL_1": 1},
    )
    wrong = [answer["label"] != f"LABEL_{label}" for answer, label in zip(classify(texts), [1, 0, 1, 0], strict=True)]
    assert found["attack_success_rate"] == np.mean(wrong)
