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
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .configuration_vub import Objective
from .information import categorical_entropy, cross_entropy, gaussian_rate


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
    """Return the per-sample terms of one stochastic forward pass.

    Args:
        mean: posterior means, shape (..., batch, latent_size).
        scale: posterior standard deviations, same shape.
        draws: logits for each draw of z, shape (draws, ..., batch, num_labels).
        labels: shape (..., batch); None leaves the cross-entropy out.

    Returns:
        The terms, each of shape (..., batch). Expectations over z are means over the draws, as in Eq. 9.
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
    """Return the common formula, per sample and in nats; the caller reduces it.

    Args:
        terms: see :func:`objective_terms`; with cross-entropy.
        rate_weight: beta, a number or a tensor that broadcasts to (..., batch): one per run in a sweep.
        entropy_weight: weight of the min term, likewise.
        label_entropy: H(Y) in nats, the cap of the min.

    Returns:
        Loss per sample, shape (..., batch).

    Raises:
        ValueError: for terms without cross-entropy.
    """
    if terms.cross_entropy is None:
        raise ValueError("terms have no cross-entropy: compute them with labels")
    return (
        terms.cross_entropy + rate_weight * terms.rate - entropy_weight * torch.clamp_max(terms.entropy, label_entropy)
    )


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
