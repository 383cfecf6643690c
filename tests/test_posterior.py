"""The posterior link and the confidence at VUB's optimum, against numerical minimisation and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import lambertw

from hf_vub.model.information import categorical_entropy
from hf_vub.model.objectives import optimal_confidence, posterior_probabilities

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
