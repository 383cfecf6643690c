r"""The training objectives: named per-sample terms, and the weights that each objective gives them.

All objectives are one formula with two weights (Eq. 10 of the paper, in nats):

.. math:: L = \beta\, R(x) + CE(y, c(z)) - w \min\{H(Y),\, H(c(y|z))\}

=========  =====================  ===================
objective  weight of the rate     weight of the min
=========  =====================  ===================
``ce``     0                      0
``vib``    beta                   0
``vub``    beta                   entropy_weight
=========  =====================  ===================

The min is taken per sample: so gradient accumulation and data parallelism leave the objective unchanged.
Eq. 7 and 8 of the paper carry its sign wrong; Eq. 6, 9 and 10 are right.

The min term makes the optimum less confident than the labels: :func:`posterior_probabilities` inverts that.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration_vub import PROBABILITIES, Objective, check_choice
from .information import at_least_float32, categorical_entropy, cross_entropy, gaussian_rate

SOFTMAX_SHARE = 0.01
"""Share of the softmax in the probabilities that :func:`class_log_probabilities` reports for the posterior link."""


class Terms(NamedTuple):
    """The terms of every objective, per sample and in nats, each of shape (..., batch).

    Attributes:
        rate: KL divergence of the posterior from the prior.
        cross_entropy: of the label under the classifier, averaged over the draws of z; None without labels.
        entropy: of the classifier, H(c(y|z)), averaged over the draws of z; not capped.
    """

    rate: Tensor
    cross_entropy: Tensor | None
    entropy: Tensor


def objective_terms(mean: Tensor, scale: Tensor, draws: Tensor, labels: Tensor | None = None) -> Terms:
    """Return the per-sample terms of one stochastic forward pass; expectations over z are means over draws (Eq. 9).

    Args:
        mean: posterior means, shape (..., batch, latent_size).
        scale: posterior standard deviations, same shape.
        draws: logits for each draw of z, shape (draws, ..., batch, num_labels).
        labels: shape (..., batch); None leaves the cross-entropy out.
    """
    distortion = None if labels is None else cross_entropy(draws, labels).mean(0)
    return Terms(gaussian_rate(mean, scale), distortion, categorical_entropy(draws).mean(0))


def objective_weights(objective: str, beta: float, entropy_weight: float = 1.0) -> tuple[float, float]:
    """Return the weights (of the rate, of the min term) that turn the common formula into ``objective``.

    Raises:
        ValueError: for an unknown objective.
    """
    match Objective.parse(objective):
        case Objective.CE:
            return 0.0, 0.0
        case Objective.VIB:
            return beta, 0.0
        case Objective.VUB:
            return beta, entropy_weight


def weighted_loss(
    terms: Terms, rate_weight: float | Tensor, entropy_weight: float | Tensor, label_entropy: float
) -> Tensor:
    """Return the common formula, per sample and in nats, shape (..., batch); the caller reduces it.

    The weights, of the rate and of the min term, are numbers or tensors that broadcast to (..., batch): one per run in
    a sweep. ``label_entropy`` is H(Y) in nats, the cap of the min.

    Raises:
        ValueError: for terms without cross-entropy.
    """
    if terms.cross_entropy is None:
        raise ValueError("terms have no cross-entropy: compute them with labels")
    capped = torch.clamp_max(terms.entropy, label_entropy)
    return terms.cross_entropy + rate_weight * terms.rate - entropy_weight * capped


def objective_loss(
    objective: str, terms: Terms, *, beta: float, label_entropy: float, entropy_weight: float = 1.0
) -> Tensor:
    """Return the named objective, per sample and in nats (Eq. 10).

    Args:
        objective: "ce", "vib" or "vub".
        terms: see :func:`objective_terms`.
        beta: weight of the rate, at least 0.
        label_entropy: H(Y) in nats.
        entropy_weight: weight of the min term of vub; 1 is the paper's.

    Returns:
        Loss per sample, shape (..., batch). Negative values are possible for vub: it estimates a bound on
        ``beta I(Z;X) - I(Z;Y)``.

    Raises:
        ValueError: for an unknown objective, or terms without cross-entropy.
    """
    rate_weight, min_weight = objective_weights(objective, beta, entropy_weight)
    return weighted_loss(terms, rate_weight, min_weight, label_entropy)


def posterior_probabilities(logits: Tensor, entropy_weight: float = 1.0, label_entropy: float | None = None) -> Tensor:
    r"""Return the label probabilities of which these logits are the optimum of the objective: the posterior link.

    VUB rewards entropy, so its optimum is less confident than the labels. For label probabilities q, the minimiser p of
    :math:`-\sum_y q_y\log p_y - w\min\{H(Y), H(p)\}` over the simplex satisfies, where :math:`H(p) \le H(Y)`,

    .. math:: q_y = p_y\,\bigl(1 + w\,(\log p_y + H(p))\bigr)

    and :math:`q = p` where the cap is active (:math:`H(p) > H(Y)`). This function maps p = softmax(logits) to q;
    docs/calibration.md derives it. The map increases with :math:`p_y`, so the predicted class stays the same. It knows
    the min term only: the rate lowers the confidence too, and no closed form takes that back.

    No q in the simplex has a p with :math:`\log p_y + H(p) < -1/w` for some y, and trained classifiers reach such p.
    Their negative entries become 0 and the rest is normalised, so a probability may be exactly 0:
    :func:`class_log_probabilities` puts a floor under it.

    Args:
        logits: finite, shape (..., classes).
        entropy_weight: w, the weight of the min term in training; 0 gives the softmax.
        label_entropy: H(Y) in nats, the cap of the min; None is log(classes).

    Returns:
        Probabilities, shape (..., classes), float32 or float64; rows sum to 1.

    Raises:
        ValueError: for a weight that is negative or not finite.

    Example:
        >>> posterior_probabilities(torch.tensor([1.278, 0.0])).round(decimals=3)  # softmax gives 0.782 and 0.218
        tensor([1., 0.])
    """
    _check_entropy_weight(entropy_weight)
    log_p = F.log_softmax(at_least_float32(logits), dim=-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1, keepdim=True)
    cap = math.log(logits.shape[-1]) if label_entropy is None else label_entropy
    weight = torch.where(entropy > cap, 0.0, entropy_weight)
    # Adding 0 makes 0 of a -0.0, which 0 times a negative factor is.
    q = (p * (1.0 + weight * (log_p + entropy))).clamp_min(0.0) + 0.0
    return q / q.sum(-1, keepdim=True)


def class_log_probabilities(
    logits: Tensor,
    *,
    probabilities: str = "softmax",
    temperature: float = 1.0,
    entropy_weight: float = 1.0,
    label_entropy: float | None = None,
) -> Tensor:
    r"""Return the logarithms of the class probabilities that a checkpoint reports.

    .. math:: \log\mathrm{softmax}\bigl(\tfrac1T\log q'\bigr), \quad q' = (1-\lambda)\,q + \lambda\,p

    with p = softmax(logits), q = p for "softmax" and the posterior link of p for "posterior". The share
    :math:`\lambda` (`SOFTMAX_SHARE`) keeps a class that the link gives probability 0 possible, in the order of the
    logits, so that the negative log-likelihood is finite and a temperature can be fitted.

    Args:
        logits: finite, shape (..., classes).
        probabilities: "softmax" or "posterior".
        temperature: T, above 0.
        entropy_weight, label_entropy: of the training, see :func:`posterior_probabilities`.

    Returns:
        Log-probabilities, shape (..., classes), float32 or float64.

    Raises:
        ValueError: for another kind of probabilities, or a temperature that is not a number above 0.
    """
    check_choice("probabilities", probabilities, PROBABILITIES)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it must be a finite number above 0")
    log_p = F.log_softmax(at_least_float32(logits), dim=-1)
    if probabilities == "posterior" and entropy_weight > 0:
        q = posterior_probabilities(logits, entropy_weight, label_entropy)
        log_q = (q * (1.0 - SOFTMAX_SHARE)).clamp_min(torch.finfo(q.dtype).tiny).log()
        log_p = torch.logaddexp(log_q, log_p + math.log(SOFTMAX_SHARE))
    return log_p if temperature == 1.0 else F.log_softmax(log_p / temperature, dim=-1)


def optimal_confidence(num_labels: int, entropy_weight: float = 1.0) -> float:
    r"""Return the confidence at which training on a certain label stops, between 1/K and 1.

    It is the root p* of :math:`\log\frac{p(K-1)}{1-p} = \frac1{wp}`: where one class has q = 1, the other K - 1
    classes share 1 - p* equally. Newton's method finds it in the log-odds.

    Args:
        num_labels: K, at least 2.
        entropy_weight: w, the weight of the min term; with 0 the optimum is 1.

    Raises:
        ValueError: for fewer than two classes, or a weight that is negative or not finite.

    Example:
        >>> round(optimal_confidence(2), 3), round(optimal_confidence(10), 3)
        (0.782, 0.476)
    """
    if num_labels < 2:
        raise ValueError(f"num_labels is {num_labels}; a classifier needs at least 2")
    _check_entropy_weight(entropy_weight)
    if entropy_weight < 1e-3:
        return 1.0  # the nearest float64
    # With t = log(p(K-1)/(1-p)) the condition is w t = 1 + (K-1) exp(-t). The difference of its sides is increasing and
    # concave in t, so from the left of the root Newton's steps never pass it.
    log_odds, step = 1.0 / entropy_weight, 1.0
    while step > 1e-12 * log_odds:
        others = (num_labels - 1) * math.exp(-log_odds)
        step = (1.0 + others - entropy_weight * log_odds) / (entropy_weight + others)
        log_odds += step
    return 1.0 / (1.0 + (num_labels - 1) * math.exp(-log_odds))


def _check_entropy_weight(entropy_weight: float) -> None:
    if not 0 <= entropy_weight < math.inf:
        raise ValueError(f"entropy_weight is {entropy_weight}; it must be a finite number of at least 0")
