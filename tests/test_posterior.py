"""The posterior link against numerical minimisation and closed forms, and the probabilities that checkpoints report."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import lambertw

from helpers.models import build_model, model_inputs
from hf_vub import VUBConfig
from hf_vub.model.information import categorical_entropy
from hf_vub.model.objectives import (
    SOFTMAX_SHARE,
    class_log_probabilities,
    optimal_confidence,
    posterior_probabilities,
)
from hf_vub.runs.files import read_json, write_json

CLASSES, WEIGHTS = (2, 3, 10, 1000), (0.1, 0.3, 1.0, 2.0)


def minimiser(q, weight, cap=math.inf):
    """Return the logits at which the objective of label probabilities q is least, found by L-BFGS."""

    def objective(logits):
        log_p = logits - np.logaddexp.reduce(logits)
        p = np.exp(log_p)
        entropy = -(p * log_p).sum()
        slope = weight * p * (log_p + entropy) if entropy < cap else 0.0
        return -(q * log_p).sum() - weight * min(cap, entropy), p - q + slope

    options = {"maxiter": 5000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-12}
    found = minimize(objective, np.zeros(len(q)), jac=True, method="L-BFGS-B", options=options)
    return torch.tensor(found.x)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("classes", CLASSES)
def test_the_link_inverts_numerical_minimisation(classes, weight):
    q = np.random.default_rng(0).dirichlet(np.full(classes, 0.5 if classes < 1000 else 0.05))
    found = posterior_probabilities(minimiser(q, weight), weight)
    assert found.numpy() == pytest.approx(q, abs=1e-7)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("classes", CLASSES)
def test_certain_labels_stop_at_the_optimal_confidence(classes, weight):
    p = optimal_confidence(classes, weight)
    assert 1 / classes < p < 1
    odds = math.log(classes - 1) - weight * math.log1p(-p) if p > 0.999 else math.log(p * (classes - 1) / (1 - p))
    if p < 0.999:  # closer to 1 the logarithm of 1 - p has no digits left
        assert odds == pytest.approx(1 / (weight * p), rel=1e-9)
    logits = torch.full((classes,), math.log((1 - p) / (classes - 1)), dtype=torch.float64)
    logits[0] = math.log(p)
    assert posterior_probabilities(logits, weight)[0].item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("classes", CLASSES)
def test_the_optimal_confidence_is_lamberts_function(classes, weight):
    log_odds = 1 / weight + lambertw((classes - 1) / weight * math.exp(-1 / weight)).real
    assert optimal_confidence(classes, weight) == pytest.approx(
        1 / (1 + (classes - 1) * math.exp(-log_odds)), rel=1e-12
    )


def test_the_published_confidences():
    assert optimal_confidence(2) == pytest.approx(0.782, abs=5e-4)
    assert optimal_confidence(10) == pytest.approx(0.476, abs=5e-4)
    assert optimal_confidence(10, 0.0) == 1.0
    assert optimal_confidence(10, 1e-4) == 1.0
    assert optimal_confidence(10, 1e6) == pytest.approx(0.1, abs=1e-5)


def test_the_confidences_in_the_documentation_are_those_of_the_function():
    page = (Path(__file__).resolve().parents[1] / "docs" / "calibration.md").read_text(encoding="utf-8")
    weights = [float(weight) for weight in re.findall(r"\| w = ([\d.]+) ", page)]
    rows = re.findall(r"^\| (\d+) \| ([\d. |]+) \|$", page, re.MULTILINE)
    assert len(weights) == 4
    assert [int(classes) for classes, _ in rows] == [2, 3, 10, 100, 1000]
    for classes, values in rows:
        assert values.split(" | ") == [f"{optimal_confidence(int(classes), weight):.3f}" for weight in weights]


def test_above_the_cap_the_link_is_the_softmax():
    cap = 0.5  # the entropy of labels of which a fifth are positive
    q = np.array([0.6, 0.4])
    logits = minimiser(q, 1.0, cap)
    assert categorical_entropy(logits) > cap
    assert posterior_probabilities(logits, 1.0, cap).numpy() == pytest.approx(q, abs=1e-7)
    assert posterior_probabilities(logits, 1.0).numpy() != pytest.approx(q, abs=1e-2)


def test_below_the_cap_the_cap_changes_nothing():
    q = np.array([0.99, 0.01])
    logits = minimiser(q, 0.3, 0.5)
    assert categorical_entropy(logits) < 0.5
    assert posterior_probabilities(logits, 0.3, 0.5).numpy() == pytest.approx(q, abs=1e-7)


def test_the_link_agrees_on_both_sides_of_a_uniform_prediction():
    """The largest entropy is the default cap, and rounding may put it on either side."""
    logits = torch.zeros(3, 7)
    assert posterior_probabilities(logits, 2.0).numpy() == pytest.approx(np.full((3, 7), 1 / 7))


def test_entries_outside_the_simplex_become_zero_and_the_rest_is_normalised():
    p = torch.tensor([0.7, 0.29, 0.01], dtype=torch.float64)
    log_p = p.log()
    raw = p * (1 + log_p - (p * log_p).sum())
    assert raw[2] < 0
    expected = raw.clamp_min(0) / raw.clamp_min(0).sum()
    found = posterior_probabilities(log_p)
    assert found.numpy() == pytest.approx(expected.numpy())
    assert found[2] == 0


def test_extreme_logits_give_distributions_without_a_negative_zero():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, 1e4]])
    found = posterior_probabilities(logits, 2.0)
    assert found.dtype == torch.float32
    expected = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [0, 0, 1]])
    torch.testing.assert_close(found, expected)
    assert not torch.signbit(found).any()
    assert posterior_probabilities(logits.bfloat16()).dtype == torch.float32
    assert posterior_probabilities(logits.double()).dtype == torch.float64


def test_gradients_through_the_link_are_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0], [1.0, 0.5, 0.0]], requires_grad=True)
    posterior_probabilities(logits).square().sum().backward()
    assert logits.grad.isfinite().all()


def test_without_the_min_term_the_link_is_the_softmax():
    logits = torch.randn(5, 4)
    torch.testing.assert_close(posterior_probabilities(logits, 0.0), logits.softmax(-1))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_any_leading_shape(shape):
    found = posterior_probabilities(torch.randn(shape))
    assert found.shape == shape
    torch.testing.assert_close(found.sum(-1), torch.ones(shape[:-1]))


def test_the_predicted_class_never_changes():
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    @hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
    @hypothesis.given(
        st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=12),
        st.floats(0, 5),
        st.floats(0, 3),
    )
    def holds(logits, weight, cap):
        tensor = torch.tensor(logits, dtype=torch.float64)
        p, q = tensor.softmax(-1), posterior_probabilities(tensor, weight, cap)
        assert q[p.argmax()] == q.max()
        assert q.max() >= p.max() - 1e-12
        assert q.sum().item() == pytest.approx(1.0)
        order = p.argsort()
        assert (q[order].diff() >= -1e-12).all()

    holds()


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_a_weight_that_is_no_weight_is_refused(weight):
    with pytest.raises(ValueError, match="entropy_weight is .*; it must be a finite number of at least 0"):
        posterior_probabilities(torch.zeros(2), weight)
    with pytest.raises(ValueError, match="entropy_weight is"):
        optimal_confidence(2, weight)


def test_one_class_has_no_confidence():
    with pytest.raises(ValueError, match="num_labels is 1; a classifier needs at least 2"):
        optimal_confidence(1)


def test_reported_probabilities_have_a_floor_in_the_order_of_the_logits():
    logits = torch.tensor([[4.0, 0.0, -1.0], [1e4, -1e4, 0.0]], requires_grad=True)
    assert (posterior_probabilities(logits)[:, 1:] == 0).all()
    log_q = class_log_probabilities(logits, probabilities="posterior", temperature=2.0)
    assert log_q.isfinite().all()
    assert (log_q.argsort(-1) == logits.argsort(-1)).all()
    torch.testing.assert_close(log_q.exp().sum(-1), torch.ones(2))
    mixed = (1 - SOFTMAX_SHARE) * posterior_probabilities(logits) + SOFTMAX_SHARE * logits.softmax(-1)
    unheated = class_log_probabilities(logits, probabilities="posterior")
    torch.testing.assert_close(unheated.exp(), mixed)
    log_q.square().sum().backward()
    assert logits.grad.isfinite().all()


def test_a_temperature_divides_the_logarithms():
    logits = torch.randn(4, 5)
    found = class_log_probabilities(logits, temperature=3.0)
    torch.testing.assert_close(found, torch.log_softmax(logits / 3, -1))
    without = class_log_probabilities(logits, probabilities="posterior", entropy_weight=0.0)
    assert torch.equal(without, torch.log_softmax(logits, -1))


CALIBRATED = {"probabilities": "posterior", "calibration_temperature": 1.5, "conformal_thresholds": {"0.05": 0.25}}


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_calibrated_checkpoint_reports_its_probabilities_and_keeps_its_logits(name, tmp_path):
    plain, inputs = build_model(name), model_inputs(name)
    before = plain(**inputs)
    torch.testing.assert_close(before.probabilities, before.logits.softmax(-1))
    plain.config.set_calibration(**CALIBRATED)
    plain.save_pretrained(tmp_path)
    model = type(plain).from_pretrained(tmp_path)
    after = model(**inputs)
    assert {key: getattr(model.config, key) for key in CALIBRATED} == CALIBRATED
    assert torch.equal(after.logits, before.logits)
    expected = class_log_probabilities(before.logits, probabilities="posterior", temperature=1.5).exp()
    torch.testing.assert_close(after.probabilities, expected)
    assert (after.probabilities.argmax(-1) == before.logits.argmax(-1)).all()
    asked = type(plain).from_pretrained(tmp_path, calibrated_logits=True)(**inputs)
    torch.testing.assert_close(asked.logits.softmax(-1), expected)


def test_calibrated_logits_leave_the_loss_alone():
    model, inputs = build_model("bert", num_train_samples=1, **CALIBRATED), model_inputs("bert")
    labels = torch.tensor([0, 1, 2])
    before = model(**inputs, labels=labels)
    model.config.calibrated_logits = True
    after = model(**inputs, labels=labels)
    assert torch.equal(before.loss, after.loss)
    assert not torch.equal(before.logits, after.logits)


@pytest.mark.parametrize("objective", ["ce", "vib"])
def test_without_a_min_term_posterior_probabilities_are_the_softmax(objective):
    model, inputs = build_model("bert", objective=objective, probabilities="posterior"), model_inputs("bert")
    output = model(**inputs)
    torch.testing.assert_close(output.probabilities, output.logits.softmax(-1))


def test_a_checkpoint_from_before_loads_with_the_softmax(tmp_path):
    model, inputs = build_model("bert"), model_inputs("bert")
    model.save_pretrained(tmp_path)
    content = read_json(tmp_path / "config.json")
    for name in (*CALIBRATED, "calibrated_logits"):
        del content[name]
    write_json(tmp_path / "config.json", content)
    found = type(model).from_pretrained(tmp_path)(**inputs)
    assert torch.equal(found.logits, model(**inputs).logits)
    torch.testing.assert_close(found.probabilities, found.logits.softmax(-1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probabilities": "sigmoid"}, "probabilities is 'sigmoid'; it must be one of 'softmax', 'posterior'"),
        ({"calibration_temperature": 0}, "calibration_temperature is 0.0; it must be at least 1e-06"),
        ({"calibration_temperature": 1e-300}, "calibration_temperature is 1e-300; it must be at least 1e-06"),
        ({"conformal_thresholds": {"0.1": "0.5"}}, "it must hold probabilities by miscoverage"),
        ({"conformal_thresholds": [0.1]}, r"conformal_thresholds is \[0.1\]; it must be such as {'0.05': 0.31}"),
        ({"calibrated_logits": "false"}, "calibrated_logits is 'false'; it must be true or false"),
        ({"freeze_backbone": "false"}, "freeze_backbone is 'false'; it must be true or false"),
        ({"calibration_temperature": math.nan}, "calibration_temperature is nan"),
        ({"conformal_thresholds": {"five": 0.1}}, "conformal_thresholds has 'five': 0.1"),
        ({"conformal_thresholds": {"0.05": 2}}, "conformal_thresholds has '0.05': 2"),
        ({"conformal_thresholds": {"0.05": 10**400}}, "conformal_thresholds has '0.05': 1000"),
        ({"beta": 10**400}, "beta is 1000"),
    ],
)
def test_an_impossible_calibration_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VUBConfig(**options)


def test_only_logits_reach_the_metrics_of_a_trainer():
    assert "probabilities" in VUBConfig.keys_to_ignore_at_inference
