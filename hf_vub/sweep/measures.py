"""Terms of the loss and coordinates of the information plane, measured on rows of features."""

import torch
from torch import Tensor

from ..model.head import VUBHead
from ..model.information import gaussian_entropy, prior_entropy
from ..model.objectives import objective_loss, objective_terms
from .rows import BLOCK_ROWS
from .runs import HeadRun, Settings
from .stacked_heads import MEASURES


@torch.inference_mode()
def measure_head(
    head: VUBHead, run: HeadRun, settings: Settings, features: Tensor, labels: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Return the logits of a head through its mean, and the mean terms as in :func:`plane_point`.

    Args:
        head: in evaluation mode.
        run: its objective.
        settings: of its sweep.
        features: shape (rows, feature_size).
        labels: shape (rows,).

    Returns:
        Logits, shape (rows, num_labels), and the mean terms.
    """
    logits = []
    total = torch.zeros(len(MEASURES), dtype=torch.float64)
    for rows, classes in zip(features.split(BLOCK_ROWS), labels.split(BLOCK_ROWS), strict=True):
        out = head(rows, num_samples=0)
        terms = objective_terms(out.mean, out.scale, out.draws, classes)
        loss = objective_loss(
            run.objective,
            terms,
            beta=run.beta,
            label_entropy=settings.label_entropy,
            entropy_weight=run.entropy_weight,
        )
        assert terms.cross_entropy is not None
        measured = [loss, terms.cross_entropy, terms.rate, terms.entropy, gaussian_entropy(out.scale)]
        total += torch.stack(measured).double().sum(-1)
        logits.append(out.logits)
    return torch.cat(logits), plane_point(total / len(labels), head.latent_size)


def plane_point(means: Tensor, latent_size: int) -> dict[str, float]:
    """Return MEASURES by name, with the coordinates of the information plane.

    Args:
        means: of MEASURES over rows, shape (len(MEASURES),).
        latent_size: size of z.

    Returns:
        In nats: loss, cross_entropy, rate, entropy, information = H(R) - H(Z|X), and inverse_cross_entropy in 1/nats.
    """
    named = dict(zip(MEASURES, means.tolist(), strict=True))
    named["information"] = prior_entropy(latent_size) - named.pop("posterior_entropy")
    named["inverse_cross_entropy"] = 1.0 / max(named["cross_entropy"], 1e-12)
    return named
