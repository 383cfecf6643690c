"""The information quantities of the bottleneck, in nats: pure functions of tensors, one value per sample.

Notation: ``x`` an input, ``e(z|x) = N(mean, diag(scale^2))`` the stochastic encoder (the posterior),
``r(z) = N(0, I)`` the prior, ``c(y|z)`` the classifier. Half-precision arguments are computed in float32, float64
stays float64.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NATS_PER_BIT = math.log(2.0)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or float64 where it is: sums of logarithms lose their meaning in half precision."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def gaussian_rate(mean: Tensor, scale: Tensor) -> Tensor:
    r"""Return the rate of a diagonal Gaussian posterior: its divergence from the standard normal prior, in nats.

    .. math:: R(x) = D_{KL}(e(z|x) \| N(0, I)) = \tfrac12 \sum_j (\mu_j^2 + \sigma_j^2 - 1 - 2\log\sigma_j)

    Its mean over x is an upper bound on I(Z;X) (Eq. 3 of the paper).

    Args:
        mean: posterior means, shape (..., latent_size).
        scale: posterior standard deviations, same shape, not negative. A scale that underflowed to zero counts as the
            smallest normal number, so that the rate stays finite.

    Returns:
        Rate per sample, shape (...), float32 or float64.

    Example:
        >>> gaussian_rate(torch.zeros(1, 4), torch.ones(1, 4))
        tensor([0.])
    """
    mean, scale = at_least_float32(mean), at_least_float32(scale)
    return 0.5 * (mean.square() + scale.square() - 1.0 - 2.0 * _log(scale)).sum(-1)


def gaussian_entropy(scale: Tensor) -> Tensor:
    r"""Return the differential entropy of a diagonal Gaussian, in nats.

    .. math:: H = \sum_j \log\sigma_j + \tfrac d2\log(2\pi e)

    With ``scale = 1`` it is the entropy H(R) of the prior, so ``H(R) - mean(H(Z|x))`` is the estimate of I(Z;X) that
    the paper plots in Figure 3.

    Args:
        scale: posterior standard deviations, shape (..., latent_size).

    Returns:
        Entropy per sample, shape (...). Differential entropies may be negative.
    """
    scale = at_least_float32(scale)
    return _log(scale).sum(-1) + prior_entropy(scale.shape[-1])


def prior_entropy(latent_size: int) -> float:
    r"""Return the differential entropy H(R) of the prior N(0, I), in nats: :math:`\tfrac d2\log(2\pi e)`."""
    return 0.5 * latent_size * math.log(2.0 * math.pi * math.e)


def categorical_entropy(logits: Tensor) -> Tensor:
    r"""Return the entropy of the classifier's distribution, in nats.

    .. math:: H(c) = -\sum_k c_k\log c_k, \quad c = \mathrm{softmax}(\mathrm{logits})

    Written with log-softmax, whose gradient is finite for logits of any finite size. For logits (..., num_labels) the
    entropy per sample has shape (...) and lies between 0 and log(num_labels).
    """
    log_probabilities = F.log_softmax(at_least_float32(logits), dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the cross-entropy of the label under the classifier, in nats: :math:`-\log c(y|z)`, the distortion.

    Args:
        logits: shape (..., num_labels).
        labels: integers, shape (...), or a shape that broadcasts to it.

    Returns:
        Cross-entropy per sample, shape (...).
    """
    log_probabilities = F.log_softmax(at_least_float32(logits), dim=-1)
    labels = labels.expand(log_probabilities.shape[:-1]).unsqueeze(-1)
    return -log_probabilities.gather(-1, labels).squeeze(-1)


def label_entropy(labels: Tensor, num_labels: int) -> float:
    r"""Return the entropy H(Y) of the empirical label distribution, in nats: :math:`-\sum_k \hat p_k\log\hat p_k`.

    Args:
        labels: integers in [0, num_labels), of any shape, at least one.
        num_labels: number of classes.

    Raises:
        ValueError: without labels, or for one out of range.

    Example:
        >>> round(label_entropy(torch.tensor([0, 1, 1, 0]), 2), 4)
        0.6931
    """
    labels = torch.as_tensor(labels).flatten().cpu()
    if labels.numel() == 0:
        raise ValueError("labels is empty: the entropy of no labels is not defined")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_labels:
        raise ValueError(
            f"labels span {low} to {high}, outside the range 0 to {num_labels - 1} of num_labels={num_labels}"
        )
    frequencies = torch.bincount(labels.long(), minlength=num_labels).double() / labels.numel()
    return float(torch.special.entr(frequencies).sum())


def log_mean_probability(logits: Tensor) -> Tensor:
    r"""Return the logits of the average classifier over k draws.

    .. math:: \log\tfrac1k\sum_{i=1}^k \mathrm{softmax}(\mathrm{logits}_i)

    For logits (draws, ..., num_labels) these are log-probabilities (..., num_labels). One draw is returned as it is.
    """
    if logits.shape[0] == 1:
        return logits[0]
    return torch.logsumexp(F.log_softmax(at_least_float32(logits), dim=-1), dim=0) - math.log(logits.shape[0])


def _log(scale: Tensor) -> Tensor:
    return scale.clamp_min(torch.finfo(scale.dtype).tiny).log()
