"""The information quantities against torch.distributions, Monte Carlo, closed forms and finite differences."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from hf_vub.model.information import (
    categorical_entropy,
    cross_entropy,
    gaussian_entropy,
    gaussian_rate,
    label_entropy,
    log_mean_probability,
    prior_entropy,
)


def gaussian(batch=5, size=3):
    return torch.randn(batch, size, dtype=torch.float64), torch.rand(batch, size, dtype=torch.float64) + 0.1


def test_rate_is_the_divergence_of_torch_distributions():
    mean, scale = gaussian()
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(scale)), 1)
    expected = kl_divergence(Independent(Normal(mean, scale), 1), prior)
    torch.testing.assert_close(gaussian_rate(mean, scale), expected)


def test_rate_is_what_monte_carlo_finds():
    mean, scale = gaussian(batch=2)
    posterior, prior = Normal(mean, scale), Normal(torch.zeros_like(mean), torch.ones_like(scale))
    z = posterior.sample((200_000,))
    log_ratio = (posterior.log_prob(z) - prior.log_prob(z)).sum(-1)
    error = log_ratio.std(0) / math.sqrt(len(z))
    assert ((log_ratio.mean(0) - gaussian_rate(mean, scale)).abs() < 5 * error).all()


def test_rate_is_zero_at_the_prior_and_positive_elsewhere():
    assert gaussian_rate(torch.zeros(1, 4), torch.ones(1, 4)).item() == 0.0
    assert (gaussian_rate(*gaussian()) > 0).all()


def test_gaussian_entropy_against_torch_distributions():
    mean, scale = gaussian()
    torch.testing.assert_close(gaussian_entropy(scale), Independent(Normal(mean, scale), 1).entropy())
    assert prior_entropy(3) == pytest.approx(gaussian_entropy(torch.ones(1, 3)).item(), rel=1e-6)


def test_categorical_entropy_and_cross_entropy_against_torch():
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    torch.testing.assert_close(categorical_entropy(logits), Categorical(logits=logits).entropy())
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, labels), expected)
    torch.testing.assert_close(cross_entropy(logits.expand(3, 6, 4), labels), expected.expand(3, 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_values_stay_finite_with_finite_gradients(dtype):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    scale = torch.full((3, 8), 1e-6, dtype=dtype, requires_grad=True)
    mean = torch.zeros(3, 8, dtype=dtype)
    values = [
        categorical_entropy(logits),
        cross_entropy(logits, torch.tensor([0, 0, 1])),
        gaussian_rate(mean, scale),
        gaussian_entropy(scale),
    ]
    total = sum(value.sum() for value in values)
    total.backward()
    for value in values:
        assert value.dtype == torch.float32
        assert value.isfinite().all()
    assert logits.grad.isfinite().all()
    assert gaussian_rate(torch.zeros(1, 4), torch.zeros(1, 4)).isfinite().all()


def test_gradients_against_finite_differences():
    mean, scale = (tensor.requires_grad_() for tensor in gaussian())
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gaussian_rate, (mean, scale))
    assert torch.autograd.gradcheck(gaussian_entropy, (scale,))
    assert torch.autograd.gradcheck(categorical_entropy, (logits,))
    assert torch.autograd.gradcheck(lambda values: cross_entropy(values, torch.tensor([0, 1, 2, 0])), (logits,))


def test_label_entropy_by_hand_and_its_errors():
    assert label_entropy(torch.tensor([0, 0, 0, 1]), 2) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert label_entropy([0, 1, 2, 3], 4) == pytest.approx(math.log(4))
    assert label_entropy([1, 1], 2) == 0.0
    with pytest.raises(ValueError, match="labels is empty"):
        label_entropy([], 2)
    with pytest.raises(ValueError, match="labels span 0 to 2"):
        label_entropy([0, 2], 2)


def test_log_mean_probability_averages_probabilities():
    draws = torch.randn(7, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(log_mean_probability(draws).exp(), draws.softmax(-1).mean(0))
    assert log_mean_probability(draws[:1]) is not None
    assert torch.equal(log_mean_probability(draws[:1]), draws[0])
